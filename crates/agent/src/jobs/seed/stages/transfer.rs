//! The bytes travel.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bus::store::Taker;
use job::{Scope, Step, StepError};
use protocol::error::{ErrorCode, WireError};
use protocol::params::SeedStartParams;
use protocol::seed::SeedStage;
use serde_json::{Value, json};
use transfer::{Base, Cancel, DigestKind, Progress, Received, RecipientOptions, Throttle};

use super::super::base::{self, Kept};
use super::super::notes::{Note, Transferred};
use super::super::{Target, private_dir, stream, taken_of, token};
use crate::errors::system;
use crate::host::{Host, blocking};
use crate::jobs::{output, store};

/// A way through the bus answers later than a direct one.
const STORE_TELL_LIMIT: Duration = Duration::from_secs(5);

/// The bytes travel.
#[derive(Debug)]
pub(super) struct Transfer;

#[async_trait]
impl Step<Host> for Transfer {
    fn name(&self) -> &'static str {
        SeedStage::Transfer.as_str()
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SeedStartParams = scope.params()?;
        // The donor let go when both had proven the whole: after a crash right then there is nobody to ask again.
        let received = Note::all(scope, SeedStage::Transfer).into_iter().rev().find_map(|note| match note {
            Note::Received(received) => Some(received),
            _ => None,
        });
        let moved = match received {
            Some(received) => received,
            None => {
                let moved = take(host, scope, &params).await?;
                Note::Received(moved.clone()).write(scope).await?;
                moved
            }
        };
        // Only now: it takes its time, and a crash meanwhile must find that everything has come.
        if host.config.seed.keep_base {
            keep_base(scope, &params, &moved).await?;
        }
        output(&moved)
    }

    async fn undo(&self, host: &Host, scope: &Scope) -> Result<(), StepError> {
        abandon(host, scope).await?;
        let layout = Target::of(scope)?.layout(scope.job_id())?;
        let removed = blocking(move || {
            base::told(base::remove(&layout));
            Ok(())
        });
        removed.await.map_err(StepError::from)
    }
}

/// Receives what the donor gives.
async fn take(host: &Host, scope: &Scope, params: &SeedStartParams) -> Result<Transferred, StepError> {
    let throttle = Arc::new(Throttle::limited(params.options.throttle_bytes_per_s));
    let throttled = host.throttles.hold(scope.job_id(), &throttle);
    let options = recipient_options(host, scope, params, throttle).await;
    let moved = match (options, &params.offer.facts.stream) {
        (Ok((options, _taker)), Some(name)) => stream::receive(host, scope, params, name, options).await,
        (Ok((options, taker)), None) => match on_proven_ground(scope, options) {
            Ok(options) => receive_tree(scope, params, options)
                .await
                .map_err(|error| store::explain(error, taker.as_ref())),
            Err(error) => Err(error),
        },
        (Err(error), _) => Err(error),
    };
    drop(throttled);
    moved
}

/// Keeps what came for the next seed, where that can be done; a seed does not fail for it.
async fn keep_base(scope: &Scope, params: &SeedStartParams, moved: &Transferred) -> Result<(), StepError> {
    let Some(snapshot) = params.offer.facts.snapshot.as_ref().map(|snapshot| snapshot.id.clone()) else {
        return Ok(());
    };
    let layout = Target::of(scope)?.layout(scope.job_id())?;
    let (donor, root_digest) = (params.offer.facts.agent.clone(), moved.root_digest.clone());
    let stop = scope.clone();
    let keeping = blocking(move || {
        let source = base::From { donor: &donor, snapshot: &snapshot, root_digest: &root_digest };
        match base::keep(&layout, &source, &|| stop.is_cancelled()) {
            Err(error) if !stop.is_cancelled() => {
                tracing::warn!(%error, "seed.keep_base: what came is not kept for the next seed (needs XFS or btrfs)");
            }
            _ => {}
        }
        Ok(())
    });
    keeping.await.map_err(StepError::from)?;
    scope.checkpoint()
}

/// Receives the donor's tree; the counters are the stage's output.
async fn receive_tree(
    scope: &Scope,
    params: &SeedStartParams,
    mut options: RecipientOptions,
) -> Result<Transferred, StepError> {
    // Held until everything has come.
    let (kept, mut not_since) = find_base(scope, params).await?;
    options.base = kept.as_ref().map(|(_, base)| base.clone());
    let received = receive(scope, options).await?;
    if kept.is_some() && !received.since_base {
        let why = format!(
            "{} did not compare with it: its snapshot of then is gone or was written to, or its agent is older (its log says more)",
            params.offer.facts.agent
        );
        tracing::warn!(why, "what was kept here was not used");
        not_since = Some(why);
    }
    let seconds = received.elapsed.as_secs_f64().max(0.001);
    Ok(Transferred {
        stream: None,
        since: kept.filter(|_| received.since_base).map(|(kept, _)| kept.record.snapshot),
        not_since,
        bytes_total: received.bytes_total,
        bytes_moved: received.bytes_moved,
        bytes_resumed: received.bytes_resumed,
        bytes_wire: received.bytes_wire,
        files: received.files,
        root_digest: sys::hex::encode(received.root_digest),
        elapsed_ms: u64::try_from(received.elapsed.as_millis()).unwrap_or(u64::MAX),
        bytes_per_s: (received.bytes_moved as f64 / seconds) as u64,
    })
}

/// What was kept of this donor and may be used, or why what was kept may not.
async fn find_base(
    scope: &Scope,
    params: &SeedStartParams,
) -> Result<(Option<(Kept, Base)>, Option<String>), StepError> {
    if !params.options.delta || params.options.reread {
        return Ok((None, None));
    }
    let layout = Target::of(scope)?.layout(scope.job_id())?;
    let donor = params.offer.facts.agent.clone();
    let found = blocking(move || {
        let Some(kept) = base::find(&layout, &donor) else { return Ok((None, None)) };
        match kept.proven() {
            Some(base) => Ok((Some((kept, base)), None)),
            None => {
                Ok((None, Some(format!("what was kept of {} has been written to", kept.record.snapshot))))
            }
        }
    });
    found.await.map_err(StepError::from)
}

/// Tells the donor that nobody comes for its offer any more: without a word it would hold the snapshot until the offer
/// lapses. Best effort, and nothing where the donor has ended already.
pub(super) async fn abandon(host: &Host, scope: &Scope) -> Result<(), StepError> {
    let params: SeedStartParams = scope.params()?;
    let Ok(token) = token(host, scope.job_id()) else { return Ok(()) };
    // Kept until the donor was told.
    let Ok((addresses, _taker)) = way_to(host, &params).await else { return Ok(()) };
    let journal = private_dir(host, scope.job_id()).join("chunks");
    let mut options = RecipientOptions::new(addresses, token, "", journal);
    options.fingerprint = params.offer.fingerprint.as_ref().and_then(|text| text.parse().ok());
    if params.offer.store.is_some() {
        options.tell_limit = STORE_TELL_LIMIT;
    }
    if options.fingerprint.is_some() || params.offer.fingerprint.is_none() {
        // A stream's donor is asked one at a time: it must notice first that the last connection is gone.
        let tries = if params.offer.facts.stream.is_some() { 3 } else { 1 };
        let told = move || {
            for again in 0..tries {
                std::thread::sleep(Duration::from_millis(300 * u64::from(again > 0)));
                transfer::abandon(&options, "the recipient took the seed back");
            }
        };
        let _ = tokio::task::spawn_blocking(told).await;
    }
    Ok(())
}

async fn receive(scope: &Scope, options: RecipientOptions) -> Result<Received, StepError> {
    let (progress, cancel) = (Arc::clone(&options.progress), Arc::clone(&options.cancel));
    let limit = options.stall_timeout;
    let mut done = tokio::task::spawn_blocking(move || transfer::receive(options));
    loop {
        tokio::select! {
            received = &mut done => {
                report(scope, &progress, limit);
                let received = received.map_err(|e| StepError::from_error(ErrorCode::Internal, &e))?;
                return received.map_err(StepError::from);
            }
            () = scope.cancelled() => {
                cancel.cancel();
                let _ = done.await;
                return Err(StepError::stopped());
            }
            () = tokio::time::sleep(Duration::from_millis(250)) => report(scope, &progress, limit),
        }
    }
}

fn report(scope: &Scope, progress: &Progress, limit: Duration) {
    let now = progress.snapshot();
    scope.report(now.bytes_done, Some(now.bytes_total), json!(taken_of(&now, limit)));
}

/// Has the transfer use the staging directory that was made for this seed, and no other of that name.
fn on_proven_ground(scope: &Scope, options: RecipientOptions) -> Result<RecipientOptions, StepError> {
    let layout = Target::of(scope)?.layout(scope.job_id())?;
    let inode = layout.hold().and_then(|held| held.staging_inode());
    let inode = inode.map_err(|e| system("the staging directory cannot be used", &e))?;
    Ok(RecipientOptions { staging_inode: Some(inode), ..options })
}

async fn recipient_options(
    host: &Host,
    scope: &Scope,
    params: &SeedStartParams,
    throttle: Arc<Throttle>,
) -> Result<(RecipientOptions, Option<Taker>), StepError> {
    let (addresses, taker) = way_to(host, params).await?;
    let target = Target::of(scope)?;
    let staging = target.layout(scope.job_id())?.staging();
    let journal = private_dir(host, scope.job_id()).join("chunks");
    let mut options = RecipientOptions::new(addresses, token(host, scope.job_id())?, staging, journal);
    options.fingerprint = match &params.offer.fingerprint {
        Some(text) => Some(text.parse().map_err(|e| {
            StepError::new(ErrorCode::BadRequest, "the offer's fingerprint is malformed").caused_by(&e)
        })?),
        None => None,
    };
    let asked = params.options.connections;
    options.connections = usize::from(if asked == 0 { host.config.seed.connections } else { asked }).min(64);
    if params.offer.store.is_some() {
        // They all share one way.
        options.connections = 1;
        options.tell_limit = STORE_TELL_LIMIT;
    }
    options.throttle = throttle;
    options.progress = Arc::new(Progress::new());
    options.cancel = Arc::new(Cancel::new());
    options.stall_timeout = Duration::from_secs(host.config.seed.stall_s);
    options.compression = match params.options.compression {
        protocol::seed::Compression::Auto => transfer::Compression::Auto,
        protocol::seed::Compression::None => transfer::Compression::None,
        protocol::seed::Compression::Lz4 => transfer::Compression::Lz4,
        protocol::seed::Compression::Zstd => transfer::Compression::Zstd,
    };
    let reuse = params.options.delta && !params.options.replace && target.datadir.exists();
    options.delta_base = reuse.then(|| target.datadir.clone());
    if params.options.relay && host.config.seed.relay {
        options.relay = Some(host.config.seed.listen);
        // What others hand on is proven by a digest that nobody can forge.
        options.digests = vec![DigestKind::Blake3];
    }
    options.owner = nix::unistd::geteuid().is_root().then_some((target.owner.uid, target.owner.gid));
    Ok((options, taker))
}

/// Where the donor is, and what must live as long as the connections to it.
async fn way_to(
    host: &Host,
    params: &SeedStartParams,
) -> Result<(Vec<SocketAddr>, Option<Taker>), WireError> {
    match &params.offer.store {
        None => Ok((resolve(params.offer.addresses.clone()).await?, None)),
        Some(_) => {
            let taker = store::take(host, &params.offer).await?;
            Ok((vec![taker.addr()], Some(taker)))
        }
    }
}

/// All addresses of all names of the offer; one name that does not resolve is no failure while another does.
async fn resolve(names: Vec<String>) -> Result<Vec<SocketAddr>, WireError> {
    blocking(move || {
        let mut found = Vec::new();
        let mut last = None;
        for name in &names {
            match name.to_socket_addrs() {
                Ok(addresses) => found.extend(addresses),
                Err(error) => last = Some((name, error)),
            }
        }
        match (found.is_empty(), last) {
            (false, _) => Ok(found),
            (true, Some((name, error))) => {
                Err(system(format!("the donor's address {name} is not known here"), &error))
            }
            (true, None) => Err(WireError::new(ErrorCode::BadRequest, "the offer names no address")),
        }
    })
    .await
}
