//! The conformance suite on real file systems, and what is particular to the providers that keep directories.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are test code too")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{LoopFs, may_mount, run};
use protocol::snapshot::{Consistency, Freeze, Validity};
use snapshot::conformance::{self, Fixture, observed, request};
use snapshot::provider::{MountMode, Observed, Provider};
use snapshot::registry::{ProviderConfig, TreeConfig, build};
use snapshot::{Error, freeze};

struct Tree {
    work: tempfile::TempDir,
    root: PathBuf,
    datadir: PathBuf,
    kind: fn(TreeConfig) -> ProviderConfig,
}

impl Tree {
    fn on(fs_root: &Path, kind: fn(TreeConfig) -> ProviderConfig) -> Self {
        let datadir = fs_root.join("mysql");
        if matches!(kind(config(fs_root)), ProviderConfig::Btrfs(_)) {
            run("btrfs", [Path::new("-q"), Path::new("subvolume"), Path::new("create"), &datadir]);
        } else {
            fs::create_dir(&datadir).unwrap();
        }
        Self { work: tempfile::tempdir().unwrap(), root: fs_root.join("snapshots"), datadir, kind }
    }

    fn provider(&self) -> Arc<dyn Provider> {
        Arc::from(build(&(self.kind)(config(&self.root)), self.work.path()).unwrap())
    }

    fn conform(&self) {
        conformance::run(&Fixture {
            provider: &|| self.provider(),
            datadir: self.datadir.clone(),
            work: self.work.path().canonicalize().unwrap(),
            not_a_snapshot: "mysql".parse().unwrap(),
        });
        let left: Vec<_> = fs::read_dir(&self.root).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [".lock"], "nothing is left below the root");
    }

    fn create(&self) -> snapshot::provider::CreateRequest {
        request(&self.datadir)
    }
}

fn config(root: &Path) -> TreeConfig {
    TreeConfig {
        root: root.to_owned(),
        name_pattern: "{cluster}-{time}".to_owned(),
        datadir_inside: PathBuf::new(),
    }
}

#[test]
fn directory_keeps_the_contract() {
    if may_mount("directory_keeps_the_contract") {
        let dir = tempfile::tempdir().unwrap();
        Tree::on(&dir.path().canonicalize().unwrap(), ProviderConfig::Directory).conform();
    }
}

#[test]
fn reflink_on_xfs_keeps_the_contract() {
    if may_mount("reflink_on_xfs_keeps_the_contract") {
        let fs = LoopFs::xfs();
        Tree::on(fs.path(), ProviderConfig::Reflink).conform();
    }
}

#[test]
fn reflink_on_btrfs_keeps_the_contract() {
    if may_mount("reflink_on_btrfs_keeps_the_contract") {
        let fs = LoopFs::btrfs();
        Tree::on(fs.path(), ProviderConfig::Reflink).conform();
    }
}

#[test]
fn btrfs_keeps_the_contract() {
    if may_mount("btrfs_keeps_the_contract") {
        let fs = LoopFs::btrfs();
        Tree::on(fs.path(), ProviderConfig::Btrfs).conform();
    }
}

#[test]
fn reflinks_share_blocks_and_keep_owners_modes_times_and_links() {
    if !may_mount("reflinks_share_blocks_and_keep_owners_modes_times_and_links") {
        return;
    }
    let fs = LoopFs::xfs();
    let tree = Tree::on(fs.path(), ProviderConfig::Reflink);
    let big = tree.datadir.join("big.ibd");
    fs::write(&big, vec![7_u8; 64 << 20]).unwrap();
    fs::File::open(&big).unwrap().sync_all().unwrap();
    fs::set_permissions(&big, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&big, Some(1234), Some(4321)).unwrap();
    symlink("big.ibd", tree.datadir.join("link")).unwrap();
    let used = || nix::sys::statvfs::statvfs(fs.path()).map(|s| s.blocks() - s.blocks_free()).unwrap();
    let before = used();
    let made = tree.provider().create(&tree.create(), &mut |take| Ok(take().map(|()| observed())?)).unwrap();
    // XFS may have given back what it had set aside beyond the file's end.
    let grown_bytes = used().saturating_sub(before) * 4096;
    assert!(grown_bytes < 8 << 20, "the copy of 64 MiB took {grown_bytes} bytes");

    let copy = tree.root.join(made.id.as_str()).join("data");
    let (was, is) = (fs::metadata(&big).unwrap(), fs::metadata(copy.join("big.ibd")).unwrap());
    assert_eq!(
        (is.uid(), is.gid(), is.mode(), is.mtime(), is.mtime_nsec()),
        (1234, 4321, was.mode(), was.mtime(), was.mtime_nsec())
    );
    assert_eq!(fs::read_link(copy.join("link")).unwrap(), Path::new("big.ibd"));
}

#[test]
fn a_file_system_that_cannot_is_a_missing_capability_with_its_reason() {
    if !may_mount("a_file_system_that_cannot_is_a_missing_capability_with_its_reason") {
        return;
    }
    let fs = LoopFs::ext4();
    for (kind, part) in [
        (ProviderConfig::Reflink as fn(TreeConfig) -> ProviderConfig, "cannot share blocks"),
        (ProviderConfig::Btrfs, "not on a btrfs"),
    ] {
        let provider = build(&kind(config(&fs.path().join("snapshots"))), fs.path()).unwrap();
        let capability = provider.probe();
        assert!(
            !capability.available && capability.reason.as_ref().unwrap().contains(part),
            "{capability:?}"
        );
        let asked = request(fs.path());
        let error = provider.create(&asked, &mut |_| panic!("it must not come that far")).unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        assert_eq!(provider.list().unwrap(), []);
    }
}

#[test]
fn what_others_made_is_listed_and_only_what_a_crash_of_ones_own_left_is_swept() {
    if !may_mount("what_others_made_is_listed_and_only_what_a_crash_of_ones_own_left_is_swept") {
        return;
    }
    let fs = LoopFs::btrfs();
    let tree = Tree::on(fs.path(), ProviderConfig::Btrfs);
    fs::write(tree.datadir.join("ibdata1"), "x").unwrap();
    let provider = tree.provider();
    fs::create_dir(&tree.root).unwrap();
    let by_hand = |name: &str| {
        let words = ["-q", "subvolume", "snapshot"].map(Path::new);
        run("btrfs", words.into_iter().chain([tree.datadir.as_path(), &tree.root.join(name)]));
    };
    by_hand("nightly");
    by_hand(".view-nightly");
    fs::create_dir(tree.root.join(".new-x")).unwrap();
    by_hand(".new-x/data");
    fs::create_dir(tree.root.join(".new-empty")).unwrap();
    fs::create_dir(tree.root.join("no-subvolume")).unwrap();

    let listed = provider.list().unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(
        (listed[0].id.as_str(), listed[0].meta.is_none(), &listed[0].validity),
        ("nightly", true, &Validity::Unknown("nothing tells what this directory holds".to_owned()))
    );
    // What another agent of this host is making, or its view, looks just like that.
    let host = tree.create().host;
    assert_eq!(provider.sweep(&host).unwrap(), [".new-empty"]);
    fs::write(tree.root.join(".new-x/maker.json"), "\"db2\"").unwrap();
    assert_eq!(provider.sweep(&host).unwrap(), [""; 0]);
    fs::write(tree.root.join(".new-x/maker.json"), format!("\"{host}\"")).unwrap();
    assert_eq!(provider.sweep(&host).unwrap(), [".new-x"]);
    provider.remove(&listed[0].id).unwrap();
    assert_eq!(provider.list().unwrap(), []);
    assert!(tree.datadir.join("ibdata1").exists());
}

#[test]
fn a_tree_with_parts_elsewhere_or_with_the_snapshots_inside_is_refused() {
    if !may_mount("a_tree_with_parts_elsewhere_or_with_the_snapshots_inside_is_refused") {
        return;
    }
    let fs = LoopFs::btrfs();
    let tree = Tree::on(fs.path(), ProviderConfig::Btrfs);
    let nested = tree.datadir.join("nested");
    run("btrfs", [Path::new("-q"), Path::new("subvolume"), Path::new("create"), &nested]);
    let error = tree.provider().create(&tree.create(), &mut |_| panic!("not that far")).unwrap_err();
    assert!(error.to_string().contains("nested is another file system or subvolume"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let inside =
        build(&ProviderConfig::Directory(config(&dir.path().join("snapshots"))), dir.path()).unwrap();
    let error = inside.create(&request(dir.path()), &mut |_| panic!("not that far")).unwrap_err();
    assert!(error.to_string().contains("lies inside it"), "{error}");
}

/// Two files of which the second always follows the first: in any one instant `first` is equal to `second` or ahead by one.
const WRITER: &str = "
import os, sys
a = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); b = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
n = 0
while True:
    n += 1
    os.pwrite(a, b'%016d' % n, 0); os.pwrite(b, b'%016d' % n, 0)
";

#[test]
fn reflinks_of_a_paused_process_are_one_instant() {
    if !may_mount("reflinks_of_a_paused_process_are_one_instant") {
        return;
    }
    let fs = LoopFs::xfs();
    let tree = Tree::on(fs.path(), ProviderConfig::Reflink);
    let names = ["redo", "zz-data"];
    let mut writer = Command::new("python3")
        .args(["-c", WRITER])
        .args(names.map(|n| tree.datadir.join(n)))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let pid = i32::try_from(writer.id()).unwrap();
    let numbers =
        |dir: &Path| names.map(|n| fs::read_to_string(dir.join(n)).ok().and_then(|t| t.parse::<u64>().ok()));
    let started = std::time::Instant::now();
    while numbers(&tree.datadir)[1].is_none() {
        assert!(started.elapsed() < Duration::from_secs(20), "the writer does not write");
        std::thread::sleep(Duration::from_millis(2));
    }
    for _ in 0..12 {
        let made = tree
            .provider()
            .create(&tree.create(), &mut |take| {
                let paused = freeze::pause(pid, Duration::from_secs(10))?;
                take()?;
                drop(paused);
                Ok(Observed { consistency: Consistency::Crash, freeze: Freeze::Paused, ..observed() })
            })
            .unwrap();
        let [first, second] = numbers(&tree.root.join(made.id.as_str()).join("data")).map(Option::unwrap);
        assert!(first == second || first == second + 1, "torn: {first} and {second}");
        // It must go on by itself now that it has been let go.
        let started = std::time::Instant::now();
        while numbers(&tree.datadir)[0].unwrap_or(0) <= first {
            assert!(started.elapsed() < Duration::from_secs(20), "the writer stands still after the pause");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
}

#[test]
fn an_entry_that_is_damaged_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree::on(dir.path(), ProviderConfig::Directory);
    fs::write(tree.datadir.join("ibdata1"), "x").unwrap();
    let provider = tree.provider();
    let made = provider.create(&tree.create(), &mut |take| Ok(take().map(|()| observed())?)).unwrap();
    fs::create_dir_all(tree.root.join("broken/data")).unwrap();
    fs::write(tree.root.join("broken/snapshot.json"), "{").unwrap();
    let listed: Vec<_> = provider.list().unwrap().into_iter().map(|s| s.id).collect();
    assert_eq!(listed, std::slice::from_ref(&made.id));
    fs::remove_file(tree.root.join(made.id.as_str()).join("data/ibdata1")).unwrap();
    assert!(
        matches!(provider.validity(&made.id).unwrap(), Validity::Invalid(_)),
        "an emptied snapshot is not valid"
    );
    let target = dir.path().join("t");
    fs::create_dir(&target).unwrap();
    let error = provider.mount(&made.id, &target, MountMode::ReadOnly).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}

/// A link or a directory that another user has put where the mount point shall be, and a place where he could put one.
#[test]
fn a_mount_point_that_another_user_could_lay_is_refused() {
    use std::os::unix::process::CommandExt as _;
    if !may_mount("a_mount_point_that_another_user_could_lay_is_refused") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
    let tree = Tree::on(&base, ProviderConfig::Directory);
    fs::write(tree.datadir.join("ibdata1"), "x").unwrap();
    let taken = tree.provider().create(&tree.create(), &mut |take| {
        take()?;
        Ok(observed())
    });
    let id = taken.unwrap().id;
    let state = tree.work.path().join("mounts.json");
    let table = snapshot::MountTable::open(tree.provider(), &tree.work.path().join("mnt"), &state).unwrap();

    let (shared, private) = (base.join("shared"), base.join("of-root"));
    for path in [&shared, &private] {
        fs::create_dir(path).unwrap();
    }
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    let as_nobody = |program: &str, arguments: &[&Path]| {
        let done = Command::new(program).args(arguments).uid(65534).gid(65534).status().unwrap();
        assert!(done.success(), "{program} {arguments:?}");
    };
    as_nobody("ln", &[Path::new("-s"), &private, &shared.join("link")]);
    as_nobody("mkdir", &[&shared.join("directory")]);
    let mount_at = |name: &str| {
        table
            .acquire_at(&id, MountMode::ReadOnly, "operator", &shared.join(name))
            .map(|lease| lease.release().unwrap())
    };
    for (name, words) in
        [("link", "no directory"), ("directory", "another user"), ("link/below", "no directory")]
    {
        let error = mount_at(name).unwrap_err();
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
    assert_eq!(fs::read_dir(&private).unwrap().count(), 0, "nothing was made behind the link");
    mount_at("own").unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    let error = mount_at("own").unwrap_err();
    assert!(error.to_string().contains("written by others"), "{error}");
}
