//! Keeps one node told of all hosts. Nodes of a raft group do not tell one another, so each has a registrar of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use protocol::ids::AgentId;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use crate::hosts::Host;

/// Hosts appear and leave in the meantime.
const TICK: Duration = Duration::from_secs(1);
/// A node that does not answer is left alone for so long.
const PAUSE: Duration = Duration::from_secs(5);

/// The hosts that orchestrator may be told of, each with the port at which it is listened for already.
pub(crate) type Registered = Arc<RwLock<Vec<(Arc<Host>, u16)>>>;

/// How often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rhythm {
    /// Between two pings.
    pub(crate) ping: Duration,
    /// Between two submissions of one host.
    pub(crate) resubmit: Duration,
}

/// What a node was told.
struct Told {
    node: Node,
    rhythm: Rhythm,
    pinged: Option<Instant>,
    submitted: HashMap<AgentId, (Instant, u16)>,
    is_away: bool,
}

/// Registers with one node until `stop`.
pub(crate) async fn register(node: Node, registered: Registered, rhythm: Rhythm, stop: CancellationToken) {
    let mut told = Told { node, rhythm, pinged: None, submitted: HashMap::new(), is_away: false };
    loop {
        let pause = if told.round(&registered).await { TICK } else { PAUSE };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Told {
    /// Tells what is due; whether the node took it.
    async fn round(&mut self, registered: &Registered) -> bool {
        if self.pinged.is_none_or(|at| at.elapsed() >= self.rhythm.ping) {
            if let Err(error) = self.node.ping().await {
                return self.away(&error);
            }
            self.pinged = Some(Instant::now());
        }
        if self.is_away {
            // It may have come back without what it knew.
            tracing::info!(node = self.node.name(), "orchestrator is back: all hosts are submitted again");
            self.submitted.clear();
            self.is_away = false;
        }
        let hosts = registered.read().clone();
        self.submitted.retain(|agent, _| hosts.iter().any(|(host, _)| host.agent == *agent));
        for (host, port) in hosts {
            let due = self
                .submitted
                .get(&host.agent)
                .is_none_or(|(at, told)| *told != port || at.elapsed() >= self.rhythm.resubmit);
            if !due {
                continue;
            }
            if let Err(error) = self.node.submit(&host.name, port, &host.token).await {
                return self.away(&error);
            }
            tracing::debug!(node = self.node.name(), host = host.name, port, "submitted");
            self.submitted.insert(host.agent.clone(), (Instant::now(), port));
        }
        true
    }

    fn away(&mut self, error: &super::NodeError) -> bool {
        if !self.is_away {
            tracing::warn!("{}; tried again every {} s", sys::error::line(error), PAUSE.as_secs());
        }
        self.is_away = true;
        self.pinged = None;
        false
    }
}
