//! The donor's tree: opened without following links, and watched for being another tree than the one promised.

use std::fs::{self, File};
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use nix::sys::stat::Mode;

use super::shelf::{Part, Reader, Shelf};
use sys::dir::open_below;

use crate::innodb_page::{self, Format};
use crate::manifest::Entry;
use crate::{Error, Result, cache, kernel};

/// What was read this far behind the reader is let go from the page cache: nearer pages may still be on their way to the socket.
const DROP_BEHIND: u64 = 16 << 20;

/// Whether a file is in the page cache is judged by its first bytes: asking costs time per page.
const CACHE_SAMPLE: u64 = 8 << 20;

/// The root of the tree.
pub(crate) struct Source {
    root: PathBuf,
    dir: OwnedFd,
    identity: (u64, u64),
    shelf: Arc<Shelf>,
}

/// A file of the tree, as one connection reads it.
pub(crate) struct SourceFile {
    file: Arc<File>,
    pub(crate) entry: u32,
    path: PathBuf,
    inode: u64,
    size: u64,
    /// It has one chunk at most, and is kept for other readers as a whole.
    is_small: bool,
    opened_as: Stamp,
    /// How its pages are checked, if it is a tablespace.
    format: Option<Format>,
    /// What was read and is to be let go from the page cache; `None` when the file was cached before and stays so.
    behind: Option<Range<u64>>,
}

/// What changes when a file is written to.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Source {
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let dir = File::open(root).map_err(Error::file("open", root))?;
        let meta = dir.metadata().map_err(Error::file("read", root))?;
        if !meta.is_dir() {
            return Err(Error::Unfit { path: root.to_owned(), detail: "it is not a directory" });
        }
        Ok(Self {
            root: root.to_owned(),
            dir: dir.into(),
            identity: (meta.dev(), meta.ino()),
            shelf: Shelf::of((meta.dev(), meta.ino())),
        })
    }

    /// Device and inode of the root.
    pub(super) fn root(&self) -> (u64, u64) {
        self.identity
    }

    /// A place for a connection of this recipient among the readers of the tree.
    pub(super) fn reader(&self, recipient: [u8; 16]) -> Reader {
        self.shelf.reader(recipient)
    }

    /// Fails when the path no longer leads to the tree that was opened: unmounted, or mounted anew.
    pub(crate) fn check_identity(&self) -> Result<()> {
        let meta = fs::metadata(&self.root).map_err(Error::file("find again", &self.root))?;
        if (meta.dev(), meta.ino()) == self.identity {
            return Ok(());
        }
        Err(Error::SourceChanged {
            path: self.root.clone(),
            detail: "another filesystem or directory is there now; was the snapshot unmounted?".to_owned(),
        })
    }

    /// Opens a file and makes sure that it is still the one in the manifest.
    pub(crate) fn open_file(&self, index: u32, entry: &Entry<'_>) -> Result<SourceFile> {
        let path = self.root.join(entry.path);
        let flags = OFlag::O_RDONLY | OFlag::O_NOATIME;
        let file = open_below(self.dir.as_fd(), entry.path, flags, Mode::empty())
            .or_else(|error| match error.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    open_below(self.dir.as_fd(), entry.path, OFlag::O_RDONLY, Mode::empty())
                }
                _ => Err(error),
            })
            .map_err(Error::file("open", &path))?;
        let meta = file.metadata().map_err(Error::file("read", &path))?;
        if !meta.is_file()
            || meta.len() != entry.size
            || (meta.mtime(), meta.mtime_nsec() as u32) != entry.mtime
        {
            let detail = format!(
                "{} bytes were promised, {} are there, or its time of modification differs",
                entry.size,
                meta.len()
            );
            return Err(Error::SourceChanged { path, detail });
        }
        let was_cached = self.was_cached(meta.ino(), entry, &file);
        if entry.is_part() {
            cache::read_no_further(&file);
        } else if entry.chunks > 1 {
            let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
        }
        Ok(SourceFile {
            file: Arc::new(file),
            entry: index,
            path,
            inode: meta.ino(),
            size: entry.size,
            is_small: entry.chunks <= 1,
            opened_as: Stamp::of(&meta),
            format: None,
            behind: (!was_cached).then_some(0..0),
        })
    }
}

impl Source {
    fn was_cached(&self, inode: u64, entry: &Entry<'_>, file: &File) -> bool {
        let sample = entry.size.min(CACHE_SAMPLE);
        let is_cached = || kernel::cached_pages(file, sample).is_some_and(|pages| pages * 4096 * 2 > sample);
        self.shelf.was_cached(inode, is_cached)
    }
}

impl SourceFile {
    /// Reads exactly `buffer.len()` bytes; a file that ends before is no longer the one in the manifest.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => return Err(self.is_short(offset + done as u64)),
                Ok(len) => done += len,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::file("read", &self.path)(error)),
            }
        }
        Ok(())
    }

    /// Has the pages of the file checked, if it is one of InnoDB's tablespaces.
    pub(crate) fn check_pages(&mut self) {
        let mut head = [0; innodb_page::HEAD_LEN];
        if innodb_page::is_tablespace(&self.path) && self.file.read_exact_at(&mut head, 0).is_ok() {
            self.format = Format::of(&head);
        }
    }

    /// The first page in `piece`, which was read at `offset`, from number `from` on, whose checksum is wrong.
    pub(crate) fn bad_page(&self, piece: &[u8], offset: u64, from: u64) -> Option<u64> {
        let format = self.format?;
        // A part of a file may begin in the middle of a page that is larger than what is compared.
        let first = offset.div_ceil(format.page_size as u64);
        let skipped = (first * format.page_size as u64 - offset) as usize;
        let pages = piece.get(skipped..).unwrap_or_default().chunks_exact(format.page_size).enumerate();
        pages
            .map(|(nth, page)| (first + nth as u64, page))
            .find(|(number, page)| *number >= from && !format.is_good(page, *number))
            .map(|(number, _)| number)
    }

    fn is_short(&self, offset: u64) -> Error {
        let detail = format!("it ends at {offset} bytes, {} were promised", self.size);
        Error::SourceChanged { path: self.path.clone(), detail }
    }

    /// Has the kernel read on while this range is on its way.
    pub(crate) fn read_ahead(&self, range: &Range<u64>) {
        cache::read_soon(&self.file, range);
    }

    /// Notes that a range was read, and lets go of what was read well before it, so that a seed does not push out what the host
    /// works with. Where other recipients read the same tree, what is near them stays until they have read it.
    pub(super) fn drop_behind(&mut self, read: Range<u64>, reader: &Reader) {
        let Some(mut behind) = self.behind.take() else { return };
        if self.is_small {
            let stays = reader.passed_small(self.inode, read.end - read.start);
            self.behind = (!stays).then_some(read);
            return;
        }
        if reader.passed(&self.part(read.clone())) {
            self.behind = Some(behind);
            return;
        }
        if read.start != behind.end {
            self.let_go(&behind);
            behind.start = read.start;
        }
        behind.end = read.end;
        if behind.end - behind.start >= 2 * DROP_BEHIND {
            let from = behind.end - DROP_BEHIND;
            self.let_go(&(behind.start..from));
            behind.start = from;
        }
        self.behind = Some(behind);
    }

    fn part(&self, range: Range<u64>) -> Part {
        Part { file: Arc::clone(&self.file), inode: self.inode, range }
    }

    fn let_go(&self, range: &Range<u64>) {
        cache::let_go_behind(&self.file, range);
    }

    /// Fails when the file was written to since it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        let meta = self.file.metadata().map_err(Error::file("read", &self.path))?;
        if Stamp::of(&meta) == self.opened_as {
            return Ok(());
        }
        Err(Error::SourceChanged {
            path: self.path.clone(),
            detail: "it was written to while it was read".to_owned(),
        })
    }

    /// To be called after the last read: fails when the file was written to meanwhile.
    pub(crate) fn finish(self) -> Result<()> {
        self.check_unchanged()
    }
}

impl Drop for SourceFile {
    fn drop(&mut self) {
        if let Some(behind) = self.behind.take() {
            self.let_go(&behind);
        }
    }
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            size: meta.len(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}
