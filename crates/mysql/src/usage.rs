//! Bytes used below a directory and bytes free on its file system.
//!
//! Files come and go under a running server: what vanishes during the walk is left out, and nothing panics.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Bytes per block of `st_blocks`, by POSIX convention on Linux.
const STAT_BLOCK_BYTES: u64 = 512;
/// Directories whose figures are remembered.
const MAX_CACHED: usize = 64;

/// What lies below a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes allocated on disk, as `du` counts: holes are free, hard links count once.
    pub allocated_bytes: u64,
    /// Sum of the file sizes.
    pub apparent_bytes: u64,
    /// Number of files.
    pub files: u64,
    /// Number of entries that vanished or could not be read during the walk.
    pub skipped: u64,
    /// Age of the figures.
    pub age: Duration,
    /// How long the walk took.
    pub took: Duration,
}

/// Free space of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskFree {
    /// Bytes that this process may still write.
    pub available_bytes: u64,
    /// Size of the file system in bytes.
    pub total_bytes: u64,
    /// Inodes left; absent where the file system makes them as needed.
    pub available_inodes: Option<u64>,
}

/// `statvfs` of a path.
///
/// # Errors
/// [`Error::Io`] when the path does not exist.
pub fn disk_free(path: &Path) -> Result<DiskFree> {
    let stat = nix::sys::statvfs::statvfs(path).map_err(|e| Error::Io {
        action: "read the free space of",
        path: path.to_owned(),
        source: e.into(),
    })?;
    let block = stat.fragment_size();
    Ok(DiskFree {
        available_bytes: stat.blocks_available().saturating_mul(block),
        total_bytes: stat.blocks().saturating_mul(block),
        available_inodes: (stat.files() > 0).then(|| stat.files_available()),
    })
}

/// Walks a directory on one file system. Blocking: call it from a blocking thread.
///
/// # Errors
/// [`Error::Io`] when the directory itself cannot be read.
pub fn walk(root: &Path) -> Result<DiskUsage> {
    let began = Instant::now();
    let device = std::fs::metadata(root).map_err(Error::io("read", root))?.dev();
    let mut usage = DiskUsage {
        allocated_bytes: 0,
        apparent_bytes: 0,
        files: 0,
        skipped: 0,
        age: Duration::ZERO,
        took: Duration::ZERO,
    };
    let mut linked = HashSet::new();
    for entry in walkdir::WalkDir::new(root).same_file_system(true) {
        let Ok(meta) = entry.and_then(|e| e.metadata()) else {
            usage.skipped += 1;
            continue;
        };
        // A mount point below the root shows the other file system's directory.
        if meta.dev() != device || (meta.nlink() > 1 && meta.is_file() && !linked.insert(meta.ino())) {
            continue;
        }
        usage.allocated_bytes += meta.blocks() * STAT_BLOCK_BYTES;
        if meta.is_file() {
            usage.files += 1;
            usage.apparent_bytes += meta.len();
        }
    }
    usage.took = began.elapsed();
    Ok(usage)
}

/// Remembers figures, so that a heartbeat does not walk 300,000 files; one walk per directory at a time.
#[derive(Debug, Default)]
pub struct UsageCache {
    slots: Mutex<HashMap<PathBuf, Slot>>,
}

type Slot = Arc<tokio::sync::Mutex<Option<(Instant, DiskUsage)>>>;

impl UsageCache {
    /// Figures no older than `max_age`, walking where there are none. Callers that come during a walk share it.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be read.
    pub async fn get(&self, path: &Path, max_age: Duration) -> Result<DiskUsage> {
        let slot = self.slot(path);
        let mut held = slot.lock().await;
        if let Some((at, usage)) = *held
            && at.elapsed() <= max_age
        {
            return Ok(DiskUsage { age: at.elapsed(), ..usage });
        }
        let root = path.to_owned();
        let usage = tokio::task::spawn_blocking(move || walk(&root)).await.map_err(|e| Error::Io {
            action: "walk",
            path: path.to_owned(),
            source: std::io::Error::other(e),
        })??;
        *held = Some((Instant::now(), usage));
        Ok(usage)
    }

    fn slot(&self, path: &Path) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MAX_CACHED && !slots.contains_key(path) {
            slots.clear();
        }
        Arc::clone(slots.entry(path.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_du_counts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("db")).unwrap();
        std::fs::write(dir.path().join("db/t.ibd"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(dir.path().join("db/t.ibd"), dir.path().join("db/same.ibd")).unwrap();
        let sparse = std::fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        let got = walk(dir.path()).unwrap();
        let du = std::process::Command::new("du").args(["-sxB1"]).arg(dir.path()).output().unwrap();
        let du: u64 =
            String::from_utf8(du.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(got.allocated_bytes, du);
        assert_eq!((got.files, got.apparent_bytes), (2, 100_000 + (1 << 30)));
    }

    #[test]
    fn a_missing_directory_is_an_error_that_names_it() {
        let error = walk(Path::new("/no/such/datadir")).unwrap_err();
        assert!(error.to_string().contains("/no/such/datadir"), "{error}");
    }

    #[test]
    fn vanishing_files_never_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let done = std::sync::atomic::AtomicBool::new(false);
        let done = &done;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for round in 0..200 {
                    for i in 0..20 {
                        std::fs::write(path.join(format!("{round}-{i}")), "x").unwrap();
                    }
                    for i in 0..20 {
                        std::fs::remove_file(path.join(format!("{round}-{i}"))).unwrap();
                    }
                }
                done.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                walk(dir.path()).unwrap();
            }
        });
    }

    #[tokio::test]
    async fn cached_figures_tell_their_age() {
        let dir = tempfile::tempdir().unwrap();
        let cache = UsageCache::default();
        let first = cache.get(dir.path(), Duration::from_secs(60)).await.unwrap();
        std::fs::write(dir.path().join("new"), "x").unwrap();
        let second = cache.get(dir.path(), Duration::from_secs(60)).await.unwrap();
        assert_eq!((first.files, second.files), (0, 0));
        assert!(second.age > Duration::ZERO);
        let fresh = cache.get(dir.path(), Duration::ZERO).await.unwrap();
        assert_eq!(fresh.files, 1);
    }

    #[test]
    fn free_space_is_told() {
        let free = disk_free(Path::new("/tmp")).unwrap();
        assert!(free.available_bytes > 0 && free.total_bytes >= free.available_bytes);
    }
}
