//! One carried connection at the donor: what its service says becomes segments, what the recipient says goes to the service.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::{Bytes, BytesMut};
use data_encoding::BASE64URL;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use jiff::Timestamp;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::{CHUNK_BYTES, HEADER_AT, HEADER_END, IN_FLIGHT_BYTES, SEGMENT_BYTES};
use crate::conn::Bus;
use crate::error::{BusError, Result};
use crate::streams::kept;

/// A segment ends when nothing more came for so long.
const SEGMENT_PAUSE: Duration = Duration::from_millis(300);

/// Bytes from the recipient for the service.
#[derive(Debug)]
pub(super) struct FromRecipient {
    pub(super) bytes: Bytes,
    /// None follow.
    pub(super) last: bool,
}

/// Hands over what the recipient says, until it or the service ends.
pub(super) async fn hand_over(mut service: OwnedWriteHalf, mut queue: mpsc::Receiver<FromRecipient>) {
    while let Some(from) = queue.recv().await {
        if service.write_all(&from.bytes).await.is_err() {
            return;
        }
        if from.last {
            service.shutdown().await.ok();
        }
    }
}

/// An acknowledgement that is awaited, and what it is for.
type Ack = Pin<Box<dyn Future<Output = Result<u64>> + Send>>;

struct Pending {
    end: u64,
    len: u64,
}

/// Sends what a service says.
pub(super) struct Upload {
    bus: Bus,
    ledger: Arc<Ledger>,
    bucket: String,
    era: u64,
    channel: u64,
    /// Bytes published so far.
    at: u64,
    acks: FuturesOrdered<Ack>,
    pending: VecDeque<Pending>,
    in_flight: usize,
    segment: Segment,
    segments: u64,
    /// Nobody takes any more.
    stop: CancellationToken,
}

/// The object that is being written.
struct Segment {
    nuid: String,
    hash: Sha256,
    size: u64,
    chunks: usize,
    /// When it ends if nothing more comes.
    until: Option<Instant>,
}

impl Segment {
    fn new(channel: u64, number: u64) -> Self {
        Self { nuid: segment_id(channel, number), hash: Sha256::new(), size: 0, chunks: 0, until: None }
    }
}

/// The object's unique id, also in the subject of its chunks.
fn segment_id(channel: u64, number: u64) -> String {
    format!("{channel:016x}-{number:08}")
}

/// What [`HEADER_AT`] says: the connection, and where in it the chunk begins.
pub(super) fn place_of(header: &str) -> Option<(u64, u64)> {
    let (channel, at) = header.split_once(':')?;
    Some((u64::from_str_radix(channel, 16).ok()?, at.parse().ok()?))
}

impl Upload {
    pub(super) fn new(
        bus: Bus,
        ledger: Arc<Ledger>,
        bucket: String,
        channel: u64,
        stop: CancellationToken,
    ) -> Self {
        let era = ledger.era();
        Self {
            bus,
            ledger,
            bucket,
            era,
            channel,
            at: 0,
            acks: FuturesOrdered::new(),
            pending: VecDeque::new(),
            in_flight: 0,
            segment: Segment::new(channel, 1),
            segments: 1,
            stop,
        }
    }

    /// Runs until the service has said all, or until it is stopped, and the server has what was sent.
    ///
    /// What is on its way is awaited in any case: a message whose sequence nobody knows would block the window for all others.
    pub(super) async fn run(mut self, service: OwnedReadHalf) -> Result<()> {
        self.send(service).await?;
        while !self.pending.is_empty() {
            let ack = self.acks.next().await;
            self.acknowledged(ack)?;
        }
        Ok(())
    }

    /// Chunks are whole where bytes come faster than they go; a part of one waits for the acknowledgement of what is on its way,
    /// so that single bytes do not travel alone.
    async fn send(&mut self, service: OwnedReadHalf) -> Result<()> {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        let mut ended = false;
        let ledger = Arc::clone(&self.ledger);
        loop {
            if !ended && chunk.len() < CHUNK_BYTES {
                ended = read_ready(&service, &mut chunk)?;
            }
            let ready =
                chunk.len() >= CHUNK_BYTES || (!chunk.is_empty() && (self.pending.is_empty() || ended));
            let room = ledger.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let mut full = false;
            if ready && self.in_flight < IN_FLIGHT_BYTES {
                full = !ledger.reserve(self.era, chunk.len() as u64);
                if !full {
                    let bytes = std::mem::replace(&mut chunk, BytesMut::with_capacity(CHUNK_BYTES)).freeze();
                    self.publish_chunk(bytes).await?;
                    if self.segment.size >= SEGMENT_BYTES {
                        self.end_segment(false).await?;
                    }
                    continue;
                }
            }
            if ended && chunk.is_empty() {
                break;
            }
            if self.ledger.era() != self.era {
                return Err(BusError::Closed);
            }
            let pause = self.segment.until.unwrap_or_else(Instant::now);
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                ack = self.acks.next(), if !self.pending.is_empty() => self.acknowledged(ack)?,
                () = room, if full => {}
                readable = service.readable(), if !ended && chunk.len() < CHUNK_BYTES => {
                    readable.map_err(|_| BusError::Closed)?;
                }
                () = sleep_until(pause), if self.segment.until.is_some() && chunk.is_empty() => {
                    self.end_segment(false).await?;
                }
            }
        }
        self.end_segment(true).await
    }

    async fn publish_chunk(&mut self, bytes: Bytes) -> Result<()> {
        let len = bytes.len() as u64;
        self.segment.hash.update(&bytes);
        self.segment.size += len;
        self.segment.chunks += 1;
        self.segment.until = Some(Instant::now() + SEGMENT_PAUSE);
        let mut headers = HeaderMap::new();
        headers.insert(HEADER_AT, format!("{:016x}:{}", self.channel, self.at).as_str());
        self.at += len;
        let subject = format!("$O.{}.C.{}", self.bucket, self.segment.nuid);
        self.publish(subject, headers, bytes, self.at).await
    }

    /// Writes down what the segment is, and begins the next one. The last one carries the end of the connection, and stays until
    /// the recipient says that it has seen it.
    async fn end_segment(&mut self, last: bool) -> Result<()> {
        if self.segment.chunks == 0 && !last {
            return Ok(());
        }
        self.segments += 1;
        let next = Segment::new(self.channel, self.segments);
        let segment = std::mem::replace(&mut self.segment, next);
        let name = format!("{:016x}/{:08}", self.channel, self.segments - 1);
        let info = json!({
            "name": name,
            "bucket": self.bucket,
            "nuid": segment.nuid,
            "size": segment.size,
            "chunks": segment.chunks,
            "mtime": Timestamp::now(),
            "digest": format!("SHA-256={}", BASE64URL.encode(&segment.hash.finalize())),
            "options": { "max_chunk_size": CHUNK_BYTES },
            "metadata": { "at": (self.at - segment.size).to_string() },
        });
        let body = info.to_string().into_bytes();
        let subject = format!("$O.{}.M.{}", self.bucket, BASE64URL.encode(name.as_bytes()));
        let mut headers = HeaderMap::new();
        let mut end = self.at;
        if last {
            headers.insert(HEADER_END, format!("{:016x}", self.channel).as_str());
            end += 1;
        }
        while !self.ledger.reserve(self.era, body.len() as u64) {
            // The window is full to the last byte: what the recipient takes makes room, or the era ends.
            if self.ledger.era() != self.era {
                return Err(BusError::Closed);
            }
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                ack = self.acks.next(), if !self.pending.is_empty() => self.acknowledged(ack)?,
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
        self.publish(subject, headers, body.into(), end).await
    }

    async fn publish(&mut self, subject: String, headers: HeaderMap, body: Bytes, end: u64) -> Result<()> {
        let len = body.len();
        let failed = |error| BusError::jetstream("cannot store a segment of a seed", error);
        let limit = self.bus.config().request_timeout();
        let jetstream = self.bus.jetstream();
        let sent = tokio::time::timeout(limit, jetstream.publish_with_headers(subject, headers, body)).await;
        let ack = match sent {
            Ok(sent) => sent.map_err(failed)?,
            Err(_) => {
                return Err(BusError::TimedOut { what: "storing a segment of a seed".into(), after: limit });
            }
        };
        let bus = self.bus.clone();
        self.acks.push_back(Box::pin(async move {
            let ack = ack.await.map_err(failed)?;
            kept(&bus, &ack).map(|()| ack.sequence)
        }));
        self.pending.push_back(Pending { end, len: len as u64 });
        self.in_flight += len;
        Ok(())
    }

    fn acknowledged(&mut self, ack: Option<Result<u64>>) -> Result<()> {
        let (Some(ack), Some(pending)) = (ack, self.pending.pop_front()) else { return Ok(()) };
        self.in_flight -= pending.len as usize;
        self.ledger.stored(self.era, ack?, self.channel, pending.end, pending.len);
        self.ledger.taken.notify_one();
        Ok(())
    }
}

/// Reads what is there, up to a whole chunk; whether the service has said all.
fn read_ready(service: &OwnedReadHalf, chunk: &mut BytesMut) -> Result<bool> {
    use bytes::BufMut as _;
    while chunk.len() < CHUNK_BYTES {
        let room = CHUNK_BYTES - chunk.len();
        match service.try_read_buf(&mut chunk.limit(room)) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            // Reset by the service: it has said all that it will.
            Err(_) => return Ok(true),
        }
    }
    Ok(false)
}
