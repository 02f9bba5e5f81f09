//! What a recipient keeps of a seed, as it came: the next one from the same donor moves only what differs from it (`seed.keep_base`).
//!
//! It lies beside the seed's own directory, shares its blocks with the data that came, and only root gets there. It is believed while its
//! stamp is the one of when it was made: nobody has written to any of its files.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use protocol::ids::{AgentId, JobId, SnapshotId};
use serde::{Deserialize, Serialize};
use sys::dir::{Dir, Rights};
use transfer::Exclude;

use super::swap::Layout;

const RECORD: &str = "base.json";
const TREE: &str = "data";
/// Longer than any record.
const RECORD_MAX: u64 = 64 << 10;

/// What was kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) donor: AgentId,
    pub(crate) snapshot: SnapshotId,
    /// On which both ends agreed, in hexadecimal digits.
    root_digest: String,
    /// [`transfer::manifest::stamp`] of the kept tree, in hexadecimal digits.
    stamp: String,
    pub(crate) kept_at: Timestamp,
}

/// A kept tree, held: whatever its name leads to by now.
#[derive(Debug)]
pub(super) struct Kept {
    tree: Dir,
    pub(super) record: Record,
}

impl Kept {
    /// For the transfer, as long as this lives; `None` when somebody has written to it.
    pub(super) fn proven(&self) -> Option<transfer::Base> {
        let root = self.tree.by_descriptor();
        let stamp = transfer::manifest::stamp(&root, &Exclude::none());
        let stamp = stamp.map(sys::hex::encode).unwrap_or_default();
        let root_digest = sys::hex::decode(&self.record.root_digest)?.try_into().ok()?;
        (stamp == self.record.stamp).then_some(transfer::Base { root, root_digest })
    }
}

/// The newest tree of this donor's that is kept beside the seed's directory.
pub(super) fn find(layout: &Layout, donor: &AgentId) -> Option<Kept> {
    let place = open_place(layout).ok()?;
    let all = layout.bases().into_iter().filter_map(|name| open(&place, &name));
    all.filter(|kept| kept.record.donor == *donor).max_by_key(|kept| kept.record.kept_at)
}

fn open(place: &Dir, name: &Path) -> Option<Kept> {
    let dir = place.dir(name).ok()?;
    // Who may write beside it can put a directory in its place, but none of root's.
    if !dir.is_ours_alone().ok()? {
        return None;
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    let file = dir.open_below(Path::new(RECORD), flags, Mode::empty()).ok()?;
    let record = serde_json::from_reader(io::Read::take(file, RECORD_MAX)).ok()?;
    Some(Kept { tree: dir.dir(Path::new(TREE)).ok()?, record })
}

/// Where a tree came from.
#[derive(Debug)]
pub(super) struct From<'a> {
    pub(super) donor: &'a AgentId,
    pub(super) snapshot: &'a SnapshotId,
    pub(super) root_digest: &'a str,
}

/// Keeps the staged tree as it came, anew if it was kept before.
///
/// # Errors
/// The file system shares no blocks, it cannot be written, or it was stopped; then nothing is kept.
pub(super) fn keep(layout: &Layout, from: &From<'_>, stopped: &dyn Fn() -> bool) -> io::Result<()> {
    let place = open_place(layout)?;
    let name = layout.base();
    let kept = keep_at(&place, &name, layout, from, stopped);
    if kept.is_err() {
        let _ = place.remove(&name);
    }
    kept
}

fn keep_at(
    place: &Dir,
    name: &Path,
    layout: &Layout,
    from: &From<'_>,
    stopped: &dyn Fn() -> bool,
) -> io::Result<()> {
    place.remove(name)?;
    place.make_dir(name, 0o700)?;
    let dir = place.dir(name)?;
    dir.make_dir(Path::new(TREE), 0o700)?;
    let tree = dir.dir(Path::new(TREE))?;
    let held = layout.hold().map_err(io::Error::other)?;
    share_tree(&Dir::open(&held.staging())?, &tree, stopped)?;
    nix::unistd::syncfs(&tree)?;
    let stamp =
        transfer::manifest::stamp(&tree.by_descriptor(), &Exclude::none()).map_err(io::Error::other)?;
    let record = Record {
        donor: from.donor.clone(),
        snapshot: from.snapshot.clone(),
        root_digest: from.root_digest.to_owned(),
        stamp: sys::hex::encode(stamp),
        kept_at: Timestamp::now(),
    };
    dir.write(Path::new(RECORD), &serde_json::to_vec(&record)?, Rights::own(0o600))?;
    dir.sync()?;
    place.sync()
}

/// Makes every file and directory below anew, of the same blocks. Links have no content to be taken from.
fn share_tree(from: &Dir, to: &Dir, stopped: &dyn Fn() -> bool) -> io::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    for name in from.names()? {
        if stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let name = Path::new(&name);
        match from.open_below(name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()) {
            Ok(file) if file.metadata()?.is_dir() => {
                to.make_dir(name, 0o700)?;
                share_tree(&from.dir(name)?, &to.dir(name)?, stopped)?;
            }
            Ok(file) => {
                let copy = to.open_below(name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
                sys::file::share_blocks(&file, &copy)?;
            }
            Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Removes what was kept beside this seed's directory, but for what `but` has kept. Slow for a large tree.
pub(super) fn remove_all(layout: &Layout, but: Option<JobId>) -> io::Result<()> {
    let place = open_place(layout)?;
    let stays = but.and_then(|job| layout.base_of(job));
    for name in layout.bases().into_iter().filter(|name| Some(name) != stays.as_ref()) {
        place.remove(&name)?;
    }
    Ok(())
}

/// Removes what this seed has kept.
pub(super) fn remove(layout: &Layout) -> io::Result<()> {
    open_place(layout)?.remove(&layout.base()).map(drop)
}

/// A kept tree that stays does no harm but to free space: it fails no seed.
pub(super) fn told(removed: io::Result<()>) {
    if let Err(error) = removed {
        tracing::warn!(%error, "what a seed has kept beside the datadir cannot be removed");
    }
}

fn open_place(layout: &Layout) -> io::Result<Dir> {
    let place: PathBuf = layout.root().parent().unwrap_or(Path::new("/")).to_owned();
    Dir::open(&place.canonicalize()?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A seed's directory with a staged tree, on a file system that shares blocks; `None` where the temporary directory is on none.
    fn staged(datadir: &Path, job: JobId) -> Layout {
        let layout = Layout::of(datadir, job).unwrap();
        layout.prepare().unwrap();
        fs::create_dir(layout.staging().join("shop")).unwrap();
        fs::write(layout.staging().join("shop/orders.ibd"), vec![7; 300_000]).unwrap();
        std::os::unix::fs::symlink("shop", layout.staging().join("link")).unwrap();
        layout
    }

    fn keep_of(donor: &AgentId, layout: &Layout, root_digest: &str, stopped: bool) -> io::Result<()> {
        let snapshot = "s1".parse().unwrap();
        keep(layout, &From { donor, snapshot: &snapshot, root_digest }, &|| stopped)
    }

    #[test]
    fn what_was_kept_is_found_until_somebody_writes_to_it_and_goes_with_a_later_one() {
        let Some(place) = testkit::loopfs::Mounted::xfs(300) else {
            testkit::skip!("no XFS can be made and mounted here (needs root, xfsprogs and loop devices)");
        };
        let datadir = place.path().join("mysql");
        fs::create_dir(&datadir).unwrap();
        let donor = "db1".parse().unwrap();
        let (first, second) = (JobId::generate(), JobId::generate());
        let layout = staged(&datadir, first);
        let digest = sys::hex::encode([9; 32]);
        keep_of(&donor, &layout, &digest, true).unwrap_err();
        assert!(layout.bases().is_empty(), "stopped half-way");
        keep_of(&donor, &layout, &digest, false).unwrap();
        layout.remove().unwrap();
        let kept = find(&layout, &donor).unwrap();
        assert_eq!(kept.proven().unwrap().root_digest, [9; 32]);
        assert!(find(&layout, &"db2".parse().unwrap()).is_none(), "another donor's");
        let file = place.path().join(layout.base()).join("data/shop/orders.ibd");
        assert_eq!(fs::read(&file).unwrap(), vec![7; 300_000]);
        let later = staged(&datadir, second);
        keep_of(&donor, &later, &digest, false).unwrap();
        remove_all(&later, Some(second)).unwrap();
        assert!(!file.exists(), "the earlier one is gone");
        let kept = find(&later, &donor).unwrap();
        let file = place.path().join(later.base()).join("data/shop/orders.ibd");
        let modified = fs::metadata(&file).unwrap().modified().unwrap();
        let open = fs::File::options().write(true).open(&file).unwrap();
        io::Write::write_all(&mut &open, b"x").unwrap();
        open.set_modified(modified).unwrap();
        assert!(kept.proven().is_none(), "written to");
        remove(&later).unwrap();
        assert!(find(&later, &donor).is_none());
    }

    #[test]
    fn where_no_blocks_are_shared_nothing_is_kept() {
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        let datadir = place.path().join("mysql");
        fs::create_dir(&datadir).unwrap();
        let donor = "db1".parse().unwrap();
        let layout = staged(&datadir, JobId::generate());
        keep_of(&donor, &layout, "00", false).unwrap_err();
        assert!(find(&layout, &donor).is_none());
        assert!(layout.bases().is_empty());
    }
}
