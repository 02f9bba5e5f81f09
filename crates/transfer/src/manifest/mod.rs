//! What a seed consists of: every path with its metadata, in one compact block of bytes.
//!
//! The encoded form is the only form: 300,000 files take some 25 MB, and entries are read where they lie. It is
//! walked and checked once ([`Manifest::parse`]) before anything believes it, for it comes from the network.
//!
//! Layout, little-endian. Header: magic (8), chunk size (4), entries (4), files (4), chunks (4), bytes (8). Then one record
//! per entry, parents before children and siblings in byte order: kind (1), flags (1), path length (2), mode (4), uid (4),
//! gid (4), mtime seconds (8), mtime nanoseconds (4), size (8; of a link: its target's length), path, target. Then, for each sparse file
//! in order, one bit per chunk: 1 where there is data.
//!
//! A manifest *since* another tree moves only what differs from that tree, which the recipient has too: another magic, the
//! other tree's root digest (32) behind the header, and of each file that is compared, behind its path, how many bytes move
//! (8), how many ranges they lie in (4), and the ranges: first block and number of blocks (4 each, blocks of 16 KiB). Such a
//! file's chunks are cut from what moves, put together; the rest is the other tree's.

mod build;
mod exclude;
mod parse;
mod since;

use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

pub use build::BuildReport;
pub(crate) use build::build;
pub use build::stamp;
pub use exclude::Exclude;
pub use parse::ManifestError;
pub(crate) use since::{Old, since};

use crate::extents::BLOCK;
use crate::frame::{le_u32, le_u64};

const MAGIC: &[u8; 8] = b"OAMANIF1";
/// Of a manifest since another tree.
const MAGIC_SINCE: &[u8; 8] = b"OAMANIS1";
const HEADER_LEN: usize = 32;
const RECORD_LEN: usize = 36;
const FLAG_SPARSE: u8 = 1;
/// Only some blocks of the file move.
const FLAG_PART: u8 = 2;
/// Bytes moved and number of ranges, before the ranges of such a file.
const PART_LEN: usize = 12;
const RANGE_LEN: usize = 8;

/// Longest accepted encoded manifest: room for some two million files.
pub(crate) const MANIFEST_LEN_MAX: u64 = 256 << 20;
/// Most chunks of a tree; their digests take 16 bytes each on either end.
pub(crate) const CHUNKS_MAX: u32 = 2 << 20;
/// Smallest and largest chunk.
pub(crate) const CHUNK_SIZE_MIN: u32 = 256 << 10;
pub(crate) const CHUNK_SIZE_MAX: u32 = 1 << 30;
const PATH_LEN_MAX: usize = 4095;
const NAME_LEN_MAX: usize = 255;

/// Kinds of entries. Sockets, pipes and devices are never part of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A directory.
    Dir = 1,
    /// A regular file.
    File = 2,
    /// A symbolic link that stays in the tree.
    Link = 3,
}

/// The encoded, validated list of all entries of a tree.
#[derive(Debug)]
pub struct Manifest {
    bytes: Vec<u8>,
    digest: [u8; 32],
    chunk_size: u32,
    /// The root digest of the tree that the rest is taken from.
    since: Option<[u8; 32]>,
    /// Where each entry's record starts, and its first chunk.
    entries: Vec<Place>,
    /// Where the chunks of files of which a part moves begin: one for each chunk of the tree, none where all files move whole.
    starts: Vec<Start>,
    chunks: u32,
    files: u32,
    bytes_total: u64,
    /// Content bytes outside of holes.
    bytes_data: u64,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    record: u32,
    first_chunk: u32,
    /// Where the bit map of a sparse file starts; 0 for others.
    data_map: u32,
}

/// Where a chunk of a file of which a part moves begins.
#[derive(Debug, Clone, Copy, Default)]
struct Start {
    /// Which of the file's ranges.
    range: u32,
    /// Blocks of it that lie before.
    blocks: u32,
}

/// One entry of a manifest.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// What it is.
    pub kind: EntryKind,
    /// Path relative to the root; never empty, absolute, or with `.` or `..`.
    pub path: &'a Path,
    /// Permission bits.
    pub mode: u32,
    /// Owner on the donor.
    pub uid: u32,
    /// Group on the donor.
    pub gid: u32,
    /// Time of last modification: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Content of a file in bytes, holes included; 0 for others.
    pub size: u64,
    /// What its chunks are cut from, in bytes: all of it, or what of it moves.
    pub(crate) moved: u64,
    /// Where a link points to, relative.
    pub target: Option<&'a Path>,
    /// Number of the file's first chunk in the tree.
    pub(crate) first_chunk: u32,
    pub(crate) chunks: u32,
    is_sparse: bool,
    data_map: Option<&'a [u8]>,
    /// Of a file of which a part moves: its ranges.
    ranges: Option<&'a [[u8; RANGE_LEN]]>,
}

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkPlace {
    /// Number of the entry.
    pub(crate) entry: u32,
    /// Offset in what moves of the file, bytes.
    pub(crate) offset: u64,
    /// Content bytes.
    pub(crate) len: u32,
}

impl Entry<'_> {
    /// Whether the file has holes that should stay holes.
    pub fn is_sparse(&self) -> bool {
        self.is_sparse
    }

    /// Whether only a part of the file moves, and the rest is the other tree's.
    pub(crate) fn is_part(&self) -> bool {
        self.ranges.is_some()
    }

    /// Whether the file's chunk number `nth` (from 0) holds data.
    pub(crate) fn has_data(&self, nth: u32) -> bool {
        self.data_map.is_none_or(|map| map[nth as usize / 8] & (1 << (nth % 8)) != 0)
    }
}

impl Manifest {
    /// The encoded form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// BLAKE3 of the encoded form.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Number of entries of all kinds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the tree has nothing in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of regular files.
    pub fn files(&self) -> u64 {
        u64::from(self.files)
    }

    /// Content of all files in bytes, holes included.
    pub fn bytes_total(&self) -> u64 {
        self.bytes_total
    }

    /// Content of all files in bytes, without the chunks that are holes: what a full seed moves.
    pub fn bytes_data(&self) -> u64 {
        self.bytes_data
    }

    /// The root digest of the tree that the rest is taken from, where not all moves.
    pub fn since(&self) -> Option<&[u8; 32]> {
        self.since.as_ref()
    }

    /// All entries, parents before children.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        (0..self.entries.len() as u32).map(|index| self.entry(index))
    }

    pub(crate) fn chunks(&self) -> u32 {
        self.chunks
    }

    pub(crate) fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// The entry with this number. Panics when there is none.
    pub(crate) fn entry(&self, index: u32) -> Entry<'_> {
        let place = self.entries[index as usize];
        let record = Record::at(&self.bytes, place.record as usize);
        let path_at = place.record as usize + RECORD_LEN;
        let behind = path_at + record.path_len;
        let mut entry = Entry {
            kind: record.kind,
            path: as_path(&self.bytes[path_at..behind]),
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            mtime: record.mtime,
            size: 0,
            moved: 0,
            target: None,
            first_chunk: place.first_chunk,
            chunks: 0,
            is_sparse: record.flags & FLAG_SPARSE != 0,
            data_map: None,
            ranges: None,
        };
        match record.kind {
            EntryKind::Dir => {}
            EntryKind::File => {
                entry.size = record.size;
                entry.moved = record.size;
                if record.flags & FLAG_PART != 0 {
                    let part = Part::at(&self.bytes, behind);
                    entry.moved = part.moved;
                    entry.ranges = Some(part.ranges);
                }
                entry.chunks = chunks_of(entry.moved, self.chunk_size) as u32;
            }
            EntryKind::Link => {
                entry.target = Some(as_path(&self.bytes[behind..behind + record.size as usize]));
            }
        }
        if place.data_map != 0 {
            let start = place.data_map as usize;
            entry.data_map = Some(&self.bytes[start..start + (entry.chunks as usize).div_ceil(8)]);
        }
        entry
    }

    /// Where chunk number `chunk` lies; `None` when there is no such chunk or it is a hole.
    pub(crate) fn locate(&self, chunk: u32) -> Option<ChunkPlace> {
        if chunk >= self.chunks {
            return None;
        }
        // Entries without chunks share their first chunk with the next file: take the last that starts at or before.
        let index = self.entries.partition_point(|place| place.first_chunk <= chunk) - 1;
        let entry = self.entry(index as u32);
        let nth = chunk - entry.first_chunk;
        if nth >= entry.chunks || !entry.has_data(nth) {
            return None;
        }
        Some(self.place(index as u32, &entry, nth))
    }

    pub(crate) fn place(&self, index: u32, entry: &Entry<'_>, nth: u32) -> ChunkPlace {
        let offset = u64::from(nth) * u64::from(self.chunk_size);
        ChunkPlace {
            entry: index,
            offset,
            len: (entry.moved - offset).min(u64::from(self.chunk_size)) as u32,
        }
    }

    /// Where the bytes of a chunk lie in their file: one range, or, where only a part of the file moves, several in order.
    pub(crate) fn runs(&self, place: &ChunkPlace) -> impl Iterator<Item = Range<u64>> {
        let entry = self.entry(place.entry);
        let whole = match entry.ranges {
            None => Some(place.offset..place.offset + u64::from(place.len)),
            Some(_) => None,
        };
        let chunk = entry.first_chunk + (place.offset / u64::from(self.chunk_size)) as u32;
        let start = self.starts.get(chunk as usize).copied().unwrap_or_default();
        let ranges = entry.ranges.unwrap_or_default().get(start.range as usize..).unwrap_or_default();
        let (mut left, mut skip) = (u64::from(place.len), u64::from(start.blocks));
        let parts = ranges.iter().map_while(move |range| {
            let (first, count) = (u64::from(le_u32(&range[..4])), u64::from(le_u32(&range[4..])));
            let from = (first + skip) * BLOCK;
            let len = ((count - skip) * BLOCK).min(entry.size - from).min(left);
            skip = 0;
            left -= len;
            (len > 0).then_some(from..from + len)
        });
        whole.into_iter().chain(parts)
    }
}

/// What moves of a file of which not all does.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    moved: u64,
    ranges: &'a [[u8; RANGE_LEN]],
    /// Where it ends.
    end: usize,
}

impl<'a> Part<'a> {
    /// Reads a part that was validated by `parse`.
    fn at(bytes: &'a [u8], at: usize) -> Self {
        let count = le_u32(&bytes[at + 8..at + PART_LEN]) as usize;
        let end = at + PART_LEN + count * RANGE_LEN;
        let ranges = bytes[at + PART_LEN..end].as_chunks::<RANGE_LEN>().0;
        Self { moved: le_u64(&bytes[at..at + 8]), ranges, end }
    }
}

fn chunks_of(size: u64, chunk_size: u32) -> u64 {
    size.div_ceil(u64::from(chunk_size))
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// The fixed part of an entry.
#[derive(Debug, Clone, Copy)]
struct Record {
    kind: EntryKind,
    flags: u8,
    path_len: usize,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
    size: u64,
}

impl Record {
    /// Reads a record that was validated by `parse`.
    fn at(bytes: &[u8], at: usize) -> Self {
        let fixed = &bytes[at..at + RECORD_LEN];
        Self {
            kind: match fixed[0] {
                1 => EntryKind::Dir,
                2 => EntryKind::File,
                _ => EntryKind::Link,
            },
            flags: fixed[1],
            path_len: usize::from(u16::from_le_bytes([fixed[2], fixed[3]])),
            mode: le_u32(&fixed[4..8]),
            uid: le_u32(&fixed[8..12]),
            gid: le_u32(&fixed[12..16]),
            mtime: (le_u64(&fixed[16..24]).cast_signed(), le_u32(&fixed[24..28])),
            size: le_u64(&fixed[28..36]),
        }
    }

    fn encode(&self) -> [u8; RECORD_LEN] {
        let mut out = [0; RECORD_LEN];
        out[0] = self.kind as u8;
        out[1] = self.flags;
        out[2..4].copy_from_slice(&(self.path_len as u16).to_le_bytes());
        out[4..8].copy_from_slice(&self.mode.to_le_bytes());
        out[8..12].copy_from_slice(&self.uid.to_le_bytes());
        out[12..16].copy_from_slice(&self.gid.to_le_bytes());
        out[16..24].copy_from_slice(&self.mtime.0.to_le_bytes());
        out[24..28].copy_from_slice(&self.mtime.1.to_le_bytes());
        out[28..36].copy_from_slice(&self.size.to_le_bytes());
        out
    }
}

#[cfg(test)]
mod tests;
