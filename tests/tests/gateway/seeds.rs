//! Seeds as orchestrator drives them, and what may come between.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use e2e::rows;
use e2e::world::{PATIENCE, World, WorldOptions};
use protocol::ids::{JobId, OfferId, RequestId};
use protocol::params::*;
use protocol::seed::SeedOptions;
use serde_json::{Value, json};
use testkit::poll;

use crate::driver::Driver;
use crate::node::Node;
use crate::program::Gateway;

/// A transfer at this rate can be met half-way.
const SLOWLY: &str = "seed.throttle_bytes_per_s = 6291456\nseed.compression = \"none\"";
const MIB: u64 = 1 << 20;

/// Two hosts, a snapshot on the donor, MySQL stopped on the recipient, and the gateway between them and orchestrator.
struct Stage {
    driver: Arc<Driver>,
    gateway: Gateway,
    node: Node,
    world: World,
}

async fn stage(data_mib: u32, more: &str) -> Stage {
    let configure = |_: &str, agent: &mut testkit::agent::AgentOptions| {
        agent.set("seed.stall_s", 4);
    };
    let options = WorldOptions { data_mib, configure: Some(Box::new(configure)), ..WorldOptions::default() };
    let world = World::start(options).await;
    world.snapshot().await;
    let stop = world.call(&world.recipient, MysqlStopParams {}).await.job;
    world.succeeded(&world.recipient, stop).await;
    let node = Node::start().await;
    let gateway = Gateway::start(&world.nats.url(), &node, more);
    let driver = Arc::new(
        Driver::of(&gateway, &node, if more.contains("hosts") { &["db1"] } else { &["db1", "db2"] }).await,
    );
    Stage { driver, gateway, node, world }
}

impl Stage {
    /// The seed's job on the recipient, once so many bytes have arrived and more are to come.
    async fn in_transfer(&self, bytes: u64) -> JobId {
        let jobs = || self.world.call(&self.world.recipient, JobsListParams { limit: 10, unfinished: true });
        let job = poll::until_async(PATIENCE, "the seed to begin", || async {
            jobs().await.into_iter().find(|job| job.kind == "seed.start").map(|job| job.id)
        });
        let job = job.await;
        self.world.in_transfer(job, bytes).await;
        job
    }

    fn seed(&self, id: u64) -> tokio::task::JoinHandle<Result<Duration, String>> {
        let driver = self.driver.clone();
        tokio::spawn(async move { driver.seed("db2", "db1", id).await })
    }

    async fn assert_seeded(&self) {
        let world = &self.world;
        assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
        assert!(
            world.recipient.db.scalar("SHOW DATABASES LIKE 'own'").await.is_err(),
            "the old data are there"
        );
        world.nothing_left(PATIENCE).await;
    }

    /// The recipient has its old data and runs on them once it is started.
    async fn assert_as_before(&self) {
        self.world.nothing_left(PATIENCE).await;
        let start = self.world.call(&self.world.recipient, MysqlStartParams {}).await.job;
        self.world.succeeded(&self.world.recipient, start).await;
        self.world.recipient_is_as_it_was().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orchestrator_seeds_a_host_and_its_old_data_stay_until_the_new_ones_are_proven() {
    let stage = stage(24, SLOWLY).await;
    let old = fs::metadata(stage.world.recipient.db.datadir().join("ibdata1")).unwrap().ino();
    let seed = stage.seed(1);
    let job = stage.in_transfer(4 * MIB).await;
    let view = stage.world.call(&stage.world.recipient, JobsShowParams { job }).await;
    assert!(view.actor.contains("orchestrator at 127.0.0.1"), "{}", view.actor);
    for (host, order) in [("db2", "abort-seed/1"), ("db1", "abort-seed/1"), ("db1", "mysql-stop")] {
        let refused = stage.gateway.get(host, &format!("/api/{order}?token=wrong")).await.unwrap();
        assert_eq!((refused.status, refused.body.contains("Invalid token")), (500, true));
    }
    let now = fs::metadata(stage.world.recipient.db.datadir().join("ibdata1")).unwrap().ino();
    assert_eq!(now, old, "orchestrator had them erased long ago");
    let first = stage.driver.poll("db2").await.used;
    let grown = poll::until_async(PATIENCE, "the figure to grow", || async {
        let used = stage.driver.poll("db2").await.used;
        (used > first + 1_000_000).then_some(used)
    });
    assert!(
        grown.await < stage.driver.poll("db1").await.mount["MySQLDiskUsage"].as_i64().unwrap() + 1_000_000
    );
    let took = seed.await.unwrap().unwrap();
    stage.assert_seeded().await;
    assert!(took < Duration::from_secs(30), "held until it is over, not asked again after 30 s: {took:?}");
    println!("a seed of 24 MiB at 6 MiB/s took {took:?} as orchestrator drives it");
    let audit = stage.gateway.log();
    for action in
        ["mountlv", "delete-mysql-datadir", "receive-mysql-seed-data", "send-mysql-seed-data", "umount"]
    {
        let line =
            audit.lines().find(|line| line.contains("\"audit\"") && line.contains(&format!("\"{action}\"")));
        let line = line.unwrap_or_else(|| panic!("{action} is not in the audit"));
        assert!(line.contains("\"outcome\":\"done\"") && line.contains("\"client\":\"127.0.0.1\""), "{line}");
    }
    assert!(!audit.contains("token="), "a token is in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_killed_in_the_middle_breaks_no_seed() {
    let mut stage = stage(24, &format!("gateway.hold_s = 1\n{SLOWLY}")).await;
    for host in ["db1", "db2"] {
        stage.gateway.serving(host).await;
    }
    let volume = stage.driver.poll("db1").await.snapshots[0]["Path"].as_str().unwrap().to_owned();
    stage.driver.order("db1", &format!("mountlv?lv={volume}")).await.unwrap();
    stage.driver.order("db2", "receive-mysql-seed-data/7").await.unwrap();
    // What was received is remembered, too.
    stage.gateway.kill();
    stage.gateway.boot();
    stage.gateway.serving("db1").await;
    assert_eq!(stage.driver.order("db1", "send-mysql-seed-data/db2/7").await.unwrap(), true);
    let job = stage.in_transfer(2 * MIB).await;
    for question in ["completed", "succeeded"] {
        let said = stage.driver.order("db2", &format!("seed-command-{question}/7")).await;
        assert_eq!(said.unwrap(), false, "{question}, in the middle of the transfer");
    }
    stage.gateway.kill();
    assert!(stage.driver.order("db2", "seed-command-completed/7").await.is_err());
    stage.world.hurry(job).await;
    stage.gateway.boot();
    stage.gateway.serving("db2").await;
    let over = poll::until_async(PATIENCE, "the seed to be over", || async {
        stage.driver.order("db2", "seed-command-completed/7").await.ok().filter(|over| *over == true)
    });
    over.await;
    assert_eq!(stage.driver.order("db2", "seed-command-succeeded/7").await.unwrap(), true);
    for (host, path) in [("db2", "post-copy/?sourceHost=db1"), ("db1", "umount"), ("db2", "mysql-start")] {
        stage.driver.order(host, path).await.unwrap();
    }
    stage.assert_seeded().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donor_that_dies_fails_the_seed_for_orchestrator_and_leaves_the_old_data() {
    let mut stage = stage(24, SLOWLY).await;
    let seed = stage.seed(3);
    stage.in_transfer(2 * MIB).await;
    stage.world.donor.agent.kill9().unwrap();
    let told = seed.await.unwrap();
    assert!(told.as_ref().is_err_and(|why| why.contains("Bailing out")), "{told:?}");
    assert_eq!(stage.driver.order("db2", "seed-command-completed/3").await.unwrap(), true);
    assert_eq!(stage.driver.order("db2", "seed-command-succeeded/3").await.unwrap(), false);
    stage.world.donor.agent.boot().unwrap();
    stage.world.serving(&stage.world.donor.id()).await;
    // What orchestrator had mounted is its own to give up; what the seed held goes by itself.
    assert_eq!(stage.driver.order("db1", "umount").await.unwrap()["Code"], Value::Null);
    stage.assert_as_before().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_ends_both_sides_and_orchestrator_learns_it_at_once() {
    let stage = stage(24, SLOWLY).await;
    let seed = stage.seed(5);
    stage.in_transfer(2 * MIB).await;
    assert_eq!(stage.driver.order("db2", "abort-seed/5").await.unwrap(), true);
    assert_eq!(stage.driver.order("db1", "abort-seed/5").await.unwrap(), true);
    assert!(seed.await.unwrap().is_err());
    assert_eq!(stage.driver.order("db2", "seed-command-completed/5").await.unwrap(), true);
    assert_eq!(stage.driver.order("db2", "seed-command-succeeded/5").await.unwrap(), false);
    stage.assert_as_before().await;
}

/// Each of these has destroyed a host of the original's: MySQL runs after all, nothing is mounted, the seed was never received.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_be_seeded_breaks_the_connection_and_counts_as_failed() {
    let stage = stage(1, "").await;
    let driver = &stage.driver;
    assert!(driver.order("db1", "send-mysql-seed-data/db2/1").await.is_err(), "it was never received");
    driver.order("db2", "receive-mysql-seed-data/2").await.unwrap();
    assert!(driver.order("db1", "send-mysql-seed-data/db2/2").await.is_err(), "nothing is mounted");
    assert_eq!(driver.order("db2", "seed-command-completed/2").await.unwrap(), true);
    assert_eq!(driver.order("db2", "seed-command-succeeded/2").await.unwrap(), false);

    let start = stage.world.call(&stage.world.recipient, MysqlStartParams {}).await.job;
    stage.world.succeeded(&stage.world.recipient, start).await;
    let volume = driver.poll("db1").await.snapshots[0]["Path"].as_str().unwrap().to_owned();
    driver.order("db1", &format!("mountlv?lv={volume}")).await.unwrap();
    driver.order("db2", "receive-mysql-seed-data/3").await.unwrap();
    assert!(driver.order("db2", "receive-mysql-seed-data/4").await.is_err(), "one host takes one seed");
    assert!(driver.order("db1", "send-mysql-seed-data/db2/3").await.is_err(), "MySQL runs on db2");
    assert_eq!(driver.order("db2", "seed-command-completed/3").await.unwrap(), true);
    assert_eq!(driver.order("db2", "seed-command-succeeded/3").await.unwrap(), false);
    assert_eq!(driver.order("db1", "umount").await.unwrap()["IsMounted"], false);
    stage.world.recipient_is_as_it_was().await;
    stage.world.nothing_left(PATIENCE).await;
    // A seed by another way leaves the gateway's questions answerable.
    let job = stage.world.seed(SeedOptions { stop_mysql: true, ..SeedOptions::default() }).await;
    stage.world.succeeded(&stage.world.recipient, job).await;
    assert!(driver.poll("db2").await.used > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_snapshot_seeds_two_hosts_at_once() {
    let stage = stage(16, SLOWLY).await;
    let third = stage.world.another("db3", |agent| _ = agent.set("seed.stall_s", 20)).await;
    let stop = stage.world.call(&third, MysqlStopParams {}).await.job;
    stage.world.succeeded(&third, stop).await;
    let driver = stage.driver.with("db3", &stage.node.agent("db3").await.1);
    let volume = driver.poll("db1").await.snapshots[0]["Path"].as_str().unwrap().to_owned();
    driver.order("db1", &format!("mountlv?lv={volume}")).await.unwrap();
    let seed = async |host: &str, id: u64| {
        driver.order(host, &format!("receive-mysql-seed-data/{id}")).await.unwrap();
        assert_eq!(driver.order("db1", &format!("send-mysql-seed-data/{host}/{id}")).await.unwrap(), true);
        while driver.order(host, &format!("seed-command-completed/{id}")).await.unwrap() != true {}
        assert_eq!(
            driver.order(host, &format!("seed-command-succeeded/{id}")).await.unwrap(),
            true,
            "{host}"
        );
        driver.order(host, "post-copy/?sourceHost=db1").await.unwrap();
        driver.order(host, "mysql-start").await.unwrap();
    };
    tokio::join!(seed("db2", 1), seed("db3", 2));
    driver.order("db1", "umount").await.unwrap();
    stage.assert_seeded().await;
    assert_eq!(rows::checksums(&third.db).await, rows::checksums(&stage.world.donor.db).await);
}

/// The gateway died between the order to start and its answer: the file has the request's id, and the recipient the job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_whose_answer_was_never_heard_is_found_by_its_request() {
    let mut stage = stage(1, "").await;
    let world = &stage.world;
    stage.gateway.kill();
    let offer = world.offer(false).await;
    let (start, now) = (RequestId::generate(), jiff::Timestamp::now());
    // Each with an offer of its own: that of the one that is given up is released.
    let record = |seed: u64, start: RequestId, sent_at: jiff::Timestamp, offer: OfferId| {
        json!({"seed": seed, "recipient": "db2", "received_at": sent_at, "job": null, "outcome": null, "given": {
            "donor": "db1", "snapshot": null, "offer_request": RequestId::generate(), "start_request": start,
            "sent_at": sent_at, "offer": offer}})
    };
    let params = SeedStartParams { offer: offer.clone(), options: SeedOptions::default(), plan_digest: None };
    let options = bus::CallOptions { request_id: Some(start), ..bus::CallOptions::default() };
    world.client.call(&world.recipient.id(), params, &options).await.unwrap();
    stage.gateway.remember("8@db2.json", &record(8, start, now, offer.id));
    // One that nobody ever heard, long ago.
    let never =
        record(9, RequestId::generate(), now - jiff::SignedDuration::from_mins(10), OfferId::generate());
    stage.gateway.remember("9@db2.json", &never);
    stage.gateway.boot();
    stage.gateway.serving("db2").await;
    for (seed, well) in [(8, true), (9, false)] {
        let over = stage.driver.order("db2", &format!("seed-command-completed/{seed}")).await;
        assert_eq!(over.unwrap(), true, "{seed}");
        let told = stage.driver.order("db2", &format!("seed-command-succeeded/{seed}")).await;
        assert_eq!(told.unwrap(), well, "{seed}");
    }
    stage.assert_seeded().await;
}

/// Beside each agent: the one that has it sent knows only its own host, the one that is asked whether it is over only what it received.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_each_beside_its_agent_make_one_seed() {
    let stage = stage(1, "gateway.hosts = [\"db1\"]").await;
    let other = Gateway::start(&stage.world.nats.url(), &stage.node, "gateway.hosts = [\"db2\"]");
    other.serving("db2").await;
    let ask = async |gateway: &Gateway, host: &str, path: &str| {
        let token = stage.node.agent(host).await.1;
        let with = if path.contains('?') { '&' } else { '?' };
        gateway.get(host, &format!("/api/{path}{with}token={token}")).await.map(|reply| reply.json())
    };
    let (donors, recipients) = (&stage.gateway, &other);
    let available = ask(recipients, "db2", "available-snapshots").await.unwrap();
    assert_eq!(available, json!(["db1"]), "hosts of other gateways are seen");
    assert!(recipients.get("db1", "/api/hostname").await.unwrap().status == 404);
    let volumes = ask(donors, "db1", "lvs-snapshots").await.unwrap();
    let volume = volumes[0]["Path"].as_str().unwrap();
    assert_eq!(ask(donors, "db1", &format!("mountlv?lv={volume}")).await.unwrap()["IsMounted"], true);
    assert_eq!(ask(recipients, "db2", "receive-mysql-seed-data/4").await.unwrap(), true);
    assert_eq!(ask(donors, "db1", "send-mysql-seed-data/db2/4").await.unwrap(), true);
    for question in ["completed", "succeeded"] {
        let said = ask(recipients, "db2", &format!("seed-command-{question}/4")).await;
        assert_eq!(said.unwrap(), true, "{question}");
    }
    assert_eq!(ask(recipients, "db2", "post-copy/?sourceHost=db1").await.unwrap(), true);
    assert_eq!(ask(donors, "db1", "umount").await.unwrap()["IsMounted"], false);
    stage.assert_seeded().await;
}
