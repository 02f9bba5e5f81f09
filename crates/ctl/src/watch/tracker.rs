//! Turns views, progress and events of one job into what is worth telling. Pure: it has no clock of its own.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use protocol::event::JobStage;
use protocol::job::{JobState, JobView, KEPT_UNTIL};
use protocol::seed::{SeedStage, TransferProgress};
use schemars::JsonSchema;
use serde::Serialize;

use crate::units;

/// A view may run ahead of the events; its stage is told only when its event has not come by then.
const EVENTS_LAG: Duration = Duration::from_millis(1500);

/// Something worth telling.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "update", rename_all = "snake_case")]
pub enum Update {
    /// A stage began, failed, is tried again, or was undone.
    Stage {
        /// Which.
        stage: String,
        /// `started`, `failed`, `retrying`, `undone`.
        what: String,
        /// Why, where it failed.
        error: Option<String>,
        /// When, by the host's clock; absent where only a view told of it.
        #[serde(skip_serializing_if = "Option::is_none")]
        at: Option<Timestamp>,
    },
    /// Bytes have moved.
    Progress {
        /// The stage that runs.
        stage: String,
        /// The counters.
        progress: TransferProgress,
    },
    /// The host cannot be asked now; the job goes on.
    Unreachable {
        /// Why.
        message: String,
    },
    /// It is over.
    Finished {
        /// How.
        view: Box<JobView>,
    },
}

/// What was told of one job so far.
#[derive(Debug)]
pub struct Tracker {
    pace: Duration,
    events: bool,
    stage: Option<String>,
    waiting: Option<(String, Instant)>,
    told_progress: Option<(Instant, TransferProgress)>,
    unreachable: bool,
}

impl Tracker {
    /// Tells progress at most every `pace`; `events` when a stream of the job's events is there.
    #[must_use]
    pub fn new(pace: Duration, events: bool) -> Self {
        Self { pace, events, stage: None, waiting: None, told_progress: None, unreachable: false }
    }

    /// True when the stages come from events.
    #[must_use]
    pub fn expects_events(&self) -> bool {
        self.events
    }

    /// Takes a view in.
    pub fn view(&mut self, view: &JobView, now: Instant) -> Vec<Update> {
        self.unreachable = false;
        let mut updates = Vec::new();
        if let Some(stage) = view.stage.as_ref().filter(|stage| self.stage.as_ref() != Some(stage)) {
            let since = match &self.waiting {
                Some((waiting, since)) if waiting == stage => *since,
                _ => now,
            };
            if !self.events || now.duration_since(since) >= EVENTS_LAG {
                updates.push(self.enter(stage, "started", None, None));
            } else {
                self.waiting = Some((stage.clone(), since));
            }
        }
        if let Some(progress) = view.progress.as_ref().filter(|_| !view.state.is_final()) {
            updates.extend(self.progress(progress, now));
        }
        updates
    }

    /// Takes counters in.
    pub fn progress(&mut self, progress: &TransferProgress, now: Instant) -> Vec<Update> {
        self.unreachable = false;
        let Some(stage) = self.stage.clone() else { return Vec::new() };
        // Counters that are full stay so in the stages that follow: no news.
        let is_old_news =
            progress.bytes_done >= progress.bytes_total && stage != SeedStage::Transfer.as_str();
        let is_empty = progress.bytes_total == 0 && progress.silence.is_none();
        if is_empty || is_old_news {
            return Vec::new();
        }
        if let Some((at, told)) = &self.told_progress
            && told.silence.is_some() == progress.silence.is_some()
            && (now.duration_since(*at) < self.pace || told == progress)
        {
            return Vec::new();
        }
        self.told_progress = Some((now, progress.clone()));
        vec![Update::Progress { stage, progress: progress.clone() }]
    }

    /// Takes an event in.
    pub fn event(&mut self, event: &JobStage, at: Timestamp) -> Vec<Update> {
        self.unreachable = false;
        let Some(stage) = &event.stage else { return Vec::new() };
        match event.what.as_str() {
            "finished" => Vec::new(),
            "started" if self.stage.as_ref() == Some(stage) => Vec::new(),
            what => {
                let error = event.error.as_ref().map(ToString::to_string);
                vec![self.enter(stage, what, error, Some(at))]
            }
        }
    }

    /// The host does not answer; told once until it answers again.
    pub fn unreachable(&mut self, why: &str) -> Vec<Update> {
        if std::mem::replace(&mut self.unreachable, true) {
            return Vec::new();
        }
        vec![Update::Unreachable { message: why.to_owned() }]
    }

    /// It is over.
    pub fn finished(&mut self, view: &JobView) -> Vec<Update> {
        let mut updates = Vec::new();
        if let Some((stage, _)) = self.waiting.take()
            && view.state == JobState::Succeeded
        {
            updates.push(self.enter(&stage, "started", None, None));
        }
        updates.push(Update::Finished { view: Box::new(view.clone()) });
        updates
    }

    fn enter(&mut self, stage: &str, what: &str, error: Option<String>, at: Option<Timestamp>) -> Update {
        self.stage = Some(stage.to_owned());
        if self.waiting.as_ref().is_some_and(|(waiting, _)| waiting == stage) {
            self.waiting = None;
        }
        self.told_progress = None;
        Update::Stage { stage: stage.to_owned(), what: what.to_owned(), error, at }
    }
}

impl Update {
    /// The update as a line for people, without the host.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::Stage { stage, what, error: None, .. } if what == "started" => stage.clone(),
            Self::Stage { stage, what, error: None, .. } => format!("{stage} {what}"),
            Self::Stage { stage, what, error: Some(error), .. } => format!("{stage} {what}: {error}"),
            Self::Progress { stage, progress } => format!("{stage} {}", progress_text(progress)),
            Self::Unreachable { message } => {
                format!("cannot be asked now ({message}); the job goes on, I wait for news")
            }
            Self::Finished { view } => finished_text(view),
        }
    }
}

/// Counters for people: `12 %  1.2 GiB of 10.0 GiB at 118.2 MiB/s, 1m 12s left`, or why nothing moves.
#[must_use]
pub fn progress_text(progress: &TransferProgress) -> String {
    let percent = percent(progress);
    let (done, total) = (units::size(progress.bytes_done), units::size(progress.bytes_total));
    let mut text = format!("{percent} %  {done} of {total}");
    if let Some(silence) = &progress.silence {
        let [silent, limit] = [silence.silent_s, silence.limit_s].map(units::duration);
        text.push_str(&format!(", nothing from the donor for {silent}; gives up after {limit}"));
    } else if progress.bytes_per_s > 0 {
        text.push_str(&format!(" at {}", units::rate(progress.bytes_per_s)));
        let left = progress.bytes_total.saturating_sub(progress.bytes_done).div_ceil(progress.bytes_per_s);
        text.push_str(&format!(", {} left", units::duration(left)));
    }
    text
}

/// Of the data set, from 0 to 100.
pub(super) fn percent(progress: &TransferProgress) -> u64 {
    if progress.bytes_total == 0 {
        return 0;
    }
    // 128 bits: the product of a large datadir and 100 still fits.
    let percent = u128::from(progress.bytes_done) * 100 / u128::from(progress.bytes_total);
    u64::try_from(percent.min(100)).unwrap_or(100)
}

fn finished_text(view: &JobView) -> String {
    let state = match view.state {
        JobState::Succeeded => "done",
        JobState::Aborted => "aborted",
        _ => "failed",
    };
    let mut text = state.to_owned();
    if view.state != JobState::Succeeded
        && let Some(stage) = &view.stage
    {
        text.push_str(&format!(" at {stage}"));
    }
    let seconds = view
        .finished_at
        .map_or(0, |end| u64::try_from(end.duration_since(view.created_at).as_secs()).unwrap_or(0));
    if view.finished_at.is_some() {
        text.push_str(&format!(" after {}", units::duration(seconds)));
    }
    if let Some(progress) = view.progress.as_ref().filter(|p| p.bytes_moved > 0 && seconds > 0) {
        let rate = units::rate(progress.bytes_moved / seconds);
        text.push_str(&format!(", {} moved, {rate} over all", units::size(progress.bytes_moved)));
    }
    let kept = view.result.as_ref().and_then(|result| result[KEPT_UNTIL].as_str()?.parse::<Timestamp>().ok());
    if let Some(until) = kept {
        text.push_str(&format!("; the old data are kept until {} (seed undo)", units::time(until)));
    }
    if view.summary.is_empty() { text } else { format!("{text}: {}", view.summary) }
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
