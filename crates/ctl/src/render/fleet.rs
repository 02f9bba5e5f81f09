//! The fleet and its snapshots.

use std::collections::BTreeSet;

use jiff::Timestamp;
use protocol::heartbeat::{Heartbeat, JobSummary, MysqlSummary};
use protocol::ids::AgentId;
use protocol::mysql::ServerState;
use schemars::JsonSchema;
use serde::Serialize;

use super::{or_dash, table};
use crate::donor::Candidate;
use crate::units;

/// All hosts, those that answer and those that should.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Fleet {
    /// Hosts that answer, by name.
    pub hosts: Vec<Seen>,
    /// Hosts whose events are in the stream but which do not answer.
    pub missing: Vec<Missing>,
    /// Why hosts that do not answer cannot be told; `null` where they can.
    pub blind: Option<String>,
}

/// A host that answers, or did.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Seen {
    /// `alive`, `suspect` or `lost`.
    pub health: &'static str,
    /// Seconds since it was heard of.
    pub silent_s: u64,
    /// True when two processes speak in its name.
    pub duplicate: bool,
    /// Its last heartbeat.
    pub heartbeat: Heartbeat,
}

/// A host that does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Missing {
    /// Who.
    pub host: AgentId,
    /// Cluster, by its last event.
    pub cluster: String,
    /// Data centre, by its last event.
    pub dc: String,
    /// `stopped` when it said goodbye, else `missing`.
    pub state: &'static str,
    /// When its last event happened.
    pub since: Timestamp,
}

/// The fleet as a table.
#[must_use]
pub fn fleet(fleet: &Fleet, now: Timestamp) -> String {
    let blind = fleet.blind.as_ref().map(|why| format!("hosts that are down cannot be told: {why}\n"));
    if fleet.hosts.is_empty() && fleet.missing.is_empty() {
        return format!("no agent answers on this bus\n{}", blind.unwrap_or_default());
    }
    let mut rows: Vec<Vec<String>> = fleet.hosts.iter().map(|seen| row(seen, now)).collect();
    rows.extend(fleet.missing.iter().map(|m| {
        let mut row = vec![m.host.to_string(), m.cluster.clone(), m.dc.clone(), m.state.to_owned()];
        row.push(format!("last event {} ago", units::age(m.since, now)));
        row
    }));
    let mut text = table(
        &["HOST", "CLUSTER", "DC", "AGENT", "MYSQL", ">DATADIR", ">FREE", ">SNAPSHOTS", "NEWEST", "JOBS"],
        rows,
    );
    let unsigned = fleet.hosts.iter().filter(|seen| seen.heartbeat.accepts_unsigned).count();
    let missing = match fleet.blind {
        Some(_) => "?".to_owned(),
        None => fleet.missing.len().to_string(),
    };
    text.push_str(&format!("{} hosts answer, {missing} missing", fleet.hosts.len()));
    if unsigned > 0 {
        text.push_str(&format!("; {unsigned} take unsigned commands"));
    }
    text.push('\n');
    let doubled: BTreeSet<_> =
        fleet.hosts.iter().filter(|seen| seen.duplicate).map(|seen| seen.heartbeat.agent.as_str()).collect();
    for agent in doubled {
        text.push_str(&format!(
            "{agent}: more than one process speaks in this name; give each host an agent.id and a key of its own\n"
        ));
    }
    text.push_str(&blind.unwrap_or_default());
    text
}

/// What is known of one host from its heartbeat, for a person who looks into it.
#[must_use]
pub fn details(seen: &Seen, now: Timestamp) -> String {
    let beat = &seen.heartbeat;
    let mut text = super::pairs(&[
        ("cluster", Some(format!("{} in {}", beat.cluster, beat.dc))),
        ("agent", Some(format!("{}, up for {}", beat.version, units::age(beat.started_at, now)))),
        ("heard of", Some(format!("{} ago", units::duration(seen.silent_s)))),
        ("MySQL", Some(mysql(&beat.mysql))),
        ("datadir", beat.mysql.datadir_bytes.map(units::size)),
        ("free", beat.free_bytes.map(units::size)),
        ("jobs", jobs(&beat.jobs)),
        ("unsigned", beat.accepts_unsigned.then(|| "it takes unsigned commands".to_owned())),
    ]);
    if !beat.snapshots.is_empty() {
        let row = |s: &protocol::heartbeat::SnapshotSummary| {
            let state = match (s.usable, s.foreign, s.proven) {
                (_, true, _) => "foreign",
                (false, ..) => "unusable",
                (.., true) => "proven",
                _ => "",
            };
            vec![s.id.to_string(), format!("{} ago", units::age(s.created_at, now)), state.to_owned()]
        };
        text.push('\n');
        text.push_str(&table(&["SNAPSHOT", "MADE", ""], beat.snapshots.iter().map(row).collect()));
    }
    text
}

/// A host as a row of the fleet's table.
#[must_use]
pub fn row(seen: &Seen, now: Timestamp) -> Vec<String> {
    let beat = &seen.heartbeat;
    let mut agent = match seen.health {
        "alive" => beat.version.clone(),
        health => format!("{health} {}", units::duration(seen.silent_s)),
    };
    if seen.duplicate {
        agent.push_str(" DUPLICATE");
    }
    vec![
        beat.agent.to_string(),
        beat.cluster.clone(),
        beat.dc.clone(),
        agent,
        mysql(&beat.mysql),
        or_dash(beat.mysql.datadir_bytes.map(units::size)),
        or_dash(beat.free_bytes.map(units::size)),
        beat.snapshots_total.to_string(),
        newest(beat, now),
        or_dash(jobs(&beat.jobs)),
    ]
}

fn mysql(mysql: &MysqlSummary) -> String {
    let state = match mysql.state {
        ServerState::Ready => "up",
        ServerState::ReadyNoAccess => "up (no access)",
        ServerState::NotReady => "not ready",
        ServerState::Stopped => "stopped",
        ServerState::Unknown => "unknown",
    };
    let mut text = state.to_owned();
    if let Some(snapshot) = &mysql.on_snapshot {
        text.push_str(&format!(" ON SNAPSHOT {snapshot}"));
    }
    if let Some(version) = &mysql.version {
        let [major, minor, patch] = version.number;
        text.push_str(&format!(" {major}.{minor}.{patch}"));
    }
    if mysql.read_only == Some(true) {
        text.push_str(" ro");
    }
    if let Some(source) = &mysql.replica_of {
        text.push_str(&format!(" <- {source}"));
        if let Some(lag) = mysql.lag_seconds {
            text.push_str(&format!(" +{}", units::duration(lag)));
        }
    }
    text
}

fn newest(beat: &Heartbeat, now: Timestamp) -> String {
    let usable = beat.snapshots.iter().filter(|s| s.usable).max_by_key(|s| s.created_at);
    or_dash(usable.map(|snapshot| {
        let proven = if snapshot.proven { " proven" } else { "" };
        format!("{} ago{proven}", units::age(snapshot.created_at, now))
    }))
}

fn jobs(jobs: &[JobSummary]) -> Option<String> {
    let texts: Vec<String> = jobs
        .iter()
        .map(|job| {
            let stage = job.stage.as_ref().map(|s| format!(" {s}")).unwrap_or_default();
            let percent = job.percent.map(|p| format!(" {p} %")).unwrap_or_default();
            format!("{}{stage}{percent}", job.kind)
        })
        .collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

/// Usable snapshots in the fleet as a table, best first.
#[must_use]
pub fn found(candidates: &[Candidate], now: Timestamp) -> String {
    let row = |c: &Candidate| {
        vec![
            c.host.to_string(),
            c.dc.clone(),
            c.snapshot.id.to_string(),
            super::word(&c.snapshot.provider),
            format!("{} ago", units::age(c.snapshot.created_at, now)),
            if c.snapshot.proven { "proven" } else { "-" }.to_owned(),
            or_dash(c.snapshot.fill_percent.map(|fill| format!("{fill:.0} %"))),
        ]
    };
    table(
        &["HOST", "DC", "SNAPSHOT", "PROVIDER", "MADE", "PROVEN", ">FILL"],
        candidates.iter().map(row).collect(),
    )
}
