//! The one system call that has no safe wrapper: sharing a file's blocks with a copy.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd as _;

mod sys {
    // FICLONE of <linux/fs.h>.
    nix::ioctl_write_int!(ficlone, 0x94, 9);
}

/// Makes `copy`, an empty file opened for writing, share all blocks of `original`. Waits for writes to `original` that are under way.
pub(crate) fn clone_file(original: &File, copy: &File) -> nix::Result<()> {
    let source = nix::sys::ioctl::ioctl_param_type::try_from(original.as_raw_fd())
        .map_err(|_| nix::errno::Errno::EBADF)?;
    // SAFETY: FICLONE takes two descriptors and no pointer; both are open for the length of the call, as the borrows show.
    unsafe { sys::ficlone(copy.as_raw_fd(), source) }.map(drop)
}
