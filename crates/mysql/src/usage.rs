//! Bytes used below a directory and bytes free on its file system.
//!
//! Files come and go under a running server: what vanishes during the walk is left out, and nothing panics.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use rustix::fs::SeekFrom;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// Bytes per block of `st_blocks`, by POSIX convention on Linux.
const STAT_BLOCK_BYTES: u64 = 512;
/// Directories whose figures are remembered.
const MAX_CACHED: usize = 64;
/// Holes of one file that are looked for: a fraction of a second.
const MOST_HOLES: usize = 200_000;

/// What lies below a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes allocated on disk, as `du` counts: holes are free, hard links count once.
    pub allocated_bytes: u64,
    /// Sum of the file sizes.
    pub apparent_bytes: u64,
    /// As that, without the holes of files: what a copy that keeps holes needs.
    pub data_bytes: u64,
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
        data_bytes: 0,
        files: 0,
        skipped: 0,
        age: Duration::ZERO,
        took: Duration::ZERO,
    };
    let mut linked = HashSet::new();
    for entry in walkdir::WalkDir::new(root).same_file_system(true) {
        let Ok((entry, meta)) = entry.and_then(|entry| entry.metadata().map(|meta| (entry, meta))) else {
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
            // Fewer blocks than content are a sign of holes, and of a file system that compresses.
            let is_whole = meta.blocks() * STAT_BLOCK_BYTES >= meta.len();
            usage.data_bytes += if is_whole { meta.len() } else { data_bytes(entry.path(), meta.len()) };
        }
    }
    usage.took = began.elapsed();
    Ok(usage)
}

/// Content of a file outside of its holes. Behind [`MOST_HOLES`] the share that was found so far counts for the rest: a table of
/// compressed pages has a hole in each of them.
fn data_bytes(path: &Path, size: u64) -> u64 {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits();
    let Ok(file) = std::fs::File::options().read(true).custom_flags(flags).open(path) else { return size };
    let seek = |whence| rustix::fs::seek(&file, whence);
    let (mut at, mut data) = (0, 0);
    for _ in 0..MOST_HOLES {
        let start = match seek(SeekFrom::Data(at)) {
            Ok(start) if start < size => start,
            // No data behind this place.
            Ok(_) | Err(rustix::io::Errno::NXIO) => return data,
            Err(_) => return size,
        };
        let end = seek(SeekFrom::Hole(start)).unwrap_or(size).min(size);
        data += end.saturating_sub(start);
        if end >= size || end <= at {
            return data;
        }
        at = end;
    }
    let share = u128::from(data) * u128::from(size) / u128::from(at.max(1));
    u64::try_from(share).unwrap_or(size).min(size)
}

/// Remembers figures, so that nobody waits for a walk of 300,000 files twice. One walk per directory at a time; whoever
/// comes meanwhile shares it, and it goes on when who asked for it is gone.
#[derive(Debug)]
pub struct UsageCache {
    walk: fn(&Path) -> Result<DiskUsage>,
    slots: Mutex<HashMap<PathBuf, Arc<Slot>>>,
}

#[derive(Debug, Default)]
struct Slot {
    /// When the last walk began, and what it found.
    kept: Mutex<Option<(Instant, DiskUsage)>>,
    /// Held during a walk.
    walking: tokio::sync::Mutex<()>,
}

impl Slot {
    /// What a walk found that began no earlier than `since`; anything there is without.
    fn kept(&self, since: Option<Instant>) -> Option<DiskUsage> {
        let (began, usage) = (*self.kept.lock().unwrap_or_else(PoisonError::into_inner))?;
        since.is_none_or(|since| began >= since).then(|| DiskUsage { age: began.elapsed(), ..usage })
    }
}

impl Default for UsageCache {
    fn default() -> Self {
        Self::new(walk)
    }
}

impl UsageCache {
    fn new(walk: fn(&Path) -> Result<DiskUsage>) -> Self {
        Self { walk, slots: Mutex::default() }
    }

    /// Figures no older than `max_age`, however long a walk takes; of zero age are those of a walk that began after the call.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be read.
    pub async fn get(&self, path: &Path, max_age: Duration) -> Result<DiskUsage> {
        let asked = Instant::now();
        let since = asked.checked_sub(max_age).unwrap_or(asked);
        self.count(path, since).await.map_err(|e| Error::io("walk", path)(std::io::Error::other(e)))?
    }

    /// As [`get`](Self::get), but after `patience` the newest figures there are, however old, if any; the walk goes on.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be read.
    pub async fn within(
        &self,
        path: &Path,
        max_age: Duration,
        patience: Duration,
    ) -> Result<Option<DiskUsage>> {
        match tokio::time::timeout(patience, self.get(path, max_age)).await {
            Ok(counted) => counted.map(Some),
            Err(_) => Ok(self.slot(path).kept(None)),
        }
    }

    /// In a task of its own, so that a caller who gives up does not lose the others their figures.
    fn count(&self, path: &Path, since: Instant) -> JoinHandle<Result<DiskUsage>> {
        let (slot, root, walk) = (self.slot(path), path.to_owned(), self.walk);
        tokio::spawn(async move {
            let _walking = slot.walking.lock().await;
            if let Some(usage) = slot.kept(Some(since)) {
                return Ok(usage);
            }
            let began = Instant::now();
            let path = root.clone();
            let walked = tokio::task::spawn_blocking(move || walk(&path)).await;
            let usage = walked.map_err(|e| Error::io("walk", &root)(std::io::Error::other(e)))??;
            *slot.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some((began, usage));
            Ok(usage)
        })
    }

    fn slot(&self, path: &Path) -> Arc<Slot> {
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
        assert_eq!(got.data_bytes, 100_000);
    }

    #[test]
    fn holes_between_pages_are_not_content() {
        use std::os::unix::fs::FileExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("compressed.ibd");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(64 << 14).unwrap();
        for page in 0..64 {
            file.write_all_at(&[7; 4096], page << 14).unwrap();
        }
        assert_eq!(data_bytes(&path, 64 << 14), 64 << 12);
        assert_eq!(data_bytes(&dir.path().join("gone"), 5), 5, "what cannot be looked at has no holes");
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

    /// A walk that lasts until there is a file `go` in the directory.
    fn walk_on_a_slow_disk(root: &Path) -> Result<DiskUsage> {
        std::fs::write(root.join(format!("walk-{}", walks(root))), "").unwrap();
        testkit::poll::until(PATIENCE, "leave to go on", || root.join("go").exists().then_some(()));
        walk(root)
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    fn walks(root: &Path) -> usize {
        let names = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("walk-")).count()
    }

    #[tokio::test]
    async fn a_slow_walk_holds_nobody_up_and_outlives_who_asked() {
        const SOON: Duration = Duration::from_millis(20);
        let dir = tempfile::tempdir().unwrap();
        let cache = UsageCache::new(walk_on_a_slow_disk);
        let hour = Duration::from_secs(3600);
        for _ in 0..3 {
            assert_eq!(cache.within(dir.path(), hour, SOON).await.unwrap(), None);
        }
        std::fs::write(dir.path().join("go"), "").unwrap();
        let counted = cache.within(dir.path(), hour, PATIENCE).await.unwrap().expect("the walk has ended");
        assert_eq!((walks(dir.path()), counted.files), (1, 2), "a walk under way is not begun again");
        std::fs::remove_file(dir.path().join("go")).unwrap();
        let old = cache.within(dir.path(), Duration::ZERO, SOON).await.unwrap();
        assert_eq!(old.expect("the old figures while new ones are counted").files, 2);
        std::fs::write(dir.path().join("go"), "").unwrap();
        let fresh = cache.get(dir.path(), Duration::ZERO).await.unwrap();
        assert_eq!(
            (walks(dir.path()), fresh.files),
            (3, 4),
            "the walk under way had begun before it was asked"
        );
    }

    #[tokio::test]
    async fn all_who_wait_share_the_next_walk() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Arc::new(UsageCache::new(walk_on_a_slow_disk));
        let asking: Vec<_> = (0..10)
            .map(|_| {
                let (cache, path) = (Arc::clone(&cache), dir.path().to_owned());
                tokio::spawn(async move { cache.get(&path, Duration::ZERO).await.unwrap() })
            })
            .collect();
        testkit::poll::until_async(PATIENCE, "a walk", || async { (walks(dir.path()) > 0).then_some(()) })
            .await;
        std::fs::write(dir.path().join("go"), "").unwrap();
        for asked in asking {
            asked.await.unwrap();
        }
        assert!(walks(dir.path()) <= 2, "{} walks for ten who asked at once", walks(dir.path()));
    }

    #[test]
    fn free_space_is_told() {
        let free = disk_free(Path::new("/tmp")).unwrap();
        assert!(free.available_bytes > 0 && free.total_bytes >= free.available_bytes);
    }
}
