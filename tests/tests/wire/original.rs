//! What the HTTP agent could do, done by commands on a real agent beside a real MariaDB, and compared with what the
//! system itself says. The table in `docs/commands.md` names for each endpoint the test that shows it.

use std::fs;
use std::path::Path;
use std::process::Command;

use bus::BusError;
use e2e::events::await_event;
use e2e::world::{Configure, Host, PATIENCE, Provider, World, WorldOptions};
use protocol::command::Call;
use protocol::error::ErrorCode;
use protocol::event::{Event, EventData};
use protocol::ids::JobId;
use protocol::job::{JobState, JobView};
use protocol::mysql::ServerState;
use protocol::params::*;
use testkit::poll;

async fn world(configure: Configure) -> World {
    let options =
        WorldOptions { provider: Provider::Directory, configure: Some(configure), ..WorldOptions::default() };
    World::start(options).await
}

async fn job<C: Call<Reply = protocol::job::JobAccepted>>(world: &World, host: &Host, params: C) -> JobView {
    let (id, params) = (host.id(), params.into_command().params());
    // A job that has just ended may still hold what it claimed.
    let accepted = poll::until_async(PATIENCE, format!("{} not to be busy", C::SPEC.name), || async {
        match world.client.raw(&id, C::SPEC.name, params.clone(), &Default::default()).await {
            Err(BusError::Agent(error)) if error.code == ErrorCode::Busy => None,
            answer => Some(answer),
        }
    });
    let accepted = match accepted.await {
        Ok(bus::Answer::Result(accepted)) => accepted,
        other => panic!("{}: {other:?}", C::SPEC.name),
    };
    let accepted: protocol::job::JobAccepted = serde_json::from_value(accepted).unwrap();
    world.succeeded(host, accepted.job).await
}

/// The first number that a program prints.
fn number_of(program: &str, arguments: &[&str], path: &Path) -> u64 {
    let output = Command::new(program).args(arguments).arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or_else(|| panic!("{program}: {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_tells_of_itself_its_disks_and_its_server() {
    let dir = tempfile::tempdir().unwrap();
    let allowed = dir.path().canonicalize().unwrap();
    fs::write(allowed.join("big"), vec![7; 3 << 20]).unwrap();
    let root = allowed.display().to_string();
    let world = world(Box::new(move |_, options| {
        options.set("agent.paths", vec![root.clone()]);
    }))
    .await;
    let host = &world.donor;

    let info = world.call(host, AgentInfoParams {}).await;
    let status = world.call(host, AgentStatusParams {}).await;
    assert_eq!((info.agent.as_str(), &info.boot), ("db1", &status.boot));
    assert_eq!(status.mysql.state, ServerState::Ready);
    let server = world.call(host, MysqlInfoParams {}).await;
    assert_eq!((server.state, server.port), (ServerState::Ready, Some(host.db.port())));
    assert_eq!(server.pid, host.db.pid());

    let usage = world.call(host, HostDiskUsageParams { path: allowed.clone(), fresh: true }).await;
    assert_eq!(usage.used_bytes, number_of("du", &["-sxB1"], &allowed));
    let outside = world.refused(host, HostDiskUsageParams { path: "/etc".into(), fresh: true }).await;
    assert_eq!(outside.code, ErrorCode::Forbidden);
    let usage = world.call(host, MysqlDiskUsageParams { fresh: true }).await;
    let du = number_of("du", &["-sxB1"], host.db.datadir());
    assert!(usage.used_bytes.abs_diff(du) < du / 10, "{} beside du's {du}", usage.used_bytes);
    let free = world.call(host, MysqlDiskFreeParams {}).await;
    let df = number_of("df", &["--block-size=1", "--output=size"], host.db.datadir());
    assert_eq!(free.total_bytes, df);

    let log = fs::read_to_string(host.db.error_log()).unwrap();
    let last: Vec<&str> = log.lines().rev().take(20).collect();
    let told = world.call(host, MysqlErrorLogParams { lines: 20 }).await;
    assert_eq!(told, last.into_iter().rev().collect::<Vec<_>>());

    // Where there is no LVM it is said to be missing, with the reason; in the VM the volumes themselves are listed.
    match world.client.call(&host.id(), HostVolumesParams { pattern: None }, &Default::default()).await {
        Ok(volumes) => println!("logical volumes here: {volumes:?}"),
        Err(BusError::Agent(error)) => assert_eq!(error.code, ErrorCode::MissingCapability, "{error}"),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_made_found_mounted_unmounted_and_removed() {
    let world = world(Box::new(|id, options| {
        options.set("agent.dc", if id == "db1" { "dc1" } else { "dc2" });
    }))
    .await;
    let host = &world.donor;
    let sized = world.refused(host, SnapshotCreateParams { keep_s: None, size_bytes: Some(1 << 30) }).await;
    assert!(sized.message.contains("leave --size away"), "{sized:?}");
    job(&world, host, SnapshotCreateParams { keep_s: None, size_bytes: None }).await;
    let snapshots = world.call(host, SnapshotListParams { usable: true }).await;
    let [snapshot] = snapshots.as_slice() else { panic!("{snapshots:?}") };
    let datadir = snapshot.meta.as_ref().unwrap().datadir.clone();
    let snapshot = snapshot.id.clone();

    // Who has one, in this data centre and in any, is known from the agents alone.
    poll::until_async(PATIENCE, "the fleet to know of the snapshot", || async {
        let said = world.ctl(&["--json", "snapshot", "find", "shop", "--local-dc", "dc1"]).await;
        (said.status.success() && said.stdout.contains("db1")).then_some(())
    })
    .await;
    let elsewhere = world.ctl(&["snapshot", "find", "shop", "--local-dc", "dc2"]).await;
    assert_eq!(elsewhere.status.code(), Some(5), "{elsewhere:?}");
    let any = world.ctl(&["--json", "snapshot", "find", "shop", "--prefer-dc", "dc2"]).await;
    assert!(any.stdout.contains("db1"), "{any:?}");

    let mount = SnapshotMountParams {
        snapshot: Some(snapshot.clone()),
        writable: false,
        at_mount_point: false,
        foreign: false,
    };
    let mounted = world.call(host, mount).await;
    assert!(
        mounted.path.join(&datadir).join("ibdata1").is_file(),
        "{} holds no data",
        mounted.path.display()
    );
    let status = world.call(host, SnapshotMountStatusParams {}).await;
    assert_eq!((status.len(), &status[0].snapshot), (1, &snapshot));
    let held =
        world.call(host, SnapshotRemoveParams { snapshot: snapshot.clone(), foreign: false }).await.job;
    let ended = world.ended(host, held).await;
    assert_eq!(ended.state, JobState::Failed, "a mounted snapshot is not removed");
    world.call(host, SnapshotUnmountParams { snapshot: Some(snapshot.clone()) }).await;
    assert!(world.call(host, SnapshotMountStatusParams {}).await.is_empty());
    job(&world, host, SnapshotRemoveParams { snapshot, foreign: false }).await;
    assert!(world.call(host, SnapshotListParams { usable: false }).await.is_empty());
}

/// A removal that is refused is over: what a person does to the same snapshot afterwards is told as a person's doing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_failed_removal_is_not_told_under_its_actor() {
    let world = world(Box::new(|_, _| {})).await;
    let host = &world.donor;
    let snapshot = world.snapshot().await;
    let params = SnapshotMountParams {
        snapshot: Some(snapshot.clone()),
        writable: false,
        at_mount_point: false,
        foreign: false,
    };
    world.call(host, params).await;
    let held = SnapshotRemoveParams { snapshot: snapshot.clone(), foreign: false };
    let held = world.call(host, held).await.job;
    assert_eq!(world.ended(host, held).await.state, JobState::Failed);
    world.call(host, SnapshotUnmountParams { snapshot: Some(snapshot.clone()) }).await;

    fs::remove_dir_all(host.db.base().join("snapshots").join(snapshot.as_str())).unwrap();
    let by = |event: &Event| match event.known() {
        Some(EventData::SnapshotRemoved(gone)) if gone.id == snapshot => Some(gone.by),
        _ => None,
    };
    let events = await_event(&world.client, "its removal by hand", |event| by(event).is_some()).await;
    assert_eq!(events.iter().find_map(by).as_deref(), Some("outside"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_listed_read_as_text_and_bytes_and_applied() {
    let world = world(Box::new(|_, _| {})).await;
    let (source, replica) = (&world.donor, &world.recipient);
    for statement in [
        "CREATE USER repl@'127.0.0.1' IDENTIFIED BY 'r'",
        "GRANT REPLICATION SLAVE ON *.* TO repl@'127.0.0.1'",
    ] {
        source.db.exec(statement).await.unwrap();
    }
    // A database goes by bytes: read from one server, applied to the other.
    source.db.exec("FLUSH BINARY LOGS").await.unwrap();
    source.db.exec("CREATE DATABASE by_bytes").await.unwrap();
    let file = world.call(source, BinlogFilesParams {}).await.pop().unwrap().name;
    let range = |file: &str| BinlogTextParams { file: file.to_owned(), start: 4, stop: None, offset: 0 };
    let text = decoded(&world.call(source, range(&file)).await);
    assert!(text.contains("CREATE DATABASE by_bytes"), "{text}");
    let bytes = BinlogBinaryParams { file, start: 4, stop: None, offset: 0 };
    let bytes = world.call(source, bytes).await;
    job(&world, replica, BinlogApplyParams { content: Some(bytes.content), upload: None }).await;
    assert_eq!(replica.db.scalar("SHOW DATABASES LIKE 'by_bytes'").await.unwrap(), "by_bytes");
    in_pieces(&world).await;

    // Another one goes by replication: its relay log is read where it lies.
    let status = source.db.query("SHOW MASTER STATUS").await.unwrap();
    let change = format!(
        "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='repl', MASTER_PASSWORD='r', \
         MASTER_LOG_FILE='{}', MASTER_LOG_POS={}",
        source.db.port(),
        status[0][0],
        status[0][1]
    );
    replica.db.exec(change).await.unwrap();
    replica.db.exec("START SLAVE").await.unwrap();
    source.db.exec("CREATE DATABASE by_relay").await.unwrap();
    poll::until_async(PATIENCE, "the replica to follow", || async {
        replica.db.scalar("SHOW DATABASES LIKE 'by_relay'").await.ok()
    })
    .await;
    let relay = world.call(replica, BinlogRelayFilesParams {}).await;
    assert!(relay.index.is_file(), "{}", relay.index.display());
    let last = relay.files.last().unwrap();
    let end = world.call(replica, BinlogRelayEndParams {}).await;
    assert_eq!((&end.file, end.position), (&last.name, last.size_bytes));
    let text = decoded(&world.call(replica, range(&last.name)).await);
    assert!(text.contains("CREATE DATABASE by_relay"), "{text}");
}

/// More than a message holds goes in pieces, out of one server and into the other.
async fn in_pieces(world: &World) {
    let (source, replica) = (&world.donor, &world.recipient);
    source.db.exec("FLUSH BINARY LOGS").await.unwrap();
    source.db.exec("CREATE TABLE by_bytes.big (id INT PRIMARY KEY, body LONGBLOB)").await.unwrap();
    for id in 0..4 {
        let insert = format!("INSERT INTO by_bytes.big VALUES ({id}, REPEAT('{id}', 700000))");
        source.db.exec(insert).await.unwrap();
    }
    let file = world.call(source, BinlogFilesParams {}).await.pop().unwrap().name;
    let copy = source.agent.dir().join("events");
    let command = world.ctl_command(&["binlog", "db1", "binary", &file]).output().await.unwrap();
    assert!(command.status.success(), "{}", String::from_utf8_lossy(&command.stderr));
    fs::write(&copy, &command.stdout).unwrap();
    let said = world.ctl(&["binlog", "db2", "apply", &copy.display().to_string()]).await;
    assert!(said.status.success(), "{said:?}");
    let checksum = "CHECKSUM TABLE by_bytes.big";
    assert_eq!(replica.db.query(checksum).await.unwrap(), source.db.query(checksum).await.unwrap());
    let left = fs::read_dir(replica.agent.state_dir().join("uploads")).unwrap().count();
    assert_eq!(left, 0, "the upload is gone");
}

fn decoded(chunk: &LogChunk) -> String {
    let bytes = data_encoding::BASE64.decode(chunk.content.as_bytes()).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_is_stopped_and_started_and_a_stopped_datadir_cleared() {
    let world = world(Box::new(|_, options| {
        options.set("seed.post_copy", vec!["/bin/echo".to_owned(), "copied".to_owned()]);
    }))
    .await;
    let host = &world.recipient;
    let datadir = host.db.datadir().to_owned();
    let clear = || DatadirClearParams { datadir: datadir.clone() };

    let refused = world.call(host, clear()).await.job;
    let refused = world.ended(host, refused).await;
    assert_eq!(refused.error.unwrap().code, ErrorCode::Refused, "a running server's data are not removed");
    world.recipient_is_as_it_was().await;

    let pid = host.db.pid().unwrap();
    job(&world, host, MysqlStopParams {}).await;
    assert_eq!(host.db.pid(), None);
    assert_eq!(world.call(host, MysqlInfoParams {}).await.state, ServerState::Stopped);
    job(&world, host, MysqlStartParams {}).await;
    world.recipient_is_as_it_was().await;
    assert_ne!(host.db.pid().unwrap(), pid);
    job(&world, host, MysqlRestartParams {}).await;
    world.recipient_is_as_it_was().await;

    job(&world, host, MysqlStopParams {}).await;
    let copied = job(&world, host, DatadirPostCopyParams {}).await;
    assert_eq!(copied.result.unwrap()["post_copy_output"], "copied\n");
    job(&world, host, clear()).await;
    assert_eq!(fs::read_dir(&datadir).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_custom_command_is_bounded_and_ended_with_all_its_children() {
    let world = world(Box::new(|_, options| {
        let argv = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        options.set("custom.hello.argv", argv(&["/bin/echo", "hello; $(id)"]));
        // Its children outlive it unless the whole group is stopped; each is known by its argument.
        let hang = "sleep 98765 & sleep 98765 & wait";
        options.set("custom.hang.argv", argv(&["/bin/sh", "-c", hang]));
        options.set("custom.hang.time_limit_s", 1);
        options.set("custom.flood.argv", argv(&["/bin/sh", "-c", "yes | head -c 200000000"]));
    }))
    .await;
    let host = &world.donor;
    let run = |name: &str| CustomRunParams { name: name.to_owned() };
    let said = job(&world, host, run("hello")).await;
    assert_eq!(said.result.unwrap()["stdout"], "hello; $(id)\n", "no shell reads it");
    let unknown = world.refused(host, run("/bin/rm")).await;
    assert_eq!(unknown.code, ErrorCode::NotFound);

    let hung: JobId = world.call(host, run("hang")).await.job;
    let hung = world.ended(host, hung).await;
    assert_eq!(hung.state, JobState::Failed);
    let why = hung.error.unwrap();
    assert!(why.to_string().contains("stopped after its limit of 1000 ms"), "{why}");
    poll::until_true(PATIENCE, "its children to be gone", || sleepers() == 0);

    let flood: JobId = world.call(host, run("flood")).await.job;
    let flood = world.ended(host, flood).await;
    let kept = flood.result.map_or(0, |result| result["stdout"].as_str().unwrap().len());
    assert!(kept <= 256 << 10, "{kept} bytes were kept");
    assert!(rss_kib(&world.donor) < 200 << 10);
}

/// Processes that only the hanging command starts.
fn sleepers() -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|p| fs::read(p.path().join("cmdline")).is_ok_and(|line| line == b"sleep\x0098765\x00"))
        .count()
}

fn rss_kib(host: &Host) -> u64 {
    host.agent.rss_kib().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_figures_are_cached_and_tell_their_age() {
    let dir = tempfile::tempdir().unwrap();
    let allowed = dir.path().canonicalize().unwrap();
    let root = allowed.display().to_string();
    let world = world(Box::new(move |_, options| {
        options.set("agent.paths", vec![root.clone()]);
    }))
    .await;
    let ask = |fresh| HostDiskUsageParams { path: allowed.clone(), fresh };
    let first = world.call(&world.donor, ask(false)).await;
    for number in 0..1_000 {
        fs::write(allowed.join(number.to_string()), "x").unwrap();
    }
    let second = world.call(&world.donor, ask(false)).await;
    assert_eq!((first.files, second.files), (0, 0), "from memory");
    assert!(second.counted_at.duration_since(first.counted_at) < jiff::SignedDuration::from_millis(500));
    let fresh = world.call(&world.donor, ask(true)).await;
    assert_eq!(fresh.files, 1_000);
    assert!(fresh.counted_at > second.counted_at);
}
