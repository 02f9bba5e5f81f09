//! Heartbeats: sent when there is a connection, dropped when there is none.

use std::time::Duration;

use protocol::heartbeat::Heartbeat;
use protocol::ids::AgentId;
use protocol::subject::Subject;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::conn::{Bus, ConnState};

/// Publishes what `make` returns, every `interval` ± 20 %, and at once after a reconnect, until `shutdown`.
///
/// A fleet that lost its server together must not come back in one instant: the heartbeat after a reconnect waits a
/// random part of a second.
pub fn spawn<F>(
    bus: Bus,
    agent: AgentId,
    interval: Duration,
    make: F,
    shutdown: CancellationToken,
) -> JoinHandle<()>
where
    F: Fn() -> Heartbeat + Send + Sync + 'static,
{
    let subject = Subject::Heartbeat { agent }.to_string();
    tokio::spawn(async move {
        let mut state = bus.state();
        loop {
            state.mark_unchanged();
            if bus.is_connected() {
                match serde_json::to_vec(&make()) {
                    Ok(body) => {
                        if let Err(error) = bus.publish(subject.clone(), None, body.into()).await {
                            tracing::debug!(%error, "a heartbeat was dropped");
                        }
                    }
                    Err(error) => tracing::error!(%error, "a heartbeat cannot be written"),
                }
            }
            let wait = interval.mul_f64(rand::random_range(0.8..=1.2));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = back(&mut state, interval) => {}
            }
        }
    })
}

/// Returns soon after the next time that the connection comes up.
async fn back(state: &mut tokio::sync::watch::Receiver<ConnState>, interval: Duration) {
    loop {
        if state.changed().await.is_err() {
            return std::future::pending().await;
        }
        if *state.borrow_and_update() == ConnState::Connected {
            break;
        }
    }
    let most = interval.min(Duration::from_secs(1));
    tokio::time::sleep(most.mul_f64(rand::random_range(0.0..=1.0))).await;
}
