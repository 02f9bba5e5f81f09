//! The bus away: at the start, in between, frozen, and with permissions that refuse.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bus::config::Credentials;
use bus::{Authority, Bus, BusError, CallOptions, Client, ConnState};
use protocol::params::AgentInfoParams;
use serde_json::json;
use testkit::nats::{NatsOptions, NatsServer};

use crate::kit::*;

on_each_server!(
    a_server_that_is_absent_at_the_start_is_found_later,
    a_frozen_server_is_noticed_and_calls_keep_their_limit,
    a_refusal_by_permissions_is_told,
);

async fn a_server_that_is_absent_at_the_start_is_found_later(program: Option<PathBuf>) {
    let mut server = NatsServer::down(&NatsOptions { program, ..NatsOptions::jetstream() }).unwrap();
    let bus = Bus::connect(&config(&server), "test").await.unwrap();
    let error = bus.connected(Duration::from_millis(200)).await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    let client = Client::new(bus.clone(), None, "tester");
    let short = CallOptions { timeout: Duration::from_millis(200), ..CallOptions::default() };
    let error = client.call(&agent("db1"), AgentInfoParams {}, &short).await.unwrap_err();
    assert!(matches!(error, BusError::NotConnected { .. }), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let id = agent("db1");
    let starting = tokio::spawn({
        let (bus, id) = (bus.clone(), id.clone());
        async move {
            let handler = TestHandler::new(&id, |_| Ok(json!({})));
            let db1 = TestAgent::start(&bus, &id, &dir, handler, Authority::accept_all()).await;
            (db1, dir)
        }
    });
    server.restart().unwrap();
    bus.connected(LIMIT).await.unwrap();
    let (_db1, _dir) = starting.await.unwrap();
    let options = CallOptions { timeout: LIMIT, ..CallOptions::default() };
    client.raw(&id, "agent.info", json!({}), &options).await.unwrap();

    server.kill9();
    server.restart().unwrap();
    testkit::poll::until_async(LIMIT, "the agent to be back by itself", || async {
        client.raw(&id, "agent.info", json!({}), &options).await.ok()
    })
    .await;
}

async fn a_frozen_server_is_noticed_and_calls_keep_their_limit(program: Option<PathBuf>) {
    let server = start(program);
    let bus = connect(&server).await;
    server.freeze();
    let began = Instant::now();
    let error =
        bus.request("any.thing".into(), None, "".into(), Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, BusError::TimedOut { .. } | BusError::NotConnected { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
    let mut state = bus.state();
    let lost = state.wait_for(|s| *s == ConnState::Disconnected);
    tokio::time::timeout(LIMIT, lost).await.expect("pings must find a frozen server").unwrap();
    server.thaw();
    bus.connected(LIMIT).await.unwrap();
}

async fn a_refusal_by_permissions_is_told(program: Option<PathBuf>) {
    let users = r#"authorization { users: [ { user: "a", password: "secret-word",
        permissions: { publish: ["allowed"], subscribe: ["_INBOX.>"] } } ] }"#;
    let mut options = NatsOptions::default().config(users);
    options.program = program;
    let server = NatsServer::start(&options).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("password");
    std::fs::write(&secret, "a:secret-word\n").unwrap();
    let with = |path: PathBuf| bus::BusConfig {
        credentials: Some(Credentials::PasswordFile(path)),
        ..config(&server)
    };
    set_mode(&secret, 0o644);
    let error = Bus::connect(&with(secret.clone()), "test").await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("chmod 600") && !format!("{error:?}").contains("secret-word"), "{cause}");
    set_mode(&secret, 0o600);
    let bus = Bus::connect(&with(secret.clone()), "test").await.unwrap();
    bus.connected(LIMIT).await.unwrap();
    let began = Instant::now();
    let error = bus.request("forbidden.subject".into(), None, "".into(), LIMIT).await.unwrap_err();
    assert!(
        matches!(&error, BusError::NotPermitted { subject, .. } if subject == "forbidden.subject"),
        "{error}"
    );
    assert!(began.elapsed() < LIMIT / 2, "it is not a time-out");

    // A wrong password is named as such, and a mended file is taken without a restart.
    std::fs::write(&secret, "a:wrong").unwrap();
    let bus = Bus::connect(&with(secret.clone()), "test").await.unwrap();
    let error = bus.connected(Duration::from_millis(300)).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("authorization"), "{error}");
    std::fs::write(&secret, "a:secret-word").unwrap();
    bus.connected(LIMIT).await.unwrap();
}
