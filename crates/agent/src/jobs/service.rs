//! Start, stop and restart of the MySQL service, and holding it down while its datadir is changed.

use std::sync::Arc;

use async_trait::async_trait;
use job::{Scope, Step, StepError, Steps};
use protocol::command::Call as _;
use protocol::error::ErrorCode;
use protocol::params::{MysqlRestartParams, MysqlStartParams, MysqlStopParams};
use serde_json::{Value, json};

use crate::admission::{Claim, Claims, Resource};
use crate::host::{Host, chain};
use crate::jobs::kind::Kind;

/// Starts the server; done when it answers.
#[derive(Debug)]
pub(crate) struct Start;

/// Stops the server cleanly.
#[derive(Debug)]
pub(crate) struct Stop;

/// Stops and starts the server.
#[derive(Debug)]
pub(crate) struct Restart;

impl Kind for Start {
    type Params = MysqlStartParams;
    const NAME: &'static str = MysqlStartParams::SPEC.name;

    fn claims(_: &MysqlStartParams) -> Claims {
        &[(Resource::Service, Claim::Alone)]
    }

    fn steps() -> Steps<Host> {
        vec![Arc::new(Self)]
    }
}

#[async_trait]
impl Step<Host> for Start {
    fn name(&self) -> &'static str {
        "start"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        start(host, scope).await
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

impl Kind for Stop {
    type Params = MysqlStopParams;
    const NAME: &'static str = MysqlStopParams::SPEC.name;

    fn claims(_: &MysqlStopParams) -> Claims {
        &[(Resource::Service, Claim::Alone)]
    }

    fn steps() -> Steps<Host> {
        vec![Arc::new(Self)]
    }
}

#[async_trait]
impl Step<Host> for Stop {
    fn name(&self) -> &'static str {
        "stop"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        // Its socket would start it again within milliseconds.
        hold_if_possible(host, scope).await;
        let stopped = stop(host, scope).await;
        let left = let_go(host).await?;
        stopped?;
        Ok(if left.is_empty() { Value::Null } else { json!({ "left_stopped": left }) })
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

impl Kind for Restart {
    type Params = MysqlRestartParams;
    const NAME: &'static str = MysqlRestartParams::SPEC.name;

    fn claims(_: &MysqlRestartParams) -> Claims {
        &[(Resource::Service, Claim::Alone)]
    }

    fn steps() -> Steps<Host> {
        vec![Arc::new(Self)]
    }
}

#[async_trait]
impl Step<Host> for Restart {
    fn name(&self) -> &'static str {
        "restart"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        hold_if_possible(host, scope).await;
        if let Err(error) = stop(host, scope).await {
            let_go(host).await?;
            return Err(error);
        }
        start(host, scope).await
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

/// Lets go of the service, starts it and reports crash recovery as it goes; ends early when the job is told to stop.
pub(crate) async fn start(host: &Host, scope: &Scope) -> Result<Value, StepError> {
    start_as(host, scope, false).await
}

/// As [`start`], for a server that becomes a replica: see [`mysql::Instance::start_closed`].
pub(crate) async fn start_closed(host: &Host, scope: &Scope) -> Result<Value, StepError> {
    start_as(host, scope, true).await
}

async fn start_as(host: &Host, scope: &Scope, closed: bool) -> Result<Value, StepError> {
    // Before sockets may start it.
    match closed {
        true => host.instance.close_starts().await?,
        false => open_starts(host).await,
    }
    let_be(host).await?;
    let report = |progress: mysql::Progress| {
        let done = u64::from(progress.percent.unwrap_or(0));
        scope.report(done, progress.percent.map(|_| 100), json!({ "message": progress.message }));
    };
    let start = async {
        match closed {
            true => host.instance.start_closed(&report).await,
            false => host.instance.start_with(&report).await,
        }
    };
    let started = tokio::select! {
        started = start => started.map_err(StepError::from),
        () = scope.cancelled() => Err(StepError::stopped()),
    };
    if closed {
        open_starts(host).await;
    }
    started?;
    host.look_soon();
    if closed && host.instance.info().await.read_only == Some(false) {
        let unheeded = "MySQL came up open to writes before it is a replica: its unit does not pass MYSQLD_OPTS on; set read_only = ON in \
                        its option file";
        tracing::warn!(job = %scope.job_id(), unheeded);
        scope.report(0, None, json!({ "message": unheeded }));
    }
    Ok(json!({ "state": host.instance.state().await }))
}

/// A start is worth more than what an earlier one may have left: that this one, or the next, is read-only.
async fn open_starts(host: &Host) {
    if let Err(error) = host.instance.open_starts().await {
        let error = chain(&error);
        tracing::warn!(
            error,
            "starts of MySQL may still be read-only: look into /run/systemd/system for zzz-orchestrator-agent-closed.conf"
        );
    }
}

/// Holds the service down, so that nothing starts it until this job lets it go or starts it, whatever happens to the
/// agent or the host meanwhile; then stops it.
pub(crate) async fn stop_and_hold(host: &Host, scope: &Scope) -> Result<(), StepError> {
    hold(host, scope).await?;
    stop(host, scope).await
}

/// As [`stop_and_hold`], for a way back: a host on which nothing can be held is put back all the same.
pub(crate) async fn stop_for_undo(host: &Host, scope: &Scope) -> Result<(), StepError> {
    hold_if_possible(host, scope).await;
    stop(host, scope).await
}

/// As [`hold`], for a way back: that it cannot be is logged.
pub(crate) async fn hold_if_possible(host: &Host, scope: &Scope) {
    if let Err(error) = hold(host, scope).await {
        tracing::warn!(job = %scope.job_id(), error = %chain(&error), "the service of MySQL cannot be held down");
    }
}

/// Nothing starts the service until this job lets it go or starts it. A server that runs goes on.
pub(crate) async fn hold(host: &Host, scope: &Scope) -> Result<(), mysql::Error> {
    if let Some(hold) = host.instance.hold(host.id.as_str(), &scope.job_id().to_string()).await? {
        let (file, stopped) = (hold.file(), hold.stopped.join(" "));
        tracing::info!(job = hold.job, unit = hold.unit, file = %file.display(), stopped, "the service is held down");
        let message = format!("{} is held down by {}", hold.unit, file.display());
        scope.report(0, None, json!({ "message": message }));
    }
    Ok(())
}

/// Lets go of the service and leaves it as it is; gives the units that stay stopped with it, until it is started by the
/// agent or the host boots.
pub(crate) async fn let_go(host: &Host) -> Result<Vec<String>, StepError> {
    let released = host.instance.release(host.id.as_str()).await?;
    for hold in &released {
        tracing::info!(
            job = hold.job,
            unit = hold.unit,
            stopped = hold.stopped.join(" "),
            "the service is held no more"
        );
    }
    Ok(released.into_iter().flat_map(|hold| hold.stopped).collect())
}

/// Lets go of the service and starts again what was stopped with it, so that all is as it was but for the service itself.
pub(crate) async fn let_be(host: &Host) -> Result<(), StepError> {
    let_go(host).await?;
    let failed = host.instance.resume(host.id.as_str()).await;
    if !failed.is_empty() {
        tracing::warn!(
            units = failed.join(" "),
            "stopped with MySQL and not started again: look at their status"
        );
    }
    Ok(())
}

/// Fails when a server runs although it was stopped: on a host that nothing can hold, a watchdog may have been quicker.
pub(crate) async fn refuse_if_back(host: &Host) -> Result<(), StepError> {
    match host.instance.running_by().await {
        None => Ok(()),
        Some(who) => Err(StepError::new(
            ErrorCode::Mysql,
            format!("MySQL was started while its datadir was changed: {who}; let that rest, then seed again"),
        )),
    }
}

/// Lets go of what an earlier run holds and no job needs any more; what is held for a job of `broken`, which may have left
/// half a datadir, stays held and is told.
pub(crate) async fn release_forgotten(host: &Host, unfinished: &[String], broken: &[String]) {
    for hold in mysql::hold::holds(host.id.as_str()) {
        let file = hold.file();
        if unfinished.contains(&hold.job) {
            tracing::info!(job = hold.job, unit = hold.unit, file = %file.display(), "the service is held down");
            return;
        }
        if broken.contains(&hold.job) {
            tracing::error!(
                job = hold.job, unit = hold.unit, file = %file.display(),
                "the service stays held down, for its job cannot go on: look at the datadir, remove the file, systemctl daemon-reload"
            );
            return;
        }
        tracing::warn!(job = hold.job, unit = hold.unit, "the service was held for a job that is over");
    }
    if mysql::hold::holds(host.id.as_str()).is_empty() {
        return;
    }
    if let Err(error) = let_be(host).await {
        tracing::error!(%error, "the service cannot be let go");
    }
}

/// Stops the server and waits until it is gone.
pub(crate) async fn stop(host: &Host, scope: &Scope) -> Result<(), StepError> {
    let report = |progress: mysql::Progress| scope.report(0, None, json!({ "message": progress.message }));
    host.instance.stop_with(&report).await?;
    host.look_soon();
    Ok(())
}
