//! SIGHUP: keys, settings, credentials and certificates change while the agent serves.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bus::config::{Credentials, TlsConfig};
use bus::{Bus, BusConfig, BusError, Client};
use e2e::world::{self, PATIENCE};
use nkeys::KeyPair;
use protocol::error::ErrorCode;
use protocol::ids::BootId;
use protocol::params::{AgentInfoParams, CustomListParams};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer};
use testkit::agent::{Agent, AgentOptions};
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;

async fn signing(nats: &NatsServer, key: &KeyPair) -> Client {
    let bus = world::client(&nats.url()).await.bus().clone();
    Client::new(bus, Some(KeyPair::from_seed(&key.seed().unwrap()).unwrap()), "tester")
}

async fn boot_of(client: &Client, agent: &Agent) -> Result<BootId, BusError> {
    client.call(agent.id(), AgentInfoParams {}, &Default::default()).await.map(|info| info.boot)
}

async fn until_refused(client: &Client, agent: &Agent) {
    poll::until_async(PATIENCE, "the key to be trusted no more", || async {
        match boot_of(client, agent).await {
            Err(BusError::Agent(error)) if error.code == ErrorCode::Unauthenticated => Some(()),
            _ => None,
        }
    })
    .await;
}

/// Waits for words that the agent has not said so often before.
fn until_said(agent: &Agent, words: &str, times: usize) {
    poll::until_true(PATIENCE, format!("the log to say {words:?}"), || {
        agent.log().matches(words).count() >= times
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_without_a_gap_and_a_bad_configuration_is_refused() {
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let (old, new) = (KeyPair::new_user(), KeyPair::new_user());
    let mut options = AgentOptions::new("db1", &nats.url());
    options.set("auth.accept_unsigned", false).trust(&old.public_key(), "old", &["read"]);
    let mut agent = Agent::start(options).unwrap();
    let (with_old, with_new) = (signing(&nats, &old).await, signing(&nats, &new).await);
    world::serving(&with_old, agent.id()).await;
    let boot = boot_of(&with_old, &agent).await.unwrap();
    until_refused(&with_new, &agent).await;

    // Somebody asks all the time, with a key that is trusted all the time.
    agent.options().trust(&new.public_key(), "new", &["read"]);
    agent.reload().unwrap();
    world::serving(&with_new, agent.id()).await;
    assert_eq!(boot_of(&with_old, &agent).await.unwrap(), boot, "both are trusted");
    let done = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn({
        let (client, id, done) = (with_new.clone(), agent.id().clone(), Arc::clone(&done));
        async move {
            let mut answers = 0;
            while !done.load(Ordering::Relaxed) {
                client.call(&id, AgentInfoParams {}, &Default::default()).await.unwrap();
                answers += 1;
            }
            answers
        }
    });
    agent.options().set("auth.trusted", toml_array());
    agent.options().trust(&new.public_key(), "new", &["read"]);
    agent.reload().unwrap();
    until_refused(&with_old, &agent).await;
    done.store(true, Ordering::Relaxed);
    assert!(asking.await.unwrap() > 0, "no command failed meanwhile");

    // Refused as a whole: neither the key that goes nor the command that comes.
    agent.expect_error("the configuration is refused");
    agent.options().set("auth.trusted", "nobody");
    agent.options().set("custom.hello.argv", vec!["/bin/true".to_owned()]);
    agent.reload().unwrap();
    until_said(&agent, "the configuration is refused", 1);
    assert!(agent.log().contains("auth.trusted"), "the key is named");
    let commands = with_new.call(agent.id(), CustomListParams {}, &Default::default()).await.unwrap();
    assert!(commands.is_empty(), "{commands:?}");

    // Mended: what can change does, the rest is named.
    agent.options().set("auth.trusted", toml_array());
    agent.options().trust(&new.public_key(), "new", &["read"]);
    agent.options().set("agent.cluster", "other");
    agent.reload().unwrap();
    until_said(&agent, "wait for a restart: agent.cluster", 1);
    let commands = with_new.call(agent.id(), CustomListParams {}, &Default::default()).await.unwrap();
    assert_eq!(commands.len(), 1);
    let info = with_new.call(agent.id(), AgentInfoParams {}, &Default::default()).await.unwrap();
    assert_eq!((info.cluster.as_str(), info.boot), ("shop", boot), "one process all along");
    agent.stop().unwrap();
}

fn toml_array() -> Vec<String> {
    Vec::new()
}

/// An authority that signs certificates.
struct Authority {
    issuer: Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, dir: &Path, name: &str) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        secret(&dir.join(format!("{name}.key")), &key.serialize_pem());
    }
}

fn secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A server with mutual TLS that knows these users.
fn server_options(dir: &Path, users: &[&KeyPair]) -> NatsOptions {
    let at = |name: &str| dir.join(name);
    let users: Vec<String> = users.iter().map(|key| format!("{{ nkey: {:?} }}", key.public_key())).collect();
    NatsOptions::jetstream().config(format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}\nauthorization {{ users: [{}] }}\n",
        at("server.pem"),
        at("server.key"),
        at("ca.pem"),
        users.join(", ")
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_and_certificates_rotate_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (ours, foreign) = (Authority::new(), Authority::new());
    fs::write(at("ca.pem"), &ours.pem).unwrap();
    for name in ["server", "agent", "tester"] {
        ours.issue(dir.path(), name);
    }
    let (old, new, tester) = (KeyPair::new_user(), KeyPair::new_user(), KeyPair::new_user());
    secret(&at("agent.nk"), &old.seed().unwrap());
    secret(&at("tester.nk"), &tester.seed().unwrap());
    let nats = NatsServer::start(&server_options(dir.path(), &[&old, &tester])).unwrap();

    let text = |name: &str| at(name).display().to_string();
    let mut options = AgentOptions::new("db1", &nats.url());
    options.set("bus.credentials.nkey_file", text("agent.nk")).set("bus.tls.require", true);
    for (key, name) in [("ca", "ca.pem"), ("cert", "agent.pem"), ("key", "agent.key")] {
        options.set(&format!("bus.tls.{key}"), text(name));
    }
    let mut agent = Agent::start(options).unwrap();
    let tls = TlsConfig {
        require: true,
        ca: Some(at("ca.pem")),
        cert: Some(at("tester.pem")),
        key: Some(at("tester.key")),
    };
    let config = BusConfig {
        servers: vec![nats.url()],
        credentials: Some(Credentials::NkeyFile(at("tester.nk"))),
        tls,
        ..BusConfig::default()
    };
    let bus = Bus::connect(&config, "tester").await.unwrap();
    bus.connected(PATIENCE).await.unwrap();
    let client = Client::new(bus, None, "tester");
    world::serving(&client, agent.id()).await;
    let boot = boot_of(&client, &agent).await.unwrap();

    // What a first try with files that the server does not know yet, or that a stranger signed, leaves in the log.
    for words in ["the old connection stays", "authorization violation", "async_nats::"] {
        agent.expect_error(words);
    }
    // The server learns the new key, the agent takes it with a new certificate, the server forgets the old key.
    nats.reload(&server_options(dir.path(), &[&old, &new, &tester])).unwrap();
    secret(&at("agent.nk"), &new.seed().unwrap());
    ours.issue(dir.path(), "agent");
    poll::until_async(PATIENCE, "the agent to take the new key", || async {
        agent.reload().unwrap();
        agent.log().contains("connecting to the bus anew").then_some(())
    })
    .await;
    nats.reload(&server_options(dir.path(), &[&new, &tester])).unwrap();
    world::serving(&client, agent.id()).await;

    // A stranger's certificate would be refused by the server: the connection that works is kept.
    foreign.issue(dir.path(), "agent");
    let before = agent.log().matches("the old connection stays").count();
    agent.reload().unwrap();
    until_said(&agent, "the old connection stays", before + 1);
    assert_eq!(boot_of(&client, &agent).await.unwrap(), boot, "one process all along");
    agent.stop().unwrap();
}
