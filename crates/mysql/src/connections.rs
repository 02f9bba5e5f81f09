//! The agent's own connections to its instance, which are no clients.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::client::Session;

/// Own connections that are remembered: the server shows one for a moment after it was closed.
const REMEMBERED: usize = 256;

/// The connections that this process has made to its instance.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnConnections {
    shared: Arc<Own>,
}

#[derive(Debug, Default)]
struct Own {
    ids: Mutex<VecDeque<u64>>,
    made: AtomicU64,
}

impl OwnConnections {
    /// After one was tried: a failed one counts with the server too.
    pub(crate) fn tried(&self) {
        self.shared.made.fetch_add(1, Ordering::SeqCst);
    }

    /// One that stands.
    pub(crate) fn connected(&self, session: &Session) {
        let mut ids = self.shared.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.push_back(u64::from(session.connection_id()));
        if ids.len() > REMEMBERED {
            ids.pop_front();
        }
    }

    /// Whether the server's connection of this id is one.
    pub(crate) fn has(&self, id: u64) -> bool {
        self.shared.ids.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// How many were tried so far.
    pub(crate) fn made(&self) -> u64 {
        self.shared.made.load(Ordering::SeqCst)
    }
}
