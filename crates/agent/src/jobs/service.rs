//! Start, stop and restart of the MySQL service.

use async_trait::async_trait;
use job::{Scope, Step, StepError};
use serde_json::{Value, json};

use crate::host::Host;

/// Starts the server; done when it answers.
#[derive(Debug)]
pub(crate) struct Start;

/// Stops the server cleanly.
#[derive(Debug)]
pub(crate) struct Stop;

/// Stops and starts the server.
#[derive(Debug)]
pub(crate) struct Restart;

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

#[async_trait]
impl Step<Host> for Stop {
    fn name(&self) -> &'static str {
        "stop"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        stop(host, scope).await?;
        Ok(Value::Null)
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

#[async_trait]
impl Step<Host> for Restart {
    fn name(&self) -> &'static str {
        "restart"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        stop(host, scope).await?;
        start(host, scope).await
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

/// Starts the server and reports crash recovery as it goes; ends early when the job is told to stop.
pub(crate) async fn start(host: &Host, scope: &Scope) -> Result<Value, StepError> {
    let report = |progress: mysql::Progress| {
        let done = u64::from(progress.percent.unwrap_or(0));
        scope.report(done, progress.percent.map(|_| 100), json!({ "message": progress.message }));
    };
    tokio::select! {
        started = host.instance.start_with(&report) => started?,
        () = scope.cancelled() => return Err(StepError::stopped()),
    }
    host.look_soon();
    Ok(json!({ "state": host.instance.state().await }))
}

/// Stops the server and waits until it is gone.
pub(crate) async fn stop(host: &Host, scope: &Scope) -> Result<(), StepError> {
    let report = |progress: mysql::Progress| scope.report(0, None, json!({ "message": progress.message }));
    host.instance.stop_with(&report).await?;
    host.look_soon();
    Ok(())
}
