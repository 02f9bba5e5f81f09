//! What orchestrator polls and what a person may look at. Nothing here changes a host.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Response;
use bus::Health;
use jiff::Timestamp;
use protocol::error::ErrorCode;
use protocol::heartbeat::Heartbeat;
use protocol::host::Volume;
use protocol::ids::AgentId;
use protocol::params::*;
use protocol::snapshot::Snapshot;
use serde::Serialize;

use super::shapes::{self, Coordinates, LogicalVolume, Mount};
use crate::failure::Failure;
use crate::http::answer;
use crate::http::caller::{Caller, Stranger};
use crate::state::Gateway;

/// A frozen tree has the size that it has.
const SIZE_KEPT: Duration = Duration::from_secs(600);
/// A large tree takes its time to be counted; orchestrator waits 60 s.
const SIZE_LIMIT: Duration = Duration::from_secs(45);
/// Lines of the error log, as the original gives.
const LOG_LINES: u32 = 20;

type Gate = State<Arc<Gateway>>;
type Answer = Response<Body>;

fn told<T: Serialize>(result: Result<T, Failure>) -> Answer {
    match result {
        Ok(value) => answer::ok(&value),
        Err(failure) => answer::failed(&failure.to_string()),
    }
}

pub(super) async fn hostname(Stranger { host, .. }: Stranger) -> Answer {
    answer::ok(&host.name)
}

/// For load balancers: whether the agent is heard of.
pub(super) async fn status(State(gateway): Gate, Stranger { host, .. }: Stranger) -> Answer {
    let alive = gateway.ask.heard(&host.agent).is_some_and(|entry| entry.health == Health::Alive);
    match alive && gateway.ask.client().bus().is_connected() {
        true => answer::ok(&"OK"),
        false => answer::failed(&format!("the agent of {} is not heard of", host.name)),
    }
}

pub(super) async fn available_snapshots_local(State(gateway): Gate, caller: Caller) -> Answer {
    answer::ok(&available(&gateway, &caller.host.agent, true))
}

pub(super) async fn available_snapshots(State(gateway): Gate, caller: Caller) -> Answer {
    answer::ok(&available(&gateway, &caller.host.agent, false))
}

/// Hosts of the same cluster that could give, by their heartbeats.
fn available(gateway: &Gateway, of: &AgentId, local: bool) -> Vec<String> {
    let Some(own) = gateway.ask.heard(of) else { return Vec::new() };
    let gives = |beat: &Heartbeat| {
        let local = !local || beat.dc == own.heartbeat.dc;
        local
            && beat.cluster == own.heartbeat.cluster
            && beat.snapshots.iter().any(|snapshot| snapshot.usable)
    };
    let fleet = gateway.ask.fleet();
    let fleet = fleet.iter().filter(|entry| entry.health != Health::Lost && gives(&entry.heartbeat));
    fleet.filter_map(|entry| gateway.hosts.name(&entry.heartbeat.agent)).collect()
}

/// All snapshots of a host; a host that cannot make any has none.
pub(super) async fn snapshots(gateway: &Gateway, host: &AgentId) -> Result<Arc<Vec<Snapshot>>, Failure> {
    match gateway.ask.query(host, SnapshotListParams { usable: false }).await {
        Err(failure) if failure.is(ErrorCode::MissingCapability) => Ok(Arc::default()),
        answer => answer,
    }
}

pub(super) async fn lvs_snapshots(State(gateway): Gate, caller: Caller) -> Answer {
    let snapshots = snapshots(&gateway, &caller.host.agent).await;
    told(
        snapshots
            .map(|list| shapes::in_order(&list).into_iter().map(LogicalVolume::from).collect::<Vec<_>>()),
    )
}

pub(super) async fn lvs(State(gateway): Gate, caller: Caller) -> Answer {
    told(volumes(&gateway, &caller, None).await)
}

pub(super) async fn lvs_of(State(gateway): Gate, caller: Caller, Path(pattern): Path<String>) -> Answer {
    let all = volumes(&gateway, &caller, Some(pattern)).await;
    told(all)
}

pub(super) async fn lv(State(gateway): Gate, caller: Caller) -> Answer {
    let path = PathBuf::from(caller.parameter("lv").unwrap_or_default());
    told(one_volume(&gateway, &caller, |volume| volume.path == path).await)
}

pub(super) async fn lv_of(State(gateway): Gate, caller: Caller, Path(name): Path<String>) -> Answer {
    told(one_volume(&gateway, &caller, |volume| volume.name == name).await)
}

async fn volumes(
    gateway: &Gateway,
    caller: &Caller,
    pattern: Option<String>,
) -> Result<Vec<LogicalVolume>, Failure> {
    let list = gateway.ask.query(&caller.host.agent, HostVolumesParams { pattern }).await?;
    Ok(list.iter().map(LogicalVolume::from).collect())
}

async fn one_volume(
    gateway: &Gateway,
    caller: &Caller,
    wanted: impl Fn(&Volume) -> bool,
) -> Result<Vec<LogicalVolume>, Failure> {
    let list = gateway.ask.query(&caller.host.agent, HostVolumesParams { pattern: None }).await?;
    let found: Vec<_> = list.iter().filter(|volume| wanted(volume)).map(LogicalVolume::from).collect();
    match found.is_empty() {
        true => Err(Failure::new(format!("{} has no such logical volume", caller.host.name))),
        false => Ok(found),
    }
}

pub(super) async fn mount(State(gateway): Gate, caller: Caller) -> Answer {
    told(mount_of(&gateway, &caller.host.agent).await)
}

/// The mount as orchestrator sees it, with the size of what is in it.
pub(super) async fn mount_of(gateway: &Gateway, host: &AgentId) -> Result<Mount, Failure> {
    let list = snapshots(gateway, host).await?;
    let Some((snapshot, mount)) = shapes::mounted(&list) else { return Ok(Mount::default()) };
    let survey = SeedSurveyParams { snapshot: Some(snapshot.id.clone()), foreign: false, stream: None };
    let facts = gateway.ask.query_kept(host, survey, SIZE_KEPT, SIZE_LIMIT).await?;
    Ok(Mount::of(snapshot, mount, facts.moved_bytes()))
}

pub(super) async fn du(State(gateway): Gate, caller: Caller) -> Answer {
    let path = PathBuf::from(caller.parameter("path").unwrap_or_default());
    let usage = gateway.ask.query(&caller.host.agent, HostDiskUsageParams { path, fresh: false }).await;
    told(usage.map(|usage| usage.used_bytes))
}

/// A server of which nobody can tell whether it is down is up: orchestrator takes any error here for a stopped one, and seeds over it.
pub(super) async fn mysql_status(State(gateway): Gate, caller: Caller) -> Answer {
    let server = gateway.ask.query(&caller.host.agent, MysqlInfoParams {}).await;
    answer::ok(&server.map_or(true, |server| server.state.may_be_running()))
}

pub(super) async fn mysql_port(State(gateway): Gate, caller: Caller) -> Answer {
    let server = gateway.ask.query(&caller.host.agent, MysqlInfoParams {}).await;
    told(server.and_then(|server| {
        server.port.ok_or_else(|| Failure::new(format!("MySQL on {} has no TCP port", caller.host.name)))
    }))
}

/// Bytes of the datadir; while it is being seeded, those that have arrived.
pub(super) async fn mysql_du(State(gateway): Gate, caller: Caller) -> Answer {
    told(bytes_on(&gateway, &caller.host.agent).await)
}

async fn bytes_on(gateway: &Gateway, host: &AgentId) -> Result<u64, Failure> {
    let Some(seed) = gateway.seeds.under_way_onto(host) else {
        let usage = gateway.ask.query(host, MysqlDiskUsageParams { fresh: false }).await?;
        return Ok(usage.used_bytes);
    };
    let record = seed.now();
    let arrived = match record.job {
        Some(job) => {
            gateway.ask.query(host, JobsShowParams { job }).await?.progress.as_ref().map(|p| p.bytes_done)
        }
        None => None,
    };
    // Orchestrator gives a seed up after eleven polls of one figure, also while data are proven or a server recovers. An agent that is
    // at work ends by itself what does not get on, so as long as it answers the figure grows by the seconds that have passed.
    let seconds = record.received_at.duration_until(Timestamp::now()).as_secs();
    Ok(arrived.unwrap_or_default() + u64::try_from(seconds).unwrap_or_default())
}

pub(super) async fn mysql_space(State(gateway): Gate, caller: Caller) -> Answer {
    let free = gateway.ask.query(&caller.host.agent, MysqlDiskFreeParams {}).await;
    told(free.map(|free| free.available_bytes))
}

pub(super) async fn mysql_error_log(State(gateway): Gate, caller: Caller) -> Answer {
    let lines = gateway.ask.query(&caller.host.agent, MysqlErrorLogParams { lines: LOG_LINES }).await;
    told(lines.map(|lines| lines.to_vec()))
}

pub(super) async fn relay_index(State(gateway): Gate, caller: Caller) -> Answer {
    let files = gateway.ask.query(&caller.host.agent, BinlogRelayFilesParams {}).await;
    told(files.map(|files| files.index.clone()))
}

pub(super) async fn relay_files(State(gateway): Gate, caller: Caller) -> Answer {
    let files = gateway.ask.query(&caller.host.agent, BinlogRelayFilesParams {}).await;
    told(files.map(|files| {
        files.files.iter().map(|file| files.index.with_file_name(&file.name)).collect::<Vec<_>>()
    }))
}

pub(super) async fn relay_end(State(gateway): Gate, caller: Caller) -> Answer {
    let host = &caller.host.agent;
    let (files, end) = tokio::join!(
        gateway.ask.query(host, BinlogRelayFilesParams {}),
        gateway.ask.query(host, BinlogRelayEndParams {})
    );
    told(files.and_then(|files| {
        let end = end?;
        Ok(Coordinates { log_file: files.index.with_file_name(&end.file), log_pos: end.position, kind: 1 })
    }))
}
