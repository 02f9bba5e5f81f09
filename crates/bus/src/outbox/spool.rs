//! Segment files of the spool. A file is named by the sequence of its first event, so that counting goes on without a
//! hole even when all events are sent and gone. Knows files only, nothing of the bus.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{OutboxLimits, OutboxStats};
use crate::frames;

/// The segments, oldest first; the last one is appended to.
#[derive(Debug)]
pub(super) struct Spool {
    dir: PathBuf,
    limits: OutboxLimits,
    segments: VecDeque<Segment>,
    file: File,
    next_sequence: u64,
    sent: u64,
    /// When which sequence was acknowledged, for the time that sent events stay.
    sent_at: VecDeque<(u64, Instant)>,
    /// Up to here events were acknowledged long enough ago, or before this process began.
    settled: u64,
    dropped: u64,
    _lock: File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    first: u64,
    count: u64,
    bytes: u64,
}

/// A place to go back to when a write fails.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    sequence: u64,
}

/// An event as read back for sending.
#[derive(Debug, Clone)]
pub(super) struct Spooled {
    pub(super) sequence: u64,
    pub(super) body: Vec<u8>,
}

/// Where a reader stands, so that it need not search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    segment: u64,
    offset: u64,
    next: u64,
}

impl Spool {
    pub(super) fn open(dir: &Path, limits: OutboxLimits) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join("lock"))?;
        lock.try_lock().map_err(|_| io::Error::other("another process uses this spool"))?;
        let mut firsts = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let first: Option<u64> =
                name.to_str().and_then(|n| n.strip_suffix(".seg")).and_then(|n| n.parse().ok());
            firsts.extend(first);
        }
        firsts.sort_unstable();
        let mut segments = VecDeque::new();
        for first in firsts {
            segments.push_back(scan(dir, first)?);
        }
        let sent = read_sent(dir);
        let next_sequence = segments.back().map_or(sent + 1, |s: &Segment| s.first + s.count).max(sent + 1);
        if segments.back().is_none_or(|s| s.first + s.count != next_sequence) {
            segments.push_back(Segment { first: next_sequence, count: 0, bytes: 0 });
        }
        let file = match segments.back() {
            Some(last) => open_segment(dir, last)?,
            None => return Err(io::Error::other("no segment")),
        };
        Ok(Self {
            dir: dir.to_owned(),
            limits,
            segments,
            file,
            next_sequence,
            sent,
            sent_at: VecDeque::new(),
            settled: sent,
            dropped: 0,
            _lock: lock,
        })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn last_sequence(&self) -> u64 {
        self.next_sequence - 1
    }

    pub(super) fn sent_sequence(&self) -> u64 {
        self.sent
    }

    pub(super) fn stats(&self) -> OutboxStats {
        let first_kept = self.segments.front().map_or(self.next_sequence, |s| s.first);
        OutboxStats {
            pending: self.next_sequence - (self.sent + 1).max(first_kept),
            bytes: self.bytes(),
            dropped: self.dropped,
            last_sequence: self.last_sequence(),
            sent_sequence: self.sent,
        }
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { sequence: self.next_sequence }
    }

    /// Appends the event with the next sequence; not on disk before [`Self::sync`].
    pub(super) fn append(&mut self, body: &[u8]) -> io::Result<()> {
        let full = self.segments.back().is_some_and(|s| s.bytes >= self.limits.segment_bytes && s.count > 0);
        if full {
            self.file.sync_data()?;
            let next = Segment { first: self.next_sequence, count: 0, bytes: 0 };
            self.file = open_segment(&self.dir, &next)?;
            self.segments.push_back(next);
        }
        let mut frame = Vec::with_capacity(body.len() + frames::HEADER_BYTES);
        frames::push(&mut frame, body);
        self.file.write_all(&frame)?;
        if let Some(last) = self.segments.back_mut() {
            last.count += 1;
            last.bytes += frame.len() as u64;
        }
        self.next_sequence += 1;
        Ok(())
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Takes back what was appended since `mark`, as far as the disk lets us.
    pub(super) fn cut_back(&mut self, mark: Mark) {
        while self.segments.len() > 1 && self.segments.back().is_some_and(|s| s.first >= mark.sequence) {
            if let Some(segment) = self.segments.pop_back() {
                fs::remove_file(segment_path(&self.dir, segment.first)).ok();
            }
        }
        let Some(last) = self.segments.back_mut() else { return };
        let keep = mark.sequence.saturating_sub(last.first);
        let path = segment_path(&self.dir, last.first);
        let bytes = fs::read(&path).unwrap_or_default();
        let kept = frames::all(&bytes).take(usize::try_from(keep).unwrap_or(usize::MAX));
        last.bytes = kept.map(|payload| (payload.len() + frames::HEADER_BYTES) as u64).sum();
        last.count = keep;
        self.next_sequence = mark.sequence;
        if let Ok(file) = open_segment(&self.dir, last) {
            self.file = file;
        }
    }

    /// Removes the oldest segments while the spool is over its bound; gives the first sequence and the number of
    /// events that were lost unsent.
    pub(super) fn make_room(&mut self) -> io::Result<Option<(u64, u64)>> {
        let mut lost: Option<(u64, u64)> = None;
        while self.segments.len() > 1 && self.bytes() > self.limits.max_bytes {
            let Some(oldest) = self.segments.pop_front() else { break };
            fs::remove_file(segment_path(&self.dir, oldest.first))?;
            let end = oldest.first + oldest.count;
            let first_unsent = oldest.first.max(self.sent + 1);
            if end > first_unsent {
                let count = end - first_unsent;
                self.dropped += count;
                lost = Some(lost.map_or((first_unsent, count), |(first, sum)| (first, sum + count)));
            }
        }
        if lost.is_some() {
            sys::file::sync_dir(&self.dir)?;
        }
        Ok(lost)
    }

    /// Notes that all events up to `sequence` are acknowledged, and removes what was so long enough ago.
    pub(super) fn acknowledged(&mut self, sequence: u64, now: Instant) -> io::Result<()> {
        if sequence > self.sent {
            self.sent = sequence;
            self.sent_at.push_back((sequence, now));
            sys::file::write(&self.dir.join("sent"), sequence.to_string().as_bytes(), 0o600)?;
        }
        self.remove_old(now)
    }

    /// Removes segments whose events were all acknowledged at least `keep_sent` ago. The newest one stays.
    pub(super) fn remove_old(&mut self, now: Instant) -> io::Result<()> {
        let old = |at: Instant| now.saturating_duration_since(at) >= self.limits.keep_sent;
        while let Some((sequence, at)) = self.sent_at.front().copied()
            && old(at)
        {
            self.settled = sequence;
            self.sent_at.pop_front();
        }
        let safe = self.settled;
        while self.segments.len() > 1 && self.segments.front().is_some_and(|s| s.first + s.count <= safe + 1)
        {
            if let Some(segment) = self.segments.pop_front() {
                fs::remove_file(segment_path(&self.dir, segment.first))?;
            }
        }
        Ok(())
    }

    /// The first sequence that was acknowledged less than `keep_sent` ago, or not at all.
    pub(super) fn recent(&self, now: Instant) -> u64 {
        let old = |at: Instant| now.saturating_duration_since(at) >= self.limits.keep_sent;
        let settled = self.sent_at.iter().take_while(|(_, at)| old(*at)).last();
        settled.map_or(self.settled, |(sequence, _)| *sequence) + 1
    }

    /// A cursor at `sequence`, or at the oldest event when that one is gone.
    pub(super) fn cursor(&self, sequence: u64) -> io::Result<Cursor> {
        let at = self.segments.iter().rfind(|s| s.first <= sequence).or_else(|| self.segments.front());
        let Some(segment) = at else { return Err(io::Error::other("no segment")) };
        let mut cursor = Cursor { segment: segment.first, offset: 0, next: segment.first };
        if sequence > segment.first {
            let bytes = fs::read(segment_path(&self.dir, segment.first))?;
            let skip = usize::try_from(sequence - segment.first).unwrap_or(usize::MAX);
            for payload in frames::all(&bytes).take(skip) {
                cursor.offset += (payload.len() + frames::HEADER_BYTES) as u64;
                cursor.next += 1;
            }
        }
        Ok(cursor)
    }

    /// The event at the cursor, which moves on; `None` at the end.
    pub(super) fn read(&self, cursor: &mut Cursor) -> io::Result<Option<Spooled>> {
        loop {
            let Some(at) = self.segments.iter().position(|s| s.first == cursor.segment) else {
                // Dropped under the reader: go on with what is left.
                *cursor = self.cursor(cursor.next)?;
                continue;
            };
            let segment = self.segments[at];
            let next = self.segments.get(at + 1);
            if cursor.offset < segment.bytes {
                match self.read_frame(segment, cursor) {
                    Err(error) if error.kind() == io::ErrorKind::InvalidData && next.is_some() => {
                        tracing::error!(segment = segment.first, %error, "skipped the rest of an event segment");
                    }
                    read => return read.map(Some),
                }
            }
            let Some(next) = next else { return Ok(None) };
            *cursor = Cursor { segment: next.first, offset: 0, next: next.first };
        }
    }

    fn read_frame(&self, segment: Segment, cursor: &mut Cursor) -> io::Result<Spooled> {
        let file = File::open(segment_path(&self.dir, segment.first))?;
        let mut header = [0; frames::HEADER_BYTES];
        file.read_exact_at(&mut header, cursor.offset)?;
        let [a, b, c, d, ..] = header;
        let length = u64::from(u32::from_le_bytes([a, b, c, d]));
        let total = length + frames::HEADER_BYTES as u64;
        if cursor.offset + total > segment.bytes {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a record reaches over the end of its segment",
            ));
        }
        let mut frame = vec![0; usize::try_from(total).unwrap_or(0)];
        file.read_exact_at(&mut frame, cursor.offset)?;
        let Some(body) = frames::first(&frame).map(<[u8]>::to_vec) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a record of the spool is damaged"));
        };
        let sequence = cursor.next;
        cursor.offset += total;
        cursor.next += 1;
        Ok(Spooled { sequence, body })
    }
}

fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.seg"))
}

/// Counts a segment's events. What is damaged at its end was never promised to anyone, or is lost and told.
fn scan(dir: &Path, first: u64) -> io::Result<Segment> {
    let path = segment_path(dir, first);
    let mut content = Vec::new();
    File::open(&path)?.read_to_end(&mut content)?;
    let mut segment = Segment { first, count: 0, bytes: 0 };
    for payload in frames::all(&content) {
        segment.count += 1;
        segment.bytes += (payload.len() + frames::HEADER_BYTES) as u64;
    }
    if segment.bytes < content.len() as u64 {
        let cut = content.len() as u64 - segment.bytes;
        tracing::warn!(path = %path.display(), bytes = cut, "cut a torn end off an event segment");
        OpenOptions::new().write(true).open(&path)?.set_len(segment.bytes)?;
    }
    Ok(segment)
}

fn open_segment(dir: &Path, segment: &Segment) -> io::Result<File> {
    let path = segment_path(dir, segment.first);
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    file.set_len(segment.bytes)?;
    file.seek(SeekFrom::End(0))?;
    sys::file::sync_parent(&path)?;
    Ok(file)
}

/// The newest acknowledged sequence. Without the file all events are sent again, which is harmless.
fn read_sent(dir: &Path) -> u64 {
    fs::read_to_string(dir.join("sent")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits() -> OutboxLimits {
        OutboxLimits { max_bytes: 1_000, segment_bytes: 200, keep_sent: Duration::from_secs(120) }
    }

    fn fill(spool: &mut Spool, count: usize) {
        for _ in 0..count {
            let body = format!("event {} {}", spool.last_sequence() + 1, "x".repeat(30));
            spool.append(body.as_bytes()).unwrap();
        }
        spool.sync().unwrap();
    }

    fn sequences(spool: &Spool, from: u64) -> Vec<u64> {
        let mut cursor = spool.cursor(from).unwrap();
        let mut found = Vec::new();
        while let Some(event) = spool.read(&mut cursor).unwrap() {
            assert!(event.body.starts_with(format!("event {} ", event.sequence).as_bytes()));
            found.push(event.sequence);
        }
        found
    }

    #[test]
    fn counting_goes_on_across_restarts_torn_ends_and_removed_segments() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), limits()).unwrap();
        fill(&mut spool, 7);
        assert!(Spool::open(dir.path(), limits()).is_err(), "two processes must not share a spool");
        drop(spool);
        let newest = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.extension().is_some_and(|e| e == "seg"))
            .max()
            .unwrap();
        OpenOptions::new().append(true).open(newest).unwrap().write_all(&[200, 0, 0, 0, 1, 2]).unwrap();
        let mut spool = Spool::open(dir.path(), limits()).unwrap();
        assert_eq!(sequences(&spool, 1), (1..=7).collect::<Vec<_>>());
        fill(&mut spool, 2);
        assert_eq!(sequences(&spool, 3), (3..=9).collect::<Vec<_>>());
        let now = Instant::now();
        spool.acknowledged(9, now).unwrap();
        spool.remove_old(now + Duration::from_secs(121)).unwrap();
        drop(spool);
        let mut spool = Spool::open(dir.path(), limits()).unwrap();
        assert_eq!(spool.last_sequence(), 9);
        fill(&mut spool, 1);
        assert_eq!(sequences(&spool, 10), [10]);
    }

    #[test]
    fn a_full_spool_loses_its_oldest_and_says_how_many() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), limits()).unwrap();
        let mut lost = 0;
        for _ in 0..100 {
            fill(&mut spool, 1);
            if let Some((first, count)) = spool.make_room().unwrap() {
                assert_eq!(first, lost + 1);
                lost += count;
            }
        }
        assert!(lost > 50, "{lost}");
        assert!(spool.bytes() <= 1_000);
        assert_eq!(spool.stats().dropped, lost);
        assert_eq!(sequences(&spool, 1), (lost + 1..=100).collect::<Vec<_>>());
        assert_eq!(spool.stats().pending, 100 - lost);
    }

    #[test]
    fn sent_events_stay_for_their_time_and_are_sent_again_until_then() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), limits()).unwrap();
        fill(&mut spool, 9);
        let now = Instant::now();
        let later = |s| now + Duration::from_secs(s);
        spool.acknowledged(6, later(10)).unwrap();
        spool.acknowledged(9, later(100)).unwrap();
        assert_eq!(sequences(&spool, 1).len(), 9);
        assert_eq!(spool.recent(later(110)), 1);
        assert_eq!(spool.recent(later(135)), 7);
        spool.remove_old(later(135)).unwrap();
        assert_eq!(spool.recent(later(135)), 7);
        assert!(sequences(&spool, 1).first().is_some_and(|first| *first > 1 && *first <= 7));
        assert_eq!(spool.recent(later(300)), 10);
    }

    #[test]
    fn a_failed_batch_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), limits()).unwrap();
        fill(&mut spool, 3);
        let mark = spool.mark();
        fill(&mut spool, 9);
        spool.cut_back(mark);
        assert_eq!(sequences(&spool, 1), [1, 2, 3]);
        fill(&mut spool, 1);
        drop(spool);
        let spool = Spool::open(dir.path(), limits()).unwrap();
        assert_eq!(sequences(&spool, 1), [1, 2, 3, 4]);
    }
}
