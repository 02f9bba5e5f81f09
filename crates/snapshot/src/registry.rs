//! From the configuration to a provider.

use std::path::Path;

use protocol::snapshot::ProviderKind;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::command::CommandProvider;
use crate::lvm::LvmProvider;
use crate::provider::Provider;
pub use crate::settings::{CommandConfig, LvmConfig, TreeConfig};
use crate::tree::TreeProvider;

/// The `[snapshot]` table of the configuration, chosen by its key `provider`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "provider", rename_all = "kebab-case")]
pub enum ProviderConfig {
    /// Classic LVM snapshots.
    Lvm(LvmConfig),
    /// Snapshots of thin volumes.
    LvmThin(LvmConfig),
    /// btrfs subvolume snapshots.
    Btrfs(TreeConfig),
    /// Reflinked trees.
    Reflink(TreeConfig),
    /// Plain copies.
    Directory(TreeConfig),
    /// The user's own commands.
    Command(CommandConfig),
}

/// Makes the configured provider. `state_dir` is the agent's own directory; sidecar files go below it where the medium has no place for
/// all metadata. Nothing is asked of the host: that is [`Provider::probe`]'s.
///
/// # Errors
/// [`Error::Setting`] for a setting that makes no sense.
pub fn build(config: &ProviderConfig, state_dir: &Path) -> Result<Box<dyn Provider>, Error> {
    Ok(match config {
        ProviderConfig::Btrfs(tree) => Box::new(TreeProvider::btrfs(tree)?),
        ProviderConfig::Reflink(tree) => Box::new(TreeProvider::reflink(tree)?),
        ProviderConfig::Directory(tree) => Box::new(TreeProvider::directory(tree)?),
        ProviderConfig::Lvm(lvm) => Box::new(LvmProvider::new(ProviderKind::Lvm, lvm, state_dir)?),
        ProviderConfig::LvmThin(lvm) => Box::new(LvmProvider::new(ProviderKind::LvmThin, lvm, state_dir)?),
        ProviderConfig::Command(command) => Box::new(CommandProvider::new(command, state_dir)?),
    })
}
