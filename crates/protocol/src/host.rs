//! What an agent says of itself and its host.

use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, BootId};

/// Something the agent can do, or why it cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Capability {
    /// Its name, for example `snapshot.lvm` or `mysqlbinlog`.
    pub name: String,
    /// Whether it is there.
    pub available: bool,
    /// What is missing and how to get it; absent when it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a look at one thing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FindingState {
    /// It is as it should be.
    Fine,
    /// It works, and something is not as one would wish.
    Weak,
    /// It could not be looked at.
    Unknown,
    /// Something that a command needs is not there.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// What it belongs to: `bus`, `mysql`, `snapshot`, `seed` or `host`.
    pub area: String,
    /// What was looked at, for example `log-in`.
    pub what: String,
    /// What the look came to.
    pub state: FindingState,
    /// What was found.
    pub detail: String,
    /// The command or the setting that mends it; absent where nothing is to be mended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

/// Who an agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentInfo {
    /// Its id on the bus.
    pub agent: AgentId,
    /// Cluster from its config.
    pub cluster: String,
    /// Data centre from its config.
    pub dc: String,
    /// Version of the agent program.
    pub version: String,
    /// Protocol version.
    pub protocol: u16,
    /// This start of the process.
    pub boot: BootId,
    /// When it started.
    pub started_at: Timestamp,
    /// Digest of the effective configuration, secrets left out; equal on hosts configured alike.
    pub config_digest: String,
    /// True when it takes unsigned commands.
    pub accepts_unsigned: bool,
    /// What it can do and what is missing.
    pub capabilities: Vec<Capability>,
    /// The public key (a NATS `xkey`) that secrets for this host are sealed to; absent from agents that have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal_key: Option<String>,
    /// The public nkey that this host signs its replies with; absent from agents that sign none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_key: Option<String>,
}

/// How busy a host is; what could not be found is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostLoad {
    /// Percent of the last ten seconds in which all work waited for a disk (`full` in `/proc/pressure/io`).
    pub io_pressure_percent: Option<f64>,
    /// Load average of the last minute.
    pub load_1m: Option<f64>,
    /// Processors.
    pub cpus: u32,
    /// Statements that the server runs at once.
    pub threads_running: Option<u32>,
    /// Seconds behind its source; absent on a server that is no replica.
    pub lag_seconds: Option<u64>,
}

/// Space of one file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskFree {
    /// The path asked about, links resolved.
    pub path: PathBuf,
    /// Size in bytes.
    pub total_bytes: u64,
    /// Bytes that an unprivileged process may still use.
    pub available_bytes: u64,
    /// Inodes still free; absent where the file system makes them as needed.
    pub available_inodes: Option<u64>,
}

/// Bytes used below a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskUsage {
    /// The path asked about, links resolved.
    pub path: PathBuf,
    /// Allocated bytes (blocks, as `du` counts).
    pub used_bytes: u64,
    /// Sum of file lengths.
    pub apparent_bytes: u64,
    /// Number of files.
    pub files: u64,
    /// When it was counted; figures are cached.
    pub counted_at: Timestamp,
}

/// One logical volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Volume {
    /// Volume name.
    pub name: String,
    /// Volume group.
    pub group: String,
    /// Device path.
    pub path: PathBuf,
    /// True for a snapshot, classic or thin.
    pub is_snapshot: bool,
    /// Origin, for snapshots.
    pub origin: Option<String>,
    /// Fill in percent, for classic snapshots and thin volumes.
    pub fill_percent: Option<f64>,
    /// Size in bytes.
    pub size_bytes: u64,
}
