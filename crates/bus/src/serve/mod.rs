//! The agent's side: take commands from the bus, check them, hand them on, reply.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use protocol::command::Command;
use protocol::envelope::Request;
use protocol::error::{ErrorCode, WireError};
use protocol::heartbeat::Heartbeat;
use protocol::ids::AgentId;
use protocol::subject::{self, Subject};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Actor, Authority};
use crate::conn::Bus;
use crate::dedupe::ReplyCache;
use crate::error::Result;
use crate::signer::Signer;

mod audit;
mod intake;
mod queued;
mod service;

pub(crate) use intake::Intake;

/// Commands that wait or run at once, of all classes; beyond it they are refused as busy.
const MAX_IN_FLIGHT: usize = 1024;

/// What runs the commands.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Runs one admitted command and gives its result. A panic becomes an `internal` error reply.
    ///
    /// Changes and jobs come at most once per request id while the reply cache remembers it; after a crash in the
    /// middle of one, or after a retryable error, it may come again with the same id. A query is dropped at its
    /// deadline, a change or job never.
    async fn handle(&self, call: Incoming) -> Result<Value, WireError>;

    /// The heartbeat, made now; also the answer to the question to the fleet. Must not block.
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
    /// Whether they may run the service, and so see what its commands have printed.
    pub operates: bool,
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
    /// Signs replies; absent: they are not signed.
    pub signer: Option<Arc<Signer>>,
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
            signer: None,
        }
    }
}

/// Serves until `shutdown`, through every outage of the bus; then lets commands at work finish.
pub async fn serve(
    bus: Bus,
    config: ServeConfig,
    handler: Arc<dyn Handler>,
    authority: Arc<Authority>,
    replies: Arc<ReplyCache>,
    shutdown: CancellationToken,
) -> Result<()> {
    let agent = config.agent.clone();
    let drain = config.drain;
    let group = format!("agent-{}", subject::encode_host(&agent));
    let service = Arc::new(service::Service::new(&agent, &group, &handler.heartbeat()));
    let mut commands = bus.queue_subscribe(subject::commands_of(&agent), group).await?;
    let mut asks = bus.subscribe(subject::ASK_FLEET.to_owned()).await?;
    let mut inquiries = service.subscribe(&bus).await?;
    let durable = config.durable;
    let intake =
        Arc::new(Intake::new(bus.clone(), config, handler.clone(), authority, replies, service.clone()));
    let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let tasks = TaskTracker::new();
    if durable {
        tasks.spawn(queued::take_commands(intake.clone(), shutdown.clone()));
    }
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(message) = commands.next() => match in_flight.clone().try_acquire_owned() {
                Ok(permit) => {
                    let intake = intake.clone();
                    tasks.spawn(async move {
                        intake.answer(message).await;
                        drop(permit);
                    });
                }
                Err(_) => {
                    let error = WireError::new(ErrorCode::Busy, "too many commands wait here already").retryable();
                    intake.refuse(message, error).await;
                }
            },
            Some(message) = asks.next() => {
                let body = serde_json::to_vec(&handler.heartbeat()).unwrap_or_default();
                reply_to(&bus, message.reply, None, body.into()).await;
            }
            Some(message) = inquiries.next() => {
                if let Some(body) = service.answer(&message.subject) {
                    reply_to(&bus, message.reply, None, body).await;
                }
            }
            else => break,
        }
    }
    // What the server delivered before it knew that we go is still answered.
    let leaving = async {
        commands.drain().await.ok();
        bus.client().flush().await.ok();
        while let Some(message) = commands.next().await {
            let error = WireError::new(ErrorCode::ShuttingDown, "the agent is stopping").retryable();
            intake.refuse(message, error).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(2).min(drain), leaving).await.ok();
    tasks.close();
    if tokio::time::timeout(drain, tasks.wait()).await.is_err() {
        tracing::warn!(commands = tasks.len(), "stopped serving with commands still at work");
    }
    Ok(())
}

/// Replies, unless the reply subject is one that acts: `allow_responses` would let the asker make this agent publish to
/// JetStream's API or to another agent's commands.
async fn reply_to(bus: &Bus, reply: Option<async_nats::Subject>, headers: Option<HeaderMap>, body: Bytes) {
    let Some(reply) = reply else { return };
    if subject::acts(&reply) {
        tracing::warn!(
            reply = reply.as_str(),
            "a request wants its reply on a subject that acts; not replied"
        );
        return;
    }
    if let Err(error) = bus.publish(reply.into_string(), headers, body).await {
        tracing::debug!(error = %error, "a reply could not be sent; the asker may ask again with the same id");
    }
}
