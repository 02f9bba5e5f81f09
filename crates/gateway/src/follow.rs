//! Reads the stream of events for ever, and looks whether it can be read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bus::events::{EventFilter, Since, StoredEvent};
use bus::{BusError, Client};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

/// Between two tries to read, and between two looks.
const PAUSE: Duration = Duration::from_secs(10);

/// Takes events in as they are read.
pub(crate) trait Reader: Send + Sync + 'static {
    /// One event; `is_new`: it was stored after the reading began.
    fn take(&self, event: &StoredEvent, is_new: bool);

    /// All that was there when the reading began has been read.
    fn is_caught_up(&self) {}
}

/// Whether the stream of events can be read.
#[derive(Debug, Default)]
pub(crate) struct Readable {
    answers: AtomicBool,
    is_read: AtomicBool,
}

impl Readable {
    /// The stream answered when it was last asked, and is being read.
    pub(crate) fn now(&self) -> bool {
        self.answers.load(Ordering::Relaxed) && self.is_read.load(Ordering::Relaxed)
    }
}

/// Has `reader` take everything since `since` and then what comes, until `stop`; `what` stands still where it cannot be read.
pub(crate) fn follow<R: Reader>(
    client: &Client,
    what: &'static str,
    since: Timestamp,
    reader: Arc<R>,
    stop: &CancellationToken,
) -> Arc<Readable> {
    let readable = Arc::new(Readable::default());
    tokio::spawn(probe(client.clone(), readable.clone(), stop.clone()));
    let mut place = Place {
        client: client.clone(),
        reader,
        readable: readable.clone(),
        since: Since::Time(since),
        is_past: true,
    };
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut told = false;
        while !stop.is_cancelled() {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = place.follow() => ended,
            };
            place.readable.is_read.store(false, Ordering::Relaxed);
            if let Err(error) = ended
                && !told
            {
                tracing::warn!(
                    "{}; {what} of events stand still until it can be read",
                    sys::error::line(&error)
                );
                told = true;
            }
            pause(&stop).await;
        }
    });
    readable
}

/// Looks until `stop`: a reader waits through outages of the stream and does not tell of them.
async fn probe(client: Client, readable: Arc<Readable>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        // Ends at once: from now on to what is there now.
        let nothing = EventFilter { since: Since::New, until_end: true, ..EventFilter::default() };
        readable.answers.store(client.events(nothing).await.is_ok(), Ordering::Relaxed);
        pause(&stop).await;
    }
}

async fn pause(stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(PAUSE) => {}
    }
}

/// Where a reading stands.
struct Place<R> {
    client: Client,
    reader: Arc<R>,
    readable: Arc<Readable>,
    since: Since,
    is_past: bool,
}

impl<R: Reader> Place<R> {
    async fn follow(&mut self) -> Result<(), BusError> {
        if self.is_past {
            self.drain(true).await?;
            self.is_past = false;
            self.reader.is_caught_up();
        }
        self.drain(false).await
    }

    async fn drain(&mut self, until_end: bool) -> Result<(), BusError> {
        let filter = EventFilter { since: self.since, until_end, ..EventFilter::default() };
        let mut events = self.client.events(filter).await?;
        self.readable.is_read.store(true, Ordering::Relaxed);
        while let Some(stored) = events.next().await {
            let stored: StoredEvent = stored?;
            self.reader.take(&stored, !self.is_past);
            self.since = Since::Sequence(stored.stream_sequence + 1);
        }
        Ok(())
    }
}
