//! Prints what an idle agent costs and how long a command takes beside a bare request and reply.
//!
//! `cargo run --release -p e2e --example figures [SECONDS]` on a machine with nats-server and MariaDB. The agent is a process
//! of its own beside a real MariaDB, with the intervals of its defaults; the echo that it is compared with is one too.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on says where")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bus::{Bus, BusConfig, CallOptions, Client};
use e2e::{measure, world};
use nkeys::KeyPair;
use protocol::params::{AgentInfoParams, CustomListParams};
use testkit::agent::{Agent, AgentOptions};
use testkit::mysqld::{Mysqld, MysqldOptions};
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;

const ROUNDS: usize = 5_000;
const ECHO: &str = "figures.echo";

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, url] = arguments.as_slice()
        && role == "echo"
    {
        return echo(url).await;
    }
    let watched = arguments.first().map_or(60, |seconds| seconds.parse().unwrap());
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let db = Mysqld::start(MysqldOptions::default()).await.unwrap();
    let key = KeyPair::new_user();
    let mut options = AgentOptions::new("db1", &nats.url());
    options.mysql(&db).snapshots("directory", &db.base().join("snapshots"));
    options.set("agent.heartbeat_s", 10.0).set("agent.reconcile_s", 15.0).set("log.level", "info");
    options.trust(&key.public_key(), "figures", &["read"]);
    let agent = Agent::start(options).unwrap();
    let unsigned = world::client(&nats.url()).await;
    world::serving(&unsigned, agent.id()).await;

    let pid = agent.pid().unwrap();
    let cpu = measure::cpu_percent(pid, Duration::from_secs(watched)).await;
    println!(
        "idle agent over {watched} s: {:.1} MiB resident, {cpu:.3} % of a core",
        measure::rss_kib(pid) as f64 / 1024.0
    );
    let signed = Client::new(unsigned.bus().clone(), Some(key), "figures");
    round_trips(&nats.url(), &agent, &unsigned, &signed).await;
    println!("after {} commands: {:.1} MiB resident", ROUNDS * 3, measure::rss_kib(pid) as f64 / 1024.0);
}

async fn echo(url: &str) {
    let bus =
        Bus::connect(&BusConfig { servers: vec![url.to_owned()], ..BusConfig::default() }, "echo").await;
    let bus = bus.unwrap();
    let mut asked = bus.subscribe(ECHO.to_owned()).await.unwrap();
    while let Some(message) = futures_util::StreamExt::next(&mut asked).await {
        let reply = message.reply.unwrap();
        bus.client().publish(reply, message.payload).await.unwrap();
    }
}

async fn round_trips(url: &str, agent: &Agent, unsigned: &Client, signed: &Client) {
    let mut echo = Command::new(std::env::current_exe().unwrap());
    let mut echo = echo.args(["echo", url]).stdin(Stdio::null()).spawn().unwrap();
    let bus = unsigned.bus();
    // As large as a small command.
    let body = bytes::Bytes::from(vec![b'x'; 200]);
    let limit = Duration::from_secs(10);
    poll::until_async(limit, "the echo", || async {
        bus.request(ECHO.to_owned(), None, body.clone(), limit).await.ok()
    })
    .await;
    let options = CallOptions::default();
    let mut times: [Vec<Duration>; 4] = Default::default();
    // In turns, so that the machine's other work falls on all alike.
    for _ in 0..ROUNDS {
        let began = Instant::now();
        bus.request(ECHO.to_owned(), None, body.clone(), limit).await.unwrap();
        times[0].push(began.elapsed());
        let began = Instant::now();
        unsigned.call(agent.id(), CustomListParams {}, &options).await.unwrap();
        times[1].push(began.elapsed());
        let began = Instant::now();
        unsigned.call(agent.id(), AgentInfoParams {}, &options).await.unwrap();
        times[2].push(began.elapsed());
        let began = Instant::now();
        signed.call(agent.id(), CustomListParams {}, &options).await.unwrap();
        times[3].push(began.elapsed());
    }
    echo.kill().unwrap();
    echo.wait().unwrap();
    let names = ["bare echo", "custom.list", "agent.info", "custom.list, signed"];
    let figures: Vec<_> = times.iter_mut().map(|times| measure::p50_p99(times)).collect();
    for (name, (p50, p99)) in names.iter().zip(&figures) {
        let factor = p50.as_secs_f64() / figures[0].0.as_secs_f64();
        println!("{name:<20} p50 {p50:>9.1?}  p99 {p99:>9.1?}  {factor:.2} × the echo");
    }
}
