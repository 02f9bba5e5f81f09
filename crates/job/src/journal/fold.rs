//! What a journal's records add up to. Pure and total: an impossible history is an error.

mod next;

use jiff::Timestamp;
use serde_json::Value;

pub use next::Next;

use super::record::{
    AfterFailure, AfterUndoFailure, Cause, Digest, Event, JobSpec, Outcome, PlannedStep, Record, StepFailure,
    Undo,
};
use crate::StepError;

/// A record that cannot follow the ones before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {seq} ({event}) cannot stand there: {why}")]
pub struct Illegal {
    /// Its place, from 0.
    pub seq: u64,
    /// Its type.
    pub event: &'static str,
    /// What speaks against it.
    pub why: &'static str,
}

#[derive(Debug, Clone, PartialEq)]
enum Run {
    Pending,
    InFlight { attempt: u32 },
    Finished { output: Value },
    Failed { attempt: u32, error: StepError, then: AfterFailure },
}

#[derive(Debug, Clone, PartialEq)]
enum Back {
    Pending,
    InFlight { attempt: u32 },
    Undone,
    Failed { attempt: u32, error: StepError, then: AfterUndoFailure },
}

#[derive(Debug, Clone, PartialEq)]
struct Track {
    plan: PlannedStep,
    run: Run,
    back: Back,
    starts: u32,
    notes: Vec<Value>,
}

impl Track {
    fn new(plan: PlannedStep) -> Self {
        Self { plan, run: Run::Pending, back: Back::Pending, starts: 0, notes: Vec::new() }
    }

    fn began(&self) -> bool {
        self.run != Run::Pending
    }

    fn failure(&self, error: &StepError) -> StepFailure {
        StepFailure { step: self.plan.name.clone(), error: error.clone() }
    }
}

/// A job's whole past, folded.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    spec: JobSpec,
    created_at: Timestamp,
    updated_at: Timestamp,
    len: u64,
    head: Digest,
    planned: bool,
    tracks: Vec<Track>,
    /// How many steps, from the first, are past the point of no return.
    committed: usize,
    cause: Option<Cause>,
    undo_began: bool,
    given_up: Option<StepError>,
    outcome: Option<Outcome>,
}

impl History {
    /// Folds records from the first on; `None` when there is none.
    ///
    /// # Errors
    /// The first record that cannot stand where it stands.
    pub fn fold(records: &[Record]) -> Result<Option<Self>, Illegal> {
        let Some((first, rest)) = records.split_first() else { return Ok(None) };
        let mut history = Self::begin(first)?;
        for record in rest {
            history.apply(record)?;
        }
        Ok(Some(history))
    }

    fn begin(first: &Record) -> Result<Self, Illegal> {
        let Event::Created { spec } = &first.event else {
            return Err(Illegal {
                seq: 0,
                event: name_of(&first.event),
                why: "a journal begins with created",
            });
        };
        Ok(Self {
            spec: spec.clone(),
            created_at: first.at,
            updated_at: first.at,
            len: 1,
            head: first.hash,
            planned: false,
            tracks: Vec::new(),
            committed: 0,
            cause: None,
            undo_began: false,
            given_up: None,
            outcome: None,
        })
    }

    /// Adds the next record.
    ///
    /// # Errors
    /// As [`History::check`]; the history is then as before.
    pub fn apply(&mut self, record: &Record) -> Result<(), Illegal> {
        self.check(&record.event)?;
        self.take(&record.event);
        self.len += 1;
        self.head = record.hash;
        self.updated_at = record.at;
        Ok(())
    }

    /// Whether `event` may come next.
    ///
    /// # Errors
    /// What speaks against it.
    pub fn check(&self, event: &Event) -> Result<(), Illegal> {
        self.objection(event).map_or(Ok(()), |why| Err(Illegal { seq: self.len, event: name_of(event), why }))
    }

    fn objection(&self, event: &Event) -> Option<&'static str> {
        let unless = |legal: bool, why| (!legal).then_some(why);
        if self.outcome.is_some() && !matches!(event, Event::UndoReopened { .. }) {
            return Some("the job is finished");
        }
        match event {
            Event::Created { .. } => Some("the job is created already"),
            Event::Planned { steps } => self.plan_objection(steps),
            Event::StepStarted { step, attempt } => unless(
                matches!(self.next(), Next::Run { index, attempt: due, .. }
                    if self.tracks[index].plan.name == *step && due == *attempt),
                "this step, or this attempt, is not due",
            ),
            Event::StepFinished { step, .. } => {
                unless(self.in_flight(step).is_some() && !self.undo_began, "the step is not running")
            }
            Event::StepFailed { step, attempt, .. } => unless(
                self.in_flight(step) == Some(*attempt) && !self.undo_began,
                "the attempt is not running",
            ),
            Event::AbortRequested { .. } => self.abort_objection(),
            Event::UndoStarted { step, attempt } => unless(
                matches!(self.next(), Next::Undo { index, attempt: due, .. }
                    if self.tracks[index].plan.name == *step && due == *attempt),
                "this undo, or this attempt, is not due",
            ),
            Event::UndoFinished { step } => {
                unless(self.undo_in_flight(step).is_some(), "the step is not being undone")
            }
            Event::UndoFailed { step, attempt, .. } => {
                unless(self.undo_in_flight(step) == Some(*attempt), "the attempt to undo is not running")
            }
            Event::Note { step, .. } => {
                unless(self.track(step).is_some_and(Track::began), "the step has not begun")
            }
            Event::GivenUp { .. } => unless(self.given_up.is_none(), "the job is given up already"),
            Event::UndoReopened { .. } => {
                unless(self.undo_is_incomplete(), "only a job whose undo is incomplete can be reopened")
            }
            Event::Finished { outcome } => {
                unless(self.next() == Next::Finish(outcome.clone()), "the job is not at this end")
            }
        }
    }

    fn plan_objection(&self, steps: &[PlannedStep]) -> Option<&'static str> {
        let unique =
            steps.iter().enumerate().all(|(at, step)| steps[..at].iter().all(|s| s.name != step.name));
        if !unique || steps.iter().any(|step| step.name.is_empty()) {
            return Some("step names must be unique and not empty");
        }
        let begun = self.tracks.iter().filter(|track| track.began()).map(|track| &track.plan);
        let kept = begun.enumerate().all(|(at, plan)| steps.get(at) == Some(plan));
        (!kept).then_some("the steps that began are not the first ones of the plan")
    }

    /// Why an abort would be refused now, if it would.
    fn abort_objection(&self) -> Option<&'static str> {
        if self.cause.is_some() || self.given_up.is_some() {
            Some("the job is being undone already")
        } else if self.committed > 0 {
            Some("the job is past its point of no return")
        } else if self.planned && matches!(self.next(), Next::Finish(_)) {
            Some("every step has run")
        } else {
            None
        }
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Created { .. } => {}
            Event::Planned { steps } => {
                self.planned = true;
                let begun = self.tracks.iter().filter(|track| track.began()).count();
                self.tracks.truncate(begun);
                self.tracks.extend(steps.iter().skip(begun).cloned().map(Track::new));
            }
            Event::StepStarted { step, attempt } => {
                if let Some(index) = self.set_run(step, Run::InFlight { attempt: *attempt }) {
                    self.tracks[index].starts = self.tracks[index].starts.saturating_add(1);
                }
            }
            Event::StepFinished { step, output } => {
                let index = self.set_run(step, Run::Finished { output: output.clone() });
                // An abort that is on disk before the commit wins over it.
                if let Some(index) = index
                    && self.tracks[index].plan.commits
                    && self.cause.is_none()
                {
                    self.committed = index + 1;
                }
            }
            Event::StepFailed { step, attempt, error, then } => {
                self.set_run(step, Run::Failed { attempt: *attempt, error: error.clone(), then: *then });
                if *then == AfterFailure::Undo && self.cause.is_none() {
                    self.cause =
                        Some(Cause::Failed(StepFailure { step: step.clone(), error: error.clone() }));
                }
            }
            Event::AbortRequested { reason } => self.cause = Some(Cause::Aborted { reason: reason.clone() }),
            Event::UndoStarted { step, attempt } => {
                self.undo_began = true;
                self.set_back(step, Back::InFlight { attempt: *attempt });
            }
            Event::UndoFinished { step } => self.set_back(step, Back::Undone),
            Event::UndoFailed { step, attempt, error, then } => {
                self.set_back(step, Back::Failed { attempt: *attempt, error: error.clone(), then: *then });
            }
            Event::Note { step, note } => {
                if let Some(track) = self.tracks.iter_mut().find(|track| track.plan.name == *step) {
                    track.notes.push(note.clone());
                }
            }
            Event::GivenUp { error } => self.take_giving_up(error),
            Event::UndoReopened { .. } => self.take_reopening(),
            Event::Finished { outcome } => self.outcome = Some(outcome.clone()),
        }
    }

    fn take_giving_up(&mut self, error: &StepError) {
        let failure = StepFailure { step: String::new(), error: error.clone() };
        self.cause.get_or_insert(Cause::Failed(failure));
        self.given_up = Some(error.clone());
    }

    fn take_reopening(&mut self) {
        self.outcome = None;
        self.given_up = None;
        for track in &mut self.tracks {
            if matches!(track.back, Back::Failed { .. }) {
                track.back = Back::Pending;
            }
        }
    }

    fn undo_is_incomplete(&self) -> bool {
        matches!(
            &self.outcome,
            Some(Outcome::Failed { left, .. } | Outcome::Aborted { left, .. })
                if matches!(left, Undo::Incomplete { .. })
        )
    }

    /// What the job is.
    #[must_use]
    pub fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// When it was created.
    #[must_use]
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// When its last record was written.
    #[must_use]
    pub fn updated_at(&self) -> Timestamp {
        self.updated_at
    }

    /// How many records there are; the next one's sequence number.
    #[expect(clippy::len_without_is_empty, reason = "a history has at least its first record")]
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The hash of the last record.
    #[must_use]
    pub fn head(&self) -> Digest {
        self.head
    }

    /// The steps as last planned.
    #[must_use]
    pub fn plan(&self) -> Vec<PlannedStep> {
        self.tracks.iter().map(|track| track.plan.clone()).collect()
    }

    /// Whether a step of this name began.
    #[must_use]
    pub fn has_begun(&self, step: &str) -> bool {
        self.track(step).is_some_and(Track::began)
    }

    /// Why the job is being undone, if it is.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        self.cause.as_ref()
    }

    /// How it ended, if it did.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Whether it is past its point of no return.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        self.committed > 0
    }

    /// Whether the program gave it up.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.given_up.is_some()
    }

    /// What `step` returned, if it finished.
    #[must_use]
    pub fn output(&self, step: &str) -> Option<&Value> {
        match &self.track(step)?.run {
            Run::Finished { output } => Some(output),
            _ => None,
        }
    }

    /// How often `step` was started, runs that were cut short included: many more than its attempts hint at a step
    /// that kills the program.
    #[must_use]
    pub fn starts(&self, step: &str) -> u32 {
        self.track(step).map_or(0, |track| track.starts)
    }

    /// What `step` noted, oldest first.
    #[must_use]
    pub fn notes(&self, step: &str) -> &[Value] {
        self.track(step).map_or(&[], |track| &track.notes)
    }

    fn track(&self, step: &str) -> Option<&Track> {
        self.tracks.iter().find(|track| track.plan.name == step)
    }

    fn in_flight(&self, step: &str) -> Option<u32> {
        match self.track(step)?.run {
            Run::InFlight { attempt } => Some(attempt),
            _ => None,
        }
    }

    fn undo_in_flight(&self, step: &str) -> Option<u32> {
        match self.track(step)?.back {
            Back::InFlight { attempt } => Some(attempt),
            _ => None,
        }
    }

    fn set_run(&mut self, step: &str, run: Run) -> Option<usize> {
        let index = self.tracks.iter().position(|track| track.plan.name == step)?;
        self.tracks[index].run = run;
        Some(index)
    }

    fn set_back(&mut self, step: &str, back: Back) {
        if let Some(track) = self.tracks.iter_mut().find(|track| track.plan.name == step) {
            track.back = back;
        }
    }
}

fn name_of(event: &Event) -> &'static str {
    match event {
        Event::Created { .. } => "created",
        Event::Planned { .. } => "planned",
        Event::StepStarted { .. } => "step_started",
        Event::StepFinished { .. } => "step_finished",
        Event::StepFailed { .. } => "step_failed",
        Event::AbortRequested { .. } => "abort_requested",
        Event::UndoStarted { .. } => "undo_started",
        Event::UndoFinished { .. } => "undo_finished",
        Event::UndoFailed { .. } => "undo_failed",
        Event::Note { .. } => "note",
        Event::GivenUp { .. } => "given_up",
        Event::UndoReopened { .. } => "undo_reopened",
        Event::Finished { .. } => "finished",
    }
}
