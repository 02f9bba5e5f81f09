//! Snapshots that went bad under their readers.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use protocol::ids::SnapshotId;

/// Snapshots that must not be read any further, with the reason.
#[derive(Debug, Default)]
pub(crate) struct Doomed {
    reasons: Mutex<HashMap<SnapshotId, String>>,
}

impl Doomed {
    /// Why reading must stop, if it must.
    pub(crate) fn check(&self, id: &SnapshotId) -> Result<(), String> {
        match self.reasons.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            Some(reason) => Err(reason.clone()),
            None => Ok(()),
        }
    }

    /// Ends the reading of a snapshot; false when that was done before.
    pub(crate) fn doom(&self, id: SnapshotId, reason: String) -> bool {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner).insert(id, reason).is_none()
    }

    /// Forgets those that nobody reads any more.
    pub(crate) fn keep_only(&self, watched: &[SnapshotId]) {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| watched.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doomed_snapshot_stays_so_until_nobody_reads_it() {
        let doomed = Doomed::default();
        let id: SnapshotId = "vg0/s".parse().unwrap();
        assert!(doomed.check(&id).is_ok());
        assert!(doomed.doom(id.clone(), "overflow".into()));
        assert!(!doomed.doom(id.clone(), "again".into()), "told once");
        doomed.keep_only(std::slice::from_ref(&id));
        assert!(doomed.check(&id).is_err());
        doomed.keep_only(&[]);
        assert!(doomed.check(&id).is_ok());
    }
}
