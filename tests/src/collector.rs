//! A collector of OpenTelemetry as agents and ctl meet it: OTLP over HTTP. What comes is decoded by OpenTelemetry's own definitions.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use parking_lot::Mutex;
use prost::Message as _;
use testkit::poll;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One span as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which program, and which one of its kind.
    pub from: (String, String),
    /// What happened.
    pub name: String,
    /// Its trace.
    pub trace: Vec<u8>,
    /// Which one it is.
    pub span: Vec<u8>,
    /// The span that it is a part of; empty: none.
    pub parent: Vec<u8>,
    /// Nanoseconds from its begin to its end.
    pub took_ns: u64,
    /// What else is known of it.
    pub notes: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Heard {
    spans: Vec<Seen>,
    raw: Vec<u8>,
    logins: Vec<Option<String>>,
    /// Answers so until it is changed.
    status: StatusCode,
}

/// A collector on the loopback, gone when dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    server: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Collector {
    /// Takes all that comes.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start() -> Self {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&heard));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, heard, server }
    }

    /// Its endpoint.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers so from now on; what comes meanwhile is not kept.
    pub fn answer(&self, status: StatusCode) {
        self.heard.lock().status = status;
    }

    /// All spans so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Seen> {
        self.heard.lock().spans.clone()
    }

    /// All bytes so far, to look for what must not be in them.
    #[must_use]
    pub fn raw(&self) -> Vec<u8> {
        self.heard.lock().raw.clone()
    }

    /// What each request had as its authorization.
    #[must_use]
    pub fn logins(&self) -> Vec<Option<String>> {
        self.heard.lock().logins.clone()
    }

    /// The first span for which that holds, once it has come.
    ///
    /// # Panics
    /// When none comes.
    pub async fn span(&self, within: Duration, what: &str, wanted: impl Fn(&Seen) -> bool) -> Seen {
        poll::until_async(within, what, || async { self.spans().into_iter().find(|span| wanted(span)) }).await
    }
}

async fn take(State(heard): State<Arc<Mutex<Heard>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut heard = heard.lock();
    let login = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    heard.logins.push(login);
    if heard.status.is_success() {
        let request = ExportTraceServiceRequest::decode(&body[..]).expect("no OTLP");
        heard.raw.extend_from_slice(&body);
        let spans = request.resource_spans.into_iter().flat_map(|of| {
            let who = notes(&of.resource.unwrap_or_default().attributes);
            let from = (who["service.name"].clone(), who["service.instance.id"].clone());
            let spans = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.map(move |span| Seen {
                from: from.clone(),
                name: span.name,
                trace: span.trace_id,
                span: span.span_id,
                parent: span.parent_span_id,
                took_ns: span.end_time_unix_nano - span.start_time_unix_nano,
                notes: notes(&span.attributes),
            })
        });
        heard.spans.extend(spans);
    }
    heard.status
}

fn notes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &KeyValue| match value.value.as_ref().and_then(|any| any.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|note| (note.key.clone(), text(note))).collect()
}
