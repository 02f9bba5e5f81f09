//! Watches the stores of snapshots that seeds read: extends them, or fails the seed with the cause before its data are lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::ids::SnapshotId;
use snapshot::guardian::{Action, Guardian};
use tokio_util::sync::CancellationToken;

use crate::host::{Host, chain};

/// Watches until `shutdown`. Costs nothing while no snapshot is mounted.
pub(crate) async fn run(host: Arc<Host>, shutdown: CancellationToken) {
    let Ok(snapshots) = host.snapshots.as_ref().cloned() else { return };
    let config = host.config.snapshot.guardian.clone();
    let pause = Duration::from_secs_f64(config.interval_s);
    let mut guardian = Guardian::new(config.policy);
    let since = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        let watched: Vec<SnapshotId> =
            snapshots.mounts.held().into_iter().map(|held| held.mounted.id).collect();
        host.doomed.keep_only(&watched);
        if watched.is_empty() {
            continue;
        }
        let provider = Arc::clone(&snapshots.provider);
        let ticked = tokio::task::spawn_blocking(move || {
            let actions = guardian.tick(provider.as_ref(), &watched, since.elapsed());
            (guardian, actions)
        });
        let Ok((kept, actions)) = ticked.await else { return };
        guardian = kept;
        match actions {
            Ok(actions) => act(&host, actions),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the stores of mounted snapshots cannot be looked at");
            }
        }
    }
}

fn act(host: &Host, actions: Vec<(SnapshotId, Action)>) {
    for (snapshot, action) in actions {
        match action {
            Action::Fine { .. } => {}
            Action::Extended { size_bytes } => {
                tracing::info!(%snapshot, size_bytes, "extended: its store was filling");
            }
            // What fills the store is the writes to the origin; a slower seed would only read it for longer.
            Action::Slow { seconds_until_full } => {
                tracing::warn!(%snapshot, seconds_until_full, "its store fills and cannot be extended");
            }
            Action::Abort { reason } | Action::Lost { reason } => {
                if host.doomed.doom(snapshot.clone(), reason.clone()) {
                    tracing::error!(%snapshot, reason, "must not be read any further; seeds from it fail");
                    host.look_soon();
                }
            }
        }
    }
}
