//! Runs the commands that the bus has admitted: queries at once, changes in turn, jobs by beginning them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bus::{Denied, Handler, Incoming};
use protocol::command::{Answer, Call};
use protocol::error::{ErrorCode, WireError};
use protocol::event::{CommandDenied, EventData};
use protocol::heartbeat::Heartbeat;
use protocol::host::Volume;
use protocol::ids::JobId;
use protocol::job::JobView;
use protocol::mysql::ServerInfo;
use protocol::params::*;
use serde_json::Value;
use trace::{Kind, Span};

use crate::host::Host;
use crate::jobs::{self, Origin, view};
use crate::owned::Foreign;
use crate::{doctor, observe, queries};

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
        let asked = call.traceparent.as_deref().and_then(|text| text.parse().ok());
        let mut span = asked
            .map(|asked| self.host.traces.begin(call.request.command.clone(), Kind::Server, Some(asked)));
        let origin = Origin {
            actor: call.actor.to_string(),
            request: call.request.id,
            traceparent: span.as_ref().and_then(Span::context).map(|context| context.to_string()),
            in_idle_time: false,
        };
        tracing::debug!(command = call.request.command, request = %call.request.id, actor = origin.actor, "command");
        let caller = Caller { agent: self, host: &self.host, origin, operates: call.operates };
        let answer = call.command.answered_by(&caller).await;
        if let (Some(span), Err(error)) = (&mut span, &answer) {
            span.fail(error.code.as_str());
        }
        answer
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

/// One command on its way: who asks, and whom.
struct Caller<'a> {
    agent: &'a AgentHandler,
    host: &'a Arc<Host>,
    origin: Origin,
    /// See [`Incoming::operates`].
    operates: bool,
}

/// What answers a command: its parameters, and an expression of the reply that the table of commands names for them.
macro_rules! answers {
    ($caller:ident: $( $params:ty: $given:pat => $answer:expr; )+) => { $(
        impl Answer<$params> for Caller<'_> {
            async fn answer(&self, $given: $params) -> Result<<$params as Call>::Reply, WireError> {
                let $caller = self;
                $answer
            }
        }
    )+ };
}

/// The jobs that a command begins as it came; `seed.offer` and `seed.start` have more to do first.
macro_rules! jobs {
    ($( $params:ty => $kind:ty; )+) => {
        answers! { caller: $( $params: p => jobs::begin::<$kind>(caller.host, p, &caller.origin).await; )+ }
    };
}

answers! { caller:
    AgentInfoParams: _ => Ok(queries::agent::info(caller.host));
    AgentStatusParams: _ => {
        observe::look(caller.host).await;
        Ok(caller.agent.heartbeat())
    };
    AgentDoctorParams: _ => Ok(doctor::look(caller.host).await);
    JobsListParams: p => view::list(caller.host, &p).await;
    JobsShowParams: p => view::show_whole(caller.host, p.job, caller.operates).await;
    JobsRecordParams: p => view::record(caller.host, &p).await;
    JobsAbortParams: p => abort(caller.host, p.job, &caller.origin.actor).await;

    HostDiskUsageParams: p => queries::host::disk_usage(caller.host, &p).await;
    HostDiskFreeParams: p => queries::host::disk_free(caller.host, &p).await;

    SnapshotListParams: p => queries::snapshot::list(caller.host, &p).await;
    SnapshotMountStatusParams: _ => queries::snapshot::mounts(caller.host);
    SnapshotMountParams: p => queries::snapshot::mount(caller.host, p).await;
    SnapshotUnmountParams: p => queries::snapshot::unmount(caller.host, p).await;

    MysqlInfoParams: _ => {
        let on_snapshot = caller.host.on_snapshot.of_service();
        Ok(ServerInfo { on_snapshot, ..caller.host.instance.info().await })
    };
    MysqlDiskUsageParams: p => queries::mysql::disk_usage(caller.host, &p).await;
    MysqlDiskFreeParams: _ => queries::mysql::disk_free(caller.host).await;
    MysqlErrorLogParams: p => queries::mysql::error_log(caller.host, &p).await;

    BinlogFilesParams: _ => queries::binlog::files(caller.host).await;
    BinlogRelayFilesParams: _ => queries::binlog::relay_files(caller.host).await;
    BinlogRelayEndParams: _ => queries::binlog::relay_end(caller.host).await;
    BinlogTextParams: p => queries::binlog::text(caller.host, p).await;
    BinlogBinaryParams: p => queries::binlog::binary(caller.host, p).await;
    BinlogUploadParams: p => queries::binlog::upload(caller.host, p).await;
    BinlogApplyParams: p => jobs::binlog::begin(caller.host, p, &caller.origin).await;

    SeedSurveyParams: p => {
        let foreign = Foreign::allowed(p.foreign);
        jobs::probe::survey(caller.host, p.snapshot.as_ref(), foreign, p.stream.as_deref()).await
    };
    SeedOfferParams: p => jobs::offer::open(caller.host, p, &caller.origin).await;
    SeedReleaseParams: p => jobs::offer::release(caller.host, p.offer, &caller.origin.actor).await;
    SeedPlanParams: p => Ok(jobs::seed::plan_here(caller.host, &p.donor, &p.options).await);
    SeedStartParams: p => jobs::seed::begin(caller.host, p, &caller.origin).await;
    SeedThrottleParams: p => throttle(caller.host, &p);

    CustomListParams: _ => Ok(queries::agent::custom_commands(caller.host));
}

jobs! {
    SnapshotCreateParams => jobs::snapshot::create::Create;
    SnapshotRemoveParams => jobs::snapshot::remove::Remove;
    SnapshotVerifyParams => jobs::snapshot::verify::Verify;
    MysqlStartParams => jobs::service::Start;
    MysqlStopParams => jobs::service::Stop;
    MysqlRestartParams => jobs::service::Restart;
    MysqlStartOnSnapshotParams => jobs::on_snapshot::StartOnSnapshot;
    MysqlLeaveSnapshotParams => jobs::on_snapshot::Leave;
    DatadirClearParams => jobs::datadir::Clear;
    DatadirPostCopyParams => jobs::datadir::PostCopy;
    SeedUndoParams => jobs::seed::undo::PutBack;
    CustomRunParams => jobs::custom::RunCommand;
}

impl Answer<HostVolumesParams> for Caller<'_> {
    async fn answer(&self, params: HostVolumesParams) -> Result<Vec<Volume>, WireError> {
        queries::host::volumes(params).await
    }
}

/// `jobs.abort`.
async fn abort(host: &Arc<Host>, id: JobId, actor: &str) -> Result<JobView, WireError> {
    host.runner.abort(id, format!("asked by {actor}")).await?;
    view::show(host, id).await
}

/// `seed.throttle`.
fn throttle(host: &Host, params: &SeedThrottleParams) -> Result<Empty, WireError> {
    let throttle = host.throttles.of(params.job).ok_or_else(|| {
        WireError::new(ErrorCode::NotFound, format!("{} is no seed that runs on this agent", params.job))
    })?;
    throttle.set(params.bytes_per_s);
    Ok(Empty {})
}
