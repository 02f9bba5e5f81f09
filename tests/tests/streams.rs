//! Seeds from a program's stream: a donor without any snapshot, the tool's own stream, prepared and replicating.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::path::Path;
use std::time::Instant;

use e2e::replication::{Account, all_writes, caught_up};
use e2e::rows::{self, Writer};
use e2e::world::{PATIENCE, Party, Provider, World, WorldOptions, slowly, swiftly};
use protocol::ids::JobId;
use protocol::job::JobState;
use protocol::params::*;
use protocol::seed::{Offer, SeedOptions, Transport};
use testkit::poll;

const MIB: u64 = 1 << 20;

/// Nobody takes a snapshot in these worlds.
async fn world(data_mib: u32, account: &Account) -> World {
    let file = account.file().display().to_string();
    let configure = move |_: &str, agent: &mut testkit::agent::AgentOptions| {
        agent.set("seed.replication_credentials", file.clone());
    };
    let world = World::start(WorldOptions {
        provider: Provider::Directory,
        data_mib,
        configure: Some(Box::new(configure)),
        ..WorldOptions::default()
    })
    .await;
    Account::create(&world.donor.db).await;
    world
}

async fn offer(world: &World, stream: &str) -> Offer {
    let recipient = world.recipient.id();
    let params = SeedOfferParams {
        recipient,
        snapshot: None,
        foreign: false,
        stream: Some(stream.to_owned()),
        plain: false,
        transport: Transport::default(),
        seal_to: None,
    };
    world.call(&world.donor, params).await
}

async fn seed(world: &World, stream: &str, options: SeedOptions) -> JobId {
    let offer = offer(world, stream).await;
    world.call(&world.recipient, SeedStartParams { offer, options, plan_digest: None }).await.job
}

async fn assert_same_rows(world: &World) {
    assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
    world.nothing_left(PATIENCE).await;
}

/// Where the tool is missing, the loud reason.
fn has_mariabackup() -> bool {
    let there = Path::new("/usr/bin/mariabackup").exists();
    if !there {
        testkit::skip::lacking("mariabackup is not installed (scripts/install-deps test)");
    }
    there
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariabackup_stream_becomes_a_replica_of_a_primary_under_writes() {
    if !has_mariabackup() {
        return;
    }
    let account = Account::new();
    let world = world(8, &account).await;
    let writer = Writer::start(&world.donor.db).await;
    let source = format!("127.0.0.1:{}", world.donor.db.port());
    let said =
        world.ctl(&["seed", "plan", "db2", "--from", "db1", "--stream", "mariabackup", "--stop-mysql"]).await;
    assert!(said.status.success() && said.stdout.contains("cannot be resumed"), "{said:?}");
    let arguments = ["seed", "start", "db2", "--from", "db1", "--stream", "mariabackup", "--stop-mysql"];
    let said = world.ctl(&[&arguments[..], &["--replicate-from", &source]].concat()).await;
    assert!(said.status.success(), "{said:?}");
    let written = writer.stop().await;
    caught_up(&world.recipient.db, &world.donor.db).await;
    assert_eq!(all_writes(&world.recipient.db).await[0][0], written.len().to_string());
    let jobs = world.call(&world.recipient, JobsListParams { limit: 1, unfinished: false }).await;
    let result = jobs[0].result.as_ref().unwrap();
    assert!(result["coordinates"]["gtid"].is_string(), "{result}");
    assert_eq!(result["transfer"]["root_digest"].as_str().map(str::len), Some(64));
    assert_same_rows(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_begins_anew_after_the_recipients_agent_died() {
    if !has_mariabackup() {
        return;
    }
    let account = Account::new();
    let mut world = world(16, &account).await;
    let job = seed(&world, "mariabackup", slowly(6 * MIB)).await;
    world.in_transfer(job, 4 * MIB).await;
    world.crash(Party::RecipientsAgent).await;
    world.hurry(job).await;
    world.succeeded(&world.recipient, job).await;
    assert_same_rows(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_stream_frees_both_hosts() {
    if !has_mariabackup() {
        return;
    }
    let account = Account::new();
    let world = world(16, &account).await;
    let job = seed(&world, "mariabackup", slowly(4 * MIB)).await;
    world.in_transfer(job, 2 * MIB).await;
    let asked = Instant::now();
    world.call(&world.recipient, JobsAbortParams { job }).await;
    world.nothing_left(PATIENCE).await;
    println!("abort of a stream: both hosts free after {} ms", asked.elapsed().as_millis());
    assert_eq!(world.ended(&world.recipient, job).await.state, JobState::Aborted);
    let programs =
        std::process::Command::new("pgrep").args(["-f", "mariabackup.*--backup"]).output().unwrap();
    let ours = world.donor.agent.state_dir().display().to_string();
    let left = String::from_utf8_lossy(&programs.stdout).lines().any(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&ours))
    });
    assert!(!left, "the program on the donor runs on");
    world.recipient_is_as_it_was().await;
    let job = seed(&world, "mariabackup", swiftly()).await;
    world.succeeded(&world.recipient, job).await;
    assert_same_rows(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_pair_of_programs_makes_a_seed_and_a_failing_one_is_told_by_its_own_words() {
    let account = Account::new();
    let mut world = world(4, &account).await;
    // A tree at rest, for a program that knows nothing of databases.
    let snapshot = world.snapshot().await;
    let tree = world.donor.db.base().join("snapshots").join(snapshot.as_str()).join("data");
    let words = |argv: &[&str]| argv.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let tree = tree.display().to_string();
    let fails = "head -c 3000000 /dev/zero; echo the disk is broken >&2; exit 9";
    world
        .donor
        .agent
        .options()
        .set("seed.streams.files.give", words(&["tar", "-cf", "-", "-C", &tree, "."]))
        // What lies in the snapshots' directory is root's alone.
        .set("seed.streams.files.give_as_agent", true)
        .set("seed.streams.broken.give", words(&["sh", "-c", fails]))
        .set("seed.streams.silent.give", words(&["sleep", "600"]))
        .set("seed.stall_s", 3);
    let options = world.recipient.agent.options();
    for name in ["files", "broken", "silent"] {
        options.set(&format!("seed.streams.{name}.take"), words(&["tar", "-xf", "-", "-C", "{staging}"]));
    }
    options.set("seed.streams.broken.take", words(&["dd", "of=/dev/null"]));
    for host in [&mut world.donor, &mut world.recipient] {
        host.agent.restart().unwrap();
    }
    for host in [&world.donor, &world.recipient] {
        world.serving(&host.id()).await;
    }
    for (name, cause) in [("broken", "the disk is broken"), ("silent", "gave no byte for 3 s")] {
        let job = seed(&world, name, swiftly()).await;
        let view = world.ended(&world.recipient, job).await;
        assert_eq!((view.state, view.stage.as_deref()), (JobState::Failed, Some("transfer")), "{name}");
        assert!(view.error.as_ref().unwrap().message.contains(cause), "{:?}", view.error);
        world.recipient_is_as_it_was().await;
        world.nothing_left(PATIENCE).await;
    }
    let job = seed(&world, "files", swiftly()).await;
    let view = world.succeeded(&world.recipient, job).await;
    assert_eq!(view.summary, "db1 → db2 from stream files");
    assert_same_rows(&world).await;
    poll::until_async(PATIENCE, "an answer", || async {
        let error = world
            .refused(
                &world.donor,
                SeedSurveyParams { snapshot: None, foreign: false, stream: Some("nonsense".to_owned()) },
            )
            .await;
        error.message.contains("knows no stream").then_some(())
    })
    .await;
}
