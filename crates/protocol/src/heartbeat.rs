//! What each agent says of itself every few seconds: discovery for the whole fleet.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::host::HostLoad;
use crate::ids::{AgentId, BootId, JobId, SnapshotId};
use crate::job::JobState;
use crate::mysql::{ServerState, ServerVersion};
use crate::snapshot::ProviderKind;

/// One heartbeat. Readers ignore fields that they do not know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    /// Who.
    pub agent: AgentId,
    /// Cluster from its config.
    pub cluster: String,
    /// Data centre from its config.
    pub dc: String,
    /// Version of the agent program.
    pub version: String,
    /// Protocol version.
    pub protocol: u16,
    /// This start of the process; two boots alive at once are a duplicate agent.
    pub boot: BootId,
    /// When the process started.
    pub started_at: Timestamp,
    /// Counts up from 1 at each start.
    pub sequence: u64,
    /// When it was made, by the agent's clock.
    pub sent_at: Timestamp,
    /// Milliseconds until the next one; missing for three intervals is stale.
    pub interval_ms: u64,
    /// True when it takes unsigned commands.
    pub accepts_unsigned: bool,
    /// Capabilities that are there, by name.
    pub capabilities: Vec<String>,
    /// Its server.
    pub mysql: MysqlSummary,
    /// Its snapshots, newest first, at most 16.
    pub snapshots: Vec<SnapshotSummary>,
    /// Number of snapshots, also beyond those.
    pub snapshots_total: u32,
    /// Bytes free where the datadir lies.
    pub free_bytes: Option<u64>,
    /// How busy the host is; absent from agents that do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<HostLoad>,
    /// How it fares with the bus; absent from agents that do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<BusSummary>,
    /// Jobs that are not finished.
    pub jobs: Vec<JobSummary>,
}

/// How an agent fares with the bus, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BusSummary {
    /// Connections to NATS that were made after the first of this process.
    pub reconnects: u64,
    /// Events on the host's disk that no stream has acknowledged.
    pub spooled_events: u64,
    /// Bytes that the spool of events takes on disk.
    pub spooled_bytes: u64,
    /// Events that were lost since the process started because the spool was full.
    pub dropped_events: u64,
}

/// The server in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MysqlSummary {
    /// Whether it runs.
    pub state: ServerState,
    /// TCP port.
    pub port: Option<u16>,
    /// Version.
    pub version: Option<ServerVersion>,
    /// `read_only`.
    pub read_only: Option<bool>,
    /// Seconds behind its source.
    pub lag_seconds: Option<u64>,
    /// Its source, if it is a replica.
    pub replica_of: Option<String>,
    /// Bytes used by the datadir, from the last count.
    pub datadir_bytes: Option<u64>,
    /// The snapshot that the service runs on instead of its own data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_snapshot: Option<SnapshotId>,
}

/// A snapshot in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotSummary {
    /// Its name.
    pub id: SnapshotId,
    /// What made it.
    pub provider: ProviderKind,
    /// When it was made.
    pub created_at: Timestamp,
    /// Cluster whose data it holds; absent for snapshots made by others.
    pub cluster: Option<String>,
    /// False when its data are lost, or are not this agent's.
    pub usable: bool,
    /// True when it is no snapshot of this agent's datadir.
    #[serde(default)]
    pub foreign: bool,
    /// True when `snapshot verify` passed.
    pub proven: bool,
    /// Fill of its store in percent.
    pub fill_percent: Option<f64>,
}

/// A job in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobSummary {
    /// Its id.
    pub id: JobId,
    /// The command that made it.
    pub kind: String,
    /// Where it stands.
    pub state: JobState,
    /// The step that runs.
    pub stage: Option<String>,
    /// Part done in percent.
    pub percent: Option<u8>,
    /// When it last came on, by the agent's clock: a step began or ended, or told of more done; absent from agents that do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_at: Option<Timestamp>,
}
