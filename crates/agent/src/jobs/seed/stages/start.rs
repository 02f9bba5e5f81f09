//! MySQL starts and answers.

use std::time::Duration;

use async_trait::async_trait;
use job::{Scope, Step, StepError};
use protocol::error::ErrorCode;
use protocol::mysql::ServerState;
use protocol::params::SeedStartParams;
use protocol::seed::SeedStage;
use serde_json::Value;

use crate::host::Host;
use crate::jobs::service;

/// The kernel ends a killed process unless its disk hangs.
const KILLED_WITHIN: Duration = Duration::from_secs(30);
/// How long a server that has not become ready is left to stop by itself.
const STARTING_STOPS_WITHIN: Duration = Duration::from_secs(1);

/// MySQL starts and answers.
#[derive(Debug)]
pub(super) struct Start;

#[async_trait]
impl Step<Host> for Start {
    fn name(&self) -> &'static str {
        SeedStage::Start.as_str()
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SeedStartParams = scope.params()?;
        match &params.options {
            options if options.replicate_from.is_some() => service::start_closed(host, scope).await,
            options if options.start_mysql => service::start(host, scope).await,
            _ => Ok(Value::Null),
        }
    }

    async fn undo(&self, host: &Host, scope: &Scope) -> Result<(), StepError> {
        stop_or_kill(host, scope).await
    }
}

/// Stops a server that this job has started, and that may not have come up.
pub(in crate::jobs::seed) async fn stop_or_kill(host: &Host, scope: &Scope) -> Result<(), StepError> {
    service::hold_if_possible(host, scope).await;
    let stop = service::stop(host, scope);
    let stopped = match host.instance.state().await {
        ServerState::Ready | ServerState::ReadyNoAccess => stop.await,
        // MariaDB that is told to stop in the first moments of its start does neither, for ever.
        _ => tokio::time::timeout(STARTING_STOPS_WITHIN, stop)
            .await
            .unwrap_or_else(|_| Err(StepError::new(ErrorCode::Mysql, "it is still starting"))),
    };
    let Err(error) = stopped else { return Ok(()) };
    // It was started by this job, on data that go or that crash recovery mends: waiting for ever helps nobody.
    tracing::warn!(job = %scope.job_id(), %error, "the server that was started does not stop and is killed");
    host.instance.kill(KILLED_WITHIN).await.map_err(StepError::from)
}
