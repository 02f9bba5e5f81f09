//! The records of a journal and the states that they add up to.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use protocol::ids::{JobId, RequestId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::StepError;

/// What a job is: written once, before anything else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The job's id; also the name of its directory.
    pub id: JobId,
    /// Which steps it has; the program maps it to them again after a restart.
    pub kind: String,
    /// What the steps were asked to do; never secrets, because the journal is kept and shown.
    pub params: Value,
    /// The request that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Whatever else the program wants back after a restart, for example a trace context.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub context: Value,
}

impl JobSpec {
    /// A job without a request, an actor or a context.
    pub fn new(id: JobId, kind: impl Into<String>, params: Value) -> Self {
        Self { id, kind: kind.into(), params, request_id: None, actor: None, context: Value::Null }
    }
}

/// One line of a journal, as read back and verified.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// Its place in the journal, from 0 without gaps.
    pub seq: u64,
    /// The wall clock when it was written; clocks jump, so nothing depends on its order.
    pub at: Timestamp,
    /// The hash of the record before it; zeros for the first.
    pub prev: Digest,
    /// Its own hash. Kept elsewhere (an event stream, say) it proves the whole journal up to here.
    pub hash: Digest,
    /// What happened.
    pub event: Event,
}

/// What happened to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The first record.
    Created {
        /// What the job is.
        spec: JobSpec,
    },
    /// The steps, when the job is first run, and again when a later program brings other steps after those begun.
    Planned {
        /// All steps in their order.
        steps: Vec<PlannedStep>,
    },
    /// A step is about to run.
    StepStarted {
        /// Its name.
        step: String,
        /// From 1; the same number again means that the last run was cut short.
        attempt: u32,
    },
    /// A step has done its work.
    StepFinished {
        /// Its name.
        step: String,
        /// What it returned.
        output: Value,
    },
    /// A step failed.
    StepFailed {
        /// Its name.
        step: String,
        /// Which attempt.
        attempt: u32,
        /// Why.
        error: StepError,
        /// What follows.
        then: AfterFailure,
    },
    /// Somebody asked to abort; from here on only the undo runs.
    AbortRequested {
        /// Why, and by whom.
        reason: String,
    },
    /// A step is about to be undone.
    UndoStarted {
        /// Its name.
        step: String,
        /// From 1; the same number again means that the last undo was cut short.
        attempt: u32,
    },
    /// A step is undone.
    UndoFinished {
        /// Its name.
        step: String,
    },
    /// A step's undo failed.
    UndoFailed {
        /// Its name.
        step: String,
        /// Which attempt.
        attempt: u32,
        /// Why.
        error: StepError,
        /// What follows.
        then: AfterUndoFailure,
    },
    /// What a step wants remembered.
    Note {
        /// The step that wrote it.
        step: String,
        /// What it wrote.
        note: Value,
    },
    /// The program cannot go on with this job (an unknown kind, say); nothing further is run or undone.
    GivenUp {
        /// Why.
        error: StepError,
    },
    /// A person asked to try an incomplete undo again.
    UndoReopened {
        /// Why, and by whom.
        reason: String,
    },
    /// The end.
    Finished {
        /// How it ended.
        outcome: Outcome,
    },
}

/// A step as the journal remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedStep {
    /// Its name.
    pub name: String,
    /// Whether its end is a point of no return.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub commits: bool,
}

/// What follows a failed step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterFailure {
    /// It is tried again.
    Retry,
    /// The job goes on without it.
    GoOn,
    /// What began is undone.
    Undo,
}

/// What follows a failed undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterUndoFailure {
    /// It is tried again.
    Retry,
    /// The earlier steps are undone without it.
    GoOn,
    /// The earlier steps stay as they are.
    Stop,
}

/// Why a job is being, or was, undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Cause {
    /// A step failed for good.
    Failed(StepFailure),
    /// Somebody asked for it.
    Aborted {
        /// Why, and by whom.
        reason: String,
    },
}

/// Which step failed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFailure {
    /// The step; empty when no step was to blame (a job given up).
    pub step: String,
    /// Why.
    pub error: StepError,
}

/// How far an undo went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "snake_case")]
pub enum Undo {
    /// Everything is as it was before the job.
    Complete,
    /// The job was past its point of no return: what came after it is undone, the work up to it stands.
    ToCommit,
    /// Something is left behind.
    Incomplete {
        /// The steps whose undo failed for good, in the order of the attempts; empty for a job given up.
        failures: Vec<StepFailure>,
    },
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum Outcome {
    /// Every step ran.
    Done {
        /// The steps that failed and that the job went on without.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<StepFailure>,
    },
    /// A step failed for good.
    Failed {
        /// The step and the root cause.
        failure: StepFailure,
        /// What is left of the work.
        left: Undo,
    },
    /// Somebody asked for it.
    Aborted {
        /// Why, and by whom.
        reason: String,
        /// What is left of the work.
        left: Undo,
    },
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Journalled, not yet run.
    Created,
    /// Going forward.
    Running {
        /// The step that runs or comes next; `None` between the last step and the end.
        step: Option<String>,
        /// Its place, from 0.
        index: usize,
        /// How many steps there are.
        steps: usize,
        /// Which attempt, from 1.
        attempt: u32,
    },
    /// Going back.
    Undoing {
        /// The step that is undone or comes next; `None` when none is left.
        step: Option<String>,
        /// Why.
        cause: Cause,
    },
    /// At its end; nothing follows.
    Finished(Outcome),
}

/// A blake3 hash, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(blake3::Hash);

impl Digest {
    /// What the first record names as the one before it.
    pub const ZERO: Self = Self(blake3::Hash::from_bytes([0; 32]));

    /// The hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = blake3::HexError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        blake3::Hash::from_hex(text).map(Self)
    }
}

impl TryFrom<String> for Digest {
    type Error = blake3::HexError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}
