//! The page cache of the host, which belongs to what the host works with and not to a seed that passes through.

use std::fs::File;
use std::ops::Range;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// Lets go of a range of a file that is not waiting to be written; best effort.
pub(crate) fn let_go(file: &File, range: &Range<u64>) {
    advise(file, range, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

fn advise(file: &File, range: &Range<u64>, advice: PosixFadviseAdvice) {
    // A length of 0 would mean the whole file.
    if range.end > range.start {
        let _ =
            posix_fadvise(file, range.start.cast_signed(), (range.end - range.start).cast_signed(), advice);
    }
}

/// Pages may lie in the cache in one piece of up to this many bytes, which goes only as a whole.
const FOLIO_MAX: u64 = 2 << 20;

/// As [`let_go`], behind a reader that goes on from the range's end: with the range goes the piece that it begins within.
pub(crate) fn let_go_behind(file: &File, range: &Range<u64>) {
    let_go(file, &(range.start - range.start % FOLIO_MAX..range.end));
}

/// Has a file read where it is asked for and not ahead: what the kernel reads ahead may still be on its way (8 MiB on some disks) when
/// the file is let go, and stays then.
pub(crate) fn read_no_further(file: &File) {
    let _ = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM);
}

/// Begins to read a range that is wanted next, as a whole.
pub(crate) fn read_soon(file: &File, range: &Range<u64>) {
    advise(file, range, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
}

/// A quarter of the host's memory, in bytes. What is smaller may stay in the page cache, where the server that starts on it
/// finds it. What is larger would push out what others work with, and each page of it would cost the kernel a search for
/// one to give up: 20 GiB on a host of 24 GiB took three times as long (docs/data-plane.md).
pub(crate) fn fair_share() -> u64 {
    nix::sys::sysinfo::sysinfo().map_or(u64::MAX, |host| host.ram_total() / 4)
}
