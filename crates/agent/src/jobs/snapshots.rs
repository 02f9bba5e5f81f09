//! Making, removing and proving snapshots.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use job::{Scope, Step, StepError};
use mysql::lock::{InstanceLock, LockLimits, LockScope};
use mysql::sandbox::{self, CheckBudget, SandboxOptions};
use protocol::error::{ErrorCode, WireError};
use protocol::event::{EventData, SnapshotEvent};
use protocol::mysql::{ServerInfo, ServerState};
use protocol::params::{SnapshotCreateParams, SnapshotRemoveParams, SnapshotVerifyParams};
use protocol::snapshot::{Consistency, Freeze, Proof, Snapshot};
use serde_json::{Value, json};
use snapshot::provider::Take as TakeNow;
use snapshot::{CreateRequest, MountMode, Mounted, Observed, SizePolicy};
use tokio::runtime::Handle;

use super::on_snapshot::layout_in;
use crate::host::{Host, Snapshots, blocking};
use crate::owned::{Foreign, find};

/// Makes a snapshot of the live datadir.
#[derive(Debug)]
pub(crate) struct Take;

/// Removes a snapshot that nobody holds.
#[derive(Debug)]
pub(crate) struct Remove;

/// Starts a private server on a snapshot and checks its tables.
#[derive(Debug)]
pub(crate) struct Verify;

#[async_trait]
impl Step<Host> for Take {
    fn name(&self) -> &'static str {
        "take"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SnapshotCreateParams = scope.params()?;
        let acting = Acting::begin(host, scope);
        let snapshot = take(host, &params).await?;
        acting.end(host).await;
        serde_json::to_value(snapshot).map_err(|e| StepError::from_error(ErrorCode::Internal, &e))
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

#[async_trait]
impl Step<Host> for Remove {
    fn name(&self) -> &'static str {
        "remove"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SnapshotRemoveParams = scope.params()?;
        let snapshots = host.snapshots()?.clone();
        let acting = Acting::begin(host, scope);
        match find(host, &params.snapshot, Foreign::allowed(params.foreign)).await {
            // The run before had removed it and died before it could say so.
            Err(error) if scope.is_rerun() && error.code == ErrorCode::NotFound => {}
            Err(error) => return Err(error.into()),
            Ok(found) => {
                blocking(move || snapshots.mounts.remove_snapshot(&found.id).map_err(WireError::from))
                    .await?;
            }
        }
        acting.end(host).await;
        Ok(Value::Null)
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
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
        serde_json::to_value(proof).map_err(|e| StepError::from_error(ErrorCode::Internal, &e))
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

/// Gives a hold up; no error when it is not there.
pub(crate) fn release_if_held(
    snapshots: &Snapshots,
    id: &protocol::ids::SnapshotId,
    holder: &str,
) -> Result<(), WireError> {
    match snapshots.mounts.release(id, holder) {
        Ok(()) | Err(snapshot::Error::NotHeld { .. } | snapshot::Error::NotListed { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// While it lives, changes of the set of snapshots are told under the name of who asked.
struct Acting;

impl Acting {
    fn begin(host: &Host, scope: &Scope) -> Self {
        *host.acting.lock().unwrap_or_else(PoisonError::into_inner) = scope.spec().actor;
        Self
    }

    /// Has the change seen and told before the name goes.
    async fn end(self, host: &Host) {
        host.look_now().await;
        *host.acting.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

async fn take(host: &Host, params: &SnapshotCreateParams) -> Result<Snapshot, WireError> {
    let snapshots = host.snapshots()?.clone();
    super::on_snapshot::refuse_while_covered(host, "a snapshot of the live data")?;
    let server = host.instance.info().await;
    let datadir = server.datadir.clone().ok_or_else(|| {
        WireError::new(
            ErrorCode::NotFound,
            "the datadir is not known: set mysql.datadir in the configuration",
        )
    })?;
    let keep = params.keep_s.map(|s| SignedDuration::from_secs(i64::try_from(s).unwrap_or(i64::MAX / 4)));
    let request = CreateRequest {
        cluster: host.config.agent.cluster.clone(),
        dc: host.config.agent.dc.clone(),
        host: host.id.clone(),
        datadir: datadir.clone(),
        size: params.size_bytes.map(SizePolicy::FixedBytes),
        expires_at: keep.and_then(|keep| Timestamp::now().checked_add(keep).ok()),
    };
    let instant = Instant::decide(host, &snapshots, server, &datadir).await?;
    blocking(move || {
        let mut at_instant = |take: TakeNow<'_>| instant.run(take);
        snapshots.provider.create(&request, &mut at_instant).map_err(WireError::from)
    })
    .await
}

/// How the data are brought to rest for one snapshot.
struct Instant {
    instance: mysql::Instance,
    server: ServerInfo,
    /// Block commits and read the position, waiting this long at the most.
    lock: Option<Duration>,
    /// The lock is a wish only: without it crash recovery still makes the snapshot whole.
    lock_optional: bool,
    /// Hold the process still while files are copied one by one.
    pause: Option<i32>,
    runtime: Handle,
}

impl Instant {
    async fn decide(
        host: &Host,
        snapshots: &Snapshots,
        server: ServerInfo,
        datadir: &Path,
    ) -> Result<Self, WireError> {
        let atomic = snapshots.provider.probe().features.atomic;
        let stopped = server.state == ServerState::Stopped;
        let layout = server.layout.clone();
        let path = datadir.to_owned();
        let placement = blocking(move || {
            mysql::consistency::Placement::check_layout(&path, layout.as_ref()).map_err(WireError::from)
        })
        .await?;
        let must_lock = match placement.verdict() {
            mysql::consistency::Verdict::OneVolume => false,
            mysql::consistency::Verdict::BlockCommits => true,
            mysql::consistency::Verdict::Impossible(missing) => {
                let files: Vec<String> =
                    missing.iter().map(|e| format!("{} ({:?})", e.path.display(), e.part)).collect();
                return Err(WireError::new(
                    ErrorCode::Refused,
                    format!(
                        "a snapshot of {} would not hold the whole database; these lie elsewhere: {}",
                        datadir.display(),
                        files.join(", ")
                    ),
                ));
            }
        };
        let pause = (!atomic && !stopped).then_some(server.pid).flatten();
        if !atomic && !stopped && pause.is_none() {
            return Err(WireError::new(
                ErrorCode::Refused,
                "this provider copies file after file, and the server's process could not be found to hold it still",
            ));
        }
        let reachable = server.state == ServerState::Ready;
        if must_lock && !stopped && (!reachable || host.lock_wait().is_none()) {
            return Err(WireError::new(
                ErrorCode::Refused,
                "the binary log lies on another volume, so commits must be blocked for the instant: give the agent \
                 access to MySQL and set snapshot.lock_wait_s",
            ));
        }
        Ok(Self {
            instance: host.instance.clone(),
            lock: host.lock_wait().filter(|_| reachable),
            lock_optional: !must_lock,
            pause,
            server,
            runtime: Handle::current(),
        })
    }

    fn run(&self, take: TakeNow<'_>) -> Result<Observed, Box<dyn std::error::Error + Send + Sync>> {
        if self.server.state == ServerState::Stopped {
            take()?;
            // That nothing runs says nothing of how it ended: after a kill the logs belong to the data, and with them a server
            // that was shut down cleanly loses nothing.
            return Ok(Observed {
                consistency: Consistency::Crash,
                server_version: self.server.version.clone(),
                ..Observed::stopped()
            });
        }
        let lock = self.take_lock()?;
        {
            let paused =
                self.pause.map(|pid| snapshot::freeze::pause(pid, Duration::from_secs(10))).transpose()?;
            take()?;
            if let Some(paused) = paused {
                let still_ms = u64::try_from(paused.paused_for().as_millis()).unwrap_or(u64::MAX);
                drop(paused);
                tracing::info!(still_ms, "the server stood still for the instant of its snapshot");
            }
        }
        let mut observed = Observed {
            freeze: if self.pause.is_some() { Freeze::Paused } else { Freeze::Atomic },
            server_version: self.server.version.clone(),
            ..Observed::crash_consistent()
        };
        if let Some(lock) = lock {
            let coordinates = lock.coordinates().clone();
            match self.runtime.block_on(lock.release()) {
                Ok(_) => {
                    observed.consistency = Consistency::Locked;
                    observed.log = Some(mysql::history::identity(&self.server, &coordinates));
                    observed.coordinates = Some(coordinates);
                }
                // Longer than the server holds a lock: still one instant, only its position is not known.
                Err(error) if self.lock_optional => {
                    tracing::warn!(%error, "the lock was lost during the snapshot; its position is not recorded");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(observed)
    }

    fn take_lock(&self) -> Result<Option<InstanceLock>, mysql::Error> {
        let Some(wait) = self.lock else { return Ok(None) };
        let limits = LockLimits { wait, hold: Duration::from_secs(600) };
        match self.runtime.block_on(InstanceLock::take(&self.instance, LockScope::Commits, limits)) {
            Ok(lock) => Ok(Some(lock)),
            Err(error) if self.lock_optional => {
                tracing::warn!(error = %crate::host::chain(&error), "no lock for the snapshot; it is crash-consistent and its position is not recorded");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Run directories of private servers, beside the mounts: servers of other users get through to both.
pub(crate) fn private_root(host: &Host) -> PathBuf {
    let mounts = &host.config.snapshot.mount_root;
    mounts.parent().unwrap_or(mounts).join("private")
}

async fn prove(host: &Host, mounted: &Mounted, budget_s: u64, scope: &Scope) -> Result<Proof, StepError> {
    let server = host.instance.info().await;
    let settings = host.instance.settings().await;
    let mut options = SandboxOptions::new(&mounted.datadir);
    options.run_root = private_root(host);
    // Crash recovery asks the binary log, where it lies in the datadir, which prepared transactions were committed.
    let log_bin = server.layout.as_ref().and_then(|layout| layout.log_bin.as_deref()?.file_name());
    options.log_bin = log_bin.and_then(|base| base.to_str()).map(str::to_owned);
    // A directory outside the datadir is looked for in the snapshot, never opened where the live server has it.
    let live = server.datadir.clone().unwrap_or_default();
    options.layout = layout_in(server.layout.as_ref(), &live, mounted)?;
    options.extra_args = settings.key_arguments();
    options.binary = settings.binary;
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
