//! The way of one request: read, authenticate, check, remember, run, reply.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::FutureExt;
use jiff::Timestamp;
use protocol::command::{Class, Command, Role, Spec};
use protocol::envelope::{
    HEADER_KEY, HEADER_SIGNATURE, HEADER_TRACEPARENT, Outcome, Reply, Request, VERSION,
};
use protocol::error::{ErrorCode, WireError};
use protocol::ids::RequestId;
use protocol::subject::Subject;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::{Denied, Handler, Incoming, ServeConfig, audit, reply_to, service::Service};
use crate::auth::{Actor, Authority};
use crate::conn::Bus;
use crate::dedupe::{Admission, Fingerprint, ReplyCache};
use crate::signer::HEADERS_MAX;

/// All that a request needs on its way.
pub(crate) struct Intake {
    pub(crate) bus: Bus,
    pub(crate) config: ServeConfig,
    handler: Arc<dyn Handler>,
    authority: Arc<Authority>,
    replies: Arc<ReplyCache>,
    service: Arc<Service>,
    queries: Semaphore,
    changes: Semaphore,
    valve: audit::Valve,
}

/// What became of a request.
pub(crate) struct Handled {
    /// The reply's bytes.
    pub(crate) body: Bytes,
    /// False when the same request should be tried again later.
    pub(crate) settled: bool,
}

/// What is known of a request that is refused.
#[derive(Default)]
struct Known {
    id: Option<RequestId>,
    command: String,
    actor: String,
}

impl Intake {
    pub(super) fn new(
        bus: Bus,
        config: ServeConfig,
        handler: Arc<dyn Handler>,
        authority: Arc<Authority>,
        replies: Arc<ReplyCache>,
        service: Arc<Service>,
    ) -> Self {
        let queries = Semaphore::new(config.max_queries);
        let changes = Semaphore::new(config.max_changes);
        let valve = audit::Valve::new();
        Self { bus, config, handler, authority, replies, service, queries, changes, valve }
    }

    /// Serves one message from the command subject.
    pub(super) async fn answer(&self, message: async_nats::Message) {
        let handled = self.process(&message.subject, message.headers.as_ref(), &message.payload).await;
        self.send(message, handled.body).await;
    }

    /// Refuses one message from the command subject unread.
    pub(super) async fn refuse(&self, message: async_nats::Message, error: WireError) {
        let body = self.reply(None, Err(error));
        self.send(message, body).await;
    }

    /// Sends the reply to a message, signed as this host's.
    async fn send(&self, asked: async_nats::Message, body: Bytes) {
        let headers = match (&self.config.signer, Subject::parse(&asked.subject)) {
            (Some(signer), Ok(subject)) => signer.sign_reply(&subject, &asked.payload, &body).ok(),
            _ => None,
        };
        reply_to(&self.bus, asked.reply, headers, body).await;
    }

    /// Serves one request, from wherever it came.
    pub(crate) async fn process(&self, subject: &str, headers: Option<&HeaderMap>, body: &Bytes) -> Handled {
        let began = Instant::now();
        let mut known = Known::default();
        let checked = self.check(subject, headers, body, &mut known);
        let spec = checked.as_ref().ok().map(|call| call.command.spec());
        let handled = match checked {
            Ok(call) => self.run(call).await,
            Err(error) => Err(error),
        };
        let handled = handled.unwrap_or_else(|error| {
            self.tell(&known, &error);
            let settled = !error.retryable;
            Handled { body: self.reply(known.id, Err(error)), settled }
        });
        if let Some(spec) = spec {
            self.service.count(spec, began.elapsed(), !handled.settled);
        }
        handled
    }

    fn check(
        &self,
        subject: &str,
        headers: Option<&HeaderMap>,
        body: &[u8],
        known: &mut Known,
    ) -> Result<Incoming, WireError> {
        let no_command = || WireError::new(ErrorCode::UnknownCommand, "the subject names no command");
        let subject = Subject::parse(subject).map_err(|_| no_command())?;
        let (agent, name, durable) = match &subject {
            Subject::Command { agent, command } => (agent, command, false),
            Subject::DurableCommand { agent, command } => (agent, command, true),
            _ => return Err(no_command()),
        };
        known.command = name.chars().take(64).collect();
        if *agent != self.config.agent {
            return Err(WireError::new(ErrorCode::BadRequest, format!("this is not {agent}")));
        }
        let request = Request::parse(body)?;
        known.id = Some(request.id);
        known.actor.clone_from(&request.actor);
        if request.command != *name {
            let why = format!("the subject says {name:?}, the request {:?}", request.command);
            return Err(WireError::new(ErrorCode::BadRequest, why));
        }
        let header = |key| headers.and_then(|h| h.get(key)).map(async_nats::HeaderValue::as_str);
        if let Some(key) = header(HEADER_KEY) {
            known.actor = key.chars().take(64).collect();
        }
        let (key, signature) = (header(HEADER_KEY), header(HEADER_SIGNATURE));
        let actor = self.authority.authenticate(&subject, body, key, signature, &request.actor)?;
        self.check_deadline(request.deadline)?;
        let command = Command::parse(name, request.params.clone())?;
        let Spec { class, role, .. } = *command.spec();
        self.authority.authorize(&actor, role)?;
        if let Some(further) = command.further_role() {
            self.authority.authorize(&actor, further)?;
        }
        if durable && class == Class::Query {
            return Err(WireError::new(
                ErrorCode::BadRequest,
                "a query cannot be queued: nobody waits for it",
            ));
        }
        let traceparent = header(HEADER_TRACEPARENT).filter(|t| t.len() <= 128).map(str::to_owned);
        let operates = self.authority.has(&actor, Role::Operate);
        Ok(Incoming { request, command, actor, operates, traceparent, subject })
    }

    fn check_deadline(&self, deadline: Timestamp) -> Result<(), WireError> {
        let now = Timestamp::now();
        let ahead = deadline.duration_since(now);
        if !ahead.is_positive() {
            return Err(WireError::new(
                ErrorCode::Expired,
                format!(
                    "the deadline passed {} ms ago by this host's clock ({now}); if it was sent just now, compare the \
                     clocks",
                    ahead.unsigned_abs().as_millis()
                ),
            ));
        }
        if ahead.unsigned_abs() > self.config.max_ahead {
            return Err(WireError::new(
                ErrorCode::BadRequest,
                format!(
                    "the deadline is {} s ahead by this host's clock, the limit is {} s",
                    ahead.as_secs(),
                    self.config.max_ahead.as_secs()
                ),
            ));
        }
        Ok(())
    }

    async fn run(&self, call: Incoming) -> Result<Handled, WireError> {
        if call.command.spec().class == Class::Query {
            return self.run_query(call).await;
        }
        let id = call.request.id;
        let fingerprint =
            Fingerprint::of(&signer(&call.actor), call.command.spec().name, &call.request.params);
        match self.replies.admit(id, fingerprint, call.request.deadline).await {
            Admission::Known(body) => Ok(Handled { body, settled: true }),
            Admission::Conflict => Err(WireError::new(
                ErrorCode::Replayed,
                "the request id was used for another command or by another",
            )),
            Admission::Full => {
                let why = "too many changes are remembered until their deadlines; ask again later";
                Err(WireError::new(ErrorCode::Busy, why).retryable())
            }
            Admission::Run(ticket) => {
                let permit = self.permit(&self.changes, call.request.deadline).await?;
                let outcome = self.guarded(call).await;
                drop(permit);
                // What may succeed later is not remembered: the same id may try again.
                let settled = !matches!(&outcome, Err(error) if error.retryable);
                let body = self.reply(Some(id), outcome);
                if settled && let Err(error) = ticket.finish(body.clone()).await {
                    tracing::error!(error = %error, "a reply could not be kept; the same request may run again");
                }
                Ok(Handled { body, settled })
            }
        }
    }

    async fn run_query(&self, call: Incoming) -> Result<Handled, WireError> {
        let id = call.request.id;
        let deadline = call.request.deadline;
        let permit = self.permit(&self.queries, deadline).await?;
        let name = call.command.spec().name;
        let outcome = match tokio::time::timeout(left(deadline), self.guarded(call)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(WireError::new(
                ErrorCode::TimedOut,
                format!("{name} took longer than the request's deadline allows"),
            )),
        };
        drop(permit);
        let settled = outcome.is_ok();
        Ok(Handled { body: self.reply(Some(id), outcome), settled })
    }

    async fn permit<'a>(
        &self,
        of: &'a Semaphore,
        deadline: Timestamp,
    ) -> Result<tokio::sync::SemaphorePermit<'a>, WireError> {
        match tokio::time::timeout(left(deadline), of.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(WireError::new(
                ErrorCode::Busy,
                "other commands kept this one waiting until its deadline",
            )
            .retryable()),
        }
    }

    /// Runs the handler; a panic in it is this one request's failure.
    async fn guarded(&self, call: Incoming) -> Result<Value, WireError> {
        let name = call.command.spec().name;
        AssertUnwindSafe(self.handler.handle(call)).catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!(command = name, "the command's handler panicked");
            Err(WireError::new(
                ErrorCode::Internal,
                format!("{name} failed by a fault of the agent; see its log"),
            ))
        })
    }

    /// The reply's bytes; one that is too large for the bus becomes an error.
    pub(super) fn reply(&self, id: Option<RequestId>, outcome: Result<Value, WireError>) -> Bytes {
        let outcome = match outcome {
            Ok(result) => Outcome::Result(result),
            Err(error) => Outcome::Error(error),
        };
        let body = self.encode(id, outcome);
        let limit = self.bus.client().max_payload().saturating_sub(HEADERS_MAX);
        if body.len() <= limit {
            return body;
        }
        let why = format!("the result has {} bytes, the bus takes {limit}; ask for less", body.len());
        self.encode(id, Outcome::Error(WireError::new(ErrorCode::TooLarge, why)))
    }

    fn encode(&self, id: Option<RequestId>, outcome: Outcome) -> Bytes {
        let reply = Reply { version: VERSION, id, host: self.config.agent.clone(), outcome };
        serde_json::to_vec(&reply).unwrap_or_default().into()
    }

    fn tell(&self, known: &Known, error: &WireError) {
        tracing::debug!(command = known.command, actor = known.actor, %error, "refused a command");
        if audit::concerns(error.code) && self.valve.pass() {
            let (command, actor) = (known.command.clone(), known.actor.clone());
            self.handler.denied(Denied { command, actor, error: error.clone() });
        }
    }
}

fn signer(actor: &Actor) -> String {
    actor.key.clone().unwrap_or_else(|| format!("unsigned {}", actor.name))
}

fn left(deadline: Timestamp) -> Duration {
    Duration::try_from(deadline.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO)
}
