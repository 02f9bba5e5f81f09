//! One file or directory of a copy: its bytes and its attributes.

use std::fs::{self, File, Metadata, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::Error;
use crate::error::IoContext as _;

/// What the system calls the failure.
#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
pub(super) fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// Copies the bytes of a file, or has them shared.
pub(super) fn copy_file(from: &Path, to: &Path, reflink: bool) -> Result<(), Error> {
    if !reflink {
        return fs::copy(from, to).map(drop).context("copy", from);
    }
    let original = File::open(from).context("open", from)?;
    let copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).context("create", to)?;
    sys::file::share_blocks(&original, &copy).map_err(|e| match errno(e) {
        Errno::EXDEV => Error::Origin {
            datadir: from.to_owned(),
            reason: format!(
                "it is not on the file system of {}; blocks are shared within one only",
                to.display()
            ),
        },
        e => Error::Io { action: "share the blocks of", path: from.to_owned(), source: e.into() },
    })
}

/// Owner, mode and times, in the order in which none undoes another.
pub(super) fn set_attributes(path: &Path, meta: &Metadata) -> Result<(), Error> {
    match std::os::unix::fs::chown(path, Some(meta.uid()), Some(meta.gid())) {
        // Without root the copy belongs to the agent, which is then the server's user as well.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && !nix::unistd::geteuid().is_root() => {}
        other => other.context("set the owner of", path)?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(meta.mode() & 0o7777))
        .context("set the mode of", path)?;
    let (read, written) =
        (TimeSpec::new(meta.atime(), meta.atime_nsec()), TimeSpec::new(meta.mtime(), meta.mtime_nsec()));
    utimensat(nix::fcntl::AT_FDCWD, path, &read, &written, UtimensatFlags::NoFollowSymlink)
        .context("set the times of", path)
}
