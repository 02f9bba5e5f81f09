//! The few system calls that no safe library offers, and the only unsafe code of this crate.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd as _;

/// Asks the kernel to begin writing a range of a file to disk, without waiting for it: the disk is busy while the
/// network is, and the later `fsync` finds little to do. Failures do not matter.
pub(crate) fn start_writeback(file: &File, offset: u64, len: u64) {
    // SAFETY: takes plain numbers; the descriptor is open for the length of the call because `file` is borrowed.
    unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset.cast_signed(),
            len.cast_signed(),
            libc::SYNC_FILE_RANGE_WRITE,
        );
    }
}

/// How many pages of the first `len` bytes of a file are in the page cache; `None` where the kernel (before 6.5) cannot tell.
pub(crate) fn cached_pages(file: &File, len: u64) -> Option<u64> {
    const CACHESTAT: libc::c_long = 451;
    let range: [u64; 2] = [0, len];
    let mut stat = [0_u64; 5];
    // SAFETY: both pointers lead to live arrays of the sizes that cachestat(2) reads (two u64) and writes (five u64).
    let result =
        unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), stat.as_mut_ptr(), 0_u32) };
    (result == 0).then_some(stat[0])
}

/// Has this thread's reads wait for those of everybody else, where the disk's scheduler knows priorities. Best effort.
pub(crate) fn read_when_idle() {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_IDLE: libc::c_int = 3 << 13;
    // SAFETY: ioprio_set(2) takes plain numbers; 0 is the calling thread.
    unsafe {
        libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE);
    }
}
