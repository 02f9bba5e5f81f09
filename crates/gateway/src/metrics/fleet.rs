//! What heartbeats say of each host.

use std::collections::BTreeMap;
use std::fmt;

use bus::{FleetEntry, Health};
use jiff::Timestamp;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;
use protocol::command::{Call as _, Command};
use protocol::heartbeat::{BusSummary, Heartbeat, SnapshotSummary};
use protocol::mysql::ServerState;
use protocol::params::SeedStartParams;
use protocol::seed::SeedStage;

use super::labels::{self, HostLabels, Metric};

/// A host as it is told of.
pub(super) struct Row<'a> {
    pub(super) labels: HostLabels<'a>,
    pub(super) entry: &'a FleetEntry,
}

impl<'a> Row<'a> {
    pub(super) fn new(entry: &'a FleetEntry) -> Self {
        let beat = &entry.heartbeat;
        Self { labels: labels::of_host(beat.agent.as_str(), &beat.cluster, &beat.dc), entry }
    }

    fn is_lost(&self) -> bool {
        self.entry.health == Health::Lost
    }
}

type OfEntry = fn(&FleetEntry, Timestamp) -> f64;
type OfHeartbeat = fn(&Heartbeat) -> Option<f64>;

/// What is told also of a host that is lost.
static ALWAYS: &[(Metric, OfEntry)] = &[
    (
        Metric::new(
            "agent_up",
            None,
            "1 while the agent is heard of, 0 once it is lost, after 60 s or three intervals of silence",
        ),
        |host, _| flag(host.health != Health::Lost),
    ),
    (
        Metric::new(
            "agent_last_heartbeat_timestamp",
            Some(Unit::Seconds),
            "When the agent was last heard of, by the gateway's clock",
        ),
        |host, now| seconds(now) - host.silent_for.as_secs_f64(),
    ),
    (
        Metric::new("agent_duplicate", None, "1 while a second process speaks in this agent's name, else 0"),
        |host, _| flag(host.duplicate.is_some()),
    ),
];

/// What is told while it is heard of, and only where it is known.
static ALIVE: &[(Metric, OfHeartbeat)] = &[
    (Metric::new("agent_start_time", Some(Unit::Seconds), "When the agent's process started"), |beat| {
        Some(seconds(beat.started_at))
    }),
    (
        Metric::new(
            "agent_accepts_unsigned",
            None,
            "1 when the agent takes commands that nobody signed, else 0",
        ),
        |beat| Some(flag(beat.accepts_unsigned)),
    ),
    (
        Metric::new(
            "agent_spooled_events",
            None,
            "Events on the host's disk that no stream has acknowledged",
        ),
        |beat| beat.bus.map(|bus| number(bus.spooled_events)),
    ),
    (
        Metric::new("agent_spool", Some(Unit::Bytes), "What the spool of events takes on the host's disk"),
        |beat| beat.bus.map(|bus| number(bus.spooled_bytes)),
    ),
    (Metric::new("mysql_up", None, "1 while the server answers, else 0"), |beat| {
        Some(flag(matches!(beat.mysql.state, ServerState::Ready | ServerState::ReadyNoAccess)))
    }),
    (Metric::new("mysql_read_only", None, "1 when the server is read only, else 0"), |beat| {
        beat.mysql.read_only.map(flag)
    }),
    (
        Metric::new("mysql_replication_lag", Some(Unit::Seconds), "How far the replica is behind its source"),
        |beat| beat.mysql.lag_seconds.map(number),
    ),
    (
        Metric::new(
            "mysql_datadir",
            Some(Unit::Bytes),
            "What the datadir takes on disk, from the last count",
        ),
        |beat| beat.mysql.datadir_bytes.map(number),
    ),
    (Metric::new("mysql_datadir_free", Some(Unit::Bytes), "What is free where the datadir lies"), |beat| {
        beat.free_bytes.map(number)
    }),
    (Metric::new("snapshots", None, "Snapshots that the host has, of whatever kind"), |beat| {
        Some(f64::from(beat.snapshots_total))
    }),
    (Metric::new("snapshots_usable", None, "Snapshots that a seed may use, of the 16 newest"), |beat| {
        Some(beat.snapshots.iter().filter(|snapshot| snapshot.usable).count() as f64)
    }),
    (
        Metric::new(
            "snapshots_proven",
            None,
            "Usable snapshots that a private server came up on, of the 16 newest",
        ),
        |beat| Some(beat.snapshots.iter().filter(|snapshot| is_proven(snapshot)).count() as f64),
    ),
    (
        Metric::new(
            "snapshot_newest_usable_timestamp",
            Some(Unit::Seconds),
            "When the newest usable snapshot was made; absent where there is none",
        ),
        |beat| newest(beat, |snapshot| snapshot.usable),
    ),
    (
        Metric::new(
            "snapshot_newest_proven_timestamp",
            Some(Unit::Seconds),
            "When the newest usable and proven snapshot was made; absent where there is none",
        ),
        |beat| newest(beat, is_proven),
    ),
    (
        Metric::new(
            "snapshot_fill_max_ratio",
            None,
            "Fill of the fullest store of a snapshot, 1 when it overflows; absent where stores have no bound",
        ),
        |beat| {
            beat.snapshots
                .iter()
                .filter_map(|snapshot| snapshot.fill_percent)
                .reduce(f64::max)
                .map(|fill| fill / 100.0)
        },
    ),
];

type OfAgent = fn(&BusSummary) -> u64;

/// Counted by the agent itself, from its process's start.
static COUNTED: &[(Metric, OfAgent)] = &[
    (
        Metric::new(
            "agent_bus_reconnects",
            None,
            "Connections to NATS that the agent made after its first, since its process started",
        ),
        |bus| bus.reconnects,
    ),
    (
        Metric::new(
            "agent_dropped_events",
            None,
            "Events that the agent lost because its spool was full, since its process started",
        ),
        |bus| bus.dropped_events,
    ),
];

static INFO: Metric = Metric::new("agent", None, "Version of the agent program");
static STATE: Metric =
    Metric::new("mysql_state", None, "1 for the state that the server is in; other states are absent");
static SEED_MOVED: Metric = Metric::new(
    "seed_last_progress_timestamp",
    Some(Unit::Seconds),
    "When a seed that this host takes last came on, by the agent's clock: a stage began, or more was done; absent without one",
);
static JOBS: Metric =
    Metric::new("jobs_unfinished", None, "Jobs that have not ended, by the command that made them");

/// Writes all of it.
pub(super) fn encode(rows: &[Row<'_>], now: Timestamp, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    for (metric, value) in ALWAYS {
        metric.gauge(encoder, rows.iter().map(|row| (row.labels.clone(), value(row.entry, now))))?;
    }
    let alive = || rows.iter().filter(|row| !row.is_lost());
    INFO.info(
        encoder,
        alive().map(|row| {
            let [host, cluster, dc] = row.labels.clone();
            [host, cluster, dc, ("version", labels::value(&row.entry.heartbeat.version))]
        }),
    )?;
    for (metric, value) in ALIVE {
        let told = alive().filter_map(|row| Some((row.labels.clone(), value(&row.entry.heartbeat)?)));
        metric.gauge(encoder, told)?;
    }
    for (metric, count) in COUNTED {
        let told =
            alive().filter_map(|row| Some((row.labels.clone(), count(row.entry.heartbeat.bus.as_ref()?))));
        metric.counter(encoder, told)?;
    }
    let moved = alive().filter_map(|row| {
        let (stage, at) = seed_moved(&row.entry.heartbeat)?;
        Some((labels::and(&row.labels, "stage", stage), seconds(at)))
    });
    SEED_MOVED.gauge(encoder, moved)?;
    let state = |row: &Row<'_>| word(row.entry.heartbeat.mysql.state);
    STATE.gauge(encoder, alive().map(|row| (labels::and(&row.labels, "state", state(row)), 1.0)))?;
    let jobs = alive().flat_map(|row| {
        let counted = jobs(&row.entry.heartbeat).into_iter();
        counted.map(|(kind, count)| (labels::and(&row.labels, "kind", kind), count))
    });
    JOBS.gauge(encoder, jobs)
}

/// The seed that the host takes: its stage, and when it last came on.
fn seed_moved(beat: &Heartbeat) -> Option<(&'static str, Timestamp)> {
    let seed = beat.jobs.iter().find(|job| job.kind == SeedStartParams::SPEC.name)?;
    let named = |stage: &SeedStage| seed.stage.as_deref() == Some(stage.as_str());
    Some((SeedStage::ALL.into_iter().find(named).map_or("other", SeedStage::as_str), seed.moved_at?))
}

/// How many of each kind; what is no command here counts as `other`.
fn jobs(beat: &Heartbeat) -> BTreeMap<&'static str, f64> {
    let mut jobs = BTreeMap::new();
    for job in &beat.jobs {
        let known = Command::SPECS.iter().find(|spec| spec.name == job.kind);
        *jobs.entry(known.map_or("other", |spec| spec.name)).or_default() += 1.0;
    }
    jobs
}

fn word(state: ServerState) -> &'static str {
    match state {
        ServerState::Stopped => "stopped",
        ServerState::NotReady => "not_ready",
        ServerState::Ready => "ready",
        ServerState::ReadyNoAccess => "ready_no_access",
        ServerState::Unknown => "unknown",
    }
}

fn newest(beat: &Heartbeat, wanted: impl Fn(&SnapshotSummary) -> bool) -> Option<f64> {
    beat.snapshots
        .iter()
        .filter(|snapshot| wanted(snapshot))
        .map(|snapshot| snapshot.created_at)
        .max()
        .map(seconds)
}

fn is_proven(snapshot: &SnapshotSummary) -> bool {
    snapshot.usable && snapshot.proven
}

fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

fn number(count: u64) -> f64 {
    count as f64
}

/// Since 1970, to the millisecond.
pub(super) fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}
