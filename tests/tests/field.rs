//! What the HTTP agent of orchestrator was seen to do, each with the opposite outcome here.
//!
//! | tried there | proven here |
//! | --- | --- |
//! | a file truncated on the donor | `reliability_places`: a snapshot that is not what it was is never called a seed |
//! | one bit flipped on the wire | `seed`: a flipped byte on the wire never lands |
//! | the sender killed among 20,000 small files | below |
//! | mounting fails on the donor | below |
//! | the status command mistyped | below |
//! | too little space | `seed`: a recipient with too little space is refused before anything is touched |
//! | two seeds to one recipient | `reliability_places`: a lapsed offer and a second seed are told and harm nothing |
//! | abort | `seed`: an abort frees both hosts and a new seed succeeds; of a finished seed: below |
//! | the agent restarted in a seed | `seed`: the recipient's agent dies in mid transfer and goes on by itself |
//! | the controller killed in a seed | `seed`: ctl dies and the seed finishes |
//! | load on the API | below |
//! | `lv=$(touch …)`, `targetHost`, `du?path=`, `binlog=…;cat FILE` | below |
//! | a stranger connects to the data port first | below |
//! | one GET hijacks a host | below; the bus's own rights: `permissions` of the crate `bus` |
//! | a host with no volumes | below |
//! | a seed takes half a minute longer than its copy | `seed`: orchestration costs little beside MySQL's own stop and start |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bus::fleet::FleetEntry;
use bus::{BusError, CallOptions, Client};
use e2e::tree;
use e2e::world::{self, Party, Provider, World, WorldOptions, slowly, swiftly};
use nkeys::KeyPair;
use protocol::error::{ErrorCode, WireError};
use protocol::heartbeat::Heartbeat;
use protocol::ids::BootId;
use protocol::job::JobState;
use protocol::params::*;
use protocol::seed::{SeedOptions, Transport};
use protocol::subject::Subject;
use serde_json::{Value, json};
use testkit::agent::{Agent, AgentOptions};
use testkit::nats::{NatsOptions, NatsServer};

async fn directory_world() -> World {
    World::start(WorldOptions { provider: Provider::Directory, ..WorldOptions::default() }).await
}

/// The error of a command given as JSON, as a careless or hostile program would send it.
async fn raw_error(world: &World, command: &str, params: Value) -> WireError {
    let options = CallOptions { timeout: Duration::from_secs(30), ..CallOptions::default() };
    match world.client.raw(&world.donor.id(), command, params.clone(), &options).await {
        Err(BusError::Agent(error)) => error,
        other => panic!("{command} {params}: {other:?}"),
    }
}

/// What stands in one of the small files.
fn small(part: u32, number: u32) -> String {
    format!("{part} {number}").repeat(20)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_killed_among_20_000_small_files_loses_none() {
    let mut world = World::start(WorldOptions::default()).await;
    let (uid, gid) = owner_of(world.donor.db.datadir());
    for part in 0..20 {
        let directory = world.donor.db.datadir().join(format!("small{part}"));
        fs::create_dir(&directory).unwrap();
        std::os::unix::fs::chown(&directory, Some(uid), Some(gid)).unwrap();
        for number in 0..1_000 {
            fs::write(directory.join(format!("{number}.txt")), small(part, number)).unwrap();
        }
    }
    world.snapshot().await;
    let job = world.seed(SeedOptions { start_mysql: false, ..slowly(4 << 20) }).await;
    world.in_transfer(job, 2 << 20).await;
    world.crash(Party::DonorsAgent).await;
    world.hurry(job).await;
    world.succeeded(&world.recipient, job).await;
    for part in 0..20 {
        let directory = world.recipient.db.datadir().join(format!("small{part}"));
        for number in 0..1_000 {
            let landed = fs::read_to_string(directory.join(format!("{number}.txt"))).unwrap();
            assert!(landed == small(part, number), "file {number} of {part}: {landed:?}");
        }
    }
}

fn owner_of(path: &std::path::Path) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_fails_on_the_donor_touches_no_recipient() {
    let world = directory_world().await;
    let snapshot = world.snapshot().await;
    let before = tree::names(world.recipient.db.datadir());
    let asking = SeedOfferParams {
        recipient: world.recipient.id(),
        snapshot: Some(snapshot.clone()),
        plain: false,
        foreign: false,
        stream: None,
        transport: Transport::Tcp,
        seal_to: None,
    };
    // Nothing can be mounted below a file.
    let mounts = world.donor.agent.mount_root();
    fs::remove_dir_all(&mounts).unwrap();
    fs::write(&mounts, "").unwrap();
    let error = world.refused(&world.donor, asking.clone()).await;
    let said = error.to_string() + ": " + &error.causes.join(": ");
    assert!(said.contains(&mounts.display().to_string()), "the cause is named: {said}");
    let said = world.ctl(&["seed", "start", "db2", "--from", "db1", "--stop-mysql"]).await;
    assert!(!said.status.success(), "{said:?}");
    fs::remove_file(&mounts).unwrap();

    // What should be mounted is not there.
    let data = world.donor.db.base().join("snapshots").join(snapshot.as_str()).join("data");
    fs::rename(&data, data.with_extension("aside")).unwrap();
    let error = world.refused(&world.donor, asking).await;
    assert!(error.message.contains(snapshot.as_str()), "{error:?}");
    let said = world.ctl(&["seed", "start", "db2", "--from", "db1", "--stop-mysql"]).await;
    assert!(!said.status.success(), "{said:?}");
    assert_eq!(tree::names(world.recipient.db.datadir()), before);
    world.recipient_is_as_it_was().await;
    world.nothing_left(world::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistyped_status_command_counts_as_a_running_server() {
    let mut world = directory_world().await;
    world.snapshot().await;
    let argv = world.recipient.db.argv();
    let agent = &mut world.recipient.agent;
    agent.options().unset("mysql.service");
    agent.options().set("mysql.service.argv.start", argv);
    agent.options().set("mysql.service.argv.stop", vec!["/bin/true".to_owned()]);
    agent
        .options()
        .set("mysql.service.argv.status", vec!["/usr/bin/systmctl".to_owned(), "is-active".to_owned()]);
    agent.restart().unwrap();
    world.serving(&world.recipient.id()).await;
    world.recipient.db.stop().await.unwrap();
    let before = tree::contents(world.recipient.db.datadir());
    let offer = world.offer(false).await;
    let start = SeedStartParams { offer: offer.clone(), options: SeedOptions::default(), plan_digest: None };
    let error = world.refused(&world.recipient, start).await;
    assert_eq!(error.guard.as_deref(), Some("mysql_may_stop"), "{error:?}");
    assert!(error.message.contains("could not be told"), "{error:?}");
    let datadir = world.recipient.db.datadir().to_owned();
    let job = world.call(&world.recipient, DatadirClearParams { datadir }).await.job;
    assert_eq!(world.ended(&world.recipient, job).await.state, JobState::Failed);
    assert!(tree::contents(world.recipient.db.datadir()) == before, "a datadir was touched");
    world.call(&world.donor, SeedReleaseParams { offer: offer.id }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_seed_cannot_be_aborted_into_a_failed_one() {
    let world = directory_world().await;
    world.snapshot().await;
    let job = world.seed(swiftly()).await;
    world.succeeded(&world.recipient, job).await;
    world.refused(&world.recipient, JobsAbortParams { job }).await;
    let view = world.call(&world.recipient, JobsShowParams { job }).await;
    assert_eq!((view.state, view.error), (JobState::Succeeded, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_on_the_api_kills_nobody() {
    let mut world = directory_world().await;
    let snapshot = world.snapshot().await;
    let (client, id) = (world.client.clone(), world.donor.id());
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..1_000_u32 {
        let (client, id, snapshot) = (client.clone(), id.clone(), snapshot.clone());
        asked.spawn(async move {
            let options = CallOptions { timeout: Duration::from_secs(120), ..CallOptions::default() };
            let answer = match number % 4 {
                0 => client.call(&id, SnapshotListParams { usable: false }, &options).await.map(drop),
                1 => client.call(&id, MysqlInfoParams {}, &options).await.map(drop),
                2 => client
                    .call(&id, JobsListParams { limit: 10, unfinished: false }, &options)
                    .await
                    .map(drop),
                _ => client
                    .call(
                        &id,
                        SnapshotMountParams {
                            snapshot: Some(snapshot),
                            writable: false,
                            at_mount_point: false,
                            foreign: false,
                        },
                        &options,
                    )
                    .await
                    .map(drop),
            };
            match answer {
                Err(BusError::Agent(error)) => error.code == ErrorCode::Busy,
                other => other.is_ok(),
            }
        });
    }
    while let Some(answered) = asked.join_next().await {
        assert!(answered.unwrap(), "an answer is a result, or says that the agent is busy");
    }
    assert!(world.donor.agent.runs());
    world.call(&world.donor, SnapshotUnmountParams { snapshot: Some(snapshot) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_from_a_request_is_run_or_read() {
    let world = directory_world().await;
    let mark = world.donor.agent.dir().join("mark");
    let evil = format!("$(touch {})", mark.display());
    let secret = world.donor.agent.config_path();
    for (command, params) in [
        ("snapshot.remove", json!({ "snapshot": evil })),
        ("snapshot.mount", json!({ "snapshot": format!("a;touch {}", mark.display()) })),
        ("snapshot.remove", json!({ "snapshot": "../../etc" })),
        ("seed.offer", json!({ "recipient": evil })),
        ("host.disk-usage", json!({ "path": "/etc" })),
        ("host.disk-usage", json!({ "path": format!("{}/../..", world.donor.db.datadir().display()) })),
        ("binlog.text", json!({ "file": format!("binlog.000001;cat {}", secret.display()) })),
        ("binlog.binary", json!({ "file": format!("../../../..{}", secret.display()) })),
        ("custom.run", json!({ "name": evil })),
        ("datadir.clear", json!({ "datadir": "/" })),
    ] {
        // A job may be taken first: then it is the job that must fail.
        let options = CallOptions { timeout: Duration::from_secs(30), ..CallOptions::default() };
        match world.client.raw(&world.donor.id(), command, params.clone(), &options).await {
            Ok(bus::Answer::Result(accepted)) => {
                let job =
                    accepted["job"].as_str().unwrap_or_else(|| panic!("{command} {params}: {accepted}"));
                let view = world.ended(&world.donor, job.parse().unwrap()).await;
                assert_eq!(view.state, JobState::Failed, "{command} {params}");
            }
            Err(BusError::Agent(error)) => assert!(!error.message.contains("accept_unsigned"), "{error:?}"),
            other => panic!("{command} {params}: {other:?}"),
        }
    }
    assert!(!mark.exists(), "something was run");
    assert_eq!(raw_error(&world, "snapshot.remove", json!({ "lv": "x" })).await.code, ErrorCode::BadRequest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_who_connects_first_gets_nothing_and_leaves_nothing() {
    let world = directory_world().await;
    world.snapshot().await;
    let offer = world.offer(false).await;
    let mut strangers = Vec::new();
    for address in &offer.addresses {
        for words in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0_u8; 4096], &[0xff; 64]] {
            let mut stranger = TcpStream::connect(address).unwrap();
            stranger.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let _ = stranger.write_all(words);
            strangers.push(stranger);
        }
    }
    let start = SeedStartParams { offer, options: swiftly(), plan_digest: None };
    let job = world.call(&world.recipient, start).await.job;
    world.succeeded(&world.recipient, job).await;
    let mut heard = Vec::new();
    for mut stranger in strangers {
        let _ = stranger.read_to_end(&mut heard);
    }
    assert!(heard.len() < 1_000, "strangers were told {} bytes", heard.len());
    let rows = e2e::rows::checksums(&world.donor.db).await;
    assert_eq!(e2e::rows::checksums(&world.recipient.db).await, rows);
    world.nothing_left(world::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_word_takes_over_no_host() {
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let key = KeyPair::new_user();
    let mut options = AgentOptions::new("db1", &nats.url());
    options.set("auth.accept_unsigned", false).trust(&key.public_key(), "operator", &["read"]);
    let agent = Agent::start(options).unwrap();
    let stranger = world::client(&nats.url()).await;
    let operator = Client::new(stranger.bus().clone(), Some(key), "operator");
    world::serving(&operator, agent.id()).await;

    let unknown = Client::new(stranger.bus().clone(), Some(KeyPair::new_user()), "operator");
    for stranger in [&stranger, &unknown] {
        match stranger.call(agent.id(), AgentStatusParams {}, &CallOptions::default()).await {
            Err(BusError::Agent(error)) => assert_eq!(error.code, ErrorCode::Unauthenticated, "{error:?}"),
            other => panic!("a stranger's command was served: {other:?}"),
        }
    }

    // Says again and again that it were db1: it is seen as the second one, and hears of no command.
    let fleet = operator.live_fleet().await.unwrap();
    let seen = |what: &'static str, wanted: fn(&FleetEntry) -> bool| {
        testkit::poll::until_true(world::PATIENCE, what, || {
            fleet.get(agent.id()).is_some_and(|e| wanted(&e))
        });
    };
    seen("the host in the fleet", |_| true);
    let mut forged = Heartbeat::clone(&fleet.get(agent.id()).unwrap().heartbeat);
    let boot = forged.boot;
    forged.boot = BootId::generate();
    forged.started_at = jiff::Timestamp::UNIX_EPOCH;
    let subject = Subject::Heartbeat { agent: agent.id().clone() }.to_string();
    let body = serde_json::to_vec(&forged).unwrap();
    let core = stranger.bus().client();
    testkit::poll::until_async(world::PATIENCE, "the second db1 to be told", || async {
        core.publish(subject.clone(), body.clone().into()).await.unwrap();
        let entry = fleet.get(agent.id()).unwrap();
        assert_eq!(
            operator.call(agent.id(), AgentInfoParams {}, &CallOptions::default()).await.unwrap().boot,
            boot
        );
        entry.duplicate.map(|_| ())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_volumes_says_what_it_lacks() {
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let mut agent = Agent::start(AgentOptions::new("db1", &nats.url())).unwrap();
    let client = world::client(&nats.url()).await;
    world::serving(&client, agent.id()).await;
    let options = CallOptions { timeout: Duration::from_secs(30), ..CallOptions::default() };
    let listed = client.call(agent.id(), SnapshotListParams { usable: false }, &options).await;
    assert!(
        matches!(&listed, Err(BusError::Agent(error)) if error.code == ErrorCode::MissingCapability),
        "{listed:?}"
    );
    match client.call(agent.id(), HostVolumesParams { pattern: None }, &options).await {
        Ok(volumes) => println!("this machine has {} volumes", volumes.len()),
        Err(BusError::Agent(error)) => assert_eq!(error.code, ErrorCode::MissingCapability, "{error:?}"),
        Err(other) => panic!("{other}"),
    }
    assert!(agent.runs());
}
