//! The fleet: asked now, or watched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bus::events::{EventFilter, Since};
use bus::fleet::{FleetEntry, LiveFleet};
use bus::{BusError, Health, Made};
use futures_util::StreamExt;
use jiff::{SignedDuration, Timestamp};
use protocol::heartbeat::Heartbeat;
use protocol::ids::AgentId;
use tokio::time::{interval, timeout};

use crate::args::FleetArgs;
use crate::board::{self, Board};
use crate::error::{CtlError, Result};
use crate::exit::Exit;
use crate::full::{self, Left};
use crate::interrupt::Interrupt;
use crate::render::{self, Fleet, Missing, Seen};
use crate::session::Session;
use crate::suggest;

/// A host silent for longer than this is no longer missed.
const MISSED_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);
/// What the stream of events may add to the time of one look.
const EVENTS_LIMIT: Duration = Duration::from_secs(1);

pub(super) async fn run(session: &Session, args: &FleetArgs) -> Result<()> {
    if args.watch { watch(session, args).await } else { look(session, args).await }
}

async fn look(session: &Session, args: &FleetArgs) -> Result<()> {
    let mut known = BTreeMap::new();
    // What was read when the time is up is better than nothing.
    let (beats, events) =
        tokio::join!(session.fleet(), timeout(EVENTS_LIMIT, known_hosts(session, &mut known)));
    let beats = beats?;
    let blind = match events {
        Ok(read) => read.err(),
        Err(_) => Some("the stream of events takes too long to read".to_owned()),
    };
    for beat in &beats {
        known.remove(&beat.agent);
    }
    let mut speak: BTreeMap<AgentId, usize> = BTreeMap::new();
    for beat in &beats {
        *speak.entry(beat.agent.clone()).or_default() += 1;
    }
    let hosts = beats.into_iter().map(|heartbeat| {
        let duplicate = speak.get(&heartbeat.agent).is_some_and(|processes| *processes > 1);
        Seen { health: "alive", silent_s: 0, duplicate, heartbeat }
    });
    let fleet = Fleet { hosts: hosts.collect(), missing: known.into_values().collect(), blind };
    unknown(&fleet, args)?;
    session.out.result(&filtered(fleet, args), |fleet| render::fleet(fleet, Timestamp::now()));
    Ok(())
}

/// A cluster or data centre that no host names was mistyped: silence would look like a fleet that is gone.
fn unknown(fleet: &Fleet, args: &FleetArgs) -> Result<()> {
    let seen = |of: fn(&Heartbeat) -> &str| fleet.hosts.iter().map(move |seen| of(&seen.heartbeat));
    let clusters =
        seen(|beat| &beat.cluster).chain(fleet.missing.iter().map(|missing| missing.cluster.as_str()));
    let dcs = seen(|beat| &beat.dc).chain(fleet.missing.iter().map(|missing| missing.dc.as_str()));
    if fleet.hosts.is_empty() && fleet.missing.is_empty() {
        return Ok(());
    }
    for (what, given, known) in [
        ("cluster", &args.cluster, clusters.collect::<BTreeSet<_>>()),
        ("data centre", &args.dc, dcs.collect()),
    ] {
        let Some(given) = given.as_deref().filter(|given| !known.contains(given)) else { continue };
        let hint = suggest::hint(given, known.iter().copied()).unwrap_or_else(|| {
            let first: Vec<&str> = known.iter().take(8).copied().collect();
            format!("there are {}", first.join(", "))
        });
        return Err(CtlError::NoHost { what: format!("no host of {what} {given:?}"), hint });
    }
    Ok(())
}

/// Every host of which there was an event lately, by the event stream; why it cannot be told where it cannot.
async fn known_hosts(session: &Session, known: &mut BTreeMap<AgentId, Missing>) -> Result<(), String> {
    if session.event_stream().await? == Made::Now {
        return Err(
            "the stream of events is made just now; hosts that are up tell of themselves within seconds"
                .to_owned(),
        );
    }
    let since = Timestamp::now().checked_sub(MISSED_FOR).map_or(Since::All, Since::Time);
    let filter = EventFilter { since, until_end: true, ..EventFilter::default() };
    let failed = |error: BusError| format!("the events cannot be read: {error}");
    let mut events = session.client.events(filter).await.map_err(failed)?;
    while let Some(next) = events.next().await {
        let event = next.map_err(failed)?.event;
        let state = if event.kind == "orch.agent.stopped" { "stopped" } else { "missing" };
        let missing = Missing {
            host: event.host.clone(),
            cluster: event.cluster,
            dc: event.dc,
            state,
            since: event.time,
        };
        known.insert(event.host, missing);
    }
    Ok(())
}

fn filtered(mut fleet: Fleet, args: &FleetArgs) -> Fleet {
    let wanted = |cluster: &str, dc: &str| {
        args.cluster.as_deref().is_none_or(|c| c == cluster) && args.dc.as_deref().is_none_or(|d| d == dc)
    };
    fleet.hosts.retain(|seen| wanted(&seen.heartbeat.cluster, &seen.heartbeat.dc));
    fleet.missing.retain(|missing| wanted(&missing.cluster, &missing.dc));
    fleet
}

/// Stays: a screen of its own on a terminal, else a line for each host that changed.
async fn watch(session: &Session, args: &FleetArgs) -> Result<()> {
    let failed = |source| CtlError::bus("cannot watch the fleet", source);
    let live = session.client.live_fleet().await.map_err(failed)?;
    if session.out.is_terminal() {
        return Box::pin(on_screen(session, args, &live)).await;
    }
    let mut interrupt = Interrupt::listen()?;
    let mut tick = interval(Duration::from_secs(1));
    let mut told: BTreeMap<AgentId, String> = BTreeMap::new();
    while !session.out.is_closed() {
        tokio::select! {
            _ = tick.tick() => {}
            () = interrupt.wait() => return Err(CtlError::Told(Exit::Interrupted)),
        }
        let fleet =
            Fleet { hosts: live.entries().iter().map(seen).collect(), missing: Vec::new(), blind: None };
        let fleet = filtered(fleet, args);
        let now = Timestamp::now();
        for seen in fleet.hosts {
            // What changes with every heartbeat is no news.
            let line = changes(&seen);
            if told.get(&seen.heartbeat.agent) != Some(&line) {
                session.out.result(&seen, |seen| {
                    let one = Fleet { hosts: vec![seen.clone()], missing: Vec::new(), blind: None };
                    render::fleet(&one, now).lines().nth(1).unwrap_or_default().to_owned()
                });
                told.insert(seen.heartbeat.agent, line);
            }
        }
    }
    Ok(())
}

async fn on_screen(session: &Session, args: &FleetArgs, live: &LiveFleet) -> Result<()> {
    // Who was away before the first heartbeat is known from events alone.
    let mut known = BTreeMap::new();
    let blind = match timeout(EVENTS_LIMIT, known_hosts(session, &mut known)).await {
        Ok(read) => read.err(),
        Err(_) => Some("the stream of events takes too long to read".to_owned()),
    };
    let bus = session.client.bus();
    let left = full::run(Board::default(), |board| {
        let entries = live.entries();
        let speaking = speaking(&entries, bus.is_connected());
        for entry in &entries {
            known.remove(&entry.heartbeat.agent);
        }
        let fleet = Fleet {
            hosts: entries.iter().map(seen).collect(),
            missing: known.values().cloned().collect(),
            blind: blind.clone(),
        };
        let fleet = filtered(fleet, args);
        board.show(fleet.hosts, fleet.missing, speaking, fleet.blind);
    })
    .await?;
    match left {
        Left::Done => Ok(()),
        Left::Interrupted => Err(CtlError::Told(Exit::Interrupted)),
    }
}

/// Whether the bus itself is silent: every host is overdue at once.
fn speaking(entries: &[FleetEntry], connected: bool) -> board::Bus {
    if !connected {
        return board::Bus::Away;
    }
    let overdue = |entry: &FleetEntry| {
        entry.silent_for > Duration::from_millis(entry.heartbeat.interval_ms.saturating_mul(3) / 2)
    };
    match entries.iter().map(|entry| entry.silent_for).min() {
        Some(silent) if entries.iter().all(overdue) => board::Bus::Silent(silent.as_secs()),
        _ => board::Bus::Speaks,
    }
}

fn seen(entry: &FleetEntry) -> Seen {
    Seen {
        health: match entry.health {
            Health::Alive => "alive",
            Health::Suspect => "suspect",
            Health::Lost => "lost",
        },
        silent_s: entry.silent_for.as_secs(),
        duplicate: entry.duplicate.is_some(),
        heartbeat: (*entry.heartbeat).clone(),
    }
}

fn changes(seen: &Seen) -> String {
    let beat = &seen.heartbeat;
    let snapshots: Vec<_> = beat.snapshots.iter().map(|s| (&s.id, s.usable, s.proven)).collect();
    let jobs: Vec<_> = beat.jobs.iter().map(|j| (j.id, j.state, &j.stage)).collect();
    let mysql = (&beat.mysql.state, &beat.mysql.replica_of, beat.mysql.read_only);
    format!("{:?}", (seen.health, seen.duplicate, &beat.boot, mysql, snapshots, jobs))
}
