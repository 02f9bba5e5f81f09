//! What comes next in a job, and where that leaves it: the decisions, as pure functions of its history.

use super::{Back, History, Run, Track};
use crate::journal::{AfterFailure, AfterUndoFailure, Cause, Outcome, State, StepFailure, Undo};

/// What the runner has to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Journal the steps.
    Plan,
    /// Run a step.
    Run {
        /// Its place, from 0.
        index: usize,
        /// From 1.
        attempt: u32,
        /// Whether this attempt began before and was cut short.
        rerun: bool,
    },
    /// Undo a step.
    Undo {
        /// Its place, from 0.
        index: usize,
        /// From 1.
        attempt: u32,
        /// Whether this attempt began before and was cut short.
        rerun: bool,
    },
    /// Journal the end.
    Finish(Outcome),
    /// Nothing: the end is journalled.
    Nothing,
}

impl History {
    /// What comes next.
    #[must_use]
    pub fn next(&self) -> Next {
        if self.outcome.is_some() {
            return Next::Nothing;
        }
        if let Some(cause) = &self.cause {
            return self.next_back(cause);
        }
        if !self.planned {
            return Next::Plan;
        }
        for (index, track) in self.tracks.iter().enumerate() {
            let (attempt, rerun) = match &track.run {
                Run::Pending => (1, false),
                Run::InFlight { attempt } => (*attempt, true),
                Run::Failed { attempt, then: AfterFailure::Retry, .. } => (attempt.saturating_add(1), false),
                Run::Finished { .. } | Run::Failed { .. } => continue,
            };
            return Next::Run { index, attempt, rerun };
        }
        Next::Finish(Outcome::Done { warnings: self.warnings() })
    }

    fn next_back(&self, cause: &Cause) -> Next {
        if self.given_up.is_none() {
            for (index, track) in self.tracks.iter().enumerate().skip(self.committed).rev() {
                let (attempt, rerun) = match &track.back {
                    _ if !track.began() => continue,
                    Back::Pending => (1, false),
                    Back::InFlight { attempt } => (*attempt, true),
                    Back::Failed { attempt, then: AfterUndoFailure::Retry, .. } => {
                        (attempt.saturating_add(1), false)
                    }
                    Back::Failed { then: AfterUndoFailure::Stop, .. } => break,
                    Back::Failed { then: AfterUndoFailure::GoOn, .. } | Back::Undone => continue,
                };
                return Next::Undo { index, attempt, rerun };
            }
        }
        let left = self.left();
        Next::Finish(match cause.clone() {
            Cause::Failed(failure) => Outcome::Failed { failure, left },
            Cause::Aborted { reason } => Outcome::Aborted { reason, left },
        })
    }

    /// What an undo that has come to its end leaves.
    fn left(&self) -> Undo {
        let after = || self.tracks.iter().skip(self.committed).rev();
        let whole = after().all(|track| !track.began() || track.back == Back::Undone);
        if whole {
            return if self.committed > 0 { Undo::ToCommit } else { Undo::Complete };
        }
        let mut failures: Vec<StepFailure> = after()
            .filter_map(|track| match &track.back {
                Back::Failed { error, .. } => Some(track.failure(error)),
                _ => None,
            })
            .collect();
        failures.extend(
            self.given_up.iter().map(|error| StepFailure { step: String::new(), error: error.clone() }),
        );
        Undo::Incomplete { failures }
    }

    fn warnings(&self) -> Vec<StepFailure> {
        let failed = |track: &Track| match &track.run {
            Run::Failed { error, .. } => Some(track.failure(error)),
            _ => None,
        };
        self.tracks.iter().filter_map(failed).collect()
    }

    /// Where the job stands.
    #[must_use]
    pub fn state(&self) -> State {
        if let Some(outcome) = &self.outcome {
            return State::Finished(outcome.clone());
        }
        let name = |index: usize| Some(self.tracks[index].plan.name.clone());
        let steps = self.tracks.len();
        match (self.next(), &self.cause) {
            (Next::Undo { index, .. }, Some(cause)) => {
                State::Undoing { step: name(index), cause: cause.clone() }
            }
            (_, Some(cause)) => State::Undoing { step: None, cause: cause.clone() },
            (Next::Run { index, attempt, .. }, None) => {
                State::Running { step: name(index), index, steps, attempt }
            }
            (Next::Plan, None) => State::Created,
            (_, None) => State::Running { step: None, index: steps, steps, attempt: 1 },
        }
    }
}
