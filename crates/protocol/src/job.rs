//! Long operations as the bus shows them.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::WireError;
use crate::ids::{AgentId, JobId, RequestId};
use crate::seed::TransferProgress;

/// In the result of a seed: until when its old datadir is kept for `seed.undo`, RFC 3339; absent when it is not, or not any more.
pub const KEPT_UNTIL: &str = "kept_until";

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Accepted, not begun.
    Pending,
    /// At work.
    Running,
    /// Taking back what it did.
    Undoing,
    /// Ended well.
    Succeeded,
    /// Ended with an error.
    Failed,
    /// Ended by request.
    Aborted,
}

impl JobState {
    /// True when it will not change any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Aborted)
    }
}

/// One job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// The command that made it, for example `seed.start`.
    pub kind: String,
    /// Where it stands.
    pub state: JobState,
    /// The step that runs, ran last or failed.
    pub stage: Option<String>,
    /// Who asked for it.
    pub actor: String,
    /// The request that made it.
    pub request: RequestId,
    /// What it is about, for people, for example `db1 → db7 from vg0/snap`.
    pub summary: String,
    /// Who gives the data, for a seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub donor: Option<AgentId>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Counters, for jobs that move data.
    pub progress: Option<TransferProgress>,
    /// Its result, once it succeeded.
    pub result: Option<Value>,
    /// Why it failed.
    pub error: Option<WireError>,
}

/// The reply to a command that began a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobAccepted {
    /// Ask for it with `jobs.show`; its progress and end are events.
    pub job: JobId,
}
