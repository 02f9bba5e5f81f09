//! Which job is changing the set of snapshots, so that who sees the change can tell who made it.

use std::sync::{Mutex, PoisonError};

use protocol::ids::SnapshotId;

/// A change under way.
#[derive(Debug, Clone)]
struct Act {
    by: String,
    change: Change,
}

/// What is done to the set of snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// One is made, under a name that only its provider knows yet.
    Making,
    /// This one is removed.
    Removing(SnapshotId),
}

/// The change under way; jobs that make one claim the set of snapshots alone, so there is one at a time.
#[derive(Debug, Default)]
pub(crate) struct Acting(Mutex<Option<Act>>);

/// While it lives, the change is its actor's. However the job ends, this ends with it.
#[derive(Debug)]
pub(crate) struct Acts<'a>(&'a Acting);

impl Acting {
    /// A job begins a change in the name of `by`.
    pub(crate) fn begin(&self, by: Option<String>, change: Change) -> Acts<'_> {
        self.set(by.map(|by| Act { by, change }));
        Acts(self)
    }

    /// Who makes the snapshots that appear now.
    pub(crate) fn maker(&self) -> Option<String> {
        self.who(|change| *change == Change::Making)
    }

    /// Who removes this snapshot.
    pub(crate) fn remover(&self, id: &SnapshotId) -> Option<String> {
        self.who(|change| *change == Change::Removing(id.clone()))
    }

    fn who(&self, is_it: impl Fn(&Change) -> bool) -> Option<String> {
        let act = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act.as_ref().filter(|act| is_it(&act.change)).map(|act| act.by.clone())
    }

    fn set(&self, act: Option<Act>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = act;
    }
}

impl Drop for Acts<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_its_actors_only_while_the_job_is_at_it() {
        let acting = Acting::default();
        let (one, other): (SnapshotId, SnapshotId) = ("vg0/a".parse().unwrap(), "vg0/b".parse().unwrap());
        let failed = || -> Result<(), ()> {
            let _acts = acting.begin(Some("alice".into()), Change::Removing(one.clone()));
            assert_eq!(acting.remover(&one).as_deref(), Some("alice"));
            assert_eq!(acting.remover(&other), None, "somebody else's removal at the same time");
            assert_eq!(acting.maker(), None);
            Err(())
        };
        failed().unwrap_err();
        assert_eq!(acting.remover(&one), None, "the job has failed: what comes later is not alice's");
    }
}
