//! Whole seeds that end in a replica: it catches up with a primary under writes, on each server that we know.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use e2e::events::{await_event, of_job};
use e2e::replication::{Account, PASSWORD, all_writes, caught_up, gtid, vendor};
use e2e::rows::{self, Writer};
use e2e::world::{PATIENCE, World, WorldOptions, slowly, swiftly};
use protocol::event::{Event, EventData};
use protocol::ids::JobId;
use protocol::job::JobState;
use protocol::params::*;
use protocol::seed::{ReplicationSource, SeedOptions};
use serde_json::Value;
use testkit::mysqld::Vendor;
use testkit::poll;

/// `db1` is the primary, with an account for replicas whose credentials lie on `db2`.
async fn world(vendor: Vendor, account: &Account, lines: &[&str]) -> World {
    world_but(vendor, account, lines, &[]).await
}

/// As [`world`], with further lines for the donor's server.
async fn world_but(vendor: Vendor, account: &Account, lines: &[&str], donor_lines: &[&str]) -> World {
    let file = account.file().display().to_string();
    let configure = move |id: &str, agent: &mut testkit::agent::AgentOptions| {
        if id == "db2" {
            agent.set("seed.replication_credentials", file.clone());
        }
    };
    let world = World::start(WorldOptions {
        vendor,
        server_lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        donor_lines: donor_lines.iter().map(|line| (*line).to_owned()).collect(),
        data_mib: 4,
        configure: Some(Box::new(configure)),
        ..WorldOptions::default()
    })
    .await;
    Account::create(&world.donor.db).await;
    world
}

async fn some_writes(world: &World, more: u64) {
    let begun = rows::last_write(&world.donor.db).await;
    poll::until_async(PATIENCE, "some writes", || async {
        (rows::last_write(&world.donor.db).await > begun + more).then_some(())
    })
    .await;
}

/// Seeds `db2` as a replica by ctl while the primary is written to; the seed's job.
async fn seed_a_replica(world: &World) -> JobId {
    let source = format!("127.0.0.1:{}", world.donor.db.port());
    let arguments = ["--json", "seed", "start", "db2", "--stop-mysql", "--replicate-from", &source];
    let said = world.ctl(&arguments).await;
    assert!(said.status.success(), "{said:?}");
    let lines = said.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let begun = lines.into_iter().find(|line| line["update"] == "begun").unwrap();
    begun["job"].as_str().unwrap().parse().unwrap()
}

async fn follows(name: &str, lines: &[&str], by_gtid: bool) {
    let Some(vendor) = vendor(name) else { return };
    let account = Account::new();
    let world = world(vendor, &account, lines).await;
    if !by_gtid {
        world.donor.db.exec("GRANT REPLICATION CLIENT ON *.* TO repl@'127.0.0.1'").await.unwrap();
    }
    let writer = Writer::start(&world.donor.db).await;
    some_writes(&world, 20).await;
    let snapshot = world.snapshot().await;
    // What the replica has to catch up with.
    some_writes(&world, 100).await;
    let at_start = rows::last_write(&world.donor.db).await;
    let job = seed_a_replica(&world).await;
    assert!(rows::last_write(&world.donor.db).await > at_start, "the primary was written to all the time");

    let view = world.succeeded(&world.recipient, job).await;
    let recorded = &view.result.as_ref().unwrap()["coordinates"];
    assert_eq!(recorded["gtid"].is_string(), by_gtid, "{recorded}");
    let info = world.call(&world.recipient, MysqlInfoParams {}).await;
    assert_eq!(info.replica_of, Some(format!("127.0.0.1:{}", world.donor.db.port())));
    assert_eq!(info.read_only, Some(true), "a replica takes no writes of its own");
    assert_eq!(world.call(&world.donor, MysqlInfoParams {}).await.replicas, Some(1));
    poll::until_async(PATIENCE, "no lag, under writes", || async {
        let info = world.call(&world.recipient, MysqlInfoParams {}).await;
        (info.lag_seconds == Some(0)).then_some(())
    })
    .await;
    some_writes(&world, 50).await;
    let written = writer.stop().await;
    caught_up(&world.recipient.db, &world.donor.db).await;
    assert_eq!(all_writes(&world.recipient.db).await[0][0], written.len().to_string());
    assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
    assert!(world.recipient.db.scalar("SHOW DATABASES LIKE 'own'").await.is_err(), "the old data are gone");
    if by_gtid {
        assert!(!gtid(&world.recipient.db).await.is_empty());
    }
    world.nothing_left(PATIENCE).await;
    nowhere_is_the_password(&world, job).await;
    println!("{name}: {} rows of the writer equal, replica of {snapshot}", written.len());
}

/// Not on the bus, not in a journal, not in a log.
async fn nowhere_is_the_password(world: &World, job: JobId) {
    let finished = |event: &Event| matches!(event.known(), Some(EventData::JobFinished(e)) if e.job == job);
    let events = await_event(&world.client, "the seed's end", finished).await;
    assert!(of_job(&events, job).iter().any(|(_, stage)| stage.stage.as_deref() == Some("replicate")));
    let part = &PASSWORD[PASSWORD.len() - 12..];
    assert!(!serde_json::to_string(&events).unwrap().contains(part));
    for host in [&world.donor, &world.recipient] {
        assert!(!host.agent.log().contains(part));
        let jobs = fs::read_dir(host.agent.state_dir().join("jobs")).unwrap();
        let journals: Vec<_> =
            jobs.map(|job| job.unwrap().path().join("journal.jsonl")).filter(|path| path.is_file()).collect();
        assert!(!journals.is_empty(), "{} keeps no journal", host.id());
        for path in journals {
            assert!(!fs::read_to_string(&path).unwrap().contains(part), "{path:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seeded_mariadb_10_11_catches_up_with_its_primary_by_gtid() {
    Box::pin(follows("mariadb", &[], true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seeded_mariadb_11_8_catches_up_with_its_primary_by_gtid() {
    Box::pin(follows("mariadb11", &[], true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seeded_mysql_9_catches_up_with_its_primary_by_gtid() {
    Box::pin(follows("mysql9", &[], true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seeded_mysql_9_without_gtid_catches_up_by_file_and_position() {
    Box::pin(follows("mysql9", &["gtid-mode=OFF", "enforce-gtid-consistency=OFF"], false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_does_not_come_to_run_gets_its_old_data_back_and_the_servers_words_are_told() {
    let account = Account::new();
    let mut world = world(Vendor::Mariadb, &account, &[]).await;
    world.recipient.agent.options().set("seed.replicate_patience_s", 3);
    world.recipient.agent.restart().unwrap();
    world.serving(&world.recipient.id()).await;
    world.snapshot().await;
    let replicate_from =
        Some(ReplicationSource { host: "127.0.0.1".to_owned(), port: world.donor.db.port() });
    let job = world.seed(SeedOptions { replicate_from, ..slowly(12 << 20) }).await;
    world.in_transfer(job, 4 << 20).await;
    // The plan had found the account.
    world.donor.db.exec("DROP USER repl@'127.0.0.1'").await.unwrap();
    world.hurry(job).await;
    let view = world.ended(&world.recipient, job).await;
    assert_eq!((view.state, view.stage.as_deref()), (JobState::Failed, Some("replicate")));
    let error = view.error.unwrap();
    assert!(error.message.contains("Access denied") && error.message.contains("repl"), "{error:?}");
    world.recipient_is_as_it_was().await;
    world.nothing_left(PATIENCE).await;
}

/// The recipient logs outside its datadir: what its old log says was executed must not count for the new data.
async fn follows_again_from_an_old_snapshot(name: &str) {
    let Some(vendor) = vendor(name) else { return };
    let account = Account::new();
    let logs = tempfile::Builder::new().prefix("oa-logs-").tempdir_in(vendor.short_dir()).unwrap();
    fs::set_permissions(logs.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let elsewhere = format!("log-bin={}/binlog", logs.path().display());
    let world = world_but(vendor, &account, &[&elsewhere], &["log-bin=binlog"]).await;
    let writer = Writer::start(&world.donor.db).await;
    some_writes(&world, 20).await;
    world.snapshot().await;
    for _ in 0..2 {
        some_writes(&world, 50).await;
        let job = seed_a_replica(&world).await;
        world.succeeded(&world.recipient, job).await;
        some_writes(&world, 50).await;
    }
    let written = writer.stop().await;
    caught_up(&world.recipient.db, &world.donor.db).await;
    assert_eq!(all_writes(&world.recipient.db).await[0][0], written.len().to_string());
    assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
    let names =
        fs::read_dir(logs.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let aside: Vec<_> = names.filter(|name| name.starts_with(".orch")).collect();
    assert!(aside.is_empty(), "left: {aside:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_that_logs_elsewhere_is_seeded_again_from_an_old_snapshot() {
    follows_again_from_an_old_snapshot("mariadb").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_9_that_logs_elsewhere_is_seeded_again_from_an_old_snapshot() {
    follows_again_from_an_old_snapshot("mysql9").await;
}

/// A donor that is a replica itself, with settings and files of its own: of all that only data come along, and the recipient
/// stays who it is.
async fn stays_itself(name: &str) {
    let Some(vendor) = vendor(name) else { return };
    let is_mysql = vendor.is_mysql();
    let world = World::start(WorldOptions { vendor, ..WorldOptions::default() }).await;
    let (donor, recipient) = (&world.donor.db, &world.recipient.db);
    let statements: &[&str] = if is_mysql {
        &[
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 9, SOURCE_USER = 'x', SOURCE_PASSWORD = 'y' FOR CHANNEL ''",
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 9, SOURCE_USER = 'x', SOURCE_PASSWORD = 'y' FOR CHANNEL 'b'",
            "SET PERSIST max_connections = 77",
        ]
    } else {
        &[
            "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = 9, MASTER_USER = 'x', MASTER_PASSWORD = 'y'",
            "CHANGE MASTER 'b' TO MASTER_HOST = '127.0.0.1', MASTER_PORT = 10, MASTER_USER = 'x', MASTER_PASSWORD = 'y'",
        ]
    };
    for statement in statements {
        donor.exec(statement).await.unwrap();
    }
    for (db, text) in [(donor, "the donor's"), (recipient, "the recipient's")] {
        fs::write(db.datadir().join(".my.cnf"), text).unwrap();
    }
    fs::write(donor.datadir().join("core.17"), "x").unwrap();
    fs::create_dir(donor.datadir().join("lost+found")).unwrap();
    let who = if is_mysql { "SELECT @@server_uuid" } else { "SELECT @@server_id" };
    let before =
        (recipient.scalar(who).await.unwrap(), recipient.scalar("SELECT @@max_connections").await.unwrap());
    world.snapshot().await;
    let job = world.seed(swiftly()).await;
    world.succeeded(&world.recipient, job).await;
    let after =
        (recipient.scalar(who).await.unwrap(), recipient.scalar("SELECT @@max_connections").await.unwrap());
    assert_eq!(after, before);
    let status = if is_mysql { "SHOW REPLICA STATUS" } else { "SHOW ALL SLAVES STATUS" };
    assert!(recipient.query(status).await.unwrap().is_empty(), "it would follow the donor's source");
    if is_mysql {
        assert_eq!(recipient.scalar("SELECT COUNT(*) FROM mysql.slave_master_info").await.unwrap(), "0");
    }
    let datadir = recipient.datadir();
    assert_eq!(fs::read_to_string(datadir.join(".my.cnf")).unwrap(), "the recipient's");
    for name in ["core.17", "lost+found", "master.info", "master-b.info"] {
        assert!(!datadir.join(name).exists(), "{name} came along");
    }
    // Each server makes the list of connections; whether the donor's is in it counts.
    let connections = fs::read_to_string(datadir.join("multi-master.info")).unwrap_or_default();
    assert_eq!(connections.trim(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_seeded_from_a_replica_stays_itself_and_follows_nobody() {
    stays_itself("mariadb").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_9_seeded_from_a_replica_stays_itself_and_follows_nobody() {
    stays_itself("mysql9").await;
}
