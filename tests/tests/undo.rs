//! What is kept of the old data after a seed: put back, let go in time, or used to send less.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use e2e::replication::vendor;
use e2e::rows;
use e2e::world::{Host, PATIENCE, Provider, World, WorldOptions, swiftly};
use protocol::error::ErrorCode;
use protocol::ids::JobId;
use protocol::job::JobState;
use protocol::params::*;
use protocol::seed::SeedOptions;
use serde_json::Value;
use testkit::mysqld::Vendor;
use testkit::poll;

async fn world(vendor: Vendor, provider: Provider) -> World {
    World::start(WorldOptions { vendor, provider, data_mib: 4, ..WorldOptions::default() }).await
}

/// What seeds have left in or beside the recipient's datadir.
fn left(world: &World) -> Vec<String> {
    let mut left = Vec::new();
    for directory in [world.recipient.db.datadir(), world.recipient.db.base()] {
        for entry in fs::read_dir(directory).unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            left.extend(Some(name).filter(|name| name.starts_with(".orch")));
        }
    }
    left
}

async fn seeded_and_kept(world: &World, keep_old_s: u64) -> JobId {
    world.snapshot().await;
    // What the test itself writes to the recipient is no traffic.
    let job = world.seed(SeedOptions { keep_old_s, allow_primary: true, ..swiftly() }).await;
    world.succeeded(&world.recipient, job).await;
    assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
    job
}

/// The first and the last line of a seed in the logs of both hosts are found by the offer's one id, and tell who, what, and how much.
fn assert_told_by_both_logs(world: &World, job: JobId) {
    let lines = |host: &Host| -> Vec<Value> {
        let log = host.agent.log();
        let told =
            log.lines().filter_map(|line| Some(serde_json::from_str::<Value>(line).ok()?["fields"].take()));
        told.filter(|fields| fields["message"].as_str().is_some_and(|text| text.starts_with("job ")))
            .collect()
    };
    let taken: Vec<Value> =
        lines(&world.recipient).into_iter().filter(|line| line["job"] == job.to_string()).collect();
    let [first, .., last] = taken.as_slice() else { panic!("{taken:?}") };
    assert_eq!((&first["message"], &last["message"]), (&"job accepted".into(), &"job succeeded".into()));
    assert!(last["about"].as_str().unwrap().starts_with("db1 → db2 from "), "{last}");
    assert!(last["bytes"].as_u64().unwrap() > 1 << 20 && last["took_s"].as_f64().unwrap() > 0.0, "{last}");
    assert!(!last["actor"].as_str().unwrap().is_empty() && last["offer"].is_string(), "{last}");
    let given = lines(&world.donor).into_iter().find(|line| line["offer"] == last["offer"]);
    assert_eq!(given.expect("the donor tells of this offer")["kind"], "seed.offer");
}

async fn the_old_data_come_back(vendor: Vendor, provider: Provider) {
    let world = world(vendor, provider).await;
    let inode = fs::metadata(world.recipient.db.datadir()).unwrap().ino();
    let job = seeded_and_kept(&world, 3600).await;
    assert!(!left(&world).is_empty(), "the old data are kept");
    let said = world.ctl(&["seed", "watch", "db2"]).await;
    assert!(said.stdout.contains("the old data are kept until"), "{said:?}");
    assert_told_by_both_logs(&world, job);
    let said = world.ctl(&["seed", "undo", "db2"]).await;
    assert!(said.status.success(), "{said:?}");
    world.recipient_is_as_it_was().await;
    assert_eq!(fs::metadata(world.recipient.db.datadir()).unwrap().ino(), inode, "the very directory");
    world.nothing_left(PATIENCE).await;
    assert_eq!(left(&world), [""; 0]);
    // Once is enough.
    let undo = world.call(&world.recipient, SeedUndoParams { job }).await.job;
    let view = world.ended(&world.recipient, undo).await;
    assert_eq!(view.error.map(|e| e.code), Some(ErrorCode::NotFound));
    world.recipient_is_as_it_was().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undo_puts_the_old_data_back() {
    the_old_data_come_back(Vendor::Mariadb, Provider::Reflink).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undo_puts_the_old_data_back_on_a_volume_of_its_own() {
    the_old_data_come_back(Vendor::Mariadb, Provider::Btrfs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_seed_of_mysql_9_and_its_undo() {
    if let Some(vendor) = vendor("mysql9") {
        the_old_data_come_back(vendor, Provider::Reflink).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_last_seed_is_undone_and_nothing_kept_is_lost() {
    let world = world(Vendor::Mariadb, Provider::Reflink).await;
    let first = seeded_and_kept(&world, 3600).await;
    world.recipient.db.exec("CREATE DATABASE between_the_seeds").await.unwrap();
    let second = seeded_and_kept(&world, 3600).await;
    let undo = world.call(&world.recipient, SeedUndoParams { job: first }).await.job;
    let view = world.ended(&world.recipient, undo).await;
    let error = view.error.unwrap();
    assert_eq!((view.state, error.code), (JobState::Failed, ErrorCode::Refused), "{error:?}");
    assert!(error.message.contains("seeded again"), "{error:?}");
    let said = world.ctl(&["seed", "kept"]).await;
    for job in [first, second] {
        assert!(said.stdout.contains(&format!("seed undo db2 {job}")), "{said:?}");
    }
    for (job, database) in [(second, "between_the_seeds"), (first, "own")] {
        let undo = world.call(&world.recipient, SeedUndoParams { job }).await.job;
        world.succeeded(&world.recipient, undo).await;
        let shown = world.recipient.db.scalar(format!("SHOW DATABASES LIKE '{database}'")).await;
        assert_eq!(shown.unwrap(), database);
    }
    let said = world.ctl(&["seed", "kept"]).await;
    assert!(said.stdout.contains("no old datadir is kept"), "{said:?}");
    // Without a name it is no seed whose old data are gone.
    let said = world.ctl(&["seed", "undo", "db2"]).await;
    assert_eq!(said.status.code(), Some(5), "{said:?}");
    assert!(said.stderr.contains("--keep-old"), "{said:?}");
    world.recipient_is_as_it_was().await;
    world.nothing_left(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_whose_old_data_do_not_start_keeps_both_and_serves_the_seeded_ones() {
    let world = world(Vendor::Mariadb, Provider::Reflink).await;
    let job = seeded_and_kept(&world, 3600).await;
    let old = left(&world).into_iter().find(|name| name != ".orch-seed-job").unwrap();
    let broken = world.recipient.db.base().join(old).join("data/ibdata1");
    let whole = fs::read(&broken).unwrap();
    fs::write(&broken, b"what a bad disk gives").unwrap();

    let undo = world.call(&world.recipient, SeedUndoParams { job }).await.job;
    let view = world.ended(&world.recipient, undo).await;
    assert_eq!(view.state, JobState::Failed, "{view:?}");
    assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
    assert_eq!(fs::read(&broken).unwrap(), b"what a bad disk gives", "the old data are where they were");

    // Mended, they are put back as if nothing had been.
    fs::write(&broken, whole).unwrap();
    let undo = world.call(&world.recipient, SeedUndoParams { job }).await.job;
    world.succeeded(&world.recipient, undo).await;
    world.recipient_is_as_it_was().await;
    world.nothing_left(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_one_kept_datadir_takes_nothing_from_a_later_one() {
    let world = world(Vendor::Mariadb, Provider::Reflink).await;
    seeded_and_kept(&world, 15).await;
    world.recipient.db.exec("CREATE DATABASE between_the_seeds").await.unwrap();
    let second = seeded_and_kept(&world, 3600).await;
    poll::until_async(PATIENCE, "the first to go", || async { (left(&world).len() == 2).then_some(()) })
        .await;
    let undo = world.call(&world.recipient, SeedUndoParams { job: second }).await.job;
    world.succeeded(&world.recipient, undo).await;
    let shown = world.recipient.db.scalar("SHOW DATABASES LIKE 'between_the_seeds'").await;
    assert_eq!(shown.unwrap(), "between_the_seeds");
    world.nothing_left(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_goes_when_its_time_is_over() {
    let mut world = world(Vendor::Mariadb, Provider::Reflink).await;
    let job = seeded_and_kept(&world, 3).await;
    // An agent that was away for a while does it as well.
    world.recipient.agent.restart().unwrap();
    world.serving(&world.recipient.id()).await;
    poll::until_async(PATIENCE, "the old datadir to go", || async { left(&world).is_empty().then_some(()) })
        .await;
    world.nothing_left(PATIENCE).await;
    assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
    let undo = world.call(&world.recipient, SeedUndoParams { job }).await.job;
    let view = world.ended(&world.recipient, undo).await;
    assert_eq!(view.error.map(|e| e.code), Some(ErrorCode::NotFound));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delta_seed_moves_less_and_is_whole() {
    let world = World::start(WorldOptions { data_mib: 24, ..WorldOptions::default() }).await;
    // What lies in the log only is written by each server by itself, and not to the same bytes.
    let tables = "SELECT CONCAT('shop.', table_name) FROM information_schema.tables
        WHERE table_schema = 'shop' AND engine = 'InnoDB'";
    let tables: Vec<String> =
        world.donor.db.query(tables).await.unwrap().into_iter().map(|mut row| row.remove(0)).collect();
    world.donor.db.exec(&format!("FLUSH TABLES {} FOR EXPORT", tables.join(", "))).await.unwrap();
    let full = world.snapshot().await;
    let job = world.seed(swiftly()).await;
    let first = world.succeeded(&world.recipient, job).await;
    world.donor.db.exec("UPDATE shop.customers SET name = 'changed' WHERE id < 10").await.unwrap();
    world.recipient.db.exec("DELETE FROM shop.notes").await.unwrap();
    assert_ne!(world.snapshot().await, full);
    let said = world.ctl(&["seed", "start", "db2", "--stop-mysql", "--allow-primary", "--delta"]).await;
    assert!(said.status.success(), "{said:?}");
    let jobs = world.call(&world.recipient, JobsListParams { limit: 1, unfinished: false }).await;
    let wire = |view: &protocol::job::JobView| {
        view.result.as_ref().unwrap()["transfer"]["bytes_wire"].as_u64().unwrap()
    };
    println!("delta: {} bytes travelled, {} without", wire(&jobs[0]), wire(&first));
    assert!(
        wire(&jobs[0]) + (20 << 20) < wire(&first),
        "{} of {} bytes travelled",
        wire(&jobs[0]),
        wire(&first)
    );
    assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
    world.nothing_left(PATIENCE).await;
}
