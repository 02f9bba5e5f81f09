//! Whose a snapshot is: two agents of one host share a snapshot root, and people put things there too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::cell::Cell;
use std::fs;
use std::path::Path;

use e2e::world::{Host, PATIENCE, Provider, World, WorldOptions, swiftly};
use protocol::error::ErrorCode;
use protocol::ids::SnapshotId;
use protocol::params::*;
use protocol::snapshot::Snapshot;
use testkit::poll;

async fn listed(world: &World, host: &Host) -> Vec<Snapshot> {
    world.call(host, SnapshotListParams { usable: false }).await
}

async fn made_by(world: &World, host: &Host) -> SnapshotId {
    let job = world.call(host, SnapshotCreateParams { keep_s: None, size_bytes: None }).await.job;
    world.succeeded(host, job).await;
    world.call(host, SnapshotListParams { usable: true }).await[0].id.clone()
}

fn foreign(list: &[Snapshot]) -> Vec<(&str, &str)> {
    list.iter().filter_map(|s| Some((s.id.as_str(), s.foreign.as_deref()?))).collect()
}

/// A directory that holds no database, and a key of its owner's.
fn stray(root: &Path) {
    let dir = root.join("zz-copy");
    fs::create_dir_all(dir.join("mysql")).unwrap();
    fs::write(dir.join("id_rsa"), "a key of root").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_with_one_snapshot_root_give_and_remove_only_their_own() {
    let world = World::start(WorldOptions { provider: Provider::Directory, ..WorldOptions::default() }).await;
    let root = world.donor.db.base().join("snapshots");
    let other = world
        .another("db3", |agent| {
            agent.snapshots("directory", &root).set("agent.cluster", "payroll");
            agent.set("snapshot.schedule", "0 0 1 1 *").set("snapshot.keep", 1).set("snapshot.keep_days", 0);
        })
        .await;

    world.donor.db.exec("CREATE DATABASE only_db1").await.unwrap();

    // Of db3 the newest, and proven: what a choice by name, place or age would take.
    let own = world.snapshot().await;
    let theirs = made_by(&world, &other).await;
    let verify = SnapshotVerifyParams { snapshot: theirs.clone(), budget_s: 5 };
    let job = world.call(&other, verify).await.job;
    world.succeeded(&other, job).await;
    stray(&root);

    let seen = listed(&world, &world.donor).await;
    let told = foreign(&seen);
    assert_eq!(told.len(), 2, "{seen:?}");
    assert!(told.iter().any(|(id, why)| *id == theirs.as_str() && why.contains("agent db3")), "{told:?}");
    assert!(told.iter().any(|(id, why)| *id == "zz-copy" && why.contains("nothing is recorded")), "{told:?}");
    let usable = world.call(&world.donor, SnapshotListParams { usable: true }).await;
    assert_eq!(usable.iter().map(|s| &s.id).collect::<Vec<_>>(), [&own]);
    let survey = SeedSurveyParams { snapshot: None, foreign: false, stream: None };
    let facts = world.call(&world.donor, survey).await;
    assert_eq!(facts.snapshot.unwrap().id, own);

    // Named without leave: neither given, mounted, proven, run on nor removed.
    for id in [&theirs, &"zz-copy".parse().unwrap()] {
        let asked = SeedSurveyParams { snapshot: Some(id.clone()), foreign: false, stream: None };
        let error = world.refused(&world.donor, asked).await;
        assert_eq!(error.code, ErrorCode::Refused, "{error}");
        assert!(error.message.contains("--foreign"), "{error}");
        let mount = SnapshotMountParams {
            snapshot: Some(id.clone()),
            writable: true,
            at_mount_point: false,
            foreign: true,
        };
        let error = world.refused(&world.donor, mount).await;
        assert_eq!(error.code, ErrorCode::Refused, "never for writing: {error}");
        let job =
            world.call(&world.donor, SnapshotRemoveParams { snapshot: id.clone(), foreign: false }).await.job;
        let error = world.ended(&world.donor, job).await.error.expect("removed what is not its own");
        assert_eq!(error.code, ErrorCode::Refused, "{error:?}");
        let verify = SnapshotVerifyParams { snapshot: id.clone(), budget_s: 5 };
        let job = world.call(&world.donor, verify).await.job;
        let error = world.ended(&world.donor, job).await.error.expect("proved what is not its own");
        assert_eq!(error.code, ErrorCode::Refused, "{error:?}");
    }
    // With leave: what holds no database is not given even so.
    let recipient = world.recipient.id();
    let asked = SeedOfferParams {
        recipient,
        snapshot: Some("zz-copy".parse().unwrap()),
        foreign: true,
        stream: None,
        plain: false,
        transport: protocol::seed::Transport::Tcp,
        seal_to: None,
    };
    fs::remove_dir_all(root.join("zz-copy/mysql")).unwrap();
    let error = world.refused(&world.donor, asked).await;
    assert!(error.message.contains("does not hold a MySQL datadir"), "{error}");
    assert!(root.join("zz-copy/id_rsa").exists());

    // Retention of the other agent keeps one of its own, and looks at nothing else.
    let second = made_by(&world, &other).await;
    assert_ne!(second, theirs);
    let job = world.seed(swiftly()).await;
    world.succeeded(&world.recipient, job).await;
    let whose = "SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = 'only_db1'";
    assert_eq!(world.recipient.db.scalar(whose).await.unwrap(), "1", "the data are not the donor's");
    let ids: Vec<_> = listed(&world, &other).await.into_iter().map(|s| s.id).collect();
    assert!(ids.contains(&own), "{ids:?}");
    poll::until_async(PATIENCE, "db3 to say which are its own", || async {
        (foreign(&listed(&world, &other).await).len() == 2).then_some(())
    })
    .await;

    // By its id and with leave a foreign one can be removed.
    let job =
        world.call(&world.donor, SnapshotRemoveParams { snapshot: theirs.clone(), foreign: true }).await.job;
    world.succeeded(&world.donor, job).await;
    assert!(!root.join(theirs.as_str()).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_is_due_goes_beside_schedules_of_minutes_and_the_newest_is_proven() {
    let configure = |id: &str, agent: &mut testkit::agent::AgentOptions| {
        if id == "db1" {
            agent.set("snapshot.schedule", "* * * * *").set("snapshot.jitter_s", 0);
            // However busy the machine of the test is.
            agent
                .set("snapshot.verify_schedule", "* * * * *")
                .set("snapshot.verify_bytes_per_s", 4 << 20)
                .set("seed.donor_limits.io_pressure_percent", 0.0);
        }
    };
    let configure: e2e::world::Configure = Box::new(configure);
    let world = World::start(WorldOptions { configure: Some(configure), ..WorldOptions::default() }).await;
    let mut due = Vec::new();
    for _ in 0..3 {
        let params = SnapshotCreateParams { keep_s: Some(1), size_bytes: None };
        let job = world.call(&world.donor, params).await.job;
        let made = world.succeeded(&world.donor, job).await.result.unwrap();
        due.push(made["id"].as_str().unwrap().to_owned());
    }
    let (is_idle, is_paced) = (Cell::new(false), Cell::new(false));
    let look = || {
        let (idle, stopped) = private_server(&world.donor).unwrap_or_default();
        is_idle.set(is_idle.get() || idle);
        is_paced.set(is_paced.get() || stopped);
    };
    poll::until_async(PATIENCE, "all that is due to go", || async {
        look();
        let ids: Vec<_> = listed(&world, &world.donor).await.into_iter().map(|s| s.id).collect();
        (!due.iter().any(|id| ids.iter().any(|there| there.as_str() == id))).then_some(())
    })
    .await;
    // The proof has only time that nobody else wants, and this machine may have little of it.
    poll::until_async(PATIENCE * 4, "the newest to be proven", || async {
        look();
        let newest = listed(&world, &world.donor).await.into_iter().max_by_key(|s| s.created_at)?;
        newest.is_proven().then_some(())
    })
    .await;
    let jobs = world.call(&world.donor, JobsListParams { limit: 50, unfinished: false }).await;
    let proof = jobs.iter().find(|job| job.kind == "snapshot.verify").unwrap();
    assert_eq!(proof.actor, "schedule", "{proof:?}");
    assert!(is_idle.get(), "the private server of a proof by the clock took what queries could have used");
    assert!(is_paced.get(), "the private server of a proof by the clock read as fast as the disk gives");
}

/// Of the private server of this host's agent, where one runs: whether it has idle time only (`SCHED_IDLE`, proc(5), the 41st field of
/// `stat`), and whether it is stopped at this moment.
fn private_server(host: &Host) -> Option<(bool, bool)> {
    const SCHED_IDLE: &str = "5";
    let below = host.agent.dir().to_str().unwrap().to_owned();
    let mut processes = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    processes.find_map(|process| {
        let words = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
        let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let is_ours = words.contains("oa-sandbox-") && words.contains(&below);
        is_ours.then(|| (fields.get(38) == Some(&SCHED_IDLE), fields.first() == Some(&"T")))
    })
}
