//! Seeds through the object store: the bus carries the connection, the data plane does not notice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bus::store::{Giver, Taker, Way, bucket_of, remove_bucket};
use bus::{Bus, BusConfig, BusError};
use job::{Scope, StepError};
use protocol::error::{ErrorCode, WireError};
use protocol::ids::AgentId;
use protocol::seed::{Offer, StoreOffer};
use tokio_util::sync::CancellationToken;

use crate::admission::{Claim, Resource};
use crate::host::{Host, chain};

/// Between two tries to open or to clean up while the bus is away.
const AGAIN: Duration = Duration::from_secs(1);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const SWEEP: Duration = Duration::from_secs(10);
/// Messages of half a megabyte take longer than commands.
const BULK_TIMEOUT_MS: u64 = 20_000;

/// What an offer through the object store says.
pub(crate) fn offer(host: &Host, plain: bool) -> Result<StoreOffer, WireError> {
    if plain {
        let text = "through the object store data travel only encrypted: leave --plain away";
        return Err(WireError::new(ErrorCode::Refused, text));
    }
    let window_bytes = u64::from(host.config.seed.store_window_mib) << 20;
    Ok(StoreOffer { bucket: bucket_of(&host.id), window_bytes })
}

/// Whether an offer uses the bucket.
async fn in_use(host: &Host) -> bool {
    let running = host.admitted.lock().await.running(&host.runner);
    running.iter().any(|job| job.claims.contains(&(Resource::Bucket, Claim::Alone)))
}

/// A connection of its own, so that a seed's data delay neither commands nor heartbeats.
async fn bulk_bus(host: &Host) -> Result<Bus, BusError> {
    let config = BusConfig {
        request_timeout_ms: host.config.bus.request_timeout_ms.max(BULK_TIMEOUT_MS),
        ..host.config.bus.clone()
    };
    Bus::connect(&config, &format!("orchestrator-agent {} seed data", host.id)).await
}

/// The donor's end, opened again and again while the bus is away.
pub(crate) async fn give(
    host: &Host,
    scope: &Scope,
    recipient: &AgentId,
    window_bytes: u64,
    service: SocketAddr,
) -> Result<Giver, StepError> {
    let way = Way { donor: host.id.clone(), recipient: recipient.clone(), job: scope.job_id(), window_bytes };
    loop {
        let mut left = host.bucket_left.lock().await;
        *left = true;
        let opened = async {
            let bus = bulk_bus(host).await?;
            bus.connected(CONNECT_LIMIT).await?;
            Giver::open(bus, way.clone(), service).await
        };
        match opened.await {
            Ok(giver) => return Ok(giver),
            Err(error) if !error.is_transient() => {
                return Err(StepError::from_error(ErrorCode::Transfer, &error));
            }
            Err(error) => tracing::warn!(error = %chain(&error), "the object store cannot be used yet"),
        }
        drop(left);
        tokio::select! {
            () = scope.cancelled() => return Err(StepError::stopped()),
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Stops the donor's end and removes the bucket; later, when the bus is away.
pub(crate) async fn end(host: &Host, giver: Giver) {
    let mut left = host.bucket_left.lock().await;
    match giver.close().await {
        Ok(()) => *left = false,
        Err(error) => tracing::debug!(error = %chain(&error), "the bucket is removed later"),
    }
}

/// The recipient's end of an offer.
pub(crate) async fn take(host: &Host, offer: &Offer) -> Result<Taker, WireError> {
    let window_bytes = offer.store.as_ref().map_or(0, |store| store.window_bytes);
    let way =
        Way { donor: offer.facts.agent.clone(), recipient: host.id.clone(), job: offer.job, window_bytes };
    let failed =
        |error: BusError| WireError::caused(ErrorCode::Transfer, "the object store cannot be used", &error);
    // While the bus is away the transfer waits for it as for a lost connection.
    let bus = bulk_bus(host).await.map_err(failed)?;
    Taker::open(bus, way).await.map_err(failed)
}

/// The data plane sees only that its connections end; the cause is with who carries them.
pub(crate) fn explain(mut error: StepError, taker: Option<&Taker>) -> StepError {
    if error.code == ErrorCode::Transfer.into() {
        error.causes.extend(taker.and_then(Taker::trouble));
    }
    error
}

/// Removes the bucket of an offer that is over, if it may be there.
pub(crate) async fn sweep(host: &Host) {
    let mut left = host.bucket_left.lock().await;
    remove(host, &mut left).await;
}

async fn remove(host: &Host, left: &mut bool) {
    if !*left || !host.bus.is_connected() {
        return;
    }
    match remove_bucket(&host.bus, &host.id).await {
        Ok(was_there) => {
            *left = false;
            if was_there {
                tracing::info!(bucket = bucket_of(&host.id), "a bucket that no seed uses was removed");
            }
        }
        // Without JetStream, or without leave to use it, there is none.
        Err(BusError::NotPermitted { .. } | BusError::NoResponders { .. }) => *left = false,
        Err(error) => {
            tracing::debug!(error = %chain(&error), "a bucket that no seed uses cannot be removed yet");
        }
    }
}

/// Removes what a crash or an outage has left, until `shutdown`.
pub(crate) async fn sweep_for_ever(host: Arc<Host>, shutdown: CancellationToken) {
    let mut state = host.bus.state();
    let sweeping = async {
        loop {
            // With the lock held no offer makes the bucket between the look and the removal.
            let mut left = host.bucket_left.lock().await;
            if *left && !in_use(&host).await {
                remove(&host, &mut left).await;
            }
            drop(left);
            // At once when the bus is back.
            state.mark_unchanged();
            let _ = tokio::time::timeout(SWEEP, state.changed()).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = sweeping => {}
    }
}
