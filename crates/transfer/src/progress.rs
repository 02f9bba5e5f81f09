//! Counters of a running transfer, cheap to write from every thread and cheap to poll.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The rate is taken over about so long, if it is looked at all the time.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// Looks nearer to one another than this are one.
const RATE_STEP: Duration = Duration::from_millis(200);
/// In place of a time: the other end is not waited for, or has just been heard.
const HEARD: u64 = u64::MAX;

/// What a transfer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Reaching the donor, or waiting for a recipient.
    Connecting = 0,
    /// The tree is being walked, or its manifest is on its way.
    Manifest = 1,
    /// What an earlier run left on disk is being checked.
    Recheck = 2,
    /// Chunks are moving.
    Transfer = 3,
    /// All chunks are there; metadata, flush to disk and the root digest.
    Verify = 4,
    /// Proven.
    Done = 5,
}

impl Phase {
    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Connecting,
            1 => Self::Manifest,
            2 => Self::Recheck,
            3 => Self::Transfer,
            4 => Self::Verify,
            _ => Self::Done,
        }
    }
}

/// Live counters of one transfer.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    phase: AtomicU8,
    bytes_total: AtomicU64,
    bytes_done: AtomicU64,
    bytes_resumed: AtomicU64,
    bytes_wire: AtomicU64,
    files_total: AtomicU64,
    files_done: AtomicU64,
    connections: AtomicU64,
    reconnects: AtomicU64,
    /// Since when the other end has been waited for in vain, milliseconds since `started`.
    silent_since_ms: AtomicU64,
    rate: Mutex<Rate>,
}

/// One reading of a [`Progress`]. Sizes in bytes of file content unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProgressSnapshot {
    /// What is going on.
    pub phase: Phase,
    /// All there is to move; 0 until the manifest is known.
    pub bytes_total: u64,
    /// Proven so far, including what earlier runs moved.
    pub bytes_done: u64,
    /// Proven by earlier runs and not moved again.
    pub bytes_resumed: u64,
    /// Bytes sent or received on sockets by this run.
    pub bytes_wire: u64,
    /// Files to move.
    pub files_total: u64,
    /// Files complete.
    pub files_done: u64,
    /// Connections open now.
    pub connections: u64,
    /// Connections that broke and were made anew.
    pub reconnects: u64,
    /// Over the last seconds, of what this run moved; since the last look where that was longer ago.
    pub rate_bytes_per_s: u64,
    /// For how long the other end has been waited for without a byte from it; 0 when it is not waited for.
    pub silent_ms: u64,
    /// Since the transfer was set up.
    pub elapsed_ms: u64,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            phase: AtomicU8::default(),
            bytes_total: AtomicU64::default(),
            bytes_done: AtomicU64::default(),
            bytes_resumed: AtomicU64::default(),
            bytes_wire: AtomicU64::default(),
            files_total: AtomicU64::default(),
            files_done: AtomicU64::default(),
            connections: AtomicU64::default(),
            reconnects: AtomicU64::default(),
            silent_since_ms: AtomicU64::new(HEARD),
            rate: Mutex::default(),
        }
    }
}

impl Progress {
    /// Zeroed counters; the clock starts now.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads all counters. They are read one by one: sums may be off by what moves meanwhile.
    pub fn snapshot(&self) -> ProgressSnapshot {
        let elapsed = self.started.elapsed();
        let bytes_done = self.bytes_done.load(Relaxed);
        let bytes_resumed = self.bytes_resumed.load(Relaxed);
        let moved = bytes_done.saturating_sub(bytes_resumed);
        ProgressSnapshot {
            phase: Phase::from_u8(self.phase.load(Relaxed)),
            bytes_total: self.bytes_total.load(Relaxed),
            bytes_done,
            bytes_resumed,
            bytes_wire: self.bytes_wire.load(Relaxed),
            files_total: self.files_total.load(Relaxed),
            files_done: self.files_done.load(Relaxed),
            connections: self.connections.load(Relaxed),
            reconnects: self.reconnects.load(Relaxed),
            rate_bytes_per_s: self.rate.lock().unwrap_or_else(PoisonError::into_inner).look(elapsed, moved),
            silent_ms: self.silent_ms(),
            elapsed_ms: elapsed.as_millis() as u64,
        }
    }

    fn silent_ms(&self) -> u64 {
        match self.silent_since_ms.load(Relaxed) {
            HEARD => 0,
            since => (self.started.elapsed().as_millis() as u64).saturating_sub(since),
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
        // What is waited for now is something else, and maybe of this end.
        self.silent_since_ms.store(HEARD, Relaxed);
    }

    pub(crate) fn set_totals(&self, bytes: u64, files: u64) {
        self.bytes_total.store(bytes, Relaxed);
        self.files_total.store(files, Relaxed);
    }

    pub(crate) fn add_done(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn add_resumed(&self, bytes: u64) {
        self.bytes_resumed.fetch_add(bytes, Relaxed);
        self.bytes_done.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn add_wire(&self, bytes: u64) {
        self.bytes_wire.fetch_add(bytes, Relaxed);
    }

    /// Bytes have come from the other end.
    pub(crate) fn heard(&self, bytes: u64) {
        self.add_wire(bytes);
        self.silent_since_ms.store(HEARD, Relaxed);
    }

    /// The other end was waited for, or could not be reached; the first time since it was heard counts.
    pub(crate) fn heard_nothing(&self) {
        let now = self.started.elapsed().as_millis() as u64;
        let _ = self.silent_since_ms.compare_exchange(HEARD, now, Relaxed, Relaxed);
    }

    pub(crate) fn add_files(&self, files: u64) {
        self.files_done.fetch_add(files, Relaxed);
    }

    pub(crate) fn connection_opened(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(crate) fn connection_closed(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    pub(crate) fn add_reconnect(&self) {
        self.reconnects.fetch_add(1, Relaxed);
    }
}

/// How fast bytes move now: an average since the start would tell for long of a past that is over.
#[derive(Debug, Default)]
struct Rate {
    /// When it was looked, and what had moved by then; the oldest first, all within the window but the first.
    looks: VecDeque<(Duration, u64)>,
}

impl Rate {
    /// Bytes per second, `at` this time with `moved` bytes in all since the beginning, which is time and count zero.
    fn look(&mut self, at: Duration, moved: u64) -> u64 {
        while self.looks.get(1).is_some_and(|(second, _)| at.saturating_sub(*second) >= RATE_WINDOW) {
            self.looks.pop_front();
        }
        let (since, before) = self.looks.front().copied().unwrap_or_default();
        let newest = self.looks.back().map_or(Duration::ZERO, |(newest, _)| *newest);
        if at.saturating_sub(newest) >= RATE_STEP {
            self.looks.push_back((at, moved));
        }
        let seconds = at.saturating_sub(since).as_secs_f64().max(0.001);
        (moved.saturating_sub(before) as f64 / seconds) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the rate shows, looked at every 250 ms while bytes move at each of the rates for so many seconds.
    fn shown_after(course: &[(u64, u64)]) -> u64 {
        let (mut rate, mut at, mut moved, mut shown) = (Rate::default(), Duration::ZERO, 0, 0);
        for (bytes_per_s, seconds) in course {
            for _ in 0..4 * seconds {
                at += Duration::from_millis(250);
                moved += bytes_per_s / 4;
                shown = rate.look(at, moved);
            }
        }
        shown
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        assert_eq!(shown_after(&[(4000, 1)]), 4000, "soon after the start");
        assert_eq!(shown_after(&[(4000, 600), (400, 6)]), 400, "the past is forgotten");
        assert_eq!(shown_after(&[(4000, 600), (0, 6)]), 0, "nothing moves");
        assert_eq!(shown_after(&[(0, 600), (4000, 6)]), 4000, "a long beginning is forgotten");
        let turning = shown_after(&[(4000, 600), (0, 2)]);
        assert!((2000..3000).contains(&turning), "two of five seconds: {turning}");
    }

    #[test]
    fn looks_that_are_rare_or_many_or_at_once_make_no_nonsense() {
        let mut rate = Rate::default();
        assert_eq!(rate.look(Duration::ZERO, 0), 0);
        assert_eq!(rate.look(Duration::from_secs(100), 1000), 10, "since the beginning");
        assert_eq!(rate.look(Duration::from_secs(200), 4000), 30, "since the last look");
        for nth in 0..100_000 {
            rate.look(Duration::from_secs(200) + Duration::from_micros(100 * nth), 4000);
        }
        assert!(rate.looks.len() <= 30, "{} looks are kept", rate.looks.len());
        assert_eq!(rate.look(Duration::from_secs(1), 1), 0, "a clock of the past");
    }

    #[test]
    fn silence_counts_from_the_first_wait_in_vain_until_something_comes() {
        let progress = Progress::new();
        let silent = || {
            // sleeps because only time makes a silence longer
            std::thread::sleep(Duration::from_millis(3));
            progress.snapshot().silent_ms
        };
        assert_eq!(silent(), 0, "nobody waits");
        progress.heard_nothing();
        let first = silent();
        progress.heard_nothing();
        assert!(first >= 3 && silent() >= first + 3, "a second wait begins no new silence");
        progress.heard(1);
        assert_eq!(silent(), 0, "heard");
        progress.heard_nothing();
        assert!(silent() >= 3);
        progress.enter(Phase::Verify);
        assert_eq!(silent(), 0, "this end is at work");
    }
}
