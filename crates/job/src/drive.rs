//! Drives one job: asks its history what comes next, journals it, does it, journals how it went.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::handle::{Control, Ending};
use crate::inject::{Fault, Moment, Phase};
use crate::journal::{
    AfterFailure, AfterUndoFailure, Event, History, JournalError, Next, Outcome, PlannedStep,
};
use crate::live::Live;
use crate::shared::{Shared, Steps};
use crate::step::{OnFailure, OnUndoFailure, Retry, Step, StepError};
use crate::{Code, Inject, Scope};

/// How long a step that was dropped gets to let go; one that blocks its thread never does.
const DROP_GRACE: Duration = Duration::from_millis(200);
/// The longest error text that is kept, in bytes: a step may hand on what a program printed.
const MAX_TEXT_BYTES: usize = 16 << 10;
const MAX_CAUSES: usize = 32;

pub(crate) struct Driver<C> {
    pub(crate) live: Arc<Live>,
    pub(crate) steps: Steps<C>,
    pub(crate) ctx: Arc<C>,
    pub(crate) control: Control,
    pub(crate) inject: Inject,
    pub(crate) stop_grace: Duration,
}

/// What a step, or an undo, that was let run came back with.
enum Ended<T> {
    Returned(Result<T, StepError>),
    /// It did not stop when told to, and was dropped.
    Dropped,
}

/// A driver's hold on its job; let go also when the driver panics.
struct Hold {
    live: Arc<Live>,
    shared: Arc<Shared>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.live.close();
        self.shared.forget(self.live.id());
    }
}

pub(crate) fn plan_of<C: Send + Sync + 'static>(steps: &Steps<C>) -> Vec<PlannedStep> {
    steps.iter().map(|step| PlannedStep { name: step.name().to_owned(), commits: step.commits() }).collect()
}

/// The steps without those that stand before one that began and have not begun themselves: a program of before knew them not.
pub(crate) fn without_newcomers<C: Send + Sync + 'static>(steps: Steps<C>, history: &History) -> Steps<C> {
    let begun = |step: &Arc<dyn Step<C>>| history.has_begun(step.name());
    let last = steps.iter().rposition(begun);
    let kept =
        steps.into_iter().enumerate().filter(|(at, step)| begun(step) || last.is_none_or(|last| *at > last));
    kept.map(|(_, step)| step).collect()
}

impl<C: Send + Sync + 'static> Driver<C> {
    /// Drives the job until it is finished, parked or stalled. Lets go of everything before it says so.
    pub(crate) async fn drive(self, shared: Arc<Shared>, ending: watch::Sender<Option<Ending>>) {
        let hold = Hold { live: Arc::clone(&self.live), shared };
        let result = match self.advance().await {
            Ok(Some(outcome)) => Ending::Finished(outcome),
            Ok(None) => Ending::Parked,
            Err(error) => {
                let cause: &(dyn Error + 'static) = &error;
                tracing::error!(job = %self.live.id(), error = cause, "the job stopped: its journal cannot be written");
                Ending::Stalled(Arc::new(error))
            }
        };
        drop(self);
        drop(hold);
        ending.send_replace(Some(result));
    }

    async fn advance(&self) -> Result<Option<Outcome>, JournalError> {
        let plan = plan_of(&self.steps);
        if self.live.read(|history| history.next() != Next::Plan && history.plan() != plan) {
            let _ = self.live.append::<()>(move |_| Ok(Event::Planned { steps: plan })).await?;
        }
        loop {
            let next = self.live.read(History::next);
            if self.control.park.is_cancelled() && !matches!(next, Next::Finish(_) | Next::Nothing) {
                return Ok(None);
            }
            match next.clone() {
                Next::Plan => {
                    let steps = plan_of(&self.steps);
                    self.append_if(next, Event::Planned { steps }).await?;
                }
                Next::Run { index, attempt, rerun } => self.run(next, index, attempt, rerun).await?,
                Next::Undo { index, attempt, rerun } => self.undo(next, index, attempt, rerun).await?,
                Next::Finish(outcome) => {
                    self.append_if(next, Event::Finished { outcome }).await?;
                }
                Next::Nothing => return Ok(self.live.read(|history| history.outcome().cloned())),
            }
        }
    }

    /// Appends `event` if `expected` is still what comes next; an abort may have come between.
    async fn append_if(&self, expected: Next, event: Event) -> Result<bool, JournalError> {
        let appended = self
            .live
            .append(move |history| if history.next() == expected { Ok(event) } else { Err(()) })
            .await?;
        Ok(appended.is_ok())
    }

    async fn run(&self, due: Next, index: usize, attempt: u32, rerun: bool) -> Result<(), JournalError> {
        let step = &self.steps[index];
        let name = step.name();
        if !rerun && !wait(step.retry(), attempt, &self.control.stop).await {
            return Ok(());
        }
        if !self.append_if(due, Event::StepStarted { step: name.to_owned(), attempt }).await? {
            return Ok(());
        }
        let stop = self.control.stop.clone();
        let tokens = (stop.clone(), self.control.abort.clone());
        let scope = Scope::new(Arc::clone(&self.live), name, attempt, rerun, tokens);
        let (step_task, ctx, fault) = (Arc::clone(step), Arc::clone(&self.ctx), self.fault(Phase::Run, name));
        let task = tokio::spawn(async move {
            fault.strike(Moment::Begin, &scope).await?;
            if fault.repeats() {
                step_task.run(&ctx, &scope).await?;
            }
            let output = step_task.run(&ctx, &scope).await?;
            fault.strike(Moment::End, &scope).await?;
            Ok(output)
        });
        let ended = supervise(task, &stop, self.stop_grace).await;
        self.journal_run(step.as_ref(), attempt, ended).await?;
        self.fault(Phase::Run, name).strike_done(&stop).await;
        Ok(())
    }

    async fn journal_run(
        &self,
        step: &dyn Step<C>,
        attempt: u32,
        ended: Ended<Value>,
    ) -> Result<(), JournalError> {
        let name = step.name().to_owned();
        let error = match ended {
            Ended::Returned(Ok(output)) => {
                let event = Event::StepFinished { step: name.clone(), output };
                match self.live.append::<()>(move |_| Ok(event)).await {
                    Err(JournalError::TooLarge { size_bytes }) => {
                        StepError::new(Code::Output, format!("the step's output takes {size_bytes} bytes"))
                    }
                    other => return other.map(|_| ()),
                }
            }
            Ended::Returned(Err(error)) => error,
            Ended::Dropped => {
                tracing::warn!(job = %self.live.id(), step = name, "the step did not stop in time and was dropped");
                StepError::new(
                    Code::Unresponsive,
                    "the step did not stop when it was told to, and was dropped",
                )
            }
        };
        // A parked step is merely interrupted: the next start runs this very attempt again.
        if self.control.park.is_cancelled() && !self.control.abort.is_cancelled() {
            return Ok(());
        }
        let again = error.retryable && attempt < step.retry().attempts;
        let otherwise = match step.on_failure() {
            OnFailure::Undo => AfterFailure::Undo,
            OnFailure::GoOn => AfterFailure::GoOn,
        };
        let error = bounded(error);
        let event = move |history: &History| {
            let then = match history.cause() {
                Some(_) => AfterFailure::Undo,
                None if again => AfterFailure::Retry,
                None => otherwise,
            };
            Ok::<_, ()>(Event::StepFailed { step: name, attempt, error, then })
        };
        self.live.append(event).await.map(|_| ())
    }

    async fn undo(&self, due: Next, index: usize, attempt: u32, rerun: bool) -> Result<(), JournalError> {
        let step = &self.steps[index];
        let name = step.name();
        if !rerun && !wait(step.undo_retry(), attempt, &self.control.park).await {
            return Ok(());
        }
        if !self.append_if(due, Event::UndoStarted { step: name.to_owned(), attempt }).await? {
            return Ok(());
        }
        let stop = self.control.park.clone();
        // Nobody aborts an undo.
        let tokens = (stop.clone(), CancellationToken::new());
        let scope = Scope::new(Arc::clone(&self.live), name, attempt, rerun, tokens);
        let (step_task, ctx, fault) =
            (Arc::clone(step), Arc::clone(&self.ctx), self.fault(Phase::Undo, name));
        let task = tokio::spawn(async move {
            fault.strike(Moment::Begin, &scope).await?;
            if fault.repeats() {
                step_task.undo(&ctx, &scope).await?;
            }
            step_task.undo(&ctx, &scope).await?;
            fault.strike(Moment::End, &scope).await
        });
        let event = match supervise(task, &stop, self.stop_grace).await {
            Ended::Returned(Ok(())) => Event::UndoFinished { step: name.to_owned() },
            _ if self.control.park.is_cancelled() => return Ok(()),
            Ended::Returned(Err(error)) => undo_failed(step.as_ref(), attempt, error),
            // Only a park tells an undo to stop, and that is dealt with above.
            Ended::Dropped => return Ok(()),
        };
        let _ = self.live.append::<()>(move |_| Ok(event)).await?;
        self.fault(Phase::Undo, name).strike_done(&stop).await;
        Ok(())
    }

    fn fault(&self, phase: Phase, step: &'static str) -> Fault {
        self.live.read(|history| self.inject.at(&history.spec().kind, phase, step))
    }
}

fn undo_failed<C: Send + Sync + 'static>(step: &dyn Step<C>, attempt: u32, error: StepError) -> Event {
    let then = match step.on_undo_failure() {
        _ if error.retryable && attempt < step.undo_retry().attempts => AfterUndoFailure::Retry,
        OnUndoFailure::Stop => AfterUndoFailure::Stop,
        OnUndoFailure::GoOn => AfterUndoFailure::GoOn,
    };
    Event::UndoFailed { step: step.name().to_owned(), attempt, error: bounded(error), then }
}

/// Waits before a further attempt; `false` when told to stop meanwhile.
async fn wait(retry: Retry, attempt: u32, stop: &CancellationToken) -> bool {
    if attempt <= 1 {
        return true;
    }
    timeout(retry.wait_after(attempt - 1), stop.cancelled()).await.is_err()
}

/// Lets a step run to its end; once told to stop it has `grace` left before it is dropped. A panic is a failure.
async fn supervise<T>(
    mut task: JoinHandle<Result<T, StepError>>,
    stop: &CancellationToken,
    grace: Duration,
) -> Ended<T> {
    let joined = tokio::select! {
        joined = &mut task => Some(joined),
        () = stop.cancelled() => timeout(grace, &mut task).await.ok(),
    };
    match joined {
        Some(Ok(result)) => Ended::Returned(result),
        Some(Err(error)) => Ended::Returned(Err(panicked(error))),
        None => {
            task.abort();
            let _ = timeout(DROP_GRACE, task).await;
            Ended::Dropped
        }
    }
}

fn panicked(error: tokio::task::JoinError) -> StepError {
    let Ok(panic) = error.try_into_panic() else {
        return StepError::new(Code::Dropped, "the step was dropped with the program's runtime");
    };
    let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    StepError::new(Code::Panicked, format!("the step panicked: {}", said.unwrap_or("without a message")))
}

fn bounded(mut error: StepError) -> StepError {
    error.causes.truncate(MAX_CAUSES);
    for text in error.causes.iter_mut().chain([&mut error.message]) {
        if text.len() > MAX_TEXT_BYTES {
            text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
            text.push('…');
        }
    }
    error
}
