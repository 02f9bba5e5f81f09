//! Makes of a tree's manifest one that moves only what differs from another tree of the same file system.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use sys::dir::Dir;

use super::{
    Entry, EntryKind, Exclude, FLAG_PART, FLAG_SPARSE, HEADER_LEN, MAGIC_SINCE, MANIFEST_LEN_MAX, Manifest,
    ManifestError, Record, chunks_of,
};
use crate::extents::{self, BLOCK};
use crate::{Cancel, Error, Result};

/// Each waits for the file system's metadata most of the time.
const THREADS: usize = 4;

/// The blocks of a file that differ; `None` where it is not compared, and moves whole.
type Differing = Option<Vec<Range<u32>>>;

/// A tree that was given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Old<'a> {
    pub(crate) dir: &'a Dir,
    /// What of it was not.
    pub(crate) exclude: &'a Exclude,
    /// Its root digest.
    pub(crate) root: &'a [u8; 32],
}

/// Compares the tree in `dir` with an older one, file by file of the same path. Neither may be written to, and both lie in one file
/// system that shares blocks.
pub(crate) fn since(manifest: &Manifest, dir: &Dir, old: Old<'_>, cancel: &Cancel) -> Result<Manifest> {
    let found = compare_all(manifest, dir, old, cancel)?;
    encode(manifest, old.root, &found)
}

fn compare_all(manifest: &Manifest, dir: &Dir, old: Old<'_>, cancel: &Cancel) -> Result<Vec<Differing>> {
    let found = Mutex::new(vec![None; manifest.len()]);
    let failed = Mutex::new(None);
    let next = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Relaxed);
                    if index as usize >= manifest.len() || cancel.is_cancelled() {
                        return;
                    }
                    let entry = manifest.entry(index);
                    if entry.kind != EntryKind::File || entry.size == 0 {
                        continue;
                    }
                    match compare(&entry, dir, old) {
                        Ok(differing) => {
                            if let Ok(mut found) = found.lock() {
                                found[index as usize] = differing;
                            }
                        }
                        Err(error) => {
                            next.store(u32::MAX / 2, Relaxed);
                            if let Ok(mut failed) = failed.lock() {
                                failed.get_or_insert(Error::file("compare", entry.path)(error));
                            }
                        }
                    }
                }
            });
        }
    });
    if cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    match failed.into_inner() {
        Ok(None) => found.into_inner().map_err(|_| Error::Options("a comparing thread died")),
        Ok(Some(error)) => Err(error),
        Err(_) => Err(Error::Options("a comparing thread died")),
    }
}

fn open(dir: &Dir, path: &Path) -> io::Result<File> {
    dir.open_below(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())
}

fn compare(entry: &Entry<'_>, dir: &Dir, old: Old<'_>) -> io::Result<Differing> {
    // The recipient has none of what stayed at home then.
    if old.exclude.matches(entry.path.as_os_str().as_bytes()) {
        return Ok(None);
    }
    // What has no file of that name there, a link or a directory among them, moves whole.
    let Ok(old) = open(old.dir, entry.path) else { return Ok(None) };
    if !old.metadata()?.is_file() || entry.size.div_ceil(BLOCK) > u64::from(u32::MAX) {
        return Ok(None);
    }
    extents::differing(&old, &open(dir, entry.path)?).map(Some)
}

fn encode(manifest: &Manifest, root: &[u8; 32], found: &[Differing]) -> Result<Manifest> {
    let mut bytes = manifest.as_bytes()[..HEADER_LEN].to_vec();
    bytes[..8].copy_from_slice(MAGIC_SINCE);
    bytes.extend_from_slice(root);
    let mut chunks = 0;
    for (entry, differing) in manifest.iter().zip(found) {
        let target = entry.target.map_or(&[][..], |target| target.as_os_str().as_bytes());
        let path = entry.path.as_os_str().as_bytes();
        let record = Record {
            kind: entry.kind,
            flags: if entry.is_sparse() { FLAG_SPARSE } else { 0 }
                | if differing.is_some() { FLAG_PART } else { 0 },
            path_len: path.len(),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            size: if entry.kind == EntryKind::Link { target.len() as u64 } else { entry.size },
        };
        bytes.extend_from_slice(&record.encode());
        bytes.extend_from_slice(path);
        bytes.extend_from_slice(target);
        let mut moved = entry.size;
        if let Some(ranges) = differing {
            moved = encode_ranges(&mut bytes, ranges, entry.size);
        }
        chunks += chunks_of(moved, manifest.chunk_size());
        if bytes.len() as u64 > MANIFEST_LEN_MAX {
            return Err(ManifestError::TooLarge("more than 256 MiB of paths and ranges").into());
        }
    }
    for (entry, differing) in manifest.iter().zip(found) {
        if let (Some(map), None) = (entry.data_map, differing) {
            bytes.extend_from_slice(map);
        }
    }
    bytes[20..24].copy_from_slice(&(chunks as u32).to_le_bytes());
    Ok(Manifest::parse(bytes)?)
}

/// Appends how much moves, and where it lies; gives how much.
fn encode_ranges(bytes: &mut Vec<u8>, ranges: &[Range<u32>], size: u64) -> u64 {
    let len = |range: &Range<u32>| (u64::from(range.end) * BLOCK).min(size) - u64::from(range.start) * BLOCK;
    let moved: u64 = ranges.iter().map(len).sum();
    bytes.extend_from_slice(&moved.to_le_bytes());
    bytes.extend_from_slice(&(ranges.len() as u32).to_le_bytes());
    for range in ranges {
        bytes.extend_from_slice(&range.start.to_le_bytes());
        bytes.extend_from_slice(&(range.end - range.start).to_le_bytes());
    }
    moved
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one range of blocks is meant")]
mod tests {
    use std::fs;

    use super::*;

    const CHUNK: u64 = 256 << 10;

    /// A tree of two files of which the second is `blocks` long and ends in the middle of its last block.
    fn tree(blocks: u64) -> Manifest {
        let dir = tempfile::TempDir::with_prefix("since-test-").unwrap();
        fs::write(dir.path().join("a"), vec![1; 300_000]).unwrap();
        fs::write(dir.path().join("b"), vec![1; (blocks * BLOCK - 100) as usize]).unwrap();
        crate::manifest::build(dir.path(), &Exclude::none(), Some(CHUNK as u32), &Cancel::new()).unwrap().0
    }

    #[test]
    fn the_chunks_of_a_file_that_moves_in_part_are_its_ranges_one_after_the_other() {
        let whole = tree(100);
        let ranges = vec![1..2, 5..30, 40..41, 99..100];
        let since = encode(&whole, &[7; 32], &[None, Some(ranges.clone())]).unwrap();
        assert_eq!(since.since(), Some(&[7; 32]));
        assert_eq!(since.bytes_total(), whole.bytes_total());
        assert_eq!(since.bytes_data(), 300_000 + 28 * BLOCK - 100);
        let entry = since.entry(1);
        assert!(entry.is_part() && entry.size == 100 * BLOCK - 100 && entry.chunks == 2);
        let places = (0..2).map(|nth| since.locate(entry.first_chunk + nth).unwrap());
        let moved: Vec<u64> = places
            .flat_map(|place| since.runs(&place).collect::<Vec<_>>())
            .flat_map(|run| run.step_by(BLOCK as usize).map(|at| at / BLOCK))
            .collect();
        assert_eq!(moved, ranges.into_iter().flatten().map(u64::from).collect::<Vec<_>>());
        assert!(!since.entry(0).is_part(), "what was not compared moves whole");
    }

    #[test]
    fn ranges_that_no_honest_donor_tells_are_refused() {
        let whole = tree(10);
        let told = |ranges: Vec<Range<u32>>| encode(&whole, &[7; 32], &[None, Some(ranges)]);
        told(vec![0..3, 4..10]).unwrap();
        for (ranges, why) in [
            (vec![3..4, 0..1], "out of order"),
            (vec![0..4, 3..5], "overlapping"),
            (vec![0..4, 4..5], "touching: there is one form only"),
            (vec![0..11], "beyond the end"),
            (vec![2..2], "empty"),
        ] {
            assert!(told(ranges).is_err(), "{why}");
        }
        let mut bytes = told(vec![0..3]).unwrap().as_bytes().to_vec();
        bytes[..8].copy_from_slice(b"OAMANIF1");
        assert!(Manifest::parse(bytes).is_err(), "of a whole tree no file moves in part");
    }
}
