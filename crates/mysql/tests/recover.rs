//! Copies of crashed servers that become other servers' data.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{copy_datadir, instance, mysql9};
use mysql::recover::{OwnLog, RecoverOptions, end_on, recover};
use testkit::mysqld::{Mysqld, MysqldOptions};

async fn options(server: &Mysqld, copy: &Path, own_log: OwnLog) -> RecoverOptions {
    let settings = instance(server).settings().await;
    RecoverOptions {
        datadir: copy.to_owned(),
        program: settings.program(instance(server).config()).unwrap(),
        run_root: server.base().to_owned(),
        run_held: None,
        arguments: settings.format_arguments(copy),
        own_log,
        at_least: None,
        is_replica: true,
        buffer_pool_bytes: 64 << 20,
        look: Duration::from_secs(30),
        start_patience: Duration::from_secs(60),
        stop_patience: Duration::from_secs(60),
    }
}

/// A server with an absolute log name in its datadir, rows, an event and channels, killed; and a copy of its files.
async fn crashed(base: MysqldOptions) -> (Mysqld, PathBuf, tempfile::TempDir) {
    let home = tempfile::Builder::new().prefix("oa-abs-").tempdir_in(base.vendor.short_dir()).unwrap();
    std::os::unix::fs::chown(home.path(), Some(owner()), None).unwrap();
    let datadir = home.path().join("data");
    let lines = vec![format!("log-bin={}/db1-bin", datadir.display())];
    let mut server = Mysqld::start(MysqldOptions { datadir: Some(datadir), lines, ..base }).await.unwrap();
    let channels = match server.vendor().is_mysql() {
        true => {
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 9, SOURCE_USER = 'x', SOURCE_PASSWORD = 'y'"
        }
        false => {
            "CHANGE MASTER 'other' TO MASTER_HOST = '127.0.0.1', MASTER_PORT = 9, MASTER_USER = 'x', MASTER_PASSWORD = 'y'"
        }
    };
    for sql in [
        "CREATE DATABASE shop",
        "CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY)",
        "CREATE DEFINER = nobody@nowhere EVENT shop.tick ON SCHEDULE EVERY 1 HOUR DO INSERT INTO shop.t VALUES (NULL)",
        channels,
    ] {
        server.exec(sql).await.unwrap();
    }
    for _ in 0..20 {
        server.exec("INSERT INTO shop.t VALUES (NULL)").await.unwrap();
    }
    server.exec("FLUSH BINARY LOGS").await.unwrap();
    server.exec("INSERT INTO shop.t VALUES (NULL)").await.unwrap();
    server.kill9().await.unwrap();
    let copy = server.base().join("copy");
    copy_datadir(server.datadir(), &copy);
    (server, copy, home)
}

fn owner() -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    let probe = Mysqld::prepare(MysqldOptions::default()).unwrap();
    fs::metadata(probe.datadir()).unwrap().uid()
}

async fn becomes_anothers(base: MysqldOptions) {
    let (mut server, copy, _home) = crashed(base.clone()).await;
    let recovered =
        recover(options(&server, &copy, OwnLog::Inside("db2-bin".into())).await, &|_| {}).await.unwrap();
    assert_eq!((recovered.channels, recovered.events), (1, 1), "{recovered:?}");
    assert!(recovered.looked_at > 0 && recovered.looked_at == recovered.tables, "{recovered:?}");
    let index = fs::read_to_string(copy.join("db2-bin.index")).unwrap();
    assert!(
        index.lines().count() >= 2 && index.lines().all(|line| line.starts_with("./db2-bin.")),
        "{index}"
    );
    assert!(!copy.join("auto.cnf").exists() && !copy.join("db1-bin.index").exists());

    // It may expire its logs as it likes: those of the server that was copied stay.
    let theirs = || fs::read_to_string(server.datadir().join("db1-bin.index")).unwrap();
    let before = theirs();
    let lines = vec!["log-bin=db2-bin".to_owned(), "event-scheduler=ON".to_owned()];
    let copied = Mysqld::start(MysqldOptions { datadir: Some(copy), lines, ..base }).await.unwrap();
    assert_eq!(copied.scalar("SELECT COUNT(*) FROM shop.t").await.unwrap(), "21");
    let event = copied.query("SELECT status, definer FROM information_schema.events").await.unwrap();
    assert!(event[0][0].ends_with("SIDE_DISABLED") && event[0][1] == "nobody@nowhere", "{event:?}");
    let last = copied.query("SHOW BINARY LOGS").await.unwrap().pop().unwrap()[0].clone();
    copied.exec(format!("PURGE BINARY LOGS TO '{last}'")).await.unwrap();
    assert_eq!(theirs(), before);
    for line in before.lines() {
        assert!(Path::new(line).is_file(), "{line} is gone");
    }
    server.boot().await.unwrap();
    let at = instance(&server).coordinates().await.unwrap();
    assert_eq!(recovered.coordinates.gtid, at.gtid, "both recovered the same transactions");
}

#[tokio::test]
async fn a_crashed_mariadb_becomes_another_servers_data() {
    becomes_anothers(MysqldOptions::default()).await;
}

#[tokio::test]
async fn a_crashed_mysql_9_becomes_another_servers_data() {
    let Some(options) = mysql9() else { return };
    becomes_anothers(options).await;
}

#[tokio::test]
async fn a_copy_without_a_table_s_file_is_refused_by_its_name_and_nothing_runs_on_it() {
    let (server, copy, _home) = crashed(MysqldOptions::default()).await;
    fs::remove_file(copy.join("shop/t.ibd")).unwrap();
    let error = recover(options(&server, &copy, OwnLog::Off).await, &|_| {}).await.unwrap_err();
    assert!(format!("{error:?}").contains("shop"), "{error:?}");
    end_on(&copy).await.unwrap();
    assert!(
        !fs::read_dir(server.base())
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_string_lossy().starts_with("oa-sandbox-") })
    );
}

#[tokio::test]
async fn recovered_data_that_lack_what_the_donor_had_are_refused() {
    let Some(base) = mysql9() else { return };
    let (mut server, copy, _home) = crashed(base).await;
    let early = server.base().join("early");
    copy_datadir(&copy, &early);
    server.boot().await.unwrap();
    let at = instance(&server).coordinates().await.unwrap();
    server.exec("INSERT INTO shop.t VALUES (NULL)").await.unwrap();
    let later = instance(&server).coordinates().await.unwrap();

    let holds = |datadir: &Path, at_least| {
        let datadir = datadir.to_owned();
        let server = &server;
        async move {
            let options = options(server, &datadir, OwnLog::Off).await;
            recover(RecoverOptions { at_least: Some(at_least), ..options }, &|_| {}).await
        }
    };
    holds(&copy, at.clone()).await.unwrap();
    let error = holds(&early, later).await.unwrap_err();
    let error = error.to_string();
    assert!(error.contains("before they were frozen") && error.contains(&at.gtid.unwrap()), "{error}");
}
