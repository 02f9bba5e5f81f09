//! What a recipient knows when it decides about a seed.

use mysql::UnitFacts;
use protocol::ids::{AgentId, SnapshotId};
use protocol::mysql::ServerInfo;

use crate::usage::InUse;

/// What the recipient knows of itself.
#[derive(Debug, Clone)]
pub(crate) struct RecipientFacts {
    /// Its id.
    pub(crate) agent: AgentId,
    /// Cluster from its config.
    pub(crate) cluster: String,
    /// `/etc/machine-id`.
    pub(crate) machine_id: Option<String>,
    /// Its datadir itself; see [`DonorFacts::datadir_identity`](protocol::seed::DonorFacts::datadir_identity).
    pub(crate) datadir_identity: Option<String>,
    /// Its server.
    pub(crate) server: ServerInfo,
    /// What systemd says of its service; absent where it is no unit's.
    pub(crate) unit: Option<UnitFacts>,
    /// Why its datadir may not be used, when that is so.
    pub(crate) datadir_problem: Option<String>,
    /// Bytes used by its datadir.
    pub(crate) datadir_bytes: u64,
    /// Bytes free on the file system of its datadir.
    pub(crate) free_bytes: u64,
    /// Inodes free there; absent where they are made as needed.
    pub(crate) free_inodes: Option<u64>,
    /// Bytes per second of the last seed, when there was one.
    pub(crate) measured_rate: Option<u64>,
    /// Another seed of this agent that is not finished.
    pub(crate) other_seed: Option<String>,
    /// It takes seeds without TLS.
    pub(crate) takes_plain: bool,
    /// Whether it hands on what it receives.
    pub(crate) relays: bool,
    /// The donor's snapshot of which the tree is kept here.
    pub(crate) base: Option<SnapshotId>,
    /// Whether anybody uses its server.
    pub(crate) in_use: InUse,
    /// A post-copy command is configured.
    pub(crate) has_post_copy: bool,
    /// What gives its server the keys of encrypted tablespaces; absent when nothing is configured.
    pub(crate) key_source: Option<String>,
    /// What the server to replicate from says, where the seed is to end in a replica.
    pub(crate) source: SourceSays,
    /// Whether it reaches the donor.
    pub(crate) reach: Reach,
}

/// Whether a replica could follow its source from where the data stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SourceSays {
    /// No replication was asked for.
    NotAsked,
    /// It still has the binary logs from there on.
    Available,
    /// It can be told only once the data have arrived.
    Later,
    /// It could not be told.
    Unknown(String),
    /// A replica cannot follow it from there.
    Refused(String),
}

/// Whether the recipient reaches the donor over TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Not tried: the donor names no address yet, or a seed is under way already.
    NotTried,
    /// This address answers.
    Reached(String),
    /// None does, with the reason of the last.
    Failed(String),
}

/// Bytes for people, in binary units.
#[must_use]
pub(crate) fn human_u64(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}
