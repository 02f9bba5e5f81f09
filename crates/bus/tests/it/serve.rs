//! Commands: what is run, what is refused and how, what a repeated one gets.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use bus::{Authority, AuthorityConfig, BusError, CallOptions, TrustedKey};
use jiff::Timestamp;
use nkeys::KeyPair;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use protocol::command::{Command, Role};
use protocol::envelope::{Outcome, Reply};
use protocol::error::{ErrorCode, WireError};
use protocol::ids::{JobId, RequestId};
use protocol::params::{JobsListParams, MysqlErrorLogParams, MysqlStartParams};
use protocol::signature;
use protocol::subject::Subject;
use serde_json::{Value, json};

use crate::kit::*;

on_each_server!(
    a_command_goes_there_and_back,
    each_bad_request_gets_its_typed_error,
    a_repeated_job_runs_once_also_across_a_restart,
    signatures_and_roles_decide,
    the_agent_is_a_micro_service,
    queries_do_not_wait_behind_changes,
);

fn options() -> CallOptions {
    CallOptions { timeout: LIMIT, ..CallOptions::default() }
}

fn answer(call: &bus::Incoming) -> Result<Value, WireError> {
    match &call.command {
        Command::MysqlErrorLog(params) if params.lines == 13 => {
            // Without the hook: printing a backtrace takes long on a busy machine.
            std::panic::resume_unwind(Box::new("a fault of the handler"))
        }
        Command::MysqlErrorLog(_) => Ok(json!(["one", "two"])),
        Command::JobsList(_) => Ok(json!([])),
        Command::MysqlStart(_) => Ok(json!({"job": JobId::generate()})),
        _ => Err(WireError::new(ErrorCode::NotFound, "not in this test")),
    }
}

fn lines(lines: u32) -> MysqlErrorLogParams {
    serde_json::from_value(json!({"lines": lines})).unwrap()
}

async fn a_command_goes_there_and_back(program: Option<PathBuf>) {
    let server = start(program);
    let dir = tempfile::tempdir().unwrap();
    let id = agent("db1.example.com:3307");
    let bus = connect(&server).await;
    let db1 = TestAgent::start(&bus, &id, &dir, TestHandler::new(&id, answer), Authority::accept_all()).await;
    let client = client(&server, None).await;
    let reply = client.call(&id, lines(2), &options()).await.unwrap();
    assert_eq!(reply, ["one", "two"]);
    let call = db1.handler.calls.lock().unwrap().pop().unwrap();
    assert_eq!(call.actor.name, "tester");

    let error = client.call(&id, lines(13), &options()).await.unwrap_err();
    assert!(matches!(&error, BusError::Agent(e) if e.code == ErrorCode::Internal), "{error}");
    client.call(&id, lines(2), &options()).await.unwrap();

    let began = std::time::Instant::now();
    let error = client.call(&agent("db2"), lines(2), &options()).await.unwrap_err();
    assert!(matches!(&error, BusError::NoAgent(who) if *who == agent("db2")), "{error}");
    assert!(began.elapsed() < LIMIT / 3, "nobody there is known at once");
    db1.stop().await;
    let error = client.call(&id, lines(2), &options()).await.unwrap_err();
    assert!(matches!(error, BusError::NoAgent(_)), "{error}");
}

/// Sends bytes as they are and gives the outcome.
async fn send(
    bus: &bus::Bus,
    subject: &str,
    headers: Option<HeaderMap>,
    body: impl Into<bytes::Bytes>,
) -> Outcome {
    let message = bus.request(subject.to_owned(), headers, body.into(), LIMIT).await.unwrap();
    serde_json::from_slice::<Reply>(&message.payload).unwrap().outcome
}

#[track_caller]
fn refused_as(outcome: &Outcome, code: ErrorCode) {
    assert!(matches!(outcome, Outcome::Error(error) if error.code == code), "not {code:?}: {outcome:?}");
}

fn body(command: &str, params: Value, in_seconds: i64) -> Vec<u8> {
    let deadline = Timestamp::from_second(Timestamp::now().as_second() + in_seconds).unwrap();
    let mut request = json!({"version": 1, "id": RequestId::generate(), "deadline": deadline, "actor": "tester",
                             "command": command});
    request["params"] = params;
    request.to_string().into_bytes()
}

async fn each_bad_request_gets_its_typed_error(program: Option<PathBuf>) {
    let server = start(program);
    let dir = tempfile::tempdir().unwrap();
    let id = agent("db1");
    let bus = connect(&server).await;
    let db1 = TestAgent::start(&bus, &id, &dir, TestHandler::new(&id, answer), Authority::accept_all()).await;
    let to = |name: &str| format!("orch.v1.cmd.db1.{name}");
    let good = json!({"lines": 1});
    let send = |subject: String, body: Vec<u8>| {
        let bus = bus.clone();
        async move { send(&bus, &subject, None, body).await }
    };
    refused_as(&send(to("host.reboot"), body("host.reboot", json!({}), 60)).await, ErrorCode::UnknownCommand);
    refused_as(&send(to("a.b.c"), body("a.b.c", json!({}), 60)).await, ErrorCode::UnknownCommand);
    refused_as(&send(to("mysql.error-log"), b"{".to_vec()).await, ErrorCode::BadRequest);
    refused_as(&send(to("mysql.error-log"), vec![0xff; 99]).await, ErrorCode::BadRequest);
    refused_as(&send(to("mysql.error-log"), vec![b' '; 300_000]).await, ErrorCode::TooLarge);
    refused_as(
        &send(to("mysql.error-log"), body("mysql.error-log", json!({"rows": 1}), 60)).await,
        ErrorCode::BadRequest,
    );
    refused_as(&send(to("mysql.error-log"), body("mysql.start", json!({}), 60)).await, ErrorCode::BadRequest);
    refused_as(
        &send(to("mysql.error-log"), body("mysql.error-log", good.clone(), -5)).await,
        ErrorCode::Expired,
    );
    let far = send(to("mysql.error-log"), body("mysql.error-log", good.clone(), 30 * 86_400)).await;
    refused_as(&far, ErrorCode::BadRequest);
    assert_eq!(db1.handler.calls(), 0, "nothing of this reaches the handler");
    assert!(matches!(
        send(to("mysql.error-log"), body("mysql.error-log", good, 60)).await,
        Outcome::Result(_)
    ));
    let denied = db1.handler.denied.lock().unwrap();
    assert_eq!(denied.iter().map(|d| d.error.code).collect::<Vec<_>>(), [ErrorCode::Expired]);
}

async fn a_repeated_job_runs_once_also_across_a_restart(program: Option<PathBuf>) {
    let server = start(program);
    let dir = tempfile::tempdir().unwrap();
    let id = agent("db1");
    let bus = connect(&server).await;
    let mut handler = TestHandler::new(&id, answer);
    handler.delay = Duration::from_millis(100);
    let db1 = TestAgent::start(&bus, &id, &dir, handler, Authority::accept_all()).await;
    let client = client(&server, None).await;
    let request = CallOptions { request_id: Some(RequestId::generate()), ..options() };
    let (first, second) = tokio::join!(
        client.call(&id, MysqlStartParams {}, &request),
        client.call(&id, MysqlStartParams {}, &request)
    );
    let first = first.unwrap();
    assert_eq!(first, second.unwrap(), "a double that comes meanwhile waits for the first");
    assert_eq!(db1.handler.calls(), 1);
    db1.stop().await;

    let db1 = TestAgent::start(&bus, &id, &dir, TestHandler::new(&id, answer), Authority::accept_all()).await;
    assert_eq!(client.call(&id, MysqlStartParams {}, &request).await.unwrap(), first);
    assert_eq!(db1.handler.calls(), 0, "the reply was kept across the restart");
    let other = client.raw(&id, "mysql.stop", json!({}), &request).await.unwrap_err();
    assert!(matches!(&other, BusError::Agent(e) if e.code == ErrorCode::Replayed), "{other}");
    assert_eq!(db1.handler.denied.lock().unwrap()[0].error.code, ErrorCode::Replayed);
}

async fn signatures_and_roles_decide(program: Option<PathBuf>) {
    let server = start(program);
    let dir = tempfile::tempdir().unwrap();
    let id = agent("db1");
    let bus = connect(&server).await;
    let reader = KeyPair::new_user();
    let trusted = |key: &KeyPair, roles: &[Role]| TrustedKey {
        key: key.public_key(),
        name: "reader".into(),
        roles: roles.to_vec(),
    };
    let rules = |keys: Vec<TrustedKey>| AuthorityConfig { accept_unsigned: false, trusted: keys };
    let authority = Authority::new(rules(vec![trusted(&reader, &[Role::Read])])).unwrap();
    let db1 = TestAgent::start(&bus, &id, &dir, TestHandler::new(&id, answer), authority).await;
    let code = |error: BusError| match error {
        BusError::Agent(error) => error.code,
        other => panic!("{other}"),
    };
    let unsigned = client(&server, None).await;
    assert_eq!(code(unsigned.call(&id, lines(1), &options()).await.unwrap_err()), ErrorCode::Unauthenticated);
    let stranger = client(&server, Some(KeyPair::new_user())).await;
    assert_eq!(code(stranger.call(&id, lines(1), &options()).await.unwrap_err()), ErrorCode::Unauthenticated);
    let client = client(&server, Some(KeyPair::from_seed(&reader.seed().unwrap()).unwrap())).await;
    client.call(&id, lines(1), &options()).await.unwrap();
    assert_eq!(db1.handler.calls.lock().unwrap()[0].actor.key, Some(reader.public_key()));
    assert_eq!(
        code(client.call(&id, MysqlStartParams {}, &options()).await.unwrap_err()),
        ErrorCode::Forbidden
    );

    // Signed for another host, and altered on the way.
    let request = body("mysql.error-log", json!({"lines": 1}), 60);
    let subject = |host: &str| Subject::Command { agent: agent(host), command: "mysql.error-log".into() };
    let headers = |signed_for: &Subject, body: &[u8]| {
        let mut headers = HeaderMap::new();
        headers.insert("Orch-Key", reader.public_key().as_str());
        headers.insert("Orch-Signature", signature::sign(&reader, signed_for, body).unwrap().as_str());
        Some(headers)
    };
    let to = subject("db1").to_string();
    refused_as(
        &send(&bus, &to, headers(&subject("db2"), &request), request.clone()).await,
        ErrorCode::Unauthenticated,
    );
    let mut altered = request.clone();
    let at = altered.len() - 10;
    altered[at] ^= 1;
    let outcome = send(&bus, &to, headers(&subject("db1"), &request), altered).await;
    assert!(
        matches!(&outcome, Outcome::Error(e) if matches!(e.code, ErrorCode::Unauthenticated | ErrorCode::BadRequest)),
        "{outcome:?}"
    );
    let late = body("mysql.error-log", json!({"lines": 1}), -60);
    refused_as(&send(&bus, &to, headers(&subject("db1"), &late), late.clone()).await, ErrorCode::Expired);
    assert_eq!(db1.handler.calls(), 1, "of all these one was run");

    // Other keys without a restart.
    let next = KeyPair::new_user();
    db1.authority.reload(rules(vec![trusted(&next, &[Role::Read])])).unwrap();
    assert_eq!(code(client.call(&id, lines(1), &options()).await.unwrap_err()), ErrorCode::Unauthenticated);
    let successor = crate::kit::client(&server, Some(next)).await;
    successor.call(&id, lines(1), &options()).await.unwrap();
    let codes: Vec<_> = db1.handler.denied.lock().unwrap().iter().map(|d| d.error.code).collect();
    assert!(codes.len() >= 6 && codes.contains(&ErrorCode::Forbidden), "each refusal is audited: {codes:?}");
}

async fn the_agent_is_a_micro_service(program: Option<PathBuf>) {
    let server = start(program);
    let dir = tempfile::tempdir().unwrap();
    let id = agent("db1.example.com");
    let bus = connect(&server).await;
    let db1 = TestAgent::start(&bus, &id, &dir, TestHandler::new(&id, answer), Authority::accept_all()).await;
    let client = client(&server, None).await;
    client.call(&id, lines(1), &options()).await.unwrap();
    let ask = |subject: String| {
        let bus = bus.clone();
        async move {
            let message = bus.request(subject, None, "".into(), LIMIT).await.unwrap();
            serde_json::from_slice::<Value>(&message.payload).unwrap()
        }
    };
    let ping = ask("$SRV.PING".into()).await;
    assert_eq!(ping["type"], "io.nats.micro.v1.ping_response");
    assert_eq!(ping["name"], "orch-agent");
    assert_eq!(ping["metadata"]["host"], "db1.example.com");
    assert_eq!(ping["metadata"]["dc"], "east");
    let boot = db1.handler.calls.lock().unwrap().len();
    assert_eq!(boot, 1);
    let info = ask(format!("$SRV.INFO.orch-agent.{}", ping["id"].as_str().unwrap())).await;
    let endpoints = info["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), Command::SPECS.len());
    let endpoint = endpoints.iter().find(|e| e["name"] == "mysql-error-log").unwrap();
    assert_eq!(endpoint["subject"], "orch.v1.cmd.db1_example_com.mysql.error-log");
    assert_eq!(endpoint["metadata"]["schema"], "v1/commands/mysql.error-log.json");
    let stats = ask("$SRV.STATS.orch-agent".into()).await;
    let endpoint = stats["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .find(|e| e["name"] == "mysql-error-log")
        .unwrap()
        .clone();
    assert_eq!(endpoint["num_requests"], 1);
    // A request whose reply would act on JetStream is not replied to.
    let mut stolen = bus.subscribe("$JS.API.STREAM.PURGE.orch_events".into()).await.unwrap();
    bus.client()
        .publish_with_reply("$SRV.PING", "$JS.API.STREAM.PURGE.orch_events", "".into())
        .await
        .unwrap();
    ask("$SRV.PING".into()).await;
    assert!(futures_util::FutureExt::now_or_never(futures_util::StreamExt::next(&mut stolen)).is_none());
}

async fn queries_do_not_wait_behind_changes(program: Option<PathBuf>) {
    let server = start(program);
    let dir = tempfile::tempdir().unwrap();
    let id = agent("db1");
    let bus = connect(&server).await;
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Arc::new(std::sync::Mutex::new(released));
    let waiting = Arc::new(AtomicUsize::new(0));
    let count = waiting.clone();
    let handler = TestHandler::new(&id, move |call| {
        if matches!(call.command, Command::MysqlStart(_)) {
            count.fetch_add(1, Ordering::SeqCst);
            // Stands in the way of other changes until the test lets go.
            let end = tokio::task::block_in_place(|| released.lock().unwrap().recv_timeout(LIMIT));
            assert!(end.is_ok());
        }
        answer(call)
    });
    let _db1 = TestAgent::start(&bus, &id, &dir, handler, Authority::accept_all()).await;
    let client = client(&server, None).await;
    let change = tokio::spawn({
        let (client, id) = (client.clone(), id.clone());
        async move { client.call(&id, MysqlStartParams {}, &options()).await }
    });
    testkit::poll::until_async(LIMIT, "the change to begin", || async {
        (waiting.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
    for _ in 0..20 {
        client.call(&id, JobsListParams { limit: 1, unfinished: false }, &options()).await.unwrap();
    }
    assert!(!change.is_finished());
    release.send(()).unwrap();
    change.await.unwrap().unwrap();
}

/// Values that a hostile client may put anywhere.
fn hostile() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(json!(u64::MAX)),
        ".{0,40}".prop_map(Value::from),
        Just(json!("../../etc/passwd")),
        Just(json!("; rm -rf /")),
        Just(json!("--option")),
        Just(json!("a\u{0}b")),
        Just(json!("x".repeat(10_000))),
    ];
    leaf.prop_recursive(6, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map("[a-z_]{1,12}", inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// A request that was once valid: a field replaced or added, bytes flipped, cut or put in.
fn mutated() -> impl Strategy<Value = (String, Vec<u8>)> {
    let names: Vec<&'static str> = Command::SPECS.iter().map(|s| s.name).collect();
    let field =
        prop::sample::select(vec!["version", "id", "deadline", "actor", "command", "params", "extra"]);
    let flips = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (prop::sample::select(names), prop::option::of(field), hostile(), hostile(), flips, any::<bool>())
        .prop_map(|(name, field, value, params, flips, cut)| {
            let mut request: Value = serde_json::from_slice(&body(name, params, 60)).unwrap();
            if let Some(field) = field {
                request[field] = value;
            }
            let mut bytes = request.to_string().into_bytes();
            for (at, byte) in &flips {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            if cut {
                bytes.truncate(bytes.len() - bytes.len() / 7);
            }
            (format!("orch.v1.cmd.db1.{name}"), bytes)
        })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_mutated_requests_get_typed_replies_and_the_agent_lives() {
    let server = start(None);
    let dir = tempfile::tempdir().unwrap();
    let id = agent("db1");
    let bus = connect(&server).await;
    let handler = TestHandler::new(&id, |_| Ok(json!({})));
    let db1 = TestAgent::start(&bus, &id, &dir, handler, Authority::accept_all()).await;
    let mut runner = TestRunner::deterministic();
    let strategy = mutated();
    for _ in 0..1_000 {
        let (subject, bytes) = strategy.new_tree(&mut runner).unwrap().current();
        match send(&bus, &subject, None, bytes.clone()).await {
            Outcome::Result(_) => {}
            Outcome::Error(error) => assert!(
                matches!(
                    error.code,
                    ErrorCode::BadRequest
                        | ErrorCode::UnsupportedVersion
                        | ErrorCode::TooLarge
                        | ErrorCode::Expired
                        | ErrorCode::UnknownCommand
                ),
                "{error:?} for {:?}",
                String::from_utf8_lossy(&bytes)
            ),
        }
    }
    let client = client(&server, None).await;
    client.raw(&id, "agent.info", json!({}), &options()).await.unwrap();
    assert!(db1.handler.calls() < 500, "most mutations must be refused");
}
