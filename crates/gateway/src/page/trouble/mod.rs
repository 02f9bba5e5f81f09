//! What is wrong now: each thing with its cause and the line that mends it. Pure: it is given what is known, and the time.

mod kind;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bus::{FleetEntry, Health};
use jiff::{SignedDuration, Timestamp};
use protocol::command::Call as _;
use protocol::heartbeat::{JobSummary, SnapshotSummary};
use protocol::ids::{AgentId, JobId};
use protocol::job::JobState;
use protocol::mysql::ServerState;
use protocol::params::SeedStartParams;
use protocol::seed::SeedStage;
use sys::units;

use super::command;
use super::past::{Seed, State};
use super::pulse::Pulses;
pub(super) use kind::{Grade, Kind};

/// A cluster should have a usable, and a proven, snapshot of so lately.
const DAY: SignedDuration = SignedDuration::from_hours(24);
/// A replica that is further behind needs a look, in seconds.
const FAR_BEHIND_S: u64 = 600;
/// An agent that is connected has its events taken within moments; more of them mean that no stream does.
const MANY_EVENTS: u64 = 100;
/// A store that is fuller may overflow before somebody looks again, in percent.
const NEARLY_FULL: f64 = 80.0;
/// A transfer in which nothing has moved for so long is stalled.
const STALLED: Duration = Duration::from_secs(60);
/// A host of which there was an event so lately, and nothing else since, is missed.
const MISSED_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) kind: Kind,
    /// The host, where it is one's.
    pub(super) host: Option<AgentId>,
    /// The cluster, where it is one's or its host's.
    pub(super) cluster: Option<String>,
    /// The seed, where it is one's.
    pub(super) seed: Option<JobId>,
    /// What is the case, with the figures.
    pub(super) cause: String,
    /// Since when, where that is known.
    pub(super) since: Option<Timestamp>,
    /// The command that mends it, or tells more.
    pub(super) mend: String,
}

/// How the bus is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BusState {
    /// Hosts are heard.
    Speaks,
    /// There is a connection, and every host is overdue.
    Silent,
    /// There is none.
    Away,
}

impl BusState {
    /// Of all that is heard.
    pub(super) fn of(fleet: &[FleetEntry], is_connected: bool) -> Self {
        let is_overdue = |entry: &FleetEntry| {
            entry.silent_for > Duration::from_millis(entry.heartbeat.interval_ms.saturating_mul(3) / 2)
        };
        match is_connected {
            false => Self::Away,
            true if fleet.len() > 1 && fleet.iter().all(is_overdue) => Self::Silent,
            true => Self::Speaks,
        }
    }
}

/// What is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) fleet: &'a [FleetEntry],
    pub(super) past: &'a State,
    pub(super) pulses: &'a Pulses,
    pub(super) bus: BusState,
    pub(super) is_readable: bool,
    pub(super) now: Timestamp,
}

/// All that is wrong, the worst kind first.
pub(super) fn all(known: Known<'_>) -> Vec<Trouble> {
    let mut found = Vec::new();
    let of_fleet = |kind, cause: String, mend: &str| Trouble {
        kind,
        host: None,
        cluster: None,
        seed: None,
        cause,
        since: None,
        mend: mend.to_owned(),
    };
    match known.bus {
        BusState::Away => {
            let cause =
                "No NATS server takes this gateway: they are down, not reachable, or refuse its login.";
            found.push(of_fleet(Kind::BusAway, cause.to_owned(), "orchestrator-ctl bus status"));
        }
        BusState::Silent => {
            let cause = format!("None of {} hosts was heard of in time.", known.fleet.len());
            found.push(of_fleet(Kind::BusSilent, cause, "orchestrator-ctl bus status"));
        }
        BusState::Speaks => {}
    }
    if known.bus != BusState::Away && !known.is_readable {
        let cause = "The stream of events does not answer.".to_owned();
        found.push(of_fleet(Kind::Unreadable, cause, "orchestrator-ctl bus status"));
    }
    let mut ended: HashMap<&AgentId, &Seed> = HashMap::new();
    for seed in known.past.seeds.newest().filter(|seed| seed.state.is_final()) {
        ended.entry(&seed.recipient).or_insert(seed);
    }
    for entry in known.fleet {
        of_host(known, entry, &mut found);
        if entry.health != Health::Lost {
            of_seeds(known, entry, ended.get(&entry.heartbeat.agent).copied(), &mut found);
        }
    }
    clusters(known, &mut found);
    missing(known, &mut found);
    found.sort_by_key(|trouble| trouble.kind);
    found
}

fn of_host(known: Known<'_>, entry: &FleetEntry, found: &mut Vec<Trouble>) {
    let beat = &entry.heartbeat;
    let host = beat.agent.as_str();
    let mut add = |kind, cause: String, since: Option<Timestamp>, arguments: &[&str]| {
        found.push(Trouble {
            kind,
            host: Some(beat.agent.clone()),
            cluster: Some(beat.cluster.clone()),
            seed: None,
            cause,
            since,
            mend: command::line(arguments),
        });
    };
    let silent_since = known.now.checked_sub(entry.silent_for).ok();
    if entry.duplicate.is_some() {
        let cause = "A second agent of this id is alive.".to_owned();
        add(Kind::Duplicate, cause, None, &["events", "--host", host, "--kind", "agent.duplicate"]);
    }
    if known.bus == BusState::Speaks {
        let is_stopped = known.past.hosts.get(&beat.agent).is_some_and(|last| last.is_stopped);
        match entry.health {
            Health::Lost if is_stopped => {
                let cause = "It has stopped in good order.".to_owned();
                add(Kind::Stopped, cause, silent_since, &["events", "--host", host, "--kind", "agent"]);
            }
            Health::Lost => {
                let cause = "Its agent was not heard of for a minute and more.".to_owned();
                add(Kind::Lost, cause, silent_since, &["fleet", &format!("--cluster={}", beat.cluster)]);
            }
            Health::Suspect => {
                let cause = "It has missed three heartbeats.".to_owned();
                add(Kind::Silent, cause, silent_since, &["host", host, "status"]);
            }
            Health::Alive => {}
        }
    }
    if entry.health == Health::Lost {
        return;
    }
    of_server(entry, &mut add);
    of_snapshots(entry, &mut add);
    if beat.accepts_unsigned {
        let cause = "Its auth.accept_unsigned is true.".to_owned();
        add(Kind::Unsigned, cause, None, &["key", "generate", "FILE", "--for", "signing"]);
    }
    if let Some(waiting) = beat.bus.map(|bus| bus.spooled_events).filter(|count| *count > MANY_EVENTS) {
        let cause = format!("{waiting} events wait on its disk.");
        add(Kind::EventsWait, cause, None, &["bus", "status"]);
    }
    if let Some((at, lost)) = known.past.hosts.get(&beat.agent).and_then(|last| last.dropped)
        && known.now.duration_since(at) < DAY
    {
        let cause = format!("{lost} events of it were not stored.");
        add(Kind::EventsLost, cause, Some(at), &["events", "--host", host, "--kind", "events.dropped"]);
    }
}

type Add<'a> = dyn FnMut(Kind, String, Option<Timestamp>, &[&str]) + 'a;

fn is_seed(job: &&JobSummary) -> bool {
    job.kind == SeedStartParams::SPEC.name && !job.state.is_final()
}

fn of_server(entry: &FleetEntry, add: &mut Add<'_>) {
    let beat = &entry.heartbeat;
    let host = beat.agent.as_str();
    let is_seeded = beat.jobs.iter().any(|job| is_seed(&job));
    match beat.mysql.state {
        ServerState::Stopped if !is_seeded => {
            add(Kind::MysqlDown, "It is stopped.".to_owned(), None, &["mysql", host, "start"]);
        }
        ServerState::NotReady | ServerState::Unknown if !is_seeded => {
            let cause = match beat.mysql.state {
                ServerState::NotReady => "A process owns the datadir and does not answer.",
                _ => "Whether it runs cannot be told.",
            };
            add(Kind::MysqlDown, cause.to_owned(), None, &["mysql", host, "error-log"]);
        }
        ServerState::ReadyNoAccess => {
            let cause = "It refuses the agent's account.".to_owned();
            add(Kind::NoAccess, cause, None, &["doctor", host]);
        }
        _ => {}
    }
    if let Some(snapshot) = &beat.mysql.on_snapshot {
        let cause = format!("Its service runs on {snapshot} instead of its own data.");
        add(Kind::OnSnapshot, cause, None, &["mysql", host, "stop", "--on-snapshot", snapshot.as_str()]);
    }
    if let Some(lag) = beat.mysql.lag_seconds.filter(|lag| *lag > FAR_BEHIND_S) {
        let source = beat.mysql.replica_of.as_deref().unwrap_or("its source");
        let cause = format!("{} behind {source}.", units::duration(lag));
        add(Kind::Lag, cause, None, &["mysql", host, "info"]);
    }
    if let (Some(free), Some(used)) = (beat.free_bytes, beat.mysql.datadir_bytes)
        && (free as f64) < (free as f64 + used as f64) / 10.0
    {
        let cause = format!("{} free beside a datadir of {}.", units::size(free), units::size(used));
        add(Kind::DiskFull, cause, None, &["snapshot", "list", host]);
    }
}

fn of_snapshots(entry: &FleetEntry, add: &mut Add<'_>) {
    let beat = &entry.heartbeat;
    let fill = |snapshot: &SnapshotSummary| snapshot.fill_percent.unwrap_or_default();
    let fullest = beat.snapshots.iter().max_by(|a, b| fill(a).total_cmp(&fill(b)));
    if let Some(fullest) = fullest.filter(|snapshot| fill(snapshot) > NEARLY_FULL) {
        let cause = format!("{} is {:.0} % full.", fullest.id, fill(fullest));
        add(
            Kind::SnapshotFull,
            cause,
            None,
            &["snapshot", "remove", beat.agent.as_str(), fullest.id.as_str()],
        );
    }
}

/// `last`: the newest seed of this host that has ended.
fn of_seeds(known: Known<'_>, entry: &FleetEntry, last: Option<&Seed>, found: &mut Vec<Trouble>) {
    let beat = &entry.heartbeat;
    let host = beat.agent.as_str();
    let mut add = |kind, job: JobId, cause: String, since, arguments: &[&str]| {
        found.push(Trouble {
            kind,
            host: Some(beat.agent.clone()),
            cluster: Some(beat.cluster.clone()),
            seed: Some(job),
            cause,
            since,
            mend: command::line(arguments),
        });
    };
    for job in beat.jobs.iter().filter(is_seed) {
        let Some(pulse) = known.pulses.of(job.id) else { continue };
        let (heard, moved) = (pulse.heard.elapsed(), pulse.moved.elapsed());
        let id = job.id.to_string();
        if let Some(silence) = &pulse.progress.silence {
            let [silent, limit] = [silence.silent_s, silence.limit_s].map(units::duration);
            let cause = format!("Nothing from the donor for {silent}; it gives up after {limit}.");
            add(Kind::SeedStalled, job.id, cause, None, &["seed", "watch", host, &id]);
        } else if job.stage.as_deref() == Some(SeedStage::Transfer.as_str()) && moved.max(heard) > STALLED {
            let cause = "Its transfer does not move.".to_owned();
            let since = known.now.checked_sub(moved).ok();
            add(Kind::SeedStalled, job.id, cause, since, &["seed", "watch", host, &id]);
        }
    }
    if let Some(last) = last.filter(|seed| seed.state == JobState::Failed)
        && let Some(ended) = last.ended.filter(|at| known.now.duration_since(*at) < DAY)
        && !beat.jobs.iter().any(|job| is_seed(&job))
    {
        let cause = last.error.as_ref().map_or_else(|| "It failed.".to_owned(), ToString::to_string);
        add(Kind::SeedFailed, last.job, cause, Some(ended), &["seed", "show", host, &last.job.to_string()]);
    }
}

/// The newest of a cluster's snapshots, and a host that can make one.
#[derive(Debug, Default)]
struct Newest<'a> {
    usable: Option<(&'a AgentId, &'a SnapshotSummary)>,
    proven: Option<Timestamp>,
    maker: Option<&'a AgentId>,
}

fn clusters(known: Known<'_>, found: &mut Vec<Trouble>) {
    let mut clusters: BTreeMap<&str, Newest<'_>> = BTreeMap::new();
    for entry in known.fleet.iter().filter(|entry| entry.health != Health::Lost) {
        let beat = &entry.heartbeat;
        let newest = clusters.entry(&beat.cluster).or_default();
        for snapshot in beat.snapshots.iter().filter(|snapshot| snapshot.usable && !snapshot.foreign) {
            if newest.usable.is_none_or(|(_, known)| known.created_at < snapshot.created_at) {
                newest.usable = Some((&beat.agent, snapshot));
            }
            if snapshot.proven {
                newest.proven = newest.proven.max(Some(snapshot.created_at));
            }
        }
        // A replica rather than the source.
        if newest.maker.is_none() || beat.mysql.replica_of.is_some() {
            newest.maker = Some(&beat.agent);
        }
    }
    let is_old = |at: Timestamp| known.now.duration_since(at) > DAY;
    for (cluster, newest) in clusters {
        let mut add = |kind, cause: String, since, mend| {
            let cluster = Some(cluster.to_owned());
            found.push(Trouble { kind, host: None, cluster, seed: None, cause, since, mend });
        };
        let Some((host, snapshot)) = newest.usable.filter(|(_, snapshot)| !is_old(snapshot.created_at))
        else {
            let (cause, since) = match newest.usable {
                Some((host, snapshot)) => {
                    (format!("The newest is {} on {host}.", snapshot.id), Some(snapshot.created_at))
                }
                None => ("None of its hosts has one.".to_owned(), None),
            };
            let maker = newest.maker.map_or("HOST", AgentId::as_str);
            add(Kind::NoSnapshot, cause, since, command::line(&["snapshot", "create", maker]));
            continue;
        };
        if newest.proven.is_none_or(is_old) {
            let cause = match newest.proven {
                Some(_) => "The newest proven one is older.",
                None => "None is proven.",
            };
            let mend = command::line(&["snapshot", "verify", host.as_str(), snapshot.id.as_str()]);
            add(Kind::NoProof, cause.to_owned(), newest.proven, mend);
        }
    }
}

/// Hosts that the stream knows and that are not heard.
fn missing(known: Known<'_>, found: &mut Vec<Trouble>) {
    if known.bus == BusState::Away {
        return;
    }
    for (host, last) in &known.past.hosts {
        let is_heard = known.fleet.binary_search_by(|entry| entry.heartbeat.agent.cmp(host)).is_ok();
        if is_heard || known.now.duration_since(last.at) > MISSED_FOR {
            continue;
        }
        let kind = if last.is_stopped { Kind::Stopped } else { Kind::Missing };
        let cause = format!("Its last event was at {}.", units::time(last.at));
        found.push(Trouble {
            kind,
            host: Some(host.clone()),
            cluster: Some(last.cluster.clone()),
            seed: None,
            cause,
            since: Some(last.at),
            mend: command::line(&["events", "--host", host.as_str()]),
        });
    }
}

#[cfg(test)]
#[path = "trouble_tests.rs"]
mod tests;
