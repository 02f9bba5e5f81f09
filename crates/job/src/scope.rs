//! What a running step, or its undo, knows of its job.

use std::sync::Arc;

use protocol::ids::JobId;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::journal::{Event, JournalError};
use crate::live::Live;
use crate::{Code, JobSpec, Progress, StepError};

/// One step's view of its job. Cheap to clone, and usable from blocking threads.
#[derive(Debug, Clone)]
pub struct Scope {
    live: Arc<Live>,
    step: &'static str,
    attempt: u32,
    rerun: bool,
    stop: CancellationToken,
    abort: CancellationToken,
}

impl Scope {
    pub(crate) fn new(
        live: Arc<Live>,
        step: &'static str,
        attempt: u32,
        rerun: bool,
        (stop, abort): (CancellationToken, CancellationToken),
    ) -> Self {
        Self { live, step, attempt, rerun, stop, abort }
    }

    /// The job.
    #[must_use]
    pub fn job_id(&self) -> JobId {
        self.live.id()
    }

    /// The step that runs or is undone.
    #[must_use]
    pub fn step(&self) -> &'static str {
        self.step
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether this very attempt began before and was cut short by a crash or a park.
    #[must_use]
    pub fn is_rerun(&self) -> bool {
        self.rerun
    }

    /// The job as it was created.
    #[must_use]
    pub fn spec(&self) -> JobSpec {
        self.live.read(|history| history.spec().clone())
    }

    /// The job's parameters.
    ///
    /// # Errors
    /// [`Code::Params`]: they do not have the form of a `T`.
    pub fn params<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        let params = self.live.read(|history| history.spec().params.clone());
        serde_json::from_value(params).map_err(|error| {
            StepError::new(
                Code::Params,
                format!("the parameters of job {} do not fit its kind", self.job_id()),
            )
            .caused_by(&error)
        })
    }

    /// What the finished step `step` returned.
    ///
    /// # Errors
    /// [`Code::Output`]: it has not finished, or returned something else than a `T`.
    pub fn output<T: DeserializeOwned>(&self, step: &str) -> Result<T, StepError> {
        self.try_output(step)?
            .ok_or_else(|| StepError::new(Code::Output, format!("the step {step} has left no output")))
    }

    /// What the step `step` returned, or `None` if it has not finished: for an undo, which must be right in any case.
    ///
    /// # Errors
    /// [`Code::Output`]: it returned something else than a `T`.
    pub fn try_output<T: DeserializeOwned>(&self, step: &str) -> Result<Option<T>, StepError> {
        let Some(output) = self.live.read(|history| history.output(step).cloned()) else { return Ok(None) };
        serde_json::from_value(output).map(Some).map_err(|error| {
            StepError::new(Code::Output, format!("the output of the step {step} is not what was expected"))
                .caused_by(&error)
        })
    }

    /// What this step has noted so far, oldest first, also in earlier attempts and before a crash.
    #[must_use]
    pub fn notes(&self) -> Vec<Value> {
        self.notes_of(self.step)
    }

    /// What the step `step` has noted, oldest first.
    #[must_use]
    pub fn notes_of(&self, step: &str) -> Vec<Value> {
        self.live.read(|history| history.notes(step).to_vec())
    }

    /// Writes `note` into the journal and returns once it is on disk. Observers hear of it like of any record.
    ///
    /// For milestones and intents, not for streams: every note stays in memory and in the journal for the job's life.
    ///
    /// # Errors
    /// [`Code::Journal`]: it could not be written; the step must not go on to what the note announces.
    pub async fn note(&self, note: Value) -> Result<(), StepError> {
        let event = Event::Note { step: self.step.to_owned(), note };
        noted(self.live.append::<()>(move |_| Ok(event)).await)
    }

    /// As [`Scope::note`], for blocking threads.
    ///
    /// # Errors
    /// As [`Scope::note`].
    pub fn note_blocking(&self, note: Value) -> Result<(), StepError> {
        let event = Event::Note { step: self.step.to_owned(), note };
        noted(self.live.append_blocking::<()>(move |_| Ok(event)))
    }

    /// Tells watchers how far the step is. Never waits, never fails; the latest report wins.
    pub fn report(&self, done: u64, total: Option<u64>, detail: Value) {
        self.live.report(Progress { step: self.step.to_owned(), done, total, detail });
    }

    /// Waits until the step is told to stop: a step by abort or park, an undo by park only.
    ///
    /// Then free what must not outlive the step and return [`StepError::stopped`], within seconds.
    pub async fn cancelled(&self) {
        self.stop.cancelled().await;
    }

    /// Whether the step is told to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Whether the step is told to stop for now, and not because somebody wants the job ended: this very attempt runs again at the
    /// next start.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.stop.is_cancelled() && !self.abort.is_cancelled()
    }

    /// `Err(StepError::stopped())` once the step is told to stop; for use with `?` between parts of a step.
    ///
    /// # Errors
    /// The step is told to stop.
    pub fn checkpoint(&self) -> Result<(), StepError> {
        if self.is_cancelled() { Err(StepError::stopped()) } else { Ok(()) }
    }

    /// The token behind [`Scope::cancelled`], to hand to others.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }
}

fn noted<T>(appended: Result<T, JournalError>) -> Result<(), StepError> {
    appended.map(|_| ()).map_err(|error| {
        StepError::new(Code::Journal, "cannot write a note into the journal").caused_by(&error)
    })
}
