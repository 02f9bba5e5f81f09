//! Opens files beneath a directory so that no symbolic link, planted before or meanwhile, can lead out of it.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;

/// Opens `path` (relative) beneath `dir`. Before Linux 5.6 only the last component is protected.
pub(crate) fn open_beneath(dir: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: Mode) -> io::Result<File> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let how = OpenHow::new().flags(flags).mode(mode).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    );
    let opened = loop {
        match openat2(dir, path, how) {
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(Errno::ENOSYS) => break openat(dir, path, flags, mode),
            other => break other,
        }
    };
    Ok(opened?.into())
}
