//! Directories held by their descriptors: what is done below one is done relative to it and follows no link, so that it happens there
//! and nowhere else, whoever renames, exchanges or links what meanwhile.

mod contents;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, open, openat2, readlinkat, renameat2};
use nix::sys::stat::{Mode, UtimensatFlags, fstatat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};

pub use contents::Rights;

/// Who a directory or file is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The file system; may be another number after the machine was started anew.
    pub device: u64,
    /// The number within it.
    pub inode: u64,
}

/// Where the kernel names the descriptors of this process, for nobody else to plant anything.
const DESCRIPTORS: &str = "/proc/self/fd";

/// A directory, open.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    /// By which it was opened; for words only.
    path: PathBuf,
}

impl Dir {
    /// Opens a directory; a link in its place is refused. Links further up are followed: they are for its parents' owners. What
    /// [`Dir::by_descriptor`] names is the directory that is held.
    ///
    /// # Errors
    /// It is not there, or no directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let is_held = path.parent() == Some(Path::new(DESCRIPTORS));
        let follow = if is_held { OFlag::empty() } else { OFlag::O_NOFOLLOW };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | follow;
        Ok(Self { fd: open(path, flags, Mode::empty())?, path: path.to_owned() })
    }

    /// The path by which it was opened. It may lead elsewhere by now.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which directory it is.
    ///
    /// # Errors
    /// The file system fails.
    pub fn identity(&self) -> io::Result<Identity> {
        let stat = nix::sys::stat::fstat(&self.fd)?;
        Ok(Identity { device: stat.st_dev, inode: stat.st_ino })
    }

    /// Whether nobody but the user of this process, or root, can put anything in it or take anything out.
    ///
    /// # Errors
    /// The file system fails.
    pub fn is_ours_alone(&self) -> io::Result<bool> {
        let stat = nix::sys::stat::fstat(&self.fd)?;
        let is_ours = stat.st_uid == 0 || stat.st_uid == nix::unistd::geteuid().as_raw();
        Ok(is_ours && stat.st_mode & 0o022 == 0)
    }

    /// Fails unless the path by which it was opened leads to it still.
    ///
    /// # Errors
    /// It was moved, removed or replaced.
    pub fn is_in_its_place(&self) -> io::Result<()> {
        let there = std::fs::symlink_metadata(&self.path)
            .map(|meta| Identity { device: meta.dev(), inode: meta.ino() });
        match there {
            Ok(there) if there == self.identity()? => Ok(()),
            _ => Err(io::Error::other(
                "it was moved or replaced meanwhile by somebody who may write beside it",
            )),
        }
    }

    /// Opens what lies below; a link anywhere on the way is refused.
    ///
    /// Without links and `..` nothing leads out: `RESOLVE_BENEATH` would add a lock that all opens of the machine share.
    ///
    /// # Errors
    /// A path that is not of plain names, a link in it, or what `open(2)` says; a kernel before Linux 5.6 cannot.
    pub fn open_below(&self, below: &Path, flags: OFlag, mode: Mode) -> io::Result<File> {
        open_below(self.fd.as_fd(), below, flags, mode)
    }

    /// Opens a directory below.
    ///
    /// # Errors
    /// As [`Dir::open_below`].
    pub fn dir(&self, below: &Path) -> io::Result<Self> {
        let file = self.open_below(below, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
        Ok(Self { fd: file.into(), path: self.path.join(below) })
    }

    /// Makes a directory below, whose parent must be there.
    ///
    /// # Errors
    /// As `mkdir(2)`; a link on the way.
    pub fn make_dir(&self, below: &Path, mode: u32) -> io::Result<()> {
        self.at(below, |dir, name| mkdirat(dir, name, Mode::from_bits_truncate(mode)))
    }

    /// Makes a link below.
    ///
    /// # Errors
    /// As `symlink(2)`; a link on the way.
    pub fn make_link(&self, below: &Path, target: &Path) -> io::Result<()> {
        self.at(below, |dir, name| symlinkat(target, dir, name))
    }

    /// Where a link below leads.
    ///
    /// # Errors
    /// As `readlink(2)`; a link on the way.
    pub fn read_link(&self, below: &Path) -> io::Result<PathBuf> {
        self.at(below, |dir, name| readlinkat(dir, name)).map(PathBuf::from)
    }

    /// Gives what lies below, itself if it is a link, to a user and group.
    ///
    /// # Errors
    /// As `lchown(2)`; a link on the way.
    pub fn give(&self, below: &Path, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        self.at(below, |dir, name| fchownat(dir, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW))
    }

    /// Sets the time of modification of what lies below, itself if it is a link.
    ///
    /// # Errors
    /// As `utimensat(2)`; a link on the way.
    pub fn set_modified(&self, below: &Path, time: &TimeSpec) -> io::Result<()> {
        self.at(below, |dir, name| {
            utimensat(dir, name, &TimeSpec::UTIME_OMIT, time, UtimensatFlags::NoFollowSymlink)
        })
    }

    /// Removes a file or link below.
    ///
    /// # Errors
    /// As `unlink(2)`; a link on the way.
    pub fn remove_file(&self, below: &Path) -> io::Result<()> {
        self.at(below, |dir, name| unlinkat(dir, name, UnlinkatFlags::NoRemoveDir))
    }

    /// Removes an empty directory below.
    ///
    /// # Errors
    /// As `rmdir(2)`; a link on the way.
    pub fn remove_dir(&self, below: &Path) -> io::Result<()> {
        self.at(below, |dir, name| unlinkat(dir, name, UnlinkatFlags::RemoveDir))
    }

    /// Removes what lies below, a directory with all in it.
    ///
    /// # Errors
    /// Anything of it cannot be removed.
    pub fn remove_all(&self, below: &Path) -> io::Result<()> {
        match self.remove_file(below) {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {}
            other => return other,
        }
        let dir = self.dir(below)?;
        for name in dir.names()? {
            dir.remove_all(Path::new(&name))?;
        }
        self.remove_dir(below)
    }

    /// Which entry of this directory has that name now, a link itself; `None`: there is none.
    ///
    /// # Errors
    /// The file system fails.
    pub fn entry(&self, name: &OsStr) -> io::Result<Option<Identity>> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Identity { device: stat.st_dev, inode: stat.st_ino })),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves an entry to a directory of the same file system, as `flags` say (`RENAME_NOREPLACE`, `RENAME_EXCHANGE`).
    ///
    /// # Errors
    /// As `renameat2(2)`.
    pub fn rename(&self, name: &OsStr, to: &Self, to_name: &OsStr, flags: RenameFlags) -> Result<(), Errno> {
        renameat2(&self.fd, name, &to.fd, to_name, flags)
    }

    /// The names of its entries, in no order.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    /// Makes what happened to its entries durable.
    ///
    /// # Errors
    /// It cannot be flushed.
    pub fn sync(&self) -> io::Result<()> {
        Ok(nix::unistd::fsync(&self.fd)?)
    }

    /// Acts on the last name of a path, relative to its parent's descriptor.
    fn at<T>(
        &self,
        below: &Path,
        act: impl FnOnce(BorrowedFd<'_>, &OsStr) -> nix::Result<T>,
    ) -> io::Result<T> {
        let (Some(Component::Normal(name)), Some(parent)) = (below.components().next_back(), below.parent())
        else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if parent.as_os_str().is_empty() {
            return Ok(act(self.fd.as_fd(), name)?);
        }
        let parent = self.open_below(parent, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
        Ok(act(parent.as_fd(), name)?)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// As [`Dir::open_below`], for who has the descriptor alone.
///
/// # Errors
/// As [`Dir::open_below`].
pub fn open_below(dir: BorrowedFd<'_>, below: &Path, flags: OFlag, mode: Mode) -> io::Result<File> {
    if !below.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW).mode(mode).resolve(resolve);
    loop {
        match openat2(dir, below, how) {
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(Errno::ENOSYS) => {
                return Err(io::Error::other("the kernel has no openat2: Linux 5.6 is the least"));
            }
            other => return Ok(other?.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn nothing_below_a_held_directory_leads_out_of_it() {
        let temporary = tempfile::tempdir().unwrap();
        let (outside, held) = (temporary.path().join("outside"), temporary.path().join("held"));
        fs::create_dir(&outside).unwrap();
        fs::create_dir(&held).unwrap();
        fs::write(outside.join("file"), "precious").unwrap();
        symlink("../outside", held.join("link")).unwrap();
        let dir = Dir::open(&held).unwrap();
        let below = Path::new("link/file");
        let refused: [io::Result<()>; 8] = [
            dir.open_below(below, OFlag::O_RDWR, Mode::empty()).map(drop),
            dir.dir(Path::new("link")).map(drop),
            dir.make_dir(Path::new("link/made"), 0o700),
            dir.make_link(Path::new("link/made"), Path::new("x")),
            dir.remove_file(below),
            dir.remove_all(below),
            dir.give(below, 1, 1),
            dir.set_modified(below, &TimeSpec::new(1, 0)),
        ];
        for (nth, refused) in refused.into_iter().enumerate() {
            assert!(refused.is_err(), "{nth}");
        }
        for path in ["../outside/file", "/etc/passwd", "."] {
            assert!(dir.open_below(Path::new(path), OFlag::O_RDONLY, Mode::empty()).is_err(), "{path}");
            assert!(dir.remove_all(Path::new(path)).is_err(), "{path}");
        }
        assert!(Dir::open(&held.join("link")).is_err(), "a link is no directory");
        dir.remove_all(Path::new("link")).unwrap();
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "precious");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_ne!(fs::metadata(outside.join("file")).unwrap().mtime(), 1);
    }

    #[test]
    fn a_directory_that_was_moved_is_held_and_known_to_be_elsewhere() {
        let temporary = tempfile::tempdir().unwrap();
        let held = temporary.path().join("held");
        fs::create_dir(&held).unwrap();
        let dir = Dir::open(&held).unwrap();
        dir.is_in_its_place().unwrap();
        fs::rename(&held, temporary.path().join("away")).unwrap();
        assert!(dir.is_in_its_place().is_err());
        fs::create_dir(&held).unwrap();
        assert!(dir.is_in_its_place().is_err(), "another directory of that name");
        dir.make_dir(Path::new("made"), 0o700).unwrap();
        dir.make_dir(Path::new("made/deep"), 0o700).unwrap();
        assert!(temporary.path().join("away/made/deep").is_dir());
        assert_eq!(dir.names().unwrap(), ["made"]);
        dir.remove_all(Path::new("made")).unwrap();
        assert!(dir.names().unwrap().is_empty() && fs::read_dir(&held).unwrap().count() == 0);
    }
}
