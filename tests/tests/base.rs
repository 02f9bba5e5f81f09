//! A recipient that keeps what came (`seed.keep_base`) moves only what the donor's file system says has changed since, and in any doubt
//! as much as ever.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use e2e::rows;
use e2e::volume::{Kind, Volume};
use e2e::world::{Configure, Provider, World, WorldOptions};
use protocol::ids::SnapshotId;
use protocol::params::{JobsListParams, SnapshotRemoveParams};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Two hosts on file systems that share blocks.
async fn world(provider: Provider) -> World {
    let configure: Configure = Box::new(|_, agent| _ = agent.set("seed.keep_base", true));
    let own = (provider == Provider::Reflink).then(|| Volume::make(Kind::Xfs, 1024));
    let options = WorldOptions {
        provider,
        data_mib: 24,
        recipient_volume: own,
        configure: Some(configure),
        ..WorldOptions::default()
    };
    World::start(options).await
}

/// Seeds from a new snapshot and compares the rows; gives the snapshot and what the transfer tells.
async fn seed(world: &World, options: &[&str]) -> (SnapshotId, Value) {
    let snapshot = world.snapshot().await;
    let words = ["seed", "start", "db2", "--stop-mysql", "--allow-primary"];
    let said = world.ctl(&[&words[..], options].concat()).await;
    assert!(said.status.success(), "{said:?}");
    assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
    let jobs = world.call(&world.recipient, JobsListParams { limit: 1, unfinished: false }).await;
    (snapshot, jobs[0].result.as_ref().unwrap()["transfer"].clone())
}

/// What is kept on the recipient.
fn kept(world: &World) -> Vec<PathBuf> {
    let db = &world.recipient.db;
    let mut found = Vec::new();
    for place in [db.datadir(), db.datadir().parent().unwrap()] {
        let entries = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
        found.extend(entries.filter(|path| path.to_string_lossy().contains(".orch-seed-base-")));
    }
    found
}

fn moved(transfer: &Value) -> u64 {
    transfer["bytes_moved"].as_u64().unwrap()
}

async fn change(world: &World, name: &str) {
    let statement = format!("UPDATE shop.customers SET name = '{name}' WHERE id < 10");
    world.donor.db.exec(&statement).await.unwrap();
}

async fn only_what_differs_comes(provider: Provider) {
    let world = world(provider).await;
    let (first, whole) = seed(&world, &[]).await;
    assert_eq!(kept(&world).len(), 1);
    change(&world, "one").await;
    // What the recipient's own server did to its data in between is not asked.
    world.recipient.db.exec("DELETE FROM shop.notes").await.unwrap();
    let plan = world.ctl(&["seed", "plan", "db2", "--stop-mysql", "--allow-primary", "--delta"]).await;
    assert!(plan.stdout.contains(&format!("differs from {first}, which was kept here")), "{plan:?}");
    let (second, since) = seed(&world, &["--delta"]).await;
    assert_eq!(since["since"], first.as_str());
    assert!(moved(&since) + 20 * MIB < moved(&whole), "{} of {} bytes moved", moved(&since), moved(&whole));
    println!("{provider:?}: {} bytes moved, {} without", moved(&since), moved(&whole));
    assert_eq!(kept(&world).len(), 1, "of the last one");

    // Each kept tree is the next one's base, also one that came as a difference itself.
    change(&world, "two").await;
    let (_, again) = seed(&world, &["--delta"]).await;
    assert_eq!(again["since"], second.as_str());

    change(&world, "three").await;
    let (_, reread) = seed(&world, &["--delta", "--reread"]).await;
    assert!(reread["since"].is_null(), "{reread}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_differs_comes_on_xfs() {
    only_what_differs_comes(Provider::Reflink).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_differs_comes_on_btrfs() {
    only_what_differs_comes(Provider::Btrfs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_doubt_the_old_data_are_compared_and_that_is_told() {
    let world = world(Provider::Reflink).await;
    let (first, _) = seed(&world, &[]).await;
    // Somebody has written to what was kept, and put its time of modification back.
    let file = kept(&world)[0].join("data/ibdata1");
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let open = fs::File::options().write(true).open(&file).unwrap();
    open.write_all_at(b"x", 5000).unwrap();
    open.set_modified(modified).unwrap();
    change(&world, "one").await;
    let (second, written_to) = seed(&world, &["--delta"]).await;
    assert!(written_to["since"].is_null());
    let why = written_to["not_since"].as_str().unwrap();
    assert!(why.contains(first.as_str()) && why.contains("written to"), "{why}");

    // The donor's snapshot of then is gone.
    world.snapshot().await;
    let remove = SnapshotRemoveParams { snapshot: second, foreign: false };
    let job = world.call(&world.donor, remove).await.job;
    world.succeeded(&world.donor, job).await;
    change(&world, "two").await;
    let (_, gone) = seed(&world, &["--delta"]).await;
    let why = gone["not_since"].as_str().unwrap();
    assert!(why.contains("db1 did not compare with it: its snapshot of then is gone"), "{why}");
}

async fn fails_after_the_swap(world: &mut World, fails: bool) {
    let argv = if fails { vec!["/bin/false"] } else { Vec::new() };
    world.recipient.agent.options().set("seed.post_copy", argv);
    world.recipient.agent.restart().unwrap();
    world.serving(&world.recipient.id()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_that_is_taken_back_leaves_what_was_kept_before() {
    let mut world = world(Provider::Reflink).await;
    let (first, _) = seed(&world, &[]).await;
    let before = kept(&world);
    change(&world, "one").await;
    world.snapshot().await;
    fails_after_the_swap(&mut world, true).await;
    let said = world.ctl(&["seed", "start", "db2", "--stop-mysql", "--allow-primary", "--delta"]).await;
    assert!(!said.status.success(), "{said:?}");
    fails_after_the_swap(&mut world, false).await;
    assert_eq!(kept(&world), before, "the failed seed's own is gone, the one before stays");
    let (_, since) = seed(&world, &["--delta"]).await;
    assert_eq!(since["since"], first.as_str());
}
