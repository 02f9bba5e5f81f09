//! Several places as one bus: two clusters with gateways, and a hub with leaf nodes. Everything is kept at one place.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bus::config::Credentials;
use bus::durable::{COMMAND_STREAM, command_stream_limits, ensure_command_stream};
use bus::events::{ensure_event_stream, event_stream_limits};
use bus::permissions::{AgentUser, BusUsers, NamedUser, Profile, agent_inbox, server_config, user_inbox};
use bus::store::{self, Giver, Taker, Way};
use bus::{Answer, Authority, Bus, BusConfig, CallOptions, Client, StreamLimits, Window};
use nkeys::KeyPair;
use protocol::event::{AgentStopped, EventData};
use protocol::ids::JobId;
use protocol::params::MysqlStartParams;
use serde_json::json;
use tempfile::TempDir;
use testkit::nats::{NatsCluster, NatsOptions, NatsServer};
use testkit::port::Port;
use tokio_util::sync::CancellationToken;

use crate::events::{all, outbox};
use crate::kit::*;

on_each_server!(a_hub_and_its_leaf_nodes_are_one_bus, two_sites_with_gateways_are_one_bus);

const HUB: &str = "hub";

/// A person where everything is kept, a host and a person at each of two places, of which the second can be cut off and joined again.
struct Places<C, J> {
    ctl: Bus,
    hosts: [Bus; 2],
    people: [Bus; 2],
    cut: C,
    join: J,
}

async fn join(url: String, config: BusConfig) -> Bus {
    let config = BusConfig { servers: vec![url], request_timeout_ms: 5_000, ..config };
    let bus = Bus::connect(&config, "test").await.unwrap();
    bus.connected(LIMIT).await.unwrap();
    bus
}

/// Users with the rights that `bus config` gives them, and how each logs in.
struct Users {
    dir: TempDir,
    accounts: String,
}

impl Users {
    fn of_domain(domain: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = |name: &str| {
            let (pair, path) = (KeyPair::new_user(), dir.path().join(name));
            std::fs::write(&path, pair.seed().unwrap()).unwrap();
            set_mode(&path, 0o600);
            pair.public_key()
        };
        let agents = ["db1", "db2"].map(|name| AgentUser { agent: agent(name), key: key(name) }).into();
        let controllers = vec![NamedUser { name: "ctl".into(), key: key("ctl") }];
        let users = BusUsers { agents, controllers, domain: Some(domain.to_owned()), ..BusUsers::default() };
        let accounts = server_config(&users, Profile::Simple).unwrap();
        Self { dir, accounts }
    }

    fn config(&self, name: &str, domain: Option<&str>) -> BusConfig {
        let inbox = if name == "ctl" { user_inbox(name) } else { agent_inbox(&agent(name)) };
        BusConfig {
            credentials: Some(Credentials::NkeyFile(self.dir.path().join(name))),
            inbox_prefix: Some(inbox),
            jetstream_domain: domain.map(str::to_owned),
            ..BusConfig::default()
        }
    }
}

async fn a_hub_and_its_leaf_nodes_are_one_bus(program: Option<PathBuf>) {
    let (port, users) = (Port::claim().unwrap(), Users::of_domain(HUB));
    let number = port.number();
    // A leaf node's own JetStream is somebody else's.
    let server = |name: &str, links: String| {
        let config = format!("server_name: {name}\n{links}{}", users.accounts);
        let domain = Some(name.to_owned());
        let options = NatsOptions { program: program.clone(), domain, config, ..NatsOptions::jetstream() };
        NatsServer::start(&options).unwrap()
    };
    let site = "users: [{ user: site, password: s3cret, account: ORCH }]";
    let hub =
        server(HUB, format!("leafnodes {{ listen: \"127.0.0.1:{number}\", authorization {{ {site} }} }}\n"));
    let remote = format!(
        "leafnodes {{ remotes: [{{ url: \"nats-leaf://site:s3cret@127.0.0.1:{number}\", account: ORCH }}] }}\n"
    );
    let (here, there) = (server("here", remote.clone()), server("there", remote));
    let at = |server: &NatsServer, name: &str| join(server.url(), users.config(name, Some(HUB)));
    let hosts = [at(&here, "db1").await, at(&there, "db2").await];
    let people = [at(&here, "ctl").await, at(&there, "ctl").await];
    let ctl = join(hub.url(), users.config("ctl", Some(HUB))).await;
    let there = RefCell::new(there);
    let cut = || there.borrow_mut().kill9();
    assert_one_bus(Places { ctl, hosts, people, cut, join: || there.borrow_mut().restart().unwrap() }).await;
    for server in [&hub, &here, &there.borrow()] {
        assert!(!server.log().contains("Violation"), "{}", server.log());
    }
}

async fn two_sites_with_gateways_are_one_bus(program: Option<PathBuf>) {
    let node = |site| (site, NatsOptions { program: program.clone(), ..NatsOptions::jetstream() });
    // The site that keeps everything has the majority, so that it goes on alone.
    let sites = ["here", "here", "here", "there", "there"].map(node);
    let sites = NatsCluster::at_sites(&sites).unwrap();
    let at = |node: usize| join(sites.node(node).url(), BusConfig::default());
    let (ctl, hosts, people) = (at(0).await, [at(1).await, at(3).await], [at(2).await, at(4).await]);
    let sites = RefCell::new(sites);
    let cut = || [3, 4].into_iter().for_each(|at| sites.borrow_mut().node_mut(at).kill9());
    let join = || [3, 4].into_iter().for_each(|at| sites.borrow_mut().node_mut(at).restart().unwrap());
    assert_one_bus(Places { ctl, hosts, people, cut, join }).await;
}

/// Commands, queued commands, data through the bus and events cross; what happens while a place is cut off is told later, once.
async fn assert_one_bus<C: Fn(), J: Fn()>(places: Places<C, J>) {
    let Places { ctl, hosts: [here, there], people: [one, other], cut, join } = places;
    testkit::poll::until_async(LIMIT, "the streams", || async {
        let events = StreamLimits { max_bytes: 16 << 20, ..event_stream_limits() };
        let commands = StreamLimits { max_bytes: 16 << 20, ..command_stream_limits() };
        ensure_event_stream(&ctl, &events).await.ok()?;
        ensure_command_stream(&ctl, &commands).await.ok()
    })
    .await;
    let client = |bus: &Bus| Client::new(bus.clone(), None, "tester");
    let options = CallOptions { timeout: LIMIT, ..CallOptions::default() };
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());

    // A command left for a host that comes at the other place.
    let queue = CallOptions { queue: Some(Duration::from_secs(3_600)), ..options.clone() };
    let left = client(&one).call_or_queue(&agent("db2"), MysqlStartParams {}, &queue).await.unwrap();
    assert!(matches!(left, Answer::Queued(_)), "{left:?}");
    let handler = |name: &str| TestHandler::new(&agent(name), |_| Ok(json!({"job": JobId::generate()})));
    let start = |bus: &Bus, name: &'static str, at: usize| {
        let (bus, dir) = (bus.clone(), &dirs[at]);
        let ctl = &ctl;
        async move {
            TestAgent::start_asked_by(&bus, ctl, &agent(name), dir, handler(name), Authority::accept_all())
                .await
        }
    };
    let (db1, db2) = (start(&here, "db1", 0).await, start(&there, "db2", 1).await);
    testkit::poll::until_async(LIMIT, "the queued command to run", || async {
        let stream = ctl.jetstream().get_stream(COMMAND_STREAM).await.ok()?;
        (db2.handler.calls() == 1 && stream.cached_info().state.messages == 0).then_some(())
    })
    .await;
    client(&one).call(&agent("db2"), MysqlStartParams {}, &options).await.unwrap();
    client(&other).call(&agent("db1"), MysqlStartParams {}, &options).await.unwrap();
    for asker in [&ctl, &one, &other] {
        let mut fleet: Vec<_> = client(asker)
            .fleet(Window { max: LIMIT, quiet: Duration::from_secs(1) })
            .await
            .unwrap()
            .into_iter()
            .map(|beat| beat.agent.to_string())
            .collect();
        fleet.sort_unstable();
        assert_eq!(fleet, ["db1", "db2"]);
    }
    data_cross(&ctl, &there, &here).await;
    one_view(&[&ctl, &one, &other]).await;

    let stop = CancellationToken::new();
    let (spool_here, spool_there) = (outbox(dirs[0].path(), "db1"), outbox(dirs[1].path(), "db2"));
    let sending = [
        spool_here.spawn_sender(here.clone(), stop.clone()),
        spool_there.spawn_sender(there.clone(), stop.clone()),
    ];
    let tell = async |count: u64| {
        for n in 0..count {
            let event = || EventData::AgentStopped(AgentStopped { reason: n.to_string() });
            spool_here.publish(event()).await.unwrap();
            spool_there.publish(event()).await.unwrap();
        }
    };
    tell(5).await;
    assert!(spool_here.flush(LIMIT).await && spool_there.flush(LIMIT).await);
    cut();
    testkit::poll::until_true(LIMIT, "the place to be cut off", || !there.is_connected());
    tell(5).await;
    assert!(spool_here.flush(LIMIT).await, "the other place goes on");
    client(&ctl).call(&agent("db1"), MysqlStartParams {}, &options).await.unwrap();
    join();
    assert!(spool_there.flush(LIMIT).await, "what happened while it was cut off is told");
    for reader in [&ctl, &other] {
        let mut told: Vec<(String, u64)> = testkit::poll::until_async(LIMIT, "all events", || async {
            let events = all(reader).await;
            (events.len() >= 20).then_some(events)
        })
        .await
        .into_iter()
        .map(|event| (event.event.host.to_string(), event.event.sequence))
        .collect();
        told.sort_unstable();
        let each = |host: &str| (1..=10).map(|sequence| (host.to_owned(), sequence)).collect::<Vec<_>>();
        assert_eq!(told, [each("db1"), each("db2")].concat(), "each once");
    }
    client(&ctl).call(&agent("db2"), MysqlStartParams {}, &options).await.unwrap();
    stop.cancel();
    for sender in sending {
        sender.await.unwrap();
    }
    db1.stop().await;
    db2.stop().await;
}

/// Whoever looks at the bus sees the same, wherever he is, and nothing wrong with it.
async fn one_view(from: &[&Bus]) {
    let alike = || async {
        let mut views = Vec::new();
        for bus in from {
            let seen = bus::status::look(bus).await.ok()?;
            assert_eq!(seen.missing_rights, [], "{seen:?}");
            // From another domain its server has no name.
            let plain = |server: &str| server.trim_start_matches("the server of domain ").to_owned();
            let streams = seen.streams.iter().map(|stream| {
                let kept = stream.copies.iter().map(|copy| (plain(&copy.server), copy.state));
                (stream.name.clone(), stream.leader.as_deref().map(plain), kept.collect::<Vec<_>>())
            });
            let servers = seen.servers.iter().map(|server| {
                (plain(&server.name), server.stands_still.clone(), server.lost_with_disk.clone())
            });
            views.push((streams.collect::<Vec<_>>(), servers.collect::<Vec<_>>(), seen.problems));
        }
        // What has just been written is on its way to the other copies for a moment.
        let first = views.first()?;
        (first.0.len() >= 2 && first.2.is_empty() && views.iter().all(|view| view == first)).then_some(())
    };
    testkit::poll::until_async(LIMIT, "the same view of the bus from everywhere, with nothing wrong", alike)
        .await;
}

/// A host of one place gives to one of the other through a bucket.
async fn data_cross(ctl: &Bus, from: &Bus, to: &Bus) {
    let (len, window_bytes) = (12 << 20, 8 << 20);
    let way = Way { donor: agent("db2"), recipient: agent("db1"), job: JobId::generate(), window_bytes };
    store::make_bucket(ctl, &way.donor, &way.recipient, window_bytes).await.unwrap();
    let giver = Giver::open(from.clone(), way.clone(), crate::store::service(len).await).await.unwrap();
    let taker = Taker::open(to.clone(), way).await.unwrap();
    assert_eq!(crate::store::ask(&taker, len, &AtomicU64::new(0)).await, len);
    drop(taker);
    giver.close().await.unwrap();
}

/// A stream of the leaf node's own JetStream that hears events acknowledges them first, and has them alone while the hub is away: that is no
/// proof that they are kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_of_another_domain_is_not_believed() {
    let port = Port::claim().unwrap();
    let server = |name: &str, links: String| {
        let config = format!("server_name: {name}\nleafnodes {{ {links} }}\n");
        NatsServer::start(&NatsOptions { domain: Some(name.to_owned()), config, ..NatsOptions::jetstream() })
            .unwrap()
    };
    let hub = server(HUB, format!("listen: \"127.0.0.1:{}\"", port.number()));
    let leaf = server("leaf", format!("remotes: [{{ url: \"nats-leaf://127.0.0.1:{}\" }}]", port.number()));
    let in_hub = || BusConfig { jetstream_domain: Some(HUB.to_owned()), ..BusConfig::default() };
    let (ctl, host) = (join(hub.url(), in_hub()).await, join(leaf.url(), in_hub()).await);
    let local = join(leaf.url(), BusConfig::default()).await;
    let events = StreamLimits { max_bytes: 16 << 20, ..event_stream_limits() };
    ensure_event_stream(&ctl, &events).await.unwrap();
    ensure_event_stream(&local, &events).await.unwrap();
    let (dir, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
    let spool = outbox(dir.path(), "db1");
    let sending = spool.spawn_sender(host.clone(), stop.clone());
    hub.freeze();
    spool.publish(EventData::AgentStopped(AgentStopped { reason: "x".into() })).await.unwrap();
    let why = testkit::poll::until_async(LIMIT, "the trouble", || async { spool.trouble() }).await;
    assert!(
        why.contains("orch_events of the JetStream domain \"leaf\"") && why.contains("remove it"),
        "{why}"
    );
    local.jetstream().delete_stream("orch_events").await.unwrap();
    hub.thaw();
    assert!(spool.flush(LIMIT).await, "it is told once the stream is gone");
    assert_eq!(all(&ctl).await.len(), 1);
    stop.cancel();
    sending.await.unwrap();
}

/// The samples of `ops/nats/` are what servers take, old and new.
#[test]
fn samples_are_taken_by_servers() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops/nats");
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("nats")).unwrap();
    std::fs::write(dir.path().join("nats/accounts.conf"), Users::of_domain(HUB).accounts).unwrap();
    let mut seen = 0;
    for sample in std::fs::read_dir(samples).unwrap().flatten() {
        let name = sample.file_name().into_string().unwrap();
        if !name.ends_with(".conf") {
            continue;
        }
        let path = dir.path().join(&name);
        std::fs::copy(sample.path(), &path).unwrap();
        for program in testkit::nats::matrix() {
            let said = std::process::Command::new(program).arg("-t").arg("-c").arg(&path).output().unwrap();
            assert!(said.status.success(), "{name}: {}", String::from_utf8_lossy(&said.stderr));
        }
        seen += 1;
    }
    assert_eq!(seen, 4, "one server, two sites, hub and leaf node");
}
