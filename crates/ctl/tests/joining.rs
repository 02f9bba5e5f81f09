//! An operator's keys, a server that believes them, hosts that join and go, as a person does it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

mod fake;

use bus::config::Credentials;
use bus::{Bus, BusConfig};
use fake::{LIMIT, ctl, run};
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;

#[tokio::test(flavor = "multi_thread")]
async fn a_host_joins_by_a_file_and_a_revoked_one_is_out() {
    joins_and_is_revoked(NatsOptions::jetstream(), "--explicit").await;
    let Some(newest) = testkit::nats::newest_program() else {
        testkit::skip!(odd: "scripts/nats-newest was not run");
    };
    joins_and_is_revoked(NatsOptions { program: Some(newest), ..NatsOptions::jetstream() }, "").await;
}

async fn joins_and_is_revoked(options: NatsOptions, how: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (keys, at) = (dir.path().join("keys"), dir.path().display());
    let nowhere = |line: &str| ctl("nats://127.0.0.1:1", line);
    let line = format!("bus init {} --store {at}/accounts {how}", keys.display());
    let made = run(nowhere(&line)).await;
    let file = made.expect(0).out.trim().to_owned();
    assert!(made.err.contains("operator.nk"), "{}", made.err);
    run(nowhere(&line)).await.expect(1);
    let config = std::fs::read_to_string(file).unwrap();
    let server = NatsServer::start(&options.config(config)).unwrap();

    let keys = format!("--keys {}", keys.display());
    let line = format!("bus user {keys} --controller alice --agent db1001 --into {at}");
    let made = run(nowhere(&line)).await;
    assert!(
        made.expect(0).err.contains("db1001 must set the inbox prefix _INBOX_AGENT_db1001"),
        "{}",
        made.err
    );
    let alice = format!("--creds {at}/alice.creds --inbox-prefix _INBOX_CONTROLLER_alice");
    run(ctl(&server.url(), &format!("{alice} bus setup"))).await.expect(0);
    assert!(
        run(ctl(&server.url(), &format!("{alice} fleet"))).await.expect(0).out.contains("no agent answers")
    );

    let host = BusConfig {
        servers: vec![server.url()],
        credentials: Some(Credentials::CredsFile(dir.path().join("db1001.creds"))),
        inbox_prefix: Some("_INBOX_AGENT_db1001".to_owned()),
        ..BusConfig::default()
    };
    let host = Bus::connect(&host, "db1001").await.unwrap();
    host.connected(LIMIT).await.unwrap();

    // A mistyped name revokes nobody.
    let ran = run(ctl(&server.url(), &format!("bus revoke {keys} alice db1O01"))).await;
    assert!(ran.expect(2).err.contains("nothing was changed"), "{}", ran.err);
    let ran = run(ctl(&server.url(), &format!("bus revoke {keys} db1001 --offline"))).await;
    assert!(ran.expect(0).err.contains("bus push"), "{}", ran.err);
    assert!(host.is_connected());
    let ran = run(ctl(&server.url(), &format!("bus push {keys}"))).await;
    assert!(ran.expect(0).out.contains("knows it"), "{}", ran.out);
    poll::until_true(LIMIT, "the revoked host to be cut off", || !host.is_connected());
    run(ctl(&server.url(), &format!("{alice} fleet"))).await.expect(0);
    let ran = run(ctl(&server.url(), &format!("bus revoke {keys} alice"))).await;
    ran.expect(0);
    let ran = run(ctl(&server.url(), &format!("{alice} --timeout 1s fleet"))).await;
    ran.expect(77);
    // The host gets another file, under its name.
    std::fs::remove_file(dir.path().join("db1001.creds")).unwrap();
    run(nowhere(&format!("bus user {keys} --agent db1001 --into {at}"))).await.expect(0);
    host.connected(LIMIT).await.unwrap();
}
