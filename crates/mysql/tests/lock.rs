//! The commit lock on real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{instance, mariadb, mysql9};
use mysql::Error;
use mysql::consistency::scope;
use mysql::lock::{InstanceLock, LockLimits, LockScope};
use testkit::mysqld::Mysqld;
use testkit::mysqld::mysql_async::prelude::Queryable;

async fn with_table(server: &Mysqld) {
    server.exec("CREATE DATABASE shop").await.unwrap();
    server
        .exec("CREATE TABLE shop.t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v INT) ENGINE=InnoDB")
        .await
        .unwrap();
}

/// Commits one row after the other until told to stop; counts them.
struct Writer {
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

async fn writer(server: &Mysqld) -> Writer {
    let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut conn = server.connect().await.unwrap();
    let task = tokio::spawn({
        let (count, stop) = (Arc::clone(&count), Arc::clone(&stop));
        async move {
            while !stop.load(Ordering::Relaxed) {
                conn.query_drop("INSERT INTO shop.t (v) VALUES (1)").await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
            conn.disconnect().await.unwrap();
        }
    });
    Writer { count, stop, task }
}

impl Writer {
    async fn beyond(&self, count: u64) {
        let what = format!("more than {count} commits");
        testkit::poll::until_async(Duration::from_secs(30), what, || async {
            (self.count.load(Ordering::Relaxed) > count).then_some(())
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

async fn blocks_commits_and_tells_the_exact_place(server: &Mysqld, gtid_rows: impl AsyncFn(&str) -> u64) {
    with_table(server).await;
    let writer = writer(server).await;
    writer.beyond(20).await;
    let instance = instance(server);
    let lock = InstanceLock::take(&instance, LockScope::Commits, LockLimits::default()).await.unwrap();
    let at = lock.coordinates().clone();
    let rows: u64 = server.scalar("SELECT COUNT(*) FROM shop.t").await.unwrap().parse().unwrap();
    // Every committed row is one transaction: the GTID recorded under the lock must count them exactly.
    assert_eq!(gtid_rows(at.gtid.as_deref().unwrap()).await, rows);
    let again: u64 = server.scalar("SELECT COUNT(*) FROM shop.t").await.unwrap().parse().unwrap();
    assert_eq!(again, rows, "a commit went through the lock");
    assert_eq!(instance.coordinates().await.unwrap(), at);
    let held = lock.release().await.unwrap();
    assert!(held < Duration::from_secs(30));
    let stopped_at = writer.count.load(Ordering::Relaxed);
    writer.beyond(stopped_at + 5).await;
    writer.end().await;
    assert_ne!(instance.coordinates().await.unwrap(), at);
}

#[tokio::test]
async fn mariadb_stands_still_under_the_lock() {
    let server = mariadb().await;
    blocks_commits_and_tells_the_exact_place(&server, async |gtid| {
        // The two statements that made the table came first.
        gtid.rsplit('-').next().unwrap().parse::<u64>().unwrap() - 2
    })
    .await;
}

#[tokio::test]
async fn mysql_9_stands_still_under_the_lock() {
    let Some(options) = mysql9() else { return };
    let server = Mysqld::start(options).await.unwrap();
    blocks_commits_and_tells_the_exact_place(&server, async |gtid| {
        gtid.rsplit(['-', ':']).next().unwrap().parse::<u64>().unwrap() - 2
    })
    .await;
}

#[tokio::test]
async fn a_long_statement_in_the_way_ends_the_wait_and_nothing_stays_locked() {
    let server = mariadb().await;
    with_table(&server).await;
    let mut busy = server.connect().await.unwrap();
    busy.query_drop("LOCK TABLES shop.t WRITE").await.unwrap();
    let limits = LockLimits { wait: Duration::from_secs(1), ..LockLimits::default() };
    let began = Instant::now();
    let error = InstanceLock::take(&instance(&server), LockScope::Commits, limits).await.unwrap_err();
    assert!(matches!(error, Error::Lock { .. }), "{error}");
    assert!(error.to_string().contains("was not granted within 1 s"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    busy.query_drop("UNLOCK TABLES").await.unwrap();
    server.exec("INSERT INTO shop.t (v) VALUES (1)").await.unwrap();
}

#[tokio::test]
async fn dropping_the_lock_releases_it() {
    let server = mariadb().await;
    with_table(&server).await;
    let lock =
        InstanceLock::take(&instance(&server), LockScope::Commits, LockLimits::default()).await.unwrap();
    drop(lock);
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, server.exec("INSERT INTO shop.t (v) VALUES (1)")).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lock_that_the_server_took_away_is_not_called_consistent() {
    let server = mariadb().await;
    with_table(&server).await;
    let limits = LockLimits { hold: Duration::from_secs(1), ..LockLimits::default() };
    let lock = InstanceLock::take(&instance(&server), LockScope::Commits, limits).await.unwrap();
    // The writer waits for the lock, and gets through when the server itself ends it.
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, server.exec("INSERT INTO shop.t (v) VALUES (1)")).await.unwrap().unwrap();
    let error = lock.release().await.unwrap_err();
    assert!(error.to_string().contains("was lost while it was held"), "{error}");
}

/// A statement that reads the table for as long as its connection lives, and has done so for some time.
async fn long_select(server: &Mysqld) -> tokio::task::JoinHandle<()> {
    let mut busy = server.connect().await.unwrap();
    let task = tokio::spawn(async move { drop(busy.query_drop("SELECT SLEEP(600) FROM shop.t").await) });
    let running =
        "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%' AND time >= 2";
    testkit::poll::until_async(Duration::from_secs(30), "the statement to run", || async {
        (server.scalar(running).await.unwrap() == "1").then_some(())
    })
    .await;
    task
}

#[tokio::test]
async fn a_long_select_on_mysql_holds_no_commit_up() {
    let Some(options) = mysql9() else { return };
    let server = Mysqld::start(options).await.unwrap();
    with_table(&server).await;
    server.exec("INSERT INTO shop.t (v) VALUES (1)").await.unwrap();
    let info = || async { instance(&server).info().await };
    assert_eq!(scope(&info().await), LockScope::Ddl, "InnoDB's tables only");
    let busy = long_select(&server).await;
    let writer = writer(&server).await;
    writer.beyond(10).await;

    // The narrow lock lets both through, and tells where the data stand at least.
    let lock = InstanceLock::take(&instance(&server), LockScope::Ddl, LockLimits::default()).await.unwrap();
    assert!(lock.coordinates().gtid.is_some() && lock.coordinates().binlog.is_some());
    writer.beyond(writer.count.load(Ordering::Relaxed) + 20).await;
    lock.release().await.unwrap();

    // The wide one is not even asked for where it would have to wait.
    let limits = LockLimits { wait: Duration::from_secs(1), ..LockLimits::default() };
    let error = InstanceLock::take(&instance(&server), LockScope::Commits, limits).await.unwrap_err();
    assert!(error.to_string().contains("was not asked for"), "{error}");
    writer.end().await;
    busy.abort();

    let wide = || async {
        mysql::lock::widened(&instance(&server), LockScope::Ddl, Duration::from_secs(5)).await.unwrap()
    };
    assert_eq!(wide().await, LockScope::Ddl);
    server.exec("SET GLOBAL innodb_flush_log_at_trx_commit = 0").await.unwrap();
    assert_eq!(wide().await, LockScope::Commits, "commits are not in the engine's log at once");
    server.exec("CREATE TABLE shop.old (id INT) ENGINE=MyISAM").await.unwrap();
    assert_eq!(scope(&info().await), LockScope::Commits, "MyISAM has no recovery");
}

#[tokio::test]
async fn mariadb_s_lock_blocks_commits_for_no_longer_than_one() {
    let server = mariadb().await;
    assert_eq!(scope(&instance(&server).info().await), LockScope::Commits);
}
