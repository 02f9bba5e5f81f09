//! What of a snapshot stays with the donor.

use std::path::Path;

use mysql::datadir::{ClonePolicy, LogNames, top, unwanted};
use protocol::error::WireError;
use transfer::Exclude;

use crate::config::Binlogs;

/// What stays at home: what must not be cloned, by its exact name at the top of the datadir.
pub(super) fn exclude(root: &Path, names: &LogNames, binlogs: Binlogs) -> Result<Exclude, WireError> {
    let entries = top(root)?;
    let policy = clone_policy();
    let stays = |(name, is_dir): &(String, bool)| unwanted(name, *is_dir, &policy, names).is_some();
    let mut left_out: Vec<String> = entries.into_iter().filter(stays).map(|(name, _)| name).collect();
    if binlogs == Binlogs::Needed {
        left_out.extend(mysql::binlog::superfluous(root, names)?);
    }
    Ok(Exclude::new(left_out))
}

/// What of a snapshot goes along. The binary logs do: with a log, the engine's commits are not flushed one by one, and crash
/// recovery asks the log which prepared transactions were committed. A lock on commits does not flush them either, and of a
/// server that was not running nobody has proven that it was shut down.
pub(crate) fn clone_policy() -> ClonePolicy {
    ClonePolicy { keep_binlogs: true, ..ClonePolicy::default() }
}
