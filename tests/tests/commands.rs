//! Every query on a real agent beside a real MariaDB: its result is what its published schema says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::path::Path;

use e2e::world::{Provider, World, WorldOptions};
use protocol::command::{Class, Command, Spec};
use protocol::error::ErrorCode;
use protocol::params::*;
use protocol::seed::SeedOptions;
use serde_json::{Value, json};

/// A query, its parameters, and what this host may lack for it.
struct Asked {
    params: Value,
    needs: Option<&'static str>,
}

fn asked(params: Value) -> Asked {
    Asked { params, needs: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_gives_what_its_schema_says() {
    let configure = Box::new(|_: &str, options: &mut testkit::agent::AgentOptions| {
        options.set("custom.hello.argv", vec!["/bin/echo".to_owned(), "hello".to_owned()]);
        options.set("custom.hello.about", "Says hello");
    });
    let world = World::start(WorldOptions {
        provider: Provider::Directory,
        configure: Some(configure),
        ..WorldOptions::default()
    })
    .await;
    // A replica that never connects has relay logs all the same.
    for statement in
        ["CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=1, MASTER_USER='nobody'", "START SLAVE"]
    {
        world.donor.db.exec(statement).await.unwrap();
    }
    let snapshot = world.snapshot().await;
    let named = Some(snapshot);
    let mount = SnapshotMountParams {
        snapshot: named.clone(),
        writable: false,
        at_mount_point: false,
        foreign: false,
    };
    world.call(&world.donor, mount).await;
    let info = world.call(&world.donor, AgentInfoParams {}).await;

    let mut lacking = Vec::new();
    for spec in Command::SPECS.iter().filter(|spec| spec.class == Class::Query) {
        let asked = parameters(&world, spec).await;
        let answer =
            world.client.raw(&world.donor.id(), spec.name, asked.params.clone(), &Default::default()).await;
        match (answer, asked.needs) {
            (Ok(bus::Answer::Result(result)), _) => assert_matches_schema(spec, &asked.params, &result),
            (Err(bus::BusError::Agent(error)), Some(needs)) if error.code == ErrorCode::MissingCapability => {
                let known = info.capabilities.iter().find(|c| c.name == needs);
                assert!(known.is_some_and(|c| !c.available && c.reason.is_some()), "{}: {error}", spec.name);
                lacking.push(format!("{} ({needs})", spec.name));
            }
            (answer, _) => panic!("{}: {answer:?}", spec.name),
        }
    }
    println!("not answered, because this host lacks what they need: {}", lacking.join(", "));
    world.call(&world.donor, SnapshotUnmountParams { snapshot: named }).await;
}

/// Parameters with which the query must succeed here. A query that is not listed fails the test.
async fn parameters(world: &World, spec: &Spec) -> Asked {
    let datadir = world.donor.db.datadir();
    match spec.name {
        "agent.info"
        | "agent.status"
        | "agent.doctor"
        | "mysql.info"
        | "mysql.disk-free"
        | "snapshot.mount-status"
        | "binlog.files"
        | "custom.list"
        | "binlog.relay-files"
        | "binlog.relay-end"
        | "snapshot.list"
        | "mysql.disk-usage"
        | "mysql.error-log"
        | "jobs.list"
        | "seed.survey" => asked(json!({})),
        "host.volumes" => Asked { params: json!({}), needs: Some("lvm") },
        "jobs.show" | "jobs.record" => {
            let jobs = world.call(&world.donor, JobsListParams { limit: 1, unfinished: false }).await;
            asked(json!({"job": jobs[0].id}))
        }
        "host.disk-usage" => asked(json!({"path": datadir, "fresh": true})),
        "host.disk-free" => asked(json!({"path": datadir})),
        "binlog.text" => {
            Asked { params: json!({"file": newest_binlog(world).await}), needs: Some("binlog.text") }
        }
        "binlog.binary" => asked(json!({"file": newest_binlog(world).await})),
        "seed.plan" => {
            let donor = world
                .call(&world.donor, SeedSurveyParams { snapshot: None, foreign: false, stream: None })
                .await;
            asked(json!({"donor": donor, "options": SeedOptions::default()}))
        }
        other => panic!("{other} is a query that this test does not know: give it parameters"),
    }
}

async fn newest_binlog(world: &World) -> String {
    world.call(&world.donor, BinlogFilesParams {}).await.last().unwrap().name.clone()
}

/// Against the file in `schemas/`, as a client in another language would.
fn assert_matches_schema(spec: &Spec, params: &Value, result: &Value) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../schemas/v1/commands/{}.json", spec.name));
    let document: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (part, value) in [("params", params), ("result", result)] {
        let validator = jsonschema::validator_for(&document[part]).unwrap();
        let faults: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{} at {}", error, error.instance_path()))
            .collect();
        assert!(faults.is_empty(), "{} of {}: {}\n{value:#}", part, spec.name, faults.join("; "));
    }
}
