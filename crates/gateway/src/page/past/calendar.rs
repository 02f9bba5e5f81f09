//! Which cluster had which snapshots on which day.

use std::collections::{BTreeMap, HashMap};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use protocol::event::{Event, EventData};
use protocol::heartbeat::Heartbeat;
use protocol::ids::{AgentId, SnapshotId};

/// Clusters that have a row; agents say of themselves which they belong to.
const MAX_CLUSTERS: usize = 5_000;
/// Snapshots of one cluster and day that are told apart.
const MAX_OF_DAY: usize = 10_000;

const PROVEN: u8 = 1;
const FAILED: u8 = 2;
const LOST: u8 = 4;
const GONE: u8 = 8;

/// Rows by cluster; days are those of UTC.
#[derive(Debug, Default)]
pub(in super::super) struct Calendar {
    clusters: BTreeMap<String, BTreeMap<Date, HashMap<u64, u8>>>,
}

/// What a cluster had on one day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in super::super) struct Day {
    /// Snapshots that were made.
    pub(in super::super) made: usize,
    /// Those of them that a server came up on.
    pub(in super::super) proven: usize,
    /// Those on which none did.
    pub(in super::super) failed: usize,
    /// Those whose data were lost.
    pub(in super::super) lost: usize,
    /// Those that are still there, as far as is known.
    pub(in super::super) kept: usize,
}

impl Calendar {
    /// Takes an event in.
    pub(super) fn take(&mut self, event: &Event, data: &EventData) {
        match data {
            EventData::SnapshotCreated(e)
            | EventData::SnapshotAvailable(e)
            | EventData::SnapshotVerified(e) => {
                if e.snapshot.foreign.is_some() {
                    return;
                }
                let proof = e.snapshot.meta.as_ref().and_then(|meta| meta.proof.as_ref());
                let mut flags = 0;
                flags |= if e.snapshot.is_proven() { PROVEN } else { 0 };
                flags |= if proof.is_some_and(|proof| !proof.passed) { FAILED } else { 0 };
                flags |= if e.snapshot.is_readable() { 0 } else { LOST };
                self.mark(&event.cluster, &event.host, &e.snapshot.id, e.snapshot.created_at, flags);
            }
            EventData::SnapshotRemoved(e) => self.gone(event, &e.id, GONE),
            EventData::SnapshotInvalid(e) => self.gone(event, &e.id, LOST),
            _ => {}
        }
    }

    /// Takes in what a host says that it has.
    pub(super) fn see(&mut self, beat: &Heartbeat) {
        for snapshot in beat.snapshots.iter().filter(|snapshot| !snapshot.foreign) {
            let flags = if snapshot.proven { PROVEN } else { 0 } | if snapshot.usable { 0 } else { LOST };
            self.mark(&beat.cluster, &beat.agent, &snapshot.id, snapshot.created_at, flags);
        }
    }

    /// All clusters with their days from `first` on.
    pub(in super::super) fn rows(&self, first: Date) -> impl Iterator<Item = (&str, BTreeMap<Date, Day>)> {
        self.clusters.iter().map(move |(cluster, days)| {
            let days = days.range(first..).map(|(date, all)| (*date, Day::of(all)));
            (cluster.as_str(), days.collect())
        })
    }

    fn mark(&mut self, cluster: &str, host: &AgentId, id: &SnapshotId, at: Timestamp, flags: u8) {
        let oldest = Timestamp::now().checked_sub(super::REACH + DAY).unwrap_or(Timestamp::MIN);
        if at < oldest || (self.clusters.len() >= MAX_CLUSTERS && !self.clusters.contains_key(cluster)) {
            return;
        }
        let days = self.clusters.entry(cluster.to_owned()).or_default();
        days.retain(|date, _| *date >= day(oldest));
        let all = days.entry(day(at)).or_default();
        let key = key(host, id);
        if all.len() < MAX_OF_DAY || all.contains_key(&key) {
            *all.entry(key).or_default() |= flags;
        }
    }

    fn gone(&mut self, event: &Event, id: &SnapshotId, flag: u8) {
        let key = key(&event.host, id);
        let days = self.clusters.get_mut(&event.cluster).into_iter().flat_map(BTreeMap::values_mut);
        for flags in days.filter_map(|all| all.get_mut(&key)) {
            *flags |= flag;
        }
    }
}

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// The day of an instant.
pub(in super::super) fn day(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

/// Names a snapshot in eight bytes.
fn key(host: &AgentId, id: &SnapshotId) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(host.as_str().as_bytes()).update(&[0]).update(id.as_str().as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

impl Day {
    fn of(all: &HashMap<u64, u8>) -> Self {
        let count = |wanted: fn(u8) -> bool| all.values().filter(|flags| wanted(**flags)).count();
        Self {
            made: all.len(),
            proven: count(|flags| flags & PROVEN != 0),
            failed: count(|flags| flags & (FAILED | PROVEN) == FAILED),
            lost: count(|flags| flags & LOST != 0),
            kept: count(|flags| flags & (GONE | LOST) == 0),
        }
    }

    /// Made and not lost at once.
    pub(in super::super) fn is_protected(self) -> bool {
        self.made > self.lost
    }
}
