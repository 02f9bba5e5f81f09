//! What `--json` prints of jobs, a line for each piece of news.

use protocol::host::HostLoad;
use protocol::ids::{AgentId, JobId, SnapshotId};
use protocol::seed::SeedPlan;
use schemars::JsonSchema;
use serde::Serialize;

use crate::donor::Choice;

/// News of a host and, where there is one by then, its job.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Line<'a, N> {
    /// Whose news.
    pub host: &'a AgentId,
    /// Of which job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// What is new.
    #[serde(flatten)]
    pub news: N,
}

/// News of a seed that its job's own updates do not tell.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "update", rename_all = "snake_case")]
pub enum SeedNews<'a> {
    /// What will be done.
    Plan(&'a Planned),
    /// The recipient has begun.
    Begun {
        /// Who gives.
        donor: &'a AgentId,
        /// What it gives; `null` for a stream.
        snapshot: Option<&'a SnapshotId>,
    },
    /// A donor does not answer, or answers again.
    Donor {
        /// Whether it answers.
        answers: bool,
        /// Why not.
        why: Option<&'a str>,
    },
    /// How busy a host is.
    Load {
        /// By its own measure.
        load: &'a HostLoad,
    },
}

/// A plan with the choice that led to it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Planned {
    /// Who is made anew.
    pub recipient: AgentId,
    /// Why this donor; absent when the person named it.
    pub choice: Option<Choice>,
    /// What would be done.
    pub plan: SeedPlan,
}
