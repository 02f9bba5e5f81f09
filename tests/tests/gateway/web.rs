//! Plain HTTP/1.1, as much of it as orchestrator speaks, and whatever it would never say.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Orchestrator waits so long for the head of an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) kind: String,
    pub(crate) body: String,
}

impl Reply {
    /// The body as JSON; anything else is null, as orchestrator takes it.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// Asks as orchestrator does; absent when the connection broke or nothing came in time.
pub(crate) async fn get(to: SocketAddr, host: &str, path: &str) -> Option<Reply> {
    raw(to, format!("GET {path} HTTP/1.1\r\nHost: {host}:{}\r\nUser-Agent: Go-http-client/1.1\r\nConnection: close\r\n\r\n", to.port())).await
}

/// Sends these bytes and reads to the end.
pub(crate) async fn raw(to: SocketAddr, request: impl AsRef<[u8]>) -> Option<Reply> {
    tokio::time::timeout(PATIENCE, async {
        let mut stream = TcpStream::connect(to).await.ok()?;
        // It may be answered, and closed, before all of it is taken.
        let _ = stream.write_all(request.as_ref()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        parse(&String::from_utf8_lossy(&answer))
    })
    .await
    .ok()?
}

fn parse(text: &str) -> Option<Reply> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    Some(Reply { status, kind: kind.to_owned(), body: body.to_owned() })
}
