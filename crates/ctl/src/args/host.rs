//! Subcommands about one host: each line here is one command of the protocol.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use protocol::ids::{AgentId, SnapshotId};

use super::JobRef;

use super::RunArgs;
use crate::units;

/// The host itself.
#[derive(Debug, Subcommand)]
pub enum HostCmd {
    /// Version, identity, capabilities found and missing with the reason
    Info,
    /// Its heartbeat, made now
    Status,
    /// Space of the file system of an allow-listed path
    DiskFree {
        /// Absolute path below one of the configured roots
        path: PathBuf,
    },
    /// Bytes used below an allow-listed path
    DiskUsage {
        /// Absolute path below one of the configured roots
        path: PathBuf,
        /// Count anew even when a cached figure is there
        #[arg(long)]
        fresh: bool,
    },
    /// Logical volumes
    Volumes {
        /// Regular expression over group/name
        pattern: Option<String>,
    },
}

/// Its MySQL.
#[derive(Debug, Subcommand)]
pub enum MysqlCmd {
    /// State, pid, port, datadir, version, coordinates
    Info,
    /// Starts the server, on its own data or on a snapshot; done when it answers
    Start {
        /// On this snapshot, mounted writable; `stop --on-snapshot` is the way back
        #[arg(long, value_name = "SNAPSHOT")]
        on_snapshot: Option<SnapshotId>,
        /// A second server on this port of the loopback, beside the host's own [default: the host's service itself]
        #[arg(long, requires = "on_snapshot", value_parser = clap::value_parser!(u16).range(1..))]
        port: Option<u16>,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Stops the server cleanly, or ends the one on a snapshot
    Stop {
        /// Ends the server on this snapshot; the service gets its own datadir back and runs again if it ran before
        #[arg(long, value_name = "SNAPSHOT")]
        on_snapshot: Option<SnapshotId>,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Stops and starts the server
    Restart(RunArgs),
    /// The last lines of the error log
    ErrorLog {
        /// Number of lines
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        lines: u32,
    },
    /// Bytes used by the datadir
    DiskUsage {
        /// Count anew even when a cached figure is there
        #[arg(long)]
        fresh: bool,
    },
    /// Space where the datadir lies
    DiskFree,
}

/// Its snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotCmd {
    /// A host's snapshots, newest first
    List {
        /// The host as the fleet knows it
        host: AgentId,
        /// Only those that a seed may use
        #[arg(long)]
        usable: bool,
    },
    /// Makes a snapshot of the live datadir
    Create {
        /// The host as the fleet knows it
        host: AgentId,
        /// Remove it after this long (30m, 7d) [default: as configured on the host]
        #[arg(long, value_name = "TIME", value_parser = units::parse_seconds)]
        keep: Option<u64>,
        /// Size of a classic LVM snapshot's store (20G) [default: as configured on the host]
        #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
        size: Option<u64>,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Removes a snapshot that nobody holds
    Remove {
        /// The host as the fleet knows it
        host: AgentId,
        /// The snapshot's id
        snapshot: SnapshotId,
        /// Also one that is not of the host's own datadir
        #[arg(long)]
        foreign: bool,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Mounts a snapshot and holds it in your name
    Mount {
        /// The host as the fleet knows it
        host: AgentId,
        /// The snapshot's id [default: the newest usable one, at the host's configured mount point]
        snapshot: Option<SnapshotId>,
        /// Writable: crash recovery can run on it
        #[arg(long)]
        writable: bool,
        /// At the host's configured mount point instead of one of its own
        #[arg(long)]
        at_mount_point: bool,
        /// Also one that is not of the host's own datadir
        #[arg(long, requires = "snapshot", conflicts_with = "writable")]
        foreign: bool,
    },
    /// Gives up your hold; unmounts when nobody else holds it
    Unmount {
        /// The host as the fleet knows it
        host: AgentId,
        /// The snapshot's id [default: what is mounted at the host's configured mount point]
        snapshot: Option<SnapshotId>,
    },
    /// What is mounted where, and who holds it
    Mounts {
        /// The host as the fleet knows it
        host: AgentId,
    },
    /// Starts a private server on a snapshot and checks its tables
    Verify {
        /// The host as the fleet knows it
        host: AgentId,
        /// The snapshot's id
        snapshot: SnapshotId,
        /// Time to spend on checking tables after crash recovery
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = units::parse_seconds)]
        budget: u64,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Which hosts have a usable snapshot of a cluster: proven first, newest first
    Find {
        /// The cluster
        cluster: String,
        /// Only this data centre's
        #[arg(long, alias = "local-dc")]
        dc: Option<String>,
        /// List this data centre's first
        #[arg(long, value_name = "DC", conflicts_with = "dc")]
        prefer_dc: Option<String>,
    },
}

/// Its data directory.
#[derive(Debug, Subcommand)]
pub enum DatadirCmd {
    /// Empties the datadir of a stopped server; without a terminal it needs --yes and --datadir
    Clear {
        /// The datadir that you mean; the host refuses when it is not its own
        #[arg(long, value_name = "PATH")]
        datadir: Option<PathBuf>,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Removes what must not be cloned and runs the configured argv
    PostCopy(RunArgs),
}

/// Its logs.
#[derive(Debug, Subcommand)]
pub enum BinlogCmd {
    /// Binary log files, oldest first
    Files,
    /// Relay log files, oldest first, with the index file
    RelayFiles,
    /// Where the last relay log ends
    RelayEnd,
    /// Events as text, to stdout
    Text(LogRange),
    /// Events as the log's own bytes, its header in front, to stdout
    Binary(LogRange),
    /// Applies binary log events to the server
    Apply {
        /// A file with binary log bytes and their header; - for stdin
        file: PathBuf,
        #[command(flatten)]
        run: RunArgs,
    },
}

/// A part of a log.
#[derive(Debug, Args)]
pub struct LogRange {
    /// Base name of a binary or relay log that the server lists
    pub file: String,
    /// First byte
    #[arg(long, default_value_t = 0)]
    pub start: u64,
    /// Byte after the last [default: to the end]
    #[arg(long)]
    pub stop: Option<u64>,
}

/// Its configured commands.
#[derive(Debug, Subcommand)]
pub enum CustomCmd {
    /// What the host's configuration allows
    List,
    /// Runs one of them
    Run {
        /// Its name in the host's configuration
        name: String,
        #[command(flatten)]
        run: RunArgs,
    },
}

/// Its jobs.
#[derive(Debug, Subcommand)]
pub enum JobsCmd {
    /// Jobs, newest first
    List {
        /// At most this many
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Only those that are not finished
        #[arg(long)]
        unfinished: bool,
    },
    /// One job
    Show {
        /// Its id, or as much of its beginning or end as no other job of the host has
        job: JobRef,
    },
    /// Stays with a job until it ends; Ctrl-C leaves it running
    Watch {
        /// Its id, or as much of its beginning or end as no other job of the host has
        job: JobRef,
    },
    /// Ends a running job and takes back what it did
    Abort {
        /// Its id, or as much of its beginning or end as no other job of the host has
        job: JobRef,
    },
}
