//! Agents that say what a test tells them to, on a real bus, and the real program run against them.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's helper; each test file uses its own part"
)]

mod agent;

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bus::StreamLimits;
use bus::dedupe::CacheLimits;
use bus::{Authority, Bus, BusConfig, Handler, ReplyCache, ServeConfig};
use jiff::{SignedDuration, Timestamp};
use protocol::heartbeat::{Heartbeat, MysqlSummary, SnapshotSummary};
use protocol::ids::{AgentId, BootId, EventId};
use protocol::mysql::ServerState;
use protocol::snapshot::ProviderKind;
use serde_json::{Value, json};
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use agent::{Fake, Fate};

/// Long enough for a busy machine; a test that needs it all has failed.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A bus with agents on it.
pub struct World {
    pub server: NatsServer,
    pub bus: Bus,
    pub dir: tempfile::TempDir,
    stop: CancellationToken,
    _stops: DropGuard,
}

impl World {
    pub async fn new() -> Self {
        let server = NatsServer::start(&NatsOptions::jetstream()).unwrap();
        let config = BusConfig { servers: vec![server.url()], ..BusConfig::default() };
        let bus = Bus::connect(&config, "fake agents").await.unwrap();
        bus.connected(LIMIT).await.unwrap();
        let events = StreamLimits { max_bytes: 16 << 20, ..bus::events::event_stream_limits() };
        bus::events::ensure_event_stream(&bus, &events).await.unwrap();
        let commands = StreamLimits { max_bytes: 16 << 20, ..bus::durable::command_stream_limits() };
        bus::durable::ensure_command_stream(&bus, &commands).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        Self { server, bus, dir, _stops: stop.clone().drop_guard(), stop }
    }

    /// An agent of cluster `shop` that takes unsigned commands.
    pub async fn agent(&self, name: &str, dc: &str, snapshots: Vec<SnapshotSummary>) -> Arc<Fake> {
        self.agent_with(name, dc, snapshots, Authority::accept_all()).await
    }

    pub async fn agent_with(
        &self,
        name: &str,
        dc: &str,
        snapshots: Vec<SnapshotSummary>,
        authority: Authority,
    ) -> Arc<Fake> {
        let agent: AgentId = name.parse().unwrap();
        let beat = beat(name, dc, snapshots, authority.accepts_unsigned());
        let fake = Fake::new(self.bus.clone(), beat);
        let cache = self.dir.path().join(format!("{name}.replies"));
        let replies = ReplyCache::open(&cache, CacheLimits::default()).unwrap();
        let handler: Arc<dyn Handler> = fake.clone();
        tokio::spawn(bus::serve(
            self.bus.clone(),
            ServeConfig::new(agent.clone()),
            handler,
            Arc::new(authority),
            Arc::new(replies),
            self.stop.clone(),
        ));
        let beating = fake.clone();
        let interval = Duration::from_millis(500);
        let make = move || beating.heartbeat();
        bus::heartbeat::spawn(self.bus.clone(), agent.clone(), interval, make, self.stop.clone());
        let client = bus::Client::new(self.bus.clone(), None, "test");
        poll::until_async(LIMIT, format!("{name} on the bus"), || async {
            let fleet = client.fleet(bus::client::Window::default()).await.ok()?;
            fleet.iter().any(|beat| beat.agent == agent).then_some(())
        })
        .await;
        fake
    }

    /// `db9`, an agent that started once and answers no more.
    pub async fn dead_host(&self) {
        let event = json!({
            "specversion": "1.0", "id": EventId::generate(), "source": "/orch/agents/db9",
            "type": "orch.agent.started", "time": Timestamp::now(), "datacontenttype": "application/json",
            "cluster": "shop", "dc": "dc2", "host": "db9", "sequence": 1,
            "data": {"version": "0.1.0", "jobs_resumed": []},
        });
        let subject = "orch.v1.evt.db9.agent.started".to_owned();
        self.bus.publish(subject, None, event.to_string().into()).await.unwrap();
    }

    /// The program with these arguments, its standard streams no terminals.
    pub fn ctl(&self, line: &str) -> tokio::process::Command {
        ctl(&self.server.url(), line)
    }

    pub async fn run(&self, line: &str) -> Ran {
        run(self.ctl(line)).await
    }
}

pub fn ctl(server: &str, line: &str) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_orchestrator-ctl"));
    command.args(line.split_whitespace()).env("ORCH_SERVER", server).env("ORCH_ACTOR", "alice");
    command.env_remove("ORCH_SIGN_KEY").env_remove("ORCH_TIMEOUT");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// What a run gave.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Each line of stdout as JSON.
    pub fn json(&self) -> Vec<Value> {
        let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        self.out.lines().map(line).collect()
    }

    /// Fails unless each line of stdout is what `schemas/ctl` says.
    #[track_caller]
    pub fn is_as_published(&self, schema: &str) -> &Self {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/ctl").join(schema);
        let schema: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let lines = self.json();
        assert!(!lines.is_empty(), "{}", self.err);
        for line in &lines {
            let faults: Vec<_> =
                validator.iter_errors(line).map(|e| format!("{e} at {}", e.instance_path())).collect();
            assert!(faults.is_empty(), "{}\n{line:#}", faults.join("; "));
        }
        self
    }

    #[track_caller]
    pub fn expect(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }
}

pub async fn run(mut command: tokio::process::Command) -> Ran {
    let output = tokio::time::timeout(LIMIT, command.output()).await.expect("the program hangs").unwrap();
    ran(output)
}

pub fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

pub fn beat(name: &str, dc: &str, snapshots: Vec<SnapshotSummary>, accepts_unsigned: bool) -> Heartbeat {
    Heartbeat {
        agent: name.parse().unwrap(),
        cluster: "shop".into(),
        dc: dc.into(),
        version: "0.1.0".into(),
        protocol: 1,
        boot: BootId::generate(),
        started_at: Timestamp::now(),
        sequence: 1,
        sent_at: Timestamp::now(),
        interval_ms: 10_000,
        accepts_unsigned,
        capabilities: vec![],
        mysql: MysqlSummary {
            state: ServerState::Ready,
            port: Some(3306),
            version: None,
            read_only: Some(false),
            lag_seconds: None,
            replica_of: None,
            datadir_bytes: Some(3 << 30),
            on_snapshot: None,
        },
        snapshots_total: snapshots.len().try_into().unwrap(),
        load: None,
        bus: None,
        snapshots,
        free_bytes: Some(40 << 30),
        jobs: vec![],
    }
}

/// A usable snapshot that is so old.
pub fn summary(id: &str, minutes_old: i64) -> SnapshotSummary {
    SnapshotSummary {
        id: id.parse().unwrap(),
        provider: ProviderKind::Lvm,
        created_at: Timestamp::now() - SignedDuration::from_mins(minutes_old),
        cluster: Some("shop".into()),
        usable: true,
        foreign: false,
        proven: false,
        fill_percent: Some(3.0),
    }
}

/// ctl on a terminal of its own, 24 lines of 80.
pub struct Terminal {
    child: tokio::process::Child,
    /// All that was written so far.
    pub seen: String,
    /// Up to here it was waited for.
    read: usize,
}

impl Terminal {
    pub fn start(world: &World, term: &str, arguments: &str) -> Self {
        let program = env!("CARGO_BIN_EXE_orchestrator-ctl");
        let line = format!("stty rows 24 cols 80; {program} --server {} {arguments}", world.server.url());
        let mut script = tokio::process::Command::new("script");
        script.args(["-qefc", &line, "/dev/null"]).env("TERM", term);
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        Self { child: script.spawn().unwrap(), seen: String::new(), read: 0 }
    }

    /// Waits for a text after the one that was waited for last. What is blank already is not written: words come one by one.
    pub async fn until(&mut self, text: &str) {
        let stdout = self.child.stdout.as_mut().unwrap();
        let reading = async {
            let mut buffer = [0; 4096];
            loop {
                if let Some(at) = self.seen[self.read..].find(text) {
                    self.read += at + text.len();
                    break true;
                }
                let n = tokio::io::AsyncReadExt::read(stdout, &mut buffer).await.unwrap_or(0);
                if n == 0 {
                    break false;
                }
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        };
        let found = tokio::time::timeout(LIMIT, reading).await;
        assert_eq!(found, Ok(true), "no {text:?}: {}", self.seen);
    }

    pub async fn press(&mut self, keys: &[u8]) {
        tokio::io::AsyncWriteExt::write_all(self.child.stdin.as_mut().unwrap(), keys).await.unwrap();
    }

    /// Its exit code.
    pub async fn ends(mut self) -> Option<i32> {
        tokio::time::timeout(LIMIT, self.child.wait()).await.expect("the program ends").unwrap().code()
    }
}
