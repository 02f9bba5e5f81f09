//! Jobs as the bus shows them, from their journals.

use job::journal::History;
use job::{JobHandle, Outcome, State};
use protocol::error::{ErrorCode, WireError};
use protocol::ids::{JobId, RequestId};
use protocol::job::{JobState, JobView, KEPT_UNTIL};
use protocol::params::{JobsListParams, JobsRecordParams, JournalPart};
use protocol::seed::{SeedStage, TransferProgress};
use serde::Deserialize as _;
use serde_json::Value;

use super::seed::{Transferred, undo};
use super::table;
use crate::errors::error_of;
use crate::host::Host;
use crate::outputs;

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

/// A job, with what its journal holds.
pub(crate) async fn show(host: &Host, id: JobId) -> Result<JobView, WireError> {
    let mut view = match host.runner.handle(id) {
        Some(handle) => of_running(&handle),
        None => of_history(&host.runner.show(id).await?.history),
    };
    // As it is now, and not as it was when the seed ended: `seed undo` needs it.
    if let (Some(result), Some(until)) = (&mut view.result, undo::kept_until(host, id)) {
        result[KEPT_UNTIL] = Value::String(format!("{until:.0}"));
    }
    Ok(view)
}

/// `jobs.show`; what a command of the host has printed goes to those who may run one, whether it succeeded or not.
pub(crate) async fn show_whole(host: &Host, id: JobId, operates: bool) -> Result<JobView, WireError> {
    let mut view = show(host, id).await?;
    if operates && let Some(printed) = outputs::of(&host.config.agent.state_dir, id) {
        view.result = Some(printed);
    }
    Ok(view)
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
    let about = table::about(&spec.kind, &spec.params);
    let state = history.state();
    let finished = matches!(state, State::Finished(_));
    JobView {
        id: spec.id,
        kind: spec.kind.clone(),
        state: state_of(&state),
        stage: stage_of(&state),
        actor: spec.actor.clone().unwrap_or_default(),
        request: spec.request_id.unwrap_or_else(|| RequestId::from(spec.id.as_uuid())),
        summary: about.summary,
        donor: about.donor,
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
    let output = history.output(SeedStage::Transfer.as_str())?;
    let moved = Transferred::deserialize(output).ok()?;
    Some(TransferProgress {
        bytes_total: moved.bytes_total,
        bytes_done: moved.bytes_total,
        bytes_moved: moved.bytes_moved,
        files_total: moved.files,
        files_done: moved.files,
        bytes_per_s: moved.bytes_per_s,
        silence: None,
    })
}
