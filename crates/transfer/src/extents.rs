//! What differs between two files of one file system that share blocks, known without reading either (`FIEMAP`).
//!
//! Where both have the same block at the same place, both read the same: that is what sharing is. It is believed only for what
//! the kernel says plainly. Extents that are packed, encrypted, inside the metadata, not yet on the disk, or of a kind that is
//! not known here count as different, and so does a block that is not marked as shared in both. The old file is asked before
//! and after the new one: what was moved by a defragmenter in between is not compared with where it was.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};

use crate::kernel::{self, RawExtent};

/// Whose blocks are compared: an InnoDB page of the usual size.
pub(crate) const BLOCK: u64 = 16 << 10;

const LAST: u32 = 0x1;
const UNWRITTEN: u32 = 0x800;
const MERGED: u32 = 0x1000;
const SHARED: u32 = 0x2000;

/// A moving file is asked so often before it counts as different.
const TRIES: usize = 3;

/// A file system in which two files can share blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SharedIn {
    Xfs(u64),
    Btrfs([u8; 16]),
}

/// Which file system a file lies in; `None` where blocks are not shared, or nothing is known of how.
pub(crate) fn file_system(file: &File) -> io::Result<Option<SharedIn>> {
    let kind = fstatfs(file)?.filesystem_type();
    Ok(if kind == XFS_SUPER_MAGIC {
        Some(SharedIn::Xfs(file.metadata()?.dev()))
    } else if kind == BTRFS_SUPER_MAGIC {
        Some(SharedIn::Btrfs(kernel::btrfs_id(file)?))
    } else {
        None
    })
}

/// What the kernel says of a part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// It reads as zeros.
    Zeros,
    /// It lies there in the file system, and other files have it too.
    Shared(u64),
    /// Its own, or nothing that could be relied on.
    Own,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Extent {
    range: Range<u64>,
    what: What,
}

impl Extent {
    fn of(raw: &RawExtent) -> Self {
        let what = match raw.flags & !(LAST | MERGED) {
            SHARED => What::Shared(raw.physical),
            flags if flags & !SHARED == UNWRITTEN => What::Zeros,
            _ => What::Own,
        };
        Self { range: raw.logical..raw.logical.saturating_add(raw.length), what }
    }
}

/// All extents of a file, in order.
fn map(file: &File) -> io::Result<Vec<Extent>> {
    let mut found: Vec<Extent> = Vec::new();
    loop {
        let from = found.last().map_or(0, |extent| extent.range.end);
        let some = kernel::extents(file, from)?;
        let before = found.len();
        for raw in &some {
            let extent = Extent::of(raw);
            // The kernel may begin with the extent that `from` lies in.
            if extent.range.end > from && extent.range.start < extent.range.end {
                found.push(extent);
            }
        }
        let is_last = some.last().is_none_or(|raw| raw.flags & LAST != 0);
        if is_last || found.len() == before {
            return Ok(found);
        }
    }
}

/// The blocks of `new` that are not known to be as in `old`: ascending ranges of numbers of [`BLOCK`]s, none of which touch. Both
/// files must lie in one file system, and `new` must not be written to.
pub(crate) fn differing(old: &File, new: &File) -> io::Result<Vec<Range<u32>>> {
    let size = new.metadata()?.len();
    let old_size = old.metadata()?.len();
    let mut before = map(old)?;
    for _ in 0..TRIES {
        let of_new = map(new)?;
        let after = map(old)?;
        if before == after {
            return Ok(compare((&before, old_size), (&of_new, size)));
        }
        before = after;
    }
    Ok(whole(size))
}

fn whole(size: u64) -> Vec<Range<u32>> {
    match size.div_ceil(BLOCK) as u32 {
        0 => Vec::new(),
        blocks => std::iter::once(0..blocks).collect(),
    }
}

/// Walks over both files at once.
fn compare((old, old_size): (&[Extent], u64), (new, size): (&[Extent], u64)) -> Vec<Range<u32>> {
    let mut found = Vec::new();
    let (mut left, mut right) = (old.iter().peekable(), new.iter().peekable());
    let mut at = 0;
    while at < size {
        let (of_old, until_old) = at_place(&mut left, at, old_size);
        let (of_new, until_new) = at_place(&mut right, at, size);
        let end = until_old.min(until_new).min(size);
        if of_old != of_new || of_old == What::Own {
            add(&mut found, at..end);
        }
        at = end;
    }
    found
}

/// What a file has at a place before its end, and up to where it goes on like that.
fn at_place<'a>(
    extents: &mut std::iter::Peekable<impl Iterator<Item = &'a Extent>>,
    at: u64,
    size: u64,
) -> (What, u64) {
    while extents.next_if(|extent| extent.range.end <= at).is_some() {}
    if at >= size {
        return (What::Zeros, u64::MAX);
    }
    match extents.peek() {
        None => (What::Zeros, size),
        Some(extent) if extent.range.start > at => (What::Zeros, extent.range.start.min(size)),
        Some(extent) => {
            let what = match extent.what {
                What::Shared(physical) => What::Shared(physical + (at - extent.range.start)),
                what => what,
            };
            (what, extent.range.end.min(size))
        }
    }
}

fn add(found: &mut Vec<Range<u32>>, bytes: Range<u64>) {
    let blocks = (bytes.start / BLOCK) as u32..bytes.end.div_ceil(BLOCK) as u32;
    match found.last_mut() {
        Some(last) if blocks.start <= last.end => last.end = last.end.max(blocks.end),
        _ => found.push(blocks),
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one range of blocks is meant")]
mod tests {
    use super::*;

    fn extent(range: Range<u64>, what: What) -> Extent {
        Extent { range: range.start * BLOCK..range.end * BLOCK, what }
    }

    fn shared(range: Range<u64>, physical: u64) -> Extent {
        extent(range, What::Shared(physical * BLOCK))
    }

    #[test]
    fn the_same_blocks_are_equal_however_the_kernel_cuts_them() {
        let old = [shared(0..10, 100), shared(12..20, 200)];
        let new = [shared(0..4, 100), shared(4..10, 104), shared(12..20, 200)];
        assert!(compare((&old, 20 * BLOCK), (&new, 20 * BLOCK)).is_empty());
        let moved = [shared(0..4, 100), shared(4..10, 105), shared(12..20, 200)];
        assert_eq!(compare((&old, 20 * BLOCK), (&moved, 20 * BLOCK)), [4..10]);
    }

    #[test]
    fn what_is_not_plainly_shared_differs_and_zeros_are_equal_to_holes() {
        let own = [extent(0..2, What::Own), shared(2..4, 50)];
        assert_eq!(compare((&own, 4 * BLOCK), (&own, 4 * BLOCK)), [0..2], "its own in both: two extents");
        let zeros = [extent(0..2, What::Zeros), shared(2..4, 50)];
        let hole = [shared(2..4, 50)];
        assert!(compare((&zeros, 4 * BLOCK), (&hole, 4 * BLOCK)).is_empty());
        assert_eq!(compare((&own, 4 * BLOCK), (&hole, 4 * BLOCK)), [0..2], "a hole where there was data");
        let raw =
            |flags| Extent::of(&RawExtent { physical: 7, length: 1, flags, ..RawExtent::default() }).what;
        assert_eq!(raw(SHARED | LAST | MERGED), What::Shared(7));
        assert_eq!(raw(UNWRITTEN | SHARED), What::Zeros);
        for doubt in [0x2, 0x4, 0x8, 0x80, 0x100, 0x200, 0x400, 0x4000] {
            assert_eq!(raw(SHARED | doubt), What::Own, "flag {doubt:#x}");
        }
        assert_eq!(raw(0), What::Own, "not shared");
    }

    #[test]
    fn a_file_that_grew_or_shrank_sends_the_block_of_its_old_end() {
        let old = [shared(0..4, 100)];
        let new = [shared(0..4, 100), extent(4..6, What::Own)];
        assert_eq!(compare((&old, 3 * BLOCK + 5), (&new, 6 * BLOCK)), [3..6]);
        let longer = compare((&old, 3 * BLOCK + 5), (&old, 4 * BLOCK));
        assert_eq!(longer, [3..4], "the same block, of which the old file had the first bytes");
        assert!(compare((&old, 4 * BLOCK), (&old, 3 * BLOCK)).is_empty());
        assert_eq!(compare((&[], 0), (&new, 6 * BLOCK)), [0..6]);
        assert!(compare((&new, 6 * BLOCK), (&[], 0)).is_empty());
    }
}
