//! Prints what it costs the gateway to be polled as orchestrator polls: 500 requests per second over 100 hosts.
//!
//! `make bench-gateway` runs it beside the release programs. The hosts are played by a second process with the recorded replies of
//! `schemas/v1/examples`, at once, so that what is measured is the gateway; nats-server and gateway are real.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement fails by a panic"
)]

mod played;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::measure;
use futures_util::StreamExt as _;
use protocol::envelope::{Outcome, Reply, Request, VERSION};
use protocol::subject::{ASK_FLEET, Subject, all_commands};
use serde_json::Value;
use testkit::nats::{NatsOptions, NatsServer};
use testkit::port::Port;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

const HOSTS: usize = 100;
const PER_SECOND: u32 = 500;
const LASTING: Duration = Duration::from_secs(30);
const POLLS: [&str; 9] = [
    "available-snapshots-local",
    "available-snapshots",
    "lvs-snapshots",
    "mount",
    "mysql-status",
    "mysql-port",
    "mysql-du",
    "mysql-datadir-available-space",
    "mysql-error-log-tail",
];

#[tokio::main]
async fn main() {
    if let Some(url) = std::env::args().nth(1) {
        return play(&url).await;
    }
    let nats = NatsServer::start(&NatsOptions::default()).unwrap();
    let mut hosts = tokio::process::Command::new(std::env::current_exe().unwrap());
    let _hosts = hosts.arg(nats.url()).kill_on_drop(true).spawn().unwrap();
    let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let port = Port::claim().unwrap();
    let nodes = format!("orchestrator.nodes = [\"http://{}\"]", node.local_addr().unwrap());
    let mut gateway = played::gateway(dir.path(), &nats.url(), port.number(), &nodes);
    let tokens = tokens(&node).await;
    let before = measure::rss_kib(gateway.id());
    let (cpu, began) = (measure::cpu_ticks(gateway.id()), Instant::now());
    let to = SocketAddr::from(([127, 0, 0, 1], port.number()));
    let polled = tokens.into_iter().enumerate().map(|(number, (host, token))| poll(to, number, host, token));
    let mut times: Vec<Duration> = futures_util::future::join_all(polled).await.concat();
    let took = began.elapsed().as_secs_f64();
    let (asked, worst) = (times.len(), times.iter().max().copied().unwrap());
    let (p50, p99) = measure::p50_p99(&mut times);
    println!(
        "{asked} requests over {HOSTS} hosts, {:.0}/s: p50 {p50:.1?}, p99 {p99:.1?}, longest {worst:.1?}; {:.1} % of a core, RSS \
         {:.1} MiB before, {:.1} MiB at the peak",
        asked as f64 / took,
        (measure::cpu_ticks(gateway.id()) - cpu) as f64 / took,
        before as f64 / 1024.0,
        measure::peak_kib(gateway.id()) as f64 / 1024.0,
    );
    gateway.kill().unwrap();
    gateway.wait().unwrap();
}

/// What the gateway submits, until it has submitted all hosts.
async fn tokens(node: &TcpListener) -> HashMap<String, String> {
    let mut tokens = HashMap::new();
    while tokens.len() < HOSTS {
        let mut stream = BufReader::new(node.accept().await.unwrap().0);
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let path: Vec<&str> = line.split(' ').nth(1).unwrap().split('/').collect();
        let said = match path.as_slice() {
            ["", "api", "submit-agent", host, _, token] => {
                tokens.insert((*host).to_owned(), (*token).to_owned());
                format!("\"{host}\"")
            }
            _ => "\"OK\"".to_owned(),
        };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len());
        stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
    }
    tokens
}

/// One host over one kept connection, nine questions in a row and again, at its part of the rate.
async fn poll(to: SocketAddr, number: usize, host: String, token: String) -> Vec<Duration> {
    let pause = Duration::from_secs(1) * u32::try_from(HOSTS).unwrap() / PER_SECOND;
    let first =
        tokio::time::Instant::now() + pause * u32::try_from(number).unwrap() / u32::try_from(HOSTS).unwrap();
    let mut beat = tokio::time::interval_at(first, pause);
    let mut stream = BufReader::new(TcpStream::connect(to).await.unwrap());
    let mut times = Vec::new();
    let ends = Instant::now() + LASTING;
    for path in POLLS.iter().cycle() {
        if Instant::now() >= ends {
            break;
        }
        beat.tick().await;
        let request = format!("GET /api/{path}?token={token} HTTP/1.1\r\nHost: {host}:3002\r\n\r\n");
        let began = Instant::now();
        stream.get_mut().write_all(request.as_bytes()).await.unwrap();
        answered(&mut stream).await;
        times.push(began.elapsed());
    }
    times
}

async fn answered(stream: &mut BufReader<TcpStream>) {
    let mut length = 0;
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    assert!(line.starts_with("HTTP/1.1 200"), "{line}");
    while line.len() > 2 {
        line.clear();
        stream.read_line(&mut line).await.unwrap();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
    }
    stream.read_exact(&mut vec![0; length]).await.unwrap();
}

/// All hosts in one process: they answer commands, the question to the fleet, and send heartbeats.
async fn play(url: &str) {
    let bus = played::connect(url).await;
    let hosts = played::hosts(HOSTS);
    let mut commands = bus.subscribe(all_commands()).await.unwrap();
    let mut asks = bus.subscribe(ASK_FLEET.to_owned()).await.unwrap();
    let mut beat = tokio::time::interval(Duration::from_secs(10));
    let replies = replies();
    let status = replies["agent.status"].clone();
    loop {
        tokio::select! {
            Some(message) = commands.next() => {
                let Ok(Subject::Command { agent, command }) = Subject::parse(&message.subject) else { continue };
                let id = Request::parse(&message.payload).ok().map(|request| request.id);
                let outcome = Outcome::Result(replies[command.as_str()].clone());
                let reply = serde_json::to_vec(&Reply { version: VERSION, id, host: agent, outcome }).unwrap();
                bus.client().publish(message.reply.unwrap(), reply.into()).await.unwrap();
            }
            Some(ask) = asks.next() => for host in &hosts {
                let beat = played::heartbeat(&status, host, 10_000);
                bus.client().publish(ask.reply.clone().unwrap(), beat.into()).await.unwrap();
            },
            _ = beat.tick() => for host in &hosts {
                let subject = Subject::Heartbeat { agent: host.0.clone() }.to_string();
                bus.publish(subject, None, played::heartbeat(&status, host, 10_000).into()).await.unwrap();
            },
        }
    }
}

/// The recorded result of each command.
fn replies() -> HashMap<String, Value> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/v1/examples");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: std::path::PathBuf| {
        let example: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        (path.file_stem().unwrap().to_string_lossy().into_owned(), example["reply"]["result"].clone())
    };
    files.map(read).collect()
}
