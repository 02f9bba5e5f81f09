//! Emptying the datadir, and what follows a copy.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use job::{Scope, Step, StepError, Steps};
use mysql::process::{self, Limits};
use protocol::command::Call as _;
use protocol::error::{ErrorCode, WireError};
use protocol::params::{DatadirClearParams, DatadirPostCopyParams};
use serde_json::{Value, json};

use crate::admission::{Claim, Claims, Resource};
use crate::host::{Host, blocking};
use crate::jobs::kind::Kind;
use crate::jobs::on_snapshot::refuse_while_covered;
use crate::jobs::service;

/// Bytes kept of what a command prints.
const OUTPUT_LIMIT: usize = 64 * 1024;

/// Empties the datadir of a stopped server.
#[derive(Debug)]
pub(crate) struct Clear;

/// Runs the configured argv.
#[derive(Debug)]
pub(crate) struct PostCopy;

impl Kind for Clear {
    type Params = DatadirClearParams;
    const NAME: &'static str = DatadirClearParams::SPEC.name;

    fn claims(_: &DatadirClearParams) -> Claims {
        &[(Resource::Service, Claim::Shared), (Resource::Datadir, Claim::Alone)]
    }

    fn check(host: &Host, _: &DatadirClearParams) -> Result<(), WireError> {
        refuse_while_covered(host, Self::NAME)
    }

    fn summary(params: &DatadirClearParams) -> String {
        params.datadir.display().to_string()
    }

    fn steps() -> Steps<Host> {
        vec![Arc::new(Self)]
    }
}

#[async_trait]
impl Step<Host> for Clear {
    fn name(&self) -> &'static str {
        "clear"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        // Its socket could start it while the files go, and would start it on an empty datadir afterwards.
        service::hold(host, scope).await?;
        let cleared = clear(host, scope).await;
        let left_stopped = service::let_go(host).await?;
        Ok(json!({ "entries_removed": cleared?, "left_stopped": left_stopped }))
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

async fn clear(host: &Host, scope: &Scope) -> Result<Value, StepError> {
    let params: DatadirClearParams = scope.params()?;
    let server = host.instance.info().await;
    if server.state.may_be_running() {
        return Err(StepError::new(
            ErrorCode::Refused,
            "MySQL is not proven to be stopped: stop it first (mysql stop)",
        ));
    }
    let Some(datadir) = server.datadir else {
        return Err(StepError::new(ErrorCode::NotFound, "the datadir of this instance is not known"));
    };
    if !same_directory(&params.datadir, &datadir) {
        let why = format!(
            "the datadir of this instance is {}, not {}",
            datadir.display(),
            params.datadir.display()
        );
        return Err(StepError::new(ErrorCode::Refused, why));
    }
    let removed = blocking(move || mysql::datadir::clear(&datadir).map_err(WireError::from));
    Ok(json!(removed.await?))
}

impl Kind for PostCopy {
    type Params = DatadirPostCopyParams;
    const NAME: &'static str = DatadirPostCopyParams::SPEC.name;

    fn claims(_: &DatadirPostCopyParams) -> Claims {
        &[(Resource::Service, Claim::Shared), (Resource::Datadir, Claim::Alone)]
    }

    fn check(host: &Host, _: &DatadirPostCopyParams) -> Result<(), WireError> {
        refuse_while_covered(host, Self::NAME)?;
        match host.config.seed.post_copy.is_empty() {
            true => Err(WireError::new(
                ErrorCode::MissingCapability,
                "no seed.post_copy is configured on this host",
            )),
            false => Ok(()),
        }
    }

    fn steps() -> Steps<Host> {
        vec![Arc::new(Self)]
    }
}

#[async_trait]
impl Step<Host> for PostCopy {
    fn name(&self) -> &'static str {
        "post-copy"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        run_post_copy(host, scope).await
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

/// Runs `seed.post_copy` within its limit; null when there is none.
pub(crate) async fn run_post_copy(host: &Host, scope: &Scope) -> Result<Value, StepError> {
    let argv = &host.config.seed.post_copy;
    if argv.is_empty() {
        return Ok(Value::Null);
    }
    let limits =
        Limits { time: Duration::from_secs(host.config.seed.post_copy_limit_s), output_bytes: OUTPUT_LIMIT };
    let output = tokio::select! {
        output = process::run(argv, &limits) => output?,
        () = scope.cancelled() => return Err(StepError::stopped()),
    };
    let output = output.success(&argv[0])?;
    Ok(json!({ "post_copy_output": String::from_utf8_lossy(&output.stdout) }))
}

fn same_directory(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
