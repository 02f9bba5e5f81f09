//! An agent with nothing to do costs next to nothing. The limits here are loose, for any build on a busy machine;
//! `cargo run --release -p e2e --example figures` measures.

use std::time::Duration;

use e2e::{measure, world};
use testkit::agent::{Agent, AgentOptions};
use testkit::mysqld::{Mysqld, MysqldOptions};
use testkit::nats::{NatsOptions, NatsServer};

const MAX_RSS_KIB: u64 = 40 << 10;
const MAX_CPU_PERCENT: f64 = 3.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_agent_beside_its_server_is_small_and_quiet() {
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let db = Mysqld::start(MysqldOptions::default()).await.unwrap();
    let mut options = AgentOptions::new("db1", &nats.url());
    options.mysql(&db).snapshots("directory", &db.base().join("snapshots"));
    // The intervals of a real one.
    options.set("agent.heartbeat_s", 10.0).set("agent.reconcile_s", 15.0);
    let agent = Agent::start(options).unwrap();
    let client = world::client(&nats.url()).await;
    world::serving(&client, agent.id()).await;
    let pid = agent.pid().unwrap();
    let cpu = measure::cpu_percent(pid, Duration::from_secs(8)).await;
    let rss = measure::rss_kib(pid);
    println!("an idle agent: {rss} KiB resident, {cpu:.2} % of a core");
    assert!(rss < MAX_RSS_KIB, "{rss} KiB");
    assert!(cpu < MAX_CPU_PERCENT, "{cpu:.2} %");
}
