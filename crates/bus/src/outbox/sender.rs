//! Sends the spool to JetStream: several events in flight, in order, until each is acknowledged.
//!
//! When one is not acknowledged, or the connection comes back, it begins again behind the last event that is known to
//! be safe. Copies that arrived before are dropped by the stream by their id.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use protocol::event::{CONTENT_TYPE, Event};
use protocol::subject::Subject;
use tokio_util::sync::CancellationToken;

use super::spool::{Cursor, Spooled};
use super::{Shared, lock};
use crate::conn::{Bus, ConnState, backoff};

/// Events without an acknowledgement at one time.
const WINDOW: usize = 64;
/// The stream's duplicate window is 2 h: an acknowledged event is not sent again after so long an outage.
const SAFE_TO_REPEAT: Duration = Duration::from_secs(3_600);

struct InFlight {
    sequence: u64,
    ack: Ack,
}

/// Ready when the event is safe in a stream.
type Ack = BoxFuture<'static, Result<(), PublishError>>;

/// Why a round ended.
enum End {
    Shutdown,
    Disconnected,
    Failed(String),
}

pub(super) async fn run(shared: Arc<Shared>, bus: Bus, shutdown: CancellationToken) {
    let mut failures = 0;
    let mut repeat_recent = false;
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
        let repeat = std::mem::take(&mut repeat_recent) && lost_at.elapsed() < SAFE_TO_REPEAT;
        let before = shared.marks.borrow().sent;
        let end = round(&shared, &bus, &shutdown, repeat).await;
        if shared.marks.borrow().sent > before {
            failures = 0;
        }
        match end {
            End::Shutdown => return,
            End::Disconnected => {
                repeat_recent = true;
                lost_at = Instant::now();
            }
            End::Failed(why) => {
                failures += 1;
                // Told at the first failure and then ever more rarely.
                if failures == 1 || (failures % 20) == 0 {
                    tracing::warn!(
                        why,
                        pending = lock(&shared.spool).stats().pending,
                        "events stay in the spool for now"
                    );
                }
                let pause = backoff(failures, 200, 10_000);
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }
}

/// Sends from the first unsafe event on until something goes wrong.
async fn round(shared: &Arc<Shared>, bus: &Bus, shutdown: &CancellationToken, repeat: bool) -> End {
    let jetstream = bus.jetstream();
    let mut state = bus.state();
    state.mark_unchanged();
    let mut marks = shared.marks.subscribe();
    let mut cursor = {
        let spool = lock(&shared.spool);
        let from = if repeat { spool.recent(Instant::now()) } else { spool.sent_sequence() + 1 };
        match spool.cursor(from) {
            Ok(cursor) => cursor,
            Err(error) => return End::Failed(error.to_string()),
        }
    };
    let mut in_flight: VecDeque<InFlight> = VecDeque::new();
    loop {
        marks.mark_unchanged();
        while in_flight.len() < WINDOW {
            if !bus.is_connected() {
                return End::Disconnected;
            }
            match next(shared, &mut cursor).await {
                Ok(Some(event)) => match send(&jetstream, &event, bus).await {
                    Ok(ack) => in_flight.push_back(InFlight { sequence: event.sequence, ack }),
                    Err(why) => return End::Failed(why),
                },
                Ok(None) => break,
                Err(error) => return End::Failed(format!("the spool cannot be read: {error}")),
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return End::Shutdown,
            () = lost(&mut state) => return End::Disconnected,
            ack = acknowledged(&mut in_flight) => match ack {
                Ok(sequence) => {
                    if let Err(error) = note(shared, sequence).await {
                        tracing::error!(%error, "the spool's mark of sent events cannot be written");
                    }
                }
                Err(why) => return End::Failed(why),
            },
            _ = marks.changed(), if in_flight.len() < WINDOW => {}
            () = tokio::time::sleep(Duration::from_secs(30)), if in_flight.is_empty() => {
                lock(&shared.spool).remove_old(Instant::now()).ok();
            }
        }
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

/// Publishes. An event that no server will ever take counts as done, or it would hold up all others.
async fn send(
    jetstream: &async_nats::jetstream::Context,
    spooled: &Spooled,
    bus: &Bus,
) -> Result<Ack, String> {
    let Ok(event) = serde_json::from_slice::<Event>(&spooled.body) else {
        tracing::error!(sequence = spooled.sequence, "an event in the spool is not readable; skipped");
        return Ok(std::future::ready(Ok(())).boxed());
    };
    let kind = event.kind.strip_prefix("orch.").unwrap_or(&event.kind).to_owned();
    let subject = Subject::Event { agent: event.host.clone(), kind }.to_string();
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, event.id.to_string().as_str());
    headers.insert("Content-Type", CONTENT_TYPE);
    let publish = jetstream.publish_with_headers(subject, headers, spooled.body.clone().into());
    match tokio::time::timeout(bus.config().request_timeout(), publish).await {
        Ok(Ok(ack)) => Ok(ack.into_future().map(|ack| ack.map(drop)).boxed()),
        Ok(Err(error)) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
            tracing::error!(sequence = spooled.sequence, "an event is larger than the bus takes; skipped");
            Ok(std::future::ready(Ok(())).boxed())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the bus takes nothing".into()),
    }
}

/// The newest event of those acknowledged in a row from the oldest on; for ever pending when none is in flight.
async fn acknowledged(in_flight: &mut VecDeque<InFlight>) -> Result<u64, String> {
    let Some(first) = in_flight.front_mut() else { return std::future::pending().await };
    let mut sequence = first.sequence;
    // Awaited by reference, so that an interrupted wait loses nothing.
    let outcome = (&mut first.ack).await;
    in_flight.pop_front();
    outcome.map_err(|error| explain(&error))?;
    // Those that are there already go along: each mark costs a sync of the disk.
    while let Some(next) = in_flight.front_mut() {
        match (&mut next.ack).now_or_never() {
            Some(Ok(())) => sequence = next.sequence,
            Some(Err(error)) => {
                next.ack = std::future::ready(Err(error)).boxed();
                break;
            }
            None => break,
        }
        in_flight.pop_front();
    }
    Ok(sequence)
}

fn explain(error: &PublishError) -> String {
    match error.kind() {
        PublishErrorKind::StreamNotFound => "no stream takes events; is JetStream on and set up?".into(),
        PublishErrorKind::TimedOut => "no acknowledgement came in time".into(),
        _ => error.to_string(),
    }
}

async fn note(shared: &Arc<Shared>, sequence: u64) -> std::io::Result<()> {
    let shared = shared.clone();
    tokio::task::spawn_blocking(move || {
        let noted = lock(&shared.spool).acknowledged(sequence, Instant::now());
        shared.marks.send_modify(|marks| marks.sent = marks.sent.max(sequence));
        noted
    })
    .await
    .map_err(std::io::Error::other)?
}

async fn lost(state: &mut tokio::sync::watch::Receiver<ConnState>) {
    state.wait_for(|s| *s != ConnState::Connected).await.ok();
}
