//! "Done" means that every transaction of the source is there.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::replica::{PASSWORD, clone_of, primary, source, source_with};
use common::{instance, mariadb11, mysql9};
use mysql::history::{self, Availability};
use mysql::replicate::{self, CatchUp};
use protocol::mysql::BinlogPosition;
use testkit::fault_proxy::FaultProxy;
use testkit::mysqld::{Mysqld, MysqldOptions};

const LIMIT: Duration = Duration::from_secs(20);

fn goal(patience_s: u64) -> CatchUp {
    CatchUp { patience: Duration::from_secs(patience_s), ..CatchUp::default() }
}

/// Rows that take this long to apply, each: as statements, they sleep on the replica too.
async fn slow_rows(primary: &Mysqld, rows: u32) {
    use testkit::mysqld::mysql_async::prelude::Queryable as _;
    let mut conn = primary.connect().await.unwrap();
    conn.query_drop("SET SESSION binlog_format = 'STATEMENT'").await.unwrap();
    let list: Vec<String> = (0..rows).map(|_| "(SLEEP(0.05) + 1)".to_owned()).collect();
    conn.query_drop(format!("INSERT INTO shop.t (v) VALUES {}", list.join(","))).await.unwrap();
    conn.disconnect().await.unwrap();
}

async fn waits_for_what_the_source_had(options: MysqldOptions) {
    let mut primary = primary(options.clone()).await;
    let at = instance(&primary).coordinates().await.unwrap();
    let replica = clone_of(&mut primary, options).await;
    // Longer than the patience: nothing but the rows in it tells that the applier gets on.
    slow_rows(&primary, 100).await;
    let (source, here) = (source(&primary, PASSWORD), instance(&replica));
    replicate::start(&here, &source, &at).await.unwrap();
    let following = replicate::wait(&here, &source, &at, goal(2), &|_| {}).await.unwrap();
    assert_eq!(replica.scalar("SELECT COUNT(*) FROM shop.t").await.unwrap(), "103", "{following:?}");
    let had = instance(&primary).coordinates().await.unwrap().gtid;
    assert_eq!((following.source.gtid, following.applied.gtid), (had.clone(), had));

    replica.exec("SET GLOBAL read_only = OFF").await.unwrap();
    replica.exec("INSERT INTO shop.t (id, v) VALUES (5000, 1)").await.unwrap();
    replicate::start(&here, &source, &replica_position(&replica).await).await.unwrap();
    if primary.vendor().is_mysql() {
        let error = replicate::wait(&here, &source, &at, goal(10), &|_| {}).await.unwrap_err();
        let own = replica.scalar("SELECT @@server_uuid").await.unwrap();
        assert!(error.to_string().contains(&own), "the errant transaction is named: {error}");
    }
}

async fn replica_position(replica: &Mysqld) -> protocol::mysql::Coordinates {
    instance(replica).coordinates().await.unwrap()
}

#[tokio::test]
async fn mariadb_is_done_when_what_the_source_had_is_applied() {
    waits_for_what_the_source_had(MysqldOptions::default()).await;
}

#[tokio::test]
async fn mysql_is_done_when_what_the_source_had_is_applied() {
    if let Some(options) = mysql9() {
        waits_for_what_the_source_had(options).await;
    }
}

/// The source is 20 ms away, and its answer to the dump's request comes long after the threads say that they run.
async fn a_refused_dump_is_no_success(options: MysqldOptions, equal_ids: bool) {
    let mut primary = primary(options.clone()).await;
    let mut at = instance(&primary).coordinates().await.unwrap();
    let server_id = primary.scalar("SELECT @@server_id").await.unwrap().parse().unwrap();
    let replica_options = MysqldOptions { server_id: equal_ids.then_some(server_id), ..options };
    let replica = clone_of(&mut primary, replica_options).await;
    if !equal_ids {
        at.gtid = None;
        at.binlog.as_mut().unwrap().position += 1 << 20;
    }
    let proxy = FaultProxy::start(SocketAddr::from(([127, 0, 0, 1], primary.port()))).unwrap();
    proxy.delay(Duration::from_millis(20));
    let source = source_with(&primary, "repl", PASSWORD, proxy.address().port(), "");
    primary.exec("GRANT REPLICATION CLIENT ON *.* TO repl@'127.0.0.1'").await.unwrap();
    let here = instance(&replica);
    replicate::start(&here, &source, &at).await.unwrap();
    let ended = replicate::wait(&here, &source, &at, goal(10), &|_| {}).await;
    assert!(ended.is_err(), "{ended:?}");
}

#[tokio::test]
async fn equal_server_ids_on_a_far_source_are_no_success() {
    a_refused_dump_is_no_success(MysqldOptions::default(), true).await;
    if let Some(options) = mysql9() {
        a_refused_dump_is_no_success(options, true).await;
    }
}

#[tokio::test]
async fn a_position_beyond_the_log_of_a_far_source_is_no_success() {
    a_refused_dump_is_no_success(MysqldOptions::default(), false).await;
    if let Some(mut options) = mysql9() {
        options.lines = vec!["gtid-mode=OFF".to_owned(), "enforce-gtid-consistency=OFF".to_owned()];
        a_refused_dump_is_no_success(options, false).await;
    }
}

#[tokio::test]
async fn an_idle_source_is_followed_by_file_and_position_too() {
    let Some(mut options) = mysql9() else { return };
    options.lines = vec!["gtid-mode=OFF".to_owned(), "enforce-gtid-consistency=OFF".to_owned()];
    let mut primary = primary(options.clone()).await;
    let at = instance(&primary).coordinates().await.unwrap();
    let replica = clone_of(&mut primary, options).await;
    primary.exec("GRANT REPLICATION CLIENT ON *.* TO repl@'127.0.0.1'").await.unwrap();
    primary.exec("FLUSH BINARY LOGS").await.unwrap();
    let (source, here) = (source(&primary, PASSWORD), instance(&replica));
    replicate::start(&here, &source, &at).await.unwrap();
    let following = replicate::wait(&here, &source, &at, goal(10), &|_| {}).await.unwrap();
    let BinlogPosition { file, position } = following.applied.binlog.unwrap();
    let target = following.source.binlog.unwrap();
    assert!(file == target.file && position >= target.position, "{file}:{position}, {target:?}");
}

async fn tls_is_demanded_and_given(options: MysqldOptions) {
    let mut primary = primary(options.clone()).await;
    let at = instance(&primary).coordinates().await.unwrap();
    let replica = clone_of(&mut primary, options).await;
    for statement in [
        "CREATE USER safe@'127.0.0.1' IDENTIFIED BY 'secret' REQUIRE SSL",
        "GRANT REPLICATION SLAVE ON *.* TO safe@'127.0.0.1'",
    ] {
        primary.exec(statement).await.unwrap();
    }
    let clear = source_with(&primary, "safe", "secret", primary.port(), "");
    assert!(history::check_source(&clear, &at, LIMIT).await.is_err());
    let source = source_with(&primary, "safe", "secret", primary.port(), "ssl-mode=REQUIRED");
    let found = history::check_source(&source, &at, LIMIT).await.unwrap();
    assert!(!matches!(found, Availability::Gone(_)), "{found:?}");
    let here = instance(&replica);
    replicate::start(&here, &source, &at).await.unwrap();
    replicate::wait(&here, &source, &at, goal(10), &|_| {}).await.unwrap();
    assert!(here.replicates_over_tls().await);
}

#[tokio::test]
async fn an_account_that_requires_tls_is_followed_over_tls() {
    for options in [mysql9(), mariadb11()].into_iter().flatten() {
        tls_is_demanded_and_given(options).await;
    }
}

#[tokio::test]
async fn an_account_of_the_ed25519_plugin_logs_in() {
    let mut primary = primary(MysqldOptions::default()).await;
    let at = instance(&primary).coordinates().await.unwrap();
    for statement in [
        "INSTALL SONAME 'auth_ed25519'",
        "CREATE USER ed@'127.0.0.1' IDENTIFIED VIA ed25519 USING PASSWORD('secret')",
        "GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO ed@'127.0.0.1'",
    ] {
        primary.exec(statement).await.unwrap();
    }
    let source = source_with(&primary, "ed", "secret", primary.port(), "");
    assert_eq!(history::check_source(&source, &at, LIMIT).await.unwrap(), Availability::Available);
    let wrong = source_with(&primary, "ed", "wrong", primary.port(), "#");
    assert!(history::check_source(&wrong, &at, LIMIT).await.is_err());
    primary.stop().await.unwrap();
}
