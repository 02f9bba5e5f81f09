//! What lies in a datadir beside tablespaces: very many files, and files that are not seeded. `OA_FILES` says how many.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::measure::{forget_peak, peak_kib};
use e2e::replication::vendor;
use e2e::rows::{self, Writer};
use e2e::tree;
use e2e::world::{Configure, Host, PATIENCE, World, WorldOptions, swiftly};
use serde_json::Value;
use testkit::mysqld::{Mysqld, Vendor};
use testkit::poll;

/// A schema that the server only sees as a directory: making as many tables would take it an hour.
const SCHEMA: &str = "archive";
/// Files in CI.
const FILES: u32 = 20_000;
/// What an agent may take above what it had before, KiB.
const MEMORY_KIB: u64 = 64 << 10;

fn fill(schema: &Path, files: u32) {
    let server = fs::metadata(schema.parent().unwrap()).unwrap();
    let give = |path: &Path| chown(path, Some(server.uid()), Some(server.gid())).unwrap();
    fs::create_dir(schema).unwrap();
    give(schema);
    for n in 0..files {
        let path = schema.join(format!("t{n:06}.MYD"));
        fs::write(&path, n.to_le_bytes().repeat((n % 400) as usize)).unwrap();
        give(&path);
    }
}

/// For how many ms the agent held its server, by its log.
fn stood_still(host: &Host) -> u64 {
    let log = host.agent.log();
    let told = log.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    told.filter_map(|line| line.pointer("/fields/still_ms")?.as_u64()).next().expect("the agent tells it")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_datadir_of_many_files_is_seeded_within_the_same_memory() {
    let files = std::env::var("OA_FILES").map_or(FILES, |files| files.parse().unwrap());
    let donor_volume_mib = 1024 + u64::from(files) / 100;
    let world = World::start(WorldOptions { donor_volume_mib, ..WorldOptions::default() }).await;
    fill(&world.donor.db.datadir().join(SCHEMA), files);
    let newest = fs::metadata(world.donor.db.datadir().join(SCHEMA)).unwrap();
    poll::until_true(PATIENCE, "the files to be left alone", || {
        newest.modified().unwrap().elapsed().is_ok_and(|quiet| quiet > Duration::from_secs(2))
    });
    let agents = [&world.donor, &world.recipient].map(|host| (host.id(), host.agent.pid().unwrap()));
    let before = agents.clone().map(|(_, pid)| {
        forget_peak(pid);
        peak_kib(pid)
    });

    let began = Instant::now();
    world.snapshot().await;
    let (snapshot, still_ms) = (began.elapsed(), stood_still(&world.donor));
    // What is copied while it stands still takes as long as all the rest; a quarter leaves room for noise.
    assert!(
        u128::from(still_ms) * 4 < snapshot.as_millis(),
        "MySQL stood still for {still_ms} ms of {snapshot:?}"
    );
    let began = Instant::now();
    let job = world.seed(swiftly()).await;
    world.succeeded(&world.recipient, job).await;
    println!(
        "{files} files: snapshot {snapshot:.1?} with the server still for {still_ms} ms, seed {:.1?}",
        began.elapsed()
    );
    let schema = |host: &Host| tree::contents(&host.db.datadir().join(SCHEMA));
    assert_eq!(schema(&world.recipient).len(), files as usize + 1);
    tree::assert_copy(&schema(&world.recipient), &schema(&world.donor));
    for ((host, pid), before) in agents.into_iter().zip(before) {
        let grown = peak_kib(pid).saturating_sub(before);
        println!(
            "{host}: {} KiB more than before, {:.0} bytes a file",
            grown,
            grown as f64 * 1024.0 / f64::from(files)
        );
        assert!(grown < MEMORY_KIB, "{host} took {grown} KiB for {files} files");
    }
    world.nothing_left(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_donor_needs_does_not_come_along() {
    let donor_lines = vec!["relay_log=feed".to_owned()];
    let configure: Configure = Box::new(|id, agent| {
        if id == "db2" {
            agent.set("seed.keep_buffer_pool", false);
        }
    });
    let configure = Some(configure);
    let world = World::start(WorldOptions { donor_lines, configure, ..WorldOptions::default() }).await;
    let datadir = world.donor.db.datadir();
    let names = ["feed.index", "feed.000007", "feed-eu.000001", "ib_buffer_pool"];
    for name in names {
        fs::write(datadir.join(name), "./feed.000007\n").unwrap();
    }
    world.snapshot().await;
    let job = world.seed(swiftly()).await;
    world.succeeded(&world.recipient, job).await;
    for name in names {
        assert!(datadir.join(name).exists(), "{name} is the donor's");
        assert!(!world.recipient.db.datadir().join(name).exists(), "{name} came along");
    }
}

/// Where SELinux is on, a server may not open what has another label, and a tree that was received beside the datadir has
/// that of the place. The kernel here need not have SELinux: root may set the attribute anywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seeded_files_have_the_label_of_the_old_datadir() {
    const NAME: &str = "security.selinux";
    const LABEL: &[u8] = b"system_u:object_r:mysqld_db_t:s0\0";
    let world = World::start(WorldOptions::default()).await;
    let datadir = world.recipient.db.datadir();
    if let Err(error) = xattr::set(datadir, NAME, LABEL) {
        testkit::skip!("only root may label files: {error}");
    }
    world.snapshot().await;
    let job = world.seed(swiftly()).await;
    world.succeeded(&world.recipient, job).await;
    for path in [datadir.to_owned(), datadir.join("shop"), datadir.join("shop/items.ibd")] {
        let label = xattr::get(&path, NAME).unwrap();
        assert_eq!(label.as_deref(), Some(LABEL), "{}", path.display());
    }
}

/// The donor's older logs stay at home; the new server recovers with the last ones, lists what it has, and writes on.
async fn needed_binlogs(vendor: Vendor) {
    let configure: Configure = Box::new(|id, agent| {
        if id == "db1" {
            agent.set("seed.binlogs", "needed");
        }
    });
    let configure = Some(configure);
    let world = World::start(WorldOptions { vendor, configure, ..WorldOptions::default() }).await;
    let writer = Writer::start(&world.donor.db).await;
    for n in 2..7 {
        let written = rows::last_write(&world.donor.db).await;
        poll::until_async(PATIENCE, "some writes", || async {
            (rows::last_write(&world.donor.db).await > written + 5).then_some(())
        })
        .await;
        world.donor.db.exec("FLUSH BINARY LOGS").await.unwrap();
        assert!(logs(&world.donor.db).await.len() >= n, "the log was rotated");
    }
    world.snapshot().await;
    let job = world.seed(swiftly()).await;
    world.succeeded(&world.recipient, job).await;
    writer.stop().await;
    let (theirs, ours) = (logs(&world.donor.db).await, logs(&world.recipient.db).await);
    assert!(!ours.contains(&theirs[0]) && !ours.contains(&theirs[1]), "{ours:?} of {theirs:?}");
    assert!(!world.recipient.db.datadir().join(&theirs[0]).exists());
    for log in &ours {
        world.recipient.db.exec(format!("SHOW BINLOG EVENTS IN '{log}' LIMIT 1")).await.unwrap();
    }
    world.recipient.db.exec("FLUSH BINARY LOGS").await.unwrap();
    world.recipient.db.exec(format!("PURGE BINARY LOGS TO '{}'", ours.last().unwrap())).await.unwrap();
    let rows = rows::last_write(&world.recipient.db).await;
    assert!(rows > 25, "what was committed before the snapshot is there: {rows}");
}

async fn logs(db: &Mysqld) -> Vec<String> {
    db.query("SHOW BINARY LOGS").await.unwrap().into_iter().map(|row| row[0].clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_is_seeded_without_the_binlogs_that_it_does_not_need() {
    needed_binlogs(Vendor::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_9_is_seeded_without_the_binlogs_that_it_does_not_need() {
    if let Some(vendor) = vendor("mysql9") {
        needed_binlogs(vendor).await;
    }
}
