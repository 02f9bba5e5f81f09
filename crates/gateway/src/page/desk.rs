//! What the page knows: the fleet, its past, the pulse of seeds; and whom it asks for more.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bus::{Bus, FleetEntry};
use jiff::Timestamp;
use protocol::command::Call;
use protocol::ids::AgentId;

use super::past::Past;
use super::pulse::Pulses;
use super::trouble::{self, BusState, Known, Trouble};
use crate::ask::Ask;
use crate::failure::Failure;
use crate::follow::Readable;
use crate::view::View;

/// A host that does not answer within this is shown from its last heartbeat.
const QUESTION_LIMIT: Duration = Duration::from_millis(1_500);
/// Answers about a host are told again for so long.
const FRESH_FOR: Duration = Duration::from_secs(5);

/// All of it.
#[derive(Debug)]
pub(super) struct Desk {
    view: Arc<View>,
    bus: Bus,
    ask: OnceLock<Ask>,
    events: Arc<Readable>,
    /// A person may act by the page.
    pub(super) has_actions: bool,
    pub(super) past: Arc<Past>,
    pub(super) pulses: Arc<Pulses>,
}

/// The fleet at one moment.
#[derive(Debug)]
pub(super) struct Moment {
    /// All hosts by name.
    pub(super) fleet: Vec<FleetEntry>,
    pub(super) bus: BusState,
    /// When any host was last heard of.
    pub(super) heard: Option<Timestamp>,
    pub(super) now: Timestamp,
}

impl Desk {
    pub(super) fn new(
        view: Arc<View>,
        bus: Bus,
        events: Arc<Readable>,
        past: Arc<Past>,
        pulses: Arc<Pulses>,
        has_actions: bool,
    ) -> Self {
        Self { view, bus, ask: OnceLock::new(), events, has_actions, past, pulses }
    }

    /// From now on hosts can be asked.
    pub(super) fn asks(&self, ask: Ask) {
        let _ = self.ask.set(ask);
    }

    /// The fleet, now.
    pub(super) fn moment(&self) -> Moment {
        let (fleet, now) = (self.view.hosts(), Timestamp::now());
        let bus = BusState::of(&fleet, self.bus.is_connected());
        let silent = fleet.iter().map(|entry| entry.silent_for).min();
        let heard = silent.and_then(|silent| now.checked_sub(silent).ok());
        Moment { fleet, bus, heard, now }
    }

    /// What is wrong at that moment.
    pub(super) fn troubles(&self, moment: &Moment) -> Vec<Trouble> {
        let is_readable = self.events.now();
        self.past.look(|past| {
            trouble::all(Known {
                fleet: &moment.fleet,
                past,
                pulses: &self.pulses,
                bus: moment.bus,
                is_readable,
                now: moment.now,
            })
        })
    }

    /// Asks a host something that changes nothing.
    pub(super) async fn query<C: Call>(&self, host: &AgentId, params: C) -> Result<Arc<C::Reply>, Failure>
    where
        C::Reply: Sync,
    {
        match self.ask.get() {
            Some(ask) => ask.query_kept(host, params, FRESH_FOR, QUESTION_LIMIT).await,
            None => Err(Failure::new("the fleet is not known yet: this gateway has no bus since its start")),
        }
    }
}
