//! Whole files and entries below a directory that is held: read, written anew, moved, removed.

use std::fs::{File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, RenameFlags};
use nix::sys::stat::Mode;

use super::Dir;

/// Whose a new file is, and who may do what with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

impl From<&Metadata> for Rights {
    fn from(meta: &Metadata) -> Self {
        Self { uid: meta.uid(), gid: meta.gid(), mode: meta.mode() & 0o7777 }
    }
}

impl Rights {
    /// Those of the user of this process.
    #[must_use]
    pub fn own(mode: u32) -> Self {
        Self { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw(), mode }
    }

    /// Gives an open file or directory these.
    ///
    /// # Errors
    /// As `fchown(2)`, `fchmod(2)`.
    pub fn give(self, file: &File) -> io::Result<()> {
        fchown(file, Some(self.uid), Some(self.gid))?;
        file.set_permissions(std::fs::Permissions::from_mode(self.mode))
    }
}

impl Dir {
    /// What lies below, itself if it is a link; `None`: nothing does.
    ///
    /// # Errors
    /// As [`Dir::open_below`].
    pub fn metadata(&self, below: &Path) -> io::Result<Option<Metadata>> {
        match self.open_below(below, OFlag::O_PATH, Mode::empty()) {
            Ok(entry) => entry.metadata().map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a file below for reading, which must be one: a pipe in its place would not let go.
    ///
    /// # Errors
    /// As [`Dir::open_below`]; it is no regular file.
    pub fn file(&self, below: &Path) -> io::Result<File> {
        let file = self.open_below(below, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
    }

    /// The bytes of a file below; `None`: there is none.
    ///
    /// # Errors
    /// As [`Dir::file`]; it is longer than `limit`.
    pub fn read(&self, below: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match self.file(below) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > limit {
            true => Err(io::Error::other(format!("it is longer than {limit} bytes"))),
            false => Ok(Some(bytes)),
        }
    }

    /// Makes a file below that must not be there yet.
    ///
    /// # Errors
    /// As [`Dir::open_below`]; it is there.
    pub fn create(&self, below: &Path, rights: Rights) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = self.open_below(below, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        rights.give(&file)?;
        Ok(file)
    }

    /// Writes a file below anew: whole and durable, or not at all.
    ///
    /// # Errors
    /// As [`Dir::create`]; what `write(2)` and `rename(2)` say.
    pub fn write(&self, below: &Path, bytes: &[u8], rights: Rights) -> io::Result<()> {
        // Always the same name: what a crash has left of it goes the next time.
        let mut new = below.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        self.remove(&new)?;
        let mut file = self.create(&new, rights)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        self.shift(&new, self, below)
    }

    /// Makes a directory below with these rights where there is none, and those above it.
    ///
    /// # Errors
    /// As [`Dir::make_dir`].
    pub fn make_dirs(&self, below: &Path, rights: Rights) -> io::Result<()> {
        let parents: Vec<&Path> = below.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
        for path in parents.into_iter().rev() {
            match self.make_dir(path, 0o700) {
                Ok(()) => rights.give(&self.open_below(
                    path,
                    OFlag::O_RDONLY | OFlag::O_DIRECTORY,
                    Mode::empty(),
                )?)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sets the permission bits of this very directory.
    ///
    /// # Errors
    /// As `fchmod(2)`.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(nix::sys::stat::fchmod(&self.fd, Mode::from_bits_truncate(mode))?)
    }

    /// Moves what lies below, itself if it is a link, to a place below another directory of the same file system; what lies there
    /// is replaced.
    ///
    /// # Errors
    /// As `rename(2)`; a link on either way.
    pub fn shift(&self, below: &Path, to: &Self, to_below: &Path) -> io::Result<()> {
        let (Some(name), Some(to_name)) = (below.file_name(), to_below.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let (from, target) = (self.parent_of(below)?, to.parent_of(to_below)?);
        let (from, target) = (from.as_ref().unwrap_or(self), target.as_ref().unwrap_or(to));
        Ok(from.rename(name, target, to_name, RenameFlags::empty())?)
    }

    /// Removes what lies below, a directory with all in it. False when it was not there.
    ///
    /// # Errors
    /// As [`Dir::remove_all`].
    pub fn remove(&self, below: &Path) -> io::Result<bool> {
        match self.remove_all(below) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A path to this very directory, wherever it lies by now, for calls that know paths only.
    #[must_use]
    pub fn by_descriptor(&self) -> PathBuf {
        Path::new(super::DESCRIPTORS).join(self.fd.as_raw_fd().to_string())
    }

    fn parent_of(&self, below: &Path) -> io::Result<Option<Self>> {
        match below.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => self.dir(parent).map(Some),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn rights() -> Rights {
        Rights::own(0o640)
    }

    #[test]
    fn files_are_written_anew_and_moved_and_no_link_leads_anywhere() {
        let temporary = tempfile::tempdir().unwrap();
        let (outside, held) = (temporary.path().join("outside"), temporary.path().join("held"));
        fs::create_dir(&outside).unwrap();
        fs::create_dir_all(held.join("logs")).unwrap();
        fs::write(outside.join("file"), "precious").unwrap();
        let dir = Dir::open(&held).unwrap();
        // What is in the way is replaced itself.
        symlink(outside.join("file"), held.join("logs/index")).unwrap();
        symlink(outside.join("file"), held.join("logs/index.new")).unwrap();
        dir.write(Path::new("logs/index"), b"one\n", rights()).unwrap();
        assert_eq!(dir.read(Path::new("logs/index"), 4).unwrap().as_deref(), Some(&b"one\n"[..]));
        assert!(dir.read(Path::new("logs/index"), 3).unwrap_err().to_string().contains("longer"));
        assert_eq!(fs::metadata(held.join("logs/index")).unwrap().permissions().mode() & 0o7777, 0o640);
        dir.shift(Path::new("logs/index"), &dir, Path::new("moved")).unwrap();
        assert_eq!(dir.read(Path::new("logs/index"), 9).unwrap(), None);
        assert!(dir.metadata(Path::new("moved")).unwrap().unwrap().is_file());

        symlink(&outside, held.join("away")).unwrap();
        let refused: [io::Result<()>; 5] = [
            dir.read(Path::new("away/file"), 99).map(drop),
            dir.write(Path::new("away/file"), b"x", rights()),
            dir.shift(Path::new("moved"), &dir, Path::new("away/file")),
            dir.make_dirs(Path::new("away/made"), rights()),
            dir.remove(Path::new("away/file")).map(drop),
        ];
        for (nth, refused) in refused.into_iter().enumerate() {
            assert!(refused.is_err(), "{nth}");
        }
        assert!(dir.metadata(Path::new("away")).unwrap().unwrap().is_symlink());
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "precious");
        dir.make_dirs(Path::new("a/b/c"), rights()).unwrap();
        dir.make_dirs(Path::new("a/b/c"), rights()).unwrap();
        assert!(dir.remove(Path::new("a")).unwrap() && !dir.remove(Path::new("a")).unwrap());
        let again = Dir::open(&dir.by_descriptor()).unwrap();
        assert_eq!(again.identity().unwrap(), dir.identity().unwrap());
        nix::unistd::mkfifo(&held.join("pipe"), Mode::S_IRWXU).unwrap();
        assert!(dir.read(Path::new("pipe"), 9).unwrap_err().to_string().contains("no regular file"));
    }
}
