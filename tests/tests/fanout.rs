//! One donor, several recipients: one plan, one snapshot, one watch; and the record that each seed leaves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::fs;
use std::path::PathBuf;

use e2e::events::await_event;
use e2e::rows;
use e2e::world::{Host, PATIENCE, Provider, World, WorldOptions, swiftly};
use protocol::event::{Event, EventData};
use protocol::ids::JobId;
use protocol::job::JobState;
use protocol::params::*;
use serde_json::Value;
use testkit::poll;

async fn last_seed(world: &World, host: &Host) -> protocol::job::JobView {
    poll::until_async(PATIENCE, "a seed", || async {
        let jobs = world.call(host, JobsListParams { limit: 20, unfinished: false }).await;
        jobs.into_iter().find(|job| job.kind == "seed.start")
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_recipients_share_a_snapshot_and_the_failure_of_one_stops_no_other() {
    let world = World::start(WorldOptions { data_mib: 16, ..WorldOptions::default() }).await;
    let (db5, db6) = tokio::join!(
        world.another("db5", |agent| {
            agent.set("seed.post_copy", vec!["/bin/ls".to_owned(), "/nonexistent".to_owned()]);
        }),
        world.another("db6", |_| {}),
    );
    let snapshot = world.snapshot().await;
    let arguments = ["--json", "seed", "start", "db2", "db5", "db6", "--from", "db1", "--stop-mysql"];
    let arguments = [&arguments[..], &["--throttle", "8M", "--compression", "none"]].concat();
    let ctl = world.ctl_command(&arguments).spawn().unwrap();
    poll::until_async(PATIENCE, "three holders of one mount", || async {
        let held = world.call(&world.donor, SnapshotMountStatusParams {}).await;
        assert!(held.len() <= 1, "one snapshot for all: {held:?}");
        (held.first()?.mount.holders.len() == 3).then_some(())
    })
    .await;
    for host in [&world.recipient, &db5, &db6] {
        let job = last_seed(&world, host).await.id;
        poll::until_async(PATIENCE, "the new limit", || async {
            let throttle = SeedThrottleParams { job, bytes_per_s: 0 };
            let options = bus::CallOptions::default();
            let said = world.client.call(&host.id(), throttle, &options).await;
            (said.is_ok() || last_seed(&world, host).await.state.is_final()).then_some(())
        })
        .await;
    }
    let output = tokio::time::timeout(PATIENCE, ctl.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "the worst one counts: {said}");
    let lines: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |update: &str| -> Vec<&Value> { lines.iter().filter(|line| line["update"] == update).collect() };
    assert_eq!((of("plan").len(), of("begun").len(), of("finished").len()), (3, 3, 3), "{said}");
    assert!(of("begun").iter().all(|line| line["snapshot"] == snapshot.as_str()), "{said}");

    let wanted = rows::checksums(&world.donor.db).await;
    for host in [&world.recipient, &db6] {
        assert_eq!(last_seed(&world, host).await.state, JobState::Succeeded);
        assert_eq!(rows::checksums(&host.db).await, wanted);
    }
    let failed = last_seed(&world, &db5).await;
    assert_eq!((failed.state, failed.stage.as_deref()), (JobState::Failed, Some("post-copy")));
    assert_eq!(failed.donor, Some(world.donor.id()));
    assert_eq!(db5.db.scalar("SELECT id FROM own.marker").await.unwrap(), "4711");
    world.nothing_left(PATIENCE).await;

    // They have handed on to one another: the donor has not sent three copies.
    let jobs = world.call(&world.donor, JobsListParams { limit: 20, unfinished: false }).await;
    let counters = |job: &protocol::job::JobView, name: &str| job.result.as_ref()?[name].as_u64();
    let offers = || jobs.iter().filter(|job| job.kind == "seed.offer");
    let sent: u64 = offers().filter_map(|job| counters(job, "bytes_sent")).sum();
    let total = offers().find_map(|job| counters(job, "bytes_total")).unwrap();
    println!("{sent} bytes sent of three times {total}");
    assert_eq!(offers().filter(|job| counters(job, "bytes_sent").is_some()).count(), 3);
    assert!(2 * sent < 3 * total, "{sent} bytes sent of a tree of {total}");
}

async fn recorded(world: &World, job: JobId) -> (Option<i32>, String) {
    let said = world.ctl(&["seed", "show", "db2", &job.to_string()]).await;
    (said.status.code(), format!("{}{}", said.stdout, said.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_leaves_a_record_and_an_altered_one_is_found_out() {
    let mut world =
        World::start(WorldOptions { provider: Provider::Directory, ..WorldOptions::default() }).await;
    world.snapshot().await;
    let job = world.seed(swiftly()).await;
    let view = world.succeeded(&world.recipient, job).await;
    let finished = |event: &Event| matches!(event.known(), Some(EventData::JobFinished(e)) if e.job == job);
    await_event(&world.client, "the seed's end", finished).await;

    let (code, record) = recorded(&world, job).await;
    assert_eq!(code, Some(0), "{record}");
    let root = view.result.as_ref().unwrap()["transfer"]["root_digest"].as_str().unwrap();
    let gtid = view.result.as_ref().unwrap()["coordinates"]["gtid"].as_str().unwrap();
    for part in [
        "the hash chain holds",
        root,
        gtid,
        "tester",
        "db1",
        "not_onto_itself",
        "timings",
        "cleanup finished",
    ] {
        assert!(record.contains(part), "{part} is missing: {record}");
    }

    // Someone makes the record say that another root was proven: first clumsily, then with a chain that fits.
    let path = journal(&world, job);
    let written = fs::read_to_string(&path).unwrap();
    let forged_root = format!("{}{}", if root.starts_with('0') { '1' } else { '0' }, &root[1..]);
    let clumsy = written.replace(root, &forged_root);
    world.recipient.agent.stop().unwrap();
    for (text, words) in [
        (clumsy.clone(), "was changed after it was written"),
        (chained_anew(&clumsy), "is not the one that the stream was told of"),
    ] {
        fs::write(&path, text).unwrap();
        world.recipient.agent.expect_error("a journal cannot be used");
        world.recipient.agent.boot().unwrap();
        world.serving(&world.recipient.id()).await;
        let (code, record) = recorded(&world, job).await;
        assert_eq!(code, Some(1), "{record}");
        assert!(record.contains("ALTERED") && record.contains(words), "{record}");
        world.recipient.agent.stop().unwrap();
    }
    fs::write(&path, written).unwrap();
    world.recipient.agent.boot().unwrap();
    world.serving(&world.recipient.id()).await;
    let (code, record) = recorded(&world, job).await;
    assert_eq!(code, Some(0), "{record}");
}

fn journal(world: &World, job: JobId) -> PathBuf {
    world.recipient.agent.state_dir().join("jobs").join(job.to_string()).join("journal.jsonl")
}

/// The same records with hashes that fit, as an attacker with the format at hand would write them.
fn chained_anew(text: &str) -> String {
    let mut before = "0".repeat(64);
    let mut out = String::new();
    for line in text.lines() {
        let body = &line[line.find("\"record\":").unwrap() + 9..line.len() - 1];
        let prev = body.find("\"prev\":\"").unwrap() + 8;
        let body = format!("{}{before}{}", &body[..prev], &body[prev + 64..]);
        before = blake3::hash(body.as_bytes()).to_hex().to_string();
        out.push_str(&format!("{{\"hash\":\"{before}\",\"record\":{body}}}\n"));
    }
    out
}
