//! What comes from releases that are too new: it is told by name, with what to do, and nothing is lost.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;

use e2e::rows;
use e2e::world::{PATIENCE, World, WorldOptions, slowly, swiftly};
use jiff::{SignedDuration, Timestamp};
use protocol::envelope::{Outcome, Reply};
use protocol::error::ErrorCode;
use protocol::ids::{JobId, RequestId};
use protocol::job::JobState;
use protocol::params::{JobsListParams, SeedStartParams};
use serde_json::json;

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_a_newer_protocol_is_answered_with_both_versions_and_what_to_do() {
    let world = World::start(WorldOptions::default()).await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let deadline = Timestamp::now() + SignedDuration::from_secs(30);
    let request = json!({ "version": 2, "id": RequestId::generate(), "deadline": deadline, "actor": "tester",
        "command": "agent.info", "params": {}, "of": "a later release" });
    let reply = client.request("orch.v1.cmd.db1.agent.info", request.to_string().into()).await.unwrap();
    let reply: Reply = serde_json::from_slice(&reply.payload).unwrap();
    let Outcome::Error(error) = reply.outcome else { panic!("{reply:?}") };
    assert_eq!(error.code, ErrorCode::UnsupportedVersion);
    for words in ["speaks version 1", "of version 2", "update the older of the two"] {
        assert!(error.message.contains(words), "{words:?} is not in {}", error.message);
    }
    world.serving(&world.donor.id()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donor_of_a_newer_data_protocol_is_named_and_the_recipient_is_as_it_was() {
    let world = World::start(WorldOptions {
        configure: Some(Box::new(|_, agent| _ = agent.set("seed.allow_plain", true))),
        ..WorldOptions::default()
    })
    .await;
    world.snapshot().await;
    let mut offer = world.offer(true).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    offer.addresses = vec![listener.local_addr().unwrap().to_string()];
    std::thread::spawn(move || {
        for mut recipient in listener.incoming().flatten() {
            // Its name, the lowest and the highest version that it speaks.
            let mut greeting = [0; 64];
            greeting[..8].copy_from_slice(b"OASEED\r\n");
            greeting[8..12].copy_from_slice(&[9, 0, 9, 0]);
            let _ = recipient.write_all(&greeting);
            let _ = recipient.read_to_end(&mut Vec::new());
        }
    });
    let params = SeedStartParams { offer, options: swiftly(), plan_digest: None };
    let job = world.call(&world.recipient, params).await.job;
    let view = world.ended(&world.recipient, job).await;
    let error = view.error.unwrap();
    let said = format!("{error}: {}", error.causes.join(": "));
    assert_eq!(view.state, JobState::Failed);
    for words in ["here 1 to 1", "there 9 to 9", "update the older agent"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    world.recipient_is_as_it_was().await;
}

/// The journal of a job.
fn journal(world: &World, job: JobId) -> PathBuf {
    let directory = world.recipient.agent.state_dir().join("jobs").join(job.to_string());
    let mut files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files
        .find(|path| {
            path.is_file() && fs::read_to_string(path).is_ok_and(|text| text.contains("\"record\":"))
        })
        .unwrap()
}

/// The same records in a later format, with hashes that fit.
fn of_a_later_format(text: &str) -> String {
    let (mut before, mut out) = ("0".repeat(64), String::new());
    for line in text.lines() {
        let body = &line[line.find("\"record\":").unwrap() + 9..line.len() - 1];
        let body = body.replacen("\"v\":1", "\"v\":9", 1);
        let prev = body.find("\"prev\":\"").unwrap() + 8;
        let body = format!("{}{before}{}", &body[..prev], &body[prev + 64..]);
        before = blake3::hash(body.as_bytes()).to_hex().to_string();
        out.push_str(&format!("{{\"hash\":\"{before}\",\"record\":{body}}}\n"));
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_of_a_newer_journal_is_named_left_alone_and_goes_on_when_its_program_is_back() {
    let mut world = World::start(WorldOptions { data_mib: 24, ..WorldOptions::default() }).await;
    world.snapshot().await;
    let job = world.seed(slowly(12 * MIB)).await;
    world.in_transfer(job, 40 * MIB).await;
    world.recipient.agent.kill9().unwrap();
    let path = journal(&world, job);
    let written = fs::read_to_string(&path).unwrap();
    let newer = of_a_later_format(&written);
    fs::write(&path, &newer).unwrap();

    world.recipient.agent.expect_error("a journal cannot be used");
    world.recipient.agent.boot().unwrap();
    world.serving(&world.recipient.id()).await;
    let log = world.recipient.agent.log();
    let line = log.lines().find(|line| line.contains("a journal cannot be used")).unwrap();
    for words in ["format 9", "run the newer program", &job.to_string()] {
        assert!(line.contains(words), "{words:?} is not in {line}");
    }
    let known = world.call(&world.recipient, JobsListParams { limit: 100, unfinished: false }).await;
    assert!(known.iter().all(|known| known.id != job), "{known:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), newer, "it is not written to");
    world.recipient_is_as_it_was().await;

    // As it was written by the newer program, which is back.
    world.recipient.agent.kill9().unwrap();
    fs::write(&path, &written).unwrap();
    world.recipient.agent.boot().unwrap();
    world.serving(&world.recipient.id()).await;
    world.hurry(job).await;
    let view = world.succeeded(&world.recipient, job).await;
    assert!(e2e::world::transferred(&view, "bytes_resumed") > 0, "what had arrived was not kept");
    assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
    world.nothing_left(PATIENCE).await;
}
