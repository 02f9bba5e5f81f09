//! What the donor has stored in its bucket and what the recipient has taken: pure bookkeeping of the window.

use std::collections::{BTreeMap, HashMap, HashSet};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// What the server adds to a message, at most: subject, headers, its own record.
pub(super) const MESSAGE_OVERHEAD: u64 = 512;

/// The window's accounts.
#[derive(Debug)]
pub(super) struct Ledger {
    window: u64,
    state: Mutex<State>,
    /// Room was made.
    pub(super) room: Notify,
    /// Something may be removed from the server.
    pub(super) taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Grows with each [`Ledger::restart`]: what belongs to an older one no longer counts.
    era: u64,
    /// Bytes on the server, or on their way to it, or about to be removed.
    held: u64,
    /// Messages among them that have no sequence yet.
    in_flight: u64,
    /// The sequence after all that may be removed.
    next: u64,
    /// Stored messages by their sequence.
    stored: BTreeMap<u64, Stored>,
    /// How far each connection was taken.
    taken: HashMap<u64, u64>,
    over: HashSet<u64>,
    /// Taken and not yet removed from the server, in bytes.
    removable: u64,
    /// Someone waits for room.
    wanted: bool,
}

#[derive(Debug)]
struct Stored {
    channel: u64,
    /// It is taken when so many bytes of its connection are.
    end: u64,
    size: u64,
}

/// What may be removed from the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Removable {
    pub(super) era: u64,
    /// All before this sequence.
    pub(super) before: u64,
    /// How much that is.
    pub(super) bytes: u64,
}

impl Ledger {
    pub(super) fn new(window: u64) -> Self {
        Self { window, state: Mutex::default(), room: Notify::new(), taken: Notify::new() }
    }

    /// Begins anew with an empty bucket whose next message gets the sequence `next`.
    pub(super) fn restart(&self, next: u64) {
        let mut state = self.lock();
        *state = State { era: state.era + 1, next, ..State::default() };
        drop(state);
        self.room.notify_waiters();
    }

    /// The number of the present beginning.
    pub(super) fn era(&self) -> u64 {
        self.lock().era
    }

    /// Takes room for a message of `len` bytes; `false` when there is none, or when `era` is over.
    pub(super) fn reserve(&self, era: u64, len: u64) -> bool {
        let mut state = self.lock();
        let size = len + MESSAGE_OVERHEAD;
        // One message always fits, so that a small window still moves.
        if state.era != era || (state.held > 0 && state.held + size > self.window) {
            state.wanted = true;
            drop(state);
            self.taken.notify_one();
            return false;
        }
        state.held += size;
        state.in_flight += 1;
        true
    }

    /// A message of `len` bytes has the sequence `sequence`; it is taken when its connection was taken up to `end`.
    pub(super) fn stored(&self, era: u64, sequence: u64, channel: u64, end: u64, len: u64) {
        let mut state = self.lock();
        if state.era == era {
            state.in_flight = state.in_flight.saturating_sub(1);
            state.stored.insert(sequence, Stored { channel, end, size: len + MESSAGE_OVERHEAD });
        }
    }

    /// A connection was taken up to here.
    pub(super) fn took(&self, channel: u64, end: u64) {
        let mut state = self.lock();
        let taken = state.taken.entry(channel).or_insert(0);
        *taken = (*taken).max(end);
        drop(state);
        self.taken.notify_one();
    }

    /// A connection is over: nobody will take the rest.
    pub(super) fn over(&self, channel: u64) {
        self.lock().over.insert(channel);
        self.taken.notify_one();
    }

    /// What may be removed now, if it is worth a request.
    pub(super) fn removable(&self) -> Option<Removable> {
        let mut guard = self.lock();
        let state = &mut *guard;
        // Sequences without a gap: what is not acknowledged yet may lie in between, and must stay. With nothing on its way a gap is
        // what an older beginning still had on its way when the bucket was emptied.
        if state.in_flight == 0
            && let Some((first, _)) = state.stored.first_key_value()
        {
            state.next = state.next.max(*first);
        }
        while let Some(entry) = state.stored.first_entry() {
            let (sequence, stored) = (*entry.key(), entry.get());
            let taken = state.over.contains(&stored.channel)
                || state.taken.get(&stored.channel).is_some_and(|taken| *taken >= stored.end);
            if sequence != state.next || !taken {
                break;
            }
            state.removable += entry.remove().size;
            state.next += 1;
        }
        let worth = state.wanted || state.removable >= self.window / 8;
        if state.removable == 0 || !worth {
            return None;
        }
        Some(Removable { era: state.era, before: state.next, bytes: std::mem::take(&mut state.removable) })
    }

    /// It was removed.
    pub(super) fn removed(&self, removed: &Removable) {
        let mut state = self.lock();
        if state.era == removed.era {
            state.held = state.held.saturating_sub(removed.bytes);
            state.wanted = false;
        }
        drop(state);
        self.room.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 1_000_000;

    #[test]
    fn only_what_was_taken_without_a_gap_is_removed() {
        let ledger = Ledger::new(4 * LEN);
        ledger.restart(10);
        let era = ledger.era();
        for _ in 0..3 {
            assert!(ledger.reserve(era, LEN));
        }
        assert!(!ledger.reserve(era, LEN), "the window is full");
        ledger.stored(era, 10, 1, LEN, LEN);
        ledger.stored(era, 12, 1, 2 * LEN, LEN);
        ledger.took(1, 2 * LEN);
        let first = ledger.removable().unwrap();
        assert_eq!(first.before, 11, "11 is not acknowledged, it may be another connection's");
        ledger.removed(&first);
        assert!(ledger.reserve(era, LEN));
        ledger.stored(era, 11, 2, LEN, LEN);
        assert_eq!(ledger.removable(), None, "nobody took it");
        ledger.over(2);
        assert!(!ledger.reserve(era, LEN));
        assert_eq!(ledger.removable().unwrap().before, 13);
    }

    #[test]
    fn what_belongs_to_an_older_beginning_changes_nothing() {
        let ledger = Ledger::new(4 * LEN);
        ledger.restart(1);
        let old = ledger.era();
        assert!(ledger.reserve(old, LEN));
        ledger.restart(5);
        assert!(!ledger.reserve(old, LEN));
        ledger.stored(old, 5, 1, 1, LEN);
        ledger.over(1);
        assert_eq!(ledger.removable(), None);
    }

    #[test]
    fn what_an_older_beginning_stored_late_does_not_block_the_window() {
        let ledger = Ledger::new(2 * LEN);
        ledger.restart(7);
        let era = ledger.era();
        assert!(ledger.reserve(era, LEN));
        // 7 went to a message of before.
        ledger.stored(era, 8, 1, LEN, LEN);
        ledger.took(1, LEN);
        assert_eq!(ledger.removable().unwrap().before, 9);
    }

    #[test]
    fn a_message_larger_than_the_window_goes_alone() {
        let ledger = Ledger::new(LEN);
        ledger.restart(1);
        let era = ledger.era();
        assert!(ledger.reserve(era, 2 * LEN));
        assert!(!ledger.reserve(era, 1));
    }
}
