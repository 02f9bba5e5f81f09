//! The agent's configuration: defaults, then the file, then the environment, then flags.
//!
//! Environment variables are `ORCH_AGENT__` and the key with `__` between its parts, for example
//! `ORCH_AGENT__MYSQL__DATADIR`. Whatever is wrong is told with its source, its key and what was expected.

mod check;
mod live;
mod load;
mod sources;
mod streams;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bus::{AuthorityConfig, BusConfig};
use mysql::MysqlConfig;
use protocol::ids::AgentId;
use serde::Deserialize;
use snapshot::guardian::GuardianPolicy;
use snapshot::registry::ProviderConfig;

pub(crate) use sources::Sources;
pub(crate) use streams::StreamConfig;

pub(crate) use live::{Live, merge};
#[cfg(test)]
pub(crate) use load::load;
pub(crate) use load::{ConfigError, Overrides, load_usable};

/// Where the configuration is read from unless a flag says otherwise.
pub(crate) const DEFAULT_PATH: &str = "/etc/orchestrator-agent/agent.toml";

/// The whole configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Who this agent is and where it keeps its state.
    pub(crate) agent: AgentConfig,
    /// How to reach NATS.
    pub(crate) bus: BusConfig,
    /// Who may command it.
    pub(crate) auth: AuthorityConfig,
    /// Its MySQL instance.
    pub(crate) mysql: MysqlConfig,
    /// Its snapshots.
    pub(crate) snapshot: SnapshotConfig,
    /// Giving and taking seeds.
    pub(crate) seed: SeedConfig,
    /// The durable stream of events.
    pub(crate) events: EventsConfig,
    /// Allow-listed commands by name.
    pub(crate) custom: BTreeMap<String, CustomConfig>,
    /// Logging.
    pub(crate) log: LogConfig,
    /// Where spans are sent.
    pub(crate) trace: trace::Settings,
}

/// `[agent]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AgentConfig {
    /// Id on the bus; absent: the host's name.
    pub(crate) id: Option<AgentId>,
    /// Cluster whose data the instance holds.
    pub(crate) cluster: String,
    /// Data centre.
    pub(crate) dc: String,
    /// Journals, spool and offers; made with mode 0700.
    pub(crate) state_dir: PathBuf,
    /// Seconds between heartbeats.
    pub(crate) heartbeat_s: f64,
    /// Seconds between looks at snapshots and server for what others changed.
    pub(crate) reconcile_s: f64,
    /// `host.disk-usage` and `host.disk-free` answer below these; the datadir is always allowed.
    pub(crate) paths: Vec<PathBuf>,
    /// Finished jobs are kept this many days.
    pub(crate) keep_jobs_days: u32,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            id: None,
            cluster: "default".into(),
            dc: "default".into(),
            state_dir: "/var/lib/orchestrator-agent".into(),
            heartbeat_s: 10.0,
            reconcile_s: 15.0,
            paths: Vec::new(),
            keep_jobs_days: 30,
        }
    }
}

/// `[snapshot]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SnapshotConfig {
    /// What makes them; absent: this host has none.
    pub(crate) provider: Option<ProviderConfig>,
    /// Snapshots are mounted below this directory.
    pub(crate) mount_root: PathBuf,
    /// The one mount point of `snapshot.mount` and `snapshot.unmount` without a name, as older tools know it.
    pub(crate) mount_point: Option<PathBuf>,
    /// Seconds that commits may be held up for the instant of a snapshot; 0 takes no lock and records no position.
    pub(crate) lock_wait_s: f64,
    /// When to make one: a cron expression of 5 fields, UTC; absent: only by command.
    pub(crate) schedule: Option<String>,
    /// When to prove the newest snapshot: a cron expression likewise; absent: only by command.
    pub(crate) verify_schedule: Option<String>,
    /// Seconds that the tables of a scheduled proof are checked for.
    pub(crate) verify_budget_s: u64,
    /// Bytes per second that the disk reads and writes for a scheduled proof; 0 is unlimited.
    pub(crate) verify_bytes_per_s: u64,
    /// Spread over this many seconds after the scheduled times.
    pub(crate) jitter_s: u64,
    /// Keep at least this many; 0 leaves removing to others.
    pub(crate) keep: u32,
    /// Remove those that are older than this many days, beyond `keep`.
    pub(crate) keep_days: u32,
    /// Watches the stores of snapshots that seeds read.
    pub(crate) guardian: GuardianConfig,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self {
            provider: None,
            mount_root: "/run/orchestrator-agent/mounts".into(),
            mount_point: None,
            lock_wait_s: 5.0,
            schedule: None,
            verify_schedule: None,
            verify_budget_s: 3_600,
            verify_bytes_per_s: 32 << 20,
            jitter_s: 300,
            keep: 0,
            keep_days: 3,
            guardian: GuardianConfig::default(),
        }
    }
}

/// `[snapshot.guardian]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GuardianConfig {
    /// Seconds between two looks at a store while a seed reads its snapshot.
    pub(crate) interval_s: f64,
    /// When to extend, and when to give up.
    pub(crate) policy: GuardianPolicy,
}

impl Default for GuardianConfig {
    fn default() -> Self {
        Self { interval_s: 1.0, policy: GuardianPolicy::default() }
    }
}

/// `[seed]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SeedConfig {
    /// As a donor: where to listen; port 0 takes a free one for each seed.
    pub(crate) listen: SocketAddr,
    /// As a donor: what to do about InnoDB pages with a wrong checksum: `off`, `warn` or `fail`.
    pub(crate) pages: PageCheck,
    /// As a donor: which binary logs in the datadir go along, `all` or only those that are `needed` for crash recovery.
    pub(crate) binlogs: Binlogs,
    /// As a donor: beyond these nothing is given without leave.
    pub(crate) donor_limits: DonorLimits,
    /// As a donor: give more slowly while all work waits for a disk more than this percent of the time; 0: never. What is
    /// beyond the other donor limits slows a seed down in any case.
    pub(crate) ease_io_pressure_percent: f64,
    /// As a donor: read from the disk only what nobody else wants at that moment.
    pub(crate) idle_io: bool,
    /// As a donor: to far recipients, send by what the path delivers (bbr) and not by what it loses, where the kernel lets us.
    pub(crate) pace_long_paths: bool,
    /// As a recipient among several of one snapshot: hand on what has arrived, at a port as `listen` says.
    pub(crate) relay: bool,
    /// As a donor: host names or addresses that recipients reach it by; absent: the agent's host name.
    pub(crate) advertise: Vec<String>,
    /// As a donor: MiB of a seed's data that may lie in the object store of the bus, where that is the way.
    pub(crate) store_window_mib: u32,
    /// Allow seeds without TLS; both sides must.
    pub(crate) allow_plain: bool,
    /// As a donor: make offers whose token can be read on a bus beyond the loopback, for recipients that tell no key.
    pub(crate) allow_unsealed: bool,
    /// As a donor: keys of recipients by host (`seal_key` of their `agent.info`); with any here, only these are given offers.
    pub(crate) recipient_keys: BTreeMap<String, String>,
    /// Connections of a seed unless it says otherwise; 0 chooses by the path between the hosts.
    pub(crate) connections: u16,
    /// Limit as a donor, in bytes per second over all its seeds; 0 is unlimited.
    pub(crate) donor_bytes_per_s: u64,
    /// A seed on which nothing moves for this long has failed, in seconds.
    pub(crate) stall_s: u64,
    /// An offer that nobody comes for lapses after this long, in seconds.
    pub(crate) offer_s: u64,
    /// Run on the recipient after the swap, before MySQL starts: program and arguments, never a shell line.
    pub(crate) post_copy: Vec<String>,
    /// It is stopped after this long, in seconds.
    pub(crate) post_copy_limit_s: u64,
    /// File with user and password for replication, in `[client]` form, readable by its owner only.
    pub(crate) replication_credentials: Option<PathBuf>,
    /// Whom the replication account may be shown to: hosts as `seed start --replicate-from` names them; empty: any.
    pub(crate) sources: Sources,
    /// As a recipient: become a replica although source or recipient leave schemas out, which then never change.
    pub(crate) filtered_replicas: bool,
    /// As a recipient: follow a source that logs statements only, whose sessions keep no temporary tables.
    pub(crate) statement_sources: bool,
    /// Programs that make and unpack a stream, by name; `mariabackup` and `xtrabackup` are known by themselves.
    pub(crate) streams: BTreeMap<String, StreamConfig>,
    /// As a recipient: keep the donor's `ib_buffer_pool`, so that MySQL loads the pages that were hot there.
    pub(crate) keep_buffer_pool: bool,
    /// As a recipient: keep what came beside the datadir, as it came, so that the next `--delta` from the same donor moves only what
    /// differs from it. It shares its blocks with the data (XFS, btrfs) until these change.
    pub(crate) keep_base: bool,
    /// As a recipient: no client and no write must have been seen for this long, in seconds, or the plan wants leave; 0: at
    /// this moment.
    pub(crate) watch_s: u64,
    /// As a recipient: accounts whose connections do not count as clients, such as those of monitoring.
    pub(crate) ignored_clients: Vec<String>,
    /// A replica that does not catch up is given up after this long without progress, in seconds.
    pub(crate) replicate_patience_s: u64,
}

impl Default for SeedConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 0)),
            pages: PageCheck::Warn,
            binlogs: Binlogs::All,
            donor_limits: DonorLimits::default(),
            ease_io_pressure_percent: 0.0,
            idle_io: false,
            pace_long_paths: true,
            relay: true,
            advertise: Vec::new(),
            store_window_mib: 64,
            allow_plain: false,
            allow_unsealed: false,
            recipient_keys: BTreeMap::new(),
            connections: 0,
            donor_bytes_per_s: 0,
            stall_s: 180,
            offer_s: 600,
            post_copy: Vec::new(),
            post_copy_limit_s: 600,
            replication_credentials: None,
            sources: Sources::default(),
            filtered_replicas: false,
            statement_sources: false,
            streams: BTreeMap::new(),
            keep_buffer_pool: true,
            keep_base: false,
            watch_s: 60,
            ignored_clients: Vec::new(),
            replicate_patience_s: 120,
        }
    }
}

/// `[seed.donor_limits]`: how busy a donor may be; 0 switches a limit off.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DonorLimits {
    /// Percent of the time in which all work waits for a disk.
    pub(crate) io_pressure_percent: f64,
    /// Statements that run at once.
    pub(crate) threads_running: u32,
    /// Seconds behind its own source.
    pub(crate) lag_s: u64,
}

impl Default for DonorLimits {
    fn default() -> Self {
        Self { io_pressure_percent: 60.0, threads_running: 100, lag_s: 300 }
    }
}

/// Which of a donor's binary logs go along with a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Binlogs {
    /// All that lie in the datadir.
    All,
    /// Those without which the copy's crash recovery could not tell what was committed.
    Needed,
}

/// What to do about a page with a wrong checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PageCheck {
    /// Do not look.
    Off,
    /// Name it and go on: a crash-consistent snapshot may hold pages that the doublewrite buffer mends.
    Warn,
    /// Fail the seed.
    Fail,
}

/// `[events]`: how the stream is made where there is none; one that exists is the operator's.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EventsConfig {
    /// MiB that it holds; the oldest events go first. The server sets them aside at once.
    pub(crate) max_mib: u32,
    /// Days that an event is kept.
    pub(crate) keep_days: u32,
    /// How many servers keep it: "auto" (three where the cluster has as many, else one), 1, 3 or 5.
    pub(crate) replicas: bus::Replicas,
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self { max_mib: 1024, keep_days: 90, replicas: bus::Replicas::Auto }
    }
}

impl EventsConfig {
    /// The bounds in the bus's words.
    pub(crate) fn limits(&self) -> bus::StreamLimits {
        bus::StreamLimits {
            max_bytes: i64::from(self.max_mib) << 20,
            max_age: Duration::from_secs(u64::from(self.keep_days) * 86_400),
            replicas: self.replicas,
        }
    }
}

/// One entry of `[custom.<name>]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CustomConfig {
    /// Program and arguments, never a shell line.
    pub(crate) argv: Vec<String>,
    /// What it does.
    #[serde(default)]
    pub(crate) about: Option<String>,
    /// It is stopped after this long, in seconds.
    #[serde(default = "default_custom_limit")]
    pub(crate) time_limit_s: u64,
}

fn default_custom_limit() -> u64 {
    30
}

/// `[log]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogConfig {
    /// Text for people, JSON for collectors.
    pub(crate) format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,transfer=debug`.
    pub(crate) level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}
