//! How orchestrator learns of hosts, and what it keeps being told.

use std::time::Duration;

use e2e::world::{PATIENCE, client, serving};
use protocol::params::AgentInfoParams;
use testkit::agent::{Agent, AgentOptions};
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;
use testkit::port::Port;

use crate::node::Node;
use crate::program::Gateway;
use crate::web;

async fn agent(nats: &NatsServer, id: &str) -> Agent {
    let agent = Agent::start(AgentOptions::new(id, &nats.url())).unwrap();
    serving(&client(&nats.url()).await, agent.id()).await;
    agent
}

async fn submitted(node: &Node, count: usize) {
    poll::until_async(PATIENCE, format!("{count} submissions"), || async {
        (node.submissions() >= count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_submitted_once_listened_for_and_again_to_a_node_that_was_away() {
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let db1 = agent(&nats, "db1").await;
    let mut node = Node::start().await;
    let mut gateway = Gateway::start(&nats.url(), &node, "gateway.forget_after_s = 4\nbus.name = \"gw\"");
    let (port, token) = node.agent("db1").await;
    assert_eq!((port, token.len()), (gateway.address().port(), 64));
    // A host that comes later.
    let _db2 = agent(&nats, "db2").await;
    let (_, second) = node.agent("db2").await;
    assert_ne!(token, second);
    poll::until_async(PATIENCE, "pings", || async { (node.pings() >= 2).then_some(()) }).await;
    assert_eq!(node.submissions(), 2, "once is enough");

    node.stop().await;
    poll::until_async(PATIENCE, "the node to be missed", || async {
        gateway.log().contains("cannot be reached").then_some(())
    })
    .await;
    node.boot().await;
    submitted(&node, 2).await;
    assert_eq!(node.agent("db1").await, (port, token.clone()));

    gateway.kill();
    node.boot_again().await;
    gateway.boot();
    assert_eq!(node.agent("db1").await, (port, token.clone()), "what orchestrator knows outlives a restart");

    // One that left is forgotten, and its questions are answered as such.
    let path = format!("/api/hostname?token={token}");
    assert_eq!(gateway.get("db1", &path).await.unwrap().status, 200);
    drop(db1);
    let away = poll::until_async(PATIENCE, "db1 not to answer", || async {
        let port = gateway.get("db1", &format!("/api/mysql-port?token={token}")).await?;
        (port.status == 500).then_some(port)
    });
    assert!(away.await.body.contains("db1 is not on the bus"));
    let runs = gateway.get("db1", &format!("/api/mysql-status?token={token}")).await.unwrap();
    assert_eq!(
        (runs.status, runs.body.as_str()),
        (200, "true"),
        "nobody can tell, and an error would mean stopped"
    );
    poll::until_async(Duration::from_secs(120), "db1 to be forgotten", || async {
        gateway.get("db1", &path).await.filter(|reply| reply.status == 404).map(drop)
    })
    .await;
    assert_eq!(gateway.get("db2", "/api/hostname").await.unwrap().body, "\"db2\"");
    assert_eq!(gateway.log().matches("a host has left").count(), 1, "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_host_has_a_port_of_its_own_and_keeps_it() {
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let _agents = [agent(&nats, "db1").await, agent(&nats, "db2").await];
    let mut node = Node::start().await;
    // Two that lie beside one another are not easily had: as many as there are between two that are free.
    let (a, b) = (Port::claim().unwrap(), Port::claim().unwrap());
    let (first, last) = (a.number().min(b.number()), a.number().max(b.number()));
    let more = format!("listen.ports = [{first}, {last}]\ngateway.name = \"{{host}}.gw.example.com\"");
    let mut gateway = Gateway::start(&nats.url(), &node, &more);
    let ports = [node.agent("db1.gw.example.com").await.0, node.agent("db2.gw.example.com").await.0];
    assert_ne!(ports[0], ports[1]);
    for (port, name) in ports.into_iter().zip(["db1", "db2"]) {
        // Whatever the header says.
        let reply = web::get(([127, 0, 0, 1], port).into(), "gateway", "/api/hostname").await.unwrap();
        assert_eq!(reply.body, format!("\"{name}.gw.example.com\""));
    }
    gateway.kill();
    node.boot_again().await;
    gateway.boot();
    assert_eq!(node.agent("db2.gw.example.com").await.0, ports[1]);
    assert_eq!(node.agent("db1.gw.example.com").await.0, ports[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_hosts_are_known_by_their_keys_no_other_reply_is_taken() {
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let agents = [agent(&nats, "db1").await, agent(&nats, "db2").await];
    let asker = client(&nats.url()).await;
    let info = asker.call(agents[0].id(), AgentInfoParams {}, &bus::CallOptions::default()).await.unwrap();
    let (own, strange) = (info.reply_key.unwrap(), nkeys::KeyPair::new_user().public_key());
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("hosts.keys");
    std::fs::write(&keys, format!("db1 {own}\ndb2 {strange}\n")).unwrap();
    let node = Node::start().await;
    let more = format!("gateway.host_keys_file = {:?}", keys.display().to_string());
    let gateway = Gateway::start(&nats.url(), &node, &more);
    for (host, status) in [("db1", 200), ("db2", 500)] {
        let (_, token) = node.agent(host).await;
        let reply = gateway.get(host, &format!("/api/lvs-snapshots?token={token}")).await.unwrap();
        assert_eq!(reply.status, status, "{host}: {reply:?}");
        assert_eq!(reply.body.contains("signed by another key"), host == "db2", "{reply:?}");
    }
}
