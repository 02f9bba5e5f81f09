//! Attacks on whole agents, by a donor that sends what no donor sends, and by the moment at which an agent is killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::faults::points::{Moment, Point};
use e2e::faults::stream::with_stream;
use e2e::tree;
use e2e::volume::{self, Volume};
use e2e::world::{PATIENCE, Party, Provider, World, WorldOptions, swiftly};
use futures_util::StreamExt as _;
use protocol::job::JobState;
use protocol::params::*;
use protocol::seed::SeedStage;
use testkit::agent::AgentOptions;
use testkit::poll;

fn words(argv: &[&str]) -> Vec<String> {
    argv.iter().map(|word| (*word).to_owned()).collect()
}

/// A file of the backup programs' stream format with this name and content.
fn streamed(path: &str, content: &[u8]) -> Vec<u8> {
    let chunk = |kind: u8| {
        let mut chunk = b"XBSTCK01\0".to_vec();
        chunk.push(kind);
        chunk.extend(u32::try_from(path.len()).unwrap().to_le_bytes());
        chunk.extend(path.as_bytes());
        chunk
    };
    let mut stream = chunk(b'P');
    stream.extend((content.len() as u64).to_le_bytes());
    stream.extend(0_u64.to_le_bytes());
    stream.extend(crc32(content).to_le_bytes());
    stream.extend(content);
    stream.extend(chunk(b'E'));
    stream
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// The world's hosts, with what `configure` sets for `db1` and `db2`.
async fn world(configure: impl FnMut(&str, &mut AgentOptions) + Send + 'static) -> World {
    let configure = std::sync::Mutex::new(configure);
    let configure = move |id: &str, agent: &mut AgentOptions| (configure.lock().unwrap())(id, agent);
    World::start(WorldOptions {
        provider: Provider::Directory,
        data_mib: 1,
        configure: Some(Box::new(configure)),
        ..WorldOptions::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donors_stream_writes_nothing_outside_of_staging() {
    if !Path::new("/usr/bin/mbstream").exists() {
        testkit::skip!("mbstream is not installed (scripts/install-deps test)");
    }
    let dir = tempfile::Builder::new().prefix("oa-attack-").tempdir_in("/tmp").unwrap();
    // Open to everybody: not the rights of the user, but the fence keeps these names clean.
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let sign = |name: &str| dir.path().join(name);
    let climbing = format!("{}{}", "../".repeat(12), sign("climbed").display());
    let absolute = sign("absolute").display().to_string();
    let evil = dir.path().join("evil.xbs");
    let bytes: Vec<u8> =
        [&climbing, &absolute].iter().flat_map(|path| streamed(path, b"from the donor")).collect();
    fs::write(&evil, bytes).unwrap();
    let give = words(&["cat", evil.to_str().unwrap()]);
    let world = world(move |id, agent| {
        if id == "db1" {
            agent.set("seed.streams.mariabackup.give", give.clone());
        }
    })
    .await;
    let job = world.seed_from_stream("mariabackup", swiftly()).await;
    let view = world.ended(&world.recipient, job).await;
    assert_eq!(view.state, JobState::Failed, "{:?}", view.error);
    for name in ["climbed", "absolute"] {
        assert!(!sign(name).exists(), "{name}: {:?}", fs::metadata(sign(name)).map(|meta| meta.uid()));
    }
    world.recipient_is_as_it_was().await;
    world.nothing_left(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_programs_of_a_stream_are_the_datas_owner_and_fenced_and_leave_no_link() {
    let dir = tempfile::Builder::new().prefix("oa-attack-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let (sign, told) = (dir.path().join("sign"), dir.path().join("told"));
    fs::write(&told, "").unwrap();
    // What a program could be talked into by the bytes that it is fed. It tells by a descriptor that it inherits.
    let hostile = format!(
        "cat > /dev/null; cd {{staging}}; id -u > uid; grep -E 'CapPrm|NoNewPrivs' /proc/self/status >> uid; \
         touch {}; head -c 1000 /dev/zero > ibdata1; ln -s /etc/passwd passwd; cp uid ../temporary/uid; exit 0",
        sign.display()
    );
    let prepare = "cat uid >&2; exit 9".to_owned();
    let world = world(move |id, agent| {
        if id == "db1" {
            agent.set("seed.streams.evil.give", words(&["echo", "nothing"]));
            agent.set("seed.streams.link.give", words(&["echo", "nothing"]));
        } else {
            agent.set("seed.streams.evil.take", words(&["sh", "-c", &hostile]));
            agent.set(
                "seed.streams.evil.prepare",
                words(&["sh", "-c", &format!("cd {{staging}}; {prepare}")]),
            );
            agent.set("seed.streams.link.take", words(&["sh", "-c", &hostile]));
        }
    })
    .await;
    let owner = fs::metadata(world.recipient.db.datadir()).unwrap().uid();
    let job = world.seed_from_stream("evil", swiftly()).await;
    let error = world.ended(&world.recipient, job).await.error.unwrap().message;
    for said in [format!("{owner} |"), "CapPrm:\t0000000000000000".to_owned(), "NoNewPrivs:\t1".to_owned()] {
        assert!(error.contains(&said), "{said:?} in {error}");
    }
    assert!(!sign.exists(), "it has written outside of its staging directory");

    let job = world.seed_from_stream("link", swiftly()).await;
    let view = world.ended(&world.recipient, job).await;
    let error = view.error.unwrap().message;
    assert_eq!(view.state, JobState::Failed);
    assert!(error.contains("passwd a link that leads out of it"), "{error}");
    world.recipient_is_as_it_was().await;
    world.nothing_left(PATIENCE).await;
}

/// Attacker: the data's owner, whose server tells the donor's program which plugins to load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_that_gives_a_stream_is_the_datas_owner_and_fenced() {
    let dir = tempfile::Builder::new().prefix("oa-attack-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let sign = dir.path().join("sign");
    let talked_into = format!(
        "{{ id -u; grep -E 'CapPrm|NoNewPrivs' /proc/self/status; touch {}; }} >&2; touch {{temporary}}/own; \
         test -e {{temporary}}/../../my.cnf || echo no account >&2; test -e {{temporary}}/own && exit 9",
        sign.display()
    );
    let world = world(move |id, agent| {
        let words = words(&["sh", "-c", &talked_into]);
        if id == "db1" {
            agent.set("seed.streams.evil.give", words.clone());
            agent.set("seed.streams.asked.give", words);
            agent.set("seed.streams.asked.give_as_agent", true);
        } else {
            for name in ["evil", "asked"] {
                agent.set(&format!("seed.streams.{name}.take"), self::words(&["cat"]));
            }
        }
    })
    .await;
    let owner = fs::metadata(world.donor.db.datadir()).unwrap().uid();
    for (name, user) in [("evil", owner), ("asked", nix::unistd::Uid::effective().as_raw())] {
        let job = world.seed_from_stream(name, swiftly()).await;
        let view = world.ended(&world.recipient, job).await;
        let error = view.error.unwrap();
        let told = [vec![error.message], error.causes].concat().join(" ");
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        let first = format!("{user} |");
        assert!(told.contains("exit status: 9") && told.contains(&first), "{name}: {told}");
        assert!(told.contains("NoNewPrivs: 1"), "{name}: {told}");
        if user != 0 {
            assert!(told.contains("CapPrm: 0000000000000000"), "{name}: {told}");
        }
        assert!(!sign.exists(), "{name}: it has written outside of its place");
        assert!(told.contains("no account"), "{name} was told an account that it has no use for: {told}");
    }
    world.recipient_is_as_it_was().await;
    world.nothing_left(PATIENCE).await;
}

/// Private servers that were told an option file below this directory.
fn private_servers(root: &Path) -> Vec<i32> {
    let marker = format!("--defaults-file={}/", root.display());
    let proc = fs::read_dir("/proc").unwrap();
    proc.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&marker))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_the_middle_of_a_verification_leaves_no_server_without_grants() {
    let mut world = World::start(WorldOptions { data_mib: 1, ..WorldOptions::default() }).await;
    let snapshot = world.snapshot().await;
    let root: PathBuf = world.donor.agent.dir().join("private");
    let params = SnapshotVerifyParams { snapshot: snapshot.clone(), budget_s: 60 };
    let job = world.call(&world.donor, params).await.job;
    let pid = poll::until(PATIENCE, "the private server", || private_servers(&root).first().copied());
    let owner = fs::metadata(world.donor.db.datadir()).unwrap().uid();
    assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), owner, "it is the data's owner");
    world.crash(Party::DonorsAgent).await;
    // The one that was left is gone before jobs go on; the rerun has one of its own, and ends.
    let view = world.ended(&world.donor, job).await;
    assert!(view.state.is_final(), "{view:?}");
    assert_eq!(private_servers(&root), Vec::<i32>::new());
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    let job = world.call(&world.donor, SnapshotRemoveParams { snapshot, foreign: false }).await.job;
    world.succeeded(&world.donor, job).await;
    assert!(world.donor.agent.log().contains("private servers of an earlier agent were ended"));
}

/// Attacker: whoever may listen on the whole bus, as a monitoring account may. The token of an offer goes by twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_hears_the_bus_gets_no_token_of_an_offer() {
    let world = world(|_, _| {}).await;
    let ear = async_nats::connect(world.nats.url()).await.unwrap();
    let mut heard = ear.subscribe(">").await.unwrap();
    ear.flush().await.unwrap();
    world.snapshot().await;

    let offers = world.donor.agent.state_dir().join("offers");
    let token = async {
        poll::until_async(PATIENCE, "the offer's private file", || async {
            let file = fs::read_dir(&offers).ok()?.next()?.ok()?.path();
            let private: serde_json::Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
            Some(private["token"].as_str()?.to_owned())
        })
        .await
    };
    let seed = world.ctl(&["seed", "start", "db2", "--from", "db1", "--stop-mysql"]);
    let (said, token) = tokio::join!(seed, token);
    assert_eq!(said.status.code(), Some(0), "{said:?}");

    let (mut messages, mut sealed) = (0, 0);
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(500), heard.next()).await {
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        assert!(!text.contains(&token), "the token is readable on {}", message.subject);
        messages += 1;
        sealed += usize::from(text.contains("\"sealed_by\""));
    }
    assert!(sealed >= 2, "reply and start of the offer went by: {sealed} of {messages}");
}

/// Attacker: whoever may publish in another's name (the generated permissions let nobody). Tells a key of his own in the
/// recipient's plan, so that the donor seals the token to him.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_in_the_recipients_name_gets_no_token_where_its_key_is_known() {
    let world = world(|_, _| {}).await;
    world.snapshot().await;
    let keys = world.donor.agent.dir().join("hosts.keys");
    let keys = keys.to_str().unwrap();
    let said = world.ctl(&["--host-keys", keys, "key", "pin"]).await;
    assert_eq!((said.status.code(), said.stdout.lines().count()), (Some(0), 2), "{said:?}");
    let text = fs::read_to_string(keys).unwrap();
    let again = world.ctl(&["--host-keys", keys, "key", "pin"]).await;
    assert_eq!(
        (again.status.code(), fs::read_to_string(keys).unwrap()),
        (Some(0), text.clone()),
        "{again:?}"
    );
    let other = nkeys::KeyPair::new_user().public_key();
    let rest = text.lines().find(|line| line.starts_with("db2 ")).unwrap();
    fs::write(keys, format!("db1 {other}\n{rest}\n")).unwrap();
    let changed = world.ctl(&["--host-keys", keys, "key", "pin", "db1"]).await;
    assert_eq!(changed.status.code(), Some(3), "{changed:?}");
    assert!(changed.stderr.contains("key pin --replace db1"), "{changed:?}");
    let refused = world.ctl(&["--host-keys", keys, "host", "db1", "info"]).await;
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");
    assert!(refused.stderr.contains("another key"), "{refused:?}");
    let replaced = world.ctl(&["--host-keys", keys, "key", "pin", "--replace", "db1"]).await;
    assert_eq!(replaced.status.code(), Some(0), "{replaced:?}");

    let survey = SeedSurveyParams { snapshot: None, foreign: false, stream: None };
    let donor = world.call(&world.donor, survey).await;
    let options = protocol::seed::SeedOptions { stop_mysql: true, ..Default::default() };
    let mut plan = world.call(&world.recipient, SeedPlanParams { donor, options }).await;

    // The recipient is held, so that the stranger is always the first to answer.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(world.recipient.agent.pid().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let own = nkeys::XKey::new();
    plan.seal_key = Some(own.public_key());
    let bus = async_nats::connect(world.nats.url()).await.unwrap();
    let mut asked = bus.subscribe("orch.v1.cmd.db2.seed.plan").await.unwrap();
    let mut heard = bus.subscribe("_INBOX.>").await.unwrap();
    bus.flush().await.unwrap();
    let speaking = bus.clone();
    tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            let request: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            let reply = serde_json::json!({"version": 1, "id": request["id"], "host": "db2", "result": plan});
            speaking.publish(message.reply.unwrap(), reply.to_string().into()).await.unwrap();
        }
    });
    let seed = ["--timeout", "2s", "seed", "start", "db2", "--from", "db1", "--stop-mysql"];
    let sure = world.ctl(&[&["--host-keys", keys], &seed[..]].concat()).await;
    assert_eq!(sure.status.code(), Some(77), "{sure:?}");
    assert!(
        sure.stderr.contains("this reply is not db2's") && sure.stderr.contains("not signed"),
        "{sure:?}"
    );
    assert!(stolen(&own, &mut heard).await.is_none(), "no offer was asked for");

    // What the keys keep from happening: without them the stranger has the token.
    world.ctl(&seed).await;
    assert!(stolen(&own, &mut heard).await.is_some(), "the attack is one");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
}

/// The token of an offer that went by, if this key opens it.
async fn stolen(own: &nkeys::XKey, heard: &mut async_nats::Subscriber) -> Option<Vec<u8>> {
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(500), heard.next()).await {
        let reply: serde_json::Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        let offer = &reply["result"]["offer"];
        let offer = if offer.is_null() { &reply["result"] } else { offer };
        let (Some(token), Some(by)) = (offer["token"].as_str(), offer["sealed_by"].as_str()) else {
            continue;
        };
        let by = nkeys::XKey::from_public_key(by).unwrap();
        return own.open(&data_encoding::HEXLOWER.decode(token.as_bytes()).unwrap(), &by).ok();
    }
    None
}

/// Accident: the power fails when the tree that a program has written is proven and not yet in place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_after_a_stream_takes_no_byte_of_what_was_proven() {
    let volume = Volume::make(volume::Kind::Xfs, 700);
    let place = volume.path().to_owned();
    let mut arena = with_stream(Some(volume)).await;
    let proven = Point::stage(SeedStage::Verify, Moment::Done);
    arena.points.close(proven);
    let job = arena.world.seed_from_stream("files", swiftly()).await;
    arena.points.reached(proven).await;
    let recipient = &mut arena.world.recipient;
    recipient.agent.kill9().unwrap();
    recipient.db.kill9().await.unwrap();
    let staged = recipient.db.base().join(format!(".orch-seed-{job}.data/data"));
    let before = tree::contents(&staged);
    assert!(before.contains_key(Path::new("shop/items.ibd")), "{:?}", before.keys());
    volume::cut_power(&place);
    let after = tree::contents(&staged);
    assert_eq!(before.len(), after.len());
    tree::assert_copy(&after, &before);
}
