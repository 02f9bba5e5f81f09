//! Replies that the host's key must have signed, and who else may answer in its name.

use std::path::Path;
use std::time::Duration;

use async_nats::HeaderMap;
use bus::{Answer, Authority, Bus, BusError, CallOptions, Client, HostKeys};
use bytes::Bytes;
use futures_util::StreamExt;
use nkeys::KeyPair;
use protocol::envelope::{Outcome, Reply, Request, VERSION};
use protocol::error::ErrorCode;
use protocol::ids::AgentId;
use protocol::signature;
use protocol::subject::Subject;
use serde_json::{Value, json};

use crate::kit::{LIMIT, TestAgent, TestHandler, agent, client, connect, on_each_server, settle, start};

on_each_server!(a_host_is_known_by_its_key, nobody_answers_in_a_hosts_name);

fn log() -> Value {
    json!({"path": "/var/log/mysql/error.log", "lines": ["ready"], "truncated": false})
}

/// Asks for so many lines.
async fn ask(client: &Client, host: &AgentId, lines: u32) -> Result<Answer<Value>, BusError> {
    client.raw(host, "mysql.error-log", json!({"lines": lines}), &CallOptions::default()).await
}

fn subject(host: &AgentId) -> Subject {
    Subject::Command { agent: host.clone(), command: "mysql.error-log".into() }
}

fn pinned(client: &Client, host: &AgentId, key: &str) -> Client {
    client.clone().with_host_keys(HostKeys::none(Path::new("hosts.keys")).with(host, key).unwrap())
}

fn why(error: BusError) -> String {
    match error {
        BusError::NotFromHost { why, .. } => why,
        other => panic!("{other}"),
    }
}

async fn a_host_is_known_by_its_key(program: Option<std::path::PathBuf>) {
    let server = start(program);
    let dir = tempfile::tempdir().unwrap();
    let id = agent("db1.example.com");
    let bus = connect(&server).await;
    let payload = bus.client().max_payload();
    let answer = move |call: &bus::Incoming| {
        Ok(match call.request.params["lines"].as_u64() {
            Some(1) => log(),
            // As long as the body alone may be: the signature does not fit beside it.
            _ => json!({"path": "x".repeat(payload - 120), "lines": [], "truncated": false}),
        })
    };
    let db1 = TestAgent::start(&bus, &id, &dir, TestHandler::new(&id, answer), Authority::accept_all()).await;
    let plain = client(&server, None).await;
    let sure = pinned(&plain, &id, &db1.key);
    assert_eq!(ask(&sure, &id, 1).await.unwrap(), Answer::Result(log()));
    let more = json!({"lines": 1, "more": 1});
    let refused = sure.raw(&id, "mysql.error-log", more, &CallOptions::default()).await.unwrap_err();
    assert!(matches!(&refused, BusError::Agent(error) if error.code == ErrorCode::BadRequest), "{refused}");
    let large = ask(&sure, &id, 2).await.unwrap_err();
    assert!(matches!(&large, BusError::Agent(error) if error.code == ErrorCode::TooLarge), "{large}");

    let other = pinned(&plain, &id, &KeyPair::new_user().public_key());
    assert!(why(ask(&other, &id, 1).await.unwrap_err()).contains("another key"));
    let unknown = plain.with_host_keys(HostKeys::none(Path::new("hosts.keys")));
    assert!(why(ask(&unknown, &id, 1).await.unwrap_err()).contains("no key of this host"));
    db1.stop().await;
}

/// How a stranger answers a request that it hears.
enum Forgery {
    Unsigned,
    /// By its own key, under that key's name.
    Own,
    /// By its own key, under the name of the host's.
    Named(String),
    /// With what the host answered before.
    Replayed(Option<HeaderMap>, Bytes),
}

impl Forgery {
    fn answer(&self, host: &AgentId, request: &[u8]) -> (Option<HeaderMap>, Bytes) {
        let id = Some(Request::parse(request).unwrap().id);
        let reply = Reply { version: VERSION, id, host: host.clone(), outcome: Outcome::Result(log()) };
        let reply = serde_json::to_vec(&reply).unwrap();
        let own = KeyPair::new_user();
        let key = match self {
            Self::Unsigned => return (None, reply.into()),
            Self::Replayed(headers, body) => return (headers.clone(), body.clone()),
            Self::Own => own.public_key(),
            Self::Named(key) => key.clone(),
        };
        let mut headers = HeaderMap::new();
        headers.insert("Orch-Key", key.as_str());
        let signature = signature::sign_reply(&own, &subject(host), request, &reply).unwrap();
        headers.insert("Orch-Signature", signature.as_str());
        (Some(headers), reply.into())
    }
}

/// The true host's answer to one question, as anybody heard it go by.
async fn captured(bus: &Bus, host: &AgentId) -> (Option<HeaderMap>, Bytes) {
    let request = json!({
        "version": VERSION, "id": protocol::ids::RequestId::generate(), "actor": "ear", "command": "mysql.error-log",
        "deadline": jiff::Timestamp::now() + Duration::from_secs(60), "params": {"lines": 1},
    });
    let body = request.to_string().into_bytes().into();
    let message = bus.request(subject(host).to_string(), None, body, LIMIT).await.unwrap();
    assert!(message.headers.is_some(), "replies are signed unasked");
    (message.headers, message.payload)
}

async fn nobody_answers_in_a_hosts_name(program: Option<std::path::PathBuf>) {
    let server = start(program);
    let dir = tempfile::tempdir().unwrap();
    let id = agent("db1");
    let bus = connect(&server).await;
    let handler = TestHandler::new(&id, |_| Ok(log()));
    let db1 = TestAgent::start(&bus, &id, &dir, handler, Authority::accept_all()).await;
    let key = db1.key.clone();
    let (old_headers, old_body) = captured(&bus, &id).await;
    db1.stop().await;

    let forgeries = [
        ("not signed", Forgery::Unsigned),
        ("another key", Forgery::Own),
        ("does not match", Forgery::Named(key.clone())),
        ("does not match", Forgery::Replayed(old_headers, old_body)),
    ];
    let plain = client(&server, None).await;
    let sure = pinned(&plain, &id, &key);
    for (expected, forgery) in forgeries {
        let mut asked = bus.subscribe(subject(&id).to_string()).await.unwrap();
        settle(&bus).await;
        let (speaking, host) = (bus.clone(), id.clone());
        let stranger = tokio::spawn(async move {
            while let Some(message) = asked.next().await {
                let (headers, body) = forgery.answer(&host, &message.payload);
                speaking.publish(message.reply.unwrap().into_string(), headers, body).await.unwrap();
            }
        });
        let why = why(ask(&sure, &id, 1).await.unwrap_err());
        assert!(why.contains(expected), "{expected}: {why}");
        stranger.abort();
        stranger.await.unwrap_err();
    }
}
