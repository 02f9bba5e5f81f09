//! Connections that have not proven to know a token: how many there may be, and for how long.
//!
//! Whoever reaches the port can open connections and say little. They have a quota of their own, so that they never take the
//! places of recipients; when it is full, the oldest of the address that holds most of it goes, so that a newcomer always gets
//! its turn. Each has [`PROOF_LIMIT`] in all, however it spreads its bytes.

use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a stranger may take to prove itself, from the first byte to the last.
pub(crate) const PROOF_LIMIT: Duration = Duration::from_secs(10);
/// Most strangers at once: each costs a thread. More than the connections of several recipients that come at one moment.
const AT_ONCE: usize = 256;
/// Their troubles are told this often at the most.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The strangers of one offer.
#[derive(Debug, Default)]
pub(crate) struct Strangers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    present: Vec<Stranger>,
    untold: u64,
    told_at: Option<Instant>,
}

#[derive(Debug)]
struct Stranger {
    id: u64,
    address: IpAddr,
    socket: Arc<TcpStream>,
}

/// A stranger's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Visit {
    strangers: Arc<Strangers>,
    id: u64,
    /// When it must have proven itself.
    pub(crate) deadline: Instant,
}

impl Strangers {
    /// Takes one in; where the quota is full another one is put out for it.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr, socket: &Arc<TcpStream>) -> Visit {
        let mut state = self.lock();
        if state.present.len() >= AT_ONCE {
            state.put_one_out();
        }
        let id = state.next;
        state.next += 1;
        state.present.push(Stranger { id, address, socket: Arc::clone(socket) });
        Visit { strangers: Arc::clone(self), id, deadline: Instant::now() + PROOF_LIMIT }
    }

    /// Whether a trouble with a stranger is to be told now, and how many were not since the last time.
    pub(crate) fn may_tell(&self) -> Option<u64> {
        let mut state = self.lock();
        if state.told_at.is_some_and(|at| at.elapsed() < TELL_EVERY) {
            state.untold += 1;
            return None;
        }
        state.told_at = Some(Instant::now());
        Some(std::mem::take(&mut state.untold))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The oldest of the address that has the most.
    fn put_one_out(&mut self) {
        let mut held: HashMap<IpAddr, usize> = HashMap::new();
        for stranger in &self.present {
            *held.entry(stranger.address).or_default() += 1;
        }
        let Some((&address, _)) = held.iter().max_by_key(|(_, count)| **count) else { return };
        if let Some(at) = self.present.iter().position(|stranger| stranger.address == address) {
            let _ = self.present.remove(at).socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.strangers.lock().present.retain(|stranger| stranger.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_newcomer_gets_in_and_the_address_that_holds_most_pays() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (far, Arc::new(listener.accept().unwrap().0))
        };
        let strangers = Arc::new(Strangers::default());
        let (_lone_far, lone) = pair();
        let lone = strangers.admit("192.0.2.7".parse().unwrap(), &lone);
        let greedy: IpAddr = "192.0.2.66".parse().unwrap();
        let mut visits = Vec::new();
        let mut fars = Vec::new();
        for _ in 0..AT_ONCE {
            let (far, near) = pair();
            visits.push(strangers.admit(greedy, &near));
            fars.push(far);
        }
        assert_eq!(fars[0].read(&mut [0; 1]).unwrap(), 0, "the greedy address's first is put out");
        let present = |id| strangers.lock().present.iter().any(|stranger| stranger.id == id);
        assert!(present(lone.id) && present(visits[1].id) && !present(visits[0].id));
        drop(visits);
        assert_eq!(strangers.lock().present.len(), 1);
    }

    #[test]
    fn troubles_are_told_once_and_counted() {
        let strangers = Strangers::default();
        assert_eq!(strangers.may_tell(), Some(0));
        assert_eq!(strangers.may_tell(), None);
        assert_eq!(strangers.lock().untold, 1);
    }
}
