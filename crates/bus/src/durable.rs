//! Commands for a host that is down: they wait in a work queue and run once when it is back.
//!
//! The asker makes the host's consumer; an agent may only pull from it. A command is acknowledged after its handler and
//! the reply cache have it on disk, so that a crash in between runs it again under the same id, and not a second time.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy};
use async_nats::jetstream::{AckKind, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use jiff::Timestamp;
use protocol::ids::{AgentId, RequestId};
use protocol::subject::{self, Subject, encode_host};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::conn::{Bus, ConnState};
use crate::error::{BusError, Result};
use crate::serve::Intake;
use crate::streams::{self, Durable, StreamLimits};

/// Name of the stream.
pub const COMMAND_STREAM: &str = "orch_commands";

/// A command not acknowledged for so long is delivered again; while it is at work the server is told so.
const ACK_WAIT: Duration = Duration::from_secs(60);
/// One pull waits so long for commands.
const PULL: Duration = Duration::from_secs(20);
/// Without a consumer (nothing was ever queued for this host) it is looked for again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Bounds of the stream of durable commands: beyond its bytes new commands are refused, after a week a command goes, run or not.
#[must_use]
pub fn command_stream_limits() -> StreamLimits {
    StreamLimits { max_bytes: 256 << 20, max_age: Duration::from_secs(7 * 24 * 3600), replicas: 1 }
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
pub async fn ensure_command_stream(bus: &Bus, limits: &StreamLimits) -> Result<()> {
    let stream = Durable {
        name: COMMAND_STREAM,
        description: "Commands for orchestrator-agents that are away",
        subject: subject::ALL_DURABLE_COMMANDS,
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        duplicate_window: Duration::from_secs(120),
        append_only: false,
    };
    streams::ensure_durable(bus, &stream, limits).await
}

/// Name of the consumer of one host.
#[must_use]
pub fn consumer_of(agent: &AgentId) -> String {
    format!("agent-{}", encode_host(agent))
}

/// Leaves a command for an agent that is away.
pub(crate) async fn queue(
    bus: &Bus,
    agent: &AgentId,
    command: &str,
    id: RequestId,
    headers: Option<HeaderMap>,
    body: Bytes,
) -> Result<()> {
    ensure_command_stream(bus, &command_stream_limits()).await?;
    let consumer = PullConfig {
        durable_name: Some(consumer_of(agent)),
        filter_subject: subject::durable_commands_of(agent),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        deliver_policy: DeliverPolicy::All,
        max_deliver: -1,
        max_ack_pending: 64,
        ..PullConfig::default()
    };
    streams::create_consumer(bus, COMMAND_STREAM, consumer).await?;
    let subject = Subject::DurableCommand { agent: agent.clone(), command: command.to_owned() }.to_string();
    let mut headers = headers.unwrap_or_default();
    headers.insert(NATS_MESSAGE_ID, id.to_string().as_str());
    let jetstream = bus.jetstream();
    let stored = async {
        let ack = jetstream.publish_with_headers(subject.clone(), headers, body).await?;
        ack.await
    };
    let limit = bus.config().request_timeout();
    match timeout(limit, stored).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(BusError::jetstream(format!("cannot queue {command} for {agent}"), error)),
        Err(_) => Err(BusError::TimedOut { what: format!("queueing {command} for {agent}"), after: limit }),
    }
}

/// Takes this agent's durable commands until `shutdown`.
pub(crate) async fn take_commands(intake: Arc<Intake>, shutdown: CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = Box::pin(pull_for_ever(&intake, &shutdown)) => {}
    }
}

async fn pull_for_ever(intake: &Intake, shutdown: &CancellationToken) {
    let bus = &intake.bus;
    let name = consumer_of(&intake.config.agent);
    let mut state = bus.state();
    loop {
        if state.wait_for(|s| *s == ConnState::Connected).await.is_err() {
            return;
        }
        match streams::find_consumer(bus, COMMAND_STREAM, &name).await {
            Ok(Some(consumer)) => while pull(intake, &consumer, shutdown).await {},
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "cannot look for durable commands"),
        }
        state.mark_unchanged();
        let wait = LOOK_AGAIN.mul_f64(rand::random_range(0.8..=1.2));
        // A new connection is a reason to look at once.
        timeout(wait, state.changed()).await.ok();
    }
}

/// One pull; false when the consumer or the connection is lost.
async fn pull(intake: &Intake, consumer: &PullConsumer, shutdown: &CancellationToken) -> bool {
    let limit = intake.bus.config().request_timeout();
    let pull = consumer.batch().max_messages(16).max_bytes(4 << 20).expires(PULL).messages();
    let Ok(Ok(mut messages)) = timeout(limit, pull).await else { return false };
    let mut state = intake.bus.state();
    loop {
        let message = tokio::select! {
            message = timeout(PULL + Duration::from_secs(2), messages.next()) => message,
            _ = state.wait_for(|s| *s != ConnState::Connected) => return false,
        };
        match message {
            Ok(Some(Ok(message))) => {
                if shutdown.is_cancelled() {
                    return false;
                }
                serve(intake, &message, limit).await;
            }
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "pulling durable commands was interrupted");
                return false;
            }
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

async fn serve(intake: &Intake, message: &Message, limit: Duration) {
    let working = intake.process(&message.subject, message.headers.as_ref(), &message.payload);
    tokio::pin!(working);
    let handled = loop {
        tokio::select! {
            handled = &mut working => break handled,
            () = tokio::time::sleep(ACK_WAIT / 3) => {
                timeout(limit, message.ack_with(AckKind::Progress)).await.ok();
            }
        }
    };
    let acknowledged = async {
        if handled.settled {
            message.double_ack().await
        } else {
            message.ack_with(AckKind::Nak(Some(LOOK_AGAIN))).await
        }
    };
    if !matches!(timeout(limit, acknowledged).await, Ok(Ok(()))) {
        tracing::debug!("a durable command could not be acknowledged; it comes again and is known then");
    }
}
