//! Every guard again, on the recipient itself.

use std::os::unix::fs::MetadataExt as _;

use async_trait::async_trait;
use job::{Scope, Step, StepError};
use mysql::datadir::Ownership;
use protocol::error::ErrorCode;
use protocol::ids::JobId;
use protocol::params::SeedStartParams;
use protocol::seed::SeedStage;
use serde_json::{Value, json};

use super::super::notes::Note;
use super::super::swap::Layout;
use super::super::{Target, admit_plan, forget};
use super::recover::OwnServer;
use super::transfer::abandon;
use crate::errors::system;
use crate::host::{Host, blocking};
use crate::jobs::service;

/// Every guard again, on the recipient itself.
#[derive(Debug)]
pub(super) struct Plan;

#[async_trait]
impl Step<Host> for Plan {
    fn name(&self) -> &'static str {
        SeedStage::Plan.as_str()
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SeedStartParams = scope.params()?;
        let plan = admit_plan(host, &params, Some(scope.job_id())).await?;
        let server = host.instance.info().await;
        let target = target(host, &server, scope.job_id()).await?;
        let mut output = json!(target);
        output["plan"] = json!(plan);
        Ok(output)
    }

    async fn undo(&self, host: &Host, scope: &Scope) -> Result<(), StepError> {
        abandon(host, scope).await?;
        forget(host, scope.job_id())?;
        let Some(target) = scope.try_output::<Target>("plan")? else { return Ok(()) };
        if Note::is_stopped(scope) && !target.layout(scope.job_id())?.exists() {
            // It may still be on its way down, for lack of the space that is there now.
            service::stop(host, scope).await?;
            service::start(host, scope).await?;
        }
        match scope.params::<SeedStartParams>()?.options.replace {
            // What is in the datadir's place may be no datadir: a client must not start a server on it.
            true => service::let_go(host).await.map(drop),
            false => service::let_be(host).await,
        }
    }
}

async fn target(host: &Host, server: &protocol::mysql::ServerInfo, job: JobId) -> Result<Target, StepError> {
    let datadir = server
        .datadir
        .clone()
        .ok_or_else(|| StepError::new(ErrorCode::NotFound, "the datadir is not known"))?;
    let settings = host.instance.settings().await;
    let user = settings.options.get("user").map(str::to_owned);
    let was_running = server.state.may_be_running();
    let own = Some(OwnServer::of(host, server, &settings));
    blocking(move || {
        let old = std::fs::metadata(&datadir).ok();
        let owner = Ownership::find(&datadir, user.as_deref())?;
        let mode = old.map_or(0o750, |meta| meta.mode() & 0o7777);
        let layout = Layout::of(&datadir, job).map_err(|e| system("the datadir cannot be looked at", &e))?;
        let entrywise = Some(layout.is_entrywise());
        Ok(Target { datadir, owner, mode, was_running, entrywise, server: own })
    })
    .await
    .map_err(StepError::from)
}
