//! Jobs as the bus shows them, from their journals.

use job::journal::History;
use job::{Cause, JobHandle, Outcome, State, Undo};
use protocol::error::{ErrorCode, WireError};
use protocol::ids::{JobId, RequestId};
use protocol::job::{JobState, JobView};
use protocol::params::{JobsListParams, JobsRecordParams, JournalPart};
use protocol::seed::{SeedStage, TransferProgress};
use serde_json::Value;

use crate::errors::from_step;
use crate::host::Host;

/// Bytes of a journal in one reply: quoted as JSON it may take twice as much, and a NATS message holds 1 MiB.
const PART_BYTES: usize = 256 * 1024;

/// `jobs.list`.
pub(crate) async fn list(host: &Host, params: &JobsListParams) -> Result<Vec<JobView>, WireError> {
    if !(1..=1000).contains(&params.limit) {
        return Err(WireError::new(ErrorCode::BadRequest, "limit must be 1 to 1000"));
    }
    let mut jobs = host.runner.list().await?;
    jobs.sort_by_key(|job| std::cmp::Reverse((job.created_at, job.id)));
    jobs.retain(|job| !params.unfinished || !matches!(job.state, State::Finished(_)));
    let mut views = Vec::new();
    for job in jobs.into_iter().take(params.limit as usize) {
        views.push(show(host, job.id).await?);
    }
    Ok(views)
}

/// `jobs.show`.
pub(crate) async fn show(host: &Host, id: JobId) -> Result<JobView, WireError> {
    if let Some(handle) = host.runner.handle(id) {
        return Ok(of_running(&handle));
    }
    let shown = host.runner.show(id).await?;
    Ok(of_history(&shown.history))
}

/// `jobs.record`: the journal as it lies on disk, whatever became of it; its reader checks the chain.
pub(crate) async fn record(host: &Host, params: &JobsRecordParams) -> Result<JournalPart, WireError> {
    let lines = host.runner.journal_lines(params.job).await?;
    let first = usize::try_from(params.from).unwrap_or(usize::MAX);
    let mut part = JournalPart { lines: Vec::new(), next: None };
    let mut bytes = 0;
    for (number, line) in lines.into_iter().enumerate().skip(first) {
        bytes += line.len();
        // A line by itself always goes: its length has a limit of its own.
        if bytes > PART_BYTES && !part.lines.is_empty() {
            part.next = Some(number as u64);
            break;
        }
        part.lines.push(line);
    }
    Ok(part)
}

/// A job that runs in this process.
pub(crate) fn of_running(handle: &JobHandle) -> JobView {
    let mut view = of_history(&handle.history());
    let progress = handle.progress().borrow().clone();
    if let Some(now) = progress.and_then(|p| serde_json::from_value::<TransferProgress>(p.detail).ok()) {
        view.progress = Some(now);
    }
    view
}

/// A job as its journal tells it.
pub(crate) fn of_history(history: &History) -> JobView {
    let spec = history.spec();
    let state = history.state();
    let finished = matches!(state, State::Finished(_));
    JobView {
        id: spec.id,
        kind: spec.kind.clone(),
        state: state_of(&state),
        stage: stage_of(&state),
        actor: spec.actor.clone().unwrap_or_default(),
        request: spec.request_id.unwrap_or_else(|| RequestId::from(spec.id.as_uuid())),
        summary: summary(&spec.kind, &spec.params),
        donor: spec
            .params
            .pointer("/offer/facts/agent")
            .and_then(Value::as_str)
            .and_then(|id| id.parse().ok()),
        created_at: history.created_at(),
        finished_at: finished.then(|| history.updated_at()),
        progress: counters_of(history),
        result: result_of(history),
        error: error_of(&state),
    }
}

/// The state in the bus's words.
pub(crate) fn state_of(state: &State) -> JobState {
    match state {
        State::Created => JobState::Pending,
        State::Running { .. } => JobState::Running,
        State::Undoing { .. } => JobState::Undoing,
        State::Finished(Outcome::Done { .. }) => JobState::Succeeded,
        State::Finished(Outcome::Failed { .. }) => JobState::Failed,
        State::Finished(Outcome::Aborted { .. }) => JobState::Aborted,
    }
}

fn stage_of(state: &State) -> Option<String> {
    match state {
        State::Running { step, .. } | State::Undoing { step, .. } => step.clone(),
        State::Finished(Outcome::Failed { failure, .. }) => {
            Some(failure.step.clone()).filter(|step| !step.is_empty())
        }
        State::Created | State::Finished(_) => None,
    }
}

/// Why the job failed or is being undone.
pub(crate) fn error_of(state: &State) -> Option<WireError> {
    match state {
        State::Undoing { cause, .. } => Some(error_of_cause(cause)),
        State::Finished(outcome) => error_of_outcome(outcome),
        State::Created | State::Running { .. } => None,
    }
}

fn error_of_cause(cause: &Cause) -> WireError {
    match cause {
        Cause::Failed(failure) => from_step(&failure.step, &failure.error),
        Cause::Aborted { reason } => WireError::new(ErrorCode::Aborted, format!("aborted: {reason}")),
    }
}

/// Why the job failed, and what its undo left behind.
pub(crate) fn error_of_outcome(outcome: &Outcome) -> Option<WireError> {
    let (mut error, left) = match outcome {
        Outcome::Done { .. } => return None,
        Outcome::Failed { failure, left } => (from_step(&failure.step, &failure.error), left),
        Outcome::Aborted { reason, left } => {
            (WireError::new(ErrorCode::Aborted, format!("aborted: {reason}")), left)
        }
    };
    if let Undo::Incomplete { failures } = left {
        for failure in failures {
            error
                .message
                .push_str(&format!("; {} could not be undone: {}", failure.step, failure.error.message));
        }
    }
    Some(error)
}

/// What the job gave: the output of the last step that gave any.
fn result_of(history: &History) -> Option<Value> {
    if !matches!(history.outcome(), Some(Outcome::Done { .. })) {
        return None;
    }
    let plan = history.plan();
    plan.iter().rev().filter_map(|step| history.output(&step.name)).find(|output| !output.is_null()).cloned()
}

/// What a seed's transfer had moved in the end; the counters of one under way are not in the journal.
fn counters_of(history: &History) -> Option<TransferProgress> {
    let transfer = history.output(SeedStage::Transfer.as_str())?;
    let number = |name: &str| transfer.get(name).and_then(Value::as_u64);
    let (bytes, files) = (number("bytes_total")?, number("files")?);
    Some(TransferProgress {
        bytes_total: bytes,
        bytes_done: bytes,
        bytes_moved: number("bytes_moved")?,
        files_total: files,
        files_done: files,
        bytes_per_s: number("bytes_per_s")?,
        silence: None,
    })
}

/// What a job is about, for people.
pub(crate) fn summary(kind: &str, params: &Value) -> String {
    let text = |pointer: &str| params.pointer(pointer).and_then(Value::as_str).unwrap_or("?").to_owned();
    let source = |snapshot: &str, stream: &str| match params.pointer(stream).and_then(Value::as_str) {
        Some(name) => format!("stream {name}"),
        None => text(snapshot),
    };
    match kind {
        "seed.start" => format!(
            "{} → {} from {}",
            text("/offer/facts/agent"),
            text("/offer/recipient"),
            source("/offer/facts/snapshot/id", "/offer/facts/stream")
        ),
        "seed.offer" => format!("{} to {}", source("/snapshot", "/stream"), text("/recipient")),
        "seed.undo" => format!("old datadir of seed {}", text("/job")),
        "snapshot.remove" | "snapshot.verify" | "mysql.start-on-snapshot" | "mysql.leave-snapshot" => {
            text("/snapshot")
        }
        "custom.run" => text("/name"),
        "datadir.clear" => text("/datadir"),
        _ => String::new(),
    }
}
