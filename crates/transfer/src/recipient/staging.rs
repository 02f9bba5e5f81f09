//! The staging directory: where files are made, written and given their metadata. Nothing is opened outside of it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::AcqRel};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::sys::stat::{Mode, fchmod, futimens};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::sys::time::TimeSpec;
use sys::dir::Dir;

use super::staged::{Base, StagedFile};
use crate::manifest::{Entry, EntryKind};
use crate::{Error, Manifest, Result, cache};

/// Files from this size on get their space before they are written, in one piece if the disk has one.
const PREALLOCATE_MIN: u64 = 1 << 20;

/// What is here of an older tree, and what it is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Old<'a> {
    /// Nothing.
    None,
    /// Blocks of it that are equal do not travel.
    Compared(&'a Path),
    /// What the manifest does not move is taken from it.
    Rest(&'a Path),
}

/// The staging directory of one transfer.
pub(super) struct Staging {
    root: PathBuf,
    dir: Dir,
    /// Who owns what is made: `None` keeps the donor's numbers.
    owner: Option<(u32, u32)>,
    may_chown: bool,
    ours: (u32, u32),
    /// Large files get their space before they are written. Not on tmpfs, which has no order to gain and hands out page by page
    /// with the file locked.
    preallocates: bool,
    /// There may be leftovers of an earlier run.
    resumed: bool,
    chunk_size: u64,
    /// What is on disk may stay in the page cache too.
    stays_cached: bool,
    /// The recipient's old tree, to take equal blocks from.
    delta_base: Option<Dir>,
    /// The tree that the rest is taken from, where not all moves.
    rest: Option<Dir>,
    open: Mutex<HashMap<u32, Arc<StagedFile>>>,
}

impl Staging {
    /// Opens the directory, of this inode where one is given, and makes all directories of the tree in it.
    pub(super) fn prepare(
        root: &Path,
        inode: Option<u64>,
        manifest: &Manifest,
        owner: Option<(u32, u32)>,
        old: Old<'_>,
        stays_cached: bool,
        resumed: bool,
    ) -> Result<Self> {
        let dir = Dir::open(root).map_err(Error::file("open", root))?;
        if let Some(inode) = inode
            && dir.identity().map_err(Error::file("look at", root))?.inode != inode
        {
            let detail = "another directory is in its place than was made for this seed".to_owned();
            return Err(Error::Staging { path: root.to_owned(), detail });
        }
        let open_old = |path: &Path, opened: io::Result<Dir>| {
            opened.map(Some).map_err(Error::file("open the old tree", path))
        };
        let (delta_base, rest) = match old {
            Old::None => (None, None),
            // A datadir may be named by a link.
            Old::Compared(path) => {
                (open_old(path, path.canonicalize().and_then(|real| Dir::open(&real)))?, None)
            }
            Old::Rest(path) => (None, open_old(path, Dir::open(path))?),
        };
        let euid = nix::unistd::geteuid();
        let preallocates = fstatfs(&dir).is_ok_and(|stat| stat.filesystem_type() != TMPFS_MAGIC);
        let staging = Self {
            root: root.to_owned(),
            dir,
            owner,
            may_chown: euid.is_root(),
            ours: (euid.as_raw(), nix::unistd::getegid().as_raw()),
            preallocates,
            resumed,
            chunk_size: u64::from(manifest.chunk_size()),
            stays_cached,
            delta_base,
            rest,
            open: Mutex::default(),
        };
        for entry in manifest.iter().filter(|entry| entry.kind == EntryKind::Dir) {
            staging.make_dir(entry.path)?;
        }
        Ok(staging)
    }

    fn make_dir(&self, path: &Path) -> Result<()> {
        match self.dir.make_dir(path, 0o700) {
            // A link in its place is refused by the open.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.dir.dir(path).map(drop).map_err(Error::file("use the directory", self.root.join(path)))
            }
            made => made.map_err(Error::file("make the directory", self.root.join(path))),
        }
    }

    /// Free bytes on the filesystem.
    pub(super) fn free_bytes(&self) -> Result<u64> {
        let stat = nix::sys::statvfs::fstatvfs(&self.dir).map_err(io::Error::from);
        let stat = stat.map_err(Error::file("ask for free space on", &self.root))?;
        Ok(stat.blocks_available() * stat.fragment_size())
    }

    /// The file of an entry, made or opened on first use. `left`: its chunks that are not proven.
    pub(super) fn file(
        &self,
        index: u32,
        entry: &Entry<'_>,
        left: impl FnOnce() -> u32,
    ) -> Result<Arc<StagedFile>> {
        if entry.chunks == 1 {
            return Ok(Arc::new(self.open_file(index, entry, 1)?));
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&index) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.open_file(index, entry, left())?);
        open.insert(index, Arc::clone(&file));
        Ok(file)
    }

    fn open_file(&self, index: u32, entry: &Entry<'_>, left: u32) -> Result<StagedFile> {
        let path = self.root.join(entry.path);
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NONBLOCK;
        let file = self
            .dir
            .open_below(entry.path, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(Error::file("create", &path))?;
        let sparse = entry.is_sparse();
        let base = match entry.is_part() {
            true => self.take_rest(entry, &file, left).map_err(Error::file("take the rest of", &path))?,
            false => self.base_of(entry, &file),
        };
        let is_clone = matches!(base, Base::Own);
        let shape = || -> io::Result<()> {
            if self.resumed {
                let meta = file.metadata()?;
                if !meta.is_file() || meta.nlink() != 1 {
                    return Err(io::Error::other("something else is in its place"));
                }
                if meta.len() > entry.size {
                    file.set_len(entry.size)?;
                }
            }
            if sparse || is_clone {
                file.set_len(entry.size)?;
            } else if self.preallocates && entry.size >= PREALLOCATE_MIN {
                match fallocate(&file, FallocateFlags::empty(), 0, entry.size.cast_signed()) {
                    Ok(()) => {}
                    Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => file.set_len(entry.size)?,
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        };
        shape().map_err(Error::file("make room for", &path))?;
        let file = StagedFile { file, entry: index, path, sparse, base, left: AtomicU32::new(left) };
        if sparse && !entry.is_part() && (is_clone || self.resumed) {
            self.clear_holes(&file, entry)?;
        }
        Ok(file)
    }

    /// Makes the chunks that do not travel read as zeros, where an old file or an earlier run may have left something else.
    fn clear_holes(&self, file: &StagedFile, entry: &Entry<'_>) -> Result<()> {
        let mut nth = 0;
        while nth < entry.chunks {
            let first = nth;
            while nth < entry.chunks && !entry.has_data(nth) {
                nth += 1;
            }
            let (start, end) = (u64::from(first) * self.chunk_size, u64::from(nth) * self.chunk_size);
            file.zero(start, end.min(entry.size) - start)
                .map_err(Error::file("clear a range of", &file.path))?;
            nth += 1;
        }
        Ok(())
    }

    /// Begins a file of which a part moves as the one that the rest is taken from. What an earlier run has left of it is not
    /// believed, unless something of it is proven: then all that came before is on the disk.
    fn take_rest(&self, entry: &Entry<'_>, file: &File, left: u32) -> io::Result<Base> {
        if left < entry.chunks {
            return Ok(Base::Own);
        }
        let rest = self.rest.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let mut old = rest.open_below(entry.path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty())?;
        file.set_len(0)?;
        if sys::file::share_blocks(&old, file).is_err() {
            io::copy(&mut old, &mut &*file)?;
        }
        Ok(Base::Own)
    }

    /// What a delta may take from: files of several chunks that the old tree has under the same path.
    fn base_of(&self, entry: &Entry<'_>, file: &File) -> Base {
        let travels = || (0..entry.chunks).any(|nth| entry.has_data(nth));
        let Some(dir) = self.delta_base.as_ref().filter(|_| entry.chunks > 1 && travels()) else {
            return Base::None;
        };
        let Ok(old) = dir.open_below(entry.path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()) else {
            return Base::None;
        };
        if !old.metadata().is_ok_and(|meta| meta.is_file()) {
            return Base::None;
        }
        // What an earlier run has begun is not cloned over: it may hold proven chunks.
        let is_new = file.metadata().is_ok_and(|meta| meta.len() == 0);
        if is_new && sys::file::share_blocks(&old, file).is_ok() {
            return Base::Own;
        }
        cache::read_no_further(&old);
        Base::Other(old)
    }

    /// Notes that one more chunk of the file is proven; with the last one it gets its metadata and is closed. `true`: complete.
    pub(super) fn chunk_proven(&self, file: &Arc<StagedFile>, entry: &Entry<'_>) -> Result<bool> {
        if file.left.fetch_sub(1, AcqRel) != 1 {
            return Ok(false);
        }
        if entry.chunks > 1 {
            self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&file.entry);
            if let Base::Other(old) = &file.base {
                self.let_go(old, &(0..i64::MAX.cast_unsigned()));
            }
        }
        self.dress_file(&file.file, entry)
            .map_err(Error::file("set owner, mode and times of", &file.path))?;
        Ok(true)
    }

    /// Mode, owner and time of a complete file.
    fn dress_file(&self, file: &File, entry: &Entry<'_>) -> io::Result<()> {
        if let Some((uid, gid)) = self.owner_of(entry) {
            std::os::unix::fs::fchown(file, Some(uid), Some(gid))?;
        }
        if self.resumed || entry.mode & 0o777 != 0o600 {
            fchmod(file, Mode::from_bits_truncate(entry.mode & 0o777))?;
        }
        futimens(file, &TimeSpec::UTIME_OMIT, &mtime(entry))?;
        Ok(())
    }

    fn owner_of(&self, entry: &Entry<'_>) -> Option<(u32, u32)> {
        let owner = self.owner.unwrap_or((entry.uid, entry.gid));
        (self.may_chown && owner != self.ours).then_some(owner)
    }

    /// Whether a proven file is there with its full size, and which bytes it holds; `None` when not.
    pub(super) fn open_proven(&self, entry: &Entry<'_>) -> Option<File> {
        let file =
            self.dir.open_below(entry.path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()).ok()?;
        let meta = file.metadata().ok()?;
        (meta.is_file() && meta.nlink() == 1 && meta.len() == entry.size).then_some(file)
    }

    /// Opens a file to read what is proven of it.
    pub(super) fn open_to_read(&self, entry: &Entry<'_>) -> Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let opened = self.dir.open_below(entry.path, flags, Mode::empty());
        opened.map_err(Error::file("read again", self.root.join(entry.path)))
    }

    /// Opens a file again to flush it.
    pub(super) fn flush_file(&self, entry: &Entry<'_>) -> Result<()> {
        let opened = self.dir.open_below(entry.path, OFlag::O_RDONLY, Mode::empty());
        opened.and_then(|file| file.sync_data()).map_err(Error::file("flush", self.root.join(entry.path)))
    }

    /// Lets go of what was read or is on disk, unless it may stay in the page cache.
    pub(super) fn let_go(&self, file: &File, range: &Range<u64>) {
        if !self.stays_cached {
            cache::let_go_behind(file, range);
        }
    }

    /// As [`Staging::let_go`], of a file that is closed.
    pub(super) fn let_go_of(&self, entry: &Entry<'_>, ranges: impl Iterator<Item = Range<u64>>) {
        if self.stays_cached {
            return;
        }
        if let Ok(file) = self.dir.open_below(entry.path, OFlag::O_RDONLY, Mode::empty()) {
            ranges.for_each(|range| cache::let_go_behind(&file, &range));
        }
    }

    /// Has everything on the filesystem written to disk.
    pub(super) fn flush_all(&self) -> Result<()> {
        nix::unistd::syncfs(&self.dir).map_err(io::Error::from).map_err(Error::file("flush", &self.root))
    }

    /// After the last chunk: files without content, links, and the metadata of what earlier runs made and of directories.
    pub(super) fn complete(&self, manifest: &Manifest) -> Result<()> {
        for entry in manifest.iter() {
            let path = || self.root.join(entry.path);
            match entry.kind {
                EntryKind::Dir => {}
                EntryKind::Link => self.make_link(&entry).map_err(Error::file("make the link", path()))?,
                EntryKind::File => {
                    let has_chunks = (0..entry.chunks).any(|nth| entry.has_data(nth));
                    if !has_chunks || self.resumed {
                        let file = self.open_file(0, &entry, 0)?;
                        file.file.set_len(entry.size).map_err(Error::file("make", path()))?;
                        self.dress_file(&file.file, &entry)
                            .map_err(Error::file("set owner, mode and times of", path()))?;
                    }
                }
            }
        }
        if self.resumed {
            self.remove_strangers(manifest)?;
        }
        // Children before parents: making a child changes its parent's time.
        for index in (0..manifest.len() as u32).rev() {
            let entry = manifest.entry(index);
            if entry.kind == EntryKind::Dir {
                self.dress_dir(&entry)
                    .map_err(Error::file("set owner, mode and times of", self.root.join(entry.path)))?;
            }
        }
        Ok(())
    }

    fn make_link(&self, entry: &Entry<'_>) -> io::Result<()> {
        let target = entry.target.unwrap_or(Path::new(""));
        match self.dir.remove_file(entry.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => self.dir.make_link(entry.path, target)?,
        }
        if let Some((uid, gid)) = self.owner_of(entry) {
            self.dir.give(entry.path, uid, gid)?;
        }
        self.dir.set_modified(entry.path, &mtime(entry))
    }

    /// Fails when the path of staging leads elsewhere by now.
    pub(super) fn is_in_its_place(&self) -> Result<()> {
        self.dir
            .is_in_its_place()
            .map_err(|why| Error::Staging { path: self.root.clone(), detail: why.to_string() })
    }

    fn dress_dir(&self, entry: &Entry<'_>) -> io::Result<()> {
        let dir = self.dir.open_below(entry.path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
        if let Some((uid, gid)) = self.owner_of(entry) {
            std::os::unix::fs::fchown(&dir, Some(uid), Some(gid))?;
        }
        fchmod(&dir, Mode::from_bits_truncate(entry.mode & 0o3777))?;
        futimens(&dir, &TimeSpec::UTIME_OMIT, &mtime(entry))?;
        Ok(())
    }

    /// Removes what an earlier run about another tree left behind.
    fn remove_strangers(&self, manifest: &Manifest) -> Result<()> {
        let known: std::collections::HashSet<&Path> = manifest.iter().map(|entry| entry.path).collect();
        let mut dirs = vec![PathBuf::new()];
        while let Some(relative) = dirs.pop() {
            let full = self.root.join(&relative);
            let opened;
            let dir = if relative.as_os_str().is_empty() {
                &self.dir
            } else {
                opened = self.dir.dir(&relative).map_err(Error::file("open", &full))?;
                &opened
            };
            for name in dir.names().map_err(Error::file("list", &full))? {
                let path = relative.join(&name);
                if !known.contains(path.as_path()) {
                    dir.remove_all(Path::new(&name))
                        .map_err(Error::file("remove what an earlier seed left:", full.join(&name)))?;
                } else if self.dir.dir(&path).is_ok() {
                    dirs.push(path);
                }
            }
        }
        Ok(())
    }

    /// Whether leftovers of an earlier run may lie under what is written now.
    pub(super) fn is_resumed(&self) -> bool {
        self.resumed
    }
}

fn mtime(entry: &Entry<'_>) -> TimeSpec {
    TimeSpec::new(entry.mtime.0, i64::from(entry.mtime.1))
}
