//! Spans on their way to a collector: OTLP over HTTP, in the background.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hyper_rustls::HttpsConnectorBuilder;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor as _};
use serde::Deserialize;
use tokio::runtime::Handle;

use crate::{Context, Kind, Past, Span};

/// A collector answers at once; what it did not take by then is lost.
const LIMIT: Duration = Duration::from_secs(5);
/// Where the standard has a collector take spans, below its endpoint.
const PATH: &str = "/v1/traces";

/// `[trace]`: where spans are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// A collector that takes OTLP over HTTP, such as `http://collector:4318`; absent: no spans are sent.
    pub endpoint: Option<String>,
    /// Lines `Name: value` that it wants as headers, a token for example; closed to others.
    pub headers_file: Option<PathBuf>,
    /// The authorities that its certificate is checked against; absent: those of the system.
    pub tls_ca: Option<PathBuf>,
}

/// Spans cannot be sent as configured.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It is no URL of a collector.
    #[error("{endpoint:?} {why}; expected a URL such as http://collector:4318")]
    Endpoint {
        /// What was given, without what may be a secret.
        endpoint: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The headers cannot be read.
    #[error(transparent)]
    Headers(#[from] sys::file::Error),
    /// A line of the headers is none; its text is not told.
    #[error("line {line} of {} is no `Name: value`", file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// Its certificate could not be checked.
    #[error(transparent)]
    Tls(#[from] sys::tls::Error),
    /// What the exporter says.
    #[error("it cannot be used: {0}")]
    Exporter(String),
}

impl TraceError {
    /// The key of [`Settings`] that is to blame.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::Endpoint { .. } | Self::Exporter(_) => "endpoint",
            Self::Headers(_) | Self::Header { .. } => "headers_file",
            Self::Tls(_) => "tls_ca",
        }
    }
}

impl Settings {
    /// Whether spans could be sent so; nobody is asked.
    ///
    /// # Errors
    /// What cannot be used.
    pub fn check(&self) -> Result<(), TraceError> {
        if let Some(endpoint) = &self.endpoint {
            let is_tls = read_endpoint(endpoint)?;
            self.headers()?;
            if is_tls || self.tls_ca.is_some() {
                sys::tls::client(self.tls_ca.as_deref())?;
            }
        }
        Ok(())
    }

    fn headers(&self) -> Result<HashMap<String, String>, TraceError> {
        let Some(file) = &self.headers_file else { return Ok(HashMap::new()) };
        let text = sys::file::read_secret(file)?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(number, line)| {
                let none = || TraceError::Header { file: file.clone(), line: number + 1 };
                let (name, value) = line.split_once(':').ok_or_else(none)?;
                let (name, value) = (name.trim(), value.trim());
                let is_sound = Request::builder().header(name, value).body(()).is_ok();
                if is_sound { Ok((name.to_owned(), value.to_owned())) } else { Err(none()) }
            })
            .collect()
    }
}

/// Whether it is reached by TLS.
fn read_endpoint(endpoint: &str) -> Result<bool, TraceError> {
    // What comes before an @ may be a password.
    let shown = endpoint.rsplit_once('@').map_or(endpoint, |(_, host)| host).to_owned();
    let wrong = |why| TraceError::Endpoint { endpoint: shown.clone(), why };
    let builder = Request::get(endpoint).body(()).map_err(|_| wrong("is no URL"))?;
    let uri = builder.uri();
    if endpoint.contains('@') {
        return Err(wrong("has a login in it, which logs would show: use trace.headers_file"));
    }
    if uri.query().is_some() {
        return Err(wrong("has a query"));
    }
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) => Ok(false),
        (Some("https"), Some(_)) => Ok(true),
        _ => Err(wrong("is neither http nor https")),
    }
}

/// Who sends them.
#[derive(Debug, Clone)]
pub struct Service {
    /// The program.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Which one of its kind: an agent's id.
    pub instance: String,
    /// What else is known of it, such as its cluster.
    pub notes: Vec<(&'static str, String)>,
}

/// Takes spans, or drops them where nobody wants any; clones share the way out.
#[derive(Clone, Default)]
pub struct Traces {
    out: Option<Arc<Out>>,
}

struct Out {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").field("on", &self.is_on()).finish()
    }
}

impl Traces {
    /// Begins to send, where there is an endpoint. Within a tokio runtime, whose threads do the sending.
    ///
    /// # Errors
    /// What cannot be used.
    pub fn open(settings: &Settings, service: Service) -> Result<Self, TraceError> {
        let Some(endpoint) = &settings.endpoint else { return Ok(Self::default()) };
        let post = Post {
            client: client(settings, read_endpoint(endpoint)?)?,
            runtime: Handle::current(),
            endpoint: endpoint.clone(),
            away: AtomicBool::default(),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(post)
            .with_endpoint(format!("{}{PATH}", endpoint.trim_end_matches('/')))
            .with_headers(settings.headers()?)
            .with_timeout(LIMIT)
            .build()
            .map_err(|error| TraceError::Exporter(error.to_string()))?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        let notes = service.notes.into_iter().map(|(key, value)| KeyValue::new(key, value));
        processor.set_resource(
            &Resource::builder_empty()
                .with_service_name(service.name)
                .with_attribute(KeyValue::new("service.version", service.version))
                .with_attribute(KeyValue::new("service.instance.id", service.instance))
                .with_attributes(notes)
                .build(),
        );
        let scope = InstrumentationScope::builder(service.name).with_version(service.version).build();
        Ok(Self { out: Some(Arc::new(Out { processor, scope })) })
    }

    /// Whether anybody wants spans.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.out.is_some()
    }

    /// Begins one. Without a parent it begins a trace of its own.
    #[must_use]
    pub fn begin(&self, name: impl Into<Cow<'static, str>>, kind: Kind, parent: Option<Context>) -> Span {
        Span::open(self, name.into(), kind, parent)
    }

    /// Tells of what has ended.
    pub fn tell(&self, past: Past) {
        let Some(out) = self.out.as_ref().filter(|_| past.context.sampled) else { return };
        let mut notes = past.notes;
        let status = match past.failed {
            None => Status::Unset,
            Some(code) => {
                notes.push(KeyValue::new("error.type", code));
                Status::error("")
            }
        };
        out.processor.on_end(SpanData {
            span_context: SpanContext::new(
                past.context.trace,
                past.context.span,
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: past.parent.map_or(SpanId::INVALID, |parent| parent.span),
            parent_span_is_remote: past.kind == Kind::Server,
            span_kind: match past.kind {
                Kind::Client => SpanKind::Client,
                Kind::Server => SpanKind::Server,
                Kind::Internal => SpanKind::Internal,
            },
            name: past.name,
            start_time: past.begun,
            end_time: past.ended.max(past.begun),
            attributes: notes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: out.scope.clone(),
        });
    }

    /// Sends what is left, for at most so long; nothing is sent after it.
    pub async fn end(&self, within: Duration) {
        let Some(out) = self.out.clone() else { return };
        let ended = tokio::task::spawn_blocking(move || out.processor.shutdown_with_timeout(within));
        let _ = tokio::time::timeout(within, ended).await;
    }
}

fn client(settings: &Settings, is_tls: bool) -> Result<Arc<dyn HttpClient>, TraceError> {
    if !is_tls {
        return Ok(Arc::new(HyperClient::with_default_connector(LIMIT, None)));
    }
    let tls = sys::tls::client(settings.tls_ca.as_deref())?;
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
    Ok(Arc::new(HyperClient::new(connector, LIMIT, None)))
}

/// Posts on the runtime's threads, since the exporter's own has none, and tells of a collector that is away: once, and when it is back.
struct Post {
    client: Arc<dyn HttpClient>,
    runtime: Handle,
    endpoint: String,
    away: AtomicBool,
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

#[async_trait]
impl HttpClient for Post {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = Arc::clone(&self.client);
        let sent = self.runtime.spawn(async move { client.send_bytes(request).await }).await?;
        let trouble = match &sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(sys::error::line(error.as_ref())),
        };
        match trouble {
            Some(why) if !self.away.swap(true, Ordering::Relaxed) => {
                tracing::warn!(
                    endpoint = self.endpoint,
                    why,
                    "spans cannot be sent and are lost (trace.endpoint)"
                );
            }
            None if self.away.swap(false, Ordering::Relaxed) => {
                tracing::info!(endpoint = self.endpoint, "spans are sent again");
            }
            _ => {}
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn told(settings: &Settings) -> (&'static str, String) {
        let error = settings.check().unwrap_err();
        (error.key(), sys::error::line(&error))
    }

    fn to(endpoint: &str) -> Settings {
        Settings { endpoint: Some(endpoint.to_owned()), ..Settings::default() }
    }

    #[test]
    fn an_endpoint_is_a_url_of_http_without_a_login() {
        to("http://collector:4318").check().unwrap();
        Settings::default().check().unwrap();
        for wrong in ["collector:4318", "ftp://collector", "http://", "http://c?token=x", "no url"] {
            assert_eq!(told(&to(wrong)).0, "endpoint", "{wrong}");
        }
        let (key, why) = told(&to("http://user:secret@collector"));
        assert!(key == "endpoint" && why.contains("trace.headers_file") && !why.contains("secret"), "{why}");
    }

    #[test]
    fn headers_are_lines_of_a_closed_file_whose_text_no_error_shows() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str, mode| {
            let path = dir.path().join(name);
            sys::file::create(&path, text.as_bytes(), mode).unwrap();
            Settings { headers_file: Some(path), ..to("http://collector:4318") }
        };
        let good = file("good", "Authorization: Bearer a:b\n\nX-Team: dba\n", 0o600);
        let headers = good.headers().unwrap();
        assert_eq!((headers.len(), headers["Authorization"].as_str()), (2, "Bearer a:b"));
        for (name, text) in [("line", "Bearer secret"), ("name", "a b: secret"), ("value", "X: se\u{1}cret")]
        {
            let (key, why) = told(&file(name, text, 0o600));
            assert!(key == "headers_file" && why.contains("line 1") && !why.contains("cret"), "{why}");
        }
        assert_eq!(told(&file("open", "X: y", 0o644)).0, "headers_file");
        let none = Settings { tls_ca: Some(Path::new("/nonexistent.pem").to_owned()), ..to("https://c") };
        assert_eq!(told(&none).0, "tls_ca");
    }
}
