//! The settings of each provider.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::provider::SizePolicy;

/// Settings of both LVM providers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LvmConfig {
    /// The volume to snapshot as `vg/lv`; absent: the one that the data directory lies on.
    pub origin: Option<String>,
    /// Name of new snapshots: letters, digits, `+_.-` and the placeholders `{cluster} {host} {origin} {time}`.
    pub name_pattern: String,
    /// Room for changes (`lvm` only).
    pub size: SizePolicy,
    /// Smallest room that is accepted, in bytes: a policy that yields less is refused rather than left to overflow (`lvm` only).
    pub min_size_bytes: u64,
    /// Snapshots that others made are shown when their name matches this regular expression; absent: all of the host.
    pub snapshot_volumes_filter: Option<String>,
    /// Path of the data directory inside snapshots that others made, relative to their root.
    pub datadir_inside: PathBuf,
    /// Limit for one LVM command, in seconds.
    pub command_timeout_seconds: u64,
}

impl Default for LvmConfig {
    fn default() -> Self {
        Self {
            origin: None,
            name_pattern: "{origin}-{cluster}-{time}".to_owned(),
            size: SizePolicy::OriginPercent(20.0),
            min_size_bytes: 64 << 20,
            snapshot_volumes_filter: None,
            datadir_inside: PathBuf::new(),
            command_timeout_seconds: 120,
        }
    }
}

/// Settings of the providers that keep snapshots as directories.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeConfig {
    /// Where snapshots are kept; for `btrfs` and `reflink` on the data directory's own file system.
    pub root: PathBuf,
    /// Name of new snapshots: letters, digits, `+_.-` and the placeholders `{cluster} {host} {origin} {time}`.
    #[serde(default = "default_tree_pattern")]
    pub name_pattern: String,
    /// Path of the data directory inside snapshots that others made, relative to their root.
    #[serde(default)]
    pub datadir_inside: PathBuf,
}

fn default_tree_pattern() -> String {
    "{cluster}-{time}".to_owned()
}

/// Settings of the `command` provider. Each command is an argv list, never a shell line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// Makes a snapshot named `$SNAPSHOT_NAME` of `$SNAPSHOT_DATADIR`.
    pub create: Vec<String>,
    /// Prints a JSON list of snapshots.
    pub list: Vec<String>,
    /// Mounts `$SNAPSHOT_ID` at `$SNAPSHOT_TARGET`; `$SNAPSHOT_MODE` is `ro` or `rw`.
    pub mount: Vec<String>,
    /// Undoes `mount`.
    pub unmount: Vec<String>,
    /// Removes `$SNAPSHOT_ID`.
    pub remove: Vec<String>,
    /// Whether `create` copies one atomic instant; without it the server is stopped or paused meanwhile.
    #[serde(default)]
    pub atomic: bool,
    /// Name of new snapshots: letters, digits, `+_.-` and the placeholders `{cluster} {host} {origin} {time}`.
    #[serde(default = "default_tree_pattern")]
    pub name_pattern: String,
    /// Path of the data directory inside what `mount` shows.
    #[serde(default)]
    pub datadir_inside: PathBuf,
    /// More environment for the commands.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Limit for one command, in seconds.
    #[serde(default = "default_command_timeout")]
    pub timeout_seconds: u64,
}

fn default_command_timeout() -> u64 {
    600
}

/// A path that stays inside what it is relative to.
pub(crate) fn checked_inside(path: &Path) -> Result<PathBuf, Error> {
    if path.components().all(|c| matches!(c, Component::Normal(_))) {
        return Ok(path.to_owned());
    }
    let why = format!("{} must be relative and without `.` or `..`", path.display());
    Err(Error::Setting { key: "datadir_inside", why })
}
