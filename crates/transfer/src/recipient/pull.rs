//! One connection: asks for chunks, writes what comes to its place, proves it.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::connect::{Connected, connect};
use super::shared::{Shared, Take, Window};
use super::staged::{Base, StagedFile};
use crate::cache;
use crate::compress::Unpacker;
use crate::delta::{block_digest, ranges};
use crate::digest::{ChunkDigest, ChunkHasher};
use crate::frame::{
    DELTA_BLOCK, DELTA_BLOCKS_MAX, DELTA_SET_LEN, Header, PIECE_HEADER_LEN, PIECE_MAX, Piece, PieceKind,
    TEXT_MAX, WANT_MAX, kind, shown_text,
};
use crate::link::Link;
use crate::manifest::ChunkPlace;
use crate::{Error, Result};

/// At least this much is asked for ahead, so that the donor never waits for a question.
const AHEAD_MIN: u64 = 4 << 20;
/// Where recipients share the work it is two chunks, but no more than at least this: what is asked for before all of them are
/// there travels several times.
const AHEAD_MIN_SHARED: u64 = 256 << 10;
/// At most this much.
const AHEAD_MAX: u64 = 64 << 20;
/// How much to ask for ahead, as the time that it takes to arrive, beside the path's own delay.
const AHEAD_TIME: Duration = Duration::from_millis(100);
/// The rate of a connection is taken anew this often.
const RATE_INTERVAL: Duration = Duration::from_millis(200);
/// Asked for at once.
const BATCH_BYTES: u64 = 4 << 20;
/// Small files asked for at once.
const BATCH_CHUNKS: usize = 256;
/// Content is written in pieces of at least this much, in whole pages, if more is to come.
const WRITE_MIN: usize = 64 * 1024;
const PAGE: usize = 4096;
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MOST: Duration = Duration::from_secs(3);

/// What a thread that pulls begins with.
pub(super) enum Begin {
    /// A connection that is there.
    With(Box<Connected>),
    /// One that is being made.
    Soon(JoinHandle<Result<Connected>>),
    /// It connects by itself.
    Anew,
    /// The same, and without one it goes: it came to help.
    AsHelp,
}

impl Begin {
    fn connection(self) -> Option<Connected> {
        match self {
            Self::With(connected) => Some(*connected),
            // What has failed is tried anew, and tells its reason then.
            Self::Soon(connecting) => connecting.join().ok()?.ok(),
            Self::Anew | Self::AsHelp => None,
        }
    }
}

/// Pulls until all chunks are proven or the transfer is over.
pub(super) fn pull_all(shared: &Shared<'_>, begin: Begin, number: usize) {
    let is_help = matches!(begin, Begin::AsHelp);
    let mut ready = begin.connection();
    let mut backoff = BACKOFF_FIRST;
    while !shared.stop.is_cancelled() && !shared.is_complete() {
        let connected = match ready.take() {
            Some(connected) => Ok(connected),
            None => connect(shared.options, shared.session, &shared.stop, number),
        };
        if is_help && connected.is_err() {
            return;
        }
        let pulled = connected.and_then(|connected| {
            if connected.digest != shared.digest {
                return Err(Error::Protocol("another digest than before"));
            }
            let before = shared.options.progress.snapshot().bytes_wire;
            let mut puller = Puller::new(shared, connected, number);
            shared.options.progress.connection_opened();
            let result = puller.run();
            shared.options.progress.connection_closed();
            shared.give_back(&mut puller.asked);
            if result.is_ok() {
                shared.keep(puller.link);
            }
            if shared.options.progress.snapshot().bytes_wire > before + 4096 {
                backoff = BACKOFF_FIRST;
            }
            result
        });
        match pulled {
            Ok(()) => return,
            Err(error) if error.is_retryable() && !shared.stop.is_cancelled() => {
                shared.note_failure(error);
                shared.options.progress.add_reconnect();
                if shared.stop.sleep(backoff) {
                    return;
                }
                backoff = (backoff * 2).min(BACKOFF_MOST);
            }
            Err(error) => {
                shared.fail(error);
                return;
            }
        }
    }
}

pub(super) struct Puller<'a> {
    shared: &'a Shared<'a>,
    pub(super) link: Link,
    number: usize,
    /// Asked for and not yet received, in the order of asking.
    pub(super) asked: VecDeque<u32>,
    asked_bytes: u64,
    ahead: Ahead,
    batch: Vec<u32>,
    hasher: ChunkHasher,
    file: Option<Arc<StagedFile>>,
    unpacker: Unpacker,
    /// For putting differences together and for unpacking; made when first needed.
    scratch: Vec<u8>,
    /// Where the other end is not the donor: the donor's digests of what was asked for.
    pub(super) word: Option<HashMap<u32, ChunkDigest>>,
}

impl<'a> Puller<'a> {
    pub(super) fn new(shared: &'a Shared<'a>, connected: Connected, number: usize) -> Self {
        Self {
            shared,
            link: connected.link,
            number,
            asked: VecDeque::new(),
            asked_bytes: 0,
            ahead: Ahead::new(connected.delay, shared.with_swarm(|_, manifest| manifest.chunk_size())),
            batch: Vec::with_capacity(WANT_MAX),
            hasher: ChunkHasher::new(shared.digest),
            file: None,
            unpacker: Unpacker::default(),
            scratch: if shared.compares() { vec![0; PIECE_MAX] } else { Vec::new() },
            word: None,
        }
    }

    fn run(&mut self) -> Result<()> {
        loop {
            if self.shared.stop.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let finished = self.ask()?;
            if self.asked.is_empty() {
                if finished {
                    return Ok(());
                }
                self.shared.wait_for_work();
                self.shared.check_stall();
                continue;
            }
            let header = self.link.read_header()?;
            self.shared.moved();
            match header.kind {
                kind::KEEP_ALIVE => {}
                kind::CHUNK => self.receive_chunk(header)?,
                kind::FAILURE => return Err(donor_failure(&mut self.link, header.len as usize)),
                _ => return Err(Error::Protocol("an answer to no question")),
            }
        }
    }

    /// Keeps enough questions on the way. `true` when there is nothing more to ask for.
    fn ask(&mut self) -> Result<bool> {
        while self.asked.len() < 4 * BATCH_CHUNKS {
            self.batch.clear();
            let window = Window {
                asked: self.asked_bytes,
                ahead: self.ahead.bytes(),
                least: self.ahead.least(),
                batch: BATCH_BYTES,
            };
            match self.shared.take(self.number, window, BATCH_CHUNKS, &mut self.batch) {
                Take::Finished => return Ok(true),
                Take::Nothing | Take::Enough => return Ok(false),
                Take::Chunks(bytes) => {
                    self.asked.extend(&self.batch);
                    self.asked_bytes += bytes;
                    if self.shared.compares() {
                        self.ask_for_differences()?;
                    } else {
                        self.ask_for_all()?;
                    }
                    self.link.flush(false)?;
                }
            }
        }
        Ok(false)
    }

    fn ask_for_all(&mut self) -> Result<()> {
        let header = Header { len: self.batch.len() as u32 * 4, ..Header::new(kind::WANT) };
        self.link.queue(&header.encode())?;
        self.batch.iter().try_for_each(|chunk| self.link.queue(&chunk.to_le_bytes()))
    }

    /// Asks chunk by chunk, with the digests of the blocks that are here; whole where there are none.
    fn ask_for_differences(&mut self) -> Result<()> {
        for chunk in std::mem::take(&mut self.batch) {
            let place =
                self.shared.manifest.locate(chunk).ok_or(Error::Protocol("a chunk that does not exist"))?;
            let entry = self.shared.manifest.entry(place.entry);
            let mut digests = Vec::new();
            let fits = (place.len as usize).div_ceil(DELTA_BLOCK) <= DELTA_BLOCKS_MAX;
            if entry.chunks > 1 && fits && !self.shared.was_damaged(chunk) {
                let file = self.file_of(&place)?;
                if file.has_base() {
                    self.digest_base(&file, &place, &mut digests);
                }
            }
            let (kind, body) = if digests.is_empty() {
                (kind::WANT, &chunk.to_le_bytes()[..])
            } else {
                (kind::WANT_DELTA, digests.as_slice())
            };
            self.link.queue(
                &Header {
                    chunk: if kind == kind::WANT { 0 } else { chunk },
                    len: body.len() as u32,
                    ..Header::new(kind)
                }
                .encode(),
            )?;
            self.link.queue(body)?;
        }
        Ok(())
    }

    fn digest_base(&mut self, file: &StagedFile, place: &ChunkPlace, digests: &mut Vec<u8>) {
        if let Base::Other(old) = &file.base {
            cache::read_soon(old, &(place.offset..place.offset + u64::from(place.len)));
        }
        let mut done = 0;
        while done < place.len as usize {
            let want = PIECE_MAX.min(place.len as usize - done);
            let got = file.read_base(&mut self.scratch[..want], place.offset + done as u64);
            digests.extend(self.scratch[..got].chunks(DELTA_BLOCK).flat_map(block_digest));
            if got < want {
                return;
            }
            done += want;
        }
    }

    /// Puts a piece together from what is here and the blocks that differ.
    fn receive_difference(&mut self, file: &StagedFile, offset: u64, piece: Piece) -> Result<()> {
        let set = u32::from_le_bytes(self.link.take_array()?);
        let blocks = piece.raw_len.div_ceil(DELTA_BLOCK) as u32;
        let changed: usize = ranges(set, piece.raw_len).map(|range| range.len()).sum();
        if (blocks < 32 && set >> blocks != 0) || DELTA_SET_LEN + changed != piece.wire_len {
            return Err(Error::Protocol("a difference of a wrong length"));
        }
        // What the old file does not have, or no longer has, shows in the chunk's digest.
        file.read_base(&mut self.scratch[..piece.raw_len], offset);
        for range in ranges(set, piece.raw_len) {
            self.link.need(range.len())?;
            let block = &self.link.received()[..range.len()];
            self.scratch[range.clone()].copy_from_slice(block);
            if file.is_own_base() {
                file.write(block, offset + range.start as u64)?;
            }
            self.link.consume(range.len());
        }
        self.shared.moved();
        self.hasher.update(&self.scratch[..piece.raw_len]);
        if file.is_own_base() { Ok(()) } else { file.write(&self.scratch[..piece.raw_len], offset) }
    }

    fn receive_packed(&mut self, file: &StagedFile, offset: u64, piece: Piece) -> Result<()> {
        self.shared.options.throttle.acquire(piece.raw_len, &self.shared.stop);
        self.link.need(piece.wire_len)?;
        self.scratch.resize(PIECE_MAX, 0);
        let content = &mut self.scratch[..piece.raw_len];
        self.unpacker.unpack(piece.kind, &self.link.received()[..piece.wire_len], content)?;
        self.link.consume(piece.wire_len);
        self.shared.moved();
        self.hasher.update(content);
        file.write(content, offset)
    }

    /// Asks for chunks of those that the other end has.
    pub(super) fn ask_peer(&mut self, has: &mut VecDeque<u32>, bytes: u64) -> Result<()> {
        let Some(bytes) = bytes.checked_sub(self.asked_bytes).filter(|&bytes| bytes > 0) else {
            return Ok(());
        };
        self.batch.clear();
        let batch = &mut self.batch;
        let taken = self
            .shared
            .with_swarm(|swarm, manifest| swarm.take_from_peer(manifest, (bytes, BATCH_CHUNKS), has, batch));
        self.asked_bytes += taken.unwrap_or_default();
        if self.batch.is_empty() {
            return Ok(());
        }
        self.asked.extend(&self.batch);
        self.ask_for_all()?;
        self.link.flush(false)
    }

    pub(super) fn receive_chunk(&mut self, header: Header) -> Result<()> {
        let chunk = header.chunk;
        if self.asked.front() != Some(&chunk) {
            return Err(Error::Protocol("an answer out of order"));
        }
        let place =
            self.shared.manifest.locate(chunk).ok_or(Error::Protocol("a chunk that does not exist"))?;
        if header.value != u64::from(place.len) {
            return Err(Error::Protocol("a chunk of a wrong length"));
        }
        let file = self.file_of(&place)?;
        if self.shared.was_touched(chunk) {
            file.clear(place.offset, place.len)?;
        }
        self.hasher.finish();
        let manifest = self.shared.manifest;
        for run in manifest.runs(&place) {
            self.receive_run(&file, &run)?;
            if let Base::Other(old) = &file.base {
                self.shared.staging.let_go(old, &run);
            }
        }
        let theirs = self.link.take_array::<16>()?;
        let ours = self.hasher.finish();
        if let Some(word) = &mut self.word
            && (word.remove(&chunk) != Some(ours) || theirs != ours)
        {
            return Err(Error::Forged);
        }
        self.asked.pop_front();
        self.asked_bytes = self.asked_bytes.saturating_sub(u64::from(place.len));
        self.ahead.received(u64::from(place.len));
        if ours != theirs {
            tracing::warn!(file = %file.path.display(), offset = place.offset, "chunk arrived damaged; asking again");
            return self.shared.damaged(chunk);
        }
        if self.shared.options.durable && place.len as usize > WRITE_MIN {
            manifest.runs(&place).for_each(|run| file.start_writeback(&run));
        }
        self.shared.prove(chunk, ours, place.len, &file)
    }

    /// Receives the pieces of one place of a file.
    fn receive_run(&mut self, file: &StagedFile, run: &Range<u64>) -> Result<()> {
        let mut at = run.start;
        while at < run.end {
            let piece = Piece::decode(&self.link.take_array::<PIECE_HEADER_LEN>()?)?;
            match piece.kind {
                PieceKind::Failed => return Err(donor_failure(&mut self.link, piece.wire_len)),
                _ if at + piece.raw_len as u64 > run.end => {
                    return Err(Error::Protocol("a piece longer than its place"));
                }
                PieceKind::Delta if !file.has_base() => {
                    return Err(Error::Protocol("a difference to nothing"));
                }
                PieceKind::Delta => self.receive_difference(file, at, piece)?,
                PieceKind::Lz4 | PieceKind::Zstd => self.receive_packed(file, at, piece)?,
                PieceKind::Raw => self.receive_raw(file, at, piece.raw_len)?,
            }
            at += piece.raw_len as u64;
        }
        Ok(())
    }

    /// Content goes from the receive buffer to its place, in whole pages as far as possible.
    fn receive_raw(&mut self, file: &StagedFile, mut offset: u64, mut left: usize) -> Result<()> {
        while left > 0 {
            if self.shared.options.throttle.bytes_per_s() != 0 {
                self.shared.options.throttle.acquire(left.min(WRITE_MIN), &self.shared.stop);
            }
            self.link.need(left.min(WRITE_MIN))?;
            let mut len = self.link.received().len().min(left);
            if self.shared.options.throttle.bytes_per_s() != 0 {
                len = len.min(WRITE_MIN);
            }
            if len < left {
                len -= (offset as usize + len) % PAGE;
            }
            let bytes = &self.link.received()[..len];
            self.hasher.update(bytes);
            file.write(bytes, offset)?;
            self.link.consume(len);
            self.shared.moved();
            offset += len as u64;
            left -= len;
        }
        Ok(())
    }

    fn file_of(&mut self, place: &ChunkPlace) -> Result<Arc<StagedFile>> {
        if let Some(file) = self.file.as_ref().filter(|file| file.entry == place.entry) {
            return Ok(Arc::clone(file));
        }
        self.file = None;
        let shared = self.shared;
        let entry = shared.manifest.entry(place.entry);
        let file = shared.staging.file(place.entry, &entry, || shared.missing_of(place.entry))?;
        if entry.chunks > 1 {
            self.file = Some(Arc::clone(&file));
        }
        Ok(file)
    }
}

/// Reads the donor's reason.
pub(crate) fn donor_failure(link: &mut Link, len: usize) -> Error {
    let len = len.min(TEXT_MAX);
    match link.need(len) {
        Ok(()) => Error::DonorFailed(shown_text(&link.received()[..len])),
        Err(error) => error,
    }
}

/// How much to ask for ahead: what the connection moves in a moment and in the path's own delay, so that long fast paths stay
/// full and a slow connection does not sit on work that others could do.
struct Ahead {
    delay: Duration,
    min: u64,
    since: Instant,
    received: u64,
    bytes_per_s: f64,
}

impl Ahead {
    /// `delay`: how long an answer takes.
    /// `shared`: the size of a chunk, where recipients share the work.
    fn new(delay: Duration, shared: Option<u32>) -> Self {
        let delay = delay.min(Duration::from_secs(1));
        let (min, likely) = match shared {
            Some(chunk) => (u64::from(chunk).min(AHEAD_MIN) + AHEAD_MIN_SHARED, 5e6),
            None => (AHEAD_MIN, 80e6),
        };
        // Nothing is known yet: as if it moved half a megabyte in each round trip, up to what is likely.
        let bytes_per_s = (512e3 / delay.as_secs_f64().max(1e-6)).min(likely);
        Self { delay, min, since: Instant::now(), received: 0, bytes_per_s }
    }

    /// At most so many bytes.
    fn bytes(&self) -> u64 {
        let time = AHEAD_TIME + 3 * self.delay;
        ((self.bytes_per_s * time.as_secs_f64()) as u64).clamp(self.min, AHEAD_MAX)
    }

    /// At least so many: less would leave the path idle until the next question arrives.
    fn least(&self) -> u64 {
        (self.bytes_per_s * 2.0 * self.delay.as_secs_f64()) as u64 + 1
    }

    fn received(&mut self, bytes: u64) {
        self.received += bytes;
        let elapsed = self.since.elapsed();
        if elapsed >= RATE_INTERVAL {
            self.bytes_per_s = self.received as f64 / elapsed.as_secs_f64();
            (self.since, self.received) = (Instant::now(), 0);
        }
    }
}
