//! Counters of a running transfer, cheap to write from every thread and cheap to poll.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

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
    /// Average since the start, of what this run moved.
    pub rate_bytes_per_s: u64,
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
            rate_bytes_per_s: (moved as f64 / elapsed.as_secs_f64().max(0.001)) as u64,
            elapsed_ms: elapsed.as_millis() as u64,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
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
