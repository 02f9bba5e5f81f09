//! Looks at server and snapshots every few seconds: the heartbeat is made from the last look, and what changed without
//! a command (cron, a person, an overflow) becomes an event.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use protocol::event::{EventData, MysqlStateChange, SnapshotEvent, SnapshotGone};
use protocol::heartbeat::{BusSummary, Heartbeat, JobSummary, MysqlSummary, SnapshotSummary};
use protocol::ids::SnapshotId;
use protocol::mysql::{ServerInfo, ServerState};
use protocol::snapshot::{Snapshot, Validity};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::host::{Host, Looked, chain};
use crate::jobs::view;
use crate::state::acting::Acting;
use crate::state::seen::Seen;
use crate::watch::watch;

/// Snapshots named in a heartbeat; beyond them only their number.
const SNAPSHOTS_IN_HEARTBEAT: usize = 16;
/// How long a look waits for the size of the datadir.
const USAGE_PATIENCE: Duration = Duration::from_secs(2);

/// Looks until `shutdown`, at the configured interval and whenever asked.
pub(crate) async fn run(
    host: Arc<Host>,
    mut asked: mpsc::UnboundedReceiver<Looked>,
    shutdown: CancellationToken,
) {
    let mut waiting: Vec<Looked> = Vec::new();
    loop {
        let interval = Duration::from_secs_f64(host.config.agent.reconcile_s);
        // Who asks during a look may ask for what it has not seen.
        while let Ok(asking) = asked.try_recv() {
            waiting.push(asking);
        }
        look(&host).await;
        host.log_bytes.let_go();
        host.log_text.let_go();
        for told in waiting.drain(..) {
            let _ = told.send(());
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = host.look.notified() => {}
            Some(asking) = asked.recv() => waiting.push(asking),
            () = shutdown.cancelled() => return,
        }
    }
}

/// One look: remembers what is there and tells what changed.
pub(crate) async fn look(host: &Arc<Host>) {
    let before = host.seen();
    let server = host.instance.info().await;
    let (free_bytes, datadir_bytes) = space(host, &server).await;
    let listed = list_snapshots(host, &server).await;
    let watched = watch(host, &before, &server).await;
    let seen = Seen {
        watched,
        load: crate::load::measure(host, &server).await,
        snapshots_known: before.snapshots_known || listed.is_some(),
        snapshots: listed.clone().unwrap_or_else(|| before.snapshots.clone()),
        server,
        free_bytes,
        datadir_bytes: datadir_bytes.or(before.datadir_bytes),
    };
    let mut events = state_change(&before.server, &seen.server);
    if let Some(now) = &listed {
        let known = before.snapshots_known.then_some(before.snapshots.as_slice());
        events.extend(snapshot_changes(known, now, &host.acting));
    }
    *host.seen.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(seen);
    if !events.is_empty() {
        let host = Arc::clone(host);
        let _ =
            tokio::task::spawn_blocking(move || events.into_iter().for_each(|event| host.emit(event))).await;
    }
}

async fn space(host: &Arc<Host>, server: &ServerInfo) -> (Option<u64>, Option<u64>) {
    let Some(datadir) = server.datadir.clone() else { return (None, None) };
    // Where a walk takes minutes, its figure is in a later look; nothing else waits for it.
    let used = host.instance.disk_usage_within(&datadir, USAGE_PATIENCE).await.ok().flatten();
    let used = used.map(|usage| usage.allocated_bytes);
    let free = tokio::task::spawn_blocking(move || mysql::usage::disk_free(&datadir).ok()).await;
    (free.ok().flatten().map(|free| free.available_bytes), used)
}

async fn list_snapshots(host: &Arc<Host>, server: &ServerInfo) -> Option<Vec<Snapshot>> {
    let snapshots = host.snapshots.as_ref().ok()?.clone();
    let mut owner = crate::owned::owner(host);
    if server.datadir.is_some() {
        owner.datadir.clone_from(&server.datadir);
    }
    match tokio::task::spawn_blocking(move || snapshots.list(&owner)).await {
        Ok(Ok(list)) => Some(list),
        Ok(Err(error)) => {
            tracing::warn!(error = %chain(&error), "snapshots cannot be listed");
            None
        }
        Err(_) => None,
    }
}

fn state_change(before: &ServerInfo, now: &ServerInfo) -> Vec<EventData> {
    if before.state == now.state || before.state == ServerState::Unknown {
        return Vec::new();
    }
    vec![EventData::MysqlState(MysqlStateChange { from: before.state, to: now.state })]
}

/// Who made a change that no job of this agent is known to make.
const OUTSIDE: &str = "outside";

/// What a reader of events must hear. Before the first look (`known` is absent) each usable snapshot is only announced.
pub(crate) fn snapshot_changes(
    known: Option<&[Snapshot]>,
    now: &[Snapshot],
    acting: &Acting,
) -> Vec<EventData> {
    let event = |snapshot: &Snapshot, by: Option<String>| SnapshotEvent {
        snapshot: snapshot.clone(),
        by: by.unwrap_or_else(|| OUTSIDE.to_owned()),
    };
    let Some(known) = known else {
        let usable = now.iter().filter(|s| s.is_usable());
        return usable.map(|s| EventData::SnapshotAvailable(event(s, None))).collect();
    };
    let old: BTreeMap<&SnapshotId, &Snapshot> = known.iter().map(|s| (&s.id, s)).collect();
    let mut events = Vec::new();
    for snapshot in now {
        match old.get(&snapshot.id) {
            None => {
                events.push(EventData::SnapshotCreated(event(snapshot, acting.maker())));
                if snapshot.is_usable() {
                    events.push(EventData::SnapshotAvailable(event(snapshot, acting.maker())));
                }
            }
            Some(before) => {
                if let (true, Validity::Invalid(reason)) = (before.is_usable(), &snapshot.validity) {
                    let gone = SnapshotGone { id: snapshot.id.clone(), by: reason.clone() };
                    events.push(EventData::SnapshotInvalid(gone));
                }
                match (before.mounts.is_empty(), snapshot.mounts.is_empty()) {
                    (true, false) => events.push(EventData::SnapshotMounted(event(snapshot, None))),
                    (false, true) => events.push(EventData::SnapshotUnmounted(event(snapshot, None))),
                    _ => {}
                }
            }
        }
    }
    for snapshot in known {
        if !now.iter().any(|s| s.id == snapshot.id) {
            let by = acting.remover(&snapshot.id).unwrap_or_else(|| OUTSIDE.to_owned());
            events.push(EventData::SnapshotRemoved(SnapshotGone { id: snapshot.id.clone(), by }));
        }
    }
    events
}

/// The heartbeat, from the last look; touches no disk.
pub(crate) fn heartbeat(host: &Host, sequence: u64) -> Heartbeat {
    let seen = host.seen();
    Heartbeat {
        agent: host.id.clone(),
        cluster: host.config.agent.cluster.clone(),
        dc: host.config.agent.dc.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: protocol::envelope::VERSION,
        boot: host.boot,
        started_at: host.started_at,
        sequence,
        sent_at: Timestamp::now(),
        interval_ms: (host.config.agent.heartbeat_s * 1000.0) as u64,
        accepts_unsigned: host.config.auth.accept_unsigned,
        capabilities: host.capabilities.iter().filter(|c| c.available).map(|c| c.name.clone()).collect(),
        mysql: MysqlSummary {
            state: seen.server.state,
            port: seen.server.port,
            version: seen.server.version.clone(),
            read_only: seen.server.read_only,
            lag_seconds: seen.server.lag_seconds,
            replica_of: seen.server.replica_of.clone(),
            datadir_bytes: seen.datadir_bytes,
            on_snapshot: host.on_snapshot.of_service(),
        },
        snapshots: seen.snapshots.iter().take(SNAPSHOTS_IN_HEARTBEAT).map(snapshot_summary).collect(),
        snapshots_total: u32::try_from(seen.snapshots.len()).unwrap_or(u32::MAX),
        free_bytes: seen.free_bytes,
        load: Some(seen.load.clone()),
        bus: Some(bus_summary(host)),
        jobs: host.runner.running().iter().map(job_summary).collect(),
    }
}

fn bus_summary(host: &Host) -> BusSummary {
    let spool = host.outbox.stats();
    BusSummary {
        reconnects: host.bus.reconnects(),
        spooled_events: spool.pending,
        spooled_bytes: spool.bytes,
        dropped_events: spool.dropped,
    }
}

fn snapshot_summary(snapshot: &Snapshot) -> SnapshotSummary {
    SnapshotSummary {
        id: snapshot.id.clone(),
        provider: snapshot.provider,
        created_at: snapshot.created_at,
        cluster: snapshot.meta.as_ref().map(|meta| meta.cluster.clone()),
        usable: snapshot.is_usable(),
        foreign: snapshot.foreign.is_some(),
        proven: snapshot.is_proven(),
        fill_percent: snapshot.fill_percent,
    }
}

fn job_summary(handle: &job::JobHandle) -> JobSummary {
    let view = view::of_running(handle);
    let percent = view
        .progress
        .as_ref()
        .filter(|p| p.bytes_total > 0)
        .map(|p| u8::try_from(p.bytes_done.saturating_mul(100) / p.bytes_total).unwrap_or(100).min(100));
    JobSummary {
        id: view.id,
        kind: view.kind,
        state: view.state,
        stage: view.stage,
        percent,
        moved_at: Some(handle.moved()),
    }
}

#[cfg(test)]
#[path = "observe_tests.rs"]
mod tests;
