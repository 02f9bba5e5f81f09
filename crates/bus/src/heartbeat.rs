//! Heartbeats: sent when there is a connection, dropped when there is none.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use protocol::heartbeat::Heartbeat;
use protocol::ids::{AgentId, BootId};
use protocol::subject::Subject;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::conn::{Bus, ConnState, Violation};

/// Heartbeats that the permissions forbid are tried again after so long, or with a new connection.
const REFUSED_PAUSE: Duration = Duration::from_secs(600);
/// A double that lasts is told again after so long.
const TELL_AGAIN: Duration = Duration::from_secs(3_600);
/// So many other processes are remembered.
const OTHERS_MAX: usize = 64;

/// Publishes what `make` returns, every `interval` ± 20 %, and at once after a reconnect, until `shutdown`.
///
/// A fleet that lost its server together must not come back in one instant: the heartbeat after a reconnect waits a
/// random part of a second.
pub fn spawn<F>(
    bus: Bus,
    agent: AgentId,
    interval: Duration,
    make: F,
    shutdown: CancellationToken,
) -> JoinHandle<()>
where
    F: Fn() -> Heartbeat + Send + Sync + 'static,
{
    let subject = Subject::Heartbeat { agent }.to_string();
    tokio::spawn(async move {
        let mut state = bus.state();
        let mut violations = bus.violations();
        loop {
            state.mark_unchanged();
            if bus.is_connected() {
                match serde_json::to_vec(&make()) {
                    Ok(body) => {
                        if let Err(error) = bus.publish(subject.clone(), None, body.into()).await {
                            tracing::debug!(%error, "a heartbeat was dropped");
                        }
                    }
                    Err(error) => tracing::error!(%error, "a heartbeat cannot be written"),
                }
            }
            let wait = if refused(&mut violations, &subject) {
                REFUSED_PAUSE
            } else {
                interval.mul_f64(rand::random_range(0.8..=1.2))
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = back(&mut state, interval) => {}
            }
        }
    })
}

/// Whether the server refused a heartbeat since the last look. Told with what it means: each user may speak as one agent.
fn refused(violations: &mut broadcast::Receiver<Violation>, subject: &str) -> bool {
    let mut refused = false;
    while let Ok(violation) = violations.try_recv() {
        refused |= violation.concerns(subject);
    }
    if refused {
        tracing::warn!(
            subject,
            "the bus does not let this user speak as this agent: is the key of bus.credentials that of another one? asked \
             again in ten minutes"
        );
    }
    refused
}

/// Listens for another process that sends heartbeats in this agent's name, until `shutdown`; `tell` hears of each once an hour.
///
/// One heartbeat may be late, of a process that has ended; a second, later one tells that it lives.
pub fn watch_for_doubles<F>(bus: Bus, agent: AgentId, boot: BootId, tell: F, shutdown: CancellationToken)
where
    F: Fn(Heartbeat) + Send + Sync + 'static,
{
    let subject = Subject::Heartbeat { agent }.to_string();
    tokio::spawn(async move {
        let mut violations = bus.violations();
        let Ok(mut heard) = bus.subscribe(subject.clone()).await else { return };
        let mut others: HashMap<BootId, Double> = HashMap::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                violation = violations.recv() => if violation.is_ok_and(|v| v.concerns(&subject)) {
                    tracing::debug!("doubles of this agent cannot be noticed here; make the accounts anew with `orchestrator-ctl bus config`");
                    return;
                },
                message = heard.next() => {
                    let Some(message) = message else { return };
                    let Ok(beat) = serde_json::from_slice::<Heartbeat>(&message.payload) else { continue };
                    if others.len() >= OTHERS_MAX {
                        others.clear();
                    }
                    if beat.boot != boot && others.entry(beat.boot).or_default().lives(beat.sequence) {
                        tell(beat);
                    }
                }
            }
        }
    });
}

/// Another process of this name.
#[derive(Default)]
struct Double {
    sequence: Option<u64>,
    told: Option<Instant>,
}

impl Double {
    /// Takes a heartbeat in; whether it is to be told now that the process lives.
    fn lives(&mut self, sequence: u64) -> bool {
        let lives = self.sequence.replace(sequence).is_some_and(|before| sequence > before);
        let tell = lives && self.told.is_none_or(|at| at.elapsed() > TELL_AGAIN);
        if tell {
            self.told = Some(Instant::now());
        }
        tell
    }
}

/// Returns soon after the next time that the connection comes up.
async fn back(state: &mut tokio::sync::watch::Receiver<ConnState>, interval: Duration) {
    loop {
        if state.changed().await.is_err() {
            return std::future::pending().await;
        }
        if *state.borrow_and_update() == ConnState::Connected {
            break;
        }
    }
    let most = interval.min(Duration::from_secs(1));
    tokio::time::sleep(most.mul_f64(rand::random_range(0.0..=1.0))).await;
}
