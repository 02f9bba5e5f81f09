//! Commands for a host that is down: they wait in a work queue and run once when it is back.
//!
//! The asker makes the host's consumer; an agent may only pull from it. A command is acknowledged after its handler and
//! the reply cache have it on disk, so that a crash in between runs it again under the same id, and not a second time.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy};
use bytes::Bytes;
use jiff::Timestamp;
use protocol::ids::{AgentId, RequestId};
use protocol::subject::{self, Subject, decode_host, encode_host};
use tokio::time::Instant;

use crate::conn::{Bus, backoff};
use crate::error::{BusError, Result};
use crate::replicas::Replicas;
use crate::streams::{self, Durable, Made, StreamLimits};

/// Name of the stream.
pub const COMMAND_STREAM: &str = "orch_commands";

/// A command not acknowledged for so long is delivered again; while it is at work the server is told so.
pub(crate) const ACK_WAIT: Duration = Duration::from_secs(60);

/// A group of servers that lost its leader has another one within this.
const ELECTED_WITHIN: Duration = Duration::from_secs(20);

/// Bounds of the stream of durable commands: beyond its bytes new commands are refused, after a week a command goes, run or not.
#[must_use]
pub fn command_stream_limits() -> StreamLimits {
    StreamLimits {
        max_bytes: 256 << 20,
        max_age: Duration::from_secs(7 * 24 * 3600),
        replicas: Replicas::Auto,
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
pub async fn ensure_command_stream(bus: &Bus, limits: &StreamLimits) -> Result<Made> {
    let stream = Durable {
        name: COMMAND_STREAM,
        description: "Commands for orchestrator-agents that are away",
        subject: subject::ALL_DURABLE_COMMANDS,
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        duplicate_window: Duration::from_secs(120),
        append_only: false,
        direct: false,
    };
    streams::ensure_durable(bus, &stream, limits).await
}

/// Name of the consumer of one host.
#[must_use]
pub fn consumer_of(agent: &AgentId) -> String {
    format!("agent-{}", encode_host(agent))
}

/// The host of a consumer; none where it is not one of ours.
pub(crate) fn agent_of(consumer: &str) -> Option<AgentId> {
    decode_host(consumer.strip_prefix("agent-")?)
}

/// Leaves a command for an agent that is away. While the stream's servers elect a leader it is tried again: the stream keeps one of
/// several copies by the command's id.
pub(crate) async fn queue(
    bus: &Bus,
    agent: &AgentId,
    command: &str,
    id: RequestId,
    headers: Option<HeaderMap>,
    body: Bytes,
) -> Result<()> {
    let mut headers = headers.unwrap_or_default();
    headers.insert(NATS_MESSAGE_ID, id.to_string().as_str());
    let subject = Subject::DurableCommand { agent: agent.clone(), command: command.to_owned() }.to_string();
    let until = Instant::now() + ELECTED_WITHIN;
    let mut failures = 0;
    loop {
        match leave(bus, agent, &subject, headers.clone(), body.clone()).await {
            Err(BusError::NoJetStream { .. } | BusError::NotConnected { .. } | BusError::TimedOut { .. })
                if Instant::now() < until =>
            {
                failures += 1;
                tokio::time::sleep(backoff(failures, 100, 1_000)).await;
            }
            other => return other,
        }
    }
}

async fn leave(bus: &Bus, agent: &AgentId, subject: &str, headers: HeaderMap, body: Bytes) -> Result<()> {
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
    streams::store(bus, subject, headers, body).await
}
