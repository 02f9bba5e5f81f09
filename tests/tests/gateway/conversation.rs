//! The recorded conversation of an unmodified orchestrator with unmodified agents, held again with the gateway over real agents:
//! same status, same type of content, same JSON, field by field.

use e2e::world::{Provider, World, WorldOptions};
use protocol::params::*;
use serde_json::Value;

use crate::node::Node;
use crate::program::Gateway;
use crate::web::{self, Reply};

const RECORDED: &str = include_str!("../../golden/orchestrator/conversation.txt");

/// What the original answered to one request.
struct Line<'a> {
    host: &'static str,
    method: &'a str,
    path: &'a str,
    wanted: Reply,
}

fn line(text: &str) -> Line<'_> {
    let parts: Vec<&str> = text.splitn(6, ' ').collect();
    let [host, method, path, status, kind, body] = parts.as_slice() else { panic!("{text}") };
    let wanted =
        Reply { status: status.parse().unwrap(), kind: (*kind).to_owned(), body: (*body).to_owned() };
    Line { host: if *host == "hostA" { "db1" } else { "db2" }, method, path, wanted }
}

/// The same kinds of values under the same names, in the same depth; lists by their first elements.
fn same_shape(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            ours.len() == theirs.len()
                && theirs
                    .iter()
                    .all(|(name, theirs)| ours.get(name).is_some_and(|ours| same_shape(ours, theirs)))
        }
        (Value::Array(ours), Value::Array(theirs)) => match (ours.first(), theirs.first()) {
            (Some(ours), Some(theirs)) => same_shape(ours, theirs),
            _ => true,
        },
        // A float with a fraction of nothing does not parse as orchestrator's integers.
        (Value::Number(ours), Value::Number(theirs)) => theirs.is_f64() || ours.is_i64(),
        (Value::Bool(_), Value::Bool(_))
        | (Value::String(_), Value::String(_))
        | (Value::Null, Value::Null) => true,
        _ => false,
    }
}

/// Whether an answer is what orchestrator got from the original. What it is given for a host without volumes there is no answer at all,
/// by a fault of the original's; here it is an empty list.
fn agrees(ours: &Reply, theirs: &Reply) -> bool {
    if theirs.body == "(EMPTY BODY)" {
        return ours.status == 200 && ours.json() == Value::Array(Vec::new());
    }
    let kind = ours.kind.split(';').next().unwrap_or_default();
    let body = match theirs.kind.as_str() {
        "application/json" => same_shape(&ours.json(), &theirs.json()),
        _ => ours.body.trim_end() == theirs.body,
    };
    ours.status == theirs.status && kind == theirs.kind && body
}

async fn world() -> World {
    let configure = |_: &str, agent: &mut testkit::agent::AgentOptions| {
        agent.set("custom.hello.argv", vec!["/bin/echo".to_owned(), "hello from hostA".to_owned()]);
        agent.set("custom.fail.argv", vec!["/bin/false".to_owned()]);
        agent.set("seed.post_copy", vec!["/bin/true".to_owned()]);
        agent.set("agent.paths", vec!["/etc".to_owned()]);
    };
    let options = WorldOptions {
        provider: Provider::Directory,
        configure: Some(Box::new(configure)),
        ..WorldOptions::default()
    };
    let world = World::start(options).await;
    world.snapshot().await;
    let stop = world.call(&world.recipient, MysqlStopParams {}).await.job;
    world.succeeded(&world.recipient, stop).await;
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_recorded_conversation_goes_the_same_way() {
    let world = world().await;
    let node = Node::start().await;
    let gateway = Gateway::start(&world.nats.url(), &node, "");
    let tokens = [node.agent("db1").await.1, node.agent("db2").await.1];
    let newest = async || {
        let list = world.call(&world.donor, SnapshotListParams { usable: true }).await;
        format!("/dev/orchestrator/{}", list[0].id)
    };
    let first = newest().await;
    let (mut asked, mut differing) = (0, Vec::new());
    for text in RECORDED.lines().filter(|text| !text.starts_with('#')) {
        let Line { host, method, path, wanted } = line(text);
        let path = path
            .replace("TOKEN", &tokens[usize::from(host == "db2")])
            .replace("/dev/vg0/mysql-snap-20240601", &first)
            .replace("/dev/vg0/mysql-snap-20261122210015", &newest().await)
            .replace("hostA", "db1")
            .replace("hostB", "db2");
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let ours = web::raw(gateway.address(), request).await;
        asked += 1;
        match ours {
            Some(ours) if agrees(&ours, &wanted) => {}
            ours => differing.push(format!("{text}\n  now: {ours:?}")),
        }
    }
    assert!(differing.is_empty(), "{} of {asked} differ:\n{}", differing.len(), differing.join("\n"));
    assert!(asked > 150, "{asked} requests");
    assert_eq!(e2e::rows::checksums(&world.recipient.db).await, e2e::rows::checksums(&world.donor.db).await);
}
