//! Whether the bus can be reached, takes events, and who may command over it.

use std::time::Duration;

use bus::{Bus, BusError};
use protocol::host::Finding;

use super::{fine, missing, weak};
use crate::config::Config;
use crate::host::{Host, chain};

const AREA: &str = "bus";
/// A server that answers later answers nobody who waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether the events of the running agent arrive.
pub(super) fn events(host: &Host) -> Finding {
    match host.outbox.trouble() {
        None => fine(AREA, "events", "they reach their stream"),
        Some(why) => {
            missing(AREA, "events", why, "`orchestrator-ctl bus setup`, with a controller's account")
        }
    }
}

pub(super) fn commands(config: &Config) -> Finding {
    if config.auth.accept_unsigned {
        let mend =
            "auth.accept_unsigned = false, and auth.trusted with the public keys of those who may command";
        weak(AREA, "commands", "unsigned ones are accepted: whoever may publish may do everything", mend)
    } else {
        fine(AREA, "commands", "only signed ones are accepted")
    }
}

/// Whether a server takes this agent's credentials, tried by a connection of its own.
pub(super) async fn connection(config: &Config, name: &str) -> Finding {
    let what = "connection";
    let tried = async {
        let bus = Bus::connect(&config.bus, name).await?;
        let connected = bus.connected(PATIENCE).await;
        bus.close(Duration::from_secs(1)).await;
        connected
    };
    match tried.await {
        Ok(()) => fine(AREA, what, format!("{} take this agent", config.bus.servers.join(", "))),
        Err(error) => {
            let mend = match &error {
                BusError::NotConnected { .. } => {
                    "[bus] in the agent's configuration: servers, credentials and tls; is nats-server running there?"
                }
                _ => "[bus] in the agent's configuration",
            };
            missing(AREA, what, chain(&error), mend)
        }
    }
}
