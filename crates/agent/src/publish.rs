//! From the journals of jobs to the bus: every record that matters becomes a durable event, progress a droppable message.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bus::{Bus, Outbox};
use jiff::Timestamp;
use job::journal::{AfterFailure, Event};
use job::{JobError, Observer, Outcome, Progress, Record, Runner};
use protocol::event::{EventData, JobStage};
use protocol::ids::{AgentId, EventId, JobId};
use protocol::job::JobState;
use protocol::seed::TransferProgress;
use protocol::subject::Subject;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::errors::{error_of_outcome, from_step};
use crate::host::chain;
use crate::jobs::{table, view};

/// Progress of one job is told at most this often.
const PROGRESS_PAUSE: Duration = Duration::from_millis(200);
/// Between two tries to make the stream of events.
const STREAM_PAUSE_MIN: Duration = Duration::from_secs(1);
const STREAM_PAUSE_MAX: Duration = Duration::from_secs(60);
/// What the permissions forbid is tried again after so long.
const REFUSED_PAUSE: Duration = Duration::from_secs(3_600);
/// An output larger than this stays in the journal; the event says so.
const DETAIL_LIMIT: usize = 32 * 1024;

/// Tells the bus what happens to jobs.
#[derive(Debug)]
pub(crate) struct Publisher {
    outbox: Outbox,
    known: Mutex<HashMap<JobId, Known>>,
    progress: mpsc::Sender<(JobId, TransferProgress)>,
    told: Mutex<HashMap<JobId, Instant>>,
    ended: mpsc::UnboundedSender<JobId>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    kind: String,
    actor: String,
    summary: String,
    /// By which a seed has one name in the logs of both hosts.
    offer: Option<String>,
    /// Absent for a job of an earlier run of the agent.
    begun: Option<Timestamp>,
    /// Bytes, and bytes per second, of the step that moves data.
    moved: Option<(u64, u64)>,
}

/// Jobs that have ended.
pub(crate) type Ended = mpsc::UnboundedReceiver<JobId>;

/// Progress on its way to the bus.
pub(crate) type ProgressQueue = mpsc::Receiver<(JobId, TransferProgress)>;

impl Publisher {
    pub(crate) fn new(outbox: Outbox) -> (Arc<Self>, ProgressQueue, Ended) {
        let (progress, queue) = mpsc::channel(64);
        let (ended, jobs) = mpsc::unbounded_channel();
        let publisher = Self { outbox, known: Mutex::default(), progress, told: Mutex::default(), ended };
        (Arc::new(publisher), queue, jobs)
    }

    /// A job of an earlier run, so that its further records have their names.
    pub(crate) fn remember(&self, spec: &job::JobSpec) {
        let known = Known {
            kind: spec.kind.clone(),
            actor: spec.actor.clone().unwrap_or_default(),
            summary: table::about(&spec.kind, &spec.params).summary,
            offer: offer_of(&spec.params).map(str::to_owned),
            ..Known::default()
        };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(spec.id, known);
    }

    /// Tells what a crash swallowed between a journal and the spool. Before any job of an earlier run goes on.
    pub(crate) async fn tell_missed(&self, runner: &Runner) -> Result<(), JobError> {
        let outbox = self.outbox.clone();
        let spooled = match tokio::task::spawn_blocking(move || outbox.events()).await {
            Ok(Ok(events)) => events,
            Ok(Err(error)) => {
                tracing::warn!(error = %chain(&error), "whether events of jobs are missing cannot be told");
                return Ok(());
            }
            Err(_) => return Ok(()),
        };
        // Of journals of earlier releases only the time says what was told: what is older than all that is still in the spool was in it
        // and has been sent. A clock that was set back makes it say too much.
        let oldest = spooled.first().map(|event| event.time);
        let is_young = |at: Timestamp| oldest.is_some_and(|oldest| at >= oldest);
        let told: HashSet<(JobId, u64)> = spooled.iter().filter_map(record_told).collect();
        for job in runner.list().await? {
            let lacks = job.heard.map_or_else(|| is_young(job.updated_at), |heard| heard + 1 < job.records);
            if !lacks {
                continue;
            }
            let shown = runner.show(job.id).await?;
            self.remember(shown.history.spec());
            let is_unheard = |record: &&Record| {
                shown.heard.map_or_else(|| is_young(record.at), |heard| record.seq > heard)
                    && is_event(job.id, &record.event)
                    && !told.contains(&(job.id, record.seq))
            };
            let mut all_told = true;
            for record in shown.records.iter().filter(is_unheard) {
                tracing::info!(job = %job.id, seq = record.seq, "an event that a crash had swallowed is told now");
                all_told &= self.on_record(&job.id, record);
            }
            if all_told && let Some(last) = job.records.checked_sub(1) {
                runner.heard(job.id, last).await;
            }
            if shown.history.outcome().is_some() {
                self.forget(job.id);
            }
        }
        Ok(())
    }

    /// What is known of a job, with what this record adds to it.
    fn learn(&self, job: &JobId, record: &Record) -> Option<Known> {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get_mut(job)?;
        match &record.event {
            Event::Created { .. } => known.begun = Some(record.at),
            Event::StepFinished { output, .. } => {
                if let (Some(bytes), Some(rate)) =
                    (output["bytes_moved"].as_u64(), output["bytes_per_s"].as_u64())
                {
                    known.moved = Some((bytes, rate));
                }
            }
            _ => {}
        }
        Some(known.clone())
    }

    /// A job that ended has no further records.
    fn forget(&self, job: JobId) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&job);
        self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&job);
    }

    /// Whether it is in the spool.
    fn emit(&self, record: &Record, event: EventData) -> bool {
        let spooled = self.outbox.publish_as(id_of(record), event);
        if let Err(error) = &spooled {
            tracing::error!(error = %chain(error), "an event of a job could not be spooled; it is told after the next start");
        }
        spooled.is_ok()
    }
}

impl Observer for Publisher {
    fn on_record(&self, job: &JobId, record: &Record) -> bool {
        if let Event::Created { spec } = &record.event {
            self.remember(spec);
        }
        let Some(known) = self.learn(job, record) else { return true };
        let mut is_told = true;
        let finished = matches!(record.event, Event::Finished { .. });
        if let Some(mut stage) = stage_of(*job, &known, &record.event) {
            log(&stage, &known, record.at);
            // Kept in the stream, the hash proves the whole journal up to this record.
            stage.detail["journal"] = serde_json::json!({ "seq": record.seq, "hash": record.hash });
            let event = if finished { EventData::JobFinished(stage) } else { EventData::JobStage(stage) };
            is_told = self.emit(record, event);
        }
        if finished {
            self.forget(*job);
            // Nobody listens while the agent goes down.
            let _ = self.ended.send(*job);
        }
        is_told
    }

    fn on_progress(&self, job: &JobId, progress: &Progress) {
        let Ok(counters) = serde_json::from_value::<TransferProgress>(progress.detail.clone()) else {
            return;
        };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if told.get(job).is_some_and(|last| now.duration_since(*last) < PROGRESS_PAUSE) {
            return;
        }
        told.insert(*job, now);
        drop(told);
        let _ = self.progress.try_send((*job, counters));
    }
}

/// The offer that a job gives or takes, by its parameters.
pub(crate) fn offer_of(params: &Value) -> Option<&str> {
    [&params["offer"], &params["offer"]["id"]].into_iter().find_map(Value::as_str)
}

/// The same for the same record, so that the stream drops a second copy.
fn id_of(record: &Record) -> EventId {
    let digits = record.hash.to_string();
    let number = digits.get(..32).and_then(|half| u128::from_str_radix(half, 16).ok());
    number.map_or_else(EventId::generate, EventId::derived)
}

/// Which record of which job an event tells of.
fn record_told(event: &protocol::event::Event) -> Option<(JobId, u64)> {
    match event.known()? {
        EventData::JobStage(stage) | EventData::JobFinished(stage) => {
            Some((stage.job, stage.detail["journal"]["seq"].as_u64()?))
        }
        _ => None,
    }
}

/// Makes the durable stream of events where there is none and this agent may; until then events wait in the spool.
///
/// Under the accounts that `ctl bus config` makes, which their inboxes tell, a controller makes it: nothing is asked that would be
/// refused. Elsewhere JetStream may come later than the agent, so it is asked again and again.
pub(crate) async fn ensure_stream(
    bus: Bus,
    agent: AgentId,
    limits: bus::StreamLimits,
    shutdown: CancellationToken,
) {
    if bus.config().inbox_prefix.as_deref() == Some(bus::permissions::agent_inbox(&agent).as_str()) {
        return;
    }
    let mut pause = STREAM_PAUSE_MIN;
    loop {
        if bus.connected(STREAM_PAUSE_MAX).await.is_ok() {
            match bus::events::ensure_event_stream(&bus, &limits).await {
                Ok(_) => return,
                Err(error @ bus::BusError::NotPermitted { .. }) => {
                    tracing::info!(error = %chain(&error), "this agent may not make the stream of events; a controller does");
                    pause = REFUSED_PAUSE;
                }
                Err(error @ bus::BusError::StreamDiffers { .. }) => {
                    tracing::warn!(error = %chain(&error), "the stream of events is not as it should be");
                    return;
                }
                Err(error @ bus::BusError::NoRoom { .. }) => {
                    tracing::warn!(error = %chain(&error), "no stream of events; they wait in the spool (events.max_mib)");
                }
                Err(error) => tracing::debug!(error = %chain(&error), "no stream of events yet"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(STREAM_PAUSE_MAX.max(pause)),
            () = shutdown.cancelled() => return,
        }
    }
}

/// Sends progress while there is a connection, until `shutdown`.
pub(crate) async fn send_progress(
    mut queue: ProgressQueue,
    bus: Bus,
    agent: AgentId,
    shutdown: CancellationToken,
) {
    loop {
        let next = tokio::select! {
            next = queue.recv() => next,
            () = shutdown.cancelled() => return,
        };
        let Some((job, progress)) = next else { return };
        if !bus.is_connected() {
            continue;
        }
        let subject = Subject::Progress { agent: agent.clone(), job }.to_string();
        if let Ok(payload) = serde_json::to_vec(&progress) {
            let sending = bus.client().publish(subject, payload.into());
            let _ = tokio::time::timeout(Duration::from_secs(1), sending).await;
        }
    }
}

/// Whether a record becomes an event; see [`stage_of`].
fn is_event(job: JobId, event: &Event) -> bool {
    stage_of(job, &Known::default(), event).is_some()
}

fn stage_of(job: JobId, known: &Known, event: &Event) -> Option<JobStage> {
    let mut stage = JobStage {
        job,
        kind: known.kind.clone(),
        actor: known.actor.clone(),
        summary: known.summary.clone(),
        state: JobState::Running,
        stage: None,
        what: String::new(),
        detail: Value::Object(serde_json::Map::new()),
        error: None,
    };
    let what = match event {
        Event::Created { .. } => {
            stage.state = JobState::Pending;
            "accepted"
        }
        Event::StepStarted { step, attempt } => {
            stage.stage = Some(step.clone());
            stage.detail["attempt"] = (*attempt).into();
            "started"
        }
        Event::StepFinished { step, output } => {
            stage.stage = Some(step.clone());
            if output.to_string().len() <= DETAIL_LIMIT {
                stage.detail["output"] = output.clone();
            }
            "finished"
        }
        Event::StepFailed { step, error, then, .. } => {
            stage.stage = Some(step.clone());
            stage.error = Some(from_step(step, error));
            if *then == AfterFailure::Retry { "retrying" } else { "failed" }
        }
        Event::AbortRequested { reason } => {
            stage.state = JobState::Undoing;
            stage.detail["reason"] = reason.clone().into();
            "aborting"
        }
        Event::UndoFinished { step } => {
            stage.state = JobState::Undoing;
            stage.stage = Some(step.clone());
            "undone"
        }
        Event::UndoFailed { step, error, .. } => {
            stage.state = JobState::Undoing;
            stage.stage = Some(step.clone());
            stage.error = Some(from_step(step, error));
            "undo-failed"
        }
        Event::Finished { outcome } => finished(&mut stage, outcome),
        Event::Planned { .. }
        | Event::UndoStarted { .. }
        | Event::Note { .. }
        | Event::GivenUp { .. }
        | Event::UndoReopened { .. } => return None,
    };
    stage.what = what.to_owned();
    Some(stage)
}

fn finished(stage: &mut JobStage, outcome: &Outcome) -> &'static str {
    stage.state = view::state_of(&job::State::Finished(outcome.clone()));
    stage.error = error_of_outcome(outcome);
    if let Outcome::Failed { failure, .. } = outcome {
        stage.stage = Some(failure.step.clone()).filter(|step| !step.is_empty());
    }
    match stage.state {
        JobState::Succeeded => "succeeded",
        JobState::Aborted => "aborted",
        _ => "failed",
    }
}

/// What somebody looks for the next morning is in the first line of a job and in the last.
fn log(stage: &JobStage, known: &Known, at: Timestamp) {
    let (job, kind, step, what) = (&stage.job, &stage.kind, stage.stage.as_deref(), &stage.what);
    let (actor, about, offer) = (&stage.actor, &stage.summary, known.offer.as_deref());
    let is_over = !matches!(stage.state, JobState::Pending | JobState::Running | JobState::Undoing);
    if is_over || stage.state == JobState::Pending {
        let took = known.begun.filter(|_| is_over).map(|begun| at.duration_since(begun).as_millis());
        let took_s = took.map(|ms| ms as f64 / 1000.0);
        let (bytes, bytes_per_s) = known.moved.unzip();
        match &stage.error {
            Some(error) => {
                tracing::warn!(%job, kind, actor, about, offer, step, took_s, bytes, %error, "job {what}");
            }
            None => {
                tracing::info!(%job, kind, actor, about, offer, took_s, bytes, bytes_per_s, "job {what}");
            }
        }
        return;
    }
    match &stage.error {
        Some(error) => tracing::warn!(%job, kind, step, what, %error, "job"),
        None => tracing::info!(%job, kind, step, what, "job"),
    }
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
