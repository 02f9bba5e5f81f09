//! Subcommands about snapshots.

use jiff::Timestamp;
use protocol::params::*;

use super::confirm;
use crate::args::SnapshotCmd;
use crate::error::{CtlError, Result};
use crate::session::Session;
use crate::{donor, render};

pub(super) async fn run(session: &Session, command: SnapshotCmd) -> Result<()> {
    let out = &session.out;
    match command {
        SnapshotCmd::List { host, usable } => {
            let snapshots = session.call(&host, SnapshotListParams { usable }).await?;
            out.result(&snapshots, |snapshots| render::snapshots(snapshots, Timestamp::now()));
        }
        SnapshotCmd::Create { host, keep, size, run } => {
            let params = SnapshotCreateParams { keep_s: keep, size_bytes: size };
            return session.job(&host, params, &run).await;
        }
        SnapshotCmd::Remove { host, snapshot, foreign, run } => {
            confirm(session, &format!("Remove snapshot {snapshot} of {host}?"))?;
            return session.job(&host, SnapshotRemoveParams { snapshot, foreign }, &run).await;
        }
        SnapshotCmd::Mount { host, snapshot, writable, at_mount_point, foreign } => {
            let params = SnapshotMountParams { snapshot, writable, at_mount_point, foreign };
            return session.change(&host, params, render::mount).await;
        }
        SnapshotCmd::Unmount { host, snapshot } => {
            let params = SnapshotUnmountParams { snapshot };
            return session.change(&host, params, |_| "your hold is given up\n".to_owned()).await;
        }
        SnapshotCmd::Mounts { host } => {
            let mounts = session.call(&host, SnapshotMountStatusParams {}).await?;
            out.result(&mounts, |mounts| render::mounts(mounts));
        }
        SnapshotCmd::Verify { host, snapshot, budget, run } => {
            let params = SnapshotVerifyParams { snapshot, budget_s: budget };
            return session.job(&host, params, &run).await;
        }
        SnapshotCmd::Find { cluster, dc, prefer_dc } => {
            return find(session, &cluster, prefer_dc.as_deref(), dc.as_deref()).await;
        }
    }
    Ok(())
}

async fn find(session: &Session, cluster: &str, first: Option<&str>, only: Option<&str>) -> Result<()> {
    let fleet = session.fleet().await?;
    let mut found = donor::find_snapshots(&fleet, cluster, only.or(first));
    if only.is_some() {
        found.retain(|candidate| candidate.local);
    }
    if found.is_empty() {
        let clusters = fleet.iter().map(|beat| beat.cluster.as_str());
        let place = only.map(|dc| format!(" in DC {dc}")).unwrap_or_default();
        let maker = fleet.iter().find(|beat| beat.cluster == cluster).map(|beat| beat.agent.as_str());
        let hint = if maker.is_some() { None } else { crate::suggest::hint(cluster, clusters) };
        return Err(CtlError::NotFound {
            what: format!("no host has a usable snapshot of cluster {cluster}{place}"),
            hint: hint.or_else(|| {
                Some(format!("make one with `orchestrator-ctl snapshot create {}`", maker.unwrap_or("HOST")))
            }),
        });
    }
    session.out.result(&found, |found| render::found(found, Timestamp::now()));
    Ok(())
}
