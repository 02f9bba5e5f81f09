//! Parameters of the commands and the small results that belong to one command only.

use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{JobId, OfferId, SnapshotId, UploadId};
use crate::seed::{DonorFacts, Offer, SeedOptions, Transport};
use crate::snapshot::SnapshotMount;

macro_rules! params {
    ($( $(#[$doc:meta])+ $name:ident { $( $(#[$field_doc:meta])+ $field:ident : $type:ty ),* $(,)? } )+) => {
        $(
            $(#[$doc])+
            #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
            #[serde(deny_unknown_fields)]
            pub struct $name { $( $(#[$field_doc])+ pub $field: $type ),* }
        )+
    };
}

/// A result that says no more than that it is done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}

params! {
    /// Takes nothing.
    AgentInfoParams {}
    /// Takes nothing.
    AgentStatusParams {}
    /// Takes nothing.
    AgentDoctorParams {}
    /// Which jobs.
    JobsListParams {
        /// At most this many, newest first.
        #[serde(default = "hundred")]
        #[schemars(range(min = 1, max = 1000))]
        limit: u32,
        /// Only those that are not finished.
        #[serde(default)]
        unfinished: bool,
    }
    /// Which job.
    JobsShowParams {
        /// Its id.
        job: JobId,
    }
    /// Which job, and from where on.
    JobsRecordParams {
        /// Its id.
        job: JobId,
        /// The first record wanted: `next` of the part before.
        #[serde(default)]
        from: u64,
    }
    /// Which job.
    JobsAbortParams {
        /// Its id.
        job: JobId,
    }
    /// Where.
    HostDiskUsageParams {
        /// Absolute path below one of the configured roots.
        path: PathBuf,
        /// Count anew even when a cached figure is there.
        #[serde(default)]
        fresh: bool,
    }
    /// Where.
    HostDiskFreeParams {
        /// Absolute path below one of the configured roots.
        path: PathBuf,
    }
    /// Which volumes.
    HostVolumesParams {
        /// Regular expression over `group/name`; all when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(max = 256))]
        pattern: Option<String>,
    }
    /// Which snapshots.
    SnapshotListParams {
        /// Only those that a seed may use.
        #[serde(default)]
        usable: bool,
    }
    /// How to make it.
    SnapshotCreateParams {
        /// Remove it after this many seconds by retention; absent: the configured retention.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keep_s: Option<u64>,
        /// Size of a classic LVM snapshot's store in bytes; absent: the configured policy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size_bytes: Option<u64>,
    }
    /// Which snapshot.
    SnapshotRemoveParams {
        /// Its id.
        snapshot: SnapshotId,
        /// Leave to use one that is not of this agent's host, cluster and datadir; it must be named.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        foreign: bool,
    }
    /// Which snapshot, where and how.
    SnapshotMountParams {
        /// Its id; absent: the newest usable one, proven ones first, at the host's configured mount point.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<SnapshotId>,
        /// Writable: crash recovery can run on it.
        #[serde(default)]
        writable: bool,
        /// At the host's configured mount point instead of one of its own.
        #[serde(default)]
        at_mount_point: bool,
        /// Leave to use one that is not of this agent's host, cluster and datadir; it must be named.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        foreign: bool,
    }
    /// Which snapshot.
    SnapshotUnmountParams {
        /// Its id; absent: what is mounted at the host's configured mount point.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<SnapshotId>,
    }
    /// Takes nothing.
    SnapshotMountStatusParams {}
    /// Which snapshot.
    SnapshotVerifyParams {
        /// Its id.
        snapshot: SnapshotId,
        /// Seconds to spend on checking tables after crash recovery.
        #[serde(default = "minute")]
        budget_s: u64,
    }
    /// Takes nothing.
    MysqlInfoParams {}
    /// Takes nothing.
    MysqlStartParams {}
    /// Takes nothing.
    MysqlStopParams {}
    /// Takes nothing.
    MysqlRestartParams {}
    /// Which snapshot, and which server.
    MysqlStartOnSnapshotParams {
        /// Its id.
        snapshot: SnapshotId,
        /// TCP port of a second server beside the host's own; absent: the host's own service.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        port: Option<u16>,
    }
    /// Which snapshot.
    MysqlLeaveSnapshotParams {
        /// Its id.
        snapshot: SnapshotId,
    }
    /// How fresh.
    MysqlDiskUsageParams {
        /// Count anew even when a cached figure is there.
        #[serde(default)]
        fresh: bool,
    }
    /// Takes nothing.
    MysqlDiskFreeParams {}
    /// How much.
    MysqlErrorLogParams {
        /// Number of lines.
        #[serde(default = "twenty")]
        #[schemars(range(min = 1, max = 1000))]
        lines: u32,
    }
    /// A safeguard against the wrong host.
    DatadirClearParams {
        /// The datadir that the caller means; it must be the instance's own.
        datadir: PathBuf,
    }
    /// Takes nothing.
    DatadirPostCopyParams {}
    /// Takes nothing.
    BinlogFilesParams {}
    /// Takes nothing.
    BinlogRelayFilesParams {}
    /// Takes nothing.
    BinlogRelayEndParams {}
    /// What to read.
    BinlogTextParams {
        /// Base name of a binary or relay log that the server lists.
        #[schemars(length(min = 1, max = 255))]
        file: String,
        /// First byte.
        #[serde(default)]
        start: u64,
        /// Byte after the last; absent: to the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stop: Option<u64>,
        /// Bytes of the output to skip: where the chunk before ended.
        #[serde(default)]
        offset: u64,
    }
    /// What to read.
    BinlogBinaryParams {
        /// Base name of a binary or relay log that the server lists.
        #[schemars(length(min = 1, max = 255))]
        file: String,
        /// First byte.
        #[serde(default)]
        start: u64,
        /// Byte after the last; absent: to the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stop: Option<u64>,
        /// Bytes of the output to skip: where the chunk before ended.
        #[serde(default)]
        offset: u64,
    }
    /// A piece of what is to be applied.
    BinlogUploadParams {
        /// The upload; a new one begins with the piece at offset 0.
        upload: UploadId,
        /// Where the piece begins: at or before the end of what is there.
        offset: u64,
        /// The piece, base64.
        content: String,
    }
    /// What to apply: either of the two.
    BinlogApplyParams {
        /// Binary log bytes with their header, base64, as far as one request holds them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<String>,
        /// What `binlog.upload` has brought; it is removed afterwards.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upload: Option<UploadId>,
    }
    /// Which snapshot.
    SeedSurveyParams {
        /// Its id; absent: the newest usable one, proven ones first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<SnapshotId>,
        /// Leave to use one that is not of this agent's host, cluster and datadir; it must be named.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        foreign: bool,
        /// A stream of the donor's configuration instead of a snapshot.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(min = 1, max = 64))]
        stream: Option<String>,
    }
    /// What to offer to whom.
    SeedOfferParams {
        /// Who will come for it.
        recipient: crate::ids::AgentId,
        /// Its id; absent: the newest usable one, proven ones first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<SnapshotId>,
        /// Leave to use one that is not of this agent's host, cluster and datadir; it must be named.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        foreign: bool,
        /// A stream of the donor's configuration instead of a snapshot.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(min = 1, max = 64))]
        stream: Option<String>,
        /// Plain TCP; only when this donor's configuration allows it.
        #[serde(default)]
        plain: bool,
        /// `store`: through the object store; else directly.
        #[serde(default)]
        transport: Transport,
        /// The recipient's key (`seal_key` of its `agent.info`), to which the token is sealed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(min = 1, max = 64))]
        seal_to: Option<String>,
    }
    /// What to plan.
    SeedPlanParams {
        /// The donor's `seed.survey`.
        donor: DonorFacts,
        /// What is allowed.
        #[serde(default)]
        options: SeedOptions,
    }
    /// What to do.
    SeedStartParams {
        /// The donor's offer.
        offer: Offer,
        /// What is allowed.
        #[serde(default)]
        options: SeedOptions,
        /// Digest of the plan that was looked at; the seed is refused when it no longer holds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan_digest: Option<String>,
    }
    /// Which seed, how fast.
    SeedThrottleParams {
        /// The recipient's job.
        job: JobId,
        /// Limit in bytes per second; 0 is unlimited.
        bytes_per_s: u64,
    }
    /// Which offer.
    SeedReleaseParams {
        /// Its id.
        offer: OfferId,
    }
    /// Which seed.
    SeedUndoParams {
        /// The recipient's job.
        job: JobId,
    }
    /// Takes nothing.
    CustomListParams {}
    /// Which command.
    CustomRunParams {
        /// Its name in the configuration.
        #[schemars(length(min = 1, max = 64))]
        name: String,
    }
}

fn hundred() -> u32 {
    100
}

fn minute() -> u64 {
    60
}

fn twenty() -> u32 {
    20
}

/// A part of a job's journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JournalPart {
    /// The lines of the journal as they lie on the host's disk, each a JSON object with `seq`, `prev` and `hash`.
    pub lines: Vec<String>,
    /// Number of the record after the last one here; absent at the end.
    pub next: Option<u64>,
}

/// One log file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogFile {
    /// Base name.
    pub name: String,
    /// Length in bytes.
    pub size_bytes: u64,
}

/// Relay logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RelayFiles {
    /// Path of the index file.
    pub index: PathBuf,
    /// Files, oldest first.
    pub files: Vec<LogFile>,
}

/// A bounded piece of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogChunk {
    /// The piece, base64.
    pub content: String,
    /// `offset` for the next piece; absent at the end.
    pub next_offset: Option<u64>,
}

/// How far an upload has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Uploaded {
    /// Its bytes so far.
    pub size_bytes: u64,
}

/// A mounted snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MountStatus {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Where, and who holds it.
    pub mount: SnapshotMount,
    /// When it was mounted.
    pub since: Option<Timestamp>,
}

/// One allow-listed command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CustomCommand {
    /// Its name.
    pub name: String,
    /// What it does, from the configuration.
    pub about: Option<String>,
    /// It is stopped after this many seconds.
    pub time_limit_s: u64,
}
