//! The asking side: call agents, look at the fleet, follow jobs and events.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use nkeys::KeyPair;
use protocol::command::{Call, Class, Command};
use protocol::envelope::{HEADER_TRACEPARENT, MAX_REQUEST_BYTES, Outcome, Reply, Request, VERSION};
use protocol::ids::{AgentId, JobId, RequestId};
use protocol::params::AgentInfoParams;
use protocol::seed::TransferProgress;
use protocol::subject::Subject;
use serde_json::Value;
use trace::{Context, Kind, Span, Traces};

use crate::conn::Bus;
use crate::durable::{self, Queued};
use crate::error::{BusError, Result};
use crate::events::{self, EventFilter, EventStream};
use crate::signer::{HostKeys, Signer};

/// An agent that answers no question within this is taken for away, where the command can be left for it.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

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

/// Asks agents in the name of one actor; clones share the connection.
#[derive(Clone)]
pub struct Client {
    bus: Bus,
    signer: Option<Arc<Signer>>,
    agents: Option<Arc<HostKeys>>,
    actor: String,
    traces: Traces,
    /// The span that calls belong to; without one they are not told of.
    within: Option<Context>,
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
        Self {
            bus,
            signer: signer.map(|key| Arc::new(Signer::new(key))),
            agents: None,
            actor: actor.into(),
            traces: Traces::default(),
            within: None,
        }
    }

    /// From now on a reply is taken only when the host's key signed it, for this very request.
    #[must_use]
    pub fn with_host_keys(self, keys: HostKeys) -> Self {
        Self { agents: Some(Arc::new(keys)), ..self }
    }

    /// The same client, with the same key, in the name of another actor.
    #[must_use]
    pub fn in_name_of(&self, actor: impl Into<String>) -> Self {
        Self { actor: actor.into(), ..self.clone() }
    }

    /// Spans of this client's calls go there, from [`Client::begin`] on.
    #[must_use]
    pub fn with_traces(self, traces: Traces) -> Self {
        Self { traces, ..self }
    }

    /// Begins a span, and gives a client whose calls are told of as parts of it.
    #[must_use]
    pub fn begin(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: Kind,
        parent: Option<Context>,
    ) -> (Span, Self) {
        let span = self.traces.begin(name, kind, parent);
        let within = span.context();
        (span, Self { within, ..self.clone() })
    }

    /// The connection.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Calls one agent. A call that is to be queued for an absent agent goes through [`Client::call_or_queue`].
    pub async fn call<C: Call>(&self, agent: &AgentId, params: C, options: &CallOptions) -> Result<C::Reply> {
        let options = CallOptions { queue: None, ..options.clone() };
        match self.call_or_queue(agent, params, &options).await? {
            Answer::Result(reply) => Ok(reply),
            Answer::Queued(_) => Err(BusError::NoAgent(agent.clone())),
        }
    }

    /// Calls one agent, or leaves the command for it.
    pub async fn call_or_queue<C: Call>(
        &self,
        agent: &AgentId,
        params: C,
        options: &CallOptions,
    ) -> Result<Answer<C::Reply>> {
        let params = serde_json::to_value(params).map_err(|error| BusError::Unsendable {
            what: C::SPEC.name.to_owned(),
            why: error.to_string(),
        })?;
        Ok(match self.raw(agent, C::SPEC.name, params, options).await? {
            Answer::Queued(queued) => Answer::Queued(queued),
            Answer::Result(value) => Answer::Result(serde_json::from_value(value).map_err(|error| {
                BusError::BadReply { from: agent.to_string(), why: format!("{}: {error}", C::SPEC.name) }
            })?),
        })
    }

    /// Calls by name with parameters as JSON, unchecked on this side.
    pub async fn raw(
        &self,
        agent: &AgentId,
        command: &str,
        params: Value,
        options: &CallOptions,
    ) -> Result<Answer<Value>> {
        let Some(within) = self.within else {
            return Box::pin(self.ask(agent, command, params, options, None)).await;
        };
        let mut span = self.traces.begin(command.to_owned(), Kind::Client, Some(within));
        span.note("orchestrator.host", agent.to_string());
        let answer = Box::pin(self.ask(agent, command, params, options, span.context())).await;
        if let Err(error) = &answer {
            span.fail(error.code());
        }
        answer
    }

    async fn ask(
        &self,
        agent: &AgentId,
        command: &str,
        params: Value,
        options: &CallOptions,
        span: Option<Context>,
    ) -> Result<Answer<Value>> {
        let id = options.request_id.unwrap_or_else(RequestId::generate);
        let subject = Subject::Command { agent: agent.clone(), command: command.to_owned() };
        if Subject::parse(&subject.to_string()).ok().as_ref() != Some(&subject) {
            let why = "a command is named family.verb".to_owned();
            return Err(BusError::Unsendable { what: format!("{command:?}"), why });
        }
        let sealed = |params: Value, valid| {
            let (headers, body, expires) = self.sealed(&subject, id, command, params, valid)?;
            Ok::<_, BusError>((with_span(headers, span), body, expires))
        };
        let is_query = Command::SPECS.iter().any(|s| s.name == command && s.class == Class::Query);
        let expiry = options.queue.filter(|_| !is_query);
        let (headers, body, _) = sealed(params.clone(), options.timeout)?;
        let answer = if expiry.is_some() && Box::pin(self.is_silent(agent)).await? {
            Err(BusError::NoResponders { subject: subject.to_string() })
        } else {
            self.bus.request(subject.to_string(), headers, body.clone(), options.timeout).await
        };
        match (answer, expiry) {
            (Ok(message), _) => {
                self.check_signed(agent, (&subject, &body), &message)?;
                read_reply(agent, id, &message.payload).map(Answer::Result)
            }
            (Err(BusError::NoResponders { .. }), Some(expiry)) => {
                let (headers, body, expires) = sealed(params, expiry)?;
                Box::pin(durable::queue(&self.bus, agent, command, id, headers, body)).await?;
                Ok(Answer::Queued(Queued { request: id, expires }))
            }
            (Err(BusError::NoResponders { .. }), None) => Err(BusError::NoAgent(agent.clone())),
            (Err(BusError::TimedOut { after, .. }), _) => {
                Err(BusError::TimedOut { what: format!("{command} on {agent} (request {id})"), after })
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Whether an agent does not answer a question. Between accounts nats-server 2.9 does not tell that nobody listens, so a command to an agent
    /// that is away would be waited for in vain, and could not be left for it then: it may have been run. Asked before, it goes one way only,
    /// and an agent that was only slow takes it from its queue.
    async fn is_silent(&self, agent: &AgentId) -> Result<bool> {
        let name = AgentInfoParams::SPEC.name;
        let subject = Subject::Command { agent: agent.clone(), command: name.to_owned() };
        let params = Value::Object(serde_json::Map::new());
        let (headers, body, _) =
            self.sealed(&subject, RequestId::generate(), name, params, ANSWERS_WITHIN)?;
        let answer = self.bus.request(subject.to_string(), headers, body, ANSWERS_WITHIN).await;
        Ok(matches!(answer, Err(BusError::NoResponders { .. } | BusError::TimedOut { .. })))
    }

    /// A request as it travels: its headers (with the signature), its body, and its deadline.
    fn sealed(
        &self,
        subject: &Subject,
        id: RequestId,
        command: &str,
        params: Value,
        valid: Duration,
    ) -> Result<(Option<HeaderMap>, Bytes, Timestamp)> {
        let unsendable = |why: String| BusError::Unsendable { what: command.to_owned(), why };
        let deadline = Timestamp::now().checked_add(valid).unwrap_or(Timestamp::MAX);
        let request = Request {
            version: VERSION,
            id,
            deadline,
            actor: self.actor.clone(),
            command: command.to_owned(),
            params,
        };
        let body = serde_json::to_vec(&request).map_err(|error| unsendable(error.to_string()))?;
        if body.len() > MAX_REQUEST_BYTES {
            let why = format!("the request has {} bytes, the limit is {MAX_REQUEST_BYTES}", body.len());
            return Err(unsendable(why));
        }
        let headers = match &self.signer {
            None => None,
            Some(signer) => Some(signer.sign_request(subject, &body)?),
        };
        Ok((headers, body.into(), deadline))
    }

    fn check_signed(&self, agent: &AgentId, asked: (&Subject, &[u8]), reply: &Message) -> Result<()> {
        match &self.agents {
            None => Ok(()),
            Some(keys) => keys.check(agent, asked, reply.headers.as_ref(), &reply.payload),
        }
    }

    /// Progress of one job as it comes; some of it may be missing.
    pub async fn watch_progress(
        &self,
        agent: &AgentId,
        job: JobId,
    ) -> Result<BoxStream<'static, TransferProgress>> {
        let subject = Subject::Progress { agent: agent.clone(), job };
        let messages = self.bus.subscribe(subject.to_string()).await?;
        Ok(messages.filter_map(|m| async move { serde_json::from_slice(&m.payload).ok() }).boxed())
    }

    /// Events of the durable stream.
    pub async fn events(&self, filter: EventFilter) -> Result<EventStream> {
        events::read(&self.bus, filter).await
    }
}

/// Headers with the span that the request belongs to. It is no part of what is signed: nothing but remarks depends on it.
fn with_span(headers: Option<HeaderMap>, span: Option<Context>) -> Option<HeaderMap> {
    let Some(span) = span else { return headers };
    let mut headers = headers.unwrap_or_default();
    headers.insert(HEADER_TRACEPARENT, span.to_string());
    Some(headers)
}

fn read_reply(agent: &AgentId, id: RequestId, body: &[u8]) -> Result<Value> {
    let bad = |why: String| BusError::BadReply { from: agent.to_string(), why };
    let reply: Reply = serde_json::from_slice(body).map_err(|error| bad(error.to_string()))?;
    if reply.host != *agent || reply.id.is_some_and(|given| given != id) {
        return Err(bad("it answers another request".into()));
    }
    match reply.outcome {
        Outcome::Result(value) => Ok(value),
        Outcome::Error(error) => Err(BusError::Agent(error)),
    }
}
