//! Prints what a scrape of 1,000 hosts costs the gateway: bytes, samples, time and memory.
//!
//! `make bench-metrics` runs it beside the release programs. The hosts are played from the recorded `agent.status` of
//! `schemas/v1/examples`, each with a snapshot and a job; nats-server and gateway are real.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement fails by a panic"
)]

mod played;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::measure;
use protocol::subject::Subject;
use serde_json::{Value, json};
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;
use testkit::port::Port;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const HOSTS: usize = 1_000;
const SCRAPES: usize = 100;

#[tokio::main]
async fn main() {
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let hosts = tokio::spawn(play(nats.url()));
    let dir = tempfile::tempdir().unwrap();
    let [api, metrics] = [Port::claim().unwrap(), Port::claim().unwrap()];
    let listen = format!("metrics.listen = \"127.0.0.1:{}\"", metrics.number());
    let mut gateway = played::gateway(dir.path(), &nats.url(), api.number(), &listen);
    let to = SocketAddr::from(([127, 0, 0, 1], metrics.number()));
    let all = format!("host=\"db{}\"", HOSTS - 1);
    poll::until_async(Duration::from_secs(60), "the whole fleet", || async {
        scrape(to)
            .await
            .filter(|page| page.contains(&all) && page.matches("orchestrator_mysql_up{").count() == HOSTS)
    })
    .await;
    let (before, cpu) = (measure::rss_kib(gateway.id()), measure::cpu_ticks(gateway.id()));
    let mut times = Vec::new();
    let mut page = String::new();
    for _ in 0..SCRAPES {
        let began = Instant::now();
        page = scrape(to).await.unwrap();
        times.push(began.elapsed());
    }
    let used = (measure::cpu_ticks(gateway.id()) - cpu) as f64 * 10.0 / SCRAPES as f64;
    let (p50, p99) = measure::p50_p99(&mut times);
    println!(
        "a scrape of {HOSTS} hosts: {:.1} MB, {} samples; p50 {p50:.1?}, p99 {p99:.1?}, {used:.1} ms of a core; RSS {:.1} MiB before, \
         {:.1} MiB at the peak",
        page.len() as f64 / 1e6,
        page.lines().filter(|line| !line.starts_with('#')).count(),
        before as f64 / 1024.0,
        measure::peak_kib(gateway.id()) as f64 / 1024.0,
    );
    hosts.abort();
    gateway.kill().unwrap();
    gateway.wait().unwrap();
}

async fn scrape(to: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(to).await.ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n").await.ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await.ok()?;
    page.starts_with("HTTP/1.1 200").then_some(page)
}

/// All hosts send heartbeats, for ever.
async fn play(url: String) {
    let bus = played::connect(&url).await;
    let hosts = played::hosts(HOSTS);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/v1/examples/agent.status.json");
    let example: Value = serde_json::from_slice(&std::fs::read(example).unwrap()).unwrap();
    let status = with_work(example["reply"]["result"].clone());
    let mut beat = tokio::time::interval(Duration::from_secs(2));
    loop {
        beat.tick().await;
        for host in &hosts {
            let subject = Subject::Heartbeat { agent: host.0.clone() }.to_string();
            bus.publish(subject, None, played::heartbeat(&status, host, 2_000).into()).await.unwrap();
        }
    }
}

/// A heartbeat with a snapshot and a job in it.
fn with_work(mut beat: Value) -> Value {
    beat["mysql"]["lag_seconds"] = Value::from(0);
    beat["snapshots_total"] = Value::from(1);
    beat["snapshots"] = json!([{
        "id": "vg0/mysql-20261122T221500Z", "provider": "lvm", "created_at": "2026-11-22T22:15:00Z", "cluster": "shop", "usable": true,
        "proven": true, "fill_percent": 12.5
    }]);
    beat["jobs"] = json!([{
        "id": "01a2058f-ae02-75f2-bc42-97f374dffcab", "kind": "snapshot.verify", "state": "running", "stage": "verify", "percent": null
    }]);
    beat
}
