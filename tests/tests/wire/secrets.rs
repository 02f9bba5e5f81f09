//! Secrets that were planted in files are found nowhere else: not in logs, events, heartbeats, replies, or a command line.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use e2e::events;
use e2e::world::{Provider, World, WorldOptions, slowly};
use protocol::params::*;
use protocol::seed::{ReplicationSource, SeedOptions};
use serde_json::json;
use testkit::agent::Agent;

const MYSQL_PASSWORD: &str = "planted-mysql-Xq7";
const REPLICATION_PASSWORD: &str = "planted-replication-Zw3";
const BUS_TOKEN: &str = "planted-token-Vb9";

fn secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Looks at every process's arguments and environment-free name until told to stop; what of the secrets was seen.
fn watch_command_lines(
    secrets: Vec<String>,
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<BTreeSet<String>> {
    let seen = Mutex::new(BTreeSet::new());
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            for process in fs::read_dir("/proc").unwrap().flatten() {
                let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line);
                for found in secrets.iter().filter(|secret| line.contains(secret.as_str())) {
                    seen.lock().unwrap().insert(format!("{found} in {line}"));
                }
            }
            std::thread::yield_now();
        }
        seen.into_inner().unwrap()
    })
}

/// Gives an agent an account with a password, credentials for replication and for the bus, and starts it again.
fn plant(agent: &mut Agent) {
    let at = |agent: &Agent, name: &str| agent.dir().join(name);
    secret(&at(agent, "mysql.password"), MYSQL_PASSWORD);
    let replication = format!("[client]\nuser=repl\npassword={REPLICATION_PASSWORD}\n");
    secret(&at(agent, "replication.cnf"), &replication);
    secret(&at(agent, "bus.token"), BUS_TOKEN);
    for (key, name) in [
        ("mysql.password_file", "mysql.password"),
        ("seed.replication_credentials", "replication.cnf"),
        ("bus.credentials.token_file", "bus.token"),
    ] {
        let path = at(agent, name).display().to_string();
        agent.options().set(key, path);
    }
    agent.options().set("mysql.user", "keeper").set("log.level", "debug");
    agent.restart().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_secrets_are_in_no_log_event_reply_or_command_line() {
    let options = WorldOptions { provider: Provider::Directory, data_mib: 2, ..WorldOptions::default() };
    let mut world = World::start(options).await;
    for db in [&world.donor.db, &world.recipient.db] {
        for statement in [
            format!("CREATE USER keeper@localhost IDENTIFIED BY '{MYSQL_PASSWORD}'"),
            "GRANT ALL ON *.* TO keeper@localhost WITH GRANT OPTION".to_owned(),
            format!("CREATE USER repl@'127.0.0.1' IDENTIFIED BY '{REPLICATION_PASSWORD}'"),
            "GRANT REPLICATION SLAVE ON *.* TO repl@'127.0.0.1'".to_owned(),
        ] {
            db.exec(statement).await.unwrap();
        }
    }
    plant(&mut world.donor.agent);
    plant(&mut world.recipient.agent);
    world.serving(&world.donor.id()).await;
    world.serving(&world.recipient.id()).await;

    let mut secrets = [MYSQL_PASSWORD, REPLICATION_PASSWORD, BUS_TOKEN].map(str::to_owned).to_vec();
    let stop = Arc::new(AtomicBool::new(false));
    let watching = watch_command_lines(secrets.clone(), Arc::clone(&stop));

    world.snapshot().await;
    let offer = world.offer(false).await;
    secrets.push(offer.token.expose().to_owned());
    let source = ReplicationSource { host: "127.0.0.1".into(), port: world.donor.db.port() };
    let options = SeedOptions { replicate_from: Some(source), ..slowly(0) };
    let start = SeedStartParams { offer, options, plan_digest: None };
    let job = world.call(&world.recipient, start).await.job;
    let view = world.ended(&world.recipient, job).await;
    assert!(view.state.is_final() && view.error.is_none(), "{view:?}");
    assert_eq!(
        world.recipient.db.query("SHOW SLAVE STATUS").await.unwrap().len(),
        1,
        "the credentials were used"
    );

    let mut told = Vec::new();
    for what in ["show", "watch"] {
        for form in [&["--json"][..], &[]] {
            let arguments: Vec<&str> = form.iter().copied().chain(["seed", what, "db2"]).collect();
            let said = world.ctl(&arguments).await;
            told.push((format!("ctl {arguments:?}"), format!("{}{}", said.stdout, said.stderr)));
        }
    }
    for host in [&world.donor, &world.recipient] {
        told.push((format!("the log of {}", host.id()), host.agent.log()));
        let status = world.call(host, AgentStatusParams {}).await;
        told.push(("the heartbeat".into(), serde_json::to_string(&status).unwrap()));
        let info = world.call(host, AgentInfoParams {}).await;
        told.push(("agent.info".into(), serde_json::to_string(&info).unwrap()));
        let jobs = world.call(host, JobsListParams { limit: 100, unfinished: false }).await;
        told.push(("jobs.list".into(), serde_json::to_string(&jobs).unwrap()));
    }
    let stored = events::stored(&world.client).await;
    told.push(("the stream".into(), serde_json::to_string(&stored).unwrap()));

    // Errors too: a password that is wrong, and a file that others may read.
    let password = world.donor.agent.dir().join("mysql.password");
    secret(&password, &format!("{MYSQL_PASSWORD}-wrong"));
    told.push(("an answer".into(), tried(&world).await));
    fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).unwrap();
    told.push(("an answer".into(), tried(&world).await));

    stop.store(true, Ordering::Relaxed);
    let seen = watching.join().unwrap();
    assert!(seen.is_empty(), "in a command line: {seen:?}");
    for (where_, text) in &told {
        assert!(!text.is_empty(), "{where_} says nothing");
        for planted in &secrets {
            assert!(!text.contains(planted.as_str()), "{planted} is in {where_}");
        }
    }
}

/// Answers and errors of commands that log in to the server.
async fn tried(world: &World) -> String {
    let mut answers = String::new();
    for command in ["mysql.info", "binlog.files", "seed.survey"] {
        let answer = world.client.raw(&world.donor.id(), command, json!({}), &Default::default()).await;
        answers.push_str(&format!("{answer:?}"));
    }
    answers
}
