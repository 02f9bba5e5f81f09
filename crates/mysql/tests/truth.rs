//! "Done" means that every transaction of the source is there.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::replica::{PASSWORD, clone_of, primary, source, source_with};
use common::{instance, mariadb11, mysql9};
use mysql::history::{self, Availability, Follower, Recorded};
use mysql::lock::{InstanceLock, LockLimits, LockScope};
use mysql::replicate::{self, CatchUp, Source};
use protocol::mysql::{BinlogPosition, Coordinates, LogIdentity};
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

async fn look(source: &Source, at: &Coordinates, log: Option<&LogIdentity>) -> mysql::Result<Availability> {
    let recorded = Recorded { from: at, log, at: None };
    history::check_source(source, &recorded, &Follower { server_id: 4711, ..Follower::default() }, LIMIT)
        .await
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
    let error = replicate::wait(&here, &source, &at, goal(10), &|_| {}).await.unwrap_err();
    let own = match primary.vendor().is_mysql() {
        true => replica.scalar("SELECT @@server_uuid").await.unwrap(),
        false => replica.scalar("SELECT CONCAT('-', @@server_id, '-')").await.unwrap(),
    };
    assert!(error.to_string().contains(&own), "the errant transaction is named: {error}");
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
    assert!(look(&clear, &at, None).await.is_err());
    let source = source_with(&primary, "safe", "secret", primary.port(), "ssl-mode=REQUIRED");
    let found = look(&source, &at, None).await.unwrap();
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
    logs_in_by("ed25519", MysqldOptions::default()).await;
}

#[tokio::test]
async fn an_account_of_the_parsec_plugin_logs_in() {
    let Some(options) = mariadb11() else { return };
    logs_in_by("parsec", options).await;
}

async fn logs_in_by(plugin: &str, options: MysqldOptions) {
    let mut primary = primary(options).await;
    let at = instance(&primary).coordinates().await.unwrap();
    for statement in [
        format!("INSTALL SONAME 'auth_{plugin}'"),
        format!("CREATE USER ed@'127.0.0.1' IDENTIFIED VIA {plugin} USING PASSWORD('secret')"),
        "GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO ed@'127.0.0.1'".to_owned(),
    ] {
        primary.exec(statement).await.unwrap();
    }
    let source = source_with(&primary, "ed", "secret", primary.port(), "");
    // Often enough for a nonce that ends in a zero, which one log-in in 256 meets.
    for _ in 0..600 {
        assert_eq!(look(&source, &at, None).await.unwrap(), Availability::Available);
    }
    let wrong = source_with(&primary, "ed", "wrong", primary.port(), "#");
    assert!(look(&wrong, &at, None).await.is_err());
    primary.stop().await.unwrap();
}

fn gone(found: mysql::Result<Availability>, words: &str) {
    match found.unwrap() {
        Availability::Gone(why) if why.contains(words) => {}
        other => panic!("{words:?} is not in {other:?}"),
    }
}

/// A snapshot of a former primary's replica, older than the last writes of that primary.
async fn own_writes_after_the_snapshot_are_seen(options: MysqldOptions, by_gtid: bool) {
    let mut old_primary = primary(options.clone()).await;
    let at = instance(&old_primary).coordinates().await.unwrap();
    let promoted = clone_of(&mut old_primary, options).await;
    let (from, here) = (source(&old_primary, PASSWORD), instance(&promoted));
    replicate::start(&here, &from, &at).await.unwrap();
    replicate::wait(&here, &from, &at, goal(10), &|_| {}).await.unwrap();
    let mut frozen = here.coordinates().await.unwrap();
    let log = history::identity(&here.info().await, &frozen);
    assert!(log.created_s.is_some(), "{log:?}");
    old_primary.exec("INSERT INTO shop.t (v) VALUES (100), (101)").await.unwrap();
    replicate::wait(&here, &from, &at, goal(10), &|_| {}).await.unwrap();
    let own = instance(&old_primary).info().await;
    replicate::forget(&here).await.unwrap();
    promoted.exec("SET GLOBAL read_only = OFF").await.unwrap();
    promoted.exec("INSERT INTO shop.t (v) VALUES (200)").await.unwrap();

    let to = source(&promoted, PASSWORD);
    if !by_gtid {
        frozen.gtid = None;
    }
    let follower = |server_id: Option<u32>, server_uuid: Option<String>| Follower {
        server_id: server_id.unwrap(),
        server_uuid,
        ..Follower::default()
    };
    let ask = async |from: &Coordinates, who: Follower| {
        let recorded = Recorded { from, log: Some(&log), at: None };
        history::check_source(&to, &recorded, &who, LIMIT).await
    };
    gone(ask(&frozen, follower(own.server_id, own.server_uuid.clone())).await, "missing for ever");
    // Seeded again since, it has another uuid and the same id.
    gone(ask(&frozen, follower(own.server_id, None)).await, "missing for ever");
    let stranger = ask(&frozen, follower(Some(4711), None)).await.unwrap();
    assert_eq!(stranger, Availability::Available);
    let mut fresh = here.coordinates().await.unwrap();
    if !by_gtid {
        fresh.gtid = None;
    }
    let now = ask(&fresh, follower(own.server_id, own.server_uuid)).await.unwrap();
    assert_eq!(now, Availability::Available, "a fresh snapshot has them");
    gone(ask(&fresh, follower(here.info().await.server_id, None)).await, "same server_id");
}

#[tokio::test]
async fn a_mariadb_that_comes_back_to_its_own_writes_is_refused() {
    own_writes_after_the_snapshot_are_seen(MysqldOptions::default(), true).await;
}

#[tokio::test]
async fn a_mysql_that_comes_back_to_its_own_writes_is_refused() {
    if let Some(options) = mysql9() {
        own_writes_after_the_snapshot_are_seen(options, true).await;
    }
}

#[tokio::test]
async fn a_mysql_without_gtids_that_comes_back_to_its_own_writes_is_refused() {
    if let Some(mut options) = mysql9() {
        options.lines = vec!["gtid-mode=OFF".to_owned(), "enforce-gtid-consistency=OFF".to_owned()];
        own_writes_after_the_snapshot_are_seen(options, false).await;
    }
}

/// After a `RESET` the source has logs of the same names and, after as many writes, the same numbers.
async fn a_reset_is_seen(options: MysqldOptions) {
    let primary = primary(options).await;
    let here = instance(&primary);
    let is_mysql = primary.vendor().is_mysql();
    let frozen = here.coordinates().await.unwrap();
    let log = history::identity(&here.info().await, &frozen);
    let from = source(&primary, PASSWORD);
    assert_eq!(look(&from, &frozen, Some(&log)).await.unwrap(), Availability::Available);
    let elsewhere = LogIdentity { server_uuid: Some("another".into()), server_id: Some(99), created_s: None };
    if frozen.gtid.is_none() {
        gone(look(&from, &frozen, Some(&elsewhere)).await, "another server's log");
    }
    primary.exec(if is_mysql { "RESET BINARY LOGS AND GTIDS" } else { "RESET MASTER" }).await.unwrap();
    for _ in 0..20 {
        primary
            .exec("INSERT INTO shop.t (v) VALUES (7), (8), (9), (10), (11), (12), (13), (14)")
            .await
            .unwrap();
    }
    gone(look(&from, &frozen, Some(&log)).await, "reset");
    // The time of a log's first event counts seconds: as if it had been reset within one.
    let created_s = history::identity(&here.info().await, &frozen).created_s;
    gone(look(&from, &frozen, Some(&LogIdentity { created_s, ..log })).await, "reset");
    if frozen.gtid.is_some() {
        // A snapshot of another donor of the same history.
        let frozen_at = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(1);
        let recorded = Recorded { from: &frozen, log: Some(&elsewhere), at: Some(frozen_at) };
        let who = Follower { server_id: 4711, ..Follower::default() };
        gone(history::check_source(&from, &recorded, &who, LIMIT).await, "reset");
    }
}

#[tokio::test]
async fn a_source_that_was_reset_since_is_refused() {
    a_reset_is_seen(MysqldOptions::default()).await;
    let Some(mut options) = mysql9() else { return };
    a_reset_is_seen(options.clone()).await;
    options.lines = vec!["gtid-mode=OFF".to_owned(), "enforce-gtid-consistency=OFF".to_owned()];
    a_reset_is_seen(options).await;
}

#[tokio::test]
async fn a_source_that_does_not_log_what_it_applies_is_refused() {
    let options =
        MysqldOptions { lines: vec!["log-slave-updates=OFF".to_owned()], ..MysqldOptions::default() };
    let mut primary = primary(MysqldOptions::default()).await;
    let at = instance(&primary).coordinates().await.unwrap();
    let relay = clone_of(&mut primary, options).await;
    let here = instance(&relay);
    replicate::start(&here, &source(&primary, PASSWORD), &at).await.unwrap();
    replicate::wait(&here, &source(&primary, PASSWORD), &at, goal(10), &|_| {}).await.unwrap();
    gone(look(&source(&relay, PASSWORD), &at, None).await, "log_slave_updates");
}

#[tokio::test]
async fn a_replica_that_waits_for_events_is_not_in_the_way_of_its_snapshot() {
    let Some(options) = mysql9() else { return };
    let mut primary = primary(options.clone()).await;
    let at = instance(&primary).coordinates().await.unwrap();
    let replica = clone_of(&mut primary, options).await;
    let here = instance(&replica);
    replicate::start(&here, &source(&primary, PASSWORD), &at).await.unwrap();
    replicate::wait(&here, &source(&primary, PASSWORD), &at, goal(10), &|_| {}).await.unwrap();
    let idle = "SELECT COUNT(*) > 0 FROM information_schema.processlist WHERE user = 'system user' AND command = 'Query' AND time > 2";
    testkit::poll::until_async(Duration::from_secs(30), "its applier to wait", || async {
        (replica.scalar(idle).await.unwrap() == "1").then_some(())
    })
    .await;
    let limits = LockLimits { wait: Duration::from_secs(1), ..LockLimits::default() };
    InstanceLock::take(&here, LockScope::Commits, limits).await.unwrap().release().await.unwrap();
}
