//! What leaves the engine while a job runs: durable records, and progress that may be dropped.

use protocol::ids::JobId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::journal::Record;

/// How far a step has come. Latest wins; never journalled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The step that reports; filled in by the engine.
    #[serde(default)]
    pub step: String,
    /// What is done, in the step's own unit.
    pub done: u64,
    /// What there is to do, where it is known.
    pub total: Option<u64>,
    /// Whatever else the step tells its watchers.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// Hears of everything that happens to jobs.
///
/// `on_record` is called after the record is on disk, in order per job, on a thread that may block. A crash between
/// the two loses the call, never the record: after a restart, hear again what comes after [`Shown::heard`](crate::Shown::heard), with
/// (job, seq) as the key that drops doubles.
///
/// It must be quick, and must not append to the same job.
pub trait Observer: Send + Sync + 'static {
    /// A record is on disk. Returns whether it was heard for good: one that was not is to be heard again after a restart.
    fn on_record(&self, job: &JobId, record: &Record) -> bool;

    /// A step reported progress; called on the step's own thread.
    fn on_progress(&self, _job: &JobId, _progress: &Progress) {}
}
