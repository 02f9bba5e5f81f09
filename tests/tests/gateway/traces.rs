//! One command as one trace: from ctl or the gateway through both agents to the last step, also over the death of an agent.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use e2e::collector::{Collector, Seen};
use e2e::world::{PATIENCE, World, WorldOptions};
use protocol::params::*;
use protocol::seed::SeedStage;
use testkit::agent::AgentOptions;
use testkit::poll;

use crate::driver::Driver;
use crate::node::Node;
use crate::program::Gateway;

/// What a batch of spans waits for on its way, and some more.
const SOON: Duration = Duration::from_secs(30);

async fn traced(endpoint: String, data_mib: u32) -> World {
    let configure = move |_: &str, agent: &mut AgentOptions| {
        agent.set("trace.endpoint", endpoint.clone());
    };
    World::start(WorldOptions { data_mib, configure: Some(Box::new(configure)), ..WorldOptions::default() })
        .await
}

fn of<'a>(spans: &'a [Seen], instance: &str) -> Vec<&'a Seen> {
    spans.iter().filter(|span| span.from.1 == instance).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_is_one_trace_over_ctl_and_both_agents_although_one_of_them_died() {
    const OUTSIDE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let collector = Collector::start().await;
    let mut world = traced(collector.url(), 24).await;
    world.snapshot().await;
    let arguments = ["seed", "start", "db2", "--from", "db1", "--stop-mysql", "--throttle", "4MiB", "--otlp"];
    let mut ctl = world.ctl_command(&[&arguments[..], &[&collector.url(), "--compression", "none"]].concat());
    let ctl = ctl.env("TRACEPARENT", OUTSIDE).spawn().unwrap();
    let job = poll::until_async(PATIENCE, "the seed", || async {
        let jobs = world.call(&world.recipient, JobsListParams { limit: 5, unfinished: true }).await;
        jobs.into_iter().find(|job| job.kind == "seed.start").map(|job| job.id)
    });
    let job = job.await;
    world.succeeds_despite_a_crash(job, e2e::world::Party::RecipientsAgent).await;
    let said = tokio::time::timeout(PATIENCE, ctl.wait_with_output()).await.unwrap().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));

    let job = collector.span(SOON, "the seed's job", |span| span.name == "job seed.start").await;
    let root = collector.span(SOON, "ctl's call", |span| span.name == "seed start").await;
    collector.span(SOON, "the offer's job", |span| span.name == "job seed.offer").await;
    let spans: Vec<Seen> = collector.spans().into_iter().filter(|span| span.trace == root.trace).collect();
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    assert_eq!((hex(&root.trace), hex(&root.parent)), (OUTSIDE[3..35].into(), OUTSIDE[36..52].into()));
    // Every one hangs on another, up to ctl's.
    for span in spans.iter().filter(|span| span.span != root.span) {
        assert!(spans.iter().any(|other| other.span == span.parent), "{span:?} hangs on nothing");
    }
    let asked = spans.iter().find(|span| span.span == job.parent).unwrap();
    assert_eq!((asked.name.as_str(), asked.from.1.as_str()), ("seed.start", "db2"));
    let by = spans.iter().find(|span| span.span == asked.parent).unwrap();
    assert_eq!(
        (by.name.as_str(), by.from.0.as_str(), &by.parent),
        ("seed.start", "orchestrator-ctl", &root.span)
    );
    assert!(of(&spans, "db1").iter().any(|span| span.name == "job seed.offer"), "{spans:#?}");

    let steps: Vec<&Seen> = spans.iter().filter(|span| span.parent == job.span).collect();
    for stage in SeedStage::ALL {
        assert!(steps.iter().any(|step| step.name == stage.as_str()), "no {} in {steps:#?}", stage.as_str());
    }
    let cut = steps.iter().find(|step| step.notes.get("error.type").is_some_and(|code| code == "cut_short"));
    assert_eq!(cut.unwrap().name, "transfer", "the run that the agent's death ended");
    let moved = steps.iter().find_map(|step| step.notes.get("orchestrator.bytes_moved")).unwrap();
    assert!(moved.parse::<u64>().unwrap() > 0);
    // The offer joins the two hosts, as it does in their logs.
    let offers: Vec<_> = spans.iter().filter_map(|span| span.notes.get("orchestrator.offer.id")).collect();
    assert!(offers.len() >= 2 && offers.iter().all(|offer| *offer == offers[0]), "{offers:?}");
    // Nothing of what a collector's readers are not meant to see.
    let raw = collector.raw();
    for hidden in [world.recipient.db.datadir().to_str().unwrap(), "token", "tester"] {
        let found = raw.windows(hidden.len()).any(|window| window == hidden.as_bytes());
        assert!(!found, "{hidden} is told to the collector");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_orchestrator_asks_for_is_a_trace_from_the_gateway_to_the_agents_job() {
    let collector = Collector::start().await;
    let world = traced(collector.url(), 0).await;
    let node = Node::start().await;
    let secrets = tempfile::tempdir().unwrap();
    let headers = secrets.path().join("headers");
    closed(&headers, "Authorization: Bearer of-the-gateway\n");
    let more = format!("trace.endpoint = {:?}\ntrace.headers_file = {headers:?}", collector.url());
    let gateway = Gateway::start(&world.nats.url(), &node, &more);
    let driver = Driver::of(&gateway, &node, &["db1"]).await;
    driver.order("db1", "create-snapshot").await.unwrap();
    driver.poll("db1").await;
    let root = collector.span(SOON, "the order", |span| span.name == "create-snapshot").await;
    let job = collector.span(SOON, "its job", |span| span.name == "job snapshot.create").await;
    assert_eq!((root.from.0.as_str(), &job.trace), ("orchestrator-gateway", &root.trace));
    assert_eq!(job.from, ("orchestrator-agent".to_owned(), "db1".to_owned()));
    assert!(collector.logins().contains(&Some("Bearer of-the-gateway".to_owned())));
    // Polls are many and of no interest: only what changes a host begins a trace.
    let names: Vec<String> =
        collector.spans().into_iter().filter(|s| s.parent.is_empty()).map(|s| s.name).collect();
    assert_eq!(names, ["create-snapshot"]);
}

fn closed(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_refuses_or_never_answers_is_told_of_once_and_holds_nobody_up() {
    let collector = Collector::start().await;
    collector.answer(StatusCode::UNAUTHORIZED);
    let mut world = traced(collector.url(), 0).await;
    // Takes connections and never says a word.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = format!("http://{}", mute.local_addr().unwrap());
    let began = Instant::now();
    for _ in 0..2 {
        let said = world.ctl(&["--otlp", &mute, "snapshot", "create", "db1"]).await;
        assert!(said.status.success(), "{said:?}");
    }
    assert!(began.elapsed() < PATIENCE, "two calls took {:?}", began.elapsed());
    let told = |world: &World| world.donor.agent.log().matches("spans cannot be sent").count();
    poll::until_async(SOON, "a word of the collector", || async { (told(&world) > 0).then_some(()) }).await;
    let refused = collector.logins().len();
    world.snapshot().await;
    poll::until_async(SOON, "another refusal", || async {
        (collector.logins().len() > refused).then_some(())
    })
    .await;
    assert_eq!(told(&world), 1, "{}", world.donor.agent.log());
    collector.answer(StatusCode::OK);
    world.snapshot().await;
    collector.span(SOON, "a span again", |span| span.name == "job snapshot.create").await;
    poll::until_async(SOON, "that it is back", || async {
        world.donor.agent.log().contains("spans are sent again").then_some(())
    })
    .await;
    world.donor.agent.expect_error("spans cannot be sent");
    world.donor.agent.stop().unwrap();

    let wrong = world.ctl(&["--otlp", "ftp://user:secret@collector", "fleet"]).await;
    assert!(wrong.status.success(), "{wrong:?}");
    assert!(wrong.stderr.contains("no spans are sent (--otlp)"), "{wrong:?}");
    assert!(!wrong.stderr.contains("secret"), "{wrong:?}");
}
