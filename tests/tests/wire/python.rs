//! A client in another language: `tests/python/fleet.py`, made from `schemas/` and public libraries alone.
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use e2e::rows;
use e2e::world::{PATIENCE, World, WorldOptions};
use serde_json::Value;

/// Where the script's libraries are, or why there are none.
async fn libraries() -> Result<String, String> {
    let fetched = command(&root().join("scripts/python-client")).output().await.map_err(|e| e.to_string())?;
    if fetched.status.success() {
        return Ok(String::from_utf8_lossy(&fetched.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&fetched.stderr);
    Err(said.lines().last().unwrap_or("pip failed").to_owned())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn command(program: &Path) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(program);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs the script to its end; the lines that it printed.
async fn script(world: &World, site: &str, key: &Path, arguments: &[&str]) -> Vec<Value> {
    let mut python = command(Path::new("python3"));
    python.arg(root().join("tests/python/fleet.py")).args(["--server", &world.nats.url(), "--sign-key"]);
    python.arg(key).args(arguments).env("PYTHONPATH", site).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = tokio::time::timeout(PATIENCE * 2, python.output()).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}\n{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_client_discovers_seeds_and_reads_events_by_the_schemas_alone() {
    let site = match libraries().await {
        Ok(site) => site,
        Err(why) => testkit::skip!(odd: "nats-py and jsonschema cannot be fetched: {why}"),
    };
    let key = nkeys::KeyPair::new_user();
    let public = key.public_key();
    let configure = Box::new(move |_: &str, options: &mut testkit::agent::AgentOptions| {
        options.trust(&public, "the python client", &["read", "operate", "seed"]);
    });
    let world =
        World::start(WorldOptions { data_mib: 4, configure: Some(configure), ..WorldOptions::default() })
            .await;
    let seed = world.donor.agent.dir().join("python.nk");
    fs::write(&seed, key.seed().unwrap()).unwrap();
    fs::set_permissions(&seed, fs::Permissions::from_mode(0o600)).unwrap();

    let fleet = script(&world, &site, &seed, &["fleet"]).await;
    let agents: Vec<_> = fleet.iter().map(|heartbeat| heartbeat["agent"].as_str().unwrap()).collect();
    assert_eq!(agents, ["db1", "db2"]);

    script(&world, &site, &seed, &["snapshot", "db1"]).await;
    let told = script(&world, &site, &seed, &["seed", "db1", "db2", "--stop-mysql"]).await;
    let stages: Vec<_> =
        told.iter().filter(|l| l["what"] == "finished").filter_map(|l| l["stage"].as_str()).collect();
    let expected = protocol::seed::SeedStage::ALL.map(protocol::seed::SeedStage::as_str);
    assert_eq!(stages, expected, "{told:?}");
    let job = told.last().unwrap();
    assert!(job["actor"].as_str().unwrap().starts_with("the python client"), "{job}");
    assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);

    let events = script(&world, &site, &seed, &["events"]).await;
    for (host, kind) in
        [("db1", "orch.snapshot.created"), ("db2", "orch.mysql.state"), ("db2", "orch.job.finished")]
    {
        assert!(
            events.iter().any(|e| e["host"] == host && e["type"] == kind),
            "{kind} of {host}: {events:?}"
        );
    }
    world.nothing_left(PATIENCE).await;
}
