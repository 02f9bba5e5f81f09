//! The directories of a seed, held by their descriptors while something is done in them. Where the datadir or its parent belongs to
//! another user, that user can put anything in the place of a name; what was opened and proven stays what it is.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use job::crashsafe;
use nix::fcntl::OFlag;
use protocol::error::WireError;
use sys::dir::Dir;

use super::{Layout, SwapError, io_error};

/// In the seed's directory: of which job it is. Only root can have put it there, since only root writes in that directory.
const WHOSE: &str = "job";
/// Longer than any mark.
const MARK_MAX: u64 = 64;

/// A seed's directory and what it lies in, open and proven.
#[derive(Debug)]
pub(crate) struct Held {
    root: Dir,
    /// The datadir where it is a mount point, else its parent.
    place: Dir,
    layout: Layout,
}

impl Held {
    /// Opens what a seed has; `None` where it has nothing.
    pub(super) fn of(layout: &Layout) -> Result<Option<Self>, SwapError> {
        let place = open_place(layout)?;
        let name = layout.root.file_name().unwrap_or_default();
        match place.dir(Path::new(name)) {
            Ok(root) => Self::proven(layout, place, root).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("open", &layout.root)(error)),
        }
    }

    /// Makes the seed's directory with the one for staging in it, or opens what an earlier run has made.
    pub(super) fn make(layout: &Layout) -> Result<Self, SwapError> {
        let place = open_place(layout)?;
        let name = Path::new(layout.root.file_name().unwrap_or_default());
        make_dir(&place, name).map_err(io_error("make", &layout.root))?;
        let root = place.dir(name).map_err(io_error("open", &layout.root))?;
        let held = Self::proven(layout, place, root)?;
        crashsafe::write(&through(&held.root).join(WHOSE), layout.job.to_string().as_bytes(), 0o600)
            .map_err(|_| SwapError::NotOurs(layout.root.clone()))?;
        make_dir(&held.root, Path::new("data")).map_err(io_error("make", &layout.staging()))?;
        held.place.sync().map_err(io_error("flush", held.place.path()))?;
        Ok(held)
    }

    /// A directory of root's in which only root writes and in which root wrote this job's name is the one that root made for it.
    fn proven(layout: &Layout, place: Dir, root: Dir) -> Result<Self, SwapError> {
        let held = Self { root, place, layout: layout.clone() };
        let whose = mark_at(&through(&held.root).join(WHOSE)).map_err(io_error("look at", &layout.root))?;
        // An agent that knew no such file has made it; then nothing of another job may be in it either.
        let is_this = whose.is_none_or(|whose| whose.is_ours && whose.text == layout.job.to_string());
        match held.root.is_ours_alone() {
            Ok(true) if is_this => Ok(held),
            _ => Err(SwapError::NotOurs(layout.root.clone())),
        }
    }

    /// The layout whose paths lead through the held directories, wherever they have been moved to.
    pub(crate) fn layout(&self) -> Layout {
        let datadir = match (self.layout.entrywise, self.layout.datadir.file_name()) {
            (false, Some(name)) => through(&self.place).join(name),
            _ => through(&self.place),
        };
        Layout { datadir, root: through(&self.root), held: true, ..self.layout.clone() }
    }

    /// The seed's directory.
    pub(crate) fn root(&self) -> &Dir {
        &self.root
    }

    /// A path to the staged tree for what this process does with it while this is held.
    pub(crate) fn staging(&self) -> PathBuf {
        self.layout().staging()
    }

    /// Which directory is the staged tree's top.
    pub(crate) fn staging_inode(&self) -> Result<u64, SwapError> {
        inode(&self.staging())
    }

    /// Removes all that the seed has.
    pub(super) fn remove(&self) -> Result<(), SwapError> {
        let remove = || -> io::Result<()> {
            for name in self.root.names()? {
                self.root.remove_all(Path::new(&name))?;
            }
            // Empty, or somebody's that it does no harm to keep.
            self.place.remove_dir(Path::new(self.layout.root.file_name().unwrap_or_default()))
        };
        remove().map_err(io_error("remove", &self.layout.root))
    }

    /// An error in the words of a person, who knows the paths by their names.
    pub(super) fn named(&self, error: SwapError) -> SwapError {
        match error {
            SwapError::Io { what, path, source } => {
                SwapError::Io { what, path: self.path_named(&path), source }
            }
            SwapError::Mark(crashsafe::Error { action, path, source }) => {
                SwapError::Mark(crashsafe::Error { action, path: self.path_named(&path), source })
            }
            other => other,
        }
    }

    /// As [`Held::named`], of what somebody else has found on the paths given out.
    pub(crate) fn in_words(&self, error: WireError) -> WireError {
        let named = |text: String| {
            let root = format!("{}/", through(&self.root).display());
            text.replace(&root, &format!("{}/", self.layout.root.display()))
        };
        let causes = error.causes.into_iter().map(named).collect();
        WireError { message: named(error.message), causes, ..error }
    }

    fn path_named(&self, path: &Path) -> PathBuf {
        let below =
            |dir: &Dir, named: &Path| path.strip_prefix(through(dir)).ok().map(|rest| named.join(rest));
        below(&self.root, &self.layout.root)
            .or_else(|| below(&self.place, self.place.path()))
            .unwrap_or_else(|| path.to_owned())
    }
}

/// A path that leads to that very directory as long as it is held.
fn through(dir: &Dir) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()))
}

/// What the seed's directory lies in. A datadir may be named by a link.
fn open_place(layout: &Layout) -> Result<Dir, SwapError> {
    let place = layout.root.parent().unwrap_or(Path::new("/"));
    fs::canonicalize(place).and_then(|real| Dir::open(&real)).map_err(io_error("open", place))
}

fn make_dir(dir: &Dir, name: &Path) -> io::Result<()> {
    match dir.make_dir(name, 0o700) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn inode(path: &Path) -> Result<u64, SwapError> {
    Ok(fs::symlink_metadata(path).map_err(io_error("look at", path))?.ino())
}

/// A small plain file that tells whose a directory is.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) text: String,
    /// Of this process's user or root's: who owns the directory could put anything in its place, but no such file.
    pub(super) is_ours: bool,
}

/// Reads a mark without following a link or waiting for a pipe; anything but a plain file is none.
pub(super) fn mark_at(path: &Path) -> io::Result<Option<Mark>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match File::options().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(MARK_MAX).read_to_end(&mut bytes)?;
    let is_ours = [0, nix::unistd::geteuid().as_raw()].contains(&meta.uid());
    Ok(Some(Mark { text: String::from_utf8_lossy(&bytes).into_owned(), is_ours }))
}
