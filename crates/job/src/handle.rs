//! A running job, as seen by those who watch or abort it.

use std::sync::Arc;

use jiff::Timestamp;
use protocol::error::{ErrorCode, WireError};
use protocol::ids::JobId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::journal::{Cause, Event, History, JournalError, Next, Outcome, State};
use crate::live::Live;
use crate::{JobSpec, Progress};

/// How a run of a job in this process came to its end.
#[derive(Debug, Clone)]
pub enum Ending {
    /// The job is at its end; the outcome is in the journal.
    Finished(Outcome),
    /// It was parked, and goes on when it is run again.
    Parked,
    /// Its journal could not be written (a full disk, say), so it stopped before acting. It goes on when run again.
    Stalled(Arc<JournalError>),
}

/// What an accepted abort means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aborting {
    /// It is journalled, and the undo begins.
    Begun,
    /// It was asked for before.
    Already,
    /// The job has failed and is being undone anyway.
    UndoingAnyway,
}

/// Why an abort is refused.
#[derive(Debug, thiserror::Error)]
pub enum AbortError {
    /// There is nothing left to abort.
    #[error("the job {0} is finished")]
    Finished(JobId),
    /// Its work stands and only the rest remains to be done.
    #[error("the job {0} is past its point of no return and goes on to its end")]
    Committed(JobId),
    /// It is not running in this process; [`Runner::abort`](crate::Runner::abort) reaches it.
    #[error("the job {0} is not running")]
    NotRunning(JobId),
    /// There is no such job.
    #[error("there is no job {0}")]
    Unknown(JobId),
    /// The request could not be journalled, so it has no effect.
    #[error("the abort of job {id} could not be journalled")]
    Journal {
        /// Which job.
        id: JobId,
        /// Why.
        source: JournalError,
    },
}

impl From<AbortError> for WireError {
    fn from(error: AbortError) -> Self {
        let code = match error {
            AbortError::Unknown(_) => ErrorCode::NotFound,
            AbortError::Finished(_) | AbortError::Committed(_) => ErrorCode::Refused,
            _ => ErrorCode::Internal,
        };
        Self::from_error(code, &error)
    }
}

/// The ways to stop a job, shared by its handle and its driver.
#[derive(Debug, Clone, Default)]
pub(crate) struct Control {
    pub(crate) abort: CancellationToken,
    pub(crate) park: CancellationToken,
    /// Either of the two.
    pub(crate) stop: CancellationToken,
}

/// A job that runs in this process. Cheap to clone; dropping it does nothing to the job.
#[derive(Debug, Clone)]
pub struct JobHandle {
    pub(crate) live: Arc<Live>,
    pub(crate) control: Control,
    pub(crate) ending: watch::Receiver<Option<Ending>>,
}

impl JobHandle {
    /// The job's id.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.live.id()
    }

    /// The job as it was created.
    #[must_use]
    pub fn spec(&self) -> JobSpec {
        self.live.read(|history| history.spec().clone())
    }

    /// Where it stands, and every change; a slow watcher sees the latest.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.live.state.subscribe()
    }

    /// When it last came on: a record was written, or a step told of more done. Steps that tell of nothing stand still.
    #[must_use]
    pub fn moved(&self) -> Timestamp {
        self.live.moved()
    }

    /// The latest progress of the running step.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Option<Progress>> {
        self.live.progress.subscribe()
    }

    /// Its folded history as of now.
    #[must_use]
    pub fn history(&self) -> History {
        self.live.read(Clone::clone)
    }

    /// Asks the job to stop and undo what it did; returns once that is journalled, before the undo.
    ///
    /// The running step sees its token; the undo begins when it has stopped or was dropped. Asking twice is fine.
    ///
    /// # Errors
    /// See [`AbortError`]; the job is then not affected.
    pub async fn abort(&self, reason: impl Into<String>) -> Result<Aborting, AbortError> {
        let accepted = abort(&self.live, reason.into()).await?;
        self.control.abort.cancel();
        self.control.stop.cancel();
        Ok(accepted)
    }

    /// Stops the job without undoing it, to be run again at the next start. [`JobHandle::ending`] tells when.
    pub fn park(&self) {
        self.control.park.cancel();
        self.control.stop.cancel();
    }

    /// Waits until the job is finished, parked or stalled; nothing of it runs any more then.
    pub async fn ending(&self) -> Ending {
        let mut ending = self.ending.clone();
        match ending.wait_for(Option::is_some).await.map(|ending| ending.clone()) {
            Ok(Some(ending)) => ending,
            // The runtime went down with the driver: as after a crash, the journal has the truth.
            _ => Ending::Parked,
        }
    }
}

/// Journals an abort if it is acceptable.
pub(crate) async fn abort(live: &Arc<Live>, reason: String) -> Result<Aborting, AbortError> {
    let id = live.id();
    let decide = move |history: &History| match history.cause() {
        _ if history.outcome().is_some() => Err(Err(AbortError::Finished(id))),
        Some(Cause::Aborted { .. }) => Err(Ok(Aborting::Already)),
        Some(Cause::Failed(_)) => Err(Ok(Aborting::UndoingAnyway)),
        None if history.is_committed() => Err(Err(AbortError::Committed(id))),
        None if matches!(history.next(), Next::Finish(_)) => Err(Err(AbortError::Finished(id))),
        None => Ok(Event::AbortRequested { reason }),
    };
    match live.append(decide).await {
        Ok(Ok(_)) => Ok(Aborting::Begun),
        Ok(Err(decided)) => decided,
        Err(JournalError::Closed) => Err(AbortError::NotRunning(id)),
        Err(source) => Err(AbortError::Journal { id, source }),
    }
}
