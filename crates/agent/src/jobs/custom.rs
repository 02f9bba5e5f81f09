//! `custom.run`: an allow-listed command. Nobody knows whether it is safe to run twice.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use job::{Scope, Step, StepError, Steps};
use mysql::process::{self, Limits, Output};
use protocol::command::Call as _;
use protocol::error::{ErrorCode, WireError};
use protocol::ids::JobId;
use protocol::params::CustomRunParams;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::admission::Claims;
use crate::host::{Host, blocking};
use crate::jobs::kind::Kind;
use crate::jobs::once;
use crate::outputs;

/// Bytes kept of what a command prints.
const OUTPUT_LIMIT: usize = 256 * 1024;

/// Runs an allow-listed command.
#[derive(Debug)]
pub(crate) struct RunCommand;

impl Kind for RunCommand {
    type Params = CustomRunParams;
    const NAME: &'static str = CustomRunParams::SPEC.name;

    fn claims(_: &CustomRunParams) -> Claims {
        &[]
    }

    fn check(host: &Host, params: &CustomRunParams) -> Result<(), WireError> {
        if host.config.custom.contains_key(&params.name) {
            return Ok(());
        }
        let known: Vec<&str> = host.config.custom.keys().map(String::as_str).collect();
        Err(WireError::new(
            ErrorCode::NotFound,
            format!("{:?} is no command of this host; it has: {}", params.name, known.join(", ")),
        ))
    }

    fn summary(params: &CustomRunParams) -> String {
        params.name.clone()
    }

    fn steps() -> Steps<Host> {
        vec![Arc::new(Self)]
    }
}

/// Keeps what was printed where only those read it who may run the command: a journal is for everybody who may look at jobs.
async fn keep(host: &Host, job: JobId, output: &Output) -> Result<(), WireError> {
    let printed = json!({
        "exit_status": output.status.code(),
        "stdout": String::from_utf8_lossy(&output.stdout),
        "stderr": String::from_utf8_lossy(&output.stderr),
    });
    let state_dir = host.config.agent.state_dir.clone();
    blocking(move || outputs::keep(&state_dir, job, &printed)).await
}

fn printed_digest(output: &Output) -> String {
    let digest = Sha256::new().chain_update(&output.stdout).chain_update(&output.stderr).finalize();
    sys::hex::encode(digest)
}

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
        keep(host, scope.job_id(), &output).await?;
        if !output.status.success() {
            let why =
                format!("{} ended with {}; the job's result has what it printed", params.name, output.status);
            return Err(StepError::new(ErrorCode::System, why));
        }
        Ok(json!({
            "exit_status": output.status.code(),
            "printed_bytes": output.stdout.len() + output.stderr.len(),
            "printed_sha256": printed_digest(&output),
        }))
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}
