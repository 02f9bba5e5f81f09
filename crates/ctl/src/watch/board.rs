//! One seed on a whole screen of a terminal: its stages and their times, how much has come and how fast, and both hosts.

use std::collections::VecDeque;

use jiff::Timestamp;
use protocol::ids::AgentId;
use protocol::job::JobView;
use protocol::seed::{SeedStage, TransferProgress};
use ratatui::crossterm::event::KeyCode;

use super::tracker::Update;
use crate::full::Left;

/// As many seconds of rates are kept: more than the widest screen has columns.
const RATES: usize = 600;
/// As many of the last notes are kept.
const NOTES: usize = 100;

/// A stage that has begun.
#[derive(Debug, Clone)]
pub(super) struct Passed {
    pub(super) name: String,
    pub(super) began: Timestamp,
    pub(super) ended: Option<Timestamp>,
    /// `done`, `now`, `failed`, `retrying`, `undone`.
    pub(super) state: String,
}

/// What is known of the seed.
#[derive(Debug)]
pub(super) struct SeedBoard {
    pub(super) recipient: AgentId,
    pub(super) view: JobView,
    pub(super) stages: Vec<Passed>,
    pub(super) progress: Option<TransferProgress>,
    /// Bytes per second, one for each second in which there was news.
    pub(super) rates: VecDeque<(i64, u64)>,
    pub(super) loads: Vec<(AgentId, String)>,
    /// What does not show otherwise, the newest last.
    pub(super) notes: VecDeque<(Timestamp, String)>,
    pub(super) help: bool,
}

impl SeedBoard {
    pub(super) fn new(recipient: AgentId, view: JobView) -> Self {
        Self {
            recipient,
            view,
            stages: Vec::new(),
            progress: None,
            rates: VecDeque::new(),
            loads: Vec::new(),
            notes: VecDeque::new(),
            help: false,
        }
    }

    /// Takes an update in.
    pub(super) fn take(&mut self, update: &Update, now: Timestamp) {
        match update {
            Update::Stage { stage, what, error, at } => {
                let at = at.unwrap_or(now);
                self.enter(stage, what, at);
                if let Some(error) = error {
                    self.note(at, format!("{stage} {what}: {error}"));
                }
            }
            Update::Progress { progress, .. } => {
                let second = now.as_second();
                if self.rates.back().is_some_and(|(last, _)| *last == second) {
                    self.rates.pop_back();
                }
                self.rates.push_back((second, progress.bytes_per_s));
                if self.rates.len() > RATES {
                    self.rates.pop_front();
                }
                self.progress = Some(progress.clone());
            }
            Update::Unreachable { message } => {
                self.note(now, format!("{} cannot be asked: {message}", self.recipient));
            }
            Update::Finished { view } => self.view = (**view).clone(),
        }
    }

    fn enter(&mut self, stage: &str, what: &str, at: Timestamp) {
        if what == "started" {
            if let Some(last) = self.stages.last_mut().filter(|last| last.ended.is_none()) {
                last.ended = Some(at);
                if last.name != stage {
                    "done".clone_into(&mut last.state);
                }
            }
            // Begun again, as after a restart of the agent: from where it was.
            self.stages.retain(|passed| passed.name != stage);
            let (name, state) = (stage.to_owned(), "now".to_owned());
            return self.stages.push(Passed { name, began: at, ended: None, state });
        }
        if let Some(passed) = self.stages.iter_mut().rev().find(|passed| passed.name == stage) {
            what.clone_into(&mut passed.state);
            if what != "retrying" {
                passed.ended = passed.ended.or(Some(at));
            }
        }
    }

    /// Tells something in words.
    pub(super) fn note(&mut self, at: Timestamp, text: String) {
        self.notes.push_back((at, text));
        if self.notes.len() > NOTES {
            self.notes.pop_front();
        }
    }

    /// Heeds a key.
    pub(super) fn key(&mut self, key: KeyCode) -> Option<Left> {
        match key {
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Char('?') => self.help = !self.help,
            KeyCode::Char('q') | KeyCode::Esc => return Some(Left::Done),
            _ => {}
        }
        None
    }

    /// How busy a host is.
    pub(super) fn load(&mut self, host: &AgentId, text: String) {
        match self.loads.iter_mut().find(|(known, _)| known == host) {
            Some((_, known)) => *known = text,
            None => self.loads.push((host.clone(), text)),
        }
    }

    /// Every stage of a seed, and what is known of it.
    pub(super) fn all_stages(&self) -> Vec<(&str, Option<&Passed>)> {
        let known = SeedStage::ALL.map(SeedStage::as_str);
        let others =
            self.stages.iter().map(|passed| passed.name.as_str()).filter(|name| !known.contains(name));
        let find = |name: &str| self.stages.iter().rev().find(|passed| passed.name == name);
        known.into_iter().chain(others).map(|name| (name, find(name))).collect()
    }
}
