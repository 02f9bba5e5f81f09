//! Reads the stream of events for ever, and looks whether it can be read.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bus::events::{EventFilter, Since, StoredEvent};
use bus::{BusError, Client};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::own::Own;
use super::tally::Tallies;
use super::view::View;

/// Seeds of so long ago are still told of.
const PAST: Duration = Duration::from_secs(24 * 3_600);
/// Between two tries to read, and between two looks.
const PAUSE: Duration = Duration::from_secs(10);

/// Looks until `stop`: a reader waits through outages of the stream and does not tell of them.
pub(super) async fn probe(client: Client, own: Arc<Own>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        // Ends at once: from now on to what is there now.
        let nothing = EventFilter { since: Since::New, until_end: true, ..EventFilter::default() };
        own.answers.store(client.events(nothing).await.is_ok(), Ordering::Relaxed);
        pause(&stop).await;
    }
}

/// Reads until `stop`: first what was, then what comes.
pub(super) async fn read(
    client: Client,
    view: Arc<View>,
    tallies: Arc<Tallies>,
    own: Arc<Own>,
    stop: CancellationToken,
) {
    let since = Timestamp::now().checked_sub(PAST).unwrap_or(Timestamp::MIN);
    let mut reader = Reader { client, view, tallies, own, since: Since::Time(since), is_past: true };
    let mut told = false;
    while !stop.is_cancelled() {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = reader.follow() => ended,
        };
        reader.own.is_read.store(false, Ordering::Relaxed);
        if let Err(error) = ended
            && !told
        {
            tracing::warn!(
                "{}; metrics of events stand still until it can be read",
                sys::error::line(&error)
            );
            told = true;
        }
        pause(&stop).await;
    }
}

async fn pause(stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(PAUSE) => {}
    }
}

struct Reader {
    client: Client,
    view: Arc<View>,
    tallies: Arc<Tallies>,
    own: Arc<Own>,
    since: Since,
    is_past: bool,
}

impl Reader {
    async fn follow(&mut self) -> Result<(), BusError> {
        if self.is_past {
            self.drain(true).await?;
            self.is_past = false;
        }
        self.drain(false).await
    }

    async fn drain(&mut self, until_end: bool) -> Result<(), BusError> {
        let filter = EventFilter { since: self.since, until_end, ..EventFilter::default() };
        let mut events = self.client.events(filter).await?;
        self.own.is_read.store(true, Ordering::Relaxed);
        while let Some(stored) = events.next().await {
            let StoredEvent { stream_sequence, event } = stored?;
            if self.view.has(&event.host) {
                self.tallies.take(&event, !self.is_past, Instant::now());
            }
            self.since = Since::Sequence(stream_sequence + 1);
        }
        Ok(())
    }
}
