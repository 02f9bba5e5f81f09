//! Attacks on an agent by whoever can publish to it: each command by somebody who may not give it, and each way to make a good
//! signature stand for something else. After each of them files, processes and ports of agent and server are as they were.

use async_nats::HeaderMap;
use bus::Client;
use e2e::witness::Witness;
use e2e::world::{self, PATIENCE};
use jiff::{SignedDuration, Timestamp};
use nkeys::KeyPair;
use protocol::command::{Command, Role, Spec};
use protocol::envelope::{HEADER_KEY, HEADER_SIGNATURE, Outcome, Reply};
use protocol::error::ErrorCode;
use protocol::ids::{AgentId, RequestId};
use protocol::job::JobState;
use protocol::params::*;
use protocol::signature;
use protocol::subject::Subject;
use serde_json::{Value, json};
use testkit::agent::{Agent, AgentOptions};
use testkit::mysqld::{Mysqld, MysqldOptions};
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;

use crate::published;

const ROLES: [(Role, &str); 4] =
    [(Role::Read, "read"), (Role::Operate, "operate"), (Role::Seed, "seed"), (Role::Destroy, "destroy")];

/// What only those may read who may run a command of the host.
const PRINTED: &str = "printed-for-operators";
/// What only those may read who may copy the data.
const ROWS: &str = "rows of a customer, which no log begins with";

/// An agent that takes signed commands only, beside its server.
struct Target {
    agent: Agent,
    db: Mysqld,
    client: Client,
    /// A key with all roles.
    master: KeyPair,
    /// A key with all roles but this one.
    without: Vec<(Role, KeyPair)>,
    before: Witness,
    tried: usize,
    _nats: NatsServer,
}

/// A request as it travels.
struct Shot {
    subject: Subject,
    body: Vec<u8>,
    headers: Option<HeaderMap>,
}

fn signed(key: &KeyPair, subject: Subject, body: Vec<u8>) -> Shot {
    let signature = signature::sign(key, &subject, &body).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(HEADER_KEY, key.public_key().as_str());
    headers.insert(HEADER_SIGNATURE, signature.as_str());
    Shot { subject, body, headers: Some(headers) }
}

impl Target {
    async fn start() -> Self {
        let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
        let mut db = Mysqld::start(MysqldOptions::default()).await.unwrap();
        db.exec("CREATE DATABASE shop").await.unwrap();
        db.hand_over();
        let master = KeyPair::new_user();
        let without: Vec<_> = ROLES.iter().map(|(role, _)| (*role, KeyPair::new_user())).collect();
        let mut options = AgentOptions::new("db1", &nats.url());
        options.mysql(&db).snapshots("directory", &db.base().join("snapshots"));
        options.set("auth.accept_unsigned", false).set("log.level", "error");
        options.set("custom.show.argv", vec!["/bin/echo".to_owned(), PRINTED.to_owned()]);
        options.set("custom.fail.argv", vec!["/bin/ls".to_owned(), format!("/no/such/{PRINTED}")]);
        options.trust(&master.public_key(), "master", &ROLES.map(|(_, name)| name));
        for (role, key) in &without {
            let names: Vec<&str> =
                ROLES.iter().filter(|(other, _)| other != role).map(|(_, name)| *name).collect();
            options.trust(&key.public_key(), "one role less", &names);
        }
        let agent = Agent::start(options).unwrap();
        let bus = world::client(&nats.url()).await.bus().clone();
        let signer = KeyPair::from_seed(&master.seed().unwrap()).unwrap();
        let client = Client::new(bus, Some(signer), "master");
        world::serving(&client, agent.id()).await;
        let before = Witness::look(&agent, &db);
        Self { agent, db, client, master, without, before, tried: 0, _nats: nats }
    }

    fn subject(&self, command: &str) -> Subject {
        Subject::Command { agent: self.agent.id().clone(), command: command.to_owned() }
    }

    /// Fails unless it is refused with that code, and all is as it was.
    async fn refuses(&mut self, who: &str, shot: Shot, code: ErrorCode) {
        let subject = shot.subject.to_string();
        let way = format!("{who}: {subject}");
        let reply = self.client.bus().request(subject, shot.headers, shot.body.into(), PATIENCE).await;
        let reply: Reply = serde_json::from_slice(&reply.unwrap().payload).unwrap();
        match reply.outcome {
            Outcome::Error(error) => assert_eq!(error.code, code, "{way}: {}", error.message),
            Outcome::Result(result) => panic!("{way}: done, {result}"),
        }
        self.before.still_holds(&self.agent, &self.db, &way).await;
        self.tried += 1;
    }

    async fn no_job_was_begun(&self) {
        let list = JobsListParams { limit: 300, unfinished: false };
        let jobs = self.client.call(self.agent.id(), list, &Default::default()).await.unwrap();
        assert!(jobs.is_empty(), "{jobs:?}");
    }
}

/// A valid request of the command, from its published example, that lives for an hour.
fn request(spec: &Spec) -> Value {
    let mut request = published::read(&format!("examples/{}.json", spec.name))["request"].clone();
    request["id"] = json!(RequestId::generate());
    request["deadline"] = json!(Timestamp::now().checked_add(SignedDuration::from_hours(1)).unwrap());
    request
}

fn spec(name: &str) -> &'static Spec {
    Command::SPECS.iter().find(|spec| spec.name == name).unwrap()
}

/// Two for each command: without any signature, and with a good one of a key that has every role but the one that it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_command_is_refused_to_whoever_may_not_give_it() {
    let mut target = Target::start().await;
    for spec in Command::SPECS {
        let body = request(spec).to_string().into_bytes();
        let unsigned = Shot { subject: target.subject(spec.name), body, headers: None };
        target.refuses("nobody", unsigned, ErrorCode::Unauthenticated).await;

        let body = request(spec).to_string().into_bytes();
        let lacking = target.without.iter().position(|(role, _)| *role == spec.role).unwrap();
        let shot = signed(&target.without[lacking].1, target.subject(spec.name), body);
        target.refuses("a key without the role", shot, ErrorCode::Forbidden).await;
    }
    target.no_job_was_begun().await;
    assert_eq!(target.tried, 2 * Command::SPECS.len());
    assert!(target.tried >= 60, "{}", target.tried);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_signature_stands_for_nothing_else() {
    let mut target = Target::start().await;
    let order = spec("snapshot.create");
    let (here, body) = (target.subject(order.name), request(order).to_string().into_bytes());

    // A key that nobody knows, under its own name and under the master's.
    let stranger = KeyPair::new_user();
    let shot = signed(&stranger, here.clone(), body.clone());
    target.refuses("a stranger's key", shot, ErrorCode::Unauthenticated).await;
    let mut shot = signed(&stranger, here.clone(), body.clone());
    shot.headers.as_mut().unwrap().insert(HEADER_KEY, target.master.public_key().as_str());
    target.refuses("a stranger under the master's name", shot, ErrorCode::Unauthenticated).await;

    // What was signed for another host, another command, or other parameters.
    let elsewhere =
        Subject::Command { agent: "db2".parse::<AgentId>().unwrap(), command: order.name.to_owned() };
    let shot = Shot { subject: here.clone(), ..signed(&target.master, elsewhere, body.clone()) };
    target.refuses("a command for another host", shot, ErrorCode::Unauthenticated).await;
    let shot =
        Shot { subject: here.clone(), ..signed(&target.master, target.subject("agent.info"), body.clone()) };
    target.refuses("another command", shot, ErrorCode::Unauthenticated).await;
    let harmless = request(spec("agent.info")).to_string().into_bytes();
    let shot = Shot {
        subject: here.clone(),
        ..signed(&target.master, target.subject("agent.info"), harmless.clone())
    };
    target.refuses("a read as an order", shot, ErrorCode::BadRequest).await;
    let mut other = request(order);
    other["params"]["keep_s"] = json!(1);
    let shot =
        Shot { body: other.to_string().into_bytes(), ..signed(&target.master, here.clone(), body.clone()) };
    target.refuses("other parameters", shot, ErrorCode::Unauthenticated).await;
    let mut shot = signed(&target.master, here.clone(), body.clone());
    shot.body.push(b' ');
    target.refuses("a space more", shot, ErrorCode::Unauthenticated).await;
    let mut shot = signed(&target.master, here.clone(), body.clone());
    shot.headers.as_mut().unwrap().insert(HEADER_SIGNATURE, "not base64url!");
    target.refuses("no signature at all", shot, ErrorCode::Unauthenticated).await;

    // What is right, and too old.
    let mut old = request(order);
    old["deadline"] = json!(Timestamp::now().checked_sub(SignedDuration::from_secs(1)).unwrap());
    let shot = signed(&target.master, here.clone(), old.to_string().into_bytes());
    target.refuses("a captured command, later", shot, ErrorCode::Expired).await;

    // The name in the body is not that of the subject.
    let shot = signed(&target.master, here, harmless);
    target.refuses("two names of commands", shot, ErrorCode::BadRequest).await;
    target.no_job_was_begun().await;
}

/// Attacker: a key that may look at jobs, after rows that somebody applies and what the host's own commands print.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_only_look_reads_no_rows_and_no_output_in_jobs() {
    let target = Target::start().await;
    let (host, options) = (target.agent.id().clone(), bus::CallOptions::default());
    let (role, reader) = &target.without[1];
    assert_eq!(*role, Role::Operate);
    let reader = KeyPair::from_seed(&reader.seed().unwrap()).unwrap();
    let reader = Client::new(target.client.bus().clone(), Some(reader), "reader");
    let content = data_encoding::BASE64.encode(ROWS.as_bytes());
    let rows = BinlogApplyParams { content: Some(content.clone()), upload: None };
    let named = |name: &str| CustomRunParams { name: name.to_owned() };
    let begun = [
        target.client.call(&host, rows, &options).await.unwrap().job,
        target.client.call(&host, named("show"), &options).await.unwrap().job,
        target.client.call(&host, named("fail"), &options).await.unwrap().job,
    ];
    for (job, state) in begun.into_iter().zip([JobState::Failed, JobState::Succeeded, JobState::Failed]) {
        let view = poll::until_async(PATIENCE, "the job's end", || async {
            let view = target.client.call(&host, JobsShowParams { job }, &options).await.ok()?;
            (view.finished_at.is_some()).then_some(view)
        })
        .await;
        assert_eq!(view.state, state, "{:?}", view.error);
        let seen = json!([
            reader.call(&host, JobsShowParams { job }, &options).await.unwrap(),
            reader.call(&host, JobsRecordParams { job, from: 0 }, &options).await.unwrap(),
            reader.call(&host, JobsListParams { limit: 9, unfinished: false }, &options).await.unwrap(),
        ])
        .to_string();
        for secret in [content.as_str(), ROWS, PRINTED] {
            assert!(!seen.contains(secret), "{secret:?} in {seen}");
        }
        let shown = json!(view.result).to_string();
        assert_eq!(shown.contains(PRINTED), view.kind == "custom.run", "who may run it reads it: {shown}");
    }
}
