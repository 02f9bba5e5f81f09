//! Serves a program's stream instead of a snapshot's tree.

use std::sync::Arc;
use std::time::Duration;

use job::{Scope, StepError};
use protocol::error::ErrorCode;
use protocol::seed::TransferProgress;
use serde_json::{Value, json};
use transfer::stream::{GiveOptions, Giver, Program};
use transfer::{Cancel, Identity, Progress};

use super::health::{HEALTH_INTERVAL, spare};
use super::{Params, Private, tell_open};
use crate::host::Host;
use crate::streams::{self, Giving};

/// Listens, starts the program for who comes, and serves until one has all of it.
pub(super) async fn give(
    host: &Host,
    scope: &Scope,
    params: &Params,
    private: &Private,
) -> Result<Value, StepError> {
    let name = params.stream.as_deref().unwrap_or_default();
    let donor = streams::donor(host, scope.job_id(), name).await?;
    let (progress, cancel) = (Arc::new(Progress::new()), Arc::new(Cancel::new()));
    let identity = match &private.identity {
        Some(kept) => {
            let identity = Identity::from_exposed(kept.expose())?;
            Some(Arc::new(identity))
        }
        None => None,
    };
    let token = private.token.expose().parse();
    let token = token.map_err(|e| {
        StepError::new(ErrorCode::Internal, "the offer's private file is damaged").caused_by(&e)
    })?;
    let options = GiveOptions {
        listen: private.listen,
        token,
        identity,
        throttle: Arc::clone(&host.donor_throttle),
        stall_timeout: Duration::from_secs(host.config.seed.stall_s),
        idle_timeout: Duration::from_secs(host.config.seed.offer_s),
        cancel: Arc::clone(&cancel),
        progress: Arc::clone(&progress),
    };
    let mut giver = Giver::listen(options)?;
    private.listening(host, scope.job_id(), giver.addr())?;
    tell_open(host, scope.job_id(), giver.addr(), giver.fingerprint());
    let mut done = tokio::task::spawn_blocking(move || {
        giver.give(&mut || Giving::start(&donor).map(|program| Box::new(program) as Box<dyn Program>))
    });
    let mut looks = tokio::time::interval(HEALTH_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => spare(host).await,
            given = &mut done => {
                let given = given.map_err(|e| StepError::from_error(ErrorCode::Internal, &e))?;
                let given = given?;
                return Ok(json!({ "bytes_sent": given.bytes, "root_digest": sys::hex::encode(given.digest) }));
            }
            () = scope.cancelled() => {
                cancel.cancel();
                let _ = done.await;
                return Err(StepError::stopped());
            }
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                let shown: TransferProgress = crate::jobs::seed::progress_of(&progress.snapshot());
                scope.report(shown.bytes_done, None, json!(shown));
            }
        }
    }
}
