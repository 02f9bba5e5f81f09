//! One node of orchestrator, asked over HTTP.

use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use axum::http::uri::{Authority, PathAndQuery};
use axum::http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::secrets::Hidden;
use crate::tls::{self, TlsError};

/// A node answers at once or is asked again later.
const LIMIT: Duration = Duration::from_secs(10);
/// Its answers are a word.
const MAX_ANSWER: usize = 64 * 1024;

/// A node did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// It is no URL.
    #[error("orchestrator.nodes: {0:?} is no URL such as http://orc1:3001")]
    Url(String),
    /// Its authorities cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nobody is there.
    #[error("orchestrator at {node} cannot be reached")]
    Away {
        /// Which node.
        node: String,
        /// Why.
        source: std::io::Error,
    },
    /// It did not answer.
    #[error("orchestrator at {node} gave no answer")]
    Silent {
        /// Which node.
        node: String,
        /// Why.
        source: hyper::Error,
    },
    /// It took too long.
    #[error("orchestrator at {node} took more than {} s", LIMIT.as_secs())]
    Slow {
        /// Which node.
        node: String,
    },
    /// It answered something else.
    #[error("orchestrator at {node} answered {status}: {said}; is this its agents port (AgentsServerPort)?")]
    Refused {
        /// Which node.
        node: String,
        /// HTTP status.
        status: u16,
        /// The beginning of what it said.
        said: String,
    },
}

/// One node.
#[derive(Clone)]
pub(crate) struct Node {
    base: Uri,
    authority: Authority,
    tls: Option<TlsConnector>,
    login: Option<Hidden>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.base)
    }
}

impl Node {
    /// Reads a node's URL; nothing is asked yet.
    ///
    /// # Errors
    /// It is no URL, or there are no authorities for its certificate.
    pub(crate) fn new(url: &str, ca: Option<&Path>, login: Option<Hidden>) -> Result<Self, NodeError> {
        let no_url = || NodeError::Url(url.to_owned());
        let base: Uri = url.parse().map_err(|_| no_url())?;
        let authority = base.authority().ok_or_else(no_url)?.clone();
        let tls = if base.scheme_str() == Some("https") { Some(tls::connector(ca)?) } else { None };
        Ok(Self { base, authority, tls, login })
    }

    /// Tells that we are there.
    pub(crate) async fn ping(&self) -> Result<(), NodeError> {
        self.get("/api/agent-ping", |said| said.as_str() == Some("OK")).await
    }

    /// Tells of a host: what it is called, and where and by which token it is asked.
    pub(crate) async fn submit(&self, name: &str, port: u16, token: &Hidden) -> Result<(), NodeError> {
        let path = format!("/api/submit-agent/{name}/{port}/{}", token.expose());
        self.get(&path, |said| said.as_str() == Some(name)).await
    }

    /// Every answer comes with status 200; what it says tells whether it is a good one.
    async fn get(&self, path: &str, good: impl FnOnce(&Value) -> bool) -> Result<(), NodeError> {
        let (status, body) = match tokio::time::timeout(LIMIT, self.ask(path)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(NodeError::Slow { node: self.name() }),
        };
        match serde_json::from_slice(&body) {
            Ok(said) if status == 200 && good(&said) => Ok(()),
            _ => {
                let said = String::from_utf8_lossy(&body);
                let said = sys::text::line(said.trim()).chars().take(120).collect();
                Err(NodeError::Refused { node: self.name(), status, said })
            }
        }
    }

    async fn ask(&self, path: &str) -> Result<(u16, Vec<u8>), NodeError> {
        let away = |source| NodeError::Away { node: self.name(), source };
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = self.authority.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await.map_err(away)?;
        match &self.tls {
            None => self.exchange(stream, path).await,
            Some(tls) => {
                let name = rustls::pki_types::ServerName::try_from(host.to_owned());
                let name = name.map_err(|error| away(std::io::Error::other(error)))?;
                let stream = tls.connect(name, stream).await.map_err(away)?;
                self.exchange(stream, path).await
            }
        }
    }

    async fn exchange<S>(&self, stream: S, path: &str) -> Result<(u16, Vec<u8>), NodeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let silent = |source| NodeError::Silent { node: self.name(), source };
        let whole = format!("{}{path}", self.base.path().trim_end_matches('/'));
        let whole = PathAndQuery::try_from(whole).map_err(|_| NodeError::Url(self.name()))?;
        let mut request = Request::get(whole.as_str()).header(header::HOST, self.authority.as_str());
        if let Some(login) = &self.login {
            request = request.header(header::AUTHORIZATION, login.expose());
        }
        let request = request.body(Body::empty()).map_err(|_| NodeError::Url(self.name()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(silent)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(silent)?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            Ok((status, body.map(|body| body.to_bytes().to_vec()).unwrap_or_default()))
        };
        tokio::pin!(exchange, connection);
        tokio::select! {
            answer = exchange.as_mut() => answer,
            // What it read last may still have to be handed over.
            _ = connection.as_mut() => exchange.await,
        }
    }

    /// The node, for people.
    pub(crate) fn name(&self) -> String {
        self.authority.to_string()
    }
}
