//! Logical volumes of any kind, snapshots or not.

use std::path::PathBuf;
use std::time::Duration;

use protocol::host::Volume;
use regex::Regex;

use crate::Error;
use crate::lvm::host::Host;

const LIMIT: Duration = Duration::from_secs(60);

/// Lists volumes. With a pattern, only those whose `group/name` it matches (a regular expression that need not match the whole).
///
/// # Errors
/// [`Error::Setting`] for a pattern that is none; [`Error::Unavailable`] without LVM; the tool's failure.
pub fn list(pattern: Option<&str>) -> Result<Vec<Volume>, Error> {
    let bad =
        |e: regex::Error| Error::Setting { key: "pattern", why: format!("it is no regular expression: {e}") };
    let pattern = pattern.map(Regex::new).transpose().map_err(bad)?;
    let host = Host { limit: LIMIT };
    let volumes = host.volumes().map_err(|error| match host.missing() {
        Some(reason) => Error::Unavailable { provider: "lvm", reason },
        None => error,
    })?;
    let wanted =
        volumes.into_iter().filter(|lv| pattern.as_ref().is_none_or(|p| p.is_match(&lv.full_name())));
    Ok(wanted
        .map(|lv| Volume {
            is_snapshot: lv.is_snapshot(),
            path: PathBuf::from(lv.path),
            name: lv.name,
            group: lv.group,
            origin: lv.origin,
            fill_percent: lv.data_percent,
            size_bytes: lv.size_bytes,
        })
        .collect())
}
