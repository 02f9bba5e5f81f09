//! The steps of an offer: the snapshot is held, served to one recipient, and let go.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use job::{Scope, Step, StepError};
use protocol::error::{ErrorCode, WireError};
use protocol::ids::JobId;
use serde_json::{Value, json};
use snapshot::{MountLease, MountMode};
use transfer::{Donor, DonorOptions, Identity, PagePolicy, SourceGuard};

use super::given::{self, Given};
use super::health::{HEALTH_INTERVAL, spare};
use super::left_out::exclude;
use super::{Params, Private, stream, tell_open};
use crate::config::PageCheck;
use crate::host::{Host, blocking, chain};
use crate::jobs::snapshot::release_if_held;
use crate::jobs::store;
use crate::owned::{Foreign, find};
use crate::state::doomed::Doomed;

/// A recipient gets this long to hear why its donor failed.
const TELL_LIMIT: Duration = Duration::from_secs(15);
/// A note of *serve*: the recipient has proven the whole.
const SERVED: &str = "served";

fn holder(params: &Params) -> String {
    format!("seed {} to {}", params.offer, params.recipient)
}

/// Mounts the snapshot and holds it.
#[derive(Debug)]
pub(super) struct Hold;

#[async_trait]
impl Step<Host> for Hold {
    fn name(&self) -> &'static str {
        "hold"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: Params = scope.params()?;
        remember(host, &params, scope.job_id());
        let Some(lease) = acquire(host, &params).await? else { return Ok(Value::Null) };
        if !mysql::datadir::looks_like_datadir(&lease.mounted().datadir) {
            let what = format!(
                "{} does not hold a MySQL datadir at {}: nothing of it is given",
                lease.mounted().id,
                lease.mounted().datadir.display()
            );
            return Err(StepError::new(ErrorCode::Snapshot, what));
        }
        let mounted = lease.keep();
        host.look_soon();
        Ok(json!({ "mounted": mounted.path, "datadir": mounted.datadir }))
    }

    async fn undo(&self, host: &Host, scope: &Scope) -> Result<(), StepError> {
        let_go(host, scope).await
    }
}

/// Serves until the recipient has everything.
#[derive(Debug)]
pub(super) struct Serve;

#[async_trait]
impl Step<Host> for Serve {
    fn name(&self) -> &'static str {
        "serve"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: Params = scope.params()?;
        remember(host, &params, scope.job_id());
        // The recipient has everything and comes no more, though a crash came before this was the step's end.
        if let Some(served) = scope.notes().into_iter().rev().find_map(|note| note.get(SERVED).cloned()) {
            return Ok(served);
        }
        let private = Private::load(host, scope.job_id())?;
        // After a restart the mount may be gone; the hold is the same.
        let Some(lease) = acquire(host, &params).await? else {
            return stream::give(host, scope, &params, &private).await;
        };
        let options = donor_options(host, &params, &private, lease).await?;
        let donor = Arc::new(Donor::start(options)?);
        private.listening(host, scope.job_id(), donor.addr())?;
        let giver = match params.store_window {
            Some(window) => Some(store::give(host, scope, &params.recipient, window, donor.addr()).await?),
            None => None,
        };
        tell_open(host, scope.job_id(), donor.addr(), donor.fingerprint());
        let report = wait(host, scope, donor).await;
        // An agent that only restarts goes on in the same bucket; what ends the offer removes it.
        if let Some(giver) = giver.filter(|_| !scope.is_cancelled()) {
            store::end(host, giver).await;
        }
        let report = report?;
        if let Some(snapshot) = &params.snapshot {
            given::remember(host, snapshot, &report);
        }
        let output = json!({
            "bytes_total": report.bytes_total,
            "bytes_sent": report.bytes_sent,
            "root_digest": sys::hex::encode(report.root_digest),
        });
        scope.note(json!({ SERVED: output })).await?;
        Ok(output)
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

/// Lets the snapshot go.
#[derive(Debug)]
pub(super) struct Release;

#[async_trait]
impl Step<Host> for Release {
    fn name(&self) -> &'static str {
        "release"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let_go(host, scope).await?;
        Ok(Value::Null)
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

/// The hold on the snapshot; none for a stream.
async fn acquire(host: &Host, params: &Params) -> Result<Option<MountLease>, StepError> {
    let Some(id) = params.snapshot.clone() else { return Ok(None) };
    let mounts = host.snapshots()?.mounts.clone();
    let holder = holder(params);
    find(host, &id, Foreign::allowed(params.foreign)).await?;
    blocking(move || mounts.acquire(&id, MountMode::ReadOnly, &holder).map_err(WireError::from))
        .await
        .map(Some)
        .map_err(StepError::from)
}

async fn let_go(host: &Host, scope: &Scope) -> Result<(), StepError> {
    let params: Params = scope.params()?;
    host.offers.forget(params.offer);
    Private::forget(host, scope.job_id());
    if params.store_window.is_some() {
        store::sweep(host).await;
    }
    let Some(snapshot) = params.snapshot.clone() else {
        let _ = fs::remove_dir_all(crate::streams::donor_dir(host, scope.job_id()));
        return Ok(());
    };
    let Ok(snapshots) = host.snapshots().cloned() else { return Ok(()) };
    let holder = holder(&params);
    blocking(move || release_if_held(&snapshots, &snapshot, &holder)).await?;
    host.look_soon();
    Ok(())
}

fn remember(host: &Host, params: &Params, job: JobId) {
    host.offers.remember(params.offer, job);
}

/// Lets the recipient hear why its donor failed; else it would only see that nobody answers, and wait in vain.
async fn tell(scope: &Scope, donor: &Arc<Donor>, error: &transfer::Error) {
    use transfer::Error::{Cancelled, RecipientFailed, RecipientGone};
    if matches!(error, Cancelled | RecipientFailed(_) | RecipientGone { .. }) {
        return;
    }
    let teller = Arc::clone(donor);
    let telling = tokio::task::spawn_blocking(move || teller.tell(TELL_LIMIT));
    tokio::select! {
        _ = telling => {}
        () = scope.cancelled() => {}
    }
}

/// Waits for the donor's end and reports its counters; stops it when the job is told to.
async fn wait(host: &Host, scope: &Scope, donor: Arc<Donor>) -> Result<transfer::DonorReport, StepError> {
    let waiter = Arc::clone(&donor);
    let mut done = tokio::task::spawn_blocking(move || waiter.wait());
    let progress = donor.progress();
    let mut looks = tokio::time::interval(HEALTH_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => spare(host).await,
            report = &mut done => {
                let report = report.map_err(|e| StepError::from_error(ErrorCode::Internal, &e))?;
                if let Err(error) = &report {
                    tell(scope, &donor, error).await;
                }
                // Joins its threads: no file of the snapshot is open afterwards.
                let _ = tokio::task::spawn_blocking(move || donor.stop()).await;
                return report.map_err(StepError::from);
            }
            () = scope.cancelled() => {
                // An agent that only restarts, as for an upgrade, serves the same offer again.
                let parked = scope.is_parked();
                let end = move || if parked { donor.leave() } else { donor.stop() };
                let _ = tokio::task::spawn_blocking(end).await;
                let _ = done.await;
                return Err(StepError::stopped());
            }
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                let now = progress.snapshot();
                scope.report(now.bytes_done, Some(now.bytes_total), json!(crate::jobs::seed::progress_of(&now)));
            }
        }
    }
}

async fn donor_options(
    host: &Host,
    params: &Params,
    private: &Private,
    lease: MountLease,
) -> Result<DonorOptions, WireError> {
    let token = private
        .token
        .expose()
        .parse()
        .map_err(|e| WireError::caused(ErrorCode::Internal, "the offer's private file is damaged", &e))?;
    let root = lease.mounted().datadir.clone();
    let mut options = DonorOptions::new(root.clone(), token);
    options.listen = private.listen;
    options.tls = !params.plain;
    if let Some(kept) = &private.identity {
        options.identity = Some(Arc::new(Identity::from_exposed(kept.expose())?));
    }
    options.throttle = Arc::clone(&host.donor_throttle);
    options.idle_io = host.config.seed.idle_io;
    options.pace_long_paths = host.config.seed.pace_long_paths;
    options.stall_timeout = Duration::from_secs(host.config.seed.stall_s);
    options.idle_timeout = Duration::from_secs(host.config.seed.offer_s);
    let names = host.instance.log_names().await;
    let binlogs = host.config.seed.binlogs;
    options.bases = Some(Arc::new(Given::of(host, &params.recipient, names.clone())?));
    options.exclude = blocking(move || exclude(&root, &names, binlogs)).await?;
    options.pages = match host.config.seed.pages {
        PageCheck::Off => PagePolicy::Off,
        PageCheck::Warn => PagePolicy::Warn,
        PageCheck::Fail => PagePolicy::Fail,
    };
    options.guard_interval = Duration::from_secs_f64(host.config.snapshot.guardian.interval_s);
    options.source_guard = Arc::new(LeaseGuard { lease: Some(lease), doomed: Arc::clone(&host.doomed) });
    Ok(options)
}

/// Whether what is read is still the snapshot: the guardian's word first, since it knows the cause, then the mount's.
struct LeaseGuard {
    lease: Option<MountLease>,
    doomed: Arc<Doomed>,
}

impl SourceGuard for LeaseGuard {
    fn prove(&self) -> Result<(), String> {
        let Some(lease) = &self.lease else { return Ok(()) };
        self.doomed.check(&lease.mounted().id)?;
        lease.prove().map_err(|error| chain(&error))
    }
}

impl Drop for LeaseGuard {
    /// The hold belongs to the job, which outlives this process; its own step lets go once no file is open any more.
    fn drop(&mut self) {
        drop(self.lease.take().map(MountLease::keep));
    }
}
