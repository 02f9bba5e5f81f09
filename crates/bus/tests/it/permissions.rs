//! The generated server configuration holds against each attack that a naive one lets through.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use bus::config::Credentials;
use bus::events::{ensure_event_stream, event_stream_limits};
use bus::permissions::{
    AgentUser, BusUsers, NamedUser, Profile, STRICT_JETSTREAM_PREFIX, agent_inbox, server_config, user_inbox,
};
use bus::store::{self, Giver, Taker, Way};
use bus::{Answer, Authority, AuthorityConfig, Bus, BusConfig, BusError, CallOptions, Client, TrustedKey};
use futures_util::{FutureExt, StreamExt};
use nkeys::KeyPair;
use protocol::command::Role;
use protocol::event::{AgentStopped, EventData};
use protocol::ids::JobId;
use protocol::params::{AgentInfoParams, MysqlStartParams};
use serde_json::json;
use tempfile::TempDir;
use testkit::nats::NatsServer;
use tokio_util::sync::CancellationToken;

use crate::events::{all, outbox};
use crate::kit::*;

on_each_server!(the_simple_profile_holds, the_strict_profile_holds);

pub(crate) struct World {
    pub(crate) server: NatsServer,
    pub(crate) dir: TempDir,
    pub(crate) controller: KeyPair,
    pub(crate) profile: Profile,
}

impl World {
    fn new(program: Option<PathBuf>, profile: Profile) -> Self {
        Self::with(program, profile, "")
    }

    /// With more lines for the server's configuration.
    fn with(program: Option<PathBuf>, profile: Profile, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = |name: &str| {
            let pair = KeyPair::new_user();
            let path = dir.path().join(name);
            std::fs::write(&path, pair.seed().unwrap()).unwrap();
            set_mode(&path, 0o600);
            pair
        };
        let agent_user = |name: &str| AgentUser { agent: agent(name), key: key(name).public_key() };
        let controller = key("ctl");
        let users = BusUsers {
            agents: vec![agent_user("db1"), agent_user("db2")],
            controllers: vec![NamedUser { name: "ctl".into(), key: controller.public_key() }],
            auditors: vec![NamedUser { name: "audit".into(), key: key("audit").public_key() }],
            domain: None,
        };
        let server = start_with(program, &format!("{more}{}", server_config(&users, profile).unwrap()));
        Self { server, dir, controller, profile }
    }

    pub(crate) async fn bus(&self, name: &str) -> Bus {
        let (creds, inbox) = (format!("{name}.creds"), format!("{name}.inbox"));
        let (credentials, inbox) = match std::fs::read_to_string(self.dir.path().join(inbox)) {
            Ok(inbox) => (Credentials::CredsFile(self.dir.path().join(creds)), inbox),
            Err(_) if name.starts_with("db") => {
                (Credentials::NkeyFile(self.dir.path().join(name)), agent_inbox(&agent(name)))
            }
            Err(_) => (Credentials::NkeyFile(self.dir.path().join(name)), user_inbox(name)),
        };
        let config = BusConfig {
            credentials: Some(credentials),
            inbox_prefix: Some(inbox),
            jetstream_prefix: (self.profile == Profile::Strict && name.starts_with("db"))
                .then(|| STRICT_JETSTREAM_PREFIX.to_owned()),
            ..config(&self.server)
        };
        let bus = Bus::connect(&config, name).await.unwrap();
        bus.connected(LIMIT).await.unwrap();
        bus
    }

    fn authority(&self) -> Authority {
        let trusted = TrustedKey {
            key: self.controller.public_key(),
            name: "ctl".into(),
            roles: vec![Role::Read, Role::Operate],
        };
        Authority::new(AuthorityConfig { accept_unsigned: false, trusted: vec![trusted] }).unwrap()
    }
}

fn handler(name: &str) -> TestHandler {
    TestHandler::new(&agent(name), |_| Ok(json!({"job": JobId::generate()})))
}

pub(crate) fn options() -> CallOptions {
    CallOptions { timeout: LIMIT, ..CallOptions::default() }
}

/// The attacks that both profiles refuse, by db1 against db2.
pub(crate) async fn assert_kept_apart(world: &World, db1: &Bus, client: &Client) {
    let forbidden = [
        "orch.v1.cmd.db2.mysql.start",
        "orch.v1.dcmd.db2.mysql.start",
        "orch.v1.hb.db2",
        "orch.v1.evt.db2.agent.started",
        "orch.v1.job.db2.x.progress",
        // db1 may ask db2 in its own name, and nothing else about another's seed.
        "orch.v1.seed.db2.db3.x.up",
        "orch.v1.seed.db1.db2.x.up",
        "$O.orch-db2.C.nuid",
        "$O.orch-db2.M.name",
        "$JS.API.STREAM.CREATE.OBJ_orch-db1",
        "$JS.API.STREAM.UPDATE.OBJ_orch-db1",
        "$JS.API.STREAM.INFO.OBJ_orch-db2",
        "$JS.API.STREAM.PURGE.OBJ_orch-db2",
        "$JS.API.STREAM.DELETE.OBJ_orch-db2",
        "$JS.API.STREAM.MSG.GET.OBJ_orch-db1",
        "$JS.API.STREAM.MSG.GET.OBJ_orch-db2",
        "$JS.API.DIRECT.GET.OBJ_orch-db2",
        "$JS.API.CONSUMER.CREATE.OBJ_orch-db2.orch-db1",
        "$JS.API.CONSUMER.DURABLE.CREATE.OBJ_orch-db2.orch-db1",
        "$JS.API.CONSUMER.DELETE.OBJ_orch-db2.orch-db1",
        "$JS.API.CONSUMER.MSG.NEXT.OBJ_orch-db2.orch-db3",
        "$JS.API.CONSUMER.INFO.OBJ_orch-db2.orch-db3",
        "$JS.API.STREAM.PURGE.orch_events",
        "$JS.API.STREAM.CREATE.mine",
        "$JS.API.STREAM.MSG.GET.orch_events",
        "$JS.API.DIRECT.GET.orch_events",
        "$JS.API.DIRECT.GET.orch_events.orch.v1.evt.db2.agent.started",
        "$JS.API.CONSUMER.CREATE.orch_events",
        "$JS.API.CONSUMER.DURABLE.CREATE.orch_commands.agent-db2",
        "$JS.API.CONSUMER.MSG.NEXT.orch_commands.agent-db2",
        "$JS.ACK.orch_commands.agent-db2.1.1.1.1.1",
        "$O.bucket.C.object",
        "$KV.bucket.key",
        "_INBOX_USER_ctl.guess",
    ];
    for subject in forbidden {
        let error = db1.request(subject.into(), None, "{}".into(), LIMIT).await.unwrap_err();
        assert!(matches!(error, BusError::NotPermitted { .. }), "{subject}: {error}");
    }
    assert_reads_only_its_own_events(world, db1).await;
    // Listening to another's commands and answers.
    let mut heard = Vec::new();
    for subject in [
        "orch.v1.cmd.db2.>",
        "orch.v1.cmd.>",
        ">",
        "_INBOX_USER_ctl.>",
        "orch.v1.evt.>",
        "orch.v1.seed.db2.>",
        "$O.>",
    ] {
        heard.push(db1.subscribe(subject.into()).await.unwrap());
    }
    settle(db1).await;
    client.call(&agent("db2"), MysqlStartParams {}, &options()).await.unwrap();
    settle(db1).await;
    for subscriber in &mut heard {
        assert!(subscriber.next().now_or_never().flatten().is_none(), "db1 must hear nothing of db2's");
    }
    let log = world.server.log();
    assert!(log.contains("Subscription Violation"), "{log}");
    // An auditor sends no commands.
    let audit = world.bus("audit").await;
    let error =
        audit.request("orch.v1.cmd.db2.mysql.start".into(), None, "{}".into(), LIMIT).await.unwrap_err();
    assert!(matches!(error, BusError::NotPermitted { .. }), "{error}");
}

/// The right to ask for its newest event reads nobody else's, whatever the question says beside its subject.
async fn assert_reads_only_its_own_events(world: &World, db1: &Bus) {
    let db2 = world.bus("db2").await;
    let (own, others) = ("orch.v1.evt.db1.agent.stopped", "orch.v1.evt.db2.agent.stopped");
    for (bus, subject) in [(db1, own), (&db2, others)] {
        bus.request(subject.into(), None, "{}".into(), LIMIT).await.unwrap();
    }
    let call = format!("{}.DIRECT.GET.orch_events.{own}", db1.config().jetstream_api());
    for question in [
        String::new(),
        r#"{"seq":2}"#.into(),
        r#"{"seq":1,"batch":10}"#.into(),
        format!(r#"{{"last_by_subj":"{others}"}}"#),
        r#"{"seq":1,"next_by_subj":"orch.v1.evt.>"}"#.into(),
        r#"{"multi_last":["orch.v1.evt.>"]}"#.into(),
    ] {
        let answer = db1.request(call.clone(), None, question.clone().into(), LIMIT).await.unwrap();
        let subject = answer.headers.and_then(|headers| headers.get("Nats-Subject").map(ToString::to_string));
        assert!(subject.as_ref().is_none_or(|subject| subject == own), "{question}: {subject:?}");
        assert!(!question.is_empty() || subject.is_some(), "its own is told");
    }
}

/// Commands, heartbeats and events of a good agent work; gives db1's connection and a client.
pub(crate) async fn assert_works(world: &World, db1: &Bus) -> Client {
    let ctl = world.bus("ctl").await;
    let client =
        Client::new(ctl.clone(), Some(KeyPair::from_seed(&world.controller.seed().unwrap()).unwrap()), "ctl");
    ensure_event_stream(&ctl, &event_stream_limits()).await.unwrap();
    let mut heartbeats = client.watch_heartbeats().await.unwrap();
    settle(&ctl).await;
    db1.publish("orch.v1.hb.db1".into(), None, serde_json::to_vec(&heartbeat(&agent("db1"))).unwrap().into())
        .await
        .unwrap();
    assert_eq!(tokio::time::timeout(LIMIT, heartbeats.next()).await.unwrap().unwrap().agent, agent("db1"));
    let spool = outbox(&world.dir.path().join("spool"), "db1");
    let shutdown = CancellationToken::new();
    let sender = spool.spawn_sender(db1.clone(), shutdown.clone());
    spool.publish(EventData::AgentStopped(AgentStopped { reason: "x".into() })).await.unwrap();
    assert!(spool.flush(LIMIT).await, "the event must be acknowledged");
    shutdown.cancel();
    sender.await.unwrap();
    assert_eq!(all(&world.bus("audit").await).await.len(), 1, "an auditor reads the events");
    let seen = bus::status::look(&world.bus("audit").await).await.unwrap();
    let lacks: Vec<_> = seen.missing_rights.iter().map(|right| right.subject.as_str()).collect();
    assert_eq!(lacks, ["$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.orch_commands"]);
    assert_eq!(seen.streams[0].name, bus::events::EVENT_STREAM, "what may be seen is");
    let seen = bus::status::look(&ctl).await.unwrap();
    assert!(seen.problems.is_empty() && seen.missing_rights.is_empty(), "{seen:?}");
    client
}

async fn the_simple_profile_holds(program: Option<PathBuf>) {
    let world = World::new(program, Profile::Simple);
    let (db1, db2) = (world.bus("db1").await, world.bus("db2").await);
    let client = assert_works(&world, &db1).await;
    let error = client.call(&agent("db2"), AgentInfoParams {}, &options()).await.unwrap_err();
    assert!(matches!(error, BusError::NoAgent(_)), "{error}");
    let victim = queued_commands_run(&world, &client, &db2, 1).await;
    assert_data_go_through_the_store(&world).await;
    assert_kept_apart(&world, &db1, &client).await;
    assert_eq!(victim.handler.calls(), 2);

    // What permissions do not stop: the server delivers an acknowledgement to the reply subject, db2's command subject.
    let spying = world.bus("db2").await;
    let mut spy = spying.subscribe("orch.v1.cmd.db2.>".into()).await.unwrap();
    settle(&spying).await;
    let attack = db1.client().publish_with_reply(
        "orch.v1.evt.db1.x",
        "orch.v1.cmd.db2.mysql.start",
        r#"{"command":"mysql.start"}"#.into(),
    );
    attack.await.unwrap();
    tokio::time::timeout(LIMIT, spy.next()).await.expect("the hole is there, or this test may go").unwrap();
    client.call(&agent("db2"), MysqlStartParams {}, &options()).await.unwrap();
    assert_eq!(victim.handler.calls(), 3, "what came through the hole was not run");
}

/// A command that was left for an absent agent is acknowledged, so that it does not come again, in the form that newer servers ask for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_of_the_newer_form_are_permitted() {
    for profile in [Profile::Simple, Profile::Strict] {
        let Some(program) = testkit::nats::newest_program() else {
            testkit::skip!(odd: "scripts/nats-newest was not run");
        };
        let world = World::with(Some(program), profile, "feature_flags { js_ack_fc_v2: true }\n");
        let key = KeyPair::from_seed(&world.controller.seed().unwrap()).unwrap();
        let client = Client::new(world.bus("ctl").await, Some(key), "ctl");
        let db2 = world.bus("db2").await;
        queued_commands_run(&world, &client, &db2, 3).await;
        assert!(!world.server.log().contains("Violation"), "{}", world.server.log());
    }
}

/// Commands are left for db2, it starts, runs each once and acknowledges them.
pub(crate) async fn queued_commands_run(
    world: &World,
    client: &Client,
    db2: &Bus,
    count: usize,
) -> TestAgent {
    let queue = CallOptions { queue: Some(LIMIT * 100), ..options() };
    for _ in 0..count {
        let queued = client.call_or_queue(&agent("db2"), MysqlStartParams {}, &queue).await.unwrap();
        assert!(matches!(queued, Answer::Queued(_)));
    }
    let victim = start_agent(world, db2).await;
    let ctl = world.bus("ctl").await;
    testkit::poll::until_async(LIMIT, "the queued commands to be acknowledged", || async {
        let mut stream = ctl.jetstream().get_stream("orch_commands").await.ok()?;
        (stream.info().await.ok()?.state.messages == 0).then_some(())
    })
    .await;
    assert_eq!(victim.handler.calls(), count);
    victim
}

async fn the_strict_profile_holds(program: Option<PathBuf>) {
    let world = World::new(program, Profile::Strict);
    let (db1, db2) = (world.bus("db1").await, world.bus("db2").await);
    let client = assert_works(&world, &db1).await;
    let victim = queued_commands_run(&world, &client, &db2, 1).await;
    assert_data_go_through_the_store(&world).await;
    let fleet = client.fleet(bus::Window::default()).await.unwrap();
    assert_eq!(fleet.iter().map(|beat| beat.agent.as_str()).collect::<Vec<_>>(), ["db2"]);
    let ping = world.bus("ctl").await.request("$SRV.PING".into(), None, "".into(), LIMIT).await.unwrap();
    let ping: serde_json::Value = serde_json::from_slice(&ping.payload).unwrap();
    assert_eq!(ping["name"], "orch-agent");
    for question in [protocol::subject::ASK_FLEET, "$SRV.PING"] {
        let error = db1.request(question.into(), None, "".into(), LIMIT).await.unwrap_err();
        assert!(matches!(error, BusError::NotPermitted { .. }), "an agent asks nobody: {error}");
    }
    assert_kept_apart(&world, &db1, &client).await;
    let spying = world.bus("db2").await;
    let mut spy = spying.subscribe("orch.v1.cmd.db2.>".into()).await.unwrap();
    settle(&spying).await;
    db1.client()
        .publish_with_reply("orch.v1.evt.db1.x", "orch.v1.cmd.db2.mysql.start", "{}".into())
        .await
        .unwrap();
    settle(&db1).await;
    client.call(&agent("db2"), MysqlStartParams {}, &options()).await.unwrap();
    let first = tokio::time::timeout(LIMIT, spy.next()).await.unwrap().unwrap();
    assert!(first.headers.is_some(), "the first that db2 hears is the controller's signed command");
    assert_eq!(victim.handler.calls(), 3);
}

/// The agent db2 as it runs with these permissions: it cannot ask itself whether it is ready.
pub(crate) async fn start_agent(world: &World, bus: &Bus) -> TestAgent {
    let asker = world.bus("ctl").await;
    TestAgent::start_asked_by(bus, &asker, &agent("db2"), &world.dir, handler("db2"), world.authority()).await
}

/// db2 gives to db1 through the object store, in a bucket that the controller has made; db1 cannot read one made for another.
pub(crate) async fn assert_data_go_through_the_store(world: &World) {
    let ctl = world.bus("ctl").await;
    let (donor, recipient) = (agent("db2"), agent("db1"));
    let way = Way {
        donor: donor.clone(),
        recipient: recipient.clone(),
        job: JobId::generate(),
        window_bytes: 8 << 20,
    };
    let len = 12 << 20;
    let service = crate::store::service(len).await;
    let refused = Giver::open(world.bus("db2").await, way.clone(), service).await.unwrap_err();
    assert!(matches!(refused, BusError::NoBucket { .. }), "{refused:?}");
    store::make_bucket(&ctl, &donor, &recipient, way.window_bytes).await.unwrap();
    let giver = Giver::open(world.bus("db2").await, way.clone(), service).await.unwrap();
    let taker = Taker::open(world.bus("db1").await, way.clone()).await.unwrap();
    assert_eq!(crate::store::ask(&taker, len, &AtomicU64::new(0)).await, len);
    assert_eq!(taker.trouble(), None);
    drop(taker);
    // Somebody removes the bucket, and neither agent may make another: who waits for data learns why none come.
    store::remove_bucket(&ctl, &donor).await.unwrap();
    let taker = Taker::open(world.bus("db1").await, way).await.unwrap();
    testkit::poll::until_async(LIMIT, "the bucket to be missed", || async {
        assert_eq!(crate::store::ask(&taker, len, &AtomicU64::new(0)).await, 0);
        taker.trouble().filter(|why| why.contains(&store::bucket_of(&donor)) && why.contains("controller"))
    })
    .await;
    drop(taker);
    giver.close().await.unwrap();
    assert!(store::buckets(&ctl).await.unwrap().is_empty(), "the donor removes its bucket");
}
