//! Durable events: CloudEvents 1.0 in structured mode, one JSON object each.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::WireError;
use crate::ids::{AgentId, BootId, EventId, JobId, SnapshotId};
use crate::job::JobState;
use crate::mysql::ServerState;
use crate::snapshot::Snapshot;

/// MIME type of a message with one event.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// One event as published. Readers ignore attributes and types that they do not know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// CloudEvents version, `1.0`.
    pub specversion: String,
    /// Unique; also the `Nats-Msg-Id`, by which the stream drops a second copy.
    pub id: EventId,
    /// `/orch/agents/<agent id>`.
    pub source: String,
    /// `orch.` and the kind, for example `orch.snapshot.created`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is about: a snapshot id, a job id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When it happened, by the agent's clock.
    pub time: Timestamp,
    /// `application/json`.
    pub datacontenttype: String,
    /// Cluster of the agent.
    pub cluster: String,
    /// Data centre of the agent.
    pub dc: String,
    /// The agent.
    pub host: AgentId,
    /// Counts up per agent without holes across restarts, so that a reader sees a loss.
    pub sequence: u64,
    /// The body; see [`EventData`] for the kinds known here.
    pub data: Value,
}

impl Event {
    /// The data as one of the kinds known here; `None` for kinds of a newer agent.
    #[must_use]
    pub fn known(&self) -> Option<EventData> {
        let kind = self.kind.strip_prefix("orch.")?;
        serde_json::from_value(serde_json::json!({"kind": kind, "data": self.data})).ok()
    }
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", content = "data")]
pub enum EventData {
    /// The agent is up.
    #[serde(rename = "agent.started")]
    AgentStarted(AgentStarted),
    /// The agent stops in good order.
    #[serde(rename = "agent.stopped")]
    AgentStopped(AgentStopped),
    /// Another process speaks in this agent's name.
    #[serde(rename = "agent.duplicate")]
    AgentDuplicate(AgentDuplicate),
    /// A snapshot appeared, made by the agent or seen by reconciling.
    #[serde(rename = "snapshot.created")]
    SnapshotCreated(SnapshotEvent),
    /// A usable snapshot is there for seeds (after creation, or when a restarted agent first sees it).
    #[serde(rename = "snapshot.available")]
    SnapshotAvailable(SnapshotEvent),
    /// A snapshot was mounted.
    #[serde(rename = "snapshot.mounted")]
    SnapshotMounted(SnapshotEvent),
    /// A snapshot was unmounted.
    #[serde(rename = "snapshot.unmounted")]
    SnapshotUnmounted(SnapshotEvent),
    /// A snapshot went, by the agent or by someone else.
    #[serde(rename = "snapshot.removed")]
    SnapshotRemoved(SnapshotGone),
    /// A snapshot's data are lost.
    #[serde(rename = "snapshot.invalid")]
    SnapshotInvalid(SnapshotGone),
    /// `snapshot verify` ended.
    #[serde(rename = "snapshot.verified")]
    SnapshotVerified(SnapshotEvent),
    /// A job reached a stage or a state.
    #[serde(rename = "job.stage")]
    JobStage(JobStage),
    /// A job ended.
    #[serde(rename = "job.finished")]
    JobFinished(JobStage),
    /// The server's state changed.
    #[serde(rename = "mysql.state")]
    MysqlState(MysqlStateChange),
    /// A command was refused before it began.
    #[serde(rename = "command.denied")]
    CommandDenied(CommandDenied),
    /// Events were lost because the agent's spool was full.
    #[serde(rename = "events.dropped")]
    EventsDropped(EventsDropped),
}

impl EventData {
    /// All kinds that there are, as [`EventData::kind`] names them.
    pub const KINDS: [&'static str; 15] = [
        "agent.started",
        "agent.stopped",
        "agent.duplicate",
        "snapshot.created",
        "snapshot.available",
        "snapshot.mounted",
        "snapshot.unmounted",
        "snapshot.removed",
        "snapshot.invalid",
        "snapshot.verified",
        "job.stage",
        "job.finished",
        "mysql.state",
        "command.denied",
        "events.dropped",
    ];

    /// The kind without the `orch.` prefix: the last tokens of the event's subject.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AgentStarted(_) => "agent.started",
            Self::AgentStopped(_) => "agent.stopped",
            Self::AgentDuplicate(_) => "agent.duplicate",
            Self::SnapshotCreated(_) => "snapshot.created",
            Self::SnapshotAvailable(_) => "snapshot.available",
            Self::SnapshotMounted(_) => "snapshot.mounted",
            Self::SnapshotUnmounted(_) => "snapshot.unmounted",
            Self::SnapshotRemoved(_) => "snapshot.removed",
            Self::SnapshotInvalid(_) => "snapshot.invalid",
            Self::SnapshotVerified(_) => "snapshot.verified",
            Self::JobStage(_) => "job.stage",
            Self::JobFinished(_) => "job.finished",
            Self::MysqlState(_) => "mysql.state",
            Self::CommandDenied(_) => "command.denied",
            Self::EventsDropped(_) => "events.dropped",
        }
    }

    /// What the event is about, for the CloudEvents `subject`.
    #[must_use]
    pub fn about(&self) -> Option<String> {
        match self {
            Self::SnapshotCreated(e)
            | Self::SnapshotAvailable(e)
            | Self::SnapshotMounted(e)
            | Self::SnapshotUnmounted(e)
            | Self::SnapshotVerified(e) => Some(e.snapshot.id.to_string()),
            Self::SnapshotRemoved(e) | Self::SnapshotInvalid(e) => Some(e.id.to_string()),
            Self::JobStage(e) | Self::JobFinished(e) => Some(e.job.to_string()),
            Self::CommandDenied(e) => Some(e.command.clone()),
            Self::AgentStarted(_)
            | Self::AgentStopped(_)
            | Self::AgentDuplicate(_)
            | Self::MysqlState(_)
            | Self::EventsDropped(_) => None,
        }
    }

    /// The body alone, for [`Event::data`].
    #[must_use]
    pub fn into_body(self) -> Value {
        match serde_json::to_value(self) {
            Ok(Value::Object(mut fields)) => fields.remove("data").unwrap_or(Value::Null),
            _ => Value::Null,
        }
    }
}

/// Body of `agent.started`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentStarted {
    /// Version of the agent program.
    pub version: String,
    /// Jobs of an earlier run that go on.
    pub jobs_resumed: Vec<JobId>,
}

/// Body of `agent.stopped`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentStopped {
    /// Why, for example `SIGTERM`.
    pub reason: String,
}

/// Body of `agent.duplicate`: what the other process says of itself. Each of the two tells of the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentDuplicate {
    /// The process that tells.
    pub boot: BootId,
    /// The other one.
    pub other_boot: BootId,
    /// When the other one started.
    pub other_started_at: Timestamp,
    /// Cluster of the other one.
    pub other_cluster: String,
    /// Data centre of the other one.
    pub other_dc: String,
}

/// Body of the events about a snapshot that is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotEvent {
    /// The snapshot as the provider lists it.
    pub snapshot: Snapshot,
    /// Who did it: an actor, `schedule`, or `outside` for what cron or a person did by hand.
    pub by: String,
}

/// Body of the events about a snapshot that is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotGone {
    /// Its name.
    pub id: SnapshotId,
    /// Who did it, or why it is invalid.
    pub by: String,
}

/// Body of the events about a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobStage {
    /// The job.
    pub job: JobId,
    /// The command that made it.
    pub kind: String,
    /// Who asked for it.
    pub actor: String,
    /// What it is about, for people.
    pub summary: String,
    /// State of the job.
    pub state: JobState,
    /// The stage reached.
    pub stage: Option<String>,
    /// What happened to the stage: `started`, `finished`, `failed`, `retrying`, `undone`.
    pub what: String,
    /// Facts of the stage, for example bytes and rate.
    pub detail: Value,
    /// Why it failed.
    pub error: Option<WireError>,
}

/// Body of `mysql.state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MysqlStateChange {
    /// Before.
    pub from: ServerState,
    /// Now.
    pub to: ServerState,
}

/// Body of `command.denied`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommandDenied {
    /// The command's name as given, shortened.
    pub command: String,
    /// The signer's key, or the claimed actor of an unsigned request.
    pub actor: String,
    /// Why.
    pub error: WireError,
}

/// Body of `events.dropped`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventsDropped {
    /// How many.
    pub count: u64,
    /// Sequence of the first one lost.
    pub first_sequence: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_listed() {
        let schema = serde_json::to_value(schemars::schema_for!(EventData)).unwrap();
        let kinds: Vec<_> = schema["oneOf"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["properties"]["kind"]["const"])
            .collect();
        assert_eq!(kinds, EventData::KINDS);
    }

    #[test]
    fn kind_and_body_make_the_event_again() {
        let data =
            EventData::SnapshotRemoved(SnapshotGone { id: "vg0/s1".parse().unwrap(), by: "outside".into() });
        let event = Event {
            specversion: "1.0".into(),
            id: EventId::generate(),
            source: "/orch/agents/db1".into(),
            kind: format!("orch.{}", data.kind()),
            subject: data.about(),
            time: Timestamp::UNIX_EPOCH,
            datacontenttype: "application/json".into(),
            cluster: "c".into(),
            dc: "d".into(),
            host: "db1".parse().unwrap(),
            sequence: 1,
            data: data.clone().into_body(),
        };
        assert_eq!(event.known(), Some(data));
        let newer = Event { kind: "orch.future.thing".into(), ..event };
        assert_eq!(newer.known(), None, "an unknown kind is no error");
    }
}
