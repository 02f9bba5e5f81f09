//! Walks a tree into a manifest.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, SFlag, fstatat};
use nix::unistd::{Whence, lseek64};

use super::parse::check_link;
use super::{
    CHUNK_SIZE_MAX, CHUNK_SIZE_MIN, CHUNKS_MAX, EntryKind, Exclude, FLAG_SPARSE, HEADER_LEN, MAGIC,
    MANIFEST_LEN_MAX, Manifest, ManifestError, Record, chunks_of,
};
use crate::{Cancel, Error, Result};

/// Chunks are at least this large unless asked otherwise: a power of two, many times the largest InnoDB page.
const CHUNK_SIZE_USUAL: u32 = 1 << 20;
/// Beyond this number of chunks they get larger instead of more, so that digests stay a few megabytes.
const CHUNKS_WANTED: u64 = 512 << 10;

/// What the walk left out on purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BuildReport {
    /// Entries that the caller's patterns excluded.
    pub excluded: u64,
    /// Sockets, pipes and devices.
    pub special: u64,
    /// Names the tree as it was found: a digest of all paths with inode, size and times of modification and change. The same again:
    /// nobody has written to any of it in between.
    pub stamp: [u8; 32],
}

/// Walks `root`. Links that leave the tree and other filesystems mounted inside are errors: a seed without what
/// lies there would look complete and not be.
pub(crate) fn build(
    root: &Path,
    exclude: &Exclude,
    chunk_size: Option<u32>,
    cancel: &Cancel,
) -> Result<(Manifest, BuildReport)> {
    let top = fs::metadata(root).map_err(Error::file("read", root))?;
    let mut walk = Walk {
        root,
        exclude,
        cancel,
        device: top.dev(),
        bytes: vec![0; HEADER_LEN],
        entries: 0,
        files: 0,
        bytes_total: 0,
        sizes: SizeCount::default(),
        sparse: Vec::new(),
        report: BuildReport::default(),
        stamp: blake3::Hasher::new(),
    };
    walk.dir(&mut PathBuf::new())?;
    walk.report.stamp = *walk.stamp.finalize().as_bytes();
    let chunk_size = choose_chunk_size(chunk_size, &walk)?;
    let chunks = walk.sizes.chunks(chunk_size);
    let mut bytes = walk.bytes;
    for (path, size) in &walk.sparse {
        append_data_map(&mut bytes, &root.join(path), *size, chunk_size)?;
    }
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&chunk_size.to_le_bytes());
    bytes[12..16].copy_from_slice(&walk.entries.to_le_bytes());
    bytes[16..20].copy_from_slice(&walk.files.to_le_bytes());
    bytes[20..24].copy_from_slice(&(chunks as u32).to_le_bytes());
    bytes[24..32].copy_from_slice(&walk.bytes_total.to_le_bytes());
    bytes.shrink_to_fit();
    Ok((Manifest::parse(bytes)?, walk.report))
}

/// Names the tree below `root` as it is now; see [`BuildReport::stamp`].
///
/// # Errors
/// It cannot be walked.
pub fn stamp(root: &Path, exclude: &Exclude) -> Result<[u8; 32]> {
    Ok(build(root, exclude, None, &Cancel::new())?.1.stamp)
}

fn choose_chunk_size(asked: Option<u32>, walk: &Walk<'_>) -> Result<u32> {
    let mut size = asked.unwrap_or(CHUNK_SIZE_USUAL);
    if !size.is_power_of_two() || !(CHUNK_SIZE_MIN..=CHUNK_SIZE_MAX).contains(&size) {
        return Err(Error::Options("chunk_size must be a power of two from 256 KiB to 1 GiB"));
    }
    let wanted = CHUNKS_WANTED.max(u64::from(walk.files) + CHUNKS_WANTED / 2).min(u64::from(CHUNKS_MAX));
    while walk.sizes.chunks(size) > wanted {
        if size == CHUNK_SIZE_MAX {
            return Err(ManifestError::TooLarge("too many files or bytes for one seed").into());
        }
        size *= 2;
    }
    Ok(size)
}

/// How many chunks files make at each chunk size, without keeping all sizes.
#[derive(Debug, Default)]
struct SizeCount {
    by_power: [u64; 31],
}

impl SizeCount {
    fn add(&mut self, size: u64) {
        for (power, chunks) in self.by_power.iter_mut().enumerate().skip(CHUNK_SIZE_MIN.ilog2() as usize) {
            *chunks += chunks_of(size, 1 << power);
        }
    }

    fn chunks(&self, chunk_size: u32) -> u64 {
        self.by_power[chunk_size.ilog2() as usize]
    }
}

struct Walk<'a> {
    root: &'a Path,
    exclude: &'a Exclude,
    cancel: &'a Cancel,
    device: u64,
    bytes: Vec<u8>,
    entries: u32,
    files: u32,
    bytes_total: u64,
    sizes: SizeCount,
    sparse: Vec<(PathBuf, u64)>,
    report: BuildReport,
    stamp: blake3::Hasher,
}

impl Walk<'_> {
    fn dir(&mut self, relative: &mut PathBuf) -> Result<()> {
        let full = self.root.join(&*relative);
        let mut names = Vec::new();
        for entry in fs::read_dir(&full).map_err(Error::file("list", &full))? {
            names.push(entry.map_err(Error::file("list", &full))?.file_name());
        }
        names.sort_unstable();
        let dir = File::open(&full).map_err(Error::file("list", &full))?;
        for name in names {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            relative.push(&name);
            self.entry(&dir, &name, relative)?;
            relative.pop();
        }
        Ok(())
    }

    /// Looks at `name` in `dir`: by its name alone, for the whole path costs the kernel several times as much.
    fn entry(&mut self, dir: &File, name: &OsStr, relative: &mut PathBuf) -> Result<()> {
        if self.exclude.matches(relative.as_os_str().as_bytes()) {
            self.report.excluded += 1;
            return Ok(());
        }
        let full = || self.root.join(&*relative);
        let meta = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|error| Error::file("read", full())(error.into()))?;
        let kind = SFlag::from_bits_truncate(meta.st_mode & SFlag::S_IFMT.bits());
        if !matches!(kind, SFlag::S_IFDIR | SFlag::S_IFLNK | SFlag::S_IFREG) {
            self.report.special += 1;
            return Ok(());
        }
        if meta.st_dev != self.device {
            return Err(Error::Unfit {
                path: full(),
                detail: "another filesystem is mounted there; exclude it",
            });
        }
        if kind == SFlag::S_IFDIR {
            self.push(EntryKind::Dir, relative, &meta, 0, 0, &[])?;
            self.dir(relative)
        } else if kind == SFlag::S_IFLNK {
            let target =
                fs::read_link(full()).map_err(|error| Error::file("read the link", full())(error))?;
            let target = target.as_os_str().as_bytes();
            if check_link(relative.as_os_str().as_bytes(), target).is_err() {
                return Err(Error::Unfit {
                    path: full(),
                    detail: "the link leaves the tree; what it points to would be missing: exclude it or move that data inside",
                });
            }
            self.push(EntryKind::Link, relative, &meta, 0, target.len() as u64, target)
        } else {
            let size = meta.st_size.cast_unsigned();
            let given = meta.st_blocks.cast_unsigned() * 512;
            let sparse = given + 4096 <= size;
            if sparse {
                self.sparse.push((relative.clone(), size));
            }
            self.files += 1;
            self.bytes_total += size;
            self.sizes.add(size);
            self.push(EntryKind::File, relative, &meta, if sparse { FLAG_SPARSE } else { 0 }, size, &[])
        }
    }

    fn push(
        &mut self,
        kind: EntryKind,
        path: &Path,
        meta: &FileStat,
        flags: u8,
        size: u64,
        target: &[u8],
    ) -> Result<()> {
        let path = path.as_os_str().as_bytes();
        let record = Record {
            kind,
            flags,
            path_len: path.len(),
            mode: meta.st_mode & 0o7777,
            uid: meta.st_uid,
            gid: meta.st_gid,
            mtime: (meta.st_mtime, meta.st_mtime_nsec as u32),
            size,
        };
        if (self.bytes.len() + path.len() + target.len()) as u64 + 64 > MANIFEST_LEN_MAX {
            return Err(ManifestError::TooLarge("more than 256 MiB of paths").into());
        }
        self.bytes.extend_from_slice(&record.encode());
        self.bytes.extend_from_slice(path);
        self.bytes.extend_from_slice(target);
        self.stamp.update(&record.encode());
        self.stamp.update(path);
        for number in [meta.st_ino.cast_signed(), meta.st_ctime, meta.st_ctime_nsec] {
            self.stamp.update(&number.to_le_bytes());
        }
        self.entries += 1;
        Ok(())
    }
}

/// One bit per chunk that holds data, found by SEEK_DATA and SEEK_HOLE; all ones where the filesystem knows no holes.
fn append_data_map(bytes: &mut Vec<u8>, path: &Path, size: u64, chunk_size: u32) -> Result<()> {
    let start = bytes.len();
    let chunks = chunks_of(size, chunk_size);
    bytes.resize(start + (chunks as usize).div_ceil(8), 0);
    let file = File::open(path).map_err(Error::file("open", path))?;
    let chunk_size = u64::from(chunk_size);
    let mut at = 0;
    while at < size {
        let data = match lseek64(&file, at as i64, Whence::SeekData) {
            Ok(data) => data as u64,
            Err(nix::errno::Errno::ENXIO) => break,
            Err(nix::errno::Errno::EINVAL) => at,
            Err(error) => return Err(Error::file("find holes of", path)(io::Error::from(error))),
        };
        let end = lseek64(&file, data as i64, Whence::SeekHole).map_or(size, |end| end as u64).min(size);
        if data >= size || end <= data {
            break;
        }
        for chunk in data / chunk_size..=(end - 1) / chunk_size {
            bytes[start + chunk as usize / 8] |= 1 << (chunk % 8);
        }
        at = end;
    }
    Ok(())
}
