//! Opens files beneath a directory so that no symbolic link, planted before or meanwhile, can lead out of it.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;

/// Opens `path` (relative, without `..`: the manifest has checked) beneath `dir`. Before Linux 5.6 only the last component is
/// protected.
///
/// Without links and `..` nothing leads out: `RESOLVE_BENEATH` would add a lock that all opens of the machine share.
pub(crate) fn open_beneath(dir: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: Mode) -> io::Result<File> {
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags).mode(mode).resolve(resolve);
    let opened = loop {
        match openat2(dir, path, how) {
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(Errno::ENOSYS) => break openat(dir, path, flags, mode),
            other => break other,
        }
    };
    Ok(opened?.into())
}
