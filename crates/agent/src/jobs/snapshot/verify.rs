//! `snapshot.verify`: a private server on a snapshot recovers it and checks its tables.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use job::{Scope, Step, StepError, Steps};
use mysql::sandbox::{self, CheckBudget, SandboxOptions};
use protocol::command::Call as _;
use protocol::error::{ErrorCode, WireError};
use protocol::event::{EventData, SnapshotEvent};
use protocol::params::SnapshotVerifyParams;
use protocol::snapshot::{Proof, Snapshot};
use serde_json::{Value, json};
use snapshot::{MountMode, Mounted};

use super::release_if_held;
use crate::admission::Claims;
use crate::host::{Host, Snapshots, blocking};
use crate::jobs::kind::Kind;
use crate::jobs::on_snapshot::layout_in;
use crate::jobs::{IN_IDLE_TIME, output};
use crate::owned::{Foreign, find};

/// Starts a private server on a snapshot and checks its tables.
#[derive(Debug)]
pub(crate) struct Verify;

impl Kind for Verify {
    type Params = SnapshotVerifyParams;
    const NAME: &'static str = SnapshotVerifyParams::SPEC.name;

    fn claims(_: &SnapshotVerifyParams) -> Claims {
        &[]
    }

    fn check(host: &Host, _: &SnapshotVerifyParams) -> Result<(), WireError> {
        host.snapshots().map(|_| ())
    }

    fn summary(params: &SnapshotVerifyParams) -> String {
        params.snapshot.to_string()
    }

    fn steps() -> Steps<Host> {
        vec![Arc::new(Self)]
    }
}

#[async_trait]
impl Step<Host> for Verify {
    fn name(&self) -> &'static str {
        "verify"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SnapshotVerifyParams = scope.params()?;
        if params.budget_s == 0 {
            return Err(StepError::new(
                ErrorCode::BadRequest,
                "a budget of 0 s would check nothing: give it some seconds",
            ));
        }
        let holder = format!("verify {}", scope.job_id());
        let snapshots = host.snapshots()?.clone();
        find(host, &params.snapshot, Foreign::Never).await?;
        let (mounts, id, name) = (snapshots.mounts.clone(), params.snapshot.clone(), holder.clone());
        let lease =
            blocking(move || mounts.acquire(&id, MountMode::Writable, &name).map_err(WireError::from))
                .await?;
        let mounted = lease.mounted().clone();
        if !mysql::datadir::looks_like_datadir(&mounted.datadir) {
            let what = format!("{} holds no MySQL datadir: there is nothing to prove", params.snapshot);
            return Err(StepError::new(ErrorCode::Snapshot, what));
        }
        let proof = tokio::select! {
            proof = prove(host, &mounted, params.budget_s, scope) => proof,
            () = scope.cancelled() => Err(StepError::stopped()),
        };
        let released = blocking(move || lease.release().map_err(WireError::from)).await;
        let proof = proof?;
        released?;
        let snapshot = record(&snapshots, &params, proof.clone()).await?;
        let by = scope.spec().actor.unwrap_or_default();
        host.emit(EventData::SnapshotVerified(SnapshotEvent { snapshot, by }));
        host.look_soon();
        if !proof.passed {
            let what = format!("{} is not proven: {}", params.snapshot, proof.detail);
            return Err(StepError::new(ErrorCode::Snapshot, what));
        }
        output(&proof)
    }

    async fn undo(&self, host: &Host, scope: &Scope) -> Result<(), StepError> {
        let params: SnapshotVerifyParams = scope.params()?;
        let Ok(snapshots) = host.snapshots().cloned() else { return Ok(()) };
        let holder = format!("verify {}", scope.job_id());
        blocking(move || release_if_held(&snapshots, &params.snapshot, &holder))
            .await
            .map_err(StepError::from)
    }
}

async fn prove(host: &Host, mounted: &Mounted, budget_s: u64, scope: &Scope) -> Result<Proof, StepError> {
    let server = host.instance.info().await;
    let settings = host.instance.settings().await;
    let mut options = SandboxOptions::new(&mounted.datadir);
    options.run_root = host.private_root();
    // Crash recovery asks the binary log, where it lies in the datadir, which prepared transactions were committed.
    let log_bin = server.layout.as_ref().and_then(|layout| layout.log_bin.as_deref()?.file_name());
    options.log_bin = log_bin.and_then(|base| base.to_str()).map(str::to_owned);
    // A directory outside the datadir is looked for in the snapshot, never opened where the live server has it.
    let live = server.datadir.clone().unwrap_or_default();
    options.layout = layout_in(server.layout.as_ref(), &live, mounted)?;
    options.extra_args = settings.key_arguments();
    options.binary = settings.binary;
    if scope.spec().context[IN_IDLE_TIME] == true {
        options = options.in_idle_time(host.config.snapshot.verify_bytes_per_s);
    }
    let report = |progress: mysql::Progress| scope.report(0, None, json!({ "message": progress.message }));
    sandbox::verify(options, CheckBudget { time: Duration::from_secs(budget_s) }, &report)
        .await
        .map_err(StepError::from)
}

/// Keeps the proof with the snapshot. One made by others has no metadata of ours to keep it in.
async fn record(
    snapshots: &Snapshots,
    params: &SnapshotVerifyParams,
    proof: Proof,
) -> Result<Snapshot, WireError> {
    let (provider, id) = (snapshots.provider.clone(), params.snapshot.clone());
    blocking(move || {
        let list = provider.list()?;
        let mut snapshot = list
            .into_iter()
            .find(|s| s.id == id)
            .ok_or_else(|| snapshot::Error::NotListed { id: id.to_string() })?;
        if let Some(meta) = &mut snapshot.meta {
            meta.proof = Some(proof);
            provider.record(&id, meta)?;
        }
        Ok(snapshot)
    })
    .await
}
