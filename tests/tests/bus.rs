//! A bus with the accounts that `bus config` makes, used as README says: keys, accounts, agents, and only then the first ctl.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use testkit::agent::{Agent, AgentOptions, Program};
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;

/// A busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What ctl said.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    #[track_caller]
    fn done(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }
}

/// A server with generated accounts, its users' keys in `keys`.
struct Guarded {
    server: NatsServer,
    keys: tempfile::TempDir,
}

impl Guarded {
    async fn start(program: PathBuf) -> Self {
        let keys = tempfile::tempdir().unwrap();
        let mut public = Vec::new();
        for user in ["db1", "db2", "dba", "auditor"] {
            let file = keys.path().join(user);
            let said = ctl(&["key", "generate", file.to_str().unwrap()]).await.done();
            public.push(format!("{user}={}", said.out.trim()));
        }
        let [db1, db2, dba, auditor] = public.try_into().unwrap();
        let accounts =
            ["bus", "config", "--agent", &db1, "--agent", &db2, "--controller", &dba, "--auditor", &auditor];
        let accounts = ctl(&accounts).await.done().out;
        let options = NatsOptions::jetstream().config(accounts).program(program);
        Self { server: NatsServer::start(&options).unwrap(), keys }
    }

    fn key(&self, user: &str) -> String {
        self.keys.path().join(user).to_str().unwrap().to_owned()
    }

    fn agent(&self, id: &str) -> Agent {
        let mut options = AgentOptions::new(id, &self.server.url());
        options.set("bus.credentials.nkey_file", self.key(id));
        options.set("bus.inbox_prefix", format!("_INBOX_{id}"));
        let public =
            nkeys::KeyPair::from_seed(std::fs::read_to_string(self.key("dba")).unwrap().trim()).unwrap();
        options.set("auth.accept_unsigned", false);
        options.trust(&public.public_key(), "dba", &["read", "operate"]);
        Agent::start(options).unwrap()
    }

    async fn by(&self, user: &str, arguments: &[&str]) -> Said {
        let (url, key, inbox) = (self.server.url(), self.key(user), format!("_INBOX_USER_{user}"));
        let who = ["--server", &url, "--nkey-file", &key, "--sign-key", &key, "--inbox-prefix", &inbox];
        ctl(&[who.as_slice(), arguments].concat()).await
    }

    async fn fleet(&self, user: &str) -> Value {
        serde_json::from_str(&self.by(user, &["fleet", "--json"]).await.done().out).unwrap()
    }

    fn violations(&self) -> Vec<String> {
        let log = self.server.log();
        log.lines().filter(|line| line.contains("Violation")).map(str::to_owned).collect()
    }
}

async fn ctl(arguments: &[&str]) -> Said {
    let mut command = tokio::process::Command::new(Program::Ctl.path().unwrap());
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("ctl ends").unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn states(fleet: &Value, list: &str, field: &str) -> Vec<String> {
    let rows = fleet[list].as_array().unwrap();
    rows.iter().map(|row| row.pointer(field).unwrap().as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_least_privilege_a_host_that_is_down_is_missed_and_nobody_is_refused() {
    for program in testkit::nats::matrix() {
        println!("on {}", program.display());
        let bus = Guarded::start(program).await;
        let (mut db1, db2) = (bus.agent("db1"), bus.agent("db2"));
        // The agents come first and find no stream: they say so once, with the command that mends it.
        for agent in [&db1, &db2] {
            poll::until_async(PATIENCE, "the agent to tell that its events wait", || async {
                agent.log().contains("orchestrator-ctl bus setup").then_some(())
            })
            .await;
        }
        assert_eq!(db1.log().matches("orchestrator-ctl bus setup").count(), 1, "{}", db1.log());
        let info = bus.by("dba", &["host", "db1", "info"]).await.done();
        // The first use of ctl has made the stream; agents that wait send what they have.
        let fleet = poll::until_async(PATIENCE, "both hosts and the events of their starts", || async {
            let fleet = bus.fleet("dba").await;
            let events = bus.by("dba", &["events", "--json", "--kind", "agent.started"]).await.done().out;
            (events.lines().count() == 2 && fleet["blind"].is_null()).then_some(fleet)
        })
        .await;
        assert!(info.out.contains("events"), "{}", info.out);
        assert_eq!(states(&fleet, "hosts", "/heartbeat/agent"), ["db1", "db2"]);
        assert!(fleet["missing"].as_array().unwrap().is_empty(), "{fleet}");
        db1.kill9().unwrap();
        let fleet = bus.fleet("auditor").await;
        assert_eq!(states(&fleet, "hosts", "/heartbeat/agent"), ["db2"]);
        assert_eq!(states(&fleet, "missing", "/host"), ["db1"], "{fleet}");
        let table = bus.by("dba", &["fleet"]).await.done().out;
        assert!(table.contains("1 hosts answer, 1 missing"), "{table}");
        let setup = bus.by("dba", &["bus", "setup"]).await.done().out;
        assert!(setup.contains("orch_events: was there") && setup.contains("orch_commands: made"), "{setup}");
        assert_eq!(bus.violations(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_make_the_stream_is_told_that_hosts_which_are_down_cannot_be_seen() {
    let bus = Guarded::start(testkit::nats::matrix().remove(0)).await;
    let fleet = bus.by("auditor", &["fleet"]).await.done().out;
    assert!(fleet.contains("hosts that are down cannot be told"), "{fleet}");
    assert!(fleet.contains("orchestrator-ctl bus setup"), "{fleet}");
    let bare = NatsServer::start(&NatsOptions::default()).unwrap();
    let fleet = ctl(&["--server", &bare.url(), "fleet"]).await.done().out;
    assert!(
        fleet.contains("hosts that are down cannot be told") && fleet.contains("enable JetStream"),
        "{fleet}"
    );
    assert!(Path::new(&bus.key("dba")).exists());
}
