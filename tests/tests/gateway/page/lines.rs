//! Every line that the page names, in a real shell.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use e2e::world::{PATIENCE, client};
use jiff::{SignedDuration, Timestamp};
use protocol::ids::{BootId, JobId};
use serde_json::{Value, json};
use testkit::agent::Program;
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;

use super::site::{Site, beat, recorded};
use crate::node::Node;
use crate::program::Gateway;

/// What ctl ends with when a line is none of its own.
const USAGE: i32 = 2;

/// Hosts with one trouble each.
fn troubles() -> Vec<(&'static str, Value)> {
    let now = Timestamp::now();
    let snapshot = |hours: i64, fill: f64| {
        let made = now - SignedDuration::from_hours(hours);
        json!([{"id": "vg0/s1", "provider": "lvm", "created_at": made, "cluster": null, "usable": true, "proven": false, "fill_percent": fill}])
    };
    vec![
        ("stopped", json!({"mysql": {"state": "stopped"}})),
        ("forks", json!({"mysql": {"on_snapshot": "vg0/s1"}})),
        ("hangs", json!({"mysql": {"state": "not_ready"}})),
        ("denied", json!({"mysql": {"state": "ready_no_access"}})),
        ("lags", json!({"mysql": {"lag_seconds": 9_000, "replica_of": "db1:3306"}})),
        ("full", json!({"free_bytes": 1_000})),
        ("fills", json!({"cluster": "fills", "snapshots": snapshot(1, 95.0)})),
        ("old", json!({"cluster": "old", "snapshots": snapshot(40, 5.0)})),
        ("silent", json!({"interval_ms": 10})),
        (
            "seeded",
            json!({"jobs": [{"id": JobId::generate(), "kind": "seed.start", "state": "running", "stage": "transfer", "percent": 3}]}),
        ),
    ]
}

fn merge(into: &mut Value, from: &Value) {
    match from {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| merge(&mut into[name], value)),
        value => *into = value.clone(),
    }
}

/// The lines of a page as a person copies them.
fn lines(page: &str) -> BTreeSet<String> {
    let quoted = page.split("data-copy=\"").skip(1).filter_map(|rest| rest.split_once('"'));
    quoted
        .map(|(line, _)| {
            line.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_that_the_page_names_is_one_of_ctl() {
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let node = Node::start().await;
    let site = Site::claim();
    let gateway = Gateway::start(&nats.url(), &node, &site.config(""));
    poll::until_async(PATIENCE, "the gateway to hear the fleet", || async {
        gateway.log().contains("the gateway listens").then_some(())
    })
    .await;
    let asker = client(&nats.url()).await;
    for (agent, trouble) in troubles() {
        beat(&asker, &recorded(), agent, |beat| {
            beat["boot"] = BootId::generate().to_string().into();
            beat["interval_ms"] = 600_000.into();
            merge(beat, &trouble);
        })
        .await;
    }
    poll::until_async(PATIENCE, "every trouble", || async {
        let page = site.get("/").await?.body;
        (page.contains("Host silent") && page.contains("Snapshot nearly full")).then_some(())
    })
    .await;
    let mut named = BTreeSet::new();
    for path in ["/", "/host/seeded", "/host/silent", "/events"] {
        named.extend(lines(&site.get(path).await.unwrap().body));
    }
    assert!(named.len() >= 10, "{named:#?}");
    let ctl = Program::Ctl.path().unwrap();
    let path = format!("{}:/usr/bin:/bin", ctl.parent().map(Path::display).unwrap());
    // Some write files.
    let here = tempfile::tempdir().unwrap();
    for line in named {
        let run = format!("{line} --server nats://127.0.0.1:1 --timeout 200ms");
        let run = Command::new("sh")
            .args(["-c", &run])
            .env("PATH", &path)
            .current_dir(here.path())
            .stdin(Stdio::null())
            .output();
        let output = run.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code().is_some_and(|code| code != USAGE && code < 126), "{line}\n{said}");
    }
}
