//! Spans for OpenTelemetry: which command led to which job on which host, and what each step took.
//!
//! Off unless somebody names a collector ([`Settings::endpoint`]). A span is a remark that may be lost: it is sent in the background,
//! nothing waits for it, and what a job did is told by its journal. A [`Context`] goes from program to program as `traceparent`
//! ([W3C Trace Context]), so that the spans of ctl, gateway and agents make one trace; a program that sends no spans passes it on.
//!
//! Spans hold names of hosts, commands, steps and jobs, codes of errors, and counts of bytes: never texts, whose readers are other
//! people than those of a collector.
//!
//! [W3C Trace Context]: https://www.w3.org/TR/trace-context/

mod context;
mod export;
mod span;

pub use context::{Context, NoContext};
pub use export::{Service, Settings, TraceError, Traces};
pub use span::{Kind, Past, Span};
