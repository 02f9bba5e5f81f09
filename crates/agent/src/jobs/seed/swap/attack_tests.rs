//! The data's owner, who may write beside the datadir or in it, against the swap: only the proven tree of this seed gets in its place.

use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use super::*;

/// Nobody: another user than the test's, which is root.
const ATTACKER: u32 = 65_534;

struct Arena {
    dir: tempfile::TempDir,
    layout: Layout,
}

impl Arena {
    /// A staged seed where the attacker owns the datadir, its parent, and after *verify* the staged tree too.
    fn new(entrywise: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let datadir = dir.path().join("srv/mysql");
        tree(&datadir, "old");
        tree(&dir.path().join("outside"), "root's own");
        let mut layout = Layout::of(&datadir, JobId::generate()).unwrap();
        if entrywise {
            layout.entrywise = true;
            layout.root = datadir.join(format!("{PREFIX}{}", layout.job));
        }
        layout.prepare().unwrap();
        tree(&layout.staging(), "new");
        for path in [dir.path().join("srv"), datadir, layout.staging()] {
            chown(path, Some(ATTACKER), Some(ATTACKER)).unwrap();
        }
        Self { dir, layout }
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    fn away(&self) -> PathBuf {
        self.layout.root.with_file_name("away")
    }
}

fn tree(path: &Path, content: &str) {
    fs::create_dir_all(path).unwrap();
    fs::write(path.join("ibdata1"), content).unwrap();
}

fn content(path: &Path) -> String {
    fs::read_to_string(path.join("ibdata1")).unwrap()
}

/// Runs a program as the attacker.
fn as_attacker(program: &str, args: &[&Path]) {
    let status = Command::new(program).args(args).uid(ATTACKER).gid(ATTACKER).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}

/// A tree of the attacker's where the seed's directory was, which says of itself what the seed would.
fn pose(arena: &Arena, phase: &str) {
    let (root, data) = (&arena.layout.root, arena.layout.staging());
    as_attacker("mv", &[root, &arena.away()]);
    as_attacker("mkdir", &[Path::new("-p"), &data]);
    let made = arena.dir.path().join("srv/made");
    for (path, text) in [
        (data.join("ibdata1"), "attacker's"),
        (data.join(MARKER), &arena.layout.job.to_string()),
        (root.join("job"), &arena.layout.job.to_string()),
        (root.join("phase"), phase),
    ] {
        fs::write(&made, text).unwrap();
        chown(&made, Some(ATTACKER), Some(ATTACKER)).unwrap();
        as_attacker("mv", &[&made, &path]);
    }
}

#[test]
fn a_tree_of_the_datas_owner_in_the_place_of_the_proven_one_is_not_swapped_in() {
    if !nix::unistd::geteuid().is_root() {
        testkit::skip!("only root can play another user");
    }
    for (entrywise, phase) in [(false, "staged"), (true, "staged"), (true, "swapped"), (true, "new-in")] {
        let arena = Arena::new(entrywise);
        let layout = &arena.layout;
        pose(&arena, phase);
        let refused =
            [layout.swap(), layout.is_swapped().map(drop), layout.remove(), layout.hold().map(drop)];
        for (nth, refused) in refused.into_iter().enumerate() {
            let error = refused.unwrap_err();
            assert!(matches!(error, SwapError::NotOurs(_)), "{nth}, {phase}: {error}");
        }
        assert_eq!(content(&layout.datadir), "old", "{phase}");
        assert_eq!(content(&arena.away().join("data")), "new", "{phase}: the proven tree is whole");
        as_attacker("rm", &[Path::new("-r"), &layout.root]);
        as_attacker("mv", &[&arena.away(), &layout.root]);
        layout.swap().unwrap();
        assert_eq!(content(&layout.datadir), "new", "{phase}: the right one is known again");
    }
}

#[test]
fn no_mark_of_the_datas_owner_and_no_link_passes_for_a_swap() {
    if !nix::unistd::geteuid().is_root() {
        testkit::skip!("only root can play another user");
    }
    for entrywise in [false, true] {
        let arena = Arena::new(entrywise);
        let layout = &arena.layout;
        let (marker, made) = (layout.datadir.join(MARKER), arena.dir.path().join("srv/made"));
        fs::write(&made, layout.job.to_string()).unwrap();
        chown(&made, Some(ATTACKER), Some(ATTACKER)).unwrap();
        as_attacker("mv", &[&made, &marker]);
        assert!(!layout.is_swapped().unwrap(), "a mark that root has not made");
        as_attacker("rm", &[&marker]);
        as_attacker("mkfifo", &[&marker]);
        assert!(!layout.is_swapped().unwrap(), "a pipe holds nobody");
        as_attacker("mv", &[&layout.root, &arena.away()]);
        as_attacker("ln", &[Path::new("-s"), &arena.outside(), &layout.root]);
        assert!(layout.swap().is_err() && layout.remove().is_err() && layout.prepare().is_err());
        assert_eq!(content(&arena.outside()), "root's own");
        assert_eq!(fs::read_dir(arena.outside()).unwrap().count(), 1, "nothing was put there or taken away");
        as_attacker("rm", &[&layout.root]);
        as_attacker("mv", &[&arena.away(), &layout.root]);
        layout.swap().unwrap();
        assert!(layout.is_swapped().unwrap());
        assert_eq!(content(&layout.datadir), "new");
    }
}

#[test]
fn the_directory_of_another_seed_is_not_used() {
    if !nix::unistd::geteuid().is_root() {
        testkit::skip!("only root can play another user");
    }
    for entrywise in [false, true] {
        let arena = Arena::new(entrywise);
        let other = &arena.layout;
        let job = JobId::generate();
        let layout =
            Layout { root: other.root.with_file_name(format!("{PREFIX}{job}")), job, ..other.clone() };
        layout.prepare().unwrap();
        tree(&layout.staging(), "newest");
        // Whoever owns what it lies in can rename it, even without being let in.
        fs::rename(&layout.root, arena.away()).unwrap();
        fs::rename(&other.root, &layout.root).unwrap();
        assert!(matches!(layout.swap(), Err(SwapError::NotOurs(_))));
        assert!(matches!(layout.remove(), Err(SwapError::NotOurs(_))));
        assert_eq!(content(&layout.datadir), "old");
        symlink(arena.away(), &other.root).unwrap();
        assert!(other.swap().is_err(), "a link is no directory");
    }
}
