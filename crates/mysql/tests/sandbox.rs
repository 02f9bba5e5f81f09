//! Proving datadirs with a private server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

mod common;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use common::{copy_datadir, instance, mariadb, mysql9};
use mysql::sandbox::{self, CheckBudget, Sandbox, SandboxOptions};
use testkit::mysqld::{Mysqld, MysqldOptions};

async fn fill(server: &Mysqld) {
    server.exec("CREATE DATABASE shop").await.unwrap();
    server.exec("CREATE TABLE shop.t (id INT PRIMARY KEY, v VARCHAR(200)) ENGINE=InnoDB").await.unwrap();
    for round in 0..8 {
        let rows: Vec<_> = (0..500).map(|i| format!("({}, REPEAT('x', 150))", round * 500 + i)).collect();
        server.exec(format!("INSERT INTO shop.t VALUES {}", rows.join(","))).await.unwrap();
    }
}

fn leftovers(run_root: &Path) -> Vec<String> {
    let names = fs::read_dir(run_root).unwrap().filter_map(|e| e.unwrap().file_name().into_string().ok());
    names.filter(|n| n.starts_with("oa-sandbox-")).collect()
}

fn options(server: &Mysqld, copy: &Path) -> SandboxOptions {
    SandboxOptions {
        run_root: server.base().to_owned(),
        log_bin: Some("binlog".into()),
        ..SandboxOptions::new(copy)
    }
}

#[tokio::test]
async fn a_crashed_datadir_recovers_and_is_proven_with_its_coordinates() {
    let mut server = mariadb().await;
    fill(&server).await;
    let expected = instance(&server).coordinates().await.unwrap();
    server.kill9().await.unwrap();
    let copy = server.base().join("copy");
    copy_datadir(server.datadir(), &copy);
    let proof = sandbox::verify(options(&server, &copy), CheckBudget::default(), &|_| {}).await.unwrap();
    assert!(proof.passed, "{}", proof.detail);
    assert!(proof.detail.contains("tables check out"), "{}", proof.detail);
    let recovered = proof.recovered.unwrap();
    assert_eq!(recovered.gtid, expected.gtid);
    assert_eq!(recovered.binlog, expected.binlog);
    assert_eq!(leftovers(server.base()), Vec::<String>::new());
    assert!(!fs::read_dir(&copy).unwrap().any(|e| {
        let name = e.unwrap().file_name().into_string().unwrap();
        name.ends_with(".pid") || name.ends_with(".err")
    }));
}

#[tokio::test]
async fn a_corrupted_table_is_found() {
    let mut server = mariadb().await;
    fill(&server).await;
    server.stop().await.unwrap();
    let copy = server.base().join("copy");
    copy_datadir(server.datadir(), &copy);
    let mut table = fs::OpenOptions::new().write(true).open(copy.join("shop/t.ibd")).unwrap();
    table.seek(SeekFrom::Start(6 * 16_384 + 5_000)).unwrap();
    table.write_all(&[0xAB; 4_096]).unwrap();
    let proof = sandbox::verify(options(&server, &copy), CheckBudget::default(), &|_| {}).await.unwrap();
    assert!(!proof.passed, "{}", proof.detail);
    assert!(proof.detail.contains("shop") && proof.detail.contains('t'), "{}", proof.detail);
    assert_eq!(leftovers(server.base()), Vec::<String>::new());
}

#[tokio::test]
async fn a_datadir_without_its_redo_does_not_start_and_says_why() {
    let mut server = mariadb().await;
    fill(&server).await;
    server.kill9().await.unwrap();
    let copy = server.base().join("copy");
    copy_datadir(server.datadir(), &copy);
    fs::write(copy.join("ibdata1"), vec![0; 12 << 20]).unwrap();
    let proof = sandbox::verify(options(&server, &copy), CheckBudget::default(), &|_| {}).await.unwrap();
    assert!(!proof.passed);
    assert!(proof.detail.contains("the server does not start on it"), "{}", proof.detail);
    assert!(proof.detail.contains("InnoDB"), "{}", proof.detail);
    assert_eq!(leftovers(server.base()), Vec::<String>::new());
}

#[tokio::test]
async fn a_small_budget_says_what_was_not_reached() {
    let mut server = mariadb().await;
    fill(&server).await;
    server.stop().await.unwrap();
    let copy = server.base().join("copy");
    copy_datadir(server.datadir(), &copy);
    let budget = CheckBudget { time: Duration::ZERO };
    let proof = sandbox::verify(options(&server, &copy), budget, &|_| {}).await.unwrap();
    assert!(proof.passed && proof.detail.contains("were not reached within the budget"), "{}", proof.detail);
    assert!(proof.unchecked_tables > 0, "{proof:?}");
}

/// MySQL's binary needs the libraries of its own tree.
fn wrapper(server: &Mysqld, root: &Path) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let wrapper = server.base().join("mysqld");
    let root = root.display();
    let loader = format!("{root}/lib64/ld-linux-x86-64.so.2 --library-path {root}/usr/lib/x86_64-linux-gnu");
    let script = format!("#!/bin/sh\nexec {loader} {root}/usr/sbin/mysqld \"$@\" --basedir={root}/usr\n");
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    wrapper
}

/// Each loss is told by its name, with a budget that reaches no table.
async fn a_copy_that_is_not_whole_is_refused(server: Mysqld, losses: &[(&[&str], &str)]) {
    let mut server = server;
    fill(&server).await;
    server.exec("CREATE TABLE shop.m (id INT) ENGINE=MyISAM").await.unwrap();
    server.exec("CREATE DATABASE other").await.unwrap();
    server.exec("CREATE TABLE other.t (id INT PRIMARY KEY) ENGINE=InnoDB").await.unwrap();
    server.stop().await.unwrap();
    let binary = match server.vendor() {
        testkit::mysqld::Vendor::Mysql9 { root } => Some(wrapper(&server, root)),
        _ => None,
    };
    let budget = CheckBudget { time: Duration::from_secs(60) };
    for (lost, words) in losses {
        let copy = server.base().join("copy");
        copy_datadir(server.datadir(), &copy);
        for name in *lost {
            let path = copy.join(name);
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        let options = SandboxOptions { binary: binary.clone(), ..options(&server, &copy) };
        let proof = sandbox::verify(options, budget, &|_| {}).await.unwrap();
        assert!(!proof.passed && proof.detail.contains(words), "{lost:?}: {}", proof.detail);
        fs::remove_dir_all(copy).unwrap();
    }
}

#[tokio::test]
async fn a_mariadb_copy_that_is_not_whole_is_refused_by_what_it_lacks() {
    let losses: &[(&[&str], &str)] = &[
        (&["shop/t.ibd"], "shop"),
        (&["shop/m.MYD"], "shop.m"),
        (&["other"], "other"),
        (&["aria_log_control"], "aria_log_control"),
        (&["ibdata1", "ib_logfile0"], "ibdata1"),
    ];
    a_copy_that_is_not_whole_is_refused(mariadb().await, losses).await;
}

#[tokio::test]
async fn a_mysql_copy_that_is_not_whole_is_refused_by_what_it_lacks() {
    let Some(options) = mysql9() else { return };
    let losses: &[(&[&str], &str)] = &[
        (&["shop/t.ibd"], "shop/t.ibd"),
        (&["shop/m.MYD"], "shop"),
        (&["other"], "other/t.ibd"),
        (&["ibdata1", "#innodb_redo", "undo_001"], "undo_001"),
    ];
    a_copy_that_is_not_whole_is_refused(Mysqld::start(options).await.unwrap(), losses).await;
}

#[tokio::test]
async fn a_directory_with_a_text_file_is_no_proof() {
    let server = mariadb().await;
    let directory = server.base().join("notes");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("readme.txt"), "x").unwrap();
    let proof = sandbox::verify(options(&server, &directory), CheckBudget::default(), &|_| {}).await.unwrap();
    assert!(!proof.passed && proof.detail.contains("no whole datadir"), "{}", proof.detail);
    assert!(!directory.join("ibdata1").exists());
}

#[tokio::test]
async fn a_sandbox_never_touches_a_datadir_in_use_and_dies_when_dropped() {
    let mut server = mariadb().await;
    let error = Sandbox::start(options(&server, server.datadir()), &|_| {}).await.unwrap_err();
    assert!(error.to_string().contains("a server runs on"), "{error}");
    server.stop().await.unwrap();
    let sandbox = Sandbox::start(options(&server, server.datadir()), &|_| {}).await.unwrap();
    let pid = sandbox.pid().unwrap();
    assert_eq!(leftovers(server.base()).len(), 1);
    drop(sandbox);
    testkit::poll::until_true(Duration::from_secs(20), "the private server to be gone", || {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.is_empty())
            || !Path::new(&format!("/proc/{pid}")).exists()
    });
    assert_eq!(leftovers(server.base()), Vec::<String>::new());
}

/// Dies as a killed agent does, with a private server.
async fn die_with_a_private_server(base: &Path) {
    let options = SandboxOptions { run_root: base.to_owned(), ..SandboxOptions::new(base.join("data")) };
    let sandbox = Sandbox::start(options, &|_| {}).await.unwrap();
    fs::write(base.join("pid"), sandbox.pid().unwrap().to_string()).unwrap();
    std::process::abort();
}

#[tokio::test]
async fn what_a_killed_agent_left_is_reaped_and_what_a_living_one_uses_is_not() {
    // Started by itself below, as the agent that dies.
    if let Some(base) = std::env::var_os("OA_SANDBOX_BASE") {
        die_with_a_private_server(Path::new(&base)).await;
    }
    let mut server = mariadb().await;
    server.stop().await.unwrap();
    let base = server.base().to_owned();
    let mut agent = std::process::Command::new(std::env::current_exe().unwrap());
    agent.args(["--exact", "what_a_killed_agent_left_is_reaped_and_what_a_living_one_uses_is_not"]);
    let status = agent.env("OA_SANDBOX_BASE", &base).output().unwrap().status;
    assert!(!status.success(), "it died: {status}");
    let pid = fs::read_to_string(base.join("pid")).unwrap();
    let lives = || fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
    assert!(lives(), "the private server outlives it");
    assert_eq!(sandbox::reap_leftovers(&base, None).unwrap(), 1);
    assert!(!lives(), "it is gone when that returns");

    let sandbox = Sandbox::start(options(&server, server.datadir()), &|_| {}).await.unwrap();
    let runs = || fs::read_dir(&base).unwrap().filter(|e| name_of(e).starts_with("oa-sandbox-")).count();
    assert_eq!(sandbox::reap_leftovers(&base, None).unwrap(), 0, "its agent lives");
    assert_eq!(runs(), 1);
    sandbox.stop().await;
    assert_eq!(runs(), 0);
}

fn name_of(entry: &std::io::Result<fs::DirEntry>) -> String {
    entry.as_ref().unwrap().file_name().into_string().unwrap()
}

#[tokio::test]
async fn a_private_server_runs_as_the_owner_and_its_options_are_roots() {
    use std::os::unix::fs::MetadataExt as _;

    let mut server = mariadb().await;
    server.stop().await.unwrap();
    let owner = fs::metadata(server.datadir()).unwrap().uid();
    let sandbox = Sandbox::start(options(&server, server.datadir()), &|_| {}).await.unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", sandbox.pid().unwrap())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(field("Uid:"), vec![owner.to_string(); 4]);
    if owner != nix::unistd::Uid::effective().as_raw() {
        assert_eq!((field("CapPrm:"), field("NoNewPrivs:")), (vec!["0".repeat(16)], vec!["1".to_owned()]));
    }
    let run = sandbox.socket().parent().unwrap().parent().unwrap().to_owned();
    for path in [run.clone(), run.join("my.cnf")] {
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.uid(), nix::unistd::Uid::effective().as_raw(), "{}", path.display());
        assert_eq!(meta.mode() & 0o022, 0, "{}", path.display());
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn encrypted_tables_are_proven_with_their_keys_and_not_without() {
    use std::os::unix::fs::PermissionsExt;

    let keys = tempfile::Builder::new().prefix("oa-keys-").tempdir_in("/tmp").unwrap();
    let file = keys.path().join("keys");
    fs::write(&file, format!("1;{}\n", "0123456789abcdef".repeat(4))).unwrap();
    for path in [keys.path(), &file] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let lines = vec![
        "plugin-load-add=file_key_management".into(),
        format!("loose-file-key-management-filename={}", file.display()),
        "innodb-encrypt-tables=ON".into(),
    ];
    let mut server = Mysqld::start(MysqldOptions { lines, ..MysqldOptions::default() }).await.unwrap();
    fill(&server).await;
    server.stop().await.unwrap();
    let copy = server.base().join("copy");
    copy_datadir(server.datadir(), &copy);
    let without = options(&server, &copy);
    let proof = sandbox::verify(without.clone(), CheckBudget::default(), &|_| {}).await.unwrap();
    assert!(!proof.passed, "{}", proof.detail);
    let extra_args = instance(&server).settings().await.key_arguments();
    let with = SandboxOptions { extra_args, ..without };
    let proof = sandbox::verify(with, CheckBudget::default(), &|_| {}).await.unwrap();
    assert!(proof.passed, "{}", proof.detail);
}

#[tokio::test]
async fn mysql_9_data_are_proven() {
    let Some(server_options) = mysql9() else { return };
    let testkit::mysqld::Vendor::Mysql9 { root } = server_options.vendor.clone() else { unreachable!() };
    let mut server = Mysqld::start(server_options).await.unwrap();
    fill(&server).await;
    let expected = instance(&server).coordinates().await.unwrap();
    server.kill9().await.unwrap();
    let copy = server.base().join("copy");
    copy_datadir(server.datadir(), &copy);
    let wrapper = wrapper(&server, &root);
    let options = SandboxOptions { binary: Some(wrapper), ..options(&server, &copy) };
    let proof = sandbox::verify(options.clone(), CheckBudget::default(), &|_| {}).await.unwrap();
    assert!(proof.passed, "{}", proof.detail);
    let recovered = proof.recovered.unwrap();
    assert_eq!((recovered.gtid, recovered.binlog), (expected.gtid, expected.binlog));
    let mut table = fs::OpenOptions::new().write(true).open(copy.join("shop/t.ibd")).unwrap();
    table.seek(SeekFrom::Start(6 * 16_384 + 5_000)).unwrap();
    table.write_all(&[0xAB; 4_096]).unwrap();
    let proof = sandbox::verify(options, CheckBudget::default(), &|_| {}).await.unwrap();
    assert!(!proof.passed, "{}", proof.detail);
    assert_eq!(leftovers(server.base()), Vec::<String>::new());
}

/// Attacker: who may rename the parent of the run directory, as the datadir's owner may a seed's directory.
#[tokio::test]
async fn a_run_directory_is_made_in_the_parent_that_is_held_and_not_in_its_place() {
    let mut server = mariadb().await;
    server.stop().await.unwrap();
    let (named, away) = (server.base().join("run"), server.base().join("away"));
    fs::create_dir(&named).unwrap();
    let held = std::sync::Arc::new(sys::dir::Dir::open(&named).unwrap());
    fs::rename(&named, &away).unwrap();
    let planted = server.base().join("planted");
    fs::create_dir(&planted).unwrap();
    std::os::unix::fs::symlink(&planted, &named).unwrap();
    let options = SandboxOptions {
        run_root: named.clone(),
        run_held: Some(held.clone()),
        ..SandboxOptions::new(server.datadir())
    };
    Sandbox::start(options, &|_| {}).await.unwrap_err();
    assert_eq!(fs::read_dir(&planted).unwrap().count(), 0, "nothing was made in its place");
    assert_eq!(leftovers(&away), Vec::<String>::new(), "and what was made in it is gone");

    fs::create_dir(planted.join("oa-sandbox-7")).unwrap();
    assert_eq!(sandbox::reap_leftovers(&named, Some(&held)).unwrap(), 0);
    assert!(planted.join("oa-sandbox-7").exists(), "what lies in its place is not removed");
}
