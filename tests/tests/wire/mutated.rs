//! Every command gets a thousand requests that were once valid: each is answered with a typed error or changes nothing,
//! and the agent, a real process beside a real MariaDB, lives on within bounds.
//!
//! The seed is fixed; `OA_MUTATION_SEED=4711` takes another one, and is printed with a failure.

use std::sync::Arc;

use async_nats::HeaderMap;
use bus::Client;
use e2e::tree;
use e2e::world::{self, PATIENCE};
use nkeys::KeyPair;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use protocol::command::{Command, Spec};
use protocol::envelope::{HEADER_KEY, HEADER_SIGNATURE, Outcome, Reply, Request};
use protocol::error::ErrorCode;
use protocol::ids::{AgentId, RequestId};
use protocol::job::JobState;
use protocol::params::JobsListParams;
use protocol::signature;
use protocol::subject::Subject;
use serde_json::{Value, json};
use testkit::agent::{Agent, AgentOptions};
use testkit::mysqld::{Mysqld, MysqldOptions};
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::published;

const REQUESTS: usize = 1_000;
/// Where signatures are demanded most end at the signature: fewer of them tell the same.
const SIGNED_REQUESTS: usize = 250;
const IN_FLIGHT: usize = 32;
/// What the agent may hold more after all of it, KiB.
const GROWTH_KIB: u64 = 96 << 10;

/// Commands that take no name of anything: a valid one is no mutation but an order.
const ORDERS: [&str; 5] =
    ["snapshot.create", "mysql.start", "mysql.stop", "mysql.restart", "datadir.post-copy"];

/// Values that a hostile client may put anywhere. `canary` is a file that no request may make.
fn hostile(canary: &str) -> BoxedStrategy<Value> {
    let strings = [
        "",
        ".",
        "..",
        "../../../../etc/passwd",
        "/etc/shadow",
        "/",
        "-rf",
        "--help",
        "--defaults-file=/etc/shadow",
        "--init-command=DROP DATABASE shop",
        "a\u{0}b",
        "\r\n+OK",
        "'; DROP DATABASE shop; --",
        "%s%n%x",
        "*",
        ">",
        "orch.v1.cmd.>",
        "\u{202e}\u{feff}",
    ];
    let mut strings: Vec<String> = strings.map(str::to_owned).to_vec();
    strings.extend([
        format!("$(touch {canary})"),
        format!("`touch {canary}`"),
        format!("; touch {canary} #"),
        format!("| touch {canary}"),
        format!("x\n touch {canary}"),
        canary.to_owned(),
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![json!(u64::MAX), json!(i64::MIN), json!(1e308), json!(-0.0)]),
        prop::sample::select(strings).prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        (1_000..100_000_usize).prop_map(|length| json!("x".repeat(length))),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-z_]{1,12}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
    .boxed()
}

/// What is done to a request.
#[derive(Debug, Clone)]
enum Mutation {
    Replace(prop::sample::Index, Value),
    Remove(prop::sample::Index),
    Add(prop::sample::Index, String, Value),
    Nest(prop::sample::Index, usize),
    Flip(Vec<(prop::sample::Index, u8)>),
    Insert(prop::sample::Index, Vec<u8>),
    Cut(prop::sample::Index),
}

fn mutation(canary: &str, names: Vec<String>) -> impl Strategy<Value = Vec<Mutation>> {
    let index = any::<prop::sample::Index>;
    let bytes = prop::sample::select(vec![vec![0xff, 0xfe], vec![0], vec![0xc0, 0xaf], b"1e999".to_vec()]);
    let one = prop_oneof![
        6 => (index(), hostile(canary)).prop_map(|(at, value)| Mutation::Replace(at, value)),
        2 => index().prop_map(Mutation::Remove),
        2 => (index(), prop::sample::select(names), hostile(canary))
            .prop_map(|(at, name, value)| Mutation::Add(at, name, value)),
        1 => (index(), 50..2_000_usize).prop_map(|(at, depth)| Mutation::Nest(at, depth)),
        1 => prop::collection::vec((index(), any::<u8>()), 1..4).prop_map(Mutation::Flip),
        1 => (index(), bytes).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        1 => index().prop_map(Mutation::Cut),
    ];
    prop::collection::vec(one, 1..4)
}

/// All places of a JSON value, as pointers; its own first.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, inner)| {
            places(inner, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
        }),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, inner)| places(inner, &format!("{at}/{n}"), found));
        }
        _ => {}
    }
}

fn apply(request: &Value, mutations: &[Mutation]) -> Vec<u8> {
    let mut request = request.clone();
    let mut nested = None;
    for mutation in mutations {
        let mut found = Vec::new();
        places(&request, "", &mut found);
        let at = |index: &prop::sample::Index| found[index.index(found.len())].clone();
        match mutation {
            Mutation::Replace(index, value) => *request.pointer_mut(&at(index)).unwrap() = value.clone(),
            Mutation::Remove(index) => {
                let place = at(index);
                if let Some((parent, key)) = place.rsplit_once('/')
                    && let Some(Value::Object(map)) = request.pointer_mut(parent)
                {
                    map.remove(key);
                }
            }
            Mutation::Add(index, name, value) => {
                if let Some(Value::Object(map)) = request.pointer_mut(&at(index)) {
                    map.insert(name.clone(), value.clone());
                }
            }
            Mutation::Nest(index, depth) => {
                *request.pointer_mut(&at(index)).unwrap() = json!("@nested@");
                nested = Some(*depth);
            }
            Mutation::Flip(_) | Mutation::Insert(..) | Mutation::Cut(_) => {}
        }
    }
    let mut text = request.to_string();
    if let Some(depth) = nested {
        text = text.replace("\"@nested@\"", &format!("{}{}", "[".repeat(depth), "]".repeat(depth)));
    }
    let mut bytes = text.into_bytes();
    for mutation in mutations {
        match mutation {
            Mutation::Flip(flips) => flips.iter().for_each(|(at, byte)| {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
            }),
            Mutation::Insert(at, more) => {
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, more.iter().copied());
            }
            Mutation::Cut(at) => bytes.truncate(at.index(bytes.len() + 1)),
            _ => {}
        }
    }
    bytes
}

/// A valid request for the command, from its published example.
fn valid(spec: &Spec) -> Value {
    let mut request = published::read(&format!("examples/{}.json", spec.name))["request"].clone();
    let deadline = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_hours(1)).unwrap();
    request["deadline"] = json!(deadline);
    match spec.name {
        "seed.start" => request["params"]["options"]["stop_mysql"] = json!(false),
        // What the example applies is a log: a mutation elsewhere would leave it one.
        "binlog.apply" => request["params"]["content"] = json!("/mJpbg=="),
        _ => {}
    }
    request
}

/// True when the request asks for something that it may ask for.
fn is_an_order(spec: &Spec, bytes: &[u8]) -> bool {
    ORDERS.contains(&spec.name)
        && Request::parse(bytes).is_ok_and(|r| Command::parse(&r.command, r.params).is_ok())
}

/// Names that stand anywhere in the command's schema, and one that does not.
fn names_of(spec: &Spec) -> Vec<String> {
    let mut names = vec!["extra".to_owned(), "__proto__".to_owned()];
    let mut left = vec![published::read(&published::of(spec.name))["params"].clone()];
    while let Some(value) = left.pop() {
        match value {
            Value::Object(map) => {
                if let Some(Value::Object(properties)) = map.get("properties") {
                    names.extend(properties.keys().cloned());
                }
                left.extend(map.into_iter().map(|(_, inner)| inner));
            }
            Value::Array(items) => left.extend(items),
            _ => {}
        }
    }
    names
}

/// An agent beside its MariaDB, and who asks it.
struct Target {
    agent: Agent,
    db: Mysqld,
    client: Client,
    key: Arc<KeyPair>,
    signed: bool,
    canary: String,
    _dir: tempfile::TempDir,
    _nats: NatsServer,
}

impl Target {
    async fn start(signed: bool) -> Self {
        let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
        let mut db = Mysqld::start(MysqldOptions::default()).await.unwrap();
        db.exec("CREATE DATABASE shop").await.unwrap();
        db.exec("CREATE TABLE shop.t ENGINE=InnoDB SELECT seq FROM shop.seq_1_to_1000").await.unwrap();
        db.hand_over();
        let key = KeyPair::new_user();
        let dir = tempfile::tempdir().unwrap();
        let mut options = AgentOptions::new("db1", &nats.url());
        options.mysql(&db).snapshots("directory", &db.base().join("snapshots"));
        options.trust(&key.public_key(), "tester", &["read", "operate", "seed", "destroy"]);
        options.set("auth.accept_unsigned", !signed).set("log.level", "error");
        let agent = Agent::start(options).unwrap();
        let bus = world::client(&nats.url()).await.bus().clone();
        let signer = KeyPair::from_seed(&key.seed().unwrap()).unwrap();
        let client = Client::new(bus, Some(signer), "tester");
        world::serving(&client, agent.id()).await;
        let canary = dir.path().join("canary").display().to_string();
        Self { agent, db, client, key: Arc::new(key), signed, canary, _dir: dir, _nats: nats }
    }

    /// The headers of one request: good ones, and where commands must be signed also none, strange and foreign ones.
    fn headers(&self, number: usize, subject: &Subject, body: &[u8]) -> (Option<HeaderMap>, bool) {
        let mut headers = HeaderMap::new();
        let (key, signature, good) = match (self.signed, number % 4) {
            (false, _) | (true, 1) => return (None, !self.signed),
            (true, 0) => (self.key.public_key(), signature::sign(&self.key, subject, body).unwrap(), true),
            (true, 2) => {
                (self.key.public_key(), signature::sign(&self.key, subject, b"other").unwrap(), false)
            }
            _ => {
                let stranger = KeyPair::new_user();
                let signature = signature::sign(&stranger, subject, body).unwrap();
                let key = if number % 8 == 3 { self.key.public_key() } else { stranger.public_key() };
                (key, signature, false)
            }
        };
        headers.insert(HEADER_KEY, key.as_str());
        headers.insert(HEADER_SIGNATURE, signature.as_str());
        (Some(headers), good)
    }

    /// Sends a thousand mutations of one command.
    async fn bombard(&self, spec: &'static Spec, runner: &mut TestRunner, seed: u64) {
        let request = valid(spec);
        let strategy = mutation(&self.canary, names_of(spec));
        let subject = Subject::Command { agent: self.agent.id().clone(), command: spec.name.to_owned() };
        let slots = Arc::new(Semaphore::new(IN_FLIGHT));
        let mut asking = JoinSet::new();
        let mut number = 0;
        while number < if self.signed { SIGNED_REQUESTS } else { REQUESTS } {
            let mut request = request.clone();
            request["id"] = json!(RequestId::generate());
            let bytes = apply(&request, &strategy.new_tree(runner).unwrap().current());
            let (headers, authentic) = self.headers(number, &subject, &bytes);
            if authentic && is_an_order(spec, &bytes) {
                continue;
            }
            number += 1;
            let slot = Arc::clone(&slots).acquire_owned().await.unwrap();
            let (bus, subject) = (self.client.bus().clone(), subject.to_string());
            asking.spawn(async move {
                let reply = bus.request(subject, headers, bytes.clone().into(), PATIENCE).await;
                drop(slot);
                let what = || format!("seed {seed}: {}", String::from_utf8_lossy(&bytes));
                let reply = reply.unwrap_or_else(|error| panic!("{error}: {}", what()));
                let reply: Reply = serde_json::from_slice(&reply.payload).unwrap();
                match reply.outcome {
                    Outcome::Result(_) => assert!(authentic, "taken unsigned: {}", what()),
                    Outcome::Error(error) => {
                        let known = !matches!(error.code, ErrorCode::Internal | ErrorCode::Unknown);
                        assert!(known && !error.message.is_empty(), "{error:?}: {}", what());
                    }
                }
            });
        }
        while let Some(done) = asking.join_next().await {
            done.unwrap();
        }
    }

    /// Fails unless host and server are as they were.
    async fn unharmed(&mut self, before: &Before) {
        let client = self.client.clone();
        let id: AgentId = self.agent.id().clone();
        let jobs = poll::until_async(PATIENCE, "the jobs that were begun to end", || async {
            let list = JobsListParams { limit: 300, unfinished: false };
            let jobs = client.call(&id, list, &Default::default()).await.ok()?;
            jobs.iter().all(|job| job.state.is_final()).then_some(jobs)
        })
        .await;
        let effective: Vec<_> = jobs.iter().filter(|job| job.state == JobState::Succeeded).collect();
        assert!(effective.is_empty(), "{effective:?}");
        assert!(self.agent.runs());
        assert!(!std::path::Path::new(&self.canary).exists(), "a shell or a path has been followed");
        assert_eq!(self.db.pid(), before.pid, "the server was touched");
        assert_eq!(self.db.scalar("CHECKSUM TABLE shop.t").await.ok(), before.checksum);
        assert_eq!(names(&self.db), before.names, "the datadir was touched");
        let snapshots = std::fs::read_dir(self.db.base().join("snapshots"));
        assert!(snapshots.map_or(0, |entries| entries.filter(|e| !is_hidden(e)).count()) == 0);
        let rss = self.agent.rss_kib().unwrap();
        println!("resident: {} KiB before, {rss} KiB after", before.rss_kib);
        assert!(rss < before.rss_kib + GROWTH_KIB, "{} KiB before, {rss} KiB after", before.rss_kib);
    }
}

fn is_hidden(entry: &std::io::Result<std::fs::DirEntry>) -> bool {
    entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with('.'))
}

/// What must not change.
struct Before {
    pid: Option<i32>,
    checksum: Option<String>,
    names: Vec<std::path::PathBuf>,
    rss_kib: u64,
}

fn names(db: &Mysqld) -> Vec<std::path::PathBuf> {
    tree::names(db.datadir()).into_keys().collect()
}

async fn a_thousand_of_each(signed: bool) {
    let seed = std::env::var("OA_MUTATION_SEED").map_or(20_261_123, |text| text.parse().unwrap());
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&u64::to_le_bytes(seed));
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut target = Target::start(signed).await;
    let before = Before {
        pid: target.db.pid(),
        checksum: target.db.scalar("CHECKSUM TABLE shop.t").await.ok(),
        names: names(&target.db),
        rss_kib: target.agent.rss_kib().unwrap(),
    };
    for spec in Command::SPECS {
        target.bombard(spec, &mut runner, seed).await;
    }
    target.unharmed(&before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_mutated_requests_of_each_command_do_no_harm() {
    a_thousand_of_each(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_requests_and_signatures_do_no_harm_where_they_must_be_signed() {
    a_thousand_of_each(true).await;
}
