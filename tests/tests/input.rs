//! Bad input to a real agent: a typed error each time, and the agent lives on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use bus::Client;
use e2e::world;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use protocol::envelope::{MAX_REQUEST_BYTES, Outcome, Reply};
use protocol::error::ErrorCode;
use protocol::ids::{AgentId, RequestId};
use protocol::params::{AgentInfoParams, JobsListParams, SnapshotCreateParams};
use protocol::subject::Subject;
use serde_json::{Value, json};
use testkit::agent::{Agent, AgentOptions, Program};
use testkit::nats::{NatsOptions, NatsServer};

fn request(command: &str) -> Value {
    json!({"version": 1, "id": RequestId::generate(), "deadline": "2100-01-01T00:00:00Z", "actor": "tester",
           "command": command, "params": {}})
}

fn soon() -> String {
    jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(30)).unwrap().to_string()
}

fn with(mut request: Value, key: &str, value: Value) -> Vec<u8> {
    request[key] = value;
    request.to_string().into_bytes()
}

async fn answer(client: &Client, agent: &AgentId, command: &str, body: Vec<u8>) -> Reply {
    let subject = Subject::Command { agent: agent.clone(), command: command.to_owned() }.to_string();
    let message = client.bus().request(subject, None, body.into(), Duration::from_secs(20)).await.unwrap();
    serde_json::from_slice(&message.payload).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_bad_request_gets_its_typed_error_and_the_agent_lives_on() {
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    // No server and no snapshots: an agent starts without them.
    let mut agent = Agent::start(AgentOptions::new("db1", &nats.url())).unwrap();
    let client = world::client(&nats.url()).await;
    let id = agent.id().clone();
    world::serving(&client, &id).await;

    let valid = || {
        let mut valid = request("agent.info");
        valid["deadline"] = soon().into();
        valid
    };
    let mut of_another_command = request("host.reboot");
    of_another_command["deadline"] = soon().into();
    let cases: Vec<(&str, &str, Vec<u8>, ErrorCode)> = vec![
        (
            "unknown command",
            "host.reboot",
            of_another_command.to_string().into_bytes(),
            ErrorCode::UnknownCommand,
        ),
        (
            "unknown field of the request",
            "agent.info",
            with(valid(), "force", json!(true)),
            ErrorCode::BadRequest,
        ),
        (
            "unknown parameter",
            "agent.info",
            with(valid(), "params", json!({"verbose": 1})),
            ErrorCode::BadRequest,
        ),
        (
            "parameters of a wrong type",
            "agent.info",
            with(valid(), "params", json!([1])),
            ErrorCode::BadRequest,
        ),
        ("a newer version", "agent.info", with(valid(), "version", json!(2)), ErrorCode::UnsupportedVersion),
        (
            "another command than the subject's",
            "agent.info",
            with(valid(), "command", json!("mysql.stop")),
            ErrorCode::BadRequest,
        ),
        ("malformed JSON", "agent.info", b"{\"version\": 1,".to_vec(), ErrorCode::BadRequest),
        ("no JSON at all", "agent.info", vec![0xff, 0x00, 0xfe], ErrorCode::BadRequest),
        ("an empty body", "agent.info", Vec::new(), ErrorCode::BadRequest),
        ("nesting", "agent.info", "[".repeat(100_000).into_bytes(), ErrorCode::BadRequest),
        ("an oversized body", "agent.info", vec![b' '; MAX_REQUEST_BYTES + 1], ErrorCode::TooLarge),
        (
            "a deadline that has passed",
            "agent.info",
            with(valid(), "deadline", json!("2020-01-01T00:00:00Z")),
            ErrorCode::Expired,
        ),
    ];
    for (what, command, body, code) in cases {
        let reply = answer(&client, &id, command, body).await;
        let Outcome::Error(error) = reply.outcome else { panic!("{what}: {reply:?}") };
        assert_eq!(error.code, code, "{what}: {error:?}");
        assert!(!error.message.is_empty(), "{what}");
    }
    let reply = answer(&client, &id, "agent.info", valid().to_string().into_bytes()).await;
    assert!(matches!(reply.outcome, Outcome::Result(_)), "{reply:?}");
    let jobs =
        client.call(&id, JobsListParams { limit: 10, unfinished: false }, &Default::default()).await.unwrap();
    assert!(jobs.is_empty(), "nothing was begun: {jobs:?}");
    assert!(agent.runs());
    agent.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_cannot_do_lvm_says_why_and_serves_on() {
    if Path::new("/dev/mapper").read_dir().is_ok_and(|entries| entries.count() > 1) {
        testkit::skip!(odd: "this host has device-mapper volumes");
    }
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let datadir = tempfile::tempdir().unwrap();
    let mut options = AgentOptions::new("db1", &nats.url());
    options.set("snapshot.provider.provider", "lvm");
    options.set("mysql.datadir", datadir.path().display().to_string());
    let mut agent = Agent::start(options).unwrap();
    let client = world::client(&nats.url()).await;
    let id = agent.id().clone();
    world::serving(&client, &id).await;

    let info = client.call(&id, AgentInfoParams {}, &Default::default()).await.unwrap();
    let snapshots = info.capabilities.iter().find(|c| c.name == "snapshot").unwrap();
    let reason = snapshots.reason.as_deref().expect("a missing capability has its reason");
    assert!(!snapshots.available && !reason.is_empty());
    let create = SnapshotCreateParams { keep_s: None, size_bytes: None };
    let job = client.call(&id, create, &Default::default()).await.unwrap().job;
    let view = client.wait_job(&id, job, |_| {}).await.unwrap();
    let error = view.error.expect("no snapshot can be made here");
    assert_eq!(error.code, ErrorCode::MissingCapability, "{error:?}");
    for name in ["vg0/data;rm", "-y", "../../etc", "vg0/--yes", "vg0/a b", ""] {
        let params = json!({ "snapshot": name });
        let error = client.raw(&id, "snapshot.remove", params, &Default::default()).await.unwrap_err();
        let bus::BusError::Agent(error) = error else { panic!("{name:?}: {error}") };
        assert_eq!(error.code, ErrorCode::BadRequest, "{name:?}: {error:?}");
    }
    assert!(agent.runs());
    agent.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_starts_without_a_bus_and_serves_when_it_comes() {
    let mut nats = NatsServer::down(&NatsOptions::jetstream()).unwrap();
    let mut agent = Agent::start(AgentOptions::new("db1", &nats.url())).unwrap();
    let id = agent.id().clone();
    // It has no other way to say that it waits.
    testkit::poll::until_true(world::PATIENCE, "the agent's first words", || !agent.log().is_empty());
    assert!(agent.runs());
    nats.restart().unwrap();
    let client = world::client(&nats.url()).await;
    world::serving(&client, &id).await;
    let info = client.call(&id, AgentInfoParams {}, &Default::default()).await.unwrap();
    assert!(info.accepts_unsigned);
    agent.stop().unwrap();
}

/// A file system that never answers, as a server of directories that is gone: FUSE with nobody behind it.
struct Unanswered {
    at: PathBuf,
    _device: File,
}

impl Unanswered {
    fn mount(at: &Path) -> std::io::Result<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        mount(Some("nobody"), at, Some("fuse"), MsFlags::empty(), Some(options.as_str()))?;
        Ok(Self { at: at.to_owned(), _device: device })
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        umount2(&self.at, MntFlags::MNT_DETACH).unwrap();
    }
}

/// Whether a thread of the process waits for FUSE.
fn waits_for_an_answer(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut places = threads.map(|thread| std::fs::read_to_string(thread.path().join("stack")));
    places.any(|place| place.is_ok_and(|place| place.contains("fuse_")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_ends_although_its_hosts_file_system_does_not_answer() {
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let datadir = tempfile::tempdir().unwrap();
    let mut options = AgentOptions::new("db1", &nats.url());
    options.set("mysql.datadir", datadir.path().display().to_string());
    options.set("agent.reconcile_s", 0.2);
    let mut agent = Agent::start(options).unwrap();
    let client = world::client(&nats.url()).await;
    world::serving(&client, agent.id()).await;
    let unanswered = match Unanswered::mount(datadir.path()) {
        Ok(unanswered) => unanswered,
        Err(error) => testkit::skip!(odd: "FUSE cannot be mounted: {error}"),
    };
    let pid = agent.pid().unwrap();
    testkit::poll::until_true(world::PATIENCE, "a look at the datadir", || waits_for_an_answer(pid));
    client.call(agent.id(), AgentInfoParams {}, &Default::default()).await.unwrap();
    agent.stop().unwrap();
    drop(unanswered);
}

fn check_config(text: Option<&str>, variables: &[(&str, &str)]) -> (Output, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    if let Some(text) = text {
        std::fs::write(&path, text).unwrap();
    }
    let mut command = Command::new(Program::Agent.path().unwrap());
    command.arg("--config").arg(&path).arg("--check-config").envs(variables.iter().copied());
    (command.output().unwrap(), path.display().to_string())
}

#[test]
fn a_config_that_cannot_be_used_ends_with_78_and_names_file_key_and_expectation() {
    let cases: [(Option<&str>, &[&str]); 5] = [
        (Some("[agent]\nclutser = \"shop\"\n"), &["agent.clutser", "cluster"]),
        (Some("[seed]\nconnections = \"many\"\n"), &["seed.connections", "expected", "many"]),
        (Some("[agent]\nheartbeat_s = 0\n"), &["agent.heartbeat_s", "expected"]),
        (Some("[agent\n"), &["line 1"]),
        (None, &["No such file"]),
    ];
    for (text, words) in cases {
        let (output, path) = check_config(text, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{text:?}: {said}");
        for word in words.iter().copied().chain([path.as_str()]) {
            assert!(said.contains(word), "{text:?}: {word:?} is not in: {said}");
        }
    }
    let (output, _) = check_config(Some(""), &[("ORCH_AGENT__SEED__CONNECTIONS", "many")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("ORCH_AGENT__SEED__CONNECTIONS"), "{said}");
    assert_eq!(check_config(Some(""), &[]).0.status.code(), Some(0));
}
