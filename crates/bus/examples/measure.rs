//! Prints figures: the round trip of a query beside a bare request and reply, and what a view of many agents costs.
//!
//! `cargo run -p bus --example measure` needs nats-server. It starts itself a second time as the simulated agents, which
//! share one connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bus::dedupe::CacheLimits;
use bus::{
    Authority, AuthorityConfig, Bus, BusConfig, CallOptions, Client, Denied, Handler, Incoming, ReplyCache,
    ServeConfig, TrustedKey, serve,
};
use futures_util::StreamExt;
use jiff::Timestamp;
use nkeys::KeyPair;
use protocol::command::Role;
use protocol::error::WireError;
use protocol::heartbeat::{Heartbeat, MysqlSummary};
use protocol::ids::{AgentId, BootId};
use protocol::mysql::ServerState;
use protocol::params::JobsListParams;
use protocol::subject::{ASK_FLEET, encode_host};
use serde_json::{Value, json};
use testkit::nats::{NatsOptions, NatsServer};
use tokio_util::sync::CancellationToken;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const INTERVAL_MS: u64 = 10_000;

#[tokio::main]
async fn main() -> Outcome {
    let mut args = std::env::args().skip(1);
    if let (Some(url), Some(count)) = (args.next(), args.next()) {
        return simulate(&url, count.parse()?).await;
    }
    let server = NatsServer::start(&NatsOptions::default())?;
    let bus = connect(&server.url()).await?;
    round_trips(&server, &bus).await?;
    for count in [100, 1_000, 10_000] {
        fleet(&server, count).await?;
    }
    Ok(())
}

async fn connect(url: &str) -> Result<Bus, Box<dyn std::error::Error>> {
    let bus =
        Bus::connect(&BusConfig { servers: vec![url.into()], ..BusConfig::default() }, "measure").await?;
    bus.connected(Duration::from_secs(10)).await?;
    Ok(bus)
}

struct Idle(AgentId);

#[async_trait]
impl Handler for Idle {
    async fn handle(&self, _: Incoming) -> Result<Value, WireError> {
        Ok(json!([]))
    }
    fn heartbeat(&self) -> Heartbeat {
        heartbeat(&self.0, BootId::generate(), 1)
    }
    fn denied(&self, _: Denied) {}
}

async fn round_trips(server: &NatsServer, bus: &Bus) -> Outcome {
    let dir = tempfile::tempdir()?;
    let id: AgentId = "db1".parse()?;
    let key = KeyPair::new_user();
    let trusted = TrustedKey { key: key.public_key(), name: "measure".into(), roles: vec![Role::Read] };
    let authority = Authority::new(AuthorityConfig { accept_unsigned: true, trusted: vec![trusted] })?;
    let shutdown = CancellationToken::new();
    let agent_bus = connect(&server.url()).await?;
    let replies = Arc::new(ReplyCache::open(&dir.path().join("replies"), CacheLimits::default())?);
    let serving = serve(
        agent_bus.clone(),
        ServeConfig::new(id.clone()),
        Arc::new(Idle(id.clone())),
        Arc::new(authority),
        replies,
        shutdown.clone(),
    );
    tokio::spawn(serving);
    let mut echo = agent_bus.subscribe("echo".into()).await?;
    tokio::spawn(async move {
        while let Some(message) = echo.next().await {
            if let Some(reply) = message.reply {
                agent_bus.client().publish(reply, message.payload).await.ok();
            }
        }
    });
    let params = || JobsListParams { limit: 1, unfinished: false };
    let options = CallOptions::default();
    let unsigned = Client::new(bus.clone(), None, "measure");
    let signed = Client::new(bus.clone(), Some(key), "measure");
    while unsigned.call(&id, params(), &options).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Interleaved, so that the machine's other work falls on all alike.
    let (mut bare, mut plain, mut with_key) = (Vec::new(), Vec::new(), Vec::new());
    let body = bytes::Bytes::from(vec![b'x'; 200]);
    for _ in 0..5_000 {
        let began = Instant::now();
        bus.client().request("echo", body.clone()).await?;
        bare.push(began.elapsed());
        let began = Instant::now();
        unsigned.call(&id, params(), &options).await?;
        plain.push(began.elapsed());
        let began = Instant::now();
        signed.call(&id, params(), &options).await?;
        with_key.push(began.elapsed());
    }
    for (what, mut times) in [("bare echo", bare), ("query", plain), ("signed query", with_key)] {
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
        println!("{what:<13} p50 {:>8.1?}  p99 {:>8.1?}", at(50), at(99));
    }
    shutdown.cancel();
    Ok(())
}

async fn fleet(server: &NatsServer, count: usize) -> Outcome {
    let mut agents = tokio::process::Command::new(std::env::current_exe()?)
        .args([server.url(), count.to_string()])
        .kill_on_drop(true)
        .spawn()?;
    let bus = connect(&server.url()).await?;
    let client = Client::new(bus, None, "measure");
    while client.fleet(bus::Window::default()).await?.len() < count {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(client);
    let rss = rss_kib();
    let client = Client::new(connect(&server.url()).await?, None, "measure");
    let began = Instant::now();
    let live = client.live_fleet().await?;
    let complete = began.elapsed();
    let seen = live.entries().len();
    let (cpu, watched) = (cpu_ticks(), Instant::now());
    tokio::time::sleep(Duration::from_secs(12)).await;
    let busy = (cpu_ticks() - cpu) as f64 / 100.0 / watched.elapsed().as_secs_f64();
    let stale = live.entries().iter().filter(|e| e.silent_for > Duration::from_secs(12)).count();
    println!(
        "fleet of {count:>6}: {seen} seen after {complete:.2?}, RSS {} MiB (+{} MiB), CPU {:.1} %, {stale} silent for 12 s",
        rss_kib() / 1024,
        rss_kib().saturating_sub(rss) / 1024,
        busy * 100.0
    );
    agents.kill().await?;
    Ok(())
}

/// Many agents on one connection: they answer to the question to the fleet and send heartbeats evenly spread.
async fn simulate(url: &str, count: usize) -> Outcome {
    let bus = connect(url).await?;
    let agents: Vec<AgentId> =
        (0..count).map(|n| format!("db{n:05}.cluster7.example.com").parse()).collect::<Result<_, _>>()?;
    let boots: Vec<BootId> = agents.iter().map(|_| BootId::generate()).collect();
    let mut asks = bus.subscribe(ASK_FLEET.into()).await?;
    let pause = Duration::from_millis(INTERVAL_MS) / u32::try_from(count)?;
    let mut tick = tokio::time::interval(pause);
    let mut sequence = 0;
    loop {
        for (agent, boot) in agents.iter().zip(&boots) {
            sequence += 1;
            tokio::select! {
                _ = tick.tick() => {}
                Some(ask) = asks.next() => {
                    let Some(reply) = ask.reply else { continue };
                    for (agent, boot) in agents.iter().zip(&boots) {
                        let body = serde_json::to_vec(&heartbeat(agent, *boot, sequence))?;
                        bus.client().publish(reply.clone(), body.into()).await?;
                    }
                }
            }
            let body = serde_json::to_vec(&heartbeat(agent, *boot, sequence))?;
            bus.client().publish(format!("orch.v1.hb.{}", encode_host(agent)), body.into()).await?;
        }
    }
}

fn heartbeat(agent: &AgentId, boot: BootId, sequence: u64) -> Heartbeat {
    Heartbeat {
        agent: agent.clone(),
        cluster: "cluster7".into(),
        dc: "east".into(),
        version: "0.1.0".into(),
        protocol: 1,
        boot,
        started_at: Timestamp::UNIX_EPOCH,
        sequence,
        sent_at: Timestamp::now(),
        interval_ms: INTERVAL_MS,
        accepts_unsigned: false,
        capabilities: ["snapshot.lvm", "mysqlbinlog", "transfer.tcp"].map(str::to_owned).into(),
        mysql: MysqlSummary {
            state: ServerState::Ready,
            port: Some(3306),
            version: None,
            read_only: Some(true),
            lag_seconds: Some(0),
            replica_of: Some("db00000.cluster7.example.com:3306".into()),
            datadir_bytes: Some(1 << 40),
            on_snapshot: None,
        },
        snapshots: (0..3).map(snapshot).collect(),
        snapshots_total: 3,
        load: None,
        bus: None,
        free_bytes: Some(1 << 39),
        jobs: Vec::new(),
    }
}

fn snapshot(n: i64) -> protocol::heartbeat::SnapshotSummary {
    let text = json!({
        "id": format!("vg0/mysql-data-2026112{n}T101500Z"), "provider": "lvm", "created_at": Timestamp::now(),
        "cluster": "cluster7", "usable": true, "proven": n == 0, "fill_percent": 12.5,
    });
    serde_json::from_value(text).unwrap_or_else(|error| panic!("the summary's own form: {error}"))
}

fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS"));
    line.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// User and system time of this process in hundredths of a second.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    [11, 12].iter().filter_map(|at| fields.get(*at)).filter_map(|n| n.parse::<u64>().ok()).sum()
}
