//! What lies on another volume, with real mounts.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

use std::path::{Path, PathBuf};
use std::process::Command;

use mysql::consistency::{Part, Placement, Verdict};
use protocol::mysql::Layout;

/// A tmpfs of its own: another volume. Unmounted on drop.
struct Volume(PathBuf);

impl Volume {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let status = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(at).status().unwrap();
        assert!(status.success(), "mounting needs root");
        Self(at.to_owned())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn layout() -> Layout {
    Layout {
        innodb_page_size: 16_384,
        lower_case_table_names: 0,
        innodb_data_file_path: Some("ibdata1:12M:autoextend".into()),
        innodb_data_home_dir: None,
        innodb_log_group_home_dir: None,
        innodb_undo_directory: None,
        log_bin: None,
        further_dirs: vec![],
    }
}

#[test]
fn placement_tells_what_a_snapshot_of_the_datadir_would_miss() {
    if !nix::unistd::Uid::effective().is_root() {
        testkit::skip!("mounting a second volume needs root");
    }
    let dir = tempfile::tempdir().unwrap();
    let datadir = dir.path().join("data");
    std::fs::create_dir_all(datadir.join("shop")).unwrap();
    std::fs::write(datadir.join("ibdata1"), "x").unwrap();
    let other = Volume::mount(&dir.path().join("other"));
    let check = |layout: &Layout| Placement::check_layout(&datadir, Some(layout)).unwrap().verdict();

    std::fs::write(other.0.join("mysqld.sock"), "").unwrap();
    std::os::unix::fs::symlink(other.0.join("mysqld.sock"), datadir.join("mysql.sock")).unwrap();
    assert_eq!(check(&layout()), Verdict::OneVolume, "a socket belongs to no database");
    assert_eq!(check(&Layout { log_bin: Some(datadir.join("binlog")), ..layout() }), Verdict::OneVolume);
    assert_eq!(check(&Layout { log_bin: Some(other.0.join("binlog")), ..layout() }), Verdict::BlockCommits);
    let Verdict::Impossible(lost) =
        check(&Layout { innodb_log_group_home_dir: Some(other.0.clone()), ..layout() })
    else {
        panic!("redo on another volume went unnoticed")
    };
    assert_eq!((lost[0].part, &lost[0].path), (Part::Redo, &other.0));

    let Verdict::Impossible(lost) = check(&Layout { further_dirs: vec![other.0.clone()], ..layout() }) else {
        panic!("another engine's log on another volume went unnoticed")
    };
    assert_eq!((lost[0].part, &lost[0].path), (Part::Data, &other.0));

    // A table that was moved away by a link.
    std::fs::write(other.0.join("big.ibd"), "x").unwrap();
    std::os::unix::fs::symlink(other.0.join("big.ibd"), datadir.join("shop/big.ibd")).unwrap();
    let Verdict::Impossible(lost) = check(&layout()) else { panic!("a linked table went unnoticed") };
    assert_eq!((lost[0].part, &lost[0].path), (Part::Data, &datadir.join("shop/big.ibd")));
    std::fs::remove_file(datadir.join("shop/big.ibd")).unwrap();

    // A database that is a mount of its own.
    let _mounted = Volume::mount(&datadir.join("archive"));
    let Verdict::Impossible(lost) = check(&layout()) else { panic!("a mounted database went unnoticed") };
    assert_eq!((lost[0].part, &lost[0].path), (Part::Data, &datadir.join("archive")));
    std::fs::write(datadir.join("archive/precious"), "x").unwrap();
    let error = mysql::datadir::clear(&datadir).unwrap_err();
    assert!(error.to_string().contains("is a mount of its own"), "{error}");
    assert!(datadir.join("archive/precious").exists() && datadir.join("ibdata1").exists());
}
