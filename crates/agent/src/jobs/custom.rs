//! What is not known to be safe to do twice: allow-listed commands, and events applied to the server.

use std::time::Duration;

use async_trait::async_trait;
use job::{Scope, Step, StepError};
use mysql::process::{self, Limits};
use protocol::error::ErrorCode;
use protocol::params::{BinlogApplyParams, CustomRunParams};
use serde_json::{Value, json};

use crate::host::Host;

/// Bytes kept of what a command prints.
const OUTPUT_LIMIT: usize = 256 * 1024;

/// Runs an allow-listed command.
#[derive(Debug)]
pub(crate) struct RunCommand;

/// Applies binary log events.
#[derive(Debug)]
pub(crate) struct Apply;

#[async_trait]
impl Step<Host> for RunCommand {
    fn name(&self) -> &'static str {
        "run"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        once(scope)?;
        let params: CustomRunParams = scope.params()?;
        let custom = host.config.custom.get(&params.name).ok_or_else(|| {
            StepError::new(
                ErrorCode::NotFound,
                format!("{:?} is no command of this host any more", params.name),
            )
        })?;
        let limits = Limits { time: Duration::from_secs(custom.time_limit_s), output_bytes: OUTPUT_LIMIT };
        let output = tokio::select! {
            output = process::run(&custom.argv, &limits) => output?,
            () = scope.cancelled() => return Err(StepError::stopped()),
        };
        let result = json!({
            "exit_status": output.status.code(),
            "stdout": String::from_utf8_lossy(&output.stdout),
            "stderr": String::from_utf8_lossy(&output.stderr),
        });
        output.success(&params.name)?;
        Ok(result)
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

#[async_trait]
impl Step<Host> for Apply {
    fn name(&self) -> &'static str {
        "apply"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        once(scope)?;
        let params: BinlogApplyParams = scope.params()?;
        crate::queries::binlog::apply(host, &params).await.map_err(StepError::from)
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

/// Such a step is not run again after a crash: whether it had its effect is for a person to find out.
fn once(scope: &Scope) -> Result<(), StepError> {
    if scope.is_rerun() {
        return Err(StepError::new(
            ErrorCode::Internal,
            "the agent died while this ran; whether it had its effect is not known, so it was not run again",
        ));
    }
    Ok(())
}
