//! What the service manager is told: that the agent serves, that it lives, and that it stops. Nothing where there is none.

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// A sign of life may come late by this part of the time that is allowed between two.
const SIGNS_PER_LIMIT: u32 = 3;

/// Commands are served and jobs of an earlier run go on.
pub(crate) fn ready() {
    tell(&NotifyState::Ready);
}

/// The end has begun; what takes time from here on is within the unit's `TimeoutStopSec`.
pub(crate) fn stopping() {
    tell(&NotifyState::Stopping);
}

/// Gives a sign of life as often as the unit's `WatchdogSec` wants one, until `shutdown`: from a task of the runtime, so
/// that none comes from one that is stuck.
pub(crate) async fn live(shutdown: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut signs = tokio::time::interval(limit / SIGNS_PER_LIMIT);
    loop {
        tokio::select! {
            _ = signs.tick() => tell(&NotifyState::Watchdog),
            () = shutdown.cancelled() => return,
        }
    }
}

fn tell(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
