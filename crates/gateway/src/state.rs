//! What handlers share.

use std::sync::Arc;
use std::time::Duration;

use protocol::seed::SeedOptions;

use crate::address::Network;
use crate::ask::Ask;
use crate::config::DatadirDelete;
use crate::hosts::Hosts;
use crate::seeds::Seeds;

/// The gateway as handlers see it.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// Asks agents.
    pub(crate) ask: Ask,
    /// The hosts of the fleet.
    pub(crate) hosts: Arc<Hosts>,
    /// Seeds under way.
    pub(crate) seeds: Seeds,
    /// What is allowed in them.
    pub(crate) seed_options: SeedOptions,
    /// Nothing is changed.
    pub(crate) read_only: bool,
    /// Who may change something.
    pub(crate) actors: Vec<Network>,
    /// What an order to erase a datadir comes to.
    pub(crate) datadir_delete: DatadirDelete,
    /// How long the question whether a seed is over is held.
    pub(crate) hold: Duration,
}
