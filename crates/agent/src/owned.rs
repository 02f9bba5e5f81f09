//! The snapshots of this host, each with whose it is. Whatever gives, proves or removes a snapshot takes it from here.

use jiff::Timestamp;
use protocol::error::{ErrorCode, WireError};
use protocol::ids::SnapshotId;
use protocol::snapshot::Snapshot;
use snapshot::Owner;

use crate::host::{Host, blocking};

/// Leave to use snapshots that are not this agent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// Given with the command, in the person's own words.
    Allowed,
    /// Not given.
    Refused,
    /// Never: what is done would change it, or claim something of it.
    Never,
}

impl Foreign {
    /// As the command says.
    pub(crate) fn allowed(allowed: bool) -> Self {
        if allowed { Self::Allowed } else { Self::Refused }
    }
}

/// Who this agent is to its snapshots, with the datadir of the last look.
pub(crate) fn owner(host: &Host) -> Owner {
    Owner {
        host: host.id.clone(),
        cluster: host.config.agent.cluster.clone(),
        datadir: host.seen().server.datadir.clone().or_else(|| host.config.mysql.datadir.clone()),
    }
}

/// All that are there, newest first, with holders.
pub(crate) async fn list(host: &Host) -> Result<Vec<Snapshot>, WireError> {
    let (snapshots, owner) = (host.snapshots()?.clone(), owner(host));
    blocking(move || Ok(snapshots.list(&owner)?)).await
}

/// One by its id.
pub(crate) async fn find(host: &Host, id: &SnapshotId, foreign: Foreign) -> Result<Snapshot, WireError> {
    let found = list(host).await?.into_iter().find(|snapshot| snapshot.id == *id);
    let found = found.ok_or_else(|| snapshot::Error::NotListed { id: id.to_string() })?;
    let advice = match (&found.foreign, foreign) {
        (None, _) | (Some(_), Foreign::Allowed) => return Ok(found),
        (Some(_), Foreign::Refused) => "if you mean it all the same, say so with --foreign",
        (Some(_), Foreign::Never) => "have the agent that made it do this",
    };
    let why = found.foreign.as_deref().unwrap_or_default();
    Err(WireError::new(
        ErrorCode::Refused,
        format!("{id} is no snapshot of the datadir of {}: {why}; {advice}", host.id),
    ))
}

/// The wanted snapshot, else the newest usable one, proven ones first. Without a name only this agent's own are looked at.
pub(crate) async fn choose(
    host: &Host,
    wanted: Option<&SnapshotId>,
    foreign: Foreign,
) -> Result<Snapshot, WireError> {
    if let Some(id) = wanted {
        return find(host, id, foreign).await;
    }
    let list = list(host).await?;
    best(&list).cloned().ok_or_else(|| {
        let foreign = list.iter().filter(|snapshot| snapshot.foreign.is_some()).count();
        let others = match foreign {
            0 => String::new(),
            n => format!(" ({n} that are there are not of its datadir)"),
        };
        WireError::new(
            ErrorCode::NotFound,
            format!("{} has no usable snapshot{others}: make one with snapshot create", host.id),
        )
    })
}

fn best(list: &[Snapshot]) -> Option<&Snapshot> {
    let rank = |snapshot: &&Snapshot| -> (bool, Timestamp) { (snapshot.is_proven(), snapshot.created_at) };
    list.iter().filter(|snapshot| snapshot.is_usable()).max_by_key(rank)
}
