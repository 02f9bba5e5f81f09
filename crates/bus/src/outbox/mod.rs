//! The agent's spool of events: on disk first, then to JetStream, each once and in order.
//!
//! [`Outbox::publish`] returns when the event is on disk. A sender in the background publishes it with its id until a
//! stream acknowledged it, however long that takes; the stream drops second copies by the id.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex, MutexGuard};
use protocol::event::{Event, EventData, EventsDropped};
use protocol::ids::{AgentId, EventId};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::conn::Bus;
use crate::error::{BusError, Result};

mod sender;
mod spool;

use spool::Spool;

/// A larger event is refused: it could block all behind it.
pub const MAX_EVENT_BYTES: usize = 512 * 1024;

/// Whose events they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSource {
    /// The agent.
    pub agent: AgentId,
    /// Its cluster.
    pub cluster: String,
    /// Its data centre.
    pub dc: String,
}

/// Bounds of the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Bytes on disk; beyond it the oldest segment goes, told by an `events.dropped` event.
    pub max_bytes: u64,
    /// Bytes of one segment file.
    pub segment_bytes: u64,
    /// Sent events stay so long: an old server syncs its own disk lazily, and they are sent again after a reconnect.
    pub keep_sent: Duration,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        Self { max_bytes: 64 << 20, segment_bytes: 1 << 20, keep_sent: Duration::from_secs(120) }
    }
}

/// What the spool holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutboxStats {
    /// Events that no stream has acknowledged.
    pub pending: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Events dropped since the start because the spool was full.
    pub dropped: u64,
    /// Sequence of the newest event; 0 before the first one ever.
    pub last_sequence: u64,
    /// Sequence of the newest acknowledged event.
    pub sent_sequence: u64,
}

/// The spool; clones share it.
#[derive(Debug, Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source: EventSource,
    spool: Mutex<Spool>,
    /// Events that wait to be written, and whether someone writes: whoever comes first writes for all.
    queue: Mutex<Queue>,
    written: Condvar,
    /// Sequences of the newest event on disk and the newest acknowledged one.
    marks: watch::Sender<Marks>,
    /// What keeps events from their stream now.
    trouble: Mutex<Option<String>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Marks {
    last: u64,
    sent: u64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<(u64, EventId, EventData)>,
    done: Vec<(u64, Result<EventId>)>,
    next_ticket: u64,
    writing: bool,
}

impl Outbox {
    /// Opens or makes the spool in `dir` (its own). A torn end is cut off; blocking.
    pub fn open(dir: &Path, source: EventSource, limits: OutboxLimits) -> Result<Self> {
        let spool = Spool::open(dir, limits).map_err(|source| BusError::File {
            action: "open",
            path: dir.to_owned(),
            source,
        })?;
        let marks = Marks { last: spool.last_sequence(), sent: spool.sent_sequence() };
        let shared = Shared {
            source,
            spool: Mutex::new(spool),
            queue: Mutex::default(),
            written: Condvar::new(),
            marks: watch::Sender::new(marks),
            trouble: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns when the event is on disk; sending is the sender's business.
    ///
    /// # Errors
    /// The disk is full or failed, or the event is larger than [`MAX_EVENT_BYTES`]; then it has no sequence.
    pub async fn publish(&self, data: EventData) -> Result<EventId> {
        let outbox = self.clone();
        tokio::task::spawn_blocking(move || outbox.publish_blocking(data))
            .await
            .unwrap_or(Err(BusError::Closed))
    }

    /// The same for a thread that may block.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn publish_blocking(&self, data: EventData) -> Result<EventId> {
        self.publish_as(EventId::generate(), data)
    }

    /// The same under an id that the caller derives from what happened: told twice, the stream keeps it once.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn publish_as(&self, id: EventId, data: EventData) -> Result<EventId> {
        let mut queue = lock(&self.shared.queue);
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.waiting.push((ticket, id, data));
        loop {
            if let Some(at) = queue.done.iter().position(|(done, _)| *done == ticket) {
                return queue.done.swap_remove(at).1;
            }
            if queue.writing {
                self.shared.written.wait(&mut queue);
                continue;
            }
            queue.writing = true;
            let batch = std::mem::take(&mut queue.waiting);
            drop(queue);
            let done = self.shared.write(batch);
            queue = lock(&self.shared.queue);
            queue.writing = false;
            queue.done.extend(done);
            self.shared.written.notify_all();
        }
    }

    /// All events on disk, sent ones that are still kept among them, oldest first; blocking.
    ///
    /// # Errors
    /// A segment cannot be read.
    pub fn events(&self) -> Result<Vec<Event>> {
        let spool = lock(&self.shared.spool);
        let failed = |source| BusError::File { action: "read", path: spool.dir().to_owned(), source };
        let mut cursor = spool.cursor(1).map_err(failed)?;
        let mut events = Vec::new();
        while let Some(spooled) = spool.read(&mut cursor).map_err(failed)? {
            events.extend(serde_json::from_slice(&spooled.body));
        }
        Ok(events)
    }

    /// What it holds.
    #[must_use]
    pub fn stats(&self) -> OutboxStats {
        lock(&self.shared.spool).stats()
    }

    /// What keeps events from their stream now, and what mends it; `None` while all goes well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        lock(&self.shared.trouble).clone()
    }

    /// Sends in the background, in order, each event again and again until a stream has it, until `shutdown`.
    pub fn spawn_sender(&self, bus: Bus, shutdown: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(sender::run(self.shared.clone(), bus, shutdown))
    }

    /// Waits until all that was published is acknowledged; false when `within` passed first. For a good end.
    pub async fn flush(&self, within: Duration) -> bool {
        let mut marks = self.shared.marks.subscribe();
        tokio::time::timeout(within, marks.wait_for(|m| m.sent >= m.last)).await.is_ok_and(|ok| ok.is_ok())
    }
}

impl Shared {
    /// Writes a batch with one sync for all of it.
    fn write(&self, batch: Vec<(u64, EventId, EventData)>) -> Vec<(u64, Result<EventId>)> {
        let mut spool = lock(&self.spool);
        let failed = |source, spool: &Spool| BusError::File {
            action: "append to",
            path: spool.dir().to_owned(),
            source,
        };
        let mut done: Vec<(u64, Result<EventId>)> = Vec::new();
        let begin = spool.mark();
        let mut outcome = Ok(());
        for (ticket, id, data) in batch {
            let result = match outcome {
                Ok(()) => self.append(&mut spool, id, data).map(|()| id),
                Err(_) => Err(BusError::Closed),
            };
            if let Err(BusError::File { source, .. }) = &result {
                outcome = Err(std::io::Error::new(source.kind(), source.to_string()));
            }
            done.push((ticket, result));
        }
        if let Err(source) = outcome.and_then(|()| spool.sync()) {
            // Nothing of the batch counts; what reached the file is cut off again.
            spool.cut_back(begin);
            for (_, result) in &mut done {
                if !matches!(result, Err(BusError::Unsendable { .. })) {
                    let source = std::io::Error::new(source.kind(), source.to_string());
                    *result = Err(failed(source, &spool));
                }
            }
            tracing::error!(%source, dir = %spool.dir().display(), "events could not be written to the spool");
        }
        let last = spool.last_sequence();
        drop(spool);
        self.marks.send_modify(|marks| marks.last = last);
        done
    }

    fn append(&self, spool: &mut Spool, id: EventId, data: EventData) -> Result<()> {
        let dir = spool.dir().to_owned();
        let failed = |source| BusError::File { action: "append to", path: dir.clone(), source };
        let body = self.encode(spool.last_sequence() + 1, id, data)?;
        spool.append(&body).map_err(failed)?;
        if let Some((first_sequence, count)) = spool.make_room().map_err(failed)? {
            tracing::error!(count, first_sequence, "the event spool was full; its oldest events are lost");
            let told = EventData::EventsDropped(EventsDropped { count, first_sequence });
            let body = self.encode(spool.last_sequence() + 1, EventId::generate(), told)?;
            spool.append(&body).map_err(failed)?;
        }
        Ok(())
    }

    fn encode(&self, sequence: u64, id: EventId, data: EventData) -> Result<Vec<u8>> {
        let source = &self.source;
        let kind = data.kind();
        let event = Event {
            specversion: "1.0".into(),
            id,
            source: format!("/orch/agents/{}", source.agent),
            kind: format!("orch.{kind}"),
            subject: data.about(),
            time: Timestamp::now(),
            datacontenttype: "application/json".into(),
            cluster: source.cluster.clone(),
            dc: source.dc.clone(),
            host: source.agent.clone(),
            sequence,
            data: data.into_body(),
        };
        let unsendable = |why| BusError::Unsendable { what: format!("the event {kind}"), why };
        let body = serde_json::to_vec(&event).map_err(|error| unsendable(error.to_string()))?;
        if body.len() > MAX_EVENT_BYTES {
            return Err(unsendable(format!("it has {} bytes, the limit is {MAX_EVENT_BYTES}", body.len())));
        }
        Ok(body)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}
