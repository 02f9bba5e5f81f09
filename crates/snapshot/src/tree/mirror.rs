//! A copy of a tree, made ahead while the tree is in use and completed once it stands still.
//!
//! What a file of the copy was made from is known by a stamp: inode, size and times. In the instant only those files are
//! copied whose stamp is another one, so that the server stands still for a look at every file and not for a copy of it.
//!
//! When a stamp can be trusted: a write sets the time first and the data after it, and the copy may fall in between. So a
//! file is known only when nobody had changed it for a while before it was copied: longer than the tick of the file
//! system's clock, and longer than a write may be under way. Every later change gives another `ctime`, which no program
//! can set. Writes through a memory map show in no time for certain: a file that is mapped for them is never known.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, Metadata};
use std::hash::{BuildHasher as _, RandomState};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use walkdir::WalkDir;

use super::entry::{copy_file, set_attributes};
use super::sync_file_system;
use crate::Error;
use crate::error::IoContext as _;
use crate::mapped::inodes_mapped_for_writing;

/// Rounds ahead at the most; each leaves what changed during it.
const ROUNDS: usize = 5;
/// A round that took less left next to nothing.
const SHORT: Duration = Duration::from_millis(250);
/// Sharing blocks waits for the writes that are under way: this covers the clock of the file system, which ticks every few ms.
const QUIET_CLONED: Duration = Duration::from_secs(1);
/// Reading waits for no direct write: this is longer than a device may take for one.
const QUIET_READ: Duration = Duration::from_secs(60);

/// A tree and the copy that is being made of it.
#[derive(Debug)]
pub(super) struct Mirror {
    source: PathBuf,
    target: PathBuf,
    reflink: bool,
    /// For how long a file must have been left alone to be trusted.
    quiet: Duration,
    /// What the copy holds for certain: paths with their stamps, as 128 bits each, since there may be hundreds of thousands.
    known: HashSet<u128>,
    hashers: [RandomState; 2],
    /// Inodes that were seen mapped for writing.
    mapped: HashSet<u64>,
    /// Entries of the copy, directories among them.
    entries: u64,
}

/// How a round walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// The tree is in use: what vanishes is no error, and what is being written to is left for later.
    Ahead,
    /// The tree stands still.
    AtRest,
}

impl Mirror {
    /// A copy at `target`, where nothing is yet.
    pub(super) fn new(source: &Path, target: &Path, reflink: bool) -> Self {
        Self {
            source: source.to_owned(),
            target: target.to_owned(),
            reflink,
            quiet: if reflink { QUIET_CLONED } else { QUIET_READ },
            known: HashSet::new(),
            hashers: [RandomState::new(), RandomState::new()],
            mapped: HashSet::new(),
            entries: 0,
        }
    }

    /// Copies as long as that leaves less and less for the instant.
    pub(super) fn ahead(&mut self) -> Result<(), Error> {
        let mut before = Duration::MAX;
        for _ in 0..ROUNDS {
            let began = Instant::now();
            self.mapped.extend(inodes_mapped_for_writing());
            // All at once is cheaper than file by file, as sharing blocks would do it.
            sync_file_system(&self.source)?;
            self.round(Pace::Ahead)?;
            let took = began.elapsed();
            if took < SHORT || took > before / 2 {
                break;
            }
            before = took;
        }
        Ok(())
    }

    /// Makes the copy equal to the tree, which stands still.
    pub(super) fn complete(mut self) -> Result<(), Error> {
        let directories = self.round(Pace::AtRest)?;
        // Their times change while they are filled: last, and innermost first.
        directories.iter().rev().try_for_each(|(dir, meta)| set_attributes(dir, meta))
    }

    /// One walk over the tree; its directories, each before what is in it.
    fn round(&mut self, pace: Pace) -> Result<Vec<(PathBuf, Metadata)>, Error> {
        let root = File::open(&self.source).context("open", &self.source)?;
        let known = std::mem::take(&mut self.known);
        let (earlier, mut found) = (std::mem::take(&mut self.entries), 0);
        let mut directories = Vec::new();
        for entry in WalkDir::new(&self.source).follow_links(false) {
            let looked = entry.map_err(|e| unread(e, &self.source)).and_then(|entry| {
                let meta = entry.metadata().map_err(std::io::Error::from).context("look at", entry.path())?;
                Ok((entry, meta))
            });
            let Some((entry, meta)) = pace.tolerate(looked)? else { continue };
            let below = entry.path().strip_prefix(&self.source).unwrap_or(entry.path());
            let to = if below.as_os_str().is_empty() { self.target.clone() } else { self.target.join(below) };
            if meta.is_dir() {
                found += u64::from(make_dir(&to)?);
                self.entries += 1;
                directories.push((to, meta));
                continue;
            }
            let stamp = self.stamp(below, &meta);
            if known.contains(&stamp) && !self.mapped.contains(&meta.ino()) {
                found += 1;
                self.entries += 1;
                self.known.insert(stamp);
                continue;
            }
            found += u64::from(earlier > 0 && remove(&to)?);
            self.copy(&root, entry.path(), &to, &meta, stamp, pace)?;
        }
        if found < earlier {
            prune(&self.source, &self.target)?;
        }
        Ok(directories)
    }

    /// Copies what is no directory, unless that can be foreseen to be in vain.
    fn copy(
        &mut self,
        root: &File,
        from: &Path,
        to: &Path,
        meta: &Metadata,
        stamp: u128,
        pace: Pace,
    ) -> Result<(), Error> {
        let quiet = is_quiet(meta, self.quiet) && !self.mapped.contains(&meta.ino());
        if pace == Pace::Ahead && !quiet {
            return Ok(());
        }
        let copied = if meta.is_symlink() {
            copy_link(from, to)
        } else if meta.is_file() {
            copy_file(root, from.strip_prefix(&self.source).unwrap_or(from), to, self.reflink)
        } else {
            // Sockets, pipes and devices hold no data.
            return Ok(());
        };
        if pace.tolerate(copied)?.is_some() {
            self.entries += 1;
            if quiet {
                self.known.insert(stamp);
            }
        }
        Ok(())
    }

    fn stamp(&self, below: &Path, meta: &Metadata) -> u128 {
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        let of = (below, meta.dev(), meta.ino(), meta.size(), times);
        self.hashers.iter().fold(0, |digest, hasher| digest << 64 | u128::from(hasher.hash_one(of)))
    }
}

impl Pace {
    /// What vanished under the walk is `None` while the tree is in use.
    fn tolerate<T>(self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Err(Error::Io { source, .. }) if self == Self::Ahead && source.kind() == ErrorKind::NotFound => {
                Ok(None)
            }
            other => other.map(Some),
        }
    }
}

fn unread(error: walkdir::Error, root: &Path) -> Error {
    Error::Io {
        action: "read",
        path: error.path().unwrap_or(root).to_owned(),
        source: error.into_io_error().unwrap_or_else(|| ErrorKind::Other.into()),
    }
}

/// Makes a directory; whether an earlier round had put something there.
fn make_dir(path: &Path) -> Result<bool, Error> {
    let make = || DirBuilder::new().mode(0o700).create(path);
    match make() {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            if !path.symlink_metadata().context("look at", path)?.is_dir() {
                remove(path)?;
                make().context("create directory", path)?;
            }
            Ok(true)
        }
        done => done.context("create directory", path).map(|()| false),
    }
}

fn copy_link(from: &Path, to: &Path) -> Result<(), Error> {
    let link = fs::read_link(from).context("read", from)?;
    symlink(link, to).context("create link", to)
}

/// Whether nobody has changed a file for so long.
fn is_quiet(meta: &Metadata, quiet: Duration) -> bool {
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos().cast_signed());
    nanos(meta.ctime(), meta.ctime_nsec()) + quiet.as_nanos().cast_signed() <= now
}

/// Removes what an earlier round put there; whether there was anything.
fn remove(path: &Path) -> Result<bool, Error> {
    let done = match fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::IsADirectory => fs::remove_dir_all(path),
        done => done,
    };
    match done {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).context("remove", path),
    }
}

/// Removes from the copy what is no longer in the tree.
fn prune(source: &Path, target: &Path) -> Result<(), Error> {
    for entry in WalkDir::new(target).contents_first(true).min_depth(1) {
        let entry = entry.map_err(|e| unread(e, target))?;
        let below = entry.path().strip_prefix(target).unwrap_or(entry.path());
        if source.join(below).symlink_metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            remove(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;
    use tempfile::TempDir;
    use testkit::poll;

    use super::*;

    /// Longer than the tick of any kernel's clock.
    const TICK: Duration = Duration::from_millis(20);

    struct Bench {
        dir: TempDir,
        mirror: Mirror,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("source")).unwrap();
            let mut mirror = Mirror::new(&dir.path().join("source"), &dir.path().join("target"), false);
            mirror.quiet = TICK;
            Self { dir, mirror }
        }

        fn source(&self, below: &str) -> PathBuf {
            self.dir.path().join("source").join(below)
        }

        fn target(&self, below: &str) -> PathBuf {
            self.dir.path().join("target").join(below)
        }

        fn settle(&self) {
            poll::until_true(Duration::from_secs(10), "the tree to be quiet", || {
                let entries = WalkDir::new(self.source("")).into_iter();
                entries.map(|entry| entry.unwrap().metadata().unwrap()).all(|meta| is_quiet(&meta, TICK))
            });
        }

        fn look(&self, root: &str) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
            let root = self.dir.path().join(root);
            let entries = WalkDir::new(&root).into_iter().map(|entry| entry.unwrap());
            let shown = |path: &Path, meta: &Metadata| match meta {
                meta if meta.is_dir() => {
                    format!("directory of {}.{}", meta.mtime(), meta.mtime_nsec()).into()
                }
                meta if meta.is_symlink() => {
                    fs::read_link(path).unwrap().into_os_string().into_encoded_bytes()
                }
                meta => {
                    let times = format!("{}.{} ", meta.mtime(), meta.mtime_nsec());
                    [times.into_bytes(), fs::read(path).unwrap()].concat()
                }
            };
            entries
                .map(|entry| {
                    let meta = entry.metadata().unwrap();
                    let below = entry.path().strip_prefix(&root).unwrap().to_owned();
                    (below, (meta.permissions().mode(), shown(entry.path(), &meta)))
                })
                .collect()
        }
    }

    #[test]
    fn what_nobody_changed_is_not_copied_again() {
        let mut bench = Bench::new();
        for name in ["cold", "hot"] {
            fs::write(bench.source(name), "old").unwrap();
        }
        bench.settle();
        bench.mirror.ahead().unwrap();
        let copies = ["cold", "hot"].map(|name| bench.target(name));
        let inode = |path: &PathBuf| fs::metadata(path).unwrap().ino();
        let before = copies.each_ref().map(inode);
        // A second name keeps an inode from being used again.
        for copy in &copies {
            fs::hard_link(copy, bench.dir.path().join(copy.file_name().unwrap())).unwrap();
        }
        fs::write(bench.source("hot"), "new").unwrap();
        bench.mirror.complete().unwrap();
        assert_eq!(inode(&copies[0]), before[0]);
        assert_ne!(inode(&copies[1]), before[1]);
        assert_eq!(fs::read_to_string(&copies[1]).unwrap(), "new");
    }

    #[test]
    fn what_is_being_written_to_is_left_for_the_instant() {
        let mut bench = Bench::new();
        bench.mirror.quiet = Duration::from_secs(3600);
        fs::write(bench.source("redo"), "one").unwrap();
        bench.mirror.ahead().unwrap();
        let copy = bench.target("redo");
        assert!(!copy.exists(), "within a tick of the clock, a later write would not show");
        fs::write(bench.source("redo"), "two").unwrap();
        bench.mirror.complete().unwrap();
        assert_eq!(fs::read_to_string(copy).unwrap(), "two");
    }

    #[test]
    fn what_is_mapped_for_writing_is_never_known() {
        let mut bench = Bench::new();
        fs::write(bench.source("redo"), "one").unwrap();
        bench.settle();
        bench.mirror.ahead().unwrap();
        // As if a store to a page had changed it: no time tells.
        fs::write(bench.target("redo"), "old").unwrap();
        bench.mirror.mapped.insert(fs::metadata(bench.source("redo")).unwrap().ino());
        let copy = bench.target("redo");
        bench.mirror.complete().unwrap();
        assert_eq!(fs::read_to_string(copy).unwrap(), "one");
    }

    /// What may happen to a tree between two rounds; numbers choose among a few names, so that kinds change places.
    #[derive(Debug, Clone)]
    enum Change {
        Write(u8, Vec<u8>),
        Directory(u8),
        Link(u8, u8),
        Remove(u8),
        Rename(u8, u8),
        Swap(u8, u8),
        Mode(u8),
        Settle,
        Round,
    }

    const NAMES: [&str; 7] = ["a", "b", "a/x", "a/y", "b/x", "b/y", "a/x/deep"];

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let name = || 0..NAMES.len() as u8;
        let change = prop_oneof![
            4 => (name(), proptest::collection::vec(any::<u8>(), 0..3)).prop_map(|(n, b)| Change::Write(n, b)),
            3 => name().prop_map(Change::Directory),
            1 => (name(), name()).prop_map(|(a, b)| Change::Link(a, b)),
            1 => name().prop_map(Change::Remove),
            1 => (name(), name()).prop_map(|(a, b)| Change::Rename(a, b)),
            2 => (name(), name()).prop_map(|(a, b)| Change::Swap(a, b)),
            1 => name().prop_map(Change::Mode),
            2 => Just(Change::Settle),
            3 => Just(Change::Round),
        ];
        proptest::collection::vec(change, 1..40)
    }

    fn apply(bench: &mut Bench, change: &Change) {
        use nix::fcntl::{RenameFlags, renameat2};
        let path = |bench: &Bench, n: u8| bench.source(NAMES[usize::from(n)]);
        // Many are refused, such as a file below a file: those change nothing.
        match change {
            Change::Write(n, bytes) => _ = fs::write(path(bench, *n), bytes),
            Change::Directory(n) => _ = fs::create_dir(path(bench, *n)),
            Change::Link(n, to) => _ = symlink(NAMES[usize::from(*to)], path(bench, *n)),
            Change::Remove(n) => _ = remove(&path(bench, *n)),
            Change::Rename(a, b) => _ = fs::rename(path(bench, *a), path(bench, *b)),
            Change::Swap(a, b) => {
                let here = nix::fcntl::AT_FDCWD;
                let flags = RenameFlags::RENAME_EXCHANGE;
                let _ = renameat2(here, &path(bench, *a), here, &path(bench, *b), flags);
            }
            Change::Mode(n) => {
                let path = path(bench, *n);
                if path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                    fs::set_permissions(path, fs::Permissions::from_mode(0o440)).unwrap();
                }
            }
            Change::Settle => bench.settle(),
            Change::Round => _ = bench.mirror.round(Pace::Ahead).unwrap(),
        }
    }

    proptest! {
        #[test]
        fn after_any_changes_the_copy_is_the_tree(changes in changes()) {
            let mut bench = Bench::new();
            for change in &changes {
                apply(&mut bench, change);
            }
            let (source, target) = (bench.source(""), bench.target(""));
            let mirror = std::mem::replace(&mut bench.mirror, Mirror::new(&source, &target, false));
            mirror.complete().unwrap();
            prop_assert_eq!(bench.look("target"), bench.look("source"));
        }
    }
}
