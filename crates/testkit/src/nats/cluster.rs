//! Several real nats-servers with routes to one another, as one bus: any number, any version each, on the loopback only.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{NatsOptions, NatsServer};
use crate::poll;
use crate::port::Port;

/// A new leader is elected within seconds; a busy machine gets much more.
const ELECTED_WITHIN: Duration = Duration::from_secs(60);

/// Servers that are one bus. Each can be killed, frozen and started again by itself.
#[derive(Debug)]
pub struct NatsCluster {
    nodes: Vec<NatsServer>,
    monitors: Vec<Port>,
    _others: Vec<Port>,
}

/// The name of a cluster's site where there is only one.
const SITE: &str = "test";

impl NatsCluster {
    /// Starts one server per entry, named `n0`, `n1`, …, and waits until their JetStream has a leader, where they have JetStream.
    ///
    /// # Errors
    /// When a server does not start or no leader is elected.
    pub fn start(options: &[NatsOptions]) -> Result<Self> {
        Self::at_sites(&options.iter().map(|options| (SITE, options.clone())).collect::<Vec<_>>())
    }

    /// Starts one server per entry, each in the cluster of its site; sites are joined by gateways.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn at_sites(options: &[(&str, NatsOptions)]) -> Result<Self> {
        let ports = || options.iter().map(|_| Port::claim()).collect::<Result<Vec<_>>>();
        let (routes, gateways, monitors) = (ports()?, ports()?, ports()?);
        let urls_in = |site: &str, ports: &[Port]| {
            let here = options.iter().zip(ports).filter(|((other, _), _)| *other == site);
            here.map(|(_, port)| format!("nats://127.0.0.1:{}", port.number())).collect::<Vec<_>>()
        };
        let sites: BTreeSet<&str> = options.iter().map(|(site, _)| *site).collect();
        let joined =
            sites.iter().map(|site| format!("{{ name: {site}, urls: {:?} }}", urls_in(site, &gateways)));
        let joined = joined.collect::<Vec<_>>().join(", ");
        let mut nodes = Vec::new();
        for (at, (site, options)) in options.iter().enumerate() {
            let gateway = match sites.len() {
                1 => String::new(),
                _ => format!(
                    "gateway {{ name: {site}, listen: \"127.0.0.1:{}\", gateways: [{joined}] }}\n",
                    gateways[at].number()
                ),
            };
            let own = format!(
                "server_name: n{at}\nhttp: \"127.0.0.1:{}\"\n\
                 cluster {{ name: {site}, listen: \"127.0.0.1:{}\", routes: {:?} }}\n{gateway}{}",
                monitors[at].number(),
                routes[at].number(),
                urls_in(site, &routes),
                options.config
            );
            let mut node = NatsServer::down(&NatsOptions { config: own, ..options.clone() })?;
            node.restart()?;
            nodes.push(node);
        }
        let cluster = Self { nodes, monitors, _others: routes.into_iter().chain(gateways).collect() };
        if options.iter().any(|(_, options)| options.jetstream) {
            cluster.elected(options.len());
        }
        Ok(cluster)
    }

    /// `size` servers with JetStream and the same options.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn of(size: usize, options: &NatsOptions) -> Result<Self> {
        Self::start(&vec![NatsOptions { jetstream: true, ..options.clone() }; size])
    }

    /// The addresses of all, as a client's list of servers.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(NatsServer::url).collect()
    }

    /// A server by its number.
    #[must_use]
    pub fn node(&self, at: usize) -> &NatsServer {
        &self.nodes[at]
    }

    /// A server by its number, to be killed or started again.
    pub fn node_mut(&mut self, at: usize) -> &mut NatsServer {
        &mut self.nodes[at]
    }

    /// Kills a server and removes its store, as when its disk is lost. It stays down.
    ///
    /// # Errors
    /// When the store cannot be removed.
    pub fn wipe(&mut self, at: usize) -> Result<()> {
        let node = self.node_mut(at);
        node.kill9();
        fs::remove_dir_all(node.dir().join("store")).context("cannot remove the store")
    }

    /// Waits until JetStream's own group has a leader that has seen so many servers.
    ///
    /// # Panics
    /// When that does not come about.
    pub fn elected(&self, servers: usize) {
        poll::until(ELECTED_WITHIN, "the servers to elect a leader of JetStream", || {
            self.running()
                .any(|at| {
                    let Ok(state) = self.monitor(at, "/jsz") else { return false };
                    let meta = &state["meta_cluster"];
                    let leads = meta["leader"].as_str() == Some(&name(at));
                    let followers = meta["replicas"].as_array().map_or(&[][..], Vec::as_slice);
                    let here = followers.iter().filter(|peer| peer["offline"].as_bool() != Some(true));
                    leads && here.count() + 1 >= servers
                })
                .then_some(())
        });
    }

    /// The number of the server that leads a stream; none while nobody does.
    #[must_use]
    pub fn leader_of(&self, stream: &str) -> Option<usize> {
        self.running().find_map(|at| {
            let found = self.copy(at, stream)?;
            (found["cluster"]["leader"].as_str()? == name(at)).then_some(at)
        })
    }

    /// Messages that each server has of a stream, and the sequence of the last one, by its own word; absent: it has no copy, or is down.
    #[must_use]
    pub fn kept(&self, stream: &str) -> Vec<Option<(u64, u64)>> {
        let of = |at| {
            let state = &self.copy(at, stream)?["state"];
            Some((state["messages"].as_u64()?, state["last_seq"].as_u64()?))
        };
        (0..self.nodes.len()).map(of).collect()
    }

    /// What a server tells of its copy of a stream.
    fn copy(&self, at: usize, stream: &str) -> Option<Value> {
        let state = self.monitor(at, "/jsz?accounts=true&streams=true").ok()?;
        let accounts = state["account_details"].as_array()?.iter();
        let mut streams =
            accounts.flat_map(|account| account["stream_detail"].as_array().into_iter().flatten());
        streams.find(|found| found["name"] == stream).cloned()
    }

    /// The number of a server that runs and keeps a copy of a stream without leading it.
    #[must_use]
    pub fn follower_of(&self, stream: &str) -> Option<usize> {
        let leader = self.leader_of(stream)?;
        let state = self.monitor(leader, "/jsz?accounts=true&streams=true").ok()?;
        let text = state.to_string();
        self.running().find(|at| *at != leader && text.contains(&format!("\"name\":\"{}\"", name(*at))))
    }

    /// Has the leader of a stream step down: another one is elected. Without accounts only: users with rights ask by themselves.
    ///
    /// # Errors
    /// When no server is asked or it refuses.
    pub async fn step_down(&self, stream: &str) -> Result<()> {
        let client = async_nats::connect(self.urls()).await?;
        let answer = client.request(format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}"), "".into()).await?;
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        if answer["success"] != true {
            bail!("the leader of {stream} did not step down: {answer}");
        }
        Ok(())
    }

    fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].pid().is_some())
    }

    /// What a server's monitoring says.
    fn monitor(&self, at: usize, path: &str) -> Result<Value> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.monitors[at].number()));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let text = String::from_utf8(answer)?;
        let (_, body) = text.split_once("\r\n\r\n").context("no answer of the monitoring")?;
        Ok(serde_json::from_str(body)?)
    }
}

/// The name of a server.
fn name(at: usize) -> String {
    format!("n{at}")
}
