//! What the stages keep in the journal for one another: their outputs, and the notes that they make on the way.

use std::path::PathBuf;

use job::{Scope, StepError};
use protocol::ids::SnapshotId;
use protocol::mysql::Coordinates;
use protocol::seed::SeedStage;
use serde::{Deserialize, Serialize};

use crate::jobs::output;

/// What a stage notes before, or while, it acts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Note {
    /// *prepare*: `--replace` is about to remove the old data, here.
    Removed(PathBuf),
    /// *transfer*: everything has arrived and is proven.
    Received(Transferred),
    /// *swap*, when it is taken back: the new data stay here, since there are no others.
    Kept(PathBuf),
    /// *swap*, when it is taken back: why MySQL did not start on the old data at once.
    Stopped(String),
    /// *swap*: the new server comes up read-only by what it persists here, until *replicate* has made it so by itself.
    Closed(PathBuf),
}

impl Note {
    /// Returns once it is on disk.
    pub(super) async fn write(&self, scope: &Scope) -> Result<(), StepError> {
        scope.note(output(self)?).await
    }

    /// What a stage has noted so far, oldest first; notes of other forms are left out.
    pub(super) fn all(scope: &Scope, stage: SeedStage) -> Vec<Self> {
        let notes = scope.notes_of(stage.as_str());
        notes.into_iter().filter_map(|note| serde_json::from_value(note).ok()).collect()
    }

    /// Whether *prepare* had the old data removed, or was about to.
    pub(super) fn is_removed(scope: &Scope) -> bool {
        Self::all(scope, SeedStage::Prepare).iter().any(|note| matches!(note, Self::Removed(_)))
    }

    /// Whether *swap* was taken back by leaving the new data in place.
    pub(super) fn is_kept(scope: &Scope) -> bool {
        Self::all(scope, SeedStage::Swap).iter().any(|note| matches!(note, Self::Kept(_)))
    }

    /// Whether the new server comes up read-only by what it persists.
    pub(super) fn is_closed(scope: &Scope) -> bool {
        Self::all(scope, SeedStage::Swap).iter().any(|note| matches!(note, Self::Closed(_)))
    }

    /// Whether MySQL did not start at once when *swap* was taken back.
    pub(super) fn is_stopped(scope: &Scope) -> bool {
        Self::all(scope, SeedStage::Swap).iter().any(|note| matches!(note, Self::Stopped(_)))
    }
}

/// What the transfer stage has moved.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Transferred {
    /// The backup program's stream; absent for a tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stream: Option<String>,
    /// The donor's snapshot that was kept here: only what differs from it was moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<SnapshotId>,
    /// Why what was kept here was not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_since: Option<String>,
    /// Of the whole.
    pub(crate) bytes_total: u64,
    /// Without what a run before had brought.
    pub(crate) bytes_moved: u64,
    /// What a run before had brought.
    pub(crate) bytes_resumed: u64,
    /// On the network, compressed.
    pub(crate) bytes_wire: u64,
    pub(crate) files: u64,
    /// In hexadecimal digits, the same on both ends.
    pub(crate) root_digest: String,
    pub(crate) elapsed_ms: u64,
    pub(crate) bytes_per_s: u64,
}

/// What the verify stage has done to the tree that arrived.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Verified {
    /// How many entries went that must not be cloned.
    pub(super) removed: usize,
    /// Where the data stand, as the stream's program recorded it.
    pub(super) coordinates: Option<Coordinates>,
}

/// What the recover stage has found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Recovered {
    /// Where the data stand; absent in journals of agents that did not look.
    #[serde(default)]
    pub(super) coordinates: Option<Coordinates>,
    pub(super) recovery_ms: u64,
    pub(super) channels_forgotten: u64,
    pub(super) events_disabled: u64,
    pub(super) tables_looked_at: usize,
    pub(super) tables: usize,
}
