//! MySQL stops and the new tree takes the datadir's place.

use async_trait::async_trait;
use job::{OnUndoFailure, Scope, Step, StepError};
use protocol::error::ErrorCode;
use protocol::params::SeedStartParams;
use protocol::seed::SeedStage;
use serde_json::{Value, json};

use super::super::Target;
use super::super::notes::Note;
use super::super::swap::{Layout, SwapError};
use crate::errors::system;
use crate::host::{Host, blocking};
use crate::jobs::service;

/// MySQL stops and the new tree takes the datadir's place.
#[derive(Debug)]
pub(super) struct Swap;

#[async_trait]
impl Step<Host> for Swap {
    fn name(&self) -> &'static str {
        SeedStage::Swap.as_str()
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SeedStartParams = scope.params()?;
        let target = Target::of(scope)?;
        let layout = target.layout(scope.job_id())?;
        let running = host.instance.state().await.may_be_running();
        if running && !params.options.stop_mysql {
            return Err(StepError::new(
                ErrorCode::Refused,
                "MySQL was started during the copy, and there is no leave to stop it (--stop-mysql)",
            ));
        }
        service::stop_and_hold(host, scope).await?;
        on_layout(layout.clone(), Layout::swap).await?;
        service::refuse_if_back(host).await?;
        Ok(json!({ "mysql_was_running": target.was_running || running, "set_aside": layout.strays() }))
    }

    async fn undo(&self, host: &Host, scope: &Scope) -> Result<(), StepError> {
        let target = Target::of(scope)?;
        let layout = target.layout(scope.job_id())?;
        let params: SeedStartParams = scope.params()?;
        if params.options.replace {
            return keep_the_new(host, scope, &target, layout).await;
        }
        if layout.holds_old().unwrap_or(true) {
            service::stop_for_undo(host, scope).await?;
        }
        on_layout(layout, Layout::swap_back).await?;
        if target.was_running
            && let Err(error) = service::start(host, scope).await
        {
            // On a full disk it starts only once staging is gone: the last undo tries again, and fails if it must.
            tracing::warn!(job = %scope.job_id(), %error, "MySQL does not start on its old data yet");
            Note::Stopped(error.message).write(scope).await?;
        }
        service::let_be(host).await
    }

    /// What this one leaves is looked at by the undo of *prepare*, which removes nothing that may be the only copy.
    fn on_undo_failure(&self) -> OnUndoFailure {
        OnUndoFailure::GoOn
    }
}

/// The old data are gone by the person's own word: the proven new ones, which wait in staging at the worst, are put in
/// place and left there. That this is no undo is said in the job's error.
async fn keep_the_new(host: &Host, scope: &Scope, target: &Target, layout: Layout) -> Result<(), StepError> {
    service::stop_for_undo(host, scope).await?;
    Note::Kept(target.datadir.clone()).write(scope).await?;
    on_layout(layout, |layout| {
        // Absent: an earlier attempt came to its end.
        if layout.exists() {
            layout.swap()?;
        }
        layout.remove()?;
        layout.remove_marker()
    })
    .await?;
    service::let_go(host).await?;
    Err(StepError::new(
        ErrorCode::Refused,
        format!(
            "--replace left no old data to put back; {} holds the complete new ones and MySQL is stopped: mend the cause, \
             then start it (mysql start)",
            target.datadir.display()
        ),
    ))
}

pub(super) async fn on_layout(
    layout: Layout,
    act: impl FnOnce(&Layout) -> Result<(), SwapError> + Send + 'static,
) -> Result<(), StepError> {
    blocking(move || act(&layout).map_err(|e| system("the datadir cannot be swapped", &e)))
        .await
        .map_err(StepError::from)
}
