//! `schemas/v1/examples`: each command's example is sent to a real agent beside a real MariaDB.
//!
//! What belongs to one host (ids, paths, offers) is put in its place in the parameters first. With
//! `OA_RECORD_EXAMPLES=1` the files are written anew from what really went over the bus.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bus::{BusError, CallOptions};
use e2e::world::{Host, PATIENCE, Provider, World, WorldOptions};
use protocol::command::{Class, Command};
use protocol::envelope::Request;
use protocol::error::ErrorCode;
use protocol::ids::JobId;
use protocol::params::*;
use serde_json::{Value, json};
use testkit::poll;

use crate::published::{self, assert_valid};

fn path_of(command: &str) -> PathBuf {
    published::directory().join(format!("examples/{command}.json"))
}

fn example(command: &str) -> Value {
    published::read(&format!("examples/{command}.json"))
}

#[test]
fn every_command_has_an_example_that_is_as_its_schemas_say() {
    for spec in Command::SPECS {
        let example = example(spec.name);
        assert_valid(&example["request"], "request.json", None);
        assert_valid(&example["request"]["params"], &published::of(spec.name), Some("params"));
        assert_valid(&example["reply"], "reply.json", None);
        assert_valid(&example["reply"]["result"], &published::of(spec.name), Some("result"));
        let request = Request::parse(example["request"].to_string().as_bytes()).unwrap();
        assert_eq!(example["reply"]["id"], json!(request.id), "{}", spec.name);
        assert_eq!(Command::parse(&request.command, request.params).unwrap().spec().name, spec.name);
        let known = &published::read(&published::of(spec.name))["result"]["properties"];
        if let (Some(result), Some(known)) = (example["reply"]["result"].as_object(), known.as_object()) {
            let unknown: Vec<_> = result.keys().filter(|key| !known.contains_key(*key)).collect();
            assert!(unknown.is_empty(), "{}: {unknown:?} is out of date: OA_RECORD_EXAMPLES=1", spec.name);
        }
        match spec.class {
            Class::Job => assert_valid(&example["ended"], &published::of("jobs.show"), Some("result")),
            _ => assert!(example.get("ended").is_none(), "{} is no job", spec.name),
        }
    }
    let files = fs::read_dir(path_of("x").parent().unwrap()).unwrap().count();
    assert_eq!(files, Command::SPECS.len(), "a file without a command");
}

/// Sends the examples and remembers which ones.
struct Walk {
    world: World,
    /// What stands on this host for a parameter, by its name or by `command:name`.
    facts: BTreeMap<String, Value>,
    walked: BTreeSet<String>,
    record: bool,
}

impl Walk {
    fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    fn host(&self, name: &str) -> &Host {
        if name == "db1" { &self.world.donor } else { &self.world.recipient }
    }

    /// Sends the example to a host; its result, or nothing where the host says that it lacks what the command needs.
    async fn send(&mut self, host: &str, command: &str) -> Option<Value> {
        let spec = Command::SPECS.iter().find(|spec| spec.name == command).unwrap();
        let mut example = example(command);
        let params = example["request"]["params"].as_object_mut().unwrap();
        for (name, value) in params.iter_mut() {
            let fact = self.facts.get(&format!("{command}:{name}")).or_else(|| self.facts.get(name));
            if let Some(fact) = fact {
                value.clone_from(fact);
            }
        }
        let params = Value::Object(params.clone());
        let options = CallOptions { timeout: Duration::from_secs(60), ..CallOptions::default() };
        let id = self.host(host).id();
        self.walked.insert(command.to_owned());
        // A job that has just ended may still hold what it claimed.
        let client = self.world.client.clone();
        let answer = poll::until_async(PATIENCE, format!("{command} not to be busy"), || async {
            match client.raw(&id, command, params.clone(), &options).await {
                Err(BusError::Agent(error)) if error.code == ErrorCode::Busy => None,
                answer => Some(answer),
            }
        });
        let result = match answer.await {
            Ok(bus::Answer::Result(result)) => result,
            Err(BusError::Agent(error)) if error.code == ErrorCode::MissingCapability => {
                println!("{command} skipped, because {error}");
                return None;
            }
            other => panic!("{command} {params}: {other:?}"),
        };
        assert_valid(&result, &published::of(command), Some("result"));
        if self.record {
            example["request"]["params"] = params;
            example["reply"] =
                json!({"version": 1, "id": example["request"]["id"], "host": id, "result": result.clone()});
            self.write(command, &example);
        }
        if spec.class == Class::Job {
            self.fact("job", result["job"].clone());
        }
        Some(result)
    }

    /// Waits for the good end of the job that an example began.
    async fn ended(&mut self, host: &str, command: &str) {
        let job: JobId = self.facts["job"].as_str().unwrap().parse().unwrap();
        let view = self.world.succeeded(self.host(host), job).await;
        let view = serde_json::to_value(view).unwrap();
        assert_valid(&view, &published::of("jobs.show"), Some("result"));
        if self.record {
            let mut example = example(command);
            example["ended"] = view;
            self.write(command, &example);
        }
    }

    async fn job(&mut self, host: &str, command: &str) {
        self.send(host, command).await.unwrap();
        self.ended(host, command).await;
    }

    /// Writes an example with the paths of a usual host instead of this test's.
    fn write(&self, command: &str, example: &Value) {
        let mut text = serde_json::to_string_pretty(example).unwrap();
        for host in [&self.world.donor, &self.world.recipient] {
            let replaced = [
                (host.db.datadir().display().to_string(), "/var/lib/mysql"),
                (host.db.base().display().to_string(), "/srv/mysql"),
                (host.agent.dir().display().to_string(), "/run/orchestrator-agent"),
            ];
            for (real, usual) in replaced {
                text = text.replace(&real, usual);
            }
        }
        for (file, usual) in
            [("/etc/machine-id", "4d0f0a3f9e2b4c0f8a53b1c4a2f3d5e6"), ("/etc/hostname", "db1.example.com")]
        {
            let real = fs::read_to_string(file).unwrap_or_default();
            if real.trim().len() > 3 {
                text = text.replace(real.trim(), usual);
            }
        }
        fs::write(path_of(command), text + "\n").unwrap();
    }
}

async fn world() -> World {
    let configure = Box::new(|_: &str, options: &mut testkit::agent::AgentOptions| {
        let argv = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        options.set("custom.uptime.argv", argv(&["/bin/cat", "/proc/uptime"]));
        options.set("custom.uptime.about", "Seconds since the host's start");
        options.set("custom.wait.argv", argv(&["/bin/sleep", "600"]));
        options.set("seed.post_copy", argv(&["/bin/echo", "copied"]));
    });
    World::start(WorldOptions {
        provider: Provider::Directory,
        configure: Some(configure),
        data_mib: 2,
        ..WorldOptions::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_works_on_a_real_agent() {
    let world = world().await;
    // A replica that never connects has relay logs all the same.
    for statement in
        ["CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=1, MASTER_USER='nobody'", "START SLAVE"]
    {
        world.recipient.db.exec(statement).await.unwrap();
    }
    let record = std::env::var_os("OA_RECORD_EXAMPLES").is_some();
    let mut walk = Walk { world, facts: BTreeMap::new(), walked: BTreeSet::new(), record };
    let datadir = walk.world.donor.db.datadir().display().to_string();
    walk.fact("path", datadir);

    for command in [
        "agent.info",
        "agent.status",
        "agent.doctor",
        "host.disk-usage",
        "host.disk-free",
        "host.volumes",
        "mysql.info",
        "mysql.disk-usage",
        "mysql.disk-free",
        "mysql.error-log",
        "custom.list",
    ] {
        walk.send("db1", command).await;
    }
    snapshots(&mut walk).await;
    // Before anything writes to the recipient: one that takes writes is not seeded over.
    seed(&mut walk).await;
    logs(&mut walk).await;
    walk.job("db1", "custom.run").await;
    walk.send("db1", "jobs.list").await;
    walk.send("db1", "jobs.show").await;
    walk.send("db1", "jobs.record").await;
    let waiting = walk.world.call(&walk.world.donor, CustomRunParams { name: "wait".into() }).await.job;
    walk.fact("jobs.abort:job", waiting.to_string());
    walk.send("db1", "jobs.abort").await;
    service_and_datadir(&mut walk).await;
    walk.job("db1", "snapshot.remove").await;

    // Servers on snapshots have suites of their own.
    walk.walked.extend(["mysql.start-on-snapshot", "mysql.leave-snapshot"].map(str::to_owned));
    let missed: Vec<_> =
        Command::SPECS.iter().map(|s| s.name).filter(|n| !walk.walked.contains(*n)).collect();
    assert!(missed.is_empty(), "not sent: {missed:?}");
}

async fn snapshots(walk: &mut Walk) {
    walk.job("db1", "snapshot.create").await;
    let listed = walk.send("db1", "snapshot.list").await.unwrap();
    walk.fact("snapshot", listed[0]["id"].clone());
    walk.send("db1", "snapshot.mount").await;
    walk.send("db1", "snapshot.mount-status").await;
    walk.send("db1", "snapshot.unmount").await;
    walk.job("db1", "snapshot.verify").await;
}

/// A statement travels from the donor's binary log into the recipient.
async fn logs(walk: &mut Walk) {
    walk.world.donor.db.exec("FLUSH BINARY LOGS").await.unwrap();
    walk.world.donor.db.exec("CREATE DATABASE travelled").await.unwrap();
    let files = walk.send("db1", "binlog.files").await.unwrap();
    let newest = files.as_array().unwrap().last().unwrap()["name"].clone();
    walk.fact("file", newest);
    walk.send("db1", "binlog.text").await;
    let chunk = walk.send("db1", "binlog.binary").await.unwrap();
    walk.fact("content", chunk["content"].clone());
    walk.send("db2", "binlog.upload").await;
    walk.job("db2", "binlog.apply").await;
    assert_eq!(walk.world.recipient.db.scalar("SHOW DATABASES LIKE 'travelled'").await.unwrap(), "travelled");
    walk.send("db2", "binlog.relay-files").await;
    walk.send("db2", "binlog.relay-end").await;
    walk.world.recipient.db.exec("STOP SLAVE").await.unwrap();
    walk.world.recipient.db.exec("RESET SLAVE ALL").await.unwrap();
}

async fn seed(walk: &mut Walk) {
    let survey = walk.send("db1", "seed.survey").await.unwrap();
    walk.fact("donor", survey);
    walk.send("db2", "seed.plan").await;
    let given_up = walk.send("db1", "seed.offer").await.unwrap();
    walk.fact("seed.release:offer", given_up["id"].clone());
    walk.send("db1", "seed.release").await;
    let offer = walk.world.offer(false).await;
    walk.fact("seed.start:offer", serde_json::to_value(offer).unwrap());
    walk.send("db2", "seed.start").await;
    let job: JobId = walk.facts["job"].as_str().unwrap().parse().unwrap();
    walk.world.in_transfer(job, 1).await;
    walk.send("db2", "seed.throttle").await;
    walk.ended("db2", "seed.start").await;
    assert!(walk.world.recipient.db.scalar("SHOW DATABASES LIKE 'own'").await.is_err(), "the donor's data");
    walk.job("db2", "seed.undo").await;
    walk.world.recipient_is_as_it_was().await;
}

async fn service_and_datadir(walk: &mut Walk) {
    walk.job("db2", "mysql.restart").await;
    walk.job("db2", "mysql.stop").await;
    walk.job("db2", "mysql.start").await;
    walk.world.recipient_is_as_it_was().await;
    walk.job("db2", "mysql.stop").await;
    walk.job("db2", "datadir.post-copy").await;
    let datadir = walk.world.recipient.db.datadir().to_owned();
    walk.fact("datadir", datadir.display().to_string());
    walk.job("db2", "datadir.clear").await;
    assert_eq!(fs::read_dir(datadir).unwrap().count(), 0);
}
