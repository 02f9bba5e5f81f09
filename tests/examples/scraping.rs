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

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bus::{Bus, BusConfig};
use e2e::measure;
use jiff::Timestamp;
use protocol::ids::{AgentId, BootId};
use protocol::subject::Subject;
use serde_json::{Value, json};
use testkit::agent::Program;
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
    let config = configure(dir.path(), &nats.url(), api.number(), metrics.number());
    let program = Program::Agent.path().unwrap().with_file_name("orchestrator-gateway");
    let mut gateway = Command::new(program);
    let mut gateway = gateway.arg("--config").arg(config).stderr(Stdio::null()).spawn().unwrap();
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

fn configure(dir: &Path, bus: &str, api: u16, metrics: u16) -> PathBuf {
    let secret = dir.join("secret");
    std::fs::write(&secret, "only for this measurement, 32 characters").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = dir.join("gateway.toml");
    let text = format!(
        "gateway.state_dir = {:?}\ngateway.token_secret_file = {:?}\nlisten.address = \"127.0.0.1\"\nlisten.port = {api}\n\
         metrics.listen = \"127.0.0.1:{metrics}\"\nbus.servers = [{bus:?}]\n",
        dir.join("state").display().to_string(),
        secret.display().to_string(),
    );
    std::fs::write(&config, text).unwrap();
    config
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
    let bus = Bus::connect(&BusConfig { servers: vec![url], ..BusConfig::default() }, "hosts").await.unwrap();
    bus.connected(Duration::from_secs(10)).await.unwrap();
    let hosts: Vec<(AgentId, BootId)> =
        (0..HOSTS).map(|n| (format!("db{n}").parse().unwrap(), BootId::generate())).collect();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/v1/examples/agent.status.json");
    let example: Value = serde_json::from_slice(&std::fs::read(example).unwrap()).unwrap();
    let mut beat = tokio::time::interval(Duration::from_secs(2));
    loop {
        beat.tick().await;
        for host in &hosts {
            let subject = Subject::Heartbeat { agent: host.0.clone() }.to_string();
            bus.publish(subject, None, heartbeat(&example["reply"]["result"], host).into()).await.unwrap();
        }
    }
}

fn heartbeat(status: &Value, (agent, boot): &(AgentId, BootId)) -> Vec<u8> {
    let mut beat = status.clone();
    beat["agent"] = Value::from(agent.as_str());
    beat["boot"] = Value::from(boot.to_string());
    beat["sent_at"] = Value::from(Timestamp::now().to_string());
    beat["interval_ms"] = Value::from(2_000);
    beat["mysql"]["lag_seconds"] = Value::from(0);
    beat["snapshots_total"] = Value::from(1);
    beat["snapshots"] = json!([{
        "id": "vg0/mysql-20261122T221500Z", "provider": "lvm", "created_at": "2026-11-22T22:15:00Z", "cluster": "shop", "usable": true,
        "proven": true, "fill_percent": 12.5
    }]);
    beat["jobs"] = json!([{
        "id": "01a2058f-ae02-75f2-bc42-97f374dffcab", "kind": "snapshot.verify", "state": "running", "stage": "verify", "percent": null
    }]);
    serde_json::to_vec(&beat).unwrap()
}
