//! What an agent costs, and whether that grows.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use testkit::agent::Agent;

use crate::measure;

/// Memory that an agent may hold beyond what it held after its first rounds, KiB. The allocator keeps what the largest seed
/// at once had needed: buffers of 64 connections at the most, and pages of arenas that are not wholly free.
pub const MORE_RSS_KIB: u64 = 24 << 10;
/// Descriptors likewise: a reconnect of the bus or a look at the server that is just under way.
pub const MORE_DESCRIPTORS: u64 = 6;
/// Threads likewise: those that block end some seconds after their last work.
pub const MORE_THREADS: u64 = 4;
/// Bytes in the state directory beside journals and replies: the spool's segments of 1 MiB, which go when they are full and what
/// they hold was sent two minutes ago.
pub const MORE_STATE_BYTES: u64 = 3 << 20;
/// Bytes of replies that are remembered: ten minutes of them beyond their deadlines, as many dead ones, and 1 MiB.
pub const REPLY_BYTES: u64 = 4 << 20;
/// Journals that are kept however old they are, and those that have ended since the last start.
pub const KEPT_JOURNALS: u64 = 100;
/// What one journal may take.
pub const JOURNAL_BYTES: u64 = 128 << 10;

/// One look at an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Its process.
    pub pid: u32,
    /// Memory, KiB.
    pub rss_kib: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// Bytes of its state directory without journals and replies.
    pub state_bytes: u64,
    /// Bytes of the replies that it remembers.
    pub reply_bytes: u64,
    /// Journals.
    pub journals: u64,
    /// Their bytes.
    pub journal_bytes: u64,
}

impl Reading {
    /// Looks now.
    ///
    /// # Panics
    /// When the agent does not run.
    #[must_use]
    pub fn of(agent: &Agent) -> Self {
        let pid = agent.pid().unwrap();
        let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count() as u64;
        let (state, jobs) = (agent.state_dir(), agent.state_dir().join("jobs"));
        let journal_bytes = size_below(&jobs);
        let reply_bytes = fs::metadata(state.join("replies")).map(|meta| meta.len()).unwrap_or_default();
        Self {
            pid,
            rss_kib: measure::rss_kib(pid),
            descriptors: count("fd"),
            threads: count("task"),
            // Replies may come between the two looks.
            state_bytes: size_below(&state).saturating_sub(journal_bytes + reply_bytes),
            reply_bytes,
            // Each is a directory; the lock beside them is none.
            journals: fs::read_dir(&jobs)
                .map_or(0, |all| all.flatten().filter(|one| one.path().is_dir()).count())
                as u64,
            journal_bytes,
        }
    }

    /// What has grown beyond measure since an earlier look.
    #[must_use]
    pub fn leaks(&self, begin: &Self) -> Vec<String> {
        let limits = [
            ("KiB of memory", self.rss_kib, begin.rss_kib + MORE_RSS_KIB),
            ("descriptors", self.descriptors, begin.descriptors + MORE_DESCRIPTORS),
            ("threads", self.threads, begin.threads + MORE_THREADS),
            ("bytes of state", self.state_bytes, begin.state_bytes + MORE_STATE_BYTES),
            ("bytes of replies", self.reply_bytes, REPLY_BYTES),
            ("bytes of journals", self.journal_bytes, self.journals * JOURNAL_BYTES),
        ];
        let grown = limits.into_iter().filter(|(_, now, limit)| now > limit);
        grown.map(|(what, now, limit)| format!("{now} {what}, more than {limit}")).collect()
    }

    /// For the report.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({ "pid": self.pid, "rss_kib": self.rss_kib, "descriptors": self.descriptors, "threads": self.threads,
            "state_bytes": self.state_bytes, "reply_bytes": self.reply_bytes, "journals": self.journals, "journal_bytes": self.journal_bytes })
    }
}

/// Bytes of all files below a directory; one that goes meanwhile counts as nothing.
fn size_below(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size_below(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_beyond_measure_is_told_and_what_is_within_is_not() {
        let begin = Reading {
            pid: 1,
            rss_kib: 20_000,
            descriptors: 20,
            threads: 6,
            state_bytes: 1_000,
            reply_bytes: 40_000,
            journals: 3,
            journal_bytes: 30_000,
        };
        assert!(begin.leaks(&begin).is_empty());
        let within =
            Reading { rss_kib: 30_000, descriptors: 24, journals: 90, journal_bytes: 900_000, ..begin };
        assert!(within.leaks(&begin).is_empty(), "{:?}", within.leaks(&begin));
        let leaking =
            Reading { rss_kib: 80_000, descriptors: 27, threads: 11, state_bytes: 4 << 20, ..begin };
        assert_eq!(leaking.leaks(&begin).len(), 4);
        assert_eq!(Reading { journal_bytes: 1 << 20, ..begin }.leaks(&begin).len(), 1);
        assert_eq!(Reading { reply_bytes: 5 << 20, ..begin }.leaks(&begin).len(), 1);
    }
}
