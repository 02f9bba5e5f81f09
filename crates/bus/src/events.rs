//! The durable stream of events: made and checked, read from any point.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy};
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use jiff::Timestamp;
use protocol::event::Event;
use protocol::ids::{AgentId, EventId};
use protocol::subject::{self, Subject};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::conn::{Bus, backoff};
use crate::error::{BusError, Result};
use crate::replicas::Replicas;
use crate::streams::{self, Durable, Made, StreamLimits};

/// Name of the stream.
pub const EVENT_STREAM: &str = "orch_events";

/// Who makes it.
pub(crate) const SETUP_HINT: &str = "`orchestrator-ctl bus setup`, run by a controller, makes it";

/// Second copies of an event are dropped by its id within this time.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(2 * 3600);

/// Bounds of the event stream unless the operator says otherwise: the oldest events go first.
#[must_use]
pub fn event_stream_limits() -> StreamLimits {
    StreamLimits {
        max_bytes: 1 << 30,
        max_age: Duration::from_secs(90 * 24 * 3600),
        replicas: Replicas::Auto,
    }
}

/// Makes the event stream if it is missing and checks that it is as the events need it.
///
/// Limits of a stream that exists are left as they are: they are the operator's.
pub async fn ensure_event_stream(bus: &Bus, limits: &StreamLimits) -> Result<Made> {
    let stream = Durable {
        name: EVENT_STREAM,
        description: "Events of orchestrator-agents, CloudEvents 1.0",
        subject: subject::ALL_EVENTS,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        duplicate_window: DUPLICATE_WINDOW,
        append_only: true,
        direct: true,
    };
    streams::ensure_durable(bus, &stream, limits).await
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Since {
    /// Only what comes from now on.
    #[default]
    New,
    /// All that the stream holds.
    All,
    /// What was stored at or after this instant.
    Time(Timestamp),
    /// From this sequence of the stream on; the sequence after the last one seen continues a reading.
    Sequence(u64),
}

/// Which events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter {
    /// Where to begin.
    pub since: Since,
    /// Only of this cluster.
    pub cluster: Option<String>,
    /// Only of this agent.
    pub host: Option<AgentId>,
    /// Only of these kinds: `snapshot.created`, `snapshot.*`, `*`.
    pub kind: Option<String>,
    /// End when the stream's end, as it stands at the start, is reached; otherwise follow for ever.
    pub until_end: bool,
}

/// An event with its place in the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// Sequence in the stream, for [`Since::Sequence`].
    pub stream_sequence: u64,
    /// The event.
    pub event: Event,
}

/// Events as they come. Outages are waited through; an error is the last item.
pub type EventStream = BoxStream<'static, Result<StoredEvent>>;

/// Messages asked for at once, and their bytes: without the second bound a server drops the consumer as slow.
const BATCH_MESSAGES: usize = 256;
const BATCH_BYTES: usize = 4 << 20;
/// One pull waits so long for events.
const PULL: Duration = Duration::from_secs(5);
/// Event ids remembered, so that a second copy in the stream is seen.
const REMEMBERED: usize = 4_096;

/// Reads the stream in order, unfiltered on the server: 2.9.10 may skip messages for filtered consumers.
pub(crate) async fn read(bus: &Bus, filter: EventFilter) -> Result<EventStream> {
    let info = streams::info(bus, EVENT_STREAM).await?;
    let start = match filter.since {
        Since::New => Start::Sequence(info.state.last_sequence + 1),
        Since::All => Start::Sequence(1),
        Since::Sequence(sequence) => Start::Sequence(sequence.max(1)),
        Since::Time(time) => Start::Time(time),
    };
    let end = filter.until_end.then_some(info.state.last_sequence);
    let (sender, receiver) = mpsc::channel(BATCH_MESSAGES);
    let reader = Reader { bus: bus.clone(), filter, start, end, seen: Seen::default(), sender };
    // Boxed: the future holds a whole consumer.
    tokio::spawn(reader.run().boxed());
    Ok(stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|item| (item, receiver)) })
        .boxed())
}

#[derive(Debug, Clone, Copy)]
enum Start {
    Sequence(u64),
    Time(Timestamp),
}

struct Reader {
    bus: Bus,
    filter: EventFilter,
    start: Start,
    end: Option<u64>,
    seen: Seen,
    sender: mpsc::Sender<Result<StoredEvent>>,
}

/// Whether to read on.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    More,
    Idle,
    Lost,
    Done,
}

impl Reader {
    async fn run(mut self) {
        let closed = self.sender.clone();
        tokio::select! {
            () = closed.closed() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        let mut failures = 0;
        loop {
            if let (Some(end), Start::Sequence(next)) = (self.end, self.start)
                && next > end
            {
                return;
            }
            match self.consumer().await {
                Ok(consumer) => {
                    failures = 0;
                    if self.drain(&consumer).await == Next::Done {
                        return;
                    }
                }
                Err(error @ BusError::NotPermitted { .. }) => {
                    self.sender.send(Err(error)).await.ok();
                    return;
                }
                Err(error) => {
                    failures += 1;
                    tracing::debug!(%error, "events cannot be read now");
                }
            }
            tokio::time::sleep(backoff(failures.max(1), 100, 5_000)).await;
        }
    }

    async fn consumer(&self) -> Result<PullConsumer> {
        let deliver_policy = match self.start {
            Start::Sequence(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence },
            Start::Time(time) => DeliverPolicy::ByStartTime { start_time: offset_time(time)? },
        };
        let config = PullConfig {
            deliver_policy,
            ack_policy: AckPolicy::None,
            inactive_threshold: Duration::from_secs(60),
            memory_storage: true,
            num_replicas: 1,
            ..PullConfig::default()
        };
        streams::create_consumer(&self.bus, EVENT_STREAM, config).await
    }

    /// Reads until the consumer or the connection is lost, or all is read.
    async fn drain(&mut self, consumer: &PullConsumer) -> Next {
        // An end without anything before it needs no pull that waits for its limit.
        if self.end.is_some() && consumer.cached_info().num_pending == 0 {
            return Next::Done;
        }
        loop {
            match self.batch(consumer).await {
                Next::More => {}
                Next::Idle if self.end.is_some() => return Next::Done,
                Next::Idle => {
                    // Silence, or is the consumer gone with a restarted server?
                    let info = timeout(self.bus.config().request_timeout(), consumer.get_info()).await;
                    if !matches!(info, Ok(Ok(_))) {
                        return Next::Lost;
                    }
                }
                other => return other,
            }
        }
    }

    async fn batch(&mut self, consumer: &PullConsumer) -> Next {
        let pull =
            consumer.batch().max_messages(BATCH_MESSAGES).max_bytes(BATCH_BYTES).expires(PULL).messages();
        let Ok(Ok(mut messages)) = timeout(self.bus.config().request_timeout(), pull).await else {
            return Next::Lost;
        };
        let mut got = Next::Idle;
        loop {
            let message = match timeout(PULL + Duration::from_secs(2), messages.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => {
                    tracing::debug!(%error, "reading events was interrupted");
                    // Whether anything was still to come behind it is not known: on from what has been read, by a consumer of its own.
                    return Next::Lost;
                }
                Ok(None) => return got,
                Err(_) => return if got == Next::More { got } else { Next::Idle },
            };
            got = Next::More;
            let Ok(info) = message.info() else { continue };
            let (sequence, pending) = (info.stream_sequence, info.pending);
            if let Start::Sequence(next) = self.start
                && sequence < next
            {
                continue;
            }
            self.start = Start::Sequence(sequence + 1);
            if let Some(event) = self.wanted(&message.subject, &message.payload) {
                let stored = StoredEvent { stream_sequence: sequence, event };
                if self.sender.send(Ok(stored)).await.is_err() {
                    return Next::Done;
                }
            }
            if self.end.is_some_and(|end| sequence >= end || pending == 0) {
                return Next::Done;
            }
        }
    }

    fn wanted(&mut self, subject: &str, body: &[u8]) -> Option<Event> {
        let event: Event = serde_json::from_slice(body)
            .inspect_err(|error| tracing::debug!(subject, %error, "not an event"))
            .ok()?;
        match Subject::parse(subject) {
            // The server lets an agent publish below its own name only; the body must agree.
            Ok(Subject::Event { agent, .. }) if agent == event.host => {}
            _ => {
                tracing::warn!(subject, claims = %event.host, "skipped an event in another agent's name");
                return None;
            }
        }
        let filter = &self.filter;
        let kind = event.kind.strip_prefix("orch.").unwrap_or(&event.kind);
        let wanted = filter.cluster.as_ref().is_none_or(|c| *c == event.cluster)
            && filter.host.as_ref().is_none_or(|h| *h == event.host)
            && filter.kind.as_ref().is_none_or(|pattern| matches(pattern, kind));
        (wanted && self.seen.is_new(event.id)).then_some(event)
    }
}

/// The last event ids.
#[derive(Debug, Default)]
struct Seen {
    ids: HashSet<EventId>,
    order: VecDeque<EventId>,
}

impl Seen {
    fn is_new(&mut self, id: EventId) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

fn offset_time(time: Timestamp) -> Result<async_nats::datetime::DateTime> {
    async_nats::datetime::from_nanos(time.as_nanosecond())
        .map_err(|error| BusError::Unsendable { what: format!("the time {time}"), why: error.to_string() })
}

/// `*` stands for any run of characters.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| matches(tail, rest)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_kind_is_matched_by_its_pattern() {
        for (pattern, kind, expected) in [
            ("snapshot.created", "snapshot.created", true),
            ("snapshot.*", "snapshot.created", true),
            ("*", "job.stage", true),
            ("*.created", "snapshot.created", true),
            ("job.*", "snapshot.created", false),
            ("snapshot", "snapshot.created", false),
        ] {
            assert_eq!(matches(pattern, kind), expected, "{pattern} {kind}");
        }
    }
}
