//! Runs the commands that the bus has admitted: queries at once, changes in turn, jobs by beginning them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bus::{Denied, Handler, Incoming};
use protocol::command::Command;
use protocol::error::{ErrorCode, WireError};
use protocol::event::{CommandDenied, EventData};
use protocol::heartbeat::Heartbeat;
use protocol::params::Empty;
use serde::Serialize;
use serde_json::Value;

use crate::host::Host;
use crate::jobs::{self, view};
use crate::{observe, queries};

/// The agent's side of the bus.
#[derive(Debug)]
pub(crate) struct AgentHandler {
    host: Arc<Host>,
    heartbeats: AtomicU64,
}

impl AgentHandler {
    pub(crate) fn new(host: Arc<Host>) -> Self {
        Self { host, heartbeats: AtomicU64::new(0) }
    }
}

#[async_trait]
impl Handler for AgentHandler {
    async fn handle(&self, call: Incoming) -> Result<Value, WireError> {
        let host = &self.host;
        let origin = jobs::Origin {
            actor: call.actor.to_string(),
            request: call.request.id,
            traceparent: call.traceparent.clone(),
        };
        tracing::debug!(command = call.request.command, request = %call.request.id, actor = origin.actor, "command");
        match call.command {
            Command::AgentInfo(_) => value(&queries::agent::info(host)),
            Command::AgentStatus(_) => {
                observe::look(host).await;
                value(&self.heartbeat())
            }
            Command::JobsList(p) => value(&view::list(host, &p).await?),
            Command::JobsShow(p) => value(&view::show(host, p.job).await?),
            Command::JobsRecord(p) => value(&view::record(host, &p).await?),
            Command::JobsAbort(p) => value(&jobs::abort(host, p.job, &origin.actor).await?),

            Command::HostDiskUsage(p) => value(&queries::host::disk_usage(host, &p).await?),
            Command::HostDiskFree(p) => value(&queries::host::disk_free(host, &p).await?),
            Command::HostVolumes(p) => value(&queries::host::volumes(p).await?),

            Command::SnapshotList(p) => value(&queries::snapshot::list(host, &p).await?),
            Command::SnapshotMountStatus(_) => value(&queries::snapshot::mounts(host)?),
            Command::SnapshotMount(p) => value(&queries::snapshot::mount(host, p).await?),
            Command::SnapshotUnmount(p) => value(&queries::snapshot::unmount(host, p).await?),

            Command::MysqlInfo(_) => value(&host.instance.info().await),
            Command::MysqlDiskUsage(p) => value(&queries::mysql::disk_usage(host, &p).await?),
            Command::MysqlDiskFree(_) => value(&queries::mysql::disk_free(host).await?),
            Command::MysqlErrorLog(p) => value(&queries::mysql::error_log(host, &p).await?),

            Command::BinlogFiles(_) => value(&queries::binlog::files(host).await?),
            Command::BinlogRelayFiles(_) => value(&queries::binlog::relay_files(host).await?),
            Command::BinlogRelayEnd(_) => value(&queries::binlog::relay_end(host).await?),
            Command::BinlogText(p) => value(&queries::binlog::text(host, p).await?),
            Command::BinlogBinary(p) => value(&queries::binlog::binary(host, p).await?),

            Command::BinlogUpload(p) => value(&queries::binlog::upload(host, p).await?),

            Command::SeedSurvey(p) => value(
                &jobs::probe::survey(
                    host,
                    p.snapshot.as_ref(),
                    crate::owned::Foreign::allowed(p.foreign),
                    p.stream.as_deref(),
                )
                .await?,
            ),
            Command::SeedOffer(p) => value(&jobs::offer::open(host, p, &origin).await?),
            Command::SeedRelease(p) => value(&jobs::offer::release(host, p.offer, &origin.actor).await?),
            Command::SeedPlan(p) => value(&jobs::seed::plan_here(host, &p.donor, &p.options).await),
            Command::SeedThrottle(p) => {
                let throttle = host.throttle_of(p.job).ok_or_else(|| {
                    WireError::new(
                        ErrorCode::NotFound,
                        format!("{} is no seed that runs on this agent", p.job),
                    )
                })?;
                throttle.set(p.bytes_per_s);
                value(&Empty {})
            }
            Command::SeedStart(p) => value(&jobs::seed::begin(host, p, &origin).await?),
            Command::CustomList(_) => value(&queries::agent::custom_commands(host)),

            Command::SnapshotCreate(_)
            | Command::SnapshotRemove(_)
            | Command::SnapshotVerify(_)
            | Command::MysqlStart(_)
            | Command::MysqlStop(_)
            | Command::MysqlRestart(_)
            | Command::MysqlStartOnSnapshot(_)
            | Command::MysqlLeaveSnapshot(_)
            | Command::DatadirClear(_)
            | Command::DatadirPostCopy(_)
            | Command::BinlogApply(_)
            | Command::SeedUndo(_)
            | Command::CustomRun(_) => {
                jobs::check(host, &call.command)?;
                let kind = call.command.spec().name;
                value(&jobs::begin(host, kind, call.command.params(), &origin).await?)
            }
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        let sequence = self.heartbeats.fetch_add(1, Ordering::Relaxed) + 1;
        observe::heartbeat(&self.host, sequence)
    }

    fn denied(&self, denied: Denied) {
        tracing::info!(command = denied.command, actor = denied.actor, error = %denied.error, "command denied");
        let host = Arc::clone(&self.host);
        let event = CommandDenied { command: denied.command, actor: denied.actor, error: denied.error };
        tokio::task::spawn_blocking(move || host.emit(EventData::CommandDenied(event)));
    }
}

fn value<T: Serialize>(result: &T) -> Result<Value, WireError> {
    serde_json::to_value(result).map_err(|error| {
        WireError::caused(ErrorCode::Internal, "the result cannot be written as JSON", &error)
    })
}
