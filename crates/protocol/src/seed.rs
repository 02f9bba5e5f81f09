//! A seed: the whole operation of making a recipient from a donor's snapshot.

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::host::HostLoad;
use crate::ids::{AgentId, JobId, OfferId, SnapshotId};
use crate::mysql::{Coordinates, Layout, ServerVersion};
use crate::snapshot::Snapshot;

/// A text that is shown to nobody: its `Debug` is a row of stars.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself; never for logs, argv or errors.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

/// The stages of a seed on the recipient, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SeedStage {
    /// Guards, again, on the recipient itself.
    Plan,
    /// Staging directory and space.
    Prepare,
    /// The bytes travel.
    Transfer,
    /// The manifest is proven.
    Verify,
    /// The server's program comes up privately on staging, makes the data the recipient's own and shuts down cleanly.
    Recover,
    /// MySQL stops and staging takes the datadir's place.
    Swap,
    /// What must not be cloned is removed, the user's argv runs.
    PostCopy,
    /// MySQL starts and answers.
    Start,
    /// Replication runs.
    Replicate,
    /// The old datadir and the donor's hold go.
    Cleanup,
}

impl SeedStage {
    /// All stages in order.
    pub const ALL: [Self; 10] = [
        Self::Plan,
        Self::Prepare,
        Self::Transfer,
        Self::Verify,
        Self::Recover,
        Self::Swap,
        Self::PostCopy,
        Self::Start,
        Self::Replicate,
        Self::Cleanup,
    ];

    /// The stage as it is written on the wire and in the journal.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Prepare => "prepare",
            Self::Transfer => "transfer",
            Self::Verify => "verify",
            Self::Recover => "recover",
            Self::Swap => "swap",
            Self::PostCopy => "post-copy",
            Self::Start => "start",
            Self::Replicate => "replicate",
            Self::Cleanup => "cleanup",
        }
    }
}

/// What a recipient must know of a donor to plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DonorFacts {
    /// The donor.
    pub agent: AgentId,
    /// Machine identity (`/etc/machine-id`) and datadir, to see that donor and recipient are not the same.
    pub machine_id: Option<String>,
    /// The donor's live datadir, resolved.
    pub datadir: Option<PathBuf>,
    /// Names that directory itself: the boot of the machine, device and inode. Hosts that were cloned share all but this.
    #[serde(default)]
    pub datadir_identity: Option<String>,
    /// Cluster from its config.
    pub cluster: String,
    /// Data centre from its config.
    pub dc: String,
    /// The snapshot that will be sent; absent when a program's stream is.
    pub snapshot: Option<Snapshot>,
    /// The program of the donor's configuration that makes a stream instead of a snapshot. It cannot be resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Bytes to send; an estimate from the live datadir until the snapshot is mounted.
    pub bytes: u64,
    /// Bytes of it outside of holes, which stay holes on the recipient; absent from donors that do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_bytes: Option<u64>,
    /// Files to send; same remark.
    pub files: u64,
    /// Server that wrote the data.
    pub version: Option<ServerVersion>,
    /// File layout of the data.
    pub layout: Option<Layout>,
    /// Where the data stand; for a stream its program tells when it is done.
    pub coordinates: Option<Coordinates>,
    /// Whether it gives seeds without TLS; absent from donors that do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gives_plain: Option<bool>,
    /// How busy the donor is.
    #[serde(default)]
    pub load: HostLoad,
    /// Why the donor should give nothing now, by its own limits; empty when it may.
    #[serde(default)]
    pub overloaded: Vec<String>,
    /// Encrypted tablespaces among the data; absent when it could not be told.
    #[serde(default)]
    pub encrypted_tablespaces: Option<u64>,
    /// Some of the tablespaces that lie outside the donor's datadir, which a seed from a snapshot does not carry; absent
    /// when it could not be told.
    #[serde(default)]
    pub outside: Option<Vec<PathBuf>>,
    /// Some of the donor's tables whose rows lie in memory alone (`MEMORY`), as `schema/table`: a copy has them empty. Absent
    /// from donors that do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volatile: Option<Vec<String>>,
    /// Bytes free on the file system of the donor's datadir.
    #[serde(default)]
    pub free_bytes: Option<u64>,
    /// Where the donor can be tried, `host:port`, for a few seconds after the survey; empty: nobody knows yet.
    #[serde(default)]
    pub addresses: Vec<String>,
}

impl DonorFacts {
    /// Where the data stand at least, where they tell themselves once they are recovered.
    #[must_use]
    pub fn at_least(&self) -> Option<&Coordinates> {
        self.snapshot.as_ref()?.meta.as_ref()?.at_least.as_deref()
    }

    /// Bytes that a full seed moves, and that the recipient needs room for.
    #[must_use]
    pub fn moved_bytes(&self) -> u64 {
        self.data_bytes.unwrap_or(self.bytes)
    }
}

/// A donor's promise: the snapshot is mounted and held, and listens for one recipient until `expires_at`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Offer {
    /// Its id; also names the hold on the donor.
    pub id: OfferId,
    /// The donor's job that serves it.
    pub job: JobId,
    /// The recipient that it was made for.
    pub recipient: AgentId,
    /// What is offered.
    pub facts: DonorFacts,
    /// Where it listens, `host:port`, in the order to try; empty when the data go through the object store.
    pub addresses: Vec<String>,
    /// The object store that the data go through, where the two hosts cannot reach one another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Box<StoreOffer>>,
    /// SHA-256 of the donor's certificate in hex; absent for plain TCP.
    pub fingerprint: Option<String>,
    /// One-time token that the recipient shows; sealed to its key where `sealed_by` is there, in hexadecimal digits then.
    pub token: Secret,
    /// The public half of the key that the donor made to seal the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_by: Option<String>,
    /// The offer lapses when no recipient has connected by then.
    pub expires_at: Timestamp,
}

/// The object store of an offer: the bucket of the donor, read by the recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreOffer {
    /// Its name, for `nats object ls`; the data in it are sealed from agent to agent.
    pub bucket: String,
    /// Bytes that lie on the server at the most.
    pub window_bytes: u64,
}

/// How the data get from host to host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Directly where the recipient reaches the donor, else through the object store.
    #[default]
    Auto,
    /// Directly, over TCP.
    Tcp,
    /// Through a JetStream object store.
    Store,
}

/// What to do on the recipient, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SeedOptions {
    /// Leave to stop MySQL when it runs.
    pub stop_mysql: bool,
    /// Leave to seed over a server that has replicas or takes writes.
    pub allow_primary: bool,
    /// Leave to read from a donor that is overloaded by its own limits.
    pub allow_busy_donor: bool,
    /// Leave to replace the data of one cluster by those of another.
    pub allow_other_cluster: bool,
    /// Leave to remove the old datadir before the new one is proven, where space cannot hold both.
    pub replace: bool,
    /// Start MySQL on the new data; a failed start puts the old datadir back.
    pub start_mysql: bool,
    /// Keep the old datadir this long after success, in seconds; 0 removes it in the cleanup stage.
    pub keep_old_s: u64,
    /// Connections to the donor; 0 lets the recipient choose.
    pub connections: u16,
    /// Limit in bytes per second; 0 is unlimited.
    pub throttle_bytes_per_s: u64,
    /// Compress chunks on the way.
    pub compression: Compression,
    /// How the data travel.
    pub transport: Transport,
    /// Demand a snapshot that `snapshot verify` has passed.
    pub require_proven: bool,
    /// Reuse equal blocks of the recipient's old datadir.
    pub delta: bool,
    /// With `delta`: read both sides, although the recipient has kept what came from this donor before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reread: bool,
    /// Make the recipient a replica of this server.
    pub replicate_from: Option<ReplicationSource>,
    /// TCP without TLS.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub plain: bool,
    /// Hand on what has arrived to other recipients of the same snapshot, and take from them what they have: for recipients
    /// whose plan says that they can.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub relay: bool,
}

impl Default for SeedOptions {
    fn default() -> Self {
        Self {
            stop_mysql: false,
            allow_primary: false,
            allow_busy_donor: false,
            allow_other_cluster: false,
            replace: false,
            start_mysql: true,
            keep_old_s: 0,
            connections: 0,
            throttle_bytes_per_s: 0,
            compression: Compression::Auto,
            transport: Transport::Auto,
            require_proven: false,
            delta: false,
            reread: false,
            replicate_from: None,
            plain: false,
            relay: false,
        }
    }
}

/// How chunks are compressed on the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Where it makes the seed faster.
    #[default]
    Auto,
    /// Never.
    None,
    /// LZ4.
    Lz4,
    /// Zstandard, level 1.
    Zstd,
}

/// The server that a new replica follows. Credentials come from a file on the recipient, never over the bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplicationSource {
    /// Host name or address.
    #[schemars(length(min = 1, max = 255))]
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// One guard of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// Donor and recipient are not the same instance.
    NotOntoItself,
    /// MySQL is stopped, or may be stopped.
    MysqlMayStop,
    /// The recipient is no primary with replicas or live writes.
    NotAPrimary,
    /// Vendor equal, recipient's version at or above the donor's.
    VersionCompatible,
    /// `innodb_page_size`, `lower_case_table_names` and file layout agree.
    LayoutCompatible,
    /// The recipient's filesystem holds the new data beside the old.
    SpaceSuffices,
    /// It has inodes for all files.
    InodesSuffice,
    /// The snapshot is valid and not about to fill.
    SnapshotValid,
    /// It is proven, where that is demanded.
    SnapshotProven,
    /// The datadir is known and looks like one.
    DatadirKnown,
    /// No other seed on this agent.
    NoOtherSeed,
    /// Donor and recipient belong to the same cluster.
    SameCluster,
    /// The donor is not overloaded.
    DonorHealthy,
    /// Keys of encrypted tablespaces are there.
    KeysPresent,
    /// The binlogs needed to catch up are still on the source.
    BinlogsAvailable,
    /// There is a way for the data.
    DonorReachable,
    /// Both hosts allow TCP without TLS. Only in the plan of a seed that asks for it.
    PlainAllowed,
}

/// What a guard found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All is well.
    Pass,
    /// Worth a look; the seed may go on.
    Warn,
    /// The seed is refused.
    Refuse,
}

/// A guard with its verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuardResult {
    /// Which guard.
    pub guard: Guard,
    /// What it found.
    pub verdict: Verdict,
    /// In a sentence, with what to do when it refuses.
    pub message: String,
}

/// What a seed would do; made without touching anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SeedPlan {
    /// Who is made anew.
    pub recipient: AgentId,
    /// From whom.
    pub donor: AgentId,
    /// From which snapshot; absent when a program's stream is sent.
    pub snapshot: Option<SnapshotId>,
    /// By which of the donor's streams, where there is no snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Every guard.
    pub guards: Vec<GuardResult>,
    /// Bytes that will travel at the most.
    pub bytes: u64,
    /// Files that will travel.
    pub files: u64,
    /// Bytes free on the recipient's filesystem now.
    pub free_before_bytes: u64,
    /// Bytes free at the narrowest point of the seed, negative when they do not suffice.
    pub free_lowest_bytes: i64,
    /// Bytes free there once the seed is over, and the old datadir gone unless it is kept.
    pub free_after_bytes: i64,
    /// Bytes free on the donor's filesystem, where a seed takes none.
    #[serde(default)]
    pub donor_free_bytes: Option<u64>,
    /// How the data will travel: `tcp` or `store`.
    #[serde(default)]
    pub transport: Transport,
    /// True when that is without TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain: bool,
    /// True when the recipient can hand on what it receives to others of the same snapshot (`relay` of the options).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub can_relay: bool,
    /// Expected seconds of the copy from a measured rate; absent when no rate is known.
    pub expected_s: Option<u64>,
    /// What will be stopped, moved and deleted, in order, in sentences.
    pub actions: Vec<String>,
    /// Digest over what the plan leans on; `seed start` with it is refused when it no longer holds.
    pub digest: String,
    /// The recipient's key, for `seal_to` of the offer; absent from agents that have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal_key: Option<String>,
}

impl SeedPlan {
    /// The guards that refuse.
    pub fn refusals(&self) -> impl Iterator<Item = &GuardResult> {
        self.guards.iter().filter(|g| g.verdict == Verdict::Refuse)
    }
}

/// Counters of a running transfer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TransferProgress {
    /// Bytes of the whole data set; 0 until the manifest is there.
    pub bytes_total: u64,
    /// Bytes proven on the recipient, those of earlier tries included.
    pub bytes_done: u64,
    /// Bytes that travelled in this try.
    pub bytes_moved: u64,
    /// Files of the whole data set.
    pub files_total: u64,
    /// Files complete.
    pub files_done: u64,
    /// Bytes per second over the last seconds; of a transfer that has ended, over all of it.
    pub bytes_per_s: u64,
    /// Set while the recipient waits for the donor and has heard nothing from it for some seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<Silence>,
}

/// How long a donor has been silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Silence {
    /// Seconds without a byte from the donor, not even a sign of life.
    pub silent_s: u64,
    /// The transfer fails after so many seconds of it.
    pub limit_s: u64,
}
