//! Snapshots of MySQL data, whoever made them.

use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, SnapshotId};
use crate::mysql::{Coordinates, LogIdentity, ServerVersion};

/// What makes the snapshots of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProviderKind {
    /// Classic LVM snapshots with a copy-on-write store of fixed size.
    Lvm,
    /// Snapshots of a thin volume.
    LvmThin,
    /// Read-only btrfs subvolume snapshots.
    Btrfs,
    /// A tree of reflinked files (XFS, btrfs).
    Reflink,
    /// A plain copy, for trying things out.
    Directory,
    /// The user's own argv.
    Command,
}

/// Whether the frozen data can still be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum Validity {
    /// Every read gives the frozen data.
    Valid,
    /// The data are lost, for example an overflowed classic LVM snapshot.
    Invalid(String),
    /// It cannot be told, for example of an inactive volume.
    Unknown(String),
}

/// How the data were brought to rest for the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// One atomic instant of a running server; crash recovery makes it whole.
    Crash,
    /// Commits were blocked for the instant (`BACKUP STAGE` or `LOCK INSTANCE FOR BACKUP`).
    Locked,
    /// The server was stopped.
    Stopped,
}

/// What kept writes away while the copy was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Freeze {
    /// Nothing was needed: the provider's copy is one atomic instant.
    #[default]
    Atomic,
    /// Every thread of the server was held still while its files were copied one by one.
    Paused,
    /// The server did not run.
    Stopped,
}

/// Metadata kept with a snapshot that an agent made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotMeta {
    /// Cluster whose data it holds.
    pub cluster: String,
    /// Data centre of its host.
    pub dc: String,
    /// Host that made it.
    pub host: AgentId,
    /// How the data were brought to rest.
    pub consistency: Consistency,
    /// What kept writes away meanwhile.
    #[serde(default)]
    pub freeze: Freeze,
    /// Where the data stand, read at the same instant.
    pub coordinates: Option<Coordinates>,
    /// Where they stand at least, read just before the instant, commits going on. The data themselves tell where they stand once
    /// they are recovered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<Box<Coordinates>>,
    /// Which log the coordinates are of; absent where none are, and with snapshots of older agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogIdentity>,
    /// Why nothing says where the data stand, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_position: Option<String>,
    /// Server that wrote the data.
    pub server_version: Option<ServerVersion>,
    /// Path of the datadir inside the snapshot, relative to its root; empty when the root is the datadir.
    pub datadir: PathBuf,
    /// When retention may remove it.
    pub expires_at: Option<Timestamp>,
    /// Result of the last `snapshot verify`.
    pub proof: Option<Proof>,
}

/// The result of starting a private server on a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Proof {
    /// When it was tried.
    pub checked_at: Timestamp,
    /// True when crash recovery ended and every check passed.
    pub passed: bool,
    /// What was found, in a sentence.
    pub detail: String,
    /// Duration of crash recovery in milliseconds.
    pub recovery_ms: u64,
    /// Coordinates read from the recovered server.
    pub recovered: Option<Coordinates>,
    /// Tables that were not reached within the budget: then it is the proof of a part.
    #[serde(default)]
    pub unchecked_tables: u64,
}

/// A place where a snapshot is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotMount {
    /// Mount point.
    pub path: PathBuf,
    /// True when writes go to the snapshot.
    pub writable: bool,
    /// Who holds it (`seed <id>`, `operator`, `verify`); never unmounted while anyone does.
    pub holders: Vec<String>,
}

/// One snapshot as its provider lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// Its name.
    pub id: SnapshotId,
    /// What made it.
    pub provider: ProviderKind,
    /// The live volume or directory that it froze.
    pub origin: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Size of its own store in bytes (classic LVM: the copy-on-write store); absent where that has no meaning.
    pub size_bytes: Option<u64>,
    /// Fill of that store, or of the thin pool, in percent.
    pub fill_percent: Option<f64>,
    /// Whether it can be read.
    pub validity: Validity,
    /// Where it is mounted now.
    pub mounts: Vec<SnapshotMount>,
    /// Metadata; absent when someone else made it.
    pub meta: Option<SnapshotMeta>,
    /// Why it is no snapshot of this agent's datadir: another host, cluster or origin, or nothing that tells. Absent when it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign: Option<String>,
}

impl Snapshot {
    /// True when a seed may use it: it is this agent's own, and its data are not lost.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.foreign.is_none() && self.is_readable()
    }

    /// True unless its data are lost, whosever it is.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        !matches!(self.validity, Validity::Invalid(_))
    }

    /// True when `snapshot verify` passed on all of it.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.meta.as_ref().and_then(|m| m.proof.as_ref()).is_some_and(|p| p.passed && p.unchecked_tables == 0)
    }
}
