//! Option files against golden trees, and against MariaDB's own reader.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

use std::path::{Path, PathBuf};
use std::process::Command;

use mysql::options::{OptionFiles, Options, server_groups};
use protocol::mysql::{Flavor, ServerVersion};

fn tree(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/mycnf").join(name).canonicalize().unwrap()
}

fn version(flavor: Flavor, major: u16, minor: u16) -> ServerVersion {
    ServerVersion { flavor, number: [major, minor, 1], text: format!("{major}.{minor}.1") }
}

fn read(name: &str, version: &ServerVersion, suffix: Option<&str>) -> Options {
    let files = OptionFiles::load_under(&tree(name), None);
    files.effective(&server_groups(Some(version.flavor), Some(version), suffix))
}

#[test]
fn debians_mariadb_tree() {
    let options = read("debian-mariadb", &version(Flavor::Mariadb, 10, 11), None);
    assert_eq!(options.get("pid_file"), Some("/run/mysqld/mysqld.pid"));
    assert_eq!(options.get("bind-address"), Some("127.0.0.1"));
    assert_eq!(options.get("basedir"), Some("/usr"));
    assert_eq!(options.get("socket"), Some("/run/mysqld/mysqld.sock"), "from [client-server]");
    assert_eq!(
        (options.get("server-id"), options.get("log_bin")),
        (Some("42"), Some("/var/log/mysql/mysql-bin"))
    );
    assert_eq!(options.get("port"), None, "*.dpkg-old is not read");
    let newer = read("debian-mariadb", &version(Flavor::Mariadb, 11, 8), None);
    assert_eq!((newer.get("server-id"), newer.get("log_bin")), (Some("118"), None));
}

#[test]
fn debians_mysql_tree() {
    let options = read("debian-mysql", &version(Flavor::Mysql, 9, 7), None);
    assert_eq!(options.get("datadir"), Some("/srv/mysql/data"), "without its comment");
    assert_eq!(options.get("log-error"), Some("/var/log/mysql/error.log"));
    assert_eq!(options.get("port"), Some("3307"));
    assert_eq!(read("debian-mysql", &version(Flavor::Mysql, 8, 0), None).get("port"), Some("3308"));
}

#[test]
fn rhels_tree() {
    let options = read("rhel", &version(Flavor::Mariadb, 10, 5), None);
    assert_eq!(options.get("socket"), Some("/var/lib/mysql/mysql.sock"));
    assert_eq!(options.get("log_error"), Some("/var/log/mariadb/mariadb.log"));
    assert_eq!(options.is_on("skip_networking"), Some(true));
}

#[test]
fn several_instances() {
    let version = version(Flavor::Mariadb, 10, 11);
    for (suffix, datadir, port) in [
        (None, "/var/lib/mysql", "3306"),
        (Some("1"), "/var/lib/mysql1", "3310"),
        (Some("2"), "/var/lib/mysql2", "3320"),
    ] {
        let options = read("multi", &version, suffix);
        assert_eq!((options.get("datadir"), options.get("port")), (Some(datadir), Some(port)));
    }
}

#[test]
fn odd_files_are_read_to_their_end_and_every_problem_is_named() {
    let files = OptionFiles::load_under(&tree("odd"), None);
    let options = files.effective(&["mysqld"]);
    assert_eq!(options.get("init-connect"), Some("SET NAMES utf8mb4 # not a comment"));
    assert_eq!(options.get("tmpdir"), Some("/with space/tmp"));
    assert_eq!(options.get("datadir"), Some("/data dir"));
    assert_eq!(options.get("log-error"), Some("C:\\logs\\err"));
    assert_eq!(options.get("innodb_buffer_pool_size"), Some("1G"), "loose- is about unknown names only");
    assert_eq!((options.is_on("name-resolve"), options.is_on("log_bin")), (Some(false), Some(false)));
    assert_eq!(options.get("port"), Some("3399"), "the later file loses to the line after its include");
    assert_eq!(options.get("server_id"), Some("7"));
    let problems: Vec<_> =
        files.problems.iter().map(|p| (p.path.to_str().unwrap(), p.line, p.text.as_str())).collect();
    assert_eq!(
        problems,
        [
            ("/etc/my.cnf", 1, "an option before the first [group]"),
            ("/etc/my.cnf", 0, "includes itself"),
            ("/etc/my.cnf", 5, "an unknown directive"),
            ("/etc/my.cnf", 13, "a value without a name"),
            ("/etc/my.cnf", 14, "a group without its closing bracket"),
        ]
    );
}

#[test]
fn files_that_anybody_may_write_are_not_believed() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("my.cnf");
    std::fs::write(&path, "[mysqld]\ndatadir=/evil\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let files = OptionFiles::load(Some(&path));
    assert_eq!(files.effective(&["mysqld"]).get("datadir"), None);
    assert_eq!(files.problems.len(), 1);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(OptionFiles::load(Some(&path)).effective(&["mysqld"]).get("datadir"), Some("/evil"));
}

/// Our reading of a file is the one of the servers' own library.
#[test]
fn mariadbs_own_reader_agrees() {
    for name in ["debian-mariadb", "debian-mysql", "rhel", "multi"] {
        let dir = tempfile::tempdir().unwrap();
        // The tool takes includes from the real root: give it the tree with absolute includes moved below `dir`.
        let main = relocate(&tree(name), dir.path());
        for groups in [
            &["mysqld"][..],
            &["mysqld", "server", "mariadb", "mariadb-10.11", "client-server"],
            &["mysqld", "mysqld2"],
        ] {
            let ours = OptionFiles::load(Some(&main)).effective(groups);
            let ours: Vec<String> = ours
                .iter()
                .map(|(name, value)| value.map_or_else(|| name.to_owned(), |v| format!("{name}={v}")))
                .filter(|o| !o.starts_with("networking"))
                .collect();
            let out = Command::new("my_print_defaults")
                .arg(format!("--defaults-file={}", main.display()))
                .args(groups)
                .output();
            let out = out.expect("my_print_defaults comes with mariadb-server");
            let text = String::from_utf8(out.stdout).unwrap();
            let mut theirs = Options::default();
            theirs.add_command_line(text.lines());
            let theirs: Vec<String> = theirs
                .iter()
                .map(|(name, value)| value.map_or_else(|| name.to_owned(), |v| format!("{name}={v}")))
                .filter(|o| !o.starts_with("networking"))
                .collect();
            assert_eq!(ours, theirs, "{name} {groups:?}");
        }
    }
}

/// Copies a tree and lets its includes point into the copy; returns the main file.
fn relocate(from: &Path, to: &Path) -> PathBuf {
    let mut main = None;
    for entry in walkdir::WalkDir::new(from).sort_by_file_name() {
        let entry = entry.unwrap();
        let target = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(target).unwrap();
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let root = to.display();
        let text = text
            .replace("!includedir /", &format!("!includedir {root}/"))
            .replace("!include /", &format!("!include {root}/"));
        std::fs::write(&target, text).unwrap();
        if entry.file_name() == "my.cnf" {
            main = Some(target);
        }
    }
    main.unwrap()
}

mod total {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(?s).{0,300}|(\\[[a-z]{0,3}\\]|!include(dir)? [a-z./]{0,5}|[a-z\"'\\\\#= ]{0,12}|\n){0,30}") {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("my.cnf");
            std::fs::write(&path, &text).unwrap();
            let files = OptionFiles::load_under(dir.path(), Some(Path::new("/my.cnf")));
            let _ = files.effective(&["a", "mysqld"]);
        }
    }
}
