//! Jobs: from a command to journalled steps and back to what the bus shows.
//!
//! `kind` says what a kind of job is, `table` lists the kinds; what is common to their beginning is here.

pub(crate) mod binlog;
pub(crate) mod custom;
pub(crate) mod datadir;
pub(crate) mod kind;
pub(crate) mod offer;
pub(crate) mod on_snapshot;
pub(crate) mod probe;
pub(crate) mod seed;
pub(crate) mod service;
pub(crate) mod snapshot;
pub(crate) mod store;
pub(crate) mod table;
pub(crate) mod view;

use std::sync::Arc;

use job::{JobSpec, Scope, StepError};
use protocol::error::{ErrorCode, WireError};
use protocol::ids::{JobId, RequestId};
use protocol::job::JobAccepted;
use serde::Serialize;
use serde_json::{Value, json};

use crate::admission;
use crate::host::Host;
use kind::Kind;

/// Who asked for a job, and by which request.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// The signer, or the claimed actor.
    pub(crate) actor: String,
    /// The idempotency key.
    pub(crate) request: RequestId,
    /// W3C trace context.
    pub(crate) traceparent: Option<String>,
    /// Nobody waits for it: it leaves processors and disks to others.
    pub(crate) in_idle_time: bool,
}

/// In a job's context: see [`Origin::in_idle_time`].
pub(crate) const IN_IDLE_TIME: &str = "in_idle_time";

/// Admits, journals and starts a job, after what its kind checks first; the same request again gives the same job.
pub(crate) async fn begin<K: Kind>(
    host: &Arc<Host>,
    params: K::Params,
    origin: &Origin,
) -> Result<JobAccepted, WireError> {
    K::check(host, &params)?;
    begin_with::<K>(host, JobId::generate(), params, origin, || Ok(())).await
}

/// The same with an id chosen by the caller; `prepare` runs once the job is admitted and before it exists.
pub(crate) async fn begin_with<K: Kind>(
    host: &Arc<Host>,
    id: JobId,
    params: K::Params,
    origin: &Origin,
    prepare: impl FnOnce() -> Result<(), WireError>,
) -> Result<JobAccepted, WireError> {
    let mut admitted = host.admitted.lock().await;
    if let Some(job) = admitted.of_request(origin.request) {
        return Ok(JobAccepted { job });
    }
    let claims = K::claims(&params);
    admission::admit(&admitted.running(&host.runner), K::NAME, claims)?;
    prepare()?;
    let spec = JobSpec {
        id,
        kind: K::NAME.to_owned(),
        params: written(&params)?,
        request_id: Some(origin.request),
        actor: Some(origin.actor.clone()),
        context: json!({ "traceparent": origin.traceparent, IN_IDLE_TIME: origin.in_idle_time }),
    };
    host.runner.create(spec).await?;
    admitted.note(id, Some(origin.request), claims);
    host.runner.run(id, K::steps(), Arc::clone(host)).await?;
    Ok(JobAccepted { job: id })
}

/// What a step has done, as the journal keeps it.
pub(crate) fn output<T: Serialize>(done: &T) -> Result<Value, StepError> {
    Ok(written(done)?)
}

fn written<T: Serialize>(value: &T) -> Result<Value, WireError> {
    serde_json::to_value(value)
        .map_err(|e| WireError::caused(ErrorCode::Internal, "it cannot be written into the journal", &e))
}

/// For a step that is not run again after a crash: whether it had its effect is for a person to find out.
pub(crate) fn once(scope: &Scope) -> Result<(), StepError> {
    if scope.is_rerun() {
        return Err(StepError::new(
            ErrorCode::Internal,
            "the agent died while this ran; whether it had its effect is not known, so it was not run again",
        ));
    }
    Ok(())
}
