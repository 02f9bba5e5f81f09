//! MySQL on a snapshot within seconds, and the way back: the service itself, and a second server beside it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use e2e::rows;
use e2e::world::{PATIENCE, Party, Provider, World, WorldOptions, swiftly};
use protocol::error::ErrorCode;
use protocol::ids::SnapshotId;
use protocol::job::JobState;
use protocol::params::*;
use testkit::mysqld::mysql_async::prelude::Queryable as _;
use testkit::mysqld::mysql_async::{Conn, OptsBuilder};
use testkit::poll;

/// A donor with a snapshot, after which someone has removed all customers.
async fn after_a_disaster() -> (World, SnapshotId) {
    let world = World::start(WorldOptions::default()).await;
    let snapshot = world.snapshot().await;
    world.donor.db.exec("DELETE FROM shop.customers").await.unwrap();
    (world, snapshot)
}

async fn customers(world: &World) -> String {
    world.donor.db.scalar("SELECT COUNT(*) FROM shop.customers").await.unwrap()
}

async fn job_fails(world: &World, params: MysqlStartOnSnapshotParams) -> String {
    let job = world.call(&world.donor, params).await.job;
    let view = world.ended(&world.donor, job).await;
    assert_eq!(view.state, JobState::Failed);
    view.error.unwrap().message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_runs_on_a_snapshot_and_comes_back() {
    let (mut world, snapshot) = after_a_disaster().await;
    let datadir = world.donor.db.datadir().to_owned();
    let own = std::fs::metadata(&datadir).unwrap().ino();
    let said = world.ctl(&["mysql", "db1", "start", "--on-snapshot", snapshot.as_str()]).await;
    assert!(said.status.success(), "{said:?}");
    assert_eq!(customers(&world).await, "2000", "at the same socket, what was lost is there");
    assert_ne!(std::fs::metadata(&datadir).unwrap().ino(), own);
    world.donor.db.exec("INSERT INTO shop.customers VALUES (9001, 'on the snapshot')").await.unwrap();

    // Nobody takes it for the host's own data.
    let on_snapshot = format!("ON SNAPSHOT {snapshot}");
    for asked in [&["fleet"][..], &["host", "db1", "status"], &["mysql", "db1", "info"]] {
        let shown = poll::until_async(PATIENCE, "the snapshot to be told", || async {
            let said = world.ctl(asked).await.stdout;
            said.split_whitespace().collect::<Vec<_>>().join(" ").contains(&on_snapshot).then_some(())
        });
        shown.await;
    }

    // Whatever would meet the covered datadir is refused, and says how to go back.
    let held = world.call(&world.donor, SnapshotMountStatusParams {}).await;
    assert_eq!(held[0].mount.holders, ["mysql service"]);
    let job = world
        .call(&world.donor, SnapshotRemoveParams { snapshot: snapshot.clone(), foreign: false })
        .await
        .job;
    let view = world.ended(&world.donor, job).await;
    assert!(view.error.unwrap().message.contains("mysql service"), "a snapshot in use is not removed");
    let error = world.refused(&world.donor, DatadirClearParams { datadir: datadir.clone() }).await;
    assert!(error.code == ErrorCode::Refused && error.message.contains("--on-snapshot"), "{error:?}");
    let job = world.call(&world.donor, SnapshotCreateParams { keep_s: None, size_bytes: None }).await.job;
    assert_eq!(world.ended(&world.donor, job).await.state, JobState::Failed);
    let donor =
        world.call(&world.donor, SeedSurveyParams { snapshot: None, foreign: false, stream: None }).await;
    let plan = world.call(&world.donor, SeedPlanParams { donor, options: swiftly() }).await;
    let refusals: Vec<&str> = plan.refusals().map(|guard| guard.message.as_str()).collect();
    assert!(refusals.iter().any(|m| m.contains("runs on snapshot")), "{refusals:?}");
    let again = MysqlStartOnSnapshotParams { snapshot: snapshot.clone(), port: None };
    assert!(job_fails(&world, again).await.contains("end that first"));
    let said = world.ctl(&["mysql", "db1", "restart"]).await;
    assert!(said.status.success(), "the service is a service as ever: {said:?}");

    // An agent that dies keeps the hold, and the service runs on.
    let pid = world.donor.db.pid();
    world.crash(Party::DonorsAgent).await;
    assert_eq!(world.donor.db.pid(), pid);
    assert_eq!(customers(&world).await, "2001");
    let held = world.call(&world.donor, SnapshotMountStatusParams {}).await;
    assert_eq!(held[0].mount.holders, ["mysql service"]);

    let said = world.ctl(&["mysql", "db1", "stop", "--on-snapshot", snapshot.as_str()]).await;
    assert!(said.status.success(), "{said:?}");
    assert_eq!(std::fs::metadata(&datadir).unwrap().ino(), own, "its own data are back");
    assert_eq!(customers(&world).await, "0", "and the service runs on them");
    world.nothing_left(PATIENCE).await;
    assert_is_unmounted(&datadir);
    let gone = world.ctl(&["mysql", "db1", "stop", "--on-snapshot", snapshot.as_str()]).await;
    assert_eq!(gone.status.code(), Some(5), "{gone:?}");
}

fn assert_is_unmounted(datadir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let on_it = mounts.lines().filter(|line| line.split(' ').nth(4) == datadir.to_str()).count();
    assert_eq!(on_it, 0, "{mounts}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_runs_beside_the_service() {
    let (mut world, snapshot) = after_a_disaster().await;
    let pid = world.donor.db.pid();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let params = MysqlStartOnSnapshotParams { snapshot: snapshot.clone(), port: Some(port) };
    let job = world.call(&world.donor, params).await.job;
    let view = world.succeeded(&world.donor, job).await;
    let result = view.result.unwrap();
    println!("a second server answers after {} ms", result["started_in_ms"]);
    assert_eq!(result["port"], port, "{result}");
    let opts = || OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(port).user(Some("root"));
    let mut second = Conn::new(opts()).await.unwrap();
    let count: Option<u64> = second.query_first("SELECT COUNT(*) FROM shop.customers").await.unwrap();
    assert_eq!(count, Some(2000));
    second.query_drop("INSERT INTO shop.customers VALUES (9001, 'on the copy')").await.unwrap();
    assert_eq!(
        (world.donor.db.pid(), customers(&world).await),
        (pid, "0".to_owned()),
        "the service is untouched"
    );
    let info = world.call(&world.donor, MysqlInfoParams {}).await;
    assert_eq!((info.pid, info.port), (pid, Some(world.donor.db.port())), "the host's server is its own");

    // Neither a third on the same snapshot, nor the service; and it outlives its agent.
    let other = MysqlStartOnSnapshotParams { snapshot: snapshot.clone(), port: None };
    assert!(job_fails(&world, other).await.contains("end that first"));
    assert_eq!(world.donor.db.pid(), pid);
    world.crash(Party::DonorsAgent).await;
    let count: Option<u64> = second.query_first("SELECT COUNT(*) FROM shop.customers").await.unwrap();
    assert_eq!(count, Some(2001));
    drop(second);

    let said = world.ctl(&["mysql", "db1", "stop", "--on-snapshot", snapshot.as_str()]).await;
    assert!(said.status.success(), "{said:?}");
    assert!(Conn::new(opts()).await.is_err(), "it is gone");
    assert_eq!(world.donor.db.pid(), pid);
    world.nothing_left(PATIENCE).await;
    assert!(!world.donor.agent.dir().join("servers").join(port.to_string()).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_no_server_starts_on_leaves_all_as_it_was() {
    let world = World::start(WorldOptions { provider: Provider::Directory, ..WorldOptions::default() }).await;
    let snapshot = world.snapshot().await;
    let before = rows::checksums(&world.donor.db).await;
    // A plain copy can be spoiled where it is kept.
    let kept = world.donor.db.base().join("snapshots").join(snapshot.as_str());
    std::fs::write(kept.join("data/ibdata1"), vec![0; 12 << 20]).unwrap();
    let service = MysqlStartOnSnapshotParams { snapshot: snapshot.clone(), port: None };
    let why = job_fails(&world, service).await;
    assert!(why.starts_with("start: "), "it failed for another reason: {why}");
    assert_eq!(rows::checksums(&world.donor.db).await, before, "the service runs on its own data again");
    let port = world.donor.db.port();
    let error = world.refused(&world.donor, MysqlStartOnSnapshotParams { snapshot, port: Some(port) }).await;
    assert!(error.message.contains("own server"), "{error:?}");
    world.nothing_left(PATIENCE).await;
    assert_is_unmounted(world.donor.db.datadir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_mount_point_needs_no_name() {
    let point = tempfile::tempdir().unwrap();
    let path = point.path().join("snapshot");
    let configured = path.display().to_string();
    let configure = Box::new(move |_: &str, options: &mut testkit::agent::AgentOptions| {
        options.set("snapshot.mount_point", configured.clone());
    });
    let options = WorldOptions { configure: Some(configure), ..WorldOptions::default() };
    let world = World::start(options).await;
    let snapshot = world.snapshot().await;
    let said = world.ctl(&["snapshot", "mount", "db1"]).await;
    assert!(said.status.success() && said.stdout.contains(path.to_str().unwrap()), "{said:?}");
    poll::until_async(PATIENCE, "the mount to be listed", || async {
        let list = world.call(&world.donor, SnapshotListParams { usable: false }).await;
        list[0].mounts.iter().any(|mount| mount.path == path).then_some(())
    })
    .await;
    // Beside it the same snapshot can be mounted under its own name, and each is given up by itself.
    let named = Some(snapshot.clone());
    let mount = SnapshotMountParams {
        snapshot: named.clone(),
        writable: false,
        at_mount_point: false,
        foreign: false,
    };
    let beside = world.call(&world.donor, mount).await;
    assert_ne!(beside.path, path);
    let said = world.ctl(&["snapshot", "unmount", "db1"]).await;
    assert!(said.status.success(), "{said:?}");
    let held = world.call(&world.donor, SnapshotMountStatusParams {}).await;
    assert_eq!(held.iter().map(|h| &h.mount.path).collect::<Vec<_>>(), [&beside.path]);
    world.call(&world.donor, SnapshotUnmountParams { snapshot: named }).await;
    let error = world.refused(&world.donor, SnapshotUnmountParams { snapshot: None }).await;
    assert!(error.message.contains("no snapshot is mounted there"), "{error:?}");
    world.nothing_left(PATIENCE).await;
    let none = world.refused(&world.recipient, SnapshotUnmountParams { snapshot: None }).await;
    assert_ne!(none.code, ErrorCode::Internal, "{none:?}");
}
