//! One file or directory of a copy: its bytes and its attributes.

use std::fs::{self, File, Metadata, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::Error;
use crate::error::IoContext as _;

/// What the system calls the failure.
#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
pub(super) fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// Opens what is below a directory, whatever its owner exchanges meanwhile: on no part of the way is a link followed, nor a pipe waited for.
fn open_below(root: &File, below: &Path) -> std::io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let within = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let how = OpenHow::new().flags(flags).resolve(within);
    Ok(openat2(root, below, how).map(File::from)?)
}

/// Copies the bytes and attributes of the file at `below` in the tree `root`, or has the blocks shared. What is opened is what counts,
/// not what was seen there before.
pub(super) fn copy_file(root: &File, below: &Path, to: &Path, reflink: bool) -> Result<(), Error> {
    let mut original = open_below(root, below).context("open without following links", below)?;
    let meta = original.metadata().context("look at", below)?;
    if !meta.is_file() {
        // As if it had vanished: it was a file a moment ago.
        return Err(std::io::Error::from(std::io::ErrorKind::NotFound)).context("open as a file", below);
    }
    let mut copy =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).context("create", to)?;
    if reflink {
        share(&original, &copy, below, to)?;
    } else {
        std::io::copy(&mut original, &mut copy).context("copy", below)?;
    }
    set_attributes(to, &meta)
}

fn share(original: &File, copy: &File, from: &Path, to: &Path) -> Result<(), Error> {
    sys::file::share_blocks(original, copy).map_err(|e| match errno(e) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The owner of the tree puts a link where the walk has seen a directory.
    #[test]
    fn a_directory_that_becomes_a_link_shows_nothing_of_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, private) = (dir.path().join("mysql"), dir.path().join("private"));
        for (path, text) in [(tree.join("shop"), "a table"), (private.clone(), "a key of root")] {
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("t.ibd"), text).unwrap();
        }
        let (root, below, to) =
            (File::open(&tree).unwrap(), Path::new("shop/t.ibd"), dir.path().join("copy"));
        copy_file(&root, below, &to, false).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "a table");
        fs::remove_file(&to).unwrap();

        fs::rename(tree.join("shop"), tree.join("aside")).unwrap();
        std::os::unix::fs::symlink(&private, tree.join("shop")).unwrap();
        assert!(copy_file(&root, below, &to, false).is_err());
        std::os::unix::fs::symlink("../private/t.ibd", tree.join("t.ibd")).unwrap();
        assert!(copy_file(&root, Path::new("t.ibd"), &to, false).is_err());
        assert!(!to.exists());
    }
}
