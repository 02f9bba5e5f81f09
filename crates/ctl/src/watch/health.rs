//! Looks after both hosts of watched seeds: how busy they are, and whether the donor still answers, of which a recipient's
//! view tells nothing.

use std::time::Duration;

use bus::CallOptions;
use futures_util::future;
use protocol::ids::AgentId;
use protocol::params::AgentStatusParams;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::Screen;
use crate::session::Session;

/// Often enough to name the cause of a stalled seed, rare enough to cost nothing.
const INTERVAL: Duration = Duration::from_secs(5);

/// Tells how the hosts are, when a donor stops answering and when it answers again; never ends.
pub(super) async fn look_after(
    session: &Session,
    donors: &[AgentId],
    recipients: &[AgentId],
    screen: &Screen,
) {
    if donors.is_empty() {
        return future::pending().await;
    }
    let mut silent = vec![false; donors.len()];
    let mut tick = interval_at(Instant::now() + INTERVAL, INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let options = CallOptions { timeout: INTERVAL, ..CallOptions::default() };
    loop {
        tick.tick().await;
        let hosts = donors.iter().chain(recipients);
        let asked = hosts.clone().map(|host| session.client.call(host, AgentStatusParams {}, &options));
        let answers = future::join_all(asked).await;
        for (number, (host, answer)) in hosts.zip(answers).enumerate() {
            if let Ok(beat) = &answer
                && let Some(load) = &beat.load
            {
                screen.load(host, load);
            }
            let Some(silent) = silent.get_mut(number) else { continue };
            // An agent that refuses to answer is there.
            let why = match answer {
                Ok(_) | Err(bus::BusError::Agent(_)) => None,
                Err(error) => Some(error.to_string()),
            };
            if why.is_some() != *silent {
                *silent = why.is_some();
                screen.donor(host, why.as_deref());
            }
        }
    }
}
