//! What a host lacks is told with what mends it, and what was mended is fine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use e2e::replication::Account;
use e2e::world::{Host, Provider, World, WorldOptions};
use protocol::host::FindingState;
use protocol::params::AgentDoctorParams;
use serde_json::Value;
use testkit::agent::Program;

async fn state(world: &World, host: &Host, what: &str) -> (FindingState, String) {
    let findings = world.call(host, AgentDoctorParams {}).await;
    let found =
        findings.iter().find(|finding| finding.what == what).unwrap_or_else(|| panic!("{findings:?}"));
    (found.state, format!("{} {}", found.detail, found.mend.as_deref().unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_host_lacks_is_told_until_it_is_mended() {
    let account = Account::new();
    let file = account.file();
    let credentials = file.clone();
    let mut world = World::start(WorldOptions {
        provider: Provider::Directory,
        donor_lines: vec!["skip-log-bin".to_owned(), "log-slave-updates=OFF".to_owned()],
        configure: Some(Box::new(move |id, agent| {
            if id == "db2" {
                agent.set("seed.replication_credentials", credentials.display().to_string());
                agent.set("seed.sources", vec!["*.db.example"]);
            }
        })),
        ..WorldOptions::default()
    })
    .await;
    let (donor, recipient) = (&world.donor, &world.recipient);
    assert_eq!(state(&world, donor, "log-in").await.0, FindingState::Fine);
    let (log, words) = state(&world, donor, "binary log").await;
    assert!(log == FindingState::Missing && words.contains("log_bin = binlog"), "{words}");
    let (snapshots, words) = state(&world, donor, "snapshots").await;
    assert!(snapshots == FindingState::Weak && words.contains("snapshot create db1"), "{words}");
    assert_eq!(state(&world, donor, "replication account").await.0, FindingState::Weak);
    assert_eq!(state(&world, recipient, "replication account").await.0, FindingState::Fine);

    // Over the bus, for the fleet: what is missing comes first, and the exit code tells a script.
    let said = world.ctl(&["doctor"]).await;
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let at = |words: &str| said.stdout.find(words).unwrap_or_else(|| panic!("no {words}: {}", said.stdout));
    assert!(at("db1:") < at("binary log") && at("binary log") < at("log_bin = binlog"));
    // Whether it ends well depends on the agent's last try to send an event: the first ctl has only just made their stream.
    let said = world.ctl(&["--json", "doctor", "db2", "--all"]).await;
    let told: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(told[0]["host"], "db2");
    assert!(told[0]["findings"].as_array().unwrap().iter().any(|finding| finding["what"] == "log-in"));

    // What was mended is fine, and what breaks meanwhile is told.
    world.snapshot().await;
    assert_eq!(state(&world, donor, "snapshots").await.0, FindingState::Fine);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let (replication, words) = state(&world, recipient, "replication account").await;
    assert!(replication == FindingState::Missing && words.contains("chmod 0600"), "{words}");
    world.recipient.db.stop().await.unwrap();
    let (log_in, words) = state(&world, &world.recipient, "log-in").await;
    assert!(log_in == FindingState::Unknown && words.contains("mysql db2 start"), "{words}");
}

/// What the program says of the host of this agent, without its agent.
async fn here(host: &Host, more: &[&str]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(Program::Agent.path().unwrap());
    let output = command
        .arg("doctor")
        .arg("--config")
        .arg(host.agent.config_path())
        .args(more)
        .output()
        .await
        .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_itself_tells_it_without_a_bus_and_without_an_agent() {
    let mut world =
        World::start(WorldOptions { provider: Provider::Directory, ..WorldOptions::default() }).await;
    // Beside the agent that runs.
    let (code, said) = here(&world.donor, &["--all"]).await;
    assert_eq!(code, Some(0), "{said}");
    for what in [
        "fine     bus connection",
        "fine     mysql log-in",
        "weak     snapshot snapshots",
        "snapshot create db1",
    ] {
        assert!(said.contains(what), "no {what:?} in {said}");
    }
    world.donor.agent.stop().unwrap();
    world.nats.kill9();
    let (code, said) = here(&world.donor, &["--json"]).await;
    assert_eq!(code, Some(1), "{said}");
    let told: Value = serde_json::from_str(&said).unwrap();
    let findings = told["findings"].as_array().unwrap();
    let connection = findings.iter().find(|finding| finding["what"] == "connection").unwrap();
    assert!(
        connection["state"] == "missing" && connection["mend"].as_str().unwrap().contains("servers"),
        "{said}"
    );
    assert!(
        findings.iter().any(|finding| finding["what"] == "log-in" && finding["state"] == "fine"),
        "{said}"
    );
    let (code, said) = here(&world.donor, &["--set", "agent.clutser=x"]).await;
    assert!(code == Some(78) && said.contains("clutser"), "{said}");
}
