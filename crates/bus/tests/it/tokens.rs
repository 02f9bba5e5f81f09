//! Users by signed tokens: they have what their role has, hosts join and go without a word to any server, and a forged name gives nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bus::config::Credentials;
use bus::jwt::{self, Account, NewUser, Signers, UserRole};
use bus::permissions::Profile;
use bus::{Bus, BusConfig, BusError, Unconnected};
use data_encoding::BASE64URL_NOPAD;
use futures_util::{FutureExt, StreamExt};
use nkeys::KeyPair;
use protocol::params::MysqlStartParams;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kit::*;
use crate::permissions::{
    World, assert_data_go_through_the_store, assert_kept_apart, assert_works, options, queued_commands_run,
    start_agent,
};

on_each_server!(signed_tokens_hold_and_a_host_joins_and_goes);

/// An operator whose server lets in whom its keys sign.
struct Signing {
    operator: KeyPair,
    account: Account,
    agents: KeyPair,
}

impl Signing {
    /// Makes the users of [`World`] by tokens.
    fn world(program: Option<PathBuf>, explicit: bool) -> (World, Self) {
        let (dir, operator) = (tempfile::tempdir().unwrap(), KeyPair::new_operator());
        let one = KeyPair::new_account();
        let key = || {
            KeyPair::from_seed(&if explicit { one.seed() } else { KeyPair::new_account().seed() }.unwrap())
        };
        let keys = UserRole::ALL.map(|role| (role, key().unwrap()));
        let signers = match explicit {
            true => Signers::One(one.public_key()),
            false => Signers::ByRole(keys.iter().map(|(role, key)| (*role, key.public_key())).collect()),
        };
        let account = Account {
            key: KeyPair::new_account().public_key(),
            signers,
            domain: None,
            revoked: BTreeMap::new(),
            issued: 0,
        };
        let made = jwt::new_operator(&operator).unwrap();
        keep(&dir, "system.creds", &made.system_creds);
        for ((role, key), names) in keys.iter().zip([&["db1", "db2"][..], &["ctl"], &["audit"]]) {
            for name in names {
                let user = jwt::new_user(&account, (*role, key), name, None).unwrap();
                keep_user(&dir, name, &user);
            }
        }
        let token = account.token(&operator).unwrap();
        // The next one is signed within the same second.
        let account = Account::read(&token, &operator.public_key()).unwrap();
        let store = dir.path().join("accounts").display().to_string();
        let (system, of_system) = &made.system;
        let config = jwt::server_config(&made.token, (system, of_system), (&account.key, &token), &store);
        let server = start_with(program, &config);
        let [(_, agents), ..] = keys;
        let world = World { server, dir, controller: KeyPair::new_user(), profile: Profile::Simple };
        (world, Self { operator, account, agents })
    }

    /// A user of the agents' key under a name that we would refuse to write.
    fn forges(&self, world: &World, name: &str) {
        let user = jwt::new_user(&self.account, (UserRole::Agent, &self.agents), "forged", None).unwrap();
        let lines: Vec<&str> = user.creds.lines().collect();
        let parts: Vec<&str> = lines[1].split('.').collect();
        let claims = BASE64URL_NOPAD.decode(parts[1].as_bytes()).unwrap();
        let mut claims: Value = serde_json::from_slice(&claims).unwrap();
        claims["name"] = json!(name);
        let text = format!("{}.{}", parts[0], BASE64URL_NOPAD.encode(claims.to_string().as_bytes()));
        let signature = BASE64URL_NOPAD.encode(&self.agents.sign(text.as_bytes()).unwrap());
        let creds = user.creds.replace(lines[1], &format!("{text}.{signature}"));
        keep_user(&world.dir, "forged", &NewUser { creds, ..user });
    }

    /// A host that no server has heard of gets its file.
    fn joins(&self, world: &World, name: &str) -> String {
        let user = jwt::new_user(&self.account, (UserRole::Agent, &self.agents), name, None).unwrap();
        keep_user(&world.dir, name, &user);
        user.key
    }
}

fn keep_user(dir: &TempDir, name: &str, user: &NewUser) {
    keep(dir, &format!("{name}.creds"), &user.creds);
    keep(dir, &format!("{name}.inbox"), &user.inbox_prefix);
}

fn keep(dir: &TempDir, name: &str, secret: &str) {
    std::fs::write(dir.path().join(name), secret).unwrap();
    set_mode(&dir.path().join(name), 0o600);
}

async fn signed_tokens_hold_and_a_host_joins_and_goes(program: Option<PathBuf>) {
    // The distribution's server does not know roles with names in the middle of a subject.
    let explicit = program.is_none();
    let (world, mut signing) = Signing::world(program, explicit);
    let (db1, db2) = (world.bus("db1").await, world.bus("db2").await);
    let client = assert_works(&world, &db1).await;
    let victim = queued_commands_run(&world, &client, &db2, 1).await;
    assert_data_go_through_the_store(&world).await;
    assert_kept_apart(&world, &db1, &client).await;
    assert_eq!(victim.handler.calls(), 2);

    let key = signing.joins(&world, "db1001");
    let joined = world.bus("db1001").await;
    joined.publish("orch.v1.hb.db1001".into(), None, "{}".into()).await.unwrap();
    let error =
        joined.request("orch.v1.cmd.db2.mysql.start".into(), None, "{}".into(), LIMIT).await.unwrap_err();
    assert!(matches!(error, BusError::NotPermitted { .. }), "{error}");

    signing.account.revoked.insert(key, jwt::FOR_EVER.as_second());
    let system = BusConfig {
        credentials: Some(Credentials::CredsFile(world.dir.path().join("system.creds"))),
        ..config(&world.server)
    };
    let system = Bus::connect(&system, "system").await.unwrap();
    let told = jwt::push(&system, &signing.account.token(&signing.operator).unwrap()).await.unwrap();
    assert!(told.len() == 1 && told[0].refused.is_none(), "{told:?}");
    testkit::poll::until_true(LIMIT, "the revoked host to be cut off", || !joined.is_connected());
    let error = joined.connected(LIMIT / 10).await.unwrap_err();
    assert!(matches!(error, BusError::NotConnected { trouble: Unconnected::Login, .. }), "{error:?}");
    assert!(db1.is_connected() && db2.is_connected(), "the others stay");
    client.call(&agent("db2"), MysqlStartParams {}, &options()).await.unwrap();

    // The system's user tells of accounts, and nothing else.
    let error = system.request("$SYS.REQ.SERVER.PING".into(), None, "".into(), LIMIT).await.unwrap_err();
    assert!(matches!(error, BusError::NotPermitted { .. }), "{error}");
}

/// Who holds the agents' key chooses the name that the server puts into the role's rights: it is an agent all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_name_in_a_token_gives_no_other_roles_rights() {
    let Some(newest) = testkit::nats::newest_program() else {
        testkit::skip!(odd: "scripts/nats-newest was not run");
    };
    let (world, signing) = Signing::world(Some(newest), false);
    let db1 = world.bus("db1").await;
    let client = assert_works(&world, &db1).await;
    let victim = start_agent(&world, &world.bus("db2").await).await;
    let names =
        [">", "*", "*.>", "a.>", "a b", "ctl", "CONTROLLER_ctl", "ctl.>", "{{name()}}", "{{tag(a)}}", ""];
    let mut let_in = Vec::new();
    for name in names {
        signing.forges(&world, name);
        let config = BusConfig {
            credentials: Some(Credentials::CredsFile(world.dir.path().join("forged.creds"))),
            request_timeout_ms: 1_000,
            ..config(&world.server)
        };
        let forged = Bus::connect(&config, "forged").await.unwrap();
        if forged.connected(LIMIT / 10).await.is_err() {
            continue;
        }
        let_in.push(name);
        let attacks = [
            "orch.v1.cmd.db2.mysql.start",
            "orch.v1.dcmd.db2.mysql.start",
            "$JS.API.STREAM.CREATE.mine",
            "$JS.API.STREAM.UPDATE.orch_events",
            "$JS.API.STREAM.DELETE.orch_events",
            "$JS.API.STREAM.PURGE.orch_events",
            "$JS.API.STREAM.MSG.DELETE.orch_events",
            "$JS.API.STREAM.MSG.GET.orch_events",
            "$JS.API.CONSUMER.CREATE.orch_events",
            "$JS.API.CONSUMER.DURABLE.CREATE.orch_commands.agent-db2",
            "$SYS.REQ.CLAIMS.UPDATE",
            "_INBOX_CONTROLLER_ctl.guess",
        ];
        let before = world.server.log().len();
        for subject in attacks {
            forged.publish(subject.into(), None, "{}".into()).await.ok();
        }
        settle(&forged).await;
        let log = world.server.log().split_off(before);
        for subject in attacks {
            let is_refused = |line: &str| line.contains("Publish Violation") && line.contains(subject);
            assert!(log.lines().any(is_refused), "{name:?} may publish {subject}: {log}");
        }
        let mut heard = Vec::new();
        for subject in [">", "_INBOX_CONTROLLER_ctl.>", "_INBOX_AUDITOR_audit.>", "orch.v1.evt.>", "$SYS.>"] {
            heard.push(forged.subscribe(subject.into()).await.unwrap());
        }
        settle(&forged).await;
        client.call(&agent("db2"), MysqlStartParams {}, &options()).await.unwrap();
        settle(&db1).await;
        for listening in &mut heard {
            let message = listening.next().now_or_never().flatten();
            assert!(message.is_none(), "{name:?} hears {message:?}");
        }
    }
    assert!(let_in.contains(&"ctl"), "the server lets in what is no attack: {let_in:?}");
    victim.stop().await;
}
