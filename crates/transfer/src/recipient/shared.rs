//! What the recipient's threads share once the manifest is there.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::RecipientOptions;
use super::queue::Queue;
use super::staged::StagedFile;
use super::staging::Staging;
use super::swarm::Swarm;
use crate::digest::{ChunkDigest, DigestKind, DigestTable};
use crate::link::Link;
use crate::{Cancel, Error, Manifest, Result};

pub(super) struct Shared<'a> {
    pub(super) options: &'a RecipientOptions,
    /// How many pull at once.
    connections: AtomicUsize,
    pub(super) manifest: &'a Manifest,
    pub(super) staging: &'a Staging,
    pub(super) digest: DigestKind,
    pub(super) session: [u8; 16],
    /// Stops this call's threads; cancelled by the caller's handle and by the first fatal error.
    pub(super) stop: Arc<Cancel>,
    started: Instant,
    /// When a byte arrived last, milliseconds since `started`.
    moved_at_ms: AtomicU64,
    work: Mutex<Work>,
    changed: Condvar,
}

struct Work {
    proven: DigestTable,
    queue: Queue,
    /// Data chunks that are not proven.
    missing: u64,
    /// Proven, and not yet in the journal.
    unsettled: Vec<u32>,
    unsettled_bytes: u64,
    /// No thread works on chunks any more.
    drained: bool,
    fatal: Option<Error>,
    /// The last failure that reconnecting should cure.
    last_failure: Option<Error>,
    /// A connection that has nothing more to pull.
    idle: Option<Link>,
    /// In place of the queue's order, where recipients hand on to one another.
    swarm: Option<Swarm>,
    /// What is proven, in that order, for those who ask.
    log: Vec<u32>,
    /// Chunks that others have and this one lacks, as they were told.
    offers: usize,
}

/// A question for each small file that has come would cost both ends as much as the file: fewer bytes than these are not
/// asked for while others are on their way.
const QUESTION_MIN: u64 = 256 << 10;

/// How much a connection wants to have on its way, in content bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// Asked for and not yet received.
    pub(super) asked: u64,
    /// Never more than this.
    pub(super) ahead: u64,
    /// At least this, also when little is left: less would leave the path idle.
    pub(super) least: u64,
    /// Most to ask for at once.
    pub(super) batch: u64,
}

impl Window {
    /// Bytes to ask for now, where `fair` is this connection's part of what is left; `None` while enough is on its way.
    fn question(&self, fair: u64) -> Option<u64> {
        let target = self.ahead.min(fair.max(self.least));
        let bytes = target.checked_sub(self.asked).filter(|&bytes| bytes > 0)?;
        let is_worth_it = self.asked == 0 || bytes >= QUESTION_MIN.min(target / 4);
        is_worth_it.then(|| bytes.min(self.batch))
    }
}

/// What a connection finds when it asks for work.
pub(super) enum Take {
    /// Chunks were taken, of so many bytes.
    Chunks(u64),
    /// As much is on its way as should be.
    Enough,
    /// All chunks are with other connections.
    Nothing,
    /// All chunks are proven.
    Finished,
}

impl<'a> Shared<'a> {
    #[expect(clippy::too_many_arguments, reason = "it only gathers them")]
    pub(super) fn new(
        options: &'a RecipientOptions,
        connections: usize,
        manifest: &'a Manifest,
        staging: &'a Staging,
        proven: DigestTable,
        digest: DigestKind,
        session: [u8; 16],
        stop: Arc<Cancel>,
    ) -> Self {
        let queue = Queue::new(manifest, &proven);
        let missing = data_chunks(manifest) - proven.known_count();
        let work = Work {
            proven,
            queue,
            missing,
            unsettled: Vec::new(),
            unsettled_bytes: 0,
            drained: false,
            fatal: None,
            last_failure: None,
            idle: None,
            swarm: None,
            log: Vec::new(),
            offers: 0,
        };
        Self {
            options,
            connections: AtomicUsize::new(connections),
            manifest,
            staging,
            digest,
            session,
            stop,
            started: Instant::now(),
            moved_at_ms: AtomicU64::new(0),
            work: Mutex::new(work),
            changed: Condvar::new(),
        }
    }

    /// Takes the next chunks to ask for.
    pub(super) fn take(&self, who: usize, window: Window, count: usize, out: &mut Vec<u32>) -> Take {
        let mut guard = self.lock();
        let work = &mut *guard;
        if work.missing == 0 {
            return Take::Finished;
        }
        // Near the end nobody sits on work that another connection could do meanwhile.
        let left = work.swarm.as_ref().map_or_else(|| work.queue.left(), Swarm::own_left);
        let fair = (left + window.asked) / self.connections.load(Relaxed).max(1) as u64;
        let Some(bytes) = window.question(fair) else { return Take::Enough };
        let sum = match &mut work.swarm {
            Some(swarm) => {
                let offered = work.offers > 0;
                swarm.take_from_donor(self.manifest, (bytes, count), offered, out)
            }
            None => work.queue.take(self.manifest, &work.proven, who, (bytes, count), out),
        };
        match sum {
            0 => Take::Nothing,
            sum => Take::Chunks(sum),
        }
    }

    /// Waits a moment for chunks to come back from other connections, or for the end.
    pub(super) fn wait_for_work(&self) {
        let work = self.lock();
        if work.missing > 0 && work.fatal.is_none() {
            let _ = self.changed.wait_timeout(work, Duration::from_millis(100));
        }
    }

    pub(super) fn give_back(&self, chunks: &mut VecDeque<u32>) {
        let mut work = self.lock();
        match &mut work.swarm {
            Some(swarm) => swarm.give_back(self.manifest, chunks.drain(..)),
            None => work.queue.give_back(self.manifest, chunks.drain(..)),
        }
        drop(work);
        self.changed.notify_all();
    }

    /// Whether the chunk's place must be cleared before a sparse write.
    pub(super) fn was_touched(&self, chunk: u32) -> bool {
        let work = self.lock();
        self.staging.is_resumed()
            || work.queue.was_damaged(chunk)
            || work.swarm.as_ref().is_some_and(|swarm| swarm.was_touched(chunk))
    }

    /// Whether blocks are compared with those of an old tree.
    pub(super) fn compares(&self) -> bool {
        self.options.delta_base.is_some() && self.manifest.since().is_none()
    }

    /// Whether the chunk arrived with a wrong digest before.
    pub(super) fn was_damaged(&self, chunk: u32) -> bool {
        self.lock().queue.was_damaged(chunk)
    }

    /// A chunk arrived with a wrong digest.
    pub(super) fn damaged(&self, chunk: u32) -> Result<()> {
        let mut work = self.lock();
        let again = work.queue.give_back_damaged(self.manifest, chunk);
        if let Some(swarm) = &mut work.swarm {
            swarm.give_back(self.manifest, std::iter::once(chunk));
        }
        drop(work);
        if again {
            return Ok(());
        }
        let place = self.manifest.locate(chunk).ok_or(Error::Protocol("a chunk that does not exist"))?;
        let path = self.manifest.entry(place.entry).path.to_owned();
        Err(Error::Damaged { path, offset: place.offset })
    }

    /// From now on recipients share the work; each begins at another place.
    pub(super) fn share_work(&self) {
        let mut work = self.lock();
        let start = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| self.session[at]));
        let swarm = Swarm::new(self.manifest, &work.proven, start);
        work.log = (0..self.manifest.chunks()).filter(|&chunk| work.proven.knows(chunk)).collect();
        work.swarm = Some(swarm);
    }

    /// Does something with the shared work, if it is shared.
    pub(super) fn with_swarm<T>(&self, body: impl FnOnce(&mut Swarm, &Manifest) -> T) -> Option<T> {
        self.lock().swarm.as_mut().map(|swarm| body(swarm, self.manifest))
    }

    /// So many more chunks are known to be with others.
    pub(super) fn add_offers(&self, count: usize) {
        self.lock().offers += count;
    }

    /// So many of them are so no longer, or no longer wanted.
    pub(super) fn drop_offers(&self, count: usize) {
        self.lock().offers -= count;
    }

    /// What was proven after the first `from` chunks, at most `most` of them.
    pub(super) fn proven_since(&self, from: u64, most: usize) -> Vec<u32> {
        let work = self.lock();
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(work.log.len());
        work.log[from..].iter().take(most).copied().collect()
    }

    /// The digest of a chunk that is proven.
    pub(super) fn proven_digest(&self, chunk: u32) -> Option<ChunkDigest> {
        let work = self.lock();
        if chunk < work.proven.len() { work.proven.get(chunk) } else { None }
    }

    /// A chunk is in its place and its digest is right.
    pub(super) fn prove(
        &self,
        chunk: u32,
        digest: ChunkDigest,
        len: u32,
        file: &Arc<StagedFile>,
    ) -> Result<()> {
        let entry = self.manifest.entry(file.entry);
        if self.staging.chunk_proven(file, &entry)? {
            self.options.progress.add_files(1);
        }
        self.options.progress.add_done(u64::from(len));
        let mut work = self.lock();
        work.proven.set(chunk, digest);
        work.missing -= 1;
        work.unsettled.push(chunk);
        work.unsettled_bytes += u64::from(len);
        if let Some(swarm) = &mut work.swarm {
            swarm.came(chunk, len);
            work.log.push(chunk);
        }
        if work.missing == 0 {
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Data chunks of a file that are not proven.
    pub(super) fn missing_of(&self, index: u32) -> u32 {
        let entry = self.manifest.entry(index);
        let work = self.lock();
        let missing = |&nth: &u32| entry.has_data(nth) && !work.proven.knows(entry.first_chunk + nth);
        (0..entry.chunks).filter(missing).count() as u32
    }

    /// Waits for enough to settle, or for the end; swaps it into `batch`. `false` when nothing more will come.
    pub(super) fn take_unsettled(
        &self,
        batch: &mut Vec<(u32, ChunkDigest)>,
        bytes: u64,
        patience: Duration,
    ) -> bool {
        let deadline = Instant::now() + patience;
        let mut work = self.lock();
        while !work.drained && (work.unsettled_bytes < bytes || work.unsettled.is_empty()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && !work.unsettled.is_empty() {
                break;
            }
            let nap = left.clamp(Duration::from_millis(20), Duration::from_millis(100));
            work = self.changed.wait_timeout(work, nap).unwrap_or_else(PoisonError::into_inner).0;
        }
        batch.clear();
        let work = &mut *work;
        batch.extend(
            work.unsettled.drain(..).filter_map(|chunk| work.proven.get(chunk).map(|digest| (chunk, digest))),
        );
        work.unsettled_bytes = 0;
        !(work.drained && batch.is_empty())
    }

    /// Another one pulls.
    pub(super) fn joined(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// One pulls no more, whether it found nothing left or died.
    pub(super) fn left(&self) {
        self.connections.fetch_sub(1, Relaxed);
        self.changed.notify_all();
    }

    /// Waits so long at most, and tells whether all chunks are proven, the transfer has failed, or nobody pulls any more.
    pub(super) fn is_over_within(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut work = self.lock();
        let goes_on = |work: &Work| {
            work.missing > 0
                && work.fatal.is_none()
                && !self.stop.is_cancelled()
                && self.connections.load(Relaxed) > 0
        };
        while goes_on(&work) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let nap = left.min(Duration::from_millis(100));
            work = self.changed.wait_timeout(work, nap).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Keeps one connection that has nothing more to pull.
    pub(super) fn keep(&self, link: Link) {
        self.lock().idle.get_or_insert(link);
    }

    /// The connection that was kept.
    pub(super) fn kept(&self) -> Option<Link> {
        self.lock().idle.take()
    }

    /// No more chunks will be proven.
    pub(super) fn drain(&self) {
        self.lock().drained = true;
        self.changed.notify_all();
    }

    /// Ends everything; the first cause is kept.
    pub(super) fn fail(&self, error: Error) {
        let mut work = self.lock();
        if work.fatal.is_none() {
            work.fatal = Some(error);
        }
        drop(work);
        self.changed.notify_all();
        self.stop.cancel();
    }

    /// A connection broke; another may do better. Fails for good when nothing has moved for too long.
    pub(super) fn note_failure(&self, error: Error) {
        tracing::warn!(error = %sys::error::line(&error), "connection to the donor lost");
        self.lock().last_failure = Some(error);
        self.check_stall();
    }

    /// A byte arrived.
    pub(super) fn moved(&self) {
        self.moved_at_ms.store(self.started.elapsed().as_millis() as u64, Relaxed);
    }

    /// Fails when no byte arrived for too long.
    pub(super) fn check_stall(&self) {
        let silent_ms =
            (self.started.elapsed().as_millis() as u64).saturating_sub(self.moved_at_ms.load(Relaxed));
        let limit = self.options.stall_timeout;
        if u128::from(silent_ms) >= limit.as_millis() {
            let last = self.lock().last_failure.take().map(Box::new);
            self.fail(Error::Stalled { seconds: limit.as_secs(), last });
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.lock().missing == 0
    }

    /// The outcome of the chunks: all proven, or why not.
    pub(super) fn outcome(&self) -> Result<()> {
        let mut work = self.lock();
        if let Some(error) = work.fatal.take() {
            return Err(if self.options.cancel.is_cancelled() { Error::Cancelled } else { error });
        }
        if work.missing > 0 { Err(Error::Cancelled) } else { Ok(()) }
    }

    pub(super) fn root_digest(&self) -> [u8; 32] {
        self.lock().proven.root(self.manifest.digest())
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Chunks of a tree that are not holes.
pub(super) fn data_chunks(manifest: &Manifest) -> u64 {
    manifest
        .iter()
        .map(|entry| {
            if entry.is_sparse() {
                (0..entry.chunks).filter(|&nth| entry.has_data(nth)).count() as u64
            } else {
                u64::from(entry.chunks)
            }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn small_files_are_asked_for_many_at_once() {
        let window = |asked| Window { asked, ahead: 8 * MIB, least: 1, batch: 4 * MIB };
        assert_eq!(window(0).question(100 * MIB), Some(4 * MIB));
        assert_eq!(window(8 * MIB - 11_000).question(100 * MIB), None, "one small file has come");
        assert_eq!(window(8 * MIB - QUESTION_MIN).question(100 * MIB), Some(QUESTION_MIN));
        assert_eq!(window(9 * MIB).question(100 * MIB), None);
    }

    #[test]
    fn the_last_files_are_asked_for_however_few_they_are() {
        let window = |asked| Window { asked, ahead: 8 * MIB, least: 1, batch: 4 * MIB };
        assert_eq!(window(0).question(100), Some(100));
        assert_eq!(window(700).question(1000), Some(300));
        assert_eq!(window(0).question(0), Some(1));
    }
}
