//! A server, an agent whose handler the test writes, and clients.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bus::config::BusConfig;
use bus::dedupe::CacheLimits;
use bus::{Authority, Bus, Client, Denied, Handler, Incoming, ReplyCache, ServeConfig, Signer, serve};
use jiff::Timestamp;
use nkeys::KeyPair;
use protocol::error::WireError;
use protocol::heartbeat::{Heartbeat, MysqlSummary};
use protocol::ids::{AgentId, BootId};
use protocol::mysql::ServerState;
use serde_json::Value;
use tempfile::TempDir;
use testkit::nats::{NatsOptions, NatsServer};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Long enough for a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Makes of an async function of a server program one test per server version.
macro_rules! on_each_server {
    ($($name:ident),+ $(,)?) => { $(
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn distribution() {
                super::$name(None).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn newest() {
                match testkit::nats::newest_program() {
                    Some(program) => super::$name(Some(program)).await,
                    None => testkit::skip!(odd: "scripts/nats-newest was not run"),
                }
            }
        }
    )+ };
}
pub(crate) use on_each_server;

pub(crate) fn start(program: Option<PathBuf>) -> NatsServer {
    start_with(program, "")
}

pub(crate) fn start_with(program: Option<PathBuf>, config: &str) -> NatsServer {
    let mut options = NatsOptions::jetstream().config(config);
    options.program = program;
    NatsServer::start(&options).unwrap()
}

pub(crate) fn config(server: &NatsServer) -> BusConfig {
    BusConfig {
        servers: vec![server.url()],
        ping_interval_s: 1,
        reconnect_min_ms: 20,
        reconnect_max_ms: 200,
        request_timeout_ms: 10_000,
        ..BusConfig::default()
    }
}

pub(crate) async fn connect(server: &NatsServer) -> Bus {
    let bus = Bus::connect(&config(server), "test").await.unwrap();
    bus.connected(LIMIT).await.unwrap();
    bus
}

pub(crate) async fn client(server: &NatsServer, signer: Option<KeyPair>) -> Client {
    Client::new(connect(server).await, signer, "tester")
}

pub(crate) fn agent(name: &str) -> AgentId {
    name.parse().unwrap()
}

pub(crate) fn heartbeat(agent: &AgentId) -> Heartbeat {
    Heartbeat {
        agent: agent.clone(),
        cluster: "main".into(),
        dc: "east".into(),
        version: "0.1.0".into(),
        protocol: 1,
        boot: BootId::generate(),
        started_at: Timestamp::now(),
        sequence: 1,
        sent_at: Timestamp::now(),
        interval_ms: 10_000,
        accepts_unsigned: true,
        capabilities: vec!["snapshot.lvm".into(), "mysqlbinlog".into()],
        mysql: MysqlSummary {
            state: ServerState::Ready,
            port: Some(3306),
            version: None,
            read_only: Some(true),
            lag_seconds: Some(0),
            replica_of: Some("db0.example.com:3306".into()),
            datadir_bytes: Some(1 << 40),
            on_snapshot: None,
        },
        snapshots: Vec::new(),
        snapshots_total: 0,
        load: None,
        bus: None,
        free_bytes: Some(1 << 39),
        jobs: Vec::new(),
    }
}

type Answer = Box<dyn Fn(&Incoming) -> Result<Value, WireError> + Send + Sync>;

/// Answers as the test says; keeps what it was called with and what was denied.
pub(crate) struct TestHandler {
    heartbeat: Heartbeat,
    answer: Answer,
    pub(crate) calls: Mutex<Vec<Incoming>>,
    pub(crate) denied: Mutex<Vec<Denied>>,
    pub(crate) delay: Duration,
}

impl TestHandler {
    pub(crate) fn new(
        agent: &AgentId,
        answer: impl Fn(&Incoming) -> Result<Value, WireError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            heartbeat: heartbeat(agent),
            answer: Box::new(answer),
            calls: Mutex::default(),
            denied: Mutex::default(),
            delay: Duration::ZERO,
        }
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

#[async_trait]
impl Handler for TestHandler {
    async fn handle(&self, call: Incoming) -> Result<Value, WireError> {
        self.calls.lock().unwrap().push(call.clone());
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        (self.answer)(&call)
    }

    fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.clone()
    }

    fn denied(&self, denied: Denied) {
        self.denied.lock().unwrap().push(denied);
    }
}

/// An agent at work; stops with this handle.
pub(crate) struct TestAgent {
    pub(crate) handler: Arc<TestHandler>,
    pub(crate) authority: Arc<Authority>,
    /// What its replies are signed with.
    pub(crate) key: String,
    shutdown: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl TestAgent {
    pub(crate) async fn start(
        bus: &Bus,
        id: &AgentId,
        dir: &TempDir,
        handler: TestHandler,
        authority: Authority,
    ) -> Self {
        Self::start_asked_by(bus, bus, id, dir, handler, authority).await
    }

    /// Starts; `asker` finds out when it is on the bus.
    pub(crate) async fn start_asked_by(
        bus: &Bus,
        asker: &Bus,
        id: &AgentId,
        dir: &TempDir,
        handler: TestHandler,
        authority: Authority,
    ) -> Self {
        let handler = Arc::new(handler);
        let authority = Arc::new(authority);
        let shutdown = CancellationToken::new();
        let signer = Arc::new(Signer::new(KeyPair::new_user()));
        let key = signer.public().to_owned();
        let replies = ReplyCache::open(&dir.path().join("replies"), CacheLimits::default()).unwrap();
        let serving = serve(
            bus.clone(),
            ServeConfig { signer: Some(signer), ..ServeConfig::new(id.clone()) },
            handler.clone(),
            authority.clone(),
            Arc::new(replies),
            shutdown.clone(),
        );
        let task = tokio::spawn(async move { serving.await.unwrap() });
        let agent = Self { handler, authority, key, shutdown, task: Some(task) };
        // On the bus as soon as it answers. A server does not say across accounts that nobody listens yet: ask again soon.
        let patience = Duration::from_secs(1);
        let subject = format!("orch.v1.cmd.{}.test.ready", protocol::subject::encode_host(id));
        testkit::poll::until_async(LIMIT, "the agent to be on the bus", || async {
            asker.request(subject.clone(), None, "{}".into(), patience).await.ok()
        })
        .await;
        agent
    }

    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        self.task.take().unwrap().await.unwrap();
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub(crate) fn set_mode(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Returns when the server has taken all that this connection sent before: any answer will do.
pub(crate) async fn settle(bus: &Bus) {
    bus.request("nobody.is.here".into(), None, "".into(), LIMIT).await.unwrap_err();
}
