//! What somebody sees in Prometheus when something happens to a host, a snapshot, a seed or the bus.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use bus::{BusError, CallOptions, Client};
use e2e::world::{PATIENCE, World, WorldOptions, client, serving, swiftly};
use protocol::params::*;
use protocol::seed::SeedStage;
use protocol::subject::Subject;
use serde_json::Value;
use testkit::agent::{Agent, AgentOptions};
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;
use testkit::port::Port;

use crate::node::Node;
use crate::program::Gateway;
use crate::scrape::{self, Page, Target, has, promtool};
use crate::web;

#[test]
fn promtool_takes_the_rules_and_sees_each_fire_and_not_fire() {
    if !has("promtool") {
        testkit::skip!("promtool is not installed");
    }
    for arguments in
        [["check", "rules", "orchestrator.rules.yml"], ["test", "rules", "orchestrator.rules.test.yml"]]
    {
        let output = promtool(&arguments, "");
        let said =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success() && said.contains("SUCCESS") && !said.contains("FAILED"), "{said}");
    }
}

fn assert_promtool_finds_nothing(page: &Page) {
    if !has("promtool") {
        testkit::skip!("promtool is not installed");
    }
    let output = promtool(&["check", "metrics"], &page.older());
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && said.is_empty(), "{said}\n{}", page.older());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_a_snapshot_a_proof_a_seed_and_a_lost_bus_and_host_are_seen() {
    let mut world = World::start(WorldOptions { data_mib: 4, ..WorldOptions::default() }).await;
    let node = Node::start().await;
    let target = Target::claim();
    let more = target.config("gateway.forget_after_s = 70");
    let mut gateway = Gateway::start(&world.nats.url(), &node, &more);
    gateway.serving("db1").await;
    for sample in [
        "orchestrator_mysql_up host=\"db1\"",
        "orchestrator_mysql_up host=\"db2\"",
        "orchestrator_gateway_events_readable",
    ] {
        target.until_is(sample, 1.0).await;
    }
    let page = target.scrape().await.unwrap();
    assert!(page.value("orchestrator_snapshot_newest_usable_timestamp_seconds host=\"db1\"").is_none());
    for sample in [
        "orchestrator_agent_up host=\"db1\" cluster=\"shop\" dc=\"dc1\"",
        "orchestrator_agent_accepts_unsigned host=\"db1\"",
        "orchestrator_mysql_state host=\"db1\" state=\"ready\"",
        "orchestrator_gateway_bus_connected",
    ] {
        assert_eq!(page.value(sample), Some(1.0), "{sample}\n{}", page.0);
    }
    assert_eq!(page.value("orchestrator_seeds_total host=\"db2\" outcome=\"succeeded\""), Some(0.0));

    let stop = world.call(&world.recipient, MysqlStopParams {}).await.job;
    world.succeeded(&world.recipient, stop).await;
    target.until_is("orchestrator_mysql_up host=\"db2\"", 0.0).await;
    assert_eq!(target.scrape().await.unwrap().value("orchestrator_mysql_up host=\"db1\""), Some(1.0));

    let snapshot = world.snapshot().await;
    let made = world.call(&world.donor, SnapshotListParams { usable: true }).await[0].created_at;
    let made = made.as_millisecond() as f64 / 1000.0;
    target.until_is("orchestrator_snapshot_newest_usable_timestamp_seconds host=\"db1\"", made).await;
    assert!(
        target
            .scrape()
            .await
            .unwrap()
            .value("orchestrator_snapshot_newest_proven_timestamp_seconds host=\"db1\"")
            .is_none()
    );
    let verify = world.call(&world.donor, SnapshotVerifyParams { snapshot, budget_s: 60 }).await.job;
    world.succeeded(&world.donor, verify).await;
    target.until_is("orchestrator_snapshot_newest_proven_timestamp_seconds host=\"db1\"", made).await;
    target.until_is("orchestrator_snapshot_verifications_total host=\"db1\" outcome=\"passed\"", 1.0).await;

    let seed = world.seed(swiftly()).await;
    world.succeeded(&world.recipient, seed).await;
    target.until_is("orchestrator_seeds_total host=\"db2\" outcome=\"succeeded\"", 1.0).await;
    let page = target.scrape().await.unwrap();
    assert!(
        page.value("orchestrator_seed_received_bytes_total host=\"db2\"").unwrap() > 4_194_304.0,
        "{}",
        page.0
    );
    for stage in SeedStage::ALL {
        let count = format!("orchestrator_seed_stage_duration_seconds_count stage=\"{}\"", stage.as_str());
        assert_eq!(page.value(&count), Some(1.0), "{count}");
    }
    assert!(
        page.value("orchestrator_gateway_http_requests_total endpoint=\"read\" status=\"200\"") >= Some(1.0)
    );
    assert_promtool_finds_nothing(&page);

    gateway.kill();
    gateway.boot();
    target
        .until("the seed of before the restart", |page| {
            page.value("orchestrator_seed_last_success_timestamp_seconds host=\"db2\"")
        })
        .await;
    let counted = "orchestrator_seeds_total host=\"db2\" outcome=\"succeeded\"";
    assert_eq!(target.scrape().await.unwrap().value(counted), Some(0.0), "it is not counted again");
    target.until_is("orchestrator_gateway_events_readable", 1.0).await;

    world.nats.stop();
    target.until_is("orchestrator_gateway_bus_connected", 0.0).await;
    assert_eq!(target.scrape().await.unwrap().value("orchestrator_gateway_events_readable"), Some(0.0));
    world.nats.restart().unwrap();
    target.until_is("orchestrator_gateway_events_readable", 1.0).await;
    target.until_is("orchestrator_gateway_bus_reconnects_total", 1.0).await;

    world.recipient.agent.kill9().unwrap();
    target.until_is("orchestrator_agent_up host=\"db2\"", 0.0).await;
    let page = target.scrape().await.unwrap();
    assert!(
        page.value("orchestrator_mysql_up host=\"db2\"").is_none(),
        "what it said last is no longer told"
    );
    assert_eq!(page.value("orchestrator_mysql_up host=\"db1\""), Some(1.0));
    target.until("db2 to be forgotten", |page| (!page.0.contains("host=\"db2\"")).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_of_one_id_and_a_command_that_was_denied_are_seen() {
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let options = || {
        let mut options = AgentOptions::new("db1", &nats.url());
        options.set("auth.accept_unsigned", false);
        options
    };
    let mut first = Agent::start(options()).unwrap();
    let node = Node::start().await;
    let target = Target::claim();
    let _gateway = Gateway::start(&nats.url(), &node, &target.config(""));
    for (sample, value) in [
        ("orchestrator_agent_duplicate host=\"db1\"", 0.0),
        ("orchestrator_agent_accepts_unsigned host=\"db1\"", 0.0),
        ("orchestrator_commands_denied_total host=\"db1\"", 0.0),
        ("orchestrator_gateway_events_readable", 1.0),
    ] {
        target.until_is(sample, value).await;
    }
    let asker = client(&nats.url()).await;
    let answer = asker.call(&"db1".parse().unwrap(), MysqlStopParams {}, &CallOptions::default()).await;
    assert!(matches!(answer, Err(BusError::Agent(_))), "{answer:?}");
    target.until_is("orchestrator_commands_denied_total host=\"db1\"", 1.0).await;
    let _second = Agent::start(options()).unwrap();
    target.until_is("orchestrator_agent_duplicate host=\"db1\"", 1.0).await;
    first.kill9().unwrap();
    target.until_is("orchestrator_agent_duplicate host=\"db1\"", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_has_no_bus_says_so_and_is_scraped_by_whom_it_is_meant_for() {
    let nats = NatsServer::down(&NatsOptions::jetstream()).unwrap();
    let node = Node::start().await;
    let target = Target::claim();
    let _gateway = Gateway::start(&nats.url(), &node, &target.config("metrics.clients = [\"127.0.0.0/8\"]"));
    target.until_is("orchestrator_gateway_bus_connected", 0.0).await;
    assert_eq!(web::get(target.address(), "gateway", "/api/hostname").await.unwrap().status, 404);
    let posted = format!("POST /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", target.address());
    assert_eq!(web::raw(target.address(), posted).await.unwrap().status, 404);
    target.until_is("orchestrator_gateway_http_requests_total endpoint=\"other\" status=\"404\"", 2.0).await;
    let other = Target::claim();
    let closed = Gateway::start(&nats.url(), &node, &other.config("metrics.clients = [\"192.0.2.0/24\"]"));
    poll::until_async(PATIENCE, "a stranger's scrape to be refused", || async {
        assert!(other.scrape().await.is_none());
        closed.log().contains("outside metrics.clients").then_some(())
    })
    .await;
}

/// A Prometheus with the shipped rules, that scrapes every second; killed when dropped.
struct Prometheus {
    child: Child,
    port: Port,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    fn start(target: &Target) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), Port::claim().unwrap());
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{:?}]\n\
             scrape_configs: [{{job_name: orchestrator, static_configs: [{{targets: [\"{}\"]}}]}}]\n",
            scrape::ops("prometheus/orchestrator.rules.yml").canonicalize().unwrap().display().to_string(),
            target.address(),
        );
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{}", port.number()));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child, port, _dir: dir }
    }

    async fn get(&self, path: &str) -> Option<Value> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port.number()));
        // Bodies that are not chunked: it speaks 1.0 to those who do.
        let request = format!("GET /api/v1/{path} HTTP/1.0\r\nHost: prometheus\r\n\r\n");
        web::raw(address, request).await.map(|reply| reply.json())
    }

    async fn query(&self, query: &str) -> Option<Value> {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        self.get(&format!("query?query={escaped}")).await
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A heartbeat as a host sends it that means harm.
async fn say_harmful_things(client: &Client) {
    let agent = "evil".parse().unwrap();
    let status =
        client.call(&"db1".parse().unwrap(), AgentStatusParams {}, &CallOptions::default()).await.unwrap();
    let mut beat = serde_json::to_value(status).unwrap();
    beat["agent"] = "evil".into();
    beat["cluster"] = "a\"} 1\n# EOF\n\\\u{1b}[2J\u{0}\u{202e}".into();
    beat["dc"] = "é".repeat(10_000).into();
    let body = serde_json::to_vec(&beat).unwrap();
    client.bus().publish(Subject::Heartbeat { agent }.to_string(), None, body.into()).await.unwrap();
}

/// Every query of the dashboard, of all clusters.
fn queries(panels: &Value) -> Vec<String> {
    let targets = panels.as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets
        .map(|target| target["expr"].as_str().unwrap().replace("$cluster", ".*").replace("$dc", ".*"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_scrapes_it_judges_all_rules_and_answers_what_the_dashboard_asks() {
    if !has("prometheus") {
        testkit::skip!("prometheus is not installed");
    }
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let agent = Agent::start(AgentOptions::new("db1", &nats.url())).unwrap();
    let asker = client(&nats.url()).await;
    serving(&asker, agent.id()).await;
    let node = Node::start().await;
    let target = Target::claim();
    let _gateway = Gateway::start(&nats.url(), &node, &target.config(""));
    target.until_is("orchestrator_agent_up host=\"db1\"", 1.0).await;
    say_harmful_things(&asker).await;
    target.until_is("orchestrator_agent_up host=\"evil\"", 1.0).await;
    let prometheus = Prometheus::start(&target);
    for query in [
        "orchestrator_agent_up{host=\"db1\",cluster=\"shop\",dc=\"dc1\"} == 1",
        "orchestrator_agent_up{host=\"evil\"}",
    ] {
        poll::until_async(PATIENCE, format!("{query} in Prometheus"), || async {
            let answer = prometheus.query(query).await?;
            (answer["data"]["result"].as_array()?.len() == 1).then_some(())
        })
        .await;
    }
    poll::until_async(PATIENCE, "all rules to be judged", || async {
        let answer = prometheus.get("rules").await?;
        let rules = answer["data"]["groups"][0]["rules"].as_array()?.clone();
        assert!(rules.iter().all(|rule| rule["health"] != "err"), "{rules:?}");
        let pending =
            |rule: &&Value| rule["name"] == "OrchestratorUnsignedAccepted" && rule["state"] == "pending";
        (rules.iter().all(|rule| rule["health"] == "ok") && rules.iter().filter(pending).count() == 1)
            .then_some(())
    })
    .await;
    let dashboard: Value =
        serde_json::from_slice(&fs::read(scrape::ops("grafana/orchestrator.json")).unwrap()).unwrap();
    let queries = queries(&dashboard["panels"]);
    assert!(queries.len() > 20);
    for query in queries {
        let answer = prometheus.query(&query).await.unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
    }
}
