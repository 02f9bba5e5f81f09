//! A copy becomes a replica that catches up with a primary under writes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

mod common;

use std::time::{Duration, Instant};

use common::replica::{PASSWORD, clone_of, primary, source};
use common::{instance, mysql9};
use mysql::Error;
use mysql::replicate::{self, CatchUp};
use testkit::mysqld::MysqldOptions;

async fn follows(options: MysqldOptions) {
    let mut primary = primary(options.clone()).await;
    let at = instance(&primary).coordinates().await.unwrap();
    let replica = clone_of(&mut primary, options).await;
    primary.exec("INSERT INTO shop.t (v) VALUES (4)").await.unwrap();
    let (source, replica_instance) = (source(&primary, PASSWORD), instance(&replica));
    replicate::start(&replica_instance, &source, &at).await.unwrap();
    let goal = CatchUp { max_lag_seconds: 0, ..CatchUp::default() };
    replicate::wait(&replica_instance, &source, &at, goal, &|_| {}).await.unwrap();
    primary.exec("INSERT INTO shop.t (v) VALUES (5)").await.unwrap();
    testkit::poll::until_async(Duration::from_secs(30), "the replica to have all rows", || async {
        (replica.scalar("SELECT SUM(v) FROM shop.t").await.unwrap() == "15").then_some(())
    })
    .await;
    // MySQL tells the lag of the row before for a moment after a row has come.
    let info = testkit::poll::until_async(Duration::from_secs(30), "no lag", || async {
        let info = replica_instance.info().await;
        (info.lag_seconds == Some(0)).then_some(info)
    })
    .await;
    assert_eq!(info.replica_of, Some(format!("127.0.0.1:{}", primary.port())));
    assert_eq!(info.read_only, Some(true));
    let primary_info = instance(&primary).info().await;
    assert_eq!(primary_info.replicas, Some(1));
    assert_eq!(primary_info.coordinates.unwrap().gtid, info.coordinates.unwrap().gtid);
    replicate::forget(&replica_instance).await.unwrap();
    assert_eq!(replica_instance.info().await.replica_of, None);
}

#[tokio::test]
async fn a_mariadb_clone_follows_its_primary_by_gtid() {
    follows(MysqldOptions::default()).await;
}

#[tokio::test]
async fn a_mysql_9_clone_follows_its_primary_by_gtid() {
    if let Some(options) = mysql9() {
        follows(options).await;
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_with_the_servers_words_and_without_the_password() {
    let mut primary = primary(MysqldOptions::default()).await;
    let at = instance(&primary).coordinates().await.unwrap();
    let replica = clone_of(&mut primary, MysqldOptions::default()).await;
    let source = source(&primary, "wrong-password");
    replicate::start(&instance(&replica), &source, &at).await.unwrap();
    let began = Instant::now();
    let goal = CatchUp { patience: Duration::from_secs(3), ..CatchUp::default() };
    let error = replicate::wait(&instance(&replica), &source, &at, goal, &|_| {}).await.unwrap_err();
    assert!(matches!(error, Error::Replication { .. }), "{error}");
    assert!(error.to_string().contains("repl"), "{error}");
    assert!(!error.to_string().contains("wrong-password"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn a_file_position_works_where_there_is_no_gtid() {
    let mut primary = primary(MysqldOptions::default()).await;
    let mut at = instance(&primary).coordinates().await.unwrap();
    at.gtid = None;
    let replica = clone_of(&mut primary, MysqldOptions::default()).await;
    primary.exec("INSERT INTO shop.t (v) VALUES (7)").await.unwrap();
    let source = source(&primary, PASSWORD);
    replicate::start(&instance(&replica), &source, &at).await.unwrap();
    let goal = CatchUp { writable: true, ..CatchUp::default() };
    replicate::wait(&instance(&replica), &source, &at, goal, &|_| {}).await.unwrap();
    testkit::poll::until_async(Duration::from_secs(30), "the row to arrive", || async {
        (replica.scalar("SELECT SUM(v) FROM shop.t").await.unwrap() == "13").then_some(())
    })
    .await;
    assert_eq!(instance(&replica).info().await.read_only, Some(false));
}
