//! What events add up to for the page: bounded, in memory, read again from the stream after a restart.

mod calendar;
mod log;
mod seeds;

use std::collections::BTreeMap;
use std::sync::Arc;

use bus::FleetEntry;
use bus::events::StoredEvent;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use protocol::command::Call as _;
use protocol::event::EventData;
use protocol::ids::{AgentId, JobId};
use protocol::params::SeedStartParams;

use crate::follow::Reader;
use crate::view::View;
pub(super) use calendar::{Calendar, Day, day};
pub(super) use log::{Line, Log, Wanted};
pub(super) use seeds::{Run, Seed, Seeds};

/// So much of the stream is read at the start.
pub(super) const REACH: SignedDuration = SignedDuration::from_hours(14 * 24);
/// Hosts that are remembered although nothing is heard of them.
const MAX_HOSTS: usize = 20_000;

/// All of it.
#[derive(Debug)]
pub(super) struct Past {
    view: Arc<View>,
    state: Mutex<State>,
}

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The audit log.
    pub(super) log: Log,
    /// Seeds, by their recipients' jobs.
    pub(super) seeds: Seeds,
    /// Snapshots and proofs by cluster and day.
    pub(super) calendar: Calendar,
    /// The last event of each host.
    pub(super) hosts: BTreeMap<AgentId, Last>,
    /// All that the stream held at the start has been read.
    pub(super) is_whole: bool,
    /// The first event that was read.
    pub(super) begins: Option<Timestamp>,
}

/// What is known of a host from its events alone.
#[derive(Debug, Clone)]
pub(super) struct Last {
    pub(super) cluster: String,
    pub(super) dc: String,
    pub(super) at: Timestamp,
    /// It said that it stops.
    pub(super) is_stopped: bool,
    /// When it last told that its spool had been full, and how many events were lost.
    pub(super) dropped: Option<(Timestamp, u64)>,
}

impl Past {
    /// Of the hosts in view, with nothing in it yet.
    pub(super) fn new(view: Arc<View>) -> Self {
        Self { view, state: Mutex::default() }
    }

    /// Looks at it; nobody else does meanwhile.
    pub(super) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock())
    }

    /// One seed.
    pub(super) fn seed(&self, job: JobId) -> Option<Seed> {
        self.state.lock().seeds.get(job).cloned()
    }

    /// Takes in what heartbeats say of snapshots: they know of those that were made before the stream begins.
    pub(super) fn see(&self, fleet: &[FleetEntry]) {
        let mut state = self.state.lock();
        for entry in fleet {
            state.calendar.see(&entry.heartbeat);
        }
    }
}

impl Reader for Past {
    fn take(&self, stored: &StoredEvent, _: bool) {
        if self.view.has(&stored.event.host) {
            self.state.lock().take(stored);
        }
    }

    fn is_caught_up(&self) {
        self.state.lock().is_whole = true;
    }
}

impl State {
    fn take(&mut self, stored: &StoredEvent) {
        let event = &stored.event;
        self.begins.get_or_insert(event.time);
        let data = event.known();
        if self.hosts.len() < MAX_HOSTS || self.hosts.contains_key(&event.host) {
            let is_stopped = matches!(data, Some(EventData::AgentStopped(_)));
            let last = self.hosts.entry(event.host.clone()).or_insert_with(|| Last {
                cluster: String::new(),
                dc: String::new(),
                at: event.time,
                is_stopped,
                dropped: None,
            });
            last.cluster.clone_from(&event.cluster);
            last.dc.clone_from(&event.dc);
            (last.at, last.is_stopped) = (event.time, is_stopped);
            if let Some(EventData::EventsDropped(dropped)) = &data {
                last.dropped = Some((event.time, dropped.count));
            }
        }
        match &data {
            Some(EventData::JobStage(stage) | EventData::JobFinished(stage))
                if stage.kind == SeedStartParams::SPEC.name =>
            {
                self.seeds.take(event, stage);
            }
            Some(data) => self.calendar.take(event, data),
            None => {}
        }
        self.log.take(stored, data.as_ref());
    }
}

#[cfg(test)]
#[path = "past_tests.rs"]
mod tests;
