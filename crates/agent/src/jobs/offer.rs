//! The donor's side of a seed: a snapshot mounted, held and served to one recipient.
//!
//! Token, certificate and port lie in a private file beside the journal, so that after a restart the agent serves the
//! very same offer again and the recipient goes on where it was.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use job::{Ending, Scope, Step, StepError, Steps, crashsafe};
use mysql::datadir::{ClonePolicy, LogNames, top_entries, unwanted};
use protocol::error::{ErrorCode, WireError};
use protocol::ids::{AgentId, JobId, OfferId, SnapshotId};
use protocol::mysql::ServerState;
use protocol::params::{Empty, SeedOfferParams};
use protocol::seed::{DonorFacts, Offer, Secret, Transport};
use protocol::snapshot::{Consistency, Snapshot};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use snapshot::{MountLease, MountMode};
use transfer::{Donor, DonorOptions, Exclude, Identity, PagePolicy, SourceGuard, Token};

mod stream;

use super::Origin;
use super::snapshots::release_if_held;
use super::{probe, store};
use crate::config::{DonorLimits, PageCheck};
use crate::errors::{from_abort, from_snapshot, to_step};
use crate::guardian::Doomed;
use crate::host::{Host, blocking, chain};
use crate::jobs::view;
use crate::queries::host::usage_of;

/// A recipient is told an address within this time or the offer has failed; mounting may replay a log.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// How often a donor looks whether the seed hurts it.
const HEALTH_INTERVAL: Duration = Duration::from_secs(2);
/// A recipient gets this long to hear why its donor failed.
const TELL_LIMIT: Duration = Duration::from_secs(15);
/// A note of *serve*: the recipient has proven the whole.
const SERVED: &str = "served";

/// Offers by their id, for `seed.release`, and what waits for them to be open.
#[derive(Debug, Default)]
pub(crate) struct OpenOffers {
    jobs: Mutex<HashMap<OfferId, JobId>>,
    waiting: Mutex<HashMap<JobId, tokio::sync::oneshot::Sender<Served>>>,
}

/// What the serving step tells to who opened the offer.
#[derive(Debug)]
struct Served {
    address: SocketAddr,
    fingerprint: Option<String>,
}

/// Parameters of the job; the secrets are not among them.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Params {
    offer: OfferId,
    recipient: AgentId,
    snapshot: Option<SnapshotId>,
    #[serde(default)]
    stream: Option<String>,
    plain: bool,
    /// Bytes of the window when the data go through the object store.
    #[serde(default)]
    store_window: Option<u64>,
}

/// What must survive a restart and must not be shown.
#[derive(Debug, Serialize, Deserialize)]
struct Private {
    token: Secret,
    identity: Option<Secret>,
    listen: SocketAddr,
}

/// The steps of an offer.
pub(crate) fn steps() -> Steps<Host> {
    vec![Arc::new(Hold), Arc::new(Serve), Arc::new(Release)]
}

/// `seed.survey`: what this donor would send.
pub(crate) async fn survey(
    host: &Arc<Host>,
    wanted: Option<&SnapshotId>,
    stream: Option<&str>,
) -> Result<DonorFacts, WireError> {
    let snapshot = match stream {
        Some(name) => {
            crate::streams::find(host, name)?;
            None
        }
        None => Some(choose(host, wanted).await?),
    };
    let server = host.instance.info().await;
    if stream.is_some() && server.state != ServerState::Ready {
        return Err(WireError::new(
            ErrorCode::Refused,
            format!(
                "a stream is read from a running server, and MySQL on {} does not answer to its agent",
                host.id
            ),
        ));
    }
    let mounted = snapshot.as_ref().and_then(|snapshot| {
        let inside = snapshot.meta.as_ref().map(|meta| meta.datadir.clone()).unwrap_or_default();
        Some(snapshot.mounts.first()?.path.join(inside))
    });
    // Counted now: the recipient's guards lean on it, and an old figure may be far too small.
    let usage = match mounted.or_else(|| server.datadir.clone()) {
        Some(path) => usage_of(host, path, true).await.ok(),
        None => None,
    };
    let free = match server.datadir.clone() {
        Some(datadir) => crate::queries::host::free_of(datadir).await.ok(),
        None => None,
    };
    let load = crate::load::measure(host, &server).await;
    let meta = snapshot.as_ref().and_then(|snapshot| snapshot.meta.as_ref());
    Ok(DonorFacts {
        agent: host.id.clone(),
        machine_id: machine_id(),
        datadir: server.datadir.clone(),
        cluster: meta.map_or_else(|| host.config.agent.cluster.clone(), |meta| meta.cluster.clone()),
        dc: host.config.agent.dc.clone(),
        bytes: usage.as_ref().map_or(0, |u| u.apparent_bytes),
        files: usage.as_ref().map_or(0, |u| u.files),
        version: meta.and_then(|meta| meta.server_version.clone()).or(server.version),
        layout: server.layout,
        coordinates: meta.and_then(|meta| meta.coordinates.clone()),
        overloaded: crate::load::overloaded(&load, &host.config.seed.donor_limits),
        load,
        encrypted_tablespaces: mysql::encryption::encrypted_tablespaces(&host.instance).await.ok(),
        free_bytes: free.map(|free| free.available_bytes),
        stream: stream.map(str::to_owned),
        addresses: Vec::new(),
        snapshot,
    })
}

/// `/etc/machine-id`, which tells two agents of one machine.
pub(crate) fn machine_id() -> Option<String> {
    let text = fs::read_to_string("/etc/machine-id").ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

/// The wanted snapshot, else the newest usable one, proven ones first.
pub(crate) async fn choose(host: &Host, wanted: Option<&SnapshotId>) -> Result<Snapshot, WireError> {
    let snapshots = host.snapshots()?.clone();
    let mut list = blocking(move || {
        let mut list = snapshots.provider.list().map_err(|e| from_snapshot(&e))?;
        snapshots.mounts.annotate(&mut list);
        Ok(list)
    })
    .await?;
    if let Some(id) = wanted {
        return list
            .into_iter()
            .find(|s| s.id == *id)
            .ok_or_else(|| from_snapshot(&snapshot::Error::NotListed { id: id.to_string() }));
    }
    list.sort_by_key(|s| std::cmp::Reverse((s.is_proven(), s.created_at)));
    list.into_iter().find(Snapshot::is_usable).ok_or_else(|| {
        WireError::new(
            ErrorCode::NotFound,
            format!("{} has no usable snapshot: make one with snapshot create", host.id),
        )
    })
}

/// `seed.offer`: returns once recipients may connect.
pub(crate) async fn open(
    host: &Arc<Host>,
    params: SeedOfferParams,
    origin: &Origin,
) -> Result<Offer, WireError> {
    if params.recipient == host.id {
        return Err(WireError::new(ErrorCode::Refused, format!("{} cannot be seeded from itself", host.id)));
    }
    if params.plain && !host.config.seed.allow_plain {
        return Err(WireError::new(
            ErrorCode::Refused,
            format!(
                "{} gives no seeds without TLS; seed.allow_plain in its configuration allows it",
                host.id
            ),
        ));
    }
    let store = match (params.transport, &params.stream) {
        (Transport::Store, Some(_)) => {
            let text = "streams travel over direct TCP only: open the way, or seed from a snapshot";
            return Err(WireError::new(ErrorCode::Refused, text));
        }
        (Transport::Store, None) => Some(store::offer(host, params.plain)?),
        (Transport::Tcp | Transport::Auto, _) => None,
    };
    let snapshot = match &params.stream {
        Some(_) => None,
        None => Some(choose(host, params.snapshot.as_ref()).await?),
    };
    if let Some(snapshot) = snapshot.as_ref().filter(|snapshot| !snapshot.is_usable()) {
        return Err(WireError::new(
            ErrorCode::Snapshot,
            format!("{} is invalid; choose another", snapshot.id),
        ));
    }
    let snapshot = snapshot.map(|snapshot| snapshot.id);
    let facts = match &params.stream {
        Some(name) => Some(survey(host, None, Some(name)).await?),
        None => None,
    };
    let id = OfferId::generate();
    let job = JobId::generate();
    let token = Token::generate();
    let private = Private {
        token: Secret::new(token.expose()),
        identity: match params.plain {
            true => None,
            false => Some(Secret::new(Identity::generate().map_err(|e| transfer_failure(&e))?.expose())),
        },
        // Through the object store nobody needs to reach it.
        listen: match &store {
            Some(_) => SocketAddr::from(([127, 0, 0, 1], 0)),
            None => host.config.seed.listen,
        },
    };
    probe::end(host).await;
    let job_params = Params {
        offer: id,
        recipient: params.recipient.clone(),
        snapshot: snapshot.clone(),
        stream: params.stream.clone(),
        plain: params.plain,
        store_window: store.as_ref().map(|store| store.window_bytes),
    };
    let (tell, told) = tokio::sync::oneshot::channel();
    host.offers.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(job, tell);
    let writing = Arc::clone(host);
    let begun = super::begin_with(host, job, "seed.offer", json!(job_params), origin, move || {
        private.save(&writing, job)
    })
    .await?;
    let served = await_served(host, begun.job, told).await?;
    let facts = match facts {
        Some(facts) => facts,
        None => survey(host, snapshot.as_ref(), None).await?,
    };
    Ok(Offer {
        id,
        job,
        recipient: params.recipient,
        addresses: if store.is_some() { Vec::new() } else { addresses(host, served.address) },
        store,
        fingerprint: served.fingerprint,
        token: Secret::new(token.expose()),
        expires_at: Timestamp::now()
            .checked_add(SignedDuration::from_secs(i64::try_from(host.config.seed.offer_s).unwrap_or(600)))
            .unwrap_or(Timestamp::MAX),
        facts,
    })
}

async fn await_served(
    host: &Arc<Host>,
    job: JobId,
    told: tokio::sync::oneshot::Receiver<Served>,
) -> Result<Served, WireError> {
    let ended = async {
        match host.runner.handle(job) {
            Some(handle) => handle.ending().await,
            None => Ending::Parked,
        }
    };
    let outcome = tokio::select! {
        served = told => served.ok(),
        _ = ended => None,
        () = tokio::time::sleep(OPEN_LIMIT) => None,
    };
    host.offers.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&job);
    if let Some(served) = outcome {
        return Ok(served);
    }
    let _ = host.runner.abort(job, "it did not open in time").await;
    let shown = view::show(host, job).await?;
    Err(shown.error.unwrap_or_else(|| WireError::new(ErrorCode::TimedOut, "the offer did not open in time")))
}

/// `seed.release`: gives an offer up; no error when it has ended by itself.
pub(crate) async fn release(host: &Host, offer: OfferId, actor: &str) -> Result<Empty, WireError> {
    let job = host.offers.jobs.lock().unwrap_or_else(PoisonError::into_inner).get(&offer).copied();
    let Some(job) = job else { return Ok(Empty {}) };
    match host.runner.abort(job, format!("released by {actor}")).await {
        Ok(_) | Err(job::AbortError::Finished(_) | job::AbortError::Unknown(_)) => Ok(Empty {}),
        Err(error) => Err(from_abort(&error)),
    }
}

/// Where recipients reach it: the configured names, else the host's own, with the port that it listens on.
pub(crate) fn addresses(host: &Host, listening: SocketAddr) -> Vec<String> {
    let port = listening.port();
    if !host.config.seed.advertise.is_empty() {
        return host.config.seed.advertise.iter().map(|name| format!("{name}:{port}")).collect();
    }
    if listening.ip().is_unspecified() {
        let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        return name.map(|name| format!("{name}:{port}")).into_iter().collect();
    }
    vec![listening.to_string()]
}

fn holder(params: &Params) -> String {
    format!("seed {} to {}", params.offer, params.recipient)
}

/// Mounts the snapshot and holds it.
#[derive(Debug)]
struct Hold;

#[async_trait]
impl Step<Host> for Hold {
    fn name(&self) -> &'static str {
        "hold"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: Params = scope.params()?;
        remember(host, &params, scope.job_id());
        let Some(lease) = acquire(host, &params).await? else { return Ok(Value::Null) };
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
struct Serve;

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
        let private = Private::load(host, scope.job_id()).map_err(to_step)?;
        // After a restart the mount may be gone; the hold is the same.
        let Some(lease) = acquire(host, &params).await? else {
            return stream::give(host, scope, &params, &private).await;
        };
        let options = donor_options(host, &params, &private, lease).await.map_err(to_step)?;
        let donor = Arc::new(Donor::start(options).map_err(|e| transfer_error(&e))?);
        private.listening(host, scope.job_id(), donor.addr()).map_err(to_step)?;
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
        let output = json!({
            "bytes_total": report.bytes_total,
            "bytes_sent": report.bytes_sent,
            "root_digest": hex(&report.root_digest),
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
struct Release;

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
    let mounts = host.snapshots().map_err(to_step)?.mounts.clone();
    let holder = holder(params);
    blocking(move || mounts.acquire(&id, MountMode::ReadOnly, &holder).map_err(|e| from_snapshot(&e)))
        .await
        .map(Some)
        .map_err(to_step)
}

async fn let_go(host: &Host, scope: &Scope) -> Result<(), StepError> {
    let params: Params = scope.params()?;
    host.offers.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(&params.offer);
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
    blocking(move || release_if_held(&snapshots, &snapshot, &holder)).await.map_err(to_step)?;
    host.look_soon();
    Ok(())
}

fn remember(host: &Host, params: &Params, job: JobId) {
    host.offers.jobs.lock().unwrap_or_else(PoisonError::into_inner).insert(params.offer, job);
}

/// Tells who opened the offer where it listens.
fn tell_open(host: &Host, job: JobId, address: SocketAddr, fingerprint: Option<transfer::Fingerprint>) {
    let served = Served { address, fingerprint: fingerprint.map(|f| f.to_string()) };
    let waiting = host.offers.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&job);
    if let Some(waiting) = waiting {
        let _ = waiting.send(served);
    }
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
                let report = report.map_err(|e| StepError::from_error("internal", &e))?;
                if let Err(error) = &report {
                    tell(scope, &donor, error).await;
                }
                // Joins its threads: no file of the snapshot is open afterwards.
                let _ = tokio::task::spawn_blocking(move || donor.stop()).await;
                return report.map_err(|e| transfer_error(&e));
            }
            () = scope.cancelled() => {
                let _ = tokio::task::spawn_blocking(move || donor.stop()).await;
                let _ = done.await;
                return Err(StepError::stopped());
            }
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                let now = progress.snapshot();
                scope.report(now.bytes_done, Some(now.bytes_total), json!(super::seed::progress_of(&now)));
            }
        }
    }
}

/// Has all seeds that this host gives slow down while it is busier than it should be, and recover afterwards.
async fn spare(host: &Host) {
    let seen = host.seen();
    let load = crate::load::measure(host, &seen.server).await;
    let limits = DonorLimits {
        io_pressure_percent: host.config.seed.ease_io_pressure_percent,
        ..host.config.seed.donor_limits.clone()
    };
    let problems = crate::load::overloaded(&load, &limits);
    match host.donor_throttle.heed(!problems.is_empty()) {
        Some(0) => tracing::info!("the host is well again: seeds are given at full speed"),
        Some(limit) if !problems.is_empty() => {
            tracing::warn!(
                bytes_per_s = limit,
                why = problems.join("; "),
                "the host is busy: seeds slow down"
            );
        }
        _ => {}
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
        options.identity =
            Some(Arc::new(Identity::from_exposed(kept.expose()).map_err(|e| transfer_failure(&e))?));
    }
    options.throttle = Arc::clone(&host.donor_throttle);
    options.idle_io = host.config.seed.idle_io;
    options.stall_timeout = Duration::from_secs(host.config.seed.stall_s);
    options.idle_timeout = Duration::from_secs(host.config.seed.offer_s);
    let snapshot = choose(host, params.snapshot.as_ref()).await?;
    options.exclude = blocking(move || exclude(&root, &snapshot)).await?;
    options.pages = match host.config.seed.pages {
        PageCheck::Off => PagePolicy::Off,
        PageCheck::Warn => PagePolicy::Warn,
        PageCheck::Fail => PagePolicy::Fail,
    };
    options.guard_interval = Duration::from_secs_f64(host.config.snapshot.guardian.interval_s);
    options.source_guard = Arc::new(LeaseGuard { lease: Some(lease), doomed: Arc::clone(&host.doomed) });
    Ok(options)
}

/// What stays at home: what must not be cloned, by its exact name at the top of the datadir.
fn exclude(root: &Path, snapshot: &Snapshot) -> Result<Exclude, WireError> {
    let entries = top_entries(root).map_err(|e| crate::errors::from_mysql(&e))?;
    let policy = clone_policy(snapshot);
    Ok(Exclude::new(
        entries.into_iter().filter(|name| unwanted(name, &policy, &LogNames::default()).is_some()),
    ))
}

/// Only a server that was stopped needs no binary log: with a log, the engine's commits are not flushed one by one, and
/// crash recovery asks the log which prepared transactions were committed. A lock on commits does not flush them either.
pub(crate) fn clone_policy(snapshot: &Snapshot) -> ClonePolicy {
    let at_rest = snapshot.meta.as_ref().is_some_and(|meta| meta.consistency == Consistency::Stopped);
    ClonePolicy { keep_binlogs: !at_rest, ..ClonePolicy::default() }
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

impl Private {
    fn path(host: &Host, job: JobId) -> PathBuf {
        host.config.agent.state_dir.join("offers").join(format!("{job}.json"))
    }

    fn save(&self, host: &Host, job: JobId) -> Result<(), WireError> {
        let path = Self::path(host, job);
        let text = serde_json::to_vec(self)
            .map_err(|e| WireError::caused(ErrorCode::Internal, "the offer cannot be written", &e))?;
        crashsafe::write(&path, &text, 0o600)
            .map_err(|e| crate::errors::system("the offer cannot be kept", &e))
    }

    fn load(host: &Host, job: JobId) -> Result<Self, WireError> {
        let path = Self::path(host, job);
        let text = fs::read(&path)
            .map_err(|e| crate::errors::system(format!("cannot read {}", path.display()), &e))?;
        serde_json::from_slice(&text)
            .map_err(|e| WireError::caused(ErrorCode::Internal, "the offer's private file is damaged", &e))
    }

    /// Remembers the port, so that the offer is found at the same place after a restart.
    fn listening(&self, host: &Host, job: JobId, address: SocketAddr) -> Result<(), WireError> {
        Self { token: self.token.clone(), identity: self.identity.clone(), listen: address }.save(host, job)
    }

    fn forget(host: &Host, job: JobId) {
        let _ = crashsafe::remove_file(&Self::path(host, job));
    }
}

/// A data plane failure as a step's.
pub(crate) fn transfer_error(error: &transfer::Error) -> StepError {
    StepError::from_error("transfer", error)
}

fn transfer_failure(error: &transfer::Error) -> WireError {
    WireError::caused(ErrorCode::Transfer, "the data plane refuses", error)
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
