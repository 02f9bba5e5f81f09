//! What is on the screen, and what keys do to it.

use std::cmp::Reverse;

use protocol::mysql::ServerState;
use ratatui::crossterm::event::KeyCode;

use crate::full::{Grade, Left};
use crate::render::{Missing, Seen};
use crate::units;

/// A replica further behind is in trouble, in seconds.
const FAR_BEHIND_S: u64 = 300;
/// Less free space than this is trouble, in bytes.
const SCARCE_BYTES: u64 = 1 << 30;

/// What is known of the bus.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Bus {
    /// Heartbeats come.
    #[default]
    Speaks,
    /// No host was heard of for so many seconds, though each should have been.
    Silent(u64),
    /// There is no connection.
    Away,
}

/// In which order hosts stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// The worst first, then by name.
    #[default]
    Trouble,
    Host,
    Cluster,
    /// The fullest disk first.
    Free,
    /// The furthest behind first.
    Lag,
}

impl Sort {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Trouble => "trouble",
            Self::Host => "host",
            Self::Cluster => "cluster",
            Self::Free => "free space",
            Self::Lag => "lag",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Trouble => Self::Host,
            Self::Host => Self::Cluster,
            Self::Cluster => Self::Free,
            Self::Free => Self::Lag,
            Self::Lag => Self::Trouble,
        }
    }
}

/// A host, there or missing.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    Seen(Box<Seen>),
    Missing(Missing),
}

/// The screen without a terminal.
#[derive(Debug, Default)]
pub struct Board {
    entries: Vec<Entry>,
    pub(super) bus: Bus,
    pub(super) blind: Option<String>,
    pub(super) sort: Sort,
    pub(super) filter: String,
    pub(super) typing: bool,
    pub(super) only_trouble: bool,
    pub(super) help: bool,
    pub(super) details: bool,
    /// Index of the marked host among those that are shown.
    pub(super) marked: usize,
    /// Index of the first host on the screen.
    pub(super) top: usize,
    /// Hosts that fit, as it was drawn last.
    pub(super) page: usize,
}

impl Board {
    /// Takes in what is known now; the mark stays where it is.
    pub fn show(&mut self, hosts: Vec<Seen>, missing: Vec<Missing>, bus: Bus, blind: Option<String>) {
        let seen = hosts.into_iter().map(|seen| Entry::Seen(Box::new(seen)));
        self.entries = seen.chain(missing.into_iter().map(Entry::Missing)).collect();
        self.bus = bus;
        self.blind = blind;
    }

    /// Hosts, those in trouble, and jobs at work.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let troubled = self.entries.iter().filter(|entry| entry.trouble().0 > Grade::Fine).count();
        let jobs = self.entries.iter().map(|entry| match entry {
            Entry::Seen(seen) => seen.heartbeat.jobs.len(),
            Entry::Missing(_) => 0,
        });
        (self.entries.len(), troubled, jobs.sum())
    }

    /// What passes the filter, in order.
    pub(super) fn shown(&self) -> Vec<&Entry> {
        let wanted = self.filter.to_lowercase();
        let passes = |entry: &&Entry| {
            (!self.only_trouble || entry.trouble().0 > Grade::Fine)
                && (wanted.is_empty() || entry.words().to_lowercase().contains(&wanted))
        };
        let mut shown: Vec<&Entry> = self.entries.iter().filter(passes).collect();
        match self.sort {
            Sort::Trouble => shown
                .sort_by(|a, b| (Reverse(a.trouble().0), a.host()).cmp(&(Reverse(b.trouble().0), b.host()))),
            Sort::Host => shown.sort_by(|a, b| a.host().cmp(b.host())),
            Sort::Cluster => shown.sort_by(|a, b| (a.cluster(), a.host()).cmp(&(b.cluster(), b.host()))),
            Sort::Free => shown.sort_by_key(|entry| entry.free().unwrap_or(u64::MAX)),
            Sort::Lag => shown.sort_by_key(|entry| Reverse(entry.lag())),
        }
        shown
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => _ = self.filter.pop(),
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
        self.marked = 0;
    }

    /// Heeds a key.
    pub(super) fn heed(&mut self, key: KeyCode) -> Option<Left> {
        if self.typing {
            self.type_filter(key);
            return None;
        }
        let last = self.shown().len().saturating_sub(1);
        let page = self.page.max(1);
        match key {
            KeyCode::Char('q') => return Some(Left::Done),
            KeyCode::Esc if self.help || self.details => (self.help, self.details) = (false, false),
            KeyCode::Esc if !self.filter.is_empty() => self.filter.clear(),
            KeyCode::Esc => return Some(Left::Done),
            KeyCode::Char('?') => self.help = !self.help,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('t') => self.only_trouble = !self.only_trouble,
            KeyCode::Enter => self.details = !self.details,
            KeyCode::Down | KeyCode::Char('j') => self.marked += 1,
            KeyCode::Up | KeyCode::Char('k') => self.marked = self.marked.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.marked += page,
            KeyCode::PageUp => self.marked = self.marked.saturating_sub(page),
            KeyCode::Home | KeyCode::Char('g') => self.marked = 0,
            KeyCode::End | KeyCode::Char('G') => self.marked = last,
            _ => {}
        }
        self.marked = self.marked.min(self.shown().len().saturating_sub(1));
        None
    }
}

impl Entry {
    pub(super) fn host(&self) -> &str {
        match self {
            Self::Seen(seen) => seen.heartbeat.agent.as_str(),
            Self::Missing(missing) => missing.host.as_str(),
        }
    }

    pub(super) fn cluster(&self) -> &str {
        match self {
            Self::Seen(seen) => &seen.heartbeat.cluster,
            Self::Missing(missing) => &missing.cluster,
        }
    }

    pub(super) fn dc(&self) -> &str {
        match self {
            Self::Seen(seen) => &seen.heartbeat.dc,
            Self::Missing(missing) => &missing.dc,
        }
    }

    fn free(&self) -> Option<u64> {
        match self {
            Self::Seen(seen) => seen.heartbeat.free_bytes,
            Self::Missing(_) => None,
        }
    }

    fn lag(&self) -> Option<u64> {
        match self {
            Self::Seen(seen) => seen.heartbeat.mysql.lag_seconds,
            Self::Missing(_) => None,
        }
    }

    /// What a filter looks through.
    fn words(&self) -> String {
        let (what, source) = match self {
            Self::Seen(seen) => (seen.health, seen.heartbeat.mysql.replica_of.as_deref().unwrap_or_default()),
            Self::Missing(missing) => (missing.state, ""),
        };
        format!("{} {} {} {what} {source} {}", self.host(), self.cluster(), self.dc(), self.trouble().1)
    }

    /// What is wrong with it, the worst of it.
    pub(super) fn trouble(&self) -> (Grade, String) {
        let seen = match self {
            Self::Missing(missing) if missing.state == "stopped" => {
                return (Grade::Weak, "agent stopped".into());
            }
            Self::Missing(_) => return (Grade::Bad, "missing".into()),
            Self::Seen(seen) => seen,
        };
        let beat = &seen.heartbeat;
        let silent = units::duration(seen.silent_s);
        match (seen.health, seen.duplicate, beat.mysql.state) {
            ("lost", ..) => (Grade::Bad, format!("lost for {silent}")),
            (_, true, _) => (Grade::Bad, "two processes in its name".into()),
            (_, _, ServerState::Stopped) => (Grade::Bad, "MySQL stopped".into()),
            (_, _, ServerState::NotReady | ServerState::Unknown) => (Grade::Bad, "MySQL not ready".into()),
            (_, _, ServerState::ReadyNoAccess) => (Grade::Weak, "no access to MySQL".into()),
            ("suspect", ..) => (Grade::Weak, format!("silent for {silent}")),
            _ if beat.mysql.lag_seconds.is_some_and(|lag| lag > FAR_BEHIND_S) => {
                (Grade::Weak, "far behind".into())
            }
            _ if beat.free_bytes.is_some_and(|free| free < SCARCE_BYTES) => {
                (Grade::Weak, "disk nearly full".into())
            }
            _ => (Grade::Fine, String::new()),
        }
    }
}
