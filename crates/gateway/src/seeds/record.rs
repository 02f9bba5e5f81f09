//! What is kept of one seed.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use protocol::ids::{AgentId, JobId, OfferId, RequestId, SnapshotId};
use serde::{Deserialize, Serialize};

/// A request that was sent is heard within this, or never: its deadline has passed by then.
const HEARD_WITHIN: SignedDuration = SignedDuration::from_mins(3);

/// One seed of orchestrator's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Orchestrator's number.
    pub(crate) seed: u64,
    /// Who takes.
    pub(crate) recipient: AgentId,
    /// When orchestrator had it receive.
    pub(crate) received_at: Timestamp,
    /// Since orchestrator had it sent: from whom, and by which requests.
    pub(crate) given: Option<Given>,
    /// The recipient's job, once it is known.
    pub(crate) job: Option<JobId>,
    /// An abort that no agent has heard yet.
    #[serde(default)]
    pub(crate) abort_pending: bool,
    /// How it ended.
    pub(crate) outcome: Option<Outcome>,
}

/// The donor's part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Given {
    /// Who gives.
    pub(crate) donor: AgentId,
    /// What it gives; absent until it has been looked up.
    pub(crate) snapshot: Option<SnapshotId>,
    /// Id of the request for an offer.
    pub(crate) offer_request: RequestId,
    /// Id of the request to start.
    pub(crate) start_request: RequestId,
    /// When the two were about to be sent.
    pub(crate) sent_at: Timestamp,
    /// The offer.
    pub(crate) offer: Option<OfferId>,
}

impl Given {
    pub(crate) fn new(donor: AgentId) -> Self {
        Self {
            donor,
            snapshot: None,
            offer_request: RequestId::generate(),
            start_request: RequestId::generate(),
            sent_at: Timestamp::now(),
            offer: None,
        }
    }

    /// Whether requests that no agent knows of by now will never be known.
    pub(crate) fn is_past_hearing(&self) -> bool {
        self.sent_at.duration_until(Timestamp::now()) > HEARD_WITHIN
    }
}

/// How a seed ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// The data are proven and in place, and MySQL has started on them.
    pub(crate) succeeded: bool,
    /// Why not, in words.
    pub(crate) why: String,
    /// When it was known.
    pub(crate) at: Timestamp,
}

impl Outcome {
    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self { succeeded: false, why: why.into(), at: Timestamp::now() }
    }

    pub(crate) fn succeeded() -> Self {
        Self { succeeded: true, why: String::new(), at: Timestamp::now() }
    }
}

impl Record {
    pub(crate) fn new(seed: u64, recipient: AgentId) -> Self {
        let received_at = Timestamp::now();
        Self { seed, recipient, received_at, given: None, job: None, abort_pending: false, outcome: None }
    }

    pub(crate) fn donor(&self) -> Option<&AgentId> {
        self.given.as_ref().map(|given| &given.donor)
    }

    /// Nothing is left to do for it.
    pub(crate) fn is_over(&self) -> bool {
        self.outcome.is_some() && !self.abort_pending
    }

    pub(crate) fn is_older_than(&self, age: SignedDuration) -> bool {
        self.outcome.as_ref().is_some_and(|outcome| outcome.at.duration_until(Timestamp::now()) > age)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let donor = self.donor().map_or("?", AgentId::as_str);
        write!(f, "{} {donor} → {}", self.seed, self.recipient)
    }
}
