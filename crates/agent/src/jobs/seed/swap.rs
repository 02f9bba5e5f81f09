//! Puts the staged tree in the datadir's place and back again, so that a crash at any point leaves a state from
//! which either direction can be finished.
//!
//! Where the datadir is an ordinary directory, staging lies beside it and one `renameat2(RENAME_EXCHANGE)` swaps the
//! two. Where it is a mount point it cannot be renamed: staging lies inside it and the entries move one by one, led
//! by a phase file. Both need one file system, which [`Layout::of`] proves.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use job::crashsafe;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use protocol::ids::JobId;
use sys::dir::{Dir, Rights};

pub(crate) use self::held::Held;
use self::held::{inode, mark_at};
use self::phase::Phase;

#[cfg(test)]
mod attack_tests;
mod bases;
mod held;
mod phase;

const MARKER: &str = ".orch-seed-job";
const PREFIX: &str = ".orch-seed-";
/// Where entries lie that are of neither tree.
const STRAYS: &str = "strays";
/// What the old tree consists of.
const OLD: &str = "old-entries";
/// What the new tree consists of.
const NEW: &str = "new-entries";
/// Which directory is the new tree's top, where it is exchanged as a whole.
const TOP: &str = "new-top";

/// Why a swap could not be made or taken back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SwapError {
    /// The datadir is no absolute path with a parent.
    #[error("{0} cannot be a datadir: it must be an absolute path below another directory")]
    NoParent(PathBuf),
    /// The mark or the phase of the swap cannot be kept.
    #[error("the state of the swap cannot be kept")]
    Mark(#[from] crashsafe::Error),
    /// What is mounted has changed since the seed began.
    #[error("{0} is not laid out as it was when the seed began: is its file system mounted?")]
    OtherLayout(PathBuf),
    /// Somebody else's directory is where this seed's was made.
    #[error(
        "{0} is not the directory that this seed made: who may write beside it has put another in its place"
    )]
    NotOurs(PathBuf),
    /// What was swapped in is no longer there, or not whole.
    #[error("{0} is not the tree that was proven: it was exchanged in the middle of the swap")]
    NotProven(PathBuf),
    /// A system call failed.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried, for example `move`.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Where the parts of one seed lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    datadir: PathBuf,
    /// Everything of this seed on the recipient's file system; removing it removes all traces.
    root: PathBuf,
    entrywise: bool,
    job: JobId,
    /// The paths lead through directories that are held.
    held: bool,
}

impl Layout {
    /// The layout for `datadir`, which may be absent yet. Looks at the file system, changes nothing.
    pub(crate) fn of(datadir: &Path, job: JobId) -> Result<Self, SwapError> {
        let no_parent = || SwapError::NoParent(datadir.to_owned());
        let parent = datadir.parent().filter(|_| datadir.is_absolute()).ok_or_else(no_parent)?;
        let name = datadir.file_name().ok_or_else(no_parent)?;
        let parent_device = fs::metadata(parent).map_err(io_error("look at", parent))?.dev();
        let entrywise = match fs::metadata(datadir) {
            Ok(meta) => meta.dev() != parent_device,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(io_error("look at", datadir)(error)),
        };
        let root = if entrywise {
            datadir.join(format!("{PREFIX}{job}"))
        } else {
            parent.join(format!("{PREFIX}{job}.{}", name.to_string_lossy()))
        };
        Ok(Self { datadir: datadir.to_owned(), root, entrywise, job, held: false })
    }

    /// As [`Layout::of`], for a seed that began when the datadir was, or was not, a mount point. A file system that is not mounted
    /// after a crash must not be taken for a datadir beside which nothing lies.
    pub(crate) fn as_begun(datadir: &Path, job: JobId, entrywise: Option<bool>) -> Result<Self, SwapError> {
        let layout = Self::of(datadir, job)?;
        match entrywise {
            Some(begun) if begun != layout.entrywise => Err(SwapError::OtherLayout(datadir.to_owned())),
            _ => Ok(layout),
        }
    }

    /// Holds the directories of this seed.
    pub(crate) fn hold(&self) -> Result<Held, SwapError> {
        let gone = || io_error("open", &self.root)(io::ErrorKind::NotFound.into());
        Held::of(self)?.ok_or_else(gone)
    }

    /// Acts in the held directories; where the seed has none, on what there is.
    fn on_held<T>(&self, act: impl FnOnce(&Self) -> Result<T, SwapError>) -> Result<T, SwapError> {
        if self.held {
            return act(self);
        }
        match Held::of(self)? {
            Some(held) => act(&held.layout()).map_err(|error| held.named(error)),
            None => act(self),
        }
    }

    /// Whether the entries of the datadir move one by one.
    pub(crate) fn is_entrywise(&self) -> bool {
        self.entrywise
    }

    /// What lay in the datadir in the middle of the swap and is of neither tree: made by a server that something had started.
    pub(crate) fn strays(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.root.join(STRAYS)).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// Whether anything of this seed is on the recipient's file system, beside the new tree in the datadir's place.
    pub(crate) fn exists(&self) -> bool {
        self.root.exists()
    }

    /// Whether part of the old tree may lie here, so that nothing of this may be removed.
    pub(crate) fn holds_old(&self) -> Result<bool, SwapError> {
        self.on_held(|held| {
            Ok(if held.entrywise { held.phase()? != Phase::Staged } else { held.is_swapped()? })
        })
    }

    /// The directory with everything of this seed.
    #[must_use]
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the new tree is received.
    #[must_use]
    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Where the old tree lies after the swap.
    #[must_use]
    pub(crate) fn old(&self) -> PathBuf {
        if self.entrywise { self.root.join("old") } else { self.staging() }
    }

    /// Makes the staging directory, readable for its owner only until it is in place.
    pub(crate) fn prepare(&self) -> Result<(), SwapError> {
        Held::make(self).map(drop)
    }

    /// Lets a server's user through to staging, which has a datadir's own mode by then, and to nothing else.
    pub(crate) fn let_through(&self) -> Result<(), SwapError> {
        let through = |held: &Self| Dir::open(&held.root)?.set_mode(0o711);
        self.on_held(|held| through(held).map_err(io_error("set the mode of", &self.root)))
    }

    /// Whether the new tree is in the datadir's place.
    pub(crate) fn is_swapped(&self) -> Result<bool, SwapError> {
        self.on_held(
            |held| if held.entrywise { Ok(held.phase()? == Phase::Swapped) } else { held.is_on_top() },
        )
    }

    /// Whether what lies in the datadir's place now is this seed's tree, and not that of a later one.
    pub(crate) fn is_on_top(&self) -> Result<bool, SwapError> {
        self.on_held(|held| {
            let marker = held.datadir.join(MARKER);
            match mark_at(&marker).map_err(io_error("read", &marker))? {
                Some(mark) if mark.text == held.job.to_string() => Ok(match held.top()? {
                    Some(top) => inode(&held.datadir)? == top,
                    // The datadir's owner can write any mark, but none of root's.
                    None => held.entrywise || mark.is_ours,
                }),
                _ => Ok(false),
            }
        })
    }

    /// Which directory was to be put in the datadir's place.
    fn top(&self) -> Result<Option<u64>, SwapError> {
        let path = self.root.join(TOP);
        let mark = mark_at(&path).map_err(io_error("read", &path))?;
        Ok(mark.and_then(|mark| mark.text.parse().ok()))
    }

    /// Puts the staged tree in place; does nothing when it is there.
    pub(crate) fn swap(&self) -> Result<(), SwapError> {
        self.on_held(Self::swap_held)
    }

    fn swap_held(&self) -> Result<(), SwapError> {
        if self.entrywise {
            return self.swap_entries();
        }
        if self.is_swapped()? {
            return Ok(());
        }
        self.mark()?;
        let top = inode(&self.staging())?;
        crashsafe::write(&self.root.join(TOP), top.to_string().as_bytes(), 0o600)?;
        self.exchange()?;
        if inode(&self.datadir)? == top { Ok(()) } else { Err(SwapError::NotProven(self.datadir.clone())) }
    }

    /// The mark travels with the new tree.
    fn mark(&self) -> Result<(), SwapError> {
        let mark = || {
            let staging = Dir::open(&self.staging())?;
            staging.write(Path::new(MARKER), self.job.to_string().as_bytes(), Rights::own(0o600))?;
            staging.sync()
        };
        mark().map_err(io_error("mark", &self.staging()))
    }

    /// Puts the old tree back; does nothing when it is there.
    pub(crate) fn swap_back(&self) -> Result<(), SwapError> {
        self.on_held(Self::swap_back_held)
    }

    fn swap_back_held(&self) -> Result<(), SwapError> {
        if self.entrywise {
            return self.swap_entries_back();
        }
        if !self.is_swapped()? {
            return Ok(());
        }
        // Without an old tree (the datadir was absent before) there is nothing to exchange with.
        if self.staging().exists() { self.exchange() } else { self.rename(&self.datadir, &self.staging()) }
    }

    /// Removes the mark of this seed's swap from the datadir, once there is no way back; never that of a later seed.
    pub(crate) fn remove_marker(&self) -> Result<(), SwapError> {
        if !self.is_on_top()? {
            return Ok(());
        }
        self.take_marker_away()
    }

    /// Removes the marker of an earlier seed whose old tree is gone: nobody asks for it any more.
    pub(crate) fn remove_marker_but_of(&self, kept: &[JobId]) -> Result<(), SwapError> {
        let marker = self.datadir.join(MARKER);
        match mark_at(&marker).map_err(io_error("read", &marker))? {
            Some(mark) if !kept.iter().any(|job| mark.text == job.to_string()) => self.take_marker_away(),
            _ => Ok(()),
        }
    }

    fn take_marker_away(&self) -> Result<(), SwapError> {
        let removed = Dir::open(&self.datadir).and_then(|datadir| datadir.remove(Path::new(MARKER)));
        removed.map(drop).map_err(io_error("remove", &self.datadir.join(MARKER)))
    }

    /// Removes everything of this seed but the tree in the datadir's place. Slow for a large tree.
    pub(crate) fn remove(&self) -> Result<(), SwapError> {
        Held::of(self)?.map_or(Ok(()), |held| held.remove())
    }

    fn exchange(&self) -> Result<(), SwapError> {
        if !self.datadir.exists() {
            return self.rename(&self.staging(), &self.datadir);
        }
        self.renameat2(&self.staging(), &self.datadir, RenameFlags::RENAME_EXCHANGE)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), SwapError> {
        self.renameat2(from, to, RenameFlags::RENAME_NOREPLACE)
    }

    fn renameat2(&self, from: &Path, to: &Path, flags: RenameFlags) -> Result<(), SwapError> {
        renameat2(AT_FDCWD, from, AT_FDCWD, to, flags)
            .map_err(|errno| io_error("swap in", &self.datadir)(errno.into()))?;
        sync_dir(&self.root)?;
        sync_dir(self.datadir.parent().unwrap_or(Path::new("/")))
    }

    fn swap_entries(&self) -> Result<(), SwapError> {
        if self.phase()? == Phase::Staged {
            make_dir(&self.old())?;
            self.mark()?;
            self.record(OLD, &self.datadir)?;
            self.record(NEW, &self.staging())?;
            self.enter(Phase::OldOut)?;
        }
        if self.phase()? == Phase::OldOut {
            self.set_strangers_aside(OLD)?;
            self.move_entries(&self.datadir, &self.old())?;
            self.enter(Phase::NewIn)?;
        }
        if self.phase()? == Phase::NewIn {
            self.set_strangers_aside(NEW)?;
            self.move_entries(&self.staging(), &self.datadir)?;
            self.prove_all_there()?;
            self.enter(Phase::Swapped)?;
        }
        Ok(())
    }

    fn swap_entries_back(&self) -> Result<(), SwapError> {
        // A server has run on the whole new tree, and what it made there is the tree's; on a part of it none may have.
        if self.phase()? == Phase::NewIn {
            self.set_strangers_aside(NEW)?;
        }
        if matches!(self.phase()?, Phase::NewIn | Phase::Swapped) {
            self.enter(Phase::NewOut)?;
        }
        if self.phase()? == Phase::NewOut {
            self.move_entries(&self.datadir, &self.staging())?;
            self.enter(Phase::OldIn)?;
        }
        if matches!(self.phase()?, Phase::OldOut | Phase::OldIn) {
            self.enter(Phase::OldIn)?;
            self.set_strangers_aside(OLD)?;
            self.move_entries(&self.old(), &self.datadir)?;
            self.enter(Phase::Staged)?;
        }
        Ok(())
    }

    /// Remembers what a tree consists of, by name and inode, before its entries move.
    fn record(&self, tree: &str, path: &Path) -> Result<(), SwapError> {
        let mut known = String::new();
        for name in entries(path)? {
            let inode = inode(&path.join(&name))?;
            known.push_str(&format!("{inode}\t{}\n", name.to_string_lossy()));
        }
        Ok(crashsafe::write(&self.root.join(tree), known.as_bytes(), 0o600)?)
    }

    /// Fails unless every entry of the new tree is in the datadir, by its inode.
    fn prove_all_there(&self) -> Result<(), SwapError> {
        let known = fs::read_to_string(self.root.join(NEW)).unwrap_or_default();
        let there: Result<HashSet<u64>, SwapError> =
            entries(&self.datadir)?.iter().map(|name| inode(&self.datadir.join(name))).collect();
        let there = there?;
        // A name may hold a line end: what does not begin with a number is the rest of one.
        let mut inodes = known.lines().filter_map(|line| line.split_once('\t')?.0.parse().ok());
        if inodes.all(|inode: u64| there.contains(&inode)) {
            Ok(())
        } else {
            Err(SwapError::NotProven(self.datadir.clone()))
        }
    }

    /// Takes out of the datadir what is not of the tree that may lie there in part.
    fn set_strangers_aside(&self, tree: &str) -> Result<(), SwapError> {
        let path = self.root.join(tree);
        let known = match fs::read_to_string(&path) {
            Ok(known) => known,
            // The swap was begun by an agent that kept no record.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let known: HashSet<&str> = known.lines().collect();
        for name in entries(&self.datadir)? {
            let inode = inode(&self.datadir.join(&name))?;
            if !known.contains(format!("{inode}\t{}", name.to_string_lossy()).as_str()) {
                self.set_aside(&name)?;
            }
        }
        Ok(())
    }

    /// Moves one entry of the datadir to where it is in nobody's way and lost to nobody.
    fn set_aside(&self, name: &OsStr) -> Result<(), SwapError> {
        let strays = self.root.join(STRAYS);
        make_dir(&strays)?;
        let from = self.datadir.join(name);
        for n in 0..u32::MAX {
            let mut to = name.to_owned();
            to.push(if n == 0 { String::new() } else { format!(".{n}") });
            match rename_if_free(&from, &strays.join(&to)) {
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(io_error("set aside", &from)(error.into())),
                Ok(()) => {
                    let aside = strays.join(to);
                    tracing::warn!(from = %from.display(), to = %aside.display(), "made in the datadir in the middle of its swap; set aside");
                    break;
                }
            }
        }
        sync_dir(&strays)
    }

    /// Moves all entries of one directory to another, of which one is the datadir, and never onto something else.
    fn move_entries(&self, from: &Path, to: &Path) -> Result<(), SwapError> {
        for name in entries(from)? {
            let failed = |error: Errno| io_error("move", &from.join(&name))(error.into());
            match rename_if_free(&from.join(&name), &to.join(&name)) {
                Ok(()) => {}
                Err(Errno::EEXIST) => {
                    self.set_aside(&name)?;
                    if to == self.datadir {
                        rename_if_free(&from.join(&name), &to.join(&name)).map_err(failed)?;
                    }
                }
                Err(error) => return Err(failed(error)),
            }
        }
        sync_dir(from)?;
        sync_dir(to)
    }

    fn phase(&self) -> Result<Phase, SwapError> {
        let path = self.root.join("phase");
        match fs::read_to_string(&path) {
            Ok(text) => Phase::parse(&text).ok_or_else(|| {
                io_error("understand", &path)(io::Error::new(io::ErrorKind::InvalidData, "unknown phase"))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Phase::Staged),
            Err(error) => Err(io_error("read", &path)(error)),
        }
    }

    fn enter(&self, phase: Phase) -> Result<(), SwapError> {
        Ok(crashsafe::write(&self.root.join("phase"), phase.as_str().as_bytes(), 0o600)?)
    }
}

/// Roots of seeds that lie beside or inside `datadir`, with their jobs: what a crash may have left behind.
pub(crate) fn leftovers(datadir: &Path) -> Vec<(PathBuf, JobId)> {
    let mut found = Vec::new();
    for directory in [Some(datadir), datadir.parent()].into_iter().flatten() {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
            let id = rest.split('.').next().unwrap_or(rest);
            if let Ok(job) = id.parse() {
                found.push((entry.path(), job));
            }
        }
    }
    found
}

/// Every entry, the mark included, but our own roots and the file system's `lost+found`.
fn entries(path: &Path) -> Result<Vec<OsString>, SwapError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(io_error("list", path))? {
        let name = entry.map_err(io_error("list", path))?.file_name();
        let is_root = name != MARKER && name.to_str().is_some_and(|name| name.starts_with(PREFIX));
        if name != "lost+found" && !is_root {
            found.push(name);
        }
    }
    Ok(found)
}

fn rename_if_free(from: &Path, to: &Path) -> Result<(), Errno> {
    renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE)
}

fn make_dir(path: &Path) -> Result<(), SwapError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io_error("make", path)(error)),
        _ => Ok(()),
    }
}

fn sync_dir(path: &Path) -> Result<(), SwapError> {
    fs::File::open(path).and_then(|dir| dir.sync_all()).map_err(io_error("flush", path))
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SwapError {
    move |source| SwapError::Io { what, path: path.to_owned(), source }
}

#[cfg(test)]
#[path = "swap_tests.rs"]
mod tests;
