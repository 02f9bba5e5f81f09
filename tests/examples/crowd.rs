//! Prints what a thousand and ten thousand agents cost each of three servers, and how long `orchestrator-ctl fleet` takes over all of them.
//!
//! `make bench-bus` runs it beside the release programs. nats-server and ctl are real. Each agent is a connection of its own with an agent's
//! subscriptions, a heartbeat every 10 s and an answer for whoever asks the fleet; a second process plays them from the recorded `agent.status` of
//! `schemas/v1/examples`, and speaks the protocol by itself: what a client library holds for each of them is no server's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement fails by a panic"
)]

#[allow(dead_code, reason = "no gateway here")]
mod played;

use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use e2e::{measure, world};
use futures_util::future::join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use protocol::subject::{ASK_FLEET, Subject, commands_of, encode_host};
use serde_json::Value;
use testkit::nats::{NatsCluster, NatsOptions};
use testkit::poll;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

const SERVERS: usize = 3;
const INTERVAL_MS: u64 = 10_000;
/// Whole intervals, so that each agent has sent as much as another.
const WATCHED: Duration = Duration::from_secs(30);
const ASKED: usize = 5;
/// Agents that connect at once, as when a server comes back.
const AT_ONCE: usize = 100;
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, count, urls @ ..] = arguments.as_slice()
        && role == "hosts"
    {
        return play(count.parse().unwrap(), urls).await;
    }
    let cluster = NatsCluster::of(SERVERS, &NatsOptions::default()).unwrap();
    let client = world::client(&cluster.urls().join(",")).await;
    bus::events::ensure_event_stream(client.bus(), &bus::events::event_stream_limits()).await.unwrap();
    println!("no agents:");
    costs(&cluster).await;
    for count in [1_000, 10_000] {
        let mut hosts = Hosts::start(count, &cluster);
        poll::until_async(PATIENCE, format!("{count} agents"), || async {
            (client.fleet(bus::Window::default()).await.ok()?.len() == count).then_some(())
        })
        .await;
        println!("{count} agents:");
        costs(&cluster).await;
        println!("  ctl fleet: {}", ask(&cluster, count).await);
        hosts.end();
    }
}

/// The process that plays the agents; it ends with its handle.
struct Hosts(Child);

impl Hosts {
    fn start(count: usize, cluster: &NatsCluster) -> Self {
        let program = std::env::current_exe().unwrap();
        Self(Command::new(program).arg("hosts").arg(count.to_string()).args(cluster.urls()).spawn().unwrap())
    }

    fn end(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.end();
    }
}

/// Memory and processor time of each server.
async fn costs(cluster: &NatsCluster) {
    let pids: Vec<u32> = (0..SERVERS).map(|at| cluster.node(at).pid().unwrap()).collect();
    let busy = join_all(pids.iter().map(|pid| measure::cpu_percent(*pid, WATCHED))).await;
    for (at, (pid, busy)) in pids.iter().zip(busy).enumerate() {
        println!("  n{at}: {} MiB, {busy:.1} % of a core", measure::rss_kib(*pid) / 1024);
    }
}

/// Times of the whole command, from its start to its end; it must have told of each agent.
async fn ask(cluster: &NatsCluster, count: usize) -> String {
    let (mut times, urls) = (Vec::new(), cluster.urls().join(","));
    for _ in 0..ASKED {
        let began = Instant::now();
        let told = world::ctl_command(&urls, &["--json", "fleet"]).output().await.unwrap();
        times.push(began.elapsed());
        let told = String::from_utf8(told.stdout).unwrap();
        let missing = (0..count).find(|n| !told.contains(&format!("\"db{n}\"")));
        assert_eq!(missing, None, "ctl does not tell of it");
    }
    times.sort_unstable();
    format!("{:.2?} ({:.2?} to {:.2?})", times[ASKED / 2], times[0], times[ASKED - 1])
}

/// Plays so many agents, spread over the servers.
async fn play(count: usize, urls: &[String]) {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let recorded = std::fs::read(root.join("schemas/v1/examples/agent.status.json")).unwrap();
    let recorded: Value = serde_json::from_slice(&recorded).unwrap();
    let status = Arc::new(recorded["reply"]["result"].clone());
    let connecting = Arc::new(Semaphore::new(AT_ONCE));
    let agents = played::hosts(count).into_iter().enumerate().map(|(n, host)| {
        let (status, connecting) = (Arc::clone(&status), Arc::clone(&connecting));
        let server = urls[n % urls.len()].trim_start_matches("nats://").to_owned();
        tokio::spawn(async move { agent(&server, &host, &status, &connecting).await })
    });
    for agent in agents.collect::<Vec<_>>() {
        agent.await.unwrap();
    }
}

/// One agent, until its connection ends.
async fn agent(server: &str, host: &played::Host, status: &Value, connecting: &Semaphore) {
    let first = connecting.acquire().await.unwrap();
    let (from, mut to) = TcpStream::connect(server).await.unwrap().into_split();
    let (mut from, mut line) = (BufReader::with_capacity(512, from), Vec::new());
    from.read_until(b'\n', &mut line).await.unwrap();
    to.write_all(greeting(host).as_bytes()).await.unwrap();
    drop(first);
    let beat = || played::heartbeat(status, host, INTERVAL_MS);
    let own = Subject::Heartbeat { agent: host.0.clone() }.to_string();
    let spread = Duration::from_millis(fastrand::u64(0..INTERVAL_MS));
    let start = tokio::time::Instant::now() + spread;
    let mut due = tokio::time::interval_at(start, Duration::from_millis(INTERVAL_MS));
    loop {
        line.clear();
        let heard = loop {
            tokio::select! {
                // What has been read of a line stays in it.
                read = from.read_until(b'\n', &mut line) => break read.unwrap_or(0),
                _ = due.tick() => to.write_all(&message(&own, &beat())).await.unwrap(),
            }
        };
        let words: Vec<&str> = std::str::from_utf8(&line).unwrap().split_whitespace().collect();
        match words.as_slice() {
            _ if heard == 0 => return,
            ["PING"] => to.write_all(b"PONG\r\n").await.unwrap(),
            ["MSG", ASK_FLEET, _, reply, _] => to.write_all(&message(reply, &beat())).await.unwrap(),
            _ => {}
        }
    }
}

/// An agent's subscriptions: its commands, the question to the fleet, the three of a micro service, its answers.
fn greeting((agent, boot): &played::Host) -> String {
    let (commands, host) = (commands_of(agent), encode_host(agent));
    let subscriptions = [
        format!("{commands} agent-{host}"),
        ASK_FLEET.to_owned(),
        "$SRV.*".to_owned(),
        "$SRV.*.orch-agent".to_owned(),
        format!("$SRV.*.orch-agent.{boot}"),
        format!("_INBOX.{host}.*"),
    ];
    let numbered = subscriptions.iter().enumerate().map(|(id, subject)| format!("SUB {subject} {id}\r\n"));
    let connect = r#"{"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"lang":"rust","version":"0","protocol":1}"#;
    format!("CONNECT {connect}\r\n{}PING\r\n", numbered.collect::<String>())
}

fn message(subject: &str, body: &[u8]) -> Vec<u8> {
    let mut message = format!("PUB {subject} {}\r\n", body.len()).into_bytes();
    message.extend([body, b"\r\n"].concat());
    message
}
