//! The person's and the scripts' tool: a client of the bus that keeps no state.
//!
//! Killing it never harms a seed: the two agents finish by themselves. It must not know how an agent does its work;
//! what it shows comes from replies, heartbeats, progress and events.

pub mod accounts;
pub mod args;
pub mod audit;
pub mod board;
pub mod commands;
pub mod complete;
pub mod context;
pub mod donor;
pub mod error;
pub mod exit;
pub mod full;
mod interrupt;
pub mod keys;
pub mod lines;
pub mod output;
pub mod paint;
pub mod render;
pub mod schemas;
pub mod session;
pub mod spans;
pub mod suggest;
pub mod watch;

#[cfg(test)]
mod samples;

use error::CtlError;
use output::Out;
use serde_json::json;
pub use sys::units;

/// Tells a failure: for people on stderr, and with `--json` as a line on stdout too.
pub fn report(out: &Out, error: &CtlError) {
    if let CtlError::Told(_) = error {
        return;
    }
    if out.json() {
        out.json_line(&json!({"error": error.report()}));
    }
    out.note(&error.render());
}
