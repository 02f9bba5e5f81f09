//! Jobs: from a command to journalled steps and back to what the bus shows.

pub(crate) mod custom;
pub(crate) mod datadir;
pub(crate) mod offer;
pub(crate) mod on_snapshot;
pub(crate) mod probe;
pub(crate) mod seed;
pub(crate) mod service;
pub(crate) mod snapshots;
pub(crate) mod store;
pub(crate) mod view;

use std::sync::Arc;

use job::{JobSpec, Steps};
use protocol::command::Command;
use protocol::error::{ErrorCode, WireError};
use protocol::ids::{JobId, RequestId};
use protocol::job::{JobAccepted, JobView};
use serde_json::{Value, json};

use crate::admission::{self, Running};
use crate::host::Host;

/// Who asked for a job, and by which request.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// The signer, or the claimed actor.
    pub(crate) actor: String,
    /// The idempotency key.
    pub(crate) request: RequestId,
    /// W3C trace context.
    pub(crate) traceparent: Option<String>,
}

/// The steps of a kind of job; `None` for a kind that this build does not know.
pub(crate) fn steps(kind: &str) -> Option<Steps<Host>> {
    Some(match kind {
        "seed.start" => seed::steps(),
        "seed.undo" => vec![Arc::new(seed::undo::PutBack)],
        "seed.offer" => offer::steps(),
        "snapshot.create" => vec![Arc::new(snapshots::Take)],
        "snapshot.remove" => vec![Arc::new(snapshots::Remove)],
        "snapshot.verify" => vec![Arc::new(snapshots::Verify)],
        "mysql.start" => vec![Arc::new(service::Start)],
        "mysql.stop" => vec![Arc::new(service::Stop)],
        "mysql.restart" => vec![Arc::new(service::Restart)],
        "mysql.start-on-snapshot" => on_snapshot::steps(),
        "mysql.leave-snapshot" => vec![Arc::new(on_snapshot::Leave)],
        "datadir.clear" => vec![Arc::new(datadir::Clear)],
        "datadir.post-copy" => vec![Arc::new(datadir::PostCopy)],
        "binlog.apply" => vec![Arc::new(custom::Apply)],
        "custom.run" => vec![Arc::new(custom::RunCommand)],
        _ => return None,
    })
}

/// Refuses at once what a job would refuse in its first step, so that the caller hears it in the reply.
pub(crate) fn check(host: &Host, command: &Command) -> Result<(), WireError> {
    match command {
        Command::SnapshotCreate(_) | Command::SnapshotRemove(_) | Command::SnapshotVerify(_) => {
            host.snapshots().map(|_| ())
        }
        Command::MysqlStartOnSnapshot(p) => on_snapshot::check(host, p),
        Command::DatadirClear(_) | Command::DatadirPostCopy(_) | Command::SeedUndo(_) => {
            on_snapshot::refuse_while_covered(host, command.spec().name)?;
            match command {
                Command::DatadirPostCopy(_) if host.config.seed.post_copy.is_empty() => Err(WireError::new(
                    ErrorCode::MissingCapability,
                    "no seed.post_copy is configured on this host",
                )),
                _ => Ok(()),
            }
        }
        Command::BinlogApply(p) => crate::queries::binlog::check_apply(host, p),
        Command::CustomRun(p) if !host.config.custom.contains_key(&p.name) => {
            let known: Vec<&str> = host.config.custom.keys().map(String::as_str).collect();
            Err(WireError::new(
                ErrorCode::NotFound,
                format!("{:?} is no command of this host; it has: {}", p.name, known.join(", ")),
            ))
        }
        _ => Ok(()),
    }
}

/// Admits, journals and starts a job; the same request again gives the same job.
pub(crate) async fn begin(
    host: &Arc<Host>,
    kind: &str,
    params: Value,
    origin: &Origin,
) -> Result<JobAccepted, WireError> {
    begin_with(host, JobId::generate(), kind, params, origin, || Ok(())).await
}

/// The same with an id chosen by the caller; `prepare` runs once the job is admitted and before it exists.
pub(crate) async fn begin_with(
    host: &Arc<Host>,
    id: JobId,
    kind: &str,
    params: Value,
    origin: &Origin,
    prepare: impl FnOnce() -> Result<(), WireError>,
) -> Result<JobAccepted, WireError> {
    let _admission = host.admission.lock().await;
    if let Some(job) = host.jobs_of_requests.lock().await.get(&origin.request) {
        return Ok(JobAccepted { job: *job });
    }
    // One whose end is told already but which is not put away yet holds nothing any more.
    let handles = host.runner.running();
    let at_work = handles.iter().filter(|handle| handle.history().outcome().is_none());
    let running: Vec<Running> = at_work.map(running).collect();
    admission::admit(&running, kind, store::is_through_store(kind, &params))?;
    prepare()?;
    let spec = JobSpec {
        id,
        kind: kind.to_owned(),
        params,
        request_id: Some(origin.request),
        actor: Some(origin.actor.clone()),
        context: json!({ "traceparent": origin.traceparent }),
    };
    host.runner.create(spec).await?;
    host.jobs_of_requests.lock().await.insert(origin.request, id);
    launch(host, id, kind).await?;
    Ok(JobAccepted { job: id })
}

/// Runs a journalled job, new or found at the start of the agent.
pub(crate) async fn launch(host: &Arc<Host>, id: JobId, kind: &str) -> Result<(), WireError> {
    let steps = steps(kind).ok_or_else(|| {
        WireError::new(ErrorCode::Internal, format!("this agent knows no jobs of kind {kind}"))
    })?;
    host.runner.run(id, steps, Arc::clone(host)).await?;
    Ok(())
}

/// `jobs.abort`.
pub(crate) async fn abort(host: &Arc<Host>, id: JobId, actor: &str) -> Result<JobView, WireError> {
    host.runner.abort(id, format!("asked by {actor}")).await?;
    view::show(host, id).await
}

fn running(handle: &job::JobHandle) -> Running {
    let spec = handle.spec();
    let through_store = store::is_through_store(&spec.kind, &spec.params);
    Running { id: spec.id, kind: spec.kind, actor: spec.actor.unwrap_or_default(), through_store }
}
