//! The bus looked at: what is kept where, what stands still, and what goes with each server. Judged from what JetStream tells a
//! controller; servers that keep nothing of ours are not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::jetstream::consumer::Info as ConsumerInfo;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{ClusterInfo, DiscardPolicy, Info};
use futures_util::future;
use protocol::ids::AgentId;
use protocol::subject::decode_host;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::conn::Bus;
use crate::durable::{COMMAND_STREAM, agent_of};
use crate::error::{BusError, Result};
use crate::events::{EVENT_STREAM, SETUP_HINT};
use crate::store;
use crate::streams::{self, api};

/// A stream that refuses when it is full is told of from this share of its bytes on.
const NEARLY_FULL_PERCENT: u64 = 90;

/// A copy that was not heard of for so long is taken as offline, before its server is.
const SILENT: Duration = Duration::from_secs(10);

/// The bus at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct BusStatus {
    /// What is kept.
    pub streams: Vec<StreamStatus>,
    /// The servers that keep it, and what each takes along.
    pub servers: Vec<ServerStatus>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Rights that this user lacks to see all.
    pub missing_rights: Vec<MissingRight>,
}

/// One stream of ours.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StreamStatus {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub holds: String,
    /// Messages.
    pub messages: u64,
    /// Bytes.
    pub bytes: u64,
    /// Bytes at most; absent: no bound.
    pub max_bytes: Option<u64>,
    /// Servers that are to keep it.
    pub replicas: usize,
    /// The server that leads it; absent while nobody does.
    pub leader: Option<String>,
    /// The servers that keep it.
    pub copies: Vec<CopyStatus>,
    /// Hosts for which something is left in it.
    pub waiting: Vec<Waiting>,
}

/// A copy of a stream on a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyStatus {
    /// The server.
    pub server: String,
    /// `current`, `behind` or `offline`.
    pub state: &'static str,
    /// Operations that it is behind.
    pub lag: u64,
}

/// Commands that wait for a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// For whom.
    pub host: AgentId,
    /// Not delivered yet.
    pub undelivered: u64,
    /// Delivered, and not acknowledged.
    pub unacknowledged: u64,
    /// Of these, delivered more than once.
    pub redelivered: u64,
    /// Sequence up to which all is acknowledged.
    pub acknowledged: u64,
    /// True while the host asks for more.
    pub asks: bool,
    /// True when a server leads its queue.
    pub led: bool,
}

/// What goes with a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerStatus {
    /// Its name.
    pub name: String,
    /// What stands still while it is away.
    pub stands_still: Vec<String>,
    /// What is lost with its disk.
    pub lost_with_disk: Vec<String>,
}

/// Something is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What, and where.
    pub what: String,
    /// What to do.
    pub next: Option<String>,
}

/// What this user may not see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingRight {
    /// What cannot be told without it.
    pub what: String,
    /// The subject to which the user may not publish.
    pub subject: String,
}

impl BusStatus {
    fn problem(&mut self, what: String, next: Option<&str>) {
        self.problems.push(Problem { what, next: next.map(str::to_owned) });
    }

    /// Notes why something could not be looked at.
    fn unseen(&mut self, what: &str, error: &BusError) {
        match error {
            BusError::NotPermitted { subject, .. } => {
                self.missing_rights.push(MissingRight { what: what.to_owned(), subject: subject.clone() });
            }
            other => self.problem(format!("{what}: {}", sys::error::line(other)), None),
        }
    }
}

/// Looks at the streams of this product and at the servers that keep them.
///
/// # Errors
/// When there is no connection, or JetStream as a whole does not work. What single streams do not tell is among the problems.
pub async fn look(bus: &Bus) -> Result<BusStatus> {
    let mut status = BusStatus::default();
    let mut wanted = vec![
        (EVENT_STREAM.to_owned(), "events".to_owned()),
        (COMMAND_STREAM.to_owned(), "queued commands".to_owned()),
    ];
    match store::buckets(bus).await {
        Ok(donors) => wanted.extend(donors.into_iter().filter_map(|token| {
            let donor = decode_host(&token)?;
            Some((store::stream_of(&donor), format!("a seed's data from {donor}")))
        })),
        Err(BusError::NoResponders { .. }) => {
            let why = "it is not enabled on the server, or not for this account".to_owned();
            return Err(BusError::NoJetStream { why });
        }
        Err(error @ (BusError::NoJetStream { .. } | BusError::NotConnected { .. })) => return Err(error),
        Err(error) => status.unseen("buckets of seeds", &error),
    }
    let found = future::join_all(wanted.iter().map(|(name, _)| info(bus, name))).await;
    for ((name, holds), found) in wanted.into_iter().zip(found) {
        match found {
            Ok(Some(info)) => {
                let waiting =
                    if name == COMMAND_STREAM { waiting(bus, &mut status).await } else { Vec::new() };
                let one = stream(bus, &info, holds, waiting);
                judge(&mut status, &one, &info);
                status.streams.push(one);
            }
            Ok(None) if name == EVENT_STREAM => {
                status
                    .problem("there is no stream of events; they wait on the hosts".into(), Some(SETUP_HINT));
            }
            // The first queued command makes it; a bucket may have gone meanwhile.
            Ok(None) => {}
            Err(error) => status.unseen(&format!("{name} ({holds})"), &error),
        }
    }
    status.servers = servers(&status.streams);
    let cluster = bus.client().try_server_info().map_or(0, |info| info.connect_urls.len());
    few_replicas(&mut status, cluster);
    Ok(status)
}

async fn info(bus: &Bus, name: &str) -> Result<Option<Info>> {
    match streams::info(bus, name).await {
        Ok(info) => Ok(Some(info)),
        Err(BusError::JetStream { source, .. }) if streams::is_missing(source.as_ref()) => Ok(None),
        Err(error) => Err(error),
    }
}

fn stream(bus: &Bus, info: &Info, holds: String, waiting: Vec<Waiting>) -> StreamStatus {
    let (leader, copies) = match &info.cluster {
        Some(cluster) => (cluster.leader.clone().filter(|name| !name.is_empty()), copies(cluster)),
        None => {
            let alone = alone(bus);
            let copy = alone.clone().map(|server| CopyStatus { server, state: "current", lag: 0 });
            (alone, copy.into_iter().collect())
        }
    };
    StreamStatus {
        name: info.config.name.clone(),
        holds,
        messages: info.state.messages,
        bytes: info.state.bytes,
        max_bytes: u64::try_from(info.config.max_bytes).ok().filter(|most| *most > 0),
        replicas: info.config.num_replicas.max(1),
        leader,
        copies,
        waiting,
    }
}

/// The server that keeps what is not in a cluster: the one that we are connected to, or at another place one whose name is not told.
fn alone(bus: &Bus) -> Option<String> {
    let here = bus.client().try_server_info()?;
    match &bus.config().jetstream_domain {
        Some(domain) if here.domain.as_ref() != Some(domain) => {
            Some(format!("the server of domain {domain}"))
        }
        _ => Some(here.server_name),
    }
}

fn copies(cluster: &ClusterInfo) -> Vec<CopyStatus> {
    let leader = cluster.leader.clone().filter(|name| !name.is_empty());
    let leader = leader.map(|server| CopyStatus { server, state: "current", lag: 0 });
    let others = cluster.replicas.iter().map(|peer| CopyStatus {
        server: peer.name.clone(),
        state: match peer.current && !peer.offline {
            true => "current",
            false if peer.offline || peer.active > SILENT => "offline",
            false => "behind",
        },
        lag: peer.lag.unwrap_or_default(),
    });
    let mut all: Vec<CopyStatus> = leader.into_iter().chain(others).collect();
    all.sort_by(|a, b| a.server.cmp(&b.server));
    all
}

fn judge(status: &mut BusStatus, stream: &StreamStatus, info: &Info) {
    let (name, holds) = (&stream.name, &stream.holds);
    if stream.leader.is_none() {
        status.problem(format!("{name} ({holds}) has no leader: nothing goes in or out"), None);
    }
    for copy in stream.copies.iter().filter(|copy| copy.state != "current") {
        let lag = if copy.lag > 0 { format!(", {} operations", copy.lag) } else { String::new() };
        status.problem(format!("{name} ({holds}): its copy on {} is {}{lag}", copy.server, copy.state), None);
    }
    let missing = stream.replicas.saturating_sub(stream.copies.len());
    if missing > 0 {
        status.problem(
            format!("{name} ({holds}): {missing} of {} copies have no server", stream.replicas),
            None,
        );
    }
    if let Some(most) = stream.max_bytes
        && info.config.discard == DiscardPolicy::New
        && stream.name == COMMAND_STREAM
        && stream.bytes >= most / 100 * NEARLY_FULL_PERCENT
    {
        let next =
            "raise max_bytes with `nats stream edit`, or remove commands for hosts that are gone for good";
        status.problem(format!("{name} ({holds}) is nearly full and then refuses"), Some(next));
    }
    for waiting in &stream.waiting {
        let host = &waiting.host;
        if !waiting.led {
            status.problem(format!("the queue of {host} has no leader: its commands do not come"), None);
        }
        if waiting.redelivered > 0 {
            let next = "is an agent of this host on the bus, with permissions that `orchestrator-ctl bus config` of this version made?";
            let many = waiting.redelivered;
            status.problem(
                format!("{many} commands come to {host} again and again and are not acknowledged"),
                Some(next),
            );
        }
    }
}

/// The hosts for which commands wait.
async fn waiting(bus: &Bus, status: &mut BusStatus) -> Vec<Waiting> {
    #[derive(Deserialize)]
    struct Page {
        total: usize,
        consumers: Option<Vec<ConsumerInfo>>,
    }
    let (mut found, mut seen) = (Vec::new(), 0);
    let mut not_whole = BTreeMap::new();
    loop {
        let body = json!({ "offset": seen }).to_string().into_bytes();
        let page = match api::<Page>(bus, &format!("CONSUMER.LIST.{COMMAND_STREAM}"), body).await {
            Ok(Response::Ok(page)) => page,
            Ok(Response::Err { error }) => {
                status.unseen("queues of hosts", &BusError::jetstream("cannot list them", error));
                return found;
            }
            Err(error) => {
                status.unseen("queues of hosts", &error);
                return found;
            }
        };
        let consumers = page.consumers.unwrap_or_default();
        seen += consumers.len();
        let end = consumers.is_empty() || seen >= page.total;
        let clusters = consumers.iter().filter_map(|info| info.cluster.as_ref());
        for copy in clusters.flat_map(copies).filter(|copy| copy.state != "current") {
            *not_whole.entry((copy.server, copy.state)).or_insert(0) += 1;
        }
        found.extend(consumers.into_iter().filter_map(|info| {
            let led =
                info.cluster.as_ref().is_none_or(|c| c.leader.as_ref().is_some_and(|name| !name.is_empty()));
            Some(Waiting {
                host: agent_of(&info.name)?,
                undelivered: info.num_pending,
                unacknowledged: u64::try_from(info.num_ack_pending).unwrap_or(u64::MAX),
                redelivered: u64::try_from(info.num_redelivered).unwrap_or(u64::MAX),
                acknowledged: info.ack_floor.stream_sequence,
                asks: info.num_waiting > 0,
                led,
            })
        }));
        if end {
            // How far a host has come is kept by a group of its own, and can be lost while the commands are not.
            for ((server, state), count) in not_whole {
                status.problem(format!("the copies on {server} of {count} hosts' queues are {state}"), None);
            }
            found.retain(|one| one.undelivered > 0 || one.unacknowledged > 0 || !one.led);
            return found;
        }
    }
}

/// What goes with each server.
fn servers(streams: &[StreamStatus]) -> Vec<ServerStatus> {
    let names: BTreeSet<&String> = streams.iter().flat_map(|s| &s.copies).map(|copy| &copy.server).collect();
    let mut servers: BTreeMap<&String, ServerStatus> = names
        .into_iter()
        .map(|name| {
            let (stands_still, lost_with_disk) = (Vec::new(), Vec::new());
            (name, ServerStatus { name: name.clone(), stands_still, lost_with_disk })
        })
        .collect();
    for stream in streams {
        for copy in &stream.copies {
            let Some(server) = servers.get_mut(&copy.server) else { continue };
            let others = || stream.copies.iter().filter(|other| other.server != copy.server);
            // One that is behind may be one that is gone: only those that are known to keep up carry on.
            let carry_on = others().filter(|other| other.state == "current").count();
            if copy.state == "current" && carry_on < stream.replicas / 2 + 1 {
                server.stands_still.push(stream.holds.clone());
            }
            if !others().any(|other| other.state == "current") {
                server.lost_with_disk.push(format!("{} ({} messages)", stream.holds, stream.messages));
            }
        }
    }
    servers.into_values().collect()
}

/// Streams that one server keeps though there are three; what somebody asked for is no fault.
fn few_replicas(status: &mut BusStatus, cluster: usize) {
    let known = status.servers.len().max(cluster);
    let few: Vec<String> = status
        .streams
        .iter()
        .filter(|stream| known >= 3 && stream.replicas < 3 && !stream.holds.starts_with("a seed"))
        .map(|stream| {
            format!(
                "{} ({}) has {} replica(s) on {known} servers",
                stream.name, stream.holds, stream.replicas
            )
        })
        .collect();
    for what in few {
        status.problem(
            what,
            Some("`orchestrator-ctl bus setup` raises it, `orchestrator-ctl bus setup --replicas 3` also where somebody wanted fewer"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(replicas: usize, copies: &[(&str, &'static str)]) -> StreamStatus {
        let copies = copies
            .iter()
            .map(|(server, state)| CopyStatus { server: (*server).to_owned(), state, lag: 0 })
            .collect();
        StreamStatus {
            name: EVENT_STREAM.into(),
            holds: "events".into(),
            messages: 7,
            bytes: 0,
            max_bytes: None,
            replicas,
            leader: None,
            copies,
            waiting: Vec::new(),
        }
    }

    #[test]
    fn what_goes_with_a_server_follows_from_the_copies_that_are_left() {
        let told = |stream: StreamStatus| {
            let servers = servers(&[stream]).into_iter();
            servers.map(|s| (!s.stands_still.is_empty(), !s.lost_with_disk.is_empty())).collect::<Vec<_>>()
        };
        assert_eq!(told(kept(1, &[("a", "current")])), [(true, true)]);
        assert_eq!(told(kept(2, &[("a", "current"), ("b", "current")])), [(true, false); 2]);
        let three = |c| kept(3, &[("a", "current"), ("b", "current"), ("c", c)]);
        assert_eq!(told(three("current")), [(false, false); 3]);
        assert_eq!(told(three("offline")), [(true, false), (true, false), (false, false)]);
        let behind = kept(3, &[("a", "current"), ("b", "behind"), ("c", "offline")]);
        assert_eq!(told(behind), [(true, true), (false, false), (false, false)]);
    }
}
