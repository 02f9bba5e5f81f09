//! Two hosts whose agents are on networks of their own, so that the way between them can be cut while both reach the bus.

use testkit::netns::{self, Network};

use super::arena::{Arena, ArenaOptions};
use crate::world::Configure;

/// An arena whose two agents are joined by a bridge.
#[derive(Debug)]
pub struct Apart {
    /// Dropped before the network that it is on.
    pub arena: Arena,
    network: Network,
    hosts: [netns::Host; 2],
}

impl Apart {
    /// Both hosts, with the agents' own patience; none, and said so, where the machine makes no networks.
    ///
    /// # Panics
    /// When anything does not come up.
    pub async fn start(stall_s: i64, offer_s: i64, data_mib: u32) -> Option<Self> {
        if let Some(reason) = netns::unavailable_reason() {
            testkit::skip::lacking(reason);
            return None;
        }
        let network = Network::new().unwrap();
        let bus_address = Some(network.attach_test().unwrap());
        let hosts = ["db1", "db2"].map(|name| network.host(name).unwrap());
        let places = hosts.clone();
        let configure: Configure = Box::new(move |id, agent| {
            let host = places.iter().find(|host| host.name() == id).unwrap();
            agent.prefix(host.argv_prefix());
            agent.set("seed.listen", format!("{}:0", host.address()));
            agent.set("seed.stall_s", stall_s);
            agent.set("seed.offer_s", offer_s);
        });
        let options =
            ArenaOptions { configure: Some(configure), bus_address, data_mib, ..ArenaOptions::default() };
        Some(Self { arena: Arena::start(options).await, network, hosts })
    }

    /// Nothing passes between the agents from now on, silently.
    ///
    /// # Panics
    /// When the network cannot be changed.
    pub fn cut(&self) {
        self.network.cut_between(&self.hosts[0], &self.hosts[1]).unwrap();
    }

    /// Everything passes again.
    ///
    /// # Panics
    /// When the network cannot be changed.
    pub fn heal(&self) {
        self.network.heal_between(&self.hosts[0], &self.hosts[1]).unwrap();
    }
}
