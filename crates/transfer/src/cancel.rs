//! One handle that stops a running transfer from any thread.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Stops a transfer in less than a second: wakes every waiting thread and shuts down every socket.
#[derive(Debug, Default)]
pub struct Cancel {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    cancelled: bool,
    sockets: Vec<Weak<TcpStream>>,
    children: Vec<Weak<Cancel>>,
}

impl Cancel {
    /// A handle for one transfer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops everything that uses this handle. Cannot be taken back.
    pub fn cancel(&self) {
        let mut state = self.lock();
        state.cancelled = true;
        for child in state.children.drain(..).filter_map(|child| child.upgrade()) {
            child.cancel();
        }
        for socket in state.sockets.drain(..).filter_map(|socket| socket.upgrade()) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// Waits, and returns early with `true` when cancelled.
    pub fn sleep(&self, duration: Duration) -> bool {
        let deadline = Instant::now() + duration;
        let mut state = self.lock();
        while !state.cancelled {
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            state =
                self.changed.wait_timeout(state, deadline - now).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// A handle that this one cancels too, and that may be cancelled alone.
    pub(crate) fn child(&self) -> Arc<Self> {
        let child = Arc::new(Self::new());
        let mut state = self.lock();
        if state.cancelled {
            child.cancel();
        }
        state.children.retain(|known| known.strong_count() > 0);
        state.children.push(Arc::downgrade(&child));
        child
    }

    /// Has `socket` shut down on cancel; at once when that has already happened.
    pub(crate) fn watch(&self, socket: &Arc<TcpStream>) {
        let mut state = self.lock();
        if state.cancelled {
            let _ = socket.shutdown(Shutdown::Both);
            return;
        }
        state.sockets.retain(|known| known.strong_count() > 0);
        state.sockets.push(Arc::downgrade(socket));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
