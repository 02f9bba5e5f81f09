//! A node of orchestrator that is submitted to: it remembers what it was told, and no more.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use testkit::poll;
use testkit::port::Port;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(60);

/// What it was told.
#[derive(Debug, Default)]
struct Heard {
    agents: HashMap<String, (u16, String)>,
    submissions: usize,
    pings: usize,
}

/// The node.
#[derive(Debug)]
pub(crate) struct Node {
    port: Port,
    heard: Arc<Mutex<Heard>>,
    task: Option<JoinHandle<()>>,
}

impl Node {
    pub(crate) async fn start() -> Self {
        let mut node = Self { port: Port::claim().unwrap(), heard: Arc::default(), task: None };
        node.boot().await;
        node
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// Up again, with nothing remembered.
    pub(crate) async fn boot(&mut self) {
        *self.heard.lock() = Heard::default();
        let listener = TcpListener::bind(("127.0.0.1", self.port.number())).await.unwrap();
        let heard = self.heard.clone();
        self.task = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                answer(stream, &heard).await;
            }
        }));
    }

    /// Down and up again, with nothing remembered.
    pub(crate) async fn boot_again(&mut self) {
        self.stop().await;
        self.boot().await;
    }

    /// Away.
    pub(crate) async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// Port and token of an agent, once it is submitted.
    pub(crate) async fn agent(&self, name: &str) -> (u16, String) {
        poll::until_async(PATIENCE, format!("{name} to be submitted"), || async { self.knows(name) }).await
    }

    pub(crate) fn knows(&self, name: &str) -> Option<(u16, String)> {
        self.heard.lock().agents.get(name).cloned()
    }

    pub(crate) fn submissions(&self) -> usize {
        self.heard.lock().submissions
    }

    pub(crate) fn pings(&self) -> usize {
        self.heard.lock().pings
    }
}

async fn answer(stream: TcpStream, heard: &Mutex<Heard>) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let mut rest = String::new();
    let _ = stream.read_line(&mut line).await;
    while stream.read_line(&mut rest).await.is_ok_and(|read| read > 2) {}
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let parts: Vec<&str> = path.trim_start_matches("/api/").split('/').collect();
    let body = match parts.as_slice() {
        ["agent-ping"] => {
            heard.lock().pings += 1;
            "\"OK\"".to_owned()
        }
        ["submit-agent", host, port, token] => {
            // As the callback of the real one would: what is submitted must be there already.
            let port: u16 = port.parse().unwrap();
            let up = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await.is_ok();
            let mut heard = heard.lock();
            heard.submissions += 1;
            if up {
                heard.agents.insert((*host).to_owned(), (port, (*token).to_owned()));
            }
            format!("\"{host}\"")
        }
        _ => "{\"Code\":\"ERROR\"}".to_owned(),
    };
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=UTF-8\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.get_mut().write_all(answer.as_bytes()).await;
}
