//! Subcommands about seeds.

use clap::{Args, Subcommand, ValueEnum};
use protocol::ids::{AgentId, SnapshotId};
use protocol::seed::{Compression, ReplicationSource, SeedOptions, Transport};

use super::JobRef;
use crate::units;

/// Seeds.
#[derive(Debug, Subcommand)]
pub enum SeedCmd {
    /// What a seed would do, with every guard; touches nothing
    Plan {
        /// The hosts to make anew
        #[arg(required = true)]
        recipients: Vec<AgentId>,
        #[command(flatten)]
        donor: DonorArgs,
        #[command(flatten)]
        options: SeedOptionArgs,
    },
    /// Makes hosts anew from a donor's snapshot; without --from it picks the donor and says why
    Start {
        /// The hosts to make anew
        #[arg(required = true)]
        recipients: Vec<AgentId>,
        #[command(flatten)]
        donor: DonorArgs,
        #[command(flatten)]
        options: SeedOptionArgs,
        /// Run exactly this plan, by the digest that `seed plan` shows; refused when it no longer holds. Once for each recipient
        #[arg(long = "plan", value_name = "DIGEST")]
        plans: Vec<String>,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Shows a seed until it ends; Ctrl-C leaves it running
    Watch(WatchArgs),
    /// Ends a seed and takes back what it did
    Abort(WatchArgs),
    /// The record of a seed: plan, stages, timings, every event
    Show(WatchArgs),
    /// Changes the speed limit of a running seed
    Throttle {
        /// The host being made
        recipient: AgentId,
        /// Bytes per second (50M, 1G/s); 0 or off lifts the limit
        #[arg(value_parser = units::parse_rate)]
        rate: u64,
        /// The seed's job [default: the one that runs]
        job: Option<JobRef>,
    },
    /// Seeds of the fleet, those under way first, then the newest
    List {
        /// The hosts that were made [default: all that answer]
        recipients: Vec<AgentId>,
        /// At most this many
        #[arg(short = 'n', long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// Only those that are not finished
        #[arg(long)]
        unfinished: bool,
    },
    /// Old datadirs that are kept, until when, and what puts them back
    Kept {
        /// The hosts that were made [default: all that answer]
        recipients: Vec<AgentId>,
    },
    /// Puts the old datadir back while it is kept (--keep-old)
    Undo {
        /// The host that was made
        recipient: AgentId,
        /// The seed's job [default: the last one whose old datadir is kept]
        job: Option<JobRef>,
        #[command(flatten)]
        run: RunArgs,
    },
}

/// Which seed.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// The host being made
    pub recipient: AgentId,
    /// The seed's job [default: the one that runs, else the last]
    pub job: Option<JobRef>,
}

/// From whom.
#[derive(Debug, Clone, Args)]
pub struct DonorArgs {
    /// The donor [default: same cluster, local DC first, proven first, newest snapshot]
    #[arg(long, value_name = "DONOR")]
    pub from: Option<AgentId>,
    /// The snapshot [default: the newest usable one, proven ones first]
    #[arg(long, value_name = "ID")]
    pub snapshot: Option<SnapshotId>,
    /// Also one that is not of the donor's own datadir; it must be named
    #[arg(long, requires_all = ["from", "snapshot"])]
    pub foreign: bool,
    /// A stream of the donor's configuration (mariabackup, xtrabackup, your own) instead of a snapshot
    #[arg(long, value_name = "NAME", requires = "from", conflicts_with = "snapshot")]
    pub stream: Option<String>,
}

/// Whether to stay.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Return as soon as the job has begun
    #[arg(long)]
    pub detach: bool,
}

/// What is allowed, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Seed")]
pub struct SeedOptionArgs {
    /// Stop MySQL on the recipient when it runs
    #[arg(long)]
    pub stop_mysql: bool,
    /// Seed even over a server that has replicas or takes writes
    #[arg(long)]
    pub allow_primary: bool,
    /// Read even from a donor that is overloaded by its own limits
    #[arg(long)]
    pub allow_busy_donor: bool,
    /// Replace the data of one cluster by those of another
    #[arg(long)]
    pub allow_other_cluster: bool,
    /// Remove the old datadir before the new one is proven, where space cannot hold both
    #[arg(long, conflicts_with_all = ["keep_old", "delta"])]
    pub replace: bool,
    /// Do not start MySQL on the new data
    #[arg(long, conflicts_with = "replicate_from")]
    pub no_start: bool,
    /// Keep the old datadir this long after success (2h, 7d), for `seed undo`
    #[arg(long, value_name = "TIME", value_parser = units::parse_seconds, default_value = "0s")]
    pub keep_old: u64,
    /// Connections to the donor [default: the recipient chooses]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub connections: Option<u16>,
    /// Speed limit in bytes per second (50M, 1G/s)
    #[arg(long, value_name = "RATE", value_parser = units::parse_rate)]
    pub throttle: Option<u64>,
    /// Compress on the way
    #[arg(long, value_enum, default_value_t = CompressionArg::Auto)]
    pub compression: CompressionArg,
    /// How the data travel: auto goes directly where the recipient reaches the donor
    #[arg(long, value_enum, default_value_t = TransportArg::Auto)]
    pub transport: TransportArg,
    /// Demand a snapshot that `snapshot verify` has passed
    #[arg(long)]
    pub require_proven: bool,
    /// Reuse equal blocks: of what the recipient has kept of this donor (seed.keep_base), else of its old datadir
    #[arg(long)]
    pub delta: bool,
    /// With --delta: compare all blocks of both hosts, although the recipient has kept what came from this donor before
    #[arg(long, requires = "delta")]
    pub reread: bool,
    /// Make the recipient a replica of this server
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_source)]
    pub replicate_from: Option<ReplicationSource>,
    /// Plain TCP instead of TLS; both hosts must allow it
    #[arg(long, conflicts_with = "transport")]
    pub plain: bool,
    /// Let the donor send everything to each of several recipients, which would else hand on to one another what they have
    #[arg(long)]
    pub no_relay: bool,
}

/// How the data travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TransportArg {
    /// Directly where that works, else through the object store
    Auto,
    /// Directly, over TCP
    Tcp,
    /// Through the object store of the bus
    Store,
}

/// How to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompressionArg {
    /// Where it makes the seed faster
    Auto,
    /// Never
    None,
    /// LZ4
    Lz4,
    /// Zstandard
    Zstd,
}

impl SeedOptionArgs {
    /// The options as they travel.
    #[must_use]
    pub fn to_wire(&self) -> SeedOptions {
        SeedOptions {
            stop_mysql: self.stop_mysql,
            allow_primary: self.allow_primary,
            allow_busy_donor: self.allow_busy_donor,
            allow_other_cluster: self.allow_other_cluster,
            replace: self.replace,
            start_mysql: !self.no_start,
            keep_old_s: self.keep_old,
            connections: self.connections.unwrap_or(0),
            throttle_bytes_per_s: self.throttle.unwrap_or(0),
            compression: match self.compression {
                CompressionArg::Auto => Compression::Auto,
                CompressionArg::None => Compression::None,
                CompressionArg::Lz4 => Compression::Lz4,
                CompressionArg::Zstd => Compression::Zstd,
            },
            transport: match self.transport {
                TransportArg::Auto => Transport::Auto,
                TransportArg::Tcp => Transport::Tcp,
                TransportArg::Store => Transport::Store,
            },
            require_proven: self.require_proven,
            delta: self.delta,
            reread: self.reread,
            replicate_from: self.replicate_from.clone(),
            plain: self.plain,
            // Decided when it is known who can.
            relay: false,
        }
    }
}

fn parse_source(text: &str) -> Result<ReplicationSource, String> {
    let wrong = || format!("{text:?} is not HOST:PORT, for example db1:3306");
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
        None => (text, 3306),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_name = host.chars().all(|c| c.is_ascii_alphanumeric() || ".:-_".contains(c));
    if host.is_empty() || host.len() > 255 || !is_name || port == 0 {
        return Err(wrong());
    }
    Ok(ReplicationSource { host: host.to_owned(), port })
}
