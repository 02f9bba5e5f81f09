//! One call of this program as a span, where somebody collects them.

use std::time::Duration;

use trace::{Context, Service, Settings, Traces};

use crate::args::Global;
use crate::output::Out;

/// A person waits no longer for a collector that does not answer.
pub const LAST: Duration = Duration::from_secs(1);

/// What a job scheduler or a script may have begun.
const PARENT: &str = "TRACEPARENT";

/// Where the span of a call goes. A collector that cannot be used is told of, and keeps nobody from working.
#[must_use]
pub fn open(global: &Global, out: &Out) -> Traces {
    let endpoint = global.otlp.clone().filter(|url| !url.is_empty());
    let service = Service {
        name: "orchestrator-ctl",
        version: env!("CARGO_PKG_VERSION"),
        instance: std::process::id().to_string(),
        notes: Vec::new(),
    };
    Traces::open(&Settings { endpoint, ..Settings::default() }, service).unwrap_or_else(|error| {
        out.note(&format!("warning: no spans are sent (--otlp): {error}"));
        Traces::default()
    })
}

/// The span that the call is a part of.
#[must_use]
pub fn parent() -> Option<Context> {
    std::env::var(PARENT).ok()?.parse().ok()
}
