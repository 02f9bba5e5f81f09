//! Sends the spool to JetStream, one event after the other, each again and again until it is acknowledged.
//!
//! One at a time on purpose: what the client has queued when the connection breaks it sends after the reconnect, ahead of
//! our repetition of what was lost before it, so that with several in flight their order would not hold. Copies that
//! arrived before are dropped by the stream by their id.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use protocol::event::{CONTENT_TYPE, Event};
use protocol::subject::Subject;
use tokio_util::sync::CancellationToken;

use super::spool::{Cursor, Spooled};
use super::{Shared, lock};
use crate::conn::{Bus, ConnState, backoff};
use crate::error::BusError;
use crate::events::{EVENT_STREAM, SETUP_HINT};
use crate::streams::{kept, last_id};

/// While events follow on each other, their mark is written this often: each costs a sync of the disk.
const MARK_EVERY: Duration = Duration::from_millis(50);
/// The stream's duplicate window is 2 h: an acknowledged event is not sent again after so long an outage.
const SAFE_TO_REPEAT: Duration = Duration::from_secs(3_600);

/// A server that does not have the newest event is asked so often, as it may have just begun.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// What holds the events up is told again after so long, if it is the same.
const TELL_AGAIN: Duration = Duration::from_secs(3_600);
/// What the bus's permissions forbid is tried again after so long, or with a new connection.
const REFUSED_PAUSE: Duration = Duration::from_secs(600);

/// Why a round ended.
enum End {
    Shutdown,
    Disconnected,
    /// The stream has lost messages.
    Lost,
    Failed(Trouble),
}

/// What the stream has acknowledged and may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Debt {
    None,
    /// A server may have died with the events from this sequence on: those that were recent when the connection was lost.
    Doubted(u64),
    /// The events from this sequence on are owed, up to and with that one, through whatever happens until they are acknowledged anew.
    Owed(u64, u64),
}

impl Debt {
    /// Where to begin, if not after what was acknowledged.
    fn from(self) -> Option<u64> {
        match self {
            Self::Owed(from, _) => Some(from),
            Self::None | Self::Doubted(_) => None,
        }
    }

    /// An event was acknowledged.
    fn paid(&mut self, sequence: u64) {
        if let Self::Owed(_, until) = *self
            && sequence >= until
        {
            *self = Self::None;
        }
    }
}

/// The stream's own count of its messages, by its acknowledgements.
#[derive(Debug, Default)]
struct Count {
    highest: u64,
}

impl Count {
    /// Whether the stream counts from an earlier number than before: it was made anew, or goes on from an older copy of itself. A copy that it
    /// drops is answered with the number of the first and tells nothing.
    fn has_gone_back(&mut self, ack: &PublishAck) -> bool {
        if ack.duplicate {
            return false;
        }
        let before = std::mem::replace(&mut self.highest, ack.sequence);
        ack.sequence <= before
    }
}

/// What keeps an event from its stream.
#[derive(Debug, PartialEq, Eq)]
struct Trouble {
    why: String,
    /// The permissions forbid it: nothing but a change of them helps.
    refused: bool,
}

impl Trouble {
    fn passing(why: impl Into<String>) -> Self {
        Self { why: why.into(), refused: false }
    }
}

/// Tells what lasts, once, and again when it has lasted on or is another.
#[derive(Default)]
struct Teller {
    failures: usize,
    told: Option<(String, Instant)>,
}

impl Teller {
    /// At a start the stream may be a moment late: the third failure in a row is told; a refusal at once.
    fn failed(&mut self, shared: &Shared, trouble: &Trouble) {
        self.failures += 1;
        *lock(&shared.trouble) = Some(trouble.why.clone());
        let lasts = trouble.refused || self.failures >= 3;
        let news =
            self.told.as_ref().is_none_or(|(why, at)| *why != trouble.why || at.elapsed() > TELL_AGAIN);
        if lasts && news {
            self.told = Some((trouble.why.clone(), Instant::now()));
            tracing::warn!(
                why = trouble.why,
                pending = lock(&shared.spool).stats().pending,
                "events wait in the spool on this host"
            );
        }
    }

    fn went_on(&mut self, shared: &Shared) {
        self.failures = 0;
        *lock(&shared.trouble) = None;
        if self.told.take().is_some() {
            tracing::info!("the stream takes events again");
        }
    }
}

pub(super) async fn run(shared: Arc<Shared>, bus: Bus, shutdown: CancellationToken) {
    let mut teller = Teller::default();
    let (mut debt, mut count) = (Debt::None, Count::default());
    let mut lost_at = Instant::now();
    loop {
        let mut state = bus.state();
        tokio::select! {
            () = shutdown.cancelled() => return,
            up = state.wait_for(|s| *s != ConnState::Connecting && *s != ConnState::Disconnected) => {
                if !up.is_ok_and(|s| *s == ConnState::Connected) {
                    return;
                }
            }
        }
        if let Debt::Doubted(from) = debt {
            let sent = lock(&shared.spool).sent_sequence();
            let is_sound = lost_at.elapsed() >= SAFE_TO_REPEAT
                || tokio::select! {
                    () = shutdown.cancelled() => return,
                    has_all = has_all(&shared, &bus, from) => has_all,
                };
            debt = if is_sound { Debt::None } else { Debt::Owed(from, sent) };
        }
        let before = shared.marks.borrow().sent;
        let end = round(&shared, &bus, &shutdown, &mut debt, &mut count).await;
        if shared.marks.borrow().sent > before {
            teller.went_on(&shared);
        }
        match end {
            End::Shutdown => return,
            End::Disconnected => {
                lost_at = Instant::now();
                if debt == Debt::None {
                    debt = Debt::Doubted(lock(&shared.spool).recent(lost_at));
                }
            }
            End::Lost => {
                tracing::warn!(
                    "the stream of events has lost messages: the recent ones of this host are sent again"
                );
                let spool = lock(&shared.spool);
                let from = spool.recent(Instant::now());
                debt = Debt::Owed(debt.from().map_or(from, |owed| owed.min(from)), spool.sent_sequence());
            }
            End::Failed(trouble) => {
                teller.failed(&shared, &trouble);
                state.mark_unchanged();
                let pause =
                    if trouble.refused { REFUSED_PAUSE } else { backoff(teller.failures, 200, 10_000) };
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                    // A new connection may have other permissions.
                    _ = state.changed() => {}
                }
            }
        }
    }
}

/// Whether the stream still has all that it acknowledged shortly before. It takes events one after the other, and a server that dies with what its
/// disk has not (an old one syncs it lazily) loses the newest: so it has all if it has the newest, and what was lost before that one came
/// has shown in the stream's count ([`Count`]). Where it cannot be told they are sent again: a stream drops copies by their id, except one
/// whose server was replaced by a newer one meanwhile (2.9 by 2.15).
async fn has_all(shared: &Arc<Shared>, bus: &Bus, from: u64) -> bool {
    let (sent, next) = match newest(shared, from).await {
        Ok(Some(newest)) => newest,
        Ok(None) => return true,
        Err(_) => return false,
    };
    let known = [Some(&sent), next.as_ref()].map(|event| event.map(|event| event.id.to_string()));
    let subject = subject_of(&sent).to_string();
    for _ in 0..LOOKS {
        match last_id(bus, EVENT_STREAM, &subject).await {
            Ok(Some(id)) if known.contains(&Some(id.clone())) => return true,
            // By a server that has not caught up, perhaps.
            Ok(_) => tokio::time::sleep(BETWEEN_LOOKS).await,
            Err(error) => {
                tracing::debug!(error = %sys::error::line(&error), "the stream does not tell whether it has the newest event");
                return false;
            }
        }
    }
    tracing::info!(event = %sent.id, "the stream has lost its newest event of this host: the recent ones are sent again");
    false
}

/// The newest event that was acknowledged, and the next one, which may have been on its way; `None` where none from `from` on was.
async fn newest(shared: &Arc<Shared>, from: u64) -> std::io::Result<Option<(Event, Option<Event>)>> {
    let mut cursor = {
        let spool = lock(&shared.spool);
        let sent = spool.sent_sequence();
        if sent < from {
            return Ok(None);
        }
        spool.cursor(sent)?
    };
    let mut events = Vec::new();
    for _ in 0..2 {
        if let Some(spooled) = next(shared, &mut cursor).await? {
            events.push(serde_json::from_slice::<Event>(&spooled.body).map_err(std::io::Error::other)?);
        }
    }
    let mut events = events.into_iter();
    Ok(events.next().map(|sent| (sent, events.next())))
}

fn subject_of(event: &Event) -> Subject {
    let kind = event.kind.strip_prefix("orch.").unwrap_or(&event.kind).to_owned();
    Subject::Event { agent: event.host.clone(), kind }
}

/// Sends from the first unsafe event on until something goes wrong.
async fn round(
    shared: &Arc<Shared>,
    bus: &Bus,
    shutdown: &CancellationToken,
    debt: &mut Debt,
    count: &mut Count,
) -> End {
    let mut state = bus.state();
    state.mark_unchanged();
    let mut marks = shared.marks.subscribe();
    let mut cursor = {
        let spool = lock(&shared.spool);
        let from = debt.from().unwrap_or_else(|| spool.sent_sequence() + 1);
        match spool.cursor(from) {
            Ok(cursor) => cursor,
            Err(error) => return End::Failed(Trouble::passing(error.to_string())),
        }
    };
    let mut unmarked: Option<u64> = None;
    let mut marked_at = Instant::now();
    loop {
        marks.mark_unchanged();
        let event = match next(shared, &mut cursor).await {
            Ok(event) => event,
            Err(error) => {
                return End::Failed(Trouble::passing(format!("the spool cannot be read: {error}")));
            }
        };
        if let Some(sequence) = unmarked
            && (event.is_none() || marked_at.elapsed() >= MARK_EVERY)
        {
            note(shared, sequence).await;
            (unmarked, marked_at) = (None, Instant::now());
        }
        let Some(event) = event else {
            tokio::select! {
                () = shutdown.cancelled() => return End::Shutdown,
                () = lost(&mut state) => return End::Disconnected,
                _ = marks.changed() => {}
                () = tokio::time::sleep(Duration::from_secs(30)) => {
                    lock(&shared.spool).remove_old(Instant::now()).ok();
                }
            }
            continue;
        };
        let end = tokio::select! {
            () = shutdown.cancelled() => End::Shutdown,
            () = lost(&mut state) => End::Disconnected,
            sent = send(&event, bus) => match sent {
                Ok(ack) => {
                    unmarked = Some(event.sequence);
                    debt.paid(event.sequence);
                    if !ack.is_some_and(|ack| count.has_gone_back(&ack)) {
                        continue;
                    }
                    End::Lost
                }
                Err(trouble) => End::Failed(trouble),
            },
        };
        if let Some(sequence) = unmarked {
            note(shared, sequence).await;
        }
        return end;
    }
}

async fn next(shared: &Arc<Shared>, cursor: &mut Cursor) -> std::io::Result<Option<Spooled>> {
    let shared = shared.clone();
    let mut moved = *cursor;
    let (read, moved) = tokio::task::spawn_blocking(move || {
        let read = lock(&shared.spool).read(&mut moved);
        (read, moved)
    })
    .await
    .map_err(std::io::Error::other)?;
    *cursor = moved;
    read
}

/// Publishes and waits for the acknowledgement. An event that no server will ever take counts as done, or it would
/// hold up all others, and is acknowledged by none.
async fn send(spooled: &Spooled, bus: &Bus) -> Result<Option<PublishAck>, Trouble> {
    let Ok(event) = serde_json::from_slice::<Event>(&spooled.body) else {
        tracing::error!(sequence = spooled.sequence, "an event in the spool is not readable; skipped");
        return Ok(None);
    };
    let subject = subject_of(&event).to_string();
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, event.id.to_string().as_str());
    headers.insert("Content-Type", CONTENT_TYPE);
    let limit = bus.config().request_timeout();
    match bus.request(subject, Some(headers), spooled.body.clone().into(), limit).await {
        Ok(answer) => match serde_json::from_slice::<Response<PublishAck>>(&answer.payload) {
            Ok(Response::Ok(ack)) => match kept(bus, &ack) {
                Ok(()) => Ok(Some(ack)),
                Err(error) => Err(Trouble::passing(error.to_string())),
            },
            Ok(Response::Err { error }) => {
                Err(Trouble::passing(format!("the stream refused an event: {error}")))
            }
            Err(error) => {
                Err(Trouble::passing(format!("the stream's acknowledgement cannot be read: {error}")))
            }
        },
        Err(BusError::Unsendable { why, .. }) => {
            tracing::error!(
                sequence = spooled.sequence,
                why,
                "an event that the bus does not take is skipped"
            );
            Ok(None)
        }
        Err(error) => Err(explain(&error)),
    }
}

fn explain(error: &BusError) -> Trouble {
    match error {
        BusError::NoResponders { .. } => Trouble::passing(format!("no stream takes events; {SETUP_HINT}")),
        BusError::TimedOut { .. } => Trouble::passing(format!(
            "no acknowledgement came in time; where there is no stream, {SETUP_HINT}"
        )),
        BusError::NotPermitted { .. } => Trouble { why: error.to_string(), refused: true },
        other => Trouble::passing(other.to_string()),
    }
}

/// Keeps on disk that all up to `sequence` are safe. Where that fails they are sent again after a restart.
async fn note(shared: &Arc<Shared>, sequence: u64) {
    let shared = shared.clone();
    let noted = tokio::task::spawn_blocking(move || {
        let noted = lock(&shared.spool).acknowledged(sequence, Instant::now());
        shared.marks.send_modify(|marks| marks.sent = marks.sent.max(sequence));
        noted
    });
    if let Err(error) = noted.await.unwrap_or_else(|panic| Err(std::io::Error::other(panic))) {
        tracing::error!(%error, "the spool's mark of sent events cannot be written");
    }
}

async fn lost(state: &mut tokio::sync::watch::Receiver<ConnState>) {
    state.wait_for(|s| *s != ConnState::Connected).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_stays_so_until_the_last_of_it_is_acknowledged_anew() {
        let mut debt = Debt::Owed(3, 9);
        for sequence in 3..9 {
            debt.paid(sequence);
            assert_eq!(debt.from(), Some(3), "a break after {sequence} begins at the first again");
        }
        debt.paid(9);
        assert_eq!(debt, Debt::None);
    }

    #[test]
    fn a_stream_that_counts_on_has_lost_nothing() {
        let ack = |sequence, duplicate| PublishAck {
            stream: EVENT_STREAM.to_owned(),
            sequence,
            duplicate,
            domain: String::new(),
            value: None,
        };
        let mut count = Count::default();
        assert!(!count.has_gone_back(&ack(7, false)));
        assert!(!count.has_gone_back(&ack(900, false)), "others' events lie between");
        assert!(!count.has_gone_back(&ack(3, true)), "a copy is answered with the number of the first");
        assert!(!count.has_gone_back(&ack(901, false)));
        assert!(count.has_gone_back(&ack(1, false)));
        assert!(!count.has_gone_back(&ack(2, false)), "it is told once");
    }
}
