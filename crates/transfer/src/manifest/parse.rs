//! Reads a manifest as hostile input: nothing in it is believed before it was looked at.

use std::cmp::Ordering;

use super::{
    CHUNK_SIZE_MAX, CHUNK_SIZE_MIN, CHUNKS_MAX, EntryKind, FLAG_PART, FLAG_SPARSE, HEADER_LEN, MAGIC,
    MAGIC_SINCE, MANIFEST_LEN_MAX, Manifest, NAME_LEN_MAX, PART_LEN, PATH_LEN_MAX, Part, Place, RANGE_LEN,
    RECORD_LEN, Record, Start, chunks_of,
};
use crate::extents::BLOCK;
use crate::frame::{le_u32, le_u64};

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not a manifest at all.
    #[error("it is not a manifest of a known format")]
    Format,
    /// Larger than any honest one.
    #[error("it is too large: {0}")]
    TooLarge(&'static str),
    /// Fewer or more bytes than it announces.
    #[error("its length is not what it announces")]
    Length,
    /// A number in it contradicts the rest.
    #[error("its {0} does not add up")]
    Sum(&'static str),
    /// An entry that must not be followed.
    #[error("entry {path:?}: {why}")]
    Entry {
        /// The path as announced.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Manifest {
    /// Checks an encoded manifest and makes it usable.
    ///
    /// What passes has: only relative paths without `.`, `..` or empty parts; strictly ascending, hence no path twice; each
    /// parent present as a directory; links that cannot lead out of the tree; sizes and counts that add up and are bounded.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MANIFEST_LEN_MAX {
            return Err(ManifestError::TooLarge("more than 256 MiB"));
        }
        let (since, header_len) = read_since(&bytes)?;
        let chunk_size = le_u32(&bytes[8..12]);
        if !chunk_size.is_power_of_two() || !(CHUNK_SIZE_MIN..=CHUNK_SIZE_MAX).contains(&chunk_size) {
            return Err(ManifestError::Sum("chunk size"));
        }
        let count = le_u32(&bytes[12..16]) as usize;
        if count > (bytes.len() - header_len) / RECORD_LEN {
            return Err(ManifestError::Sum("number of entries"));
        }
        let may_part = since.is_some();
        let mut walk =
            Walk { bytes: &bytes, at: header_len, chunk_size, may_part, dirs: Vec::new(), previous: None };
        let mut entries = Vec::with_capacity(count);
        let (mut files, mut chunks, mut bytes_total) = (0_u32, 0_u64, 0_u64);
        let (mut bytes_data, mut starts) = (0_u64, Vec::new());
        let mut sparse = Vec::new();
        for index in 0..count {
            let place = Place { record: walk.at as u32, first_chunk: chunks as u32, data_map: 0 };
            let (record, part) = walk.next()?;
            if record.kind == EntryKind::File {
                let moved = part.map_or(record.size, |part| part.moved);
                files += 1;
                bytes_total = bytes_total.saturating_add(record.size);
                bytes_data = bytes_data.saturating_add(moved);
                chunks += chunks_of(moved, chunk_size);
                if chunks > u64::from(CHUNKS_MAX) {
                    return Err(ManifestError::TooLarge("more chunks than allowed"));
                }
                if record.flags & FLAG_SPARSE != 0 && part.is_none() {
                    sparse.push(index);
                }
                if let Some(part) = part {
                    note_starts(&mut starts, place.first_chunk, &part, chunk_size);
                }
            }
            entries.push(place);
        }
        let mut at = walk.at;
        for index in sparse {
            let record = Record::at(&bytes, entries[index].record as usize);
            let map_chunks = chunks_of(record.size, chunk_size) as usize;
            let map = bytes.get(at..at + map_chunks.div_ceil(8)).ok_or(ManifestError::Length)?;
            bytes_data -= hole_bytes(map, record.size, chunk_size)?;
            entries[index].data_map = at as u32;
            at += map.len();
        }
        if at != bytes.len() {
            return Err(ManifestError::Length);
        }
        if files != le_u32(&bytes[16..20]) || chunks != u64::from(le_u32(&bytes[20..24])) {
            return Err(ManifestError::Sum("number of files or chunks"));
        }
        if bytes_total != le_u64(&bytes[24..32]) {
            return Err(ManifestError::Sum("sum of sizes"));
        }
        let digest = *blake3::hash(&bytes).as_bytes();
        let chunks = chunks as u32;
        Ok(Self { bytes, digest, chunk_size, since, entries, starts, chunks, files, bytes_total, bytes_data })
    }
}

/// Which tree the rest is taken from, if any, and the length of the header.
fn read_since(bytes: &[u8]) -> Result<(Option<[u8; 32]>, usize), ManifestError> {
    match bytes.first_chunk::<8>() {
        Some(MAGIC) if bytes.len() >= HEADER_LEN => Ok((None, HEADER_LEN)),
        Some(MAGIC_SINCE) => match bytes.get(HEADER_LEN..).and_then(<[u8]>::first_chunk::<32>) {
            Some(root) => Ok((Some(*root), HEADER_LEN + root.len())),
            None => Err(ManifestError::Format),
        },
        _ => Err(ManifestError::Format),
    }
}

/// Notes where each chunk of a file of which a part moves begins.
fn note_starts(starts: &mut Vec<Start>, first_chunk: u32, part: &Part<'_>, chunk_size: u32) {
    starts.resize(first_chunk as usize, Start::default());
    let per_chunk = u64::from(chunk_size) / BLOCK;
    let mut before = 0_u64;
    for (nth, range) in part.ranges.iter().enumerate() {
        let count = u64::from(le_u32(&range[4..]));
        let mut next = before.next_multiple_of(per_chunk);
        while next < before + count {
            starts.push(Start { range: nth as u32, blocks: (next - before) as u32 });
            next += per_chunk;
        }
        before += count;
    }
}

/// Checks what moves of a file of this size.
fn check_part(part: &Part<'_>, size: u64) -> Result<(), &'static str> {
    const WRONG: &str = "has impossible ranges";
    let (mut end, mut moved) = (0_u64, 0_u64);
    for (nth, range) in part.ranges.iter().enumerate() {
        let (first, count) = (u64::from(le_u32(&range[..4])), u64::from(le_u32(&range[4..])));
        if count == 0 || first < end || (nth > 0 && first == end) || (first + count - 1) * BLOCK >= size {
            return Err(WRONG);
        }
        end = first + count;
        moved += (end * BLOCK).min(size) - first * BLOCK;
    }
    (moved == part.moved).then_some(()).ok_or(WRONG)
}

/// Bytes of the chunks that a map marks as holes; bits beyond the last chunk must be clear.
fn hole_bytes(map: &[u8], size: u64, chunk_size: u32) -> Result<u64, ManifestError> {
    let chunks = chunks_of(size, chunk_size);
    let mut holes = 0;
    for nth in 0..map.len() as u64 * 8 {
        let set = map[nth as usize / 8] & (1 << (nth % 8)) != 0;
        if nth >= chunks && set {
            return Err(ManifestError::Sum("map of holes"));
        }
        if nth < chunks && !set {
            holes += (size - nth * u64::from(chunk_size)).min(u64::from(chunk_size));
        }
    }
    Ok(holes)
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    chunk_size: u32,
    /// Files of which only a part moves are allowed.
    may_part: bool,
    /// The directories above the current entry, outermost first.
    dirs: Vec<&'a [u8]>,
    previous: Option<&'a [u8]>,
}

impl<'a> Walk<'a> {
    fn next(&mut self) -> Result<(Record, Option<Part<'a>>), ManifestError> {
        let fixed = self.bytes.get(self.at..self.at + RECORD_LEN).ok_or(ManifestError::Length)?;
        let known_kind = (1..=3).contains(&fixed[0]);
        let record = Record::at(self.bytes, self.at);
        let path_at = self.at + RECORD_LEN;
        let path = self.bytes.get(path_at..path_at + record.path_len).ok_or(ManifestError::Length)?;
        let refuse = |why| ManifestError::Entry { path: String::from_utf8_lossy(path).into_owned(), why };
        if !known_kind {
            return Err(refuse("of an unknown kind"));
        }
        check_path(path).map_err(refuse)?;
        if self.previous.is_some_and(|previous| compare_paths(previous, path) != Ordering::Less) {
            return Err(refuse("twice, or out of order"));
        }
        self.enter_parent(path).map_err(refuse)?;
        if record.mode & !0o7777 != 0 || record.mtime.1 >= 1_000_000_000 {
            return Err(refuse("has an impossible mode or time"));
        }
        let sparse_allowed = record.kind == EntryKind::File && record.size > 0;
        let parts = record.flags & FLAG_PART != 0;
        if record.flags & !(FLAG_SPARSE | FLAG_PART) != 0
            || (record.flags & FLAG_SPARSE != 0 && !sparse_allowed)
            || (parts && !(self.may_part && record.kind == EntryKind::File))
        {
            return Err(refuse("has unknown flags"));
        }
        self.at = path_at + record.path_len;
        let mut part = None;
        match record.kind {
            EntryKind::Dir if record.size != 0 => return Err(refuse("is a directory with a size")),
            EntryKind::Dir => self.dirs.push(path),
            EntryKind::File => {
                if chunks_of(record.size, self.chunk_size) > u64::from(CHUNKS_MAX) {
                    return Err(refuse("has an absurd size"));
                }
                if parts {
                    let found = self.part()?;
                    check_part(&found, record.size).map_err(refuse)?;
                    self.at = found.end;
                    part = Some(found);
                }
            }
            EntryKind::Link => {
                if record.size > PATH_LEN_MAX as u64 {
                    return Err(refuse("points too far"));
                }
                let end = self.at + record.size as usize;
                let target = self.bytes.get(self.at..end).ok_or(ManifestError::Length)?;
                check_link(path, target).map_err(refuse)?;
                self.at = end;
            }
        }
        self.previous = Some(path);
        Ok((record, part))
    }

    /// What moves of the file whose path ends here.
    fn part(&self) -> Result<Part<'a>, ManifestError> {
        let fixed = self.bytes.get(self.at..self.at + PART_LEN).ok_or(ManifestError::Length)?;
        let count = le_u32(&fixed[8..]) as usize;
        let ranges = self.at + PART_LEN..self.at + PART_LEN + count * RANGE_LEN;
        self.bytes.get(ranges).ok_or(ManifestError::Length)?;
        Ok(Part::at(self.bytes, self.at))
    }

    /// Leaves the directories that do not hold `path`; its parent must then be the innermost.
    fn enter_parent(&mut self, path: &[u8]) -> Result<(), &'static str> {
        while self.dirs.last().is_some_and(|dir| !is_beneath(path, dir)) {
            self.dirs.pop();
        }
        let parent = path.iter().rposition(|&byte| byte == b'/').map(|slash| &path[..slash]);
        (parent == self.dirs.last().copied()).then_some(()).ok_or("is not in a directory of the tree")
    }
}

fn is_beneath(path: &[u8], dir: &[u8]) -> bool {
    path.len() > dir.len() && path.starts_with(dir) && path[dir.len()] == b'/'
}

fn check_path(path: &[u8]) -> Result<(), &'static str> {
    if path.is_empty() || path.len() > PATH_LEN_MAX {
        return Err("is empty or too long");
    }
    if path.contains(&0) {
        return Err("contains a zero byte");
    }
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" => return Err("is absolute, or has an empty part"),
            b"." | b".." => return Err("contains . or .."),
            long if long.len() > NAME_LEN_MAX => return Err("has a part that is too long"),
            _ => {}
        }
    }
    Ok(())
}

/// A link may climb with leading `..` as far as the root and then only descend: with that rule no chain of links, each
/// good by itself, leads out.
pub(super) fn check_link(path: &[u8], target: &[u8]) -> Result<(), &'static str> {
    const LEAVES: &str = "is a link that leaves the tree";
    if target.is_empty() || target.contains(&0) || target.len() > PATH_LEN_MAX {
        return Err("is a link with an impossible target");
    }
    let mut depth = path.iter().filter(|&&byte| byte == b'/').count();
    let mut descending = false;
    for part in target.split(|&byte| byte == b'/') {
        match part {
            b"" => return Err(LEAVES),
            b"." => {}
            b".." if descending || depth == 0 => return Err(LEAVES),
            b".." => depth -= 1,
            _ => descending = true,
        }
    }
    Ok(())
}

/// The order of a depth-first walk with sorted names: by components, so that `a/b` comes before `a-b`.
fn compare_paths(a: &[u8], b: &[u8]) -> Ordering {
    a.split(|&byte| byte == b'/').cmp(b.split(|&byte| byte == b'/'))
}
