//! MySQL stops and the new tree takes the datadir's place.

use async_trait::async_trait;
use job::{OnUndoFailure, Scope, Step, StepError};
use protocol::error::ErrorCode;
use protocol::mysql::Flavor;
use protocol::params::SeedStartParams;
use protocol::seed::SeedStage;
use serde_json::{Value, json};

use super::super::notes::Note;
use super::super::outside::Outside;
use super::super::swap::{Layout, SwapError};
use super::super::{OWN, Target, private_dir};
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
        put_in_place(host, scope, &params, &target, layout.clone()).await?;
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
        let outside = outside(scope, &target);
        on_layout(layout, Layout::swap_back).await?;
        blocking(move || {
            outside.put_back()?;
            outside.remove()
        })
        .await?;
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

/// The new tree gets what is the recipient's own, its logs elsewhere are set aside, and the two trees change places. A MySQL
/// that becomes a replica is told to come up read-only.
async fn put_in_place(
    host: &Host,
    scope: &Scope,
    params: &SeedStartParams,
    target: &Target,
    layout: Layout,
) -> Result<(), StepError> {
    let outside = outside(scope, target);
    let state = target.server.as_ref().and_then(|server| server.log_state(&target.datadir, &layout));
    let place = layout.clone();
    let own = match params.options.replace {
        true => private_dir(host, scope.job_id()).join(OWN),
        false => target.datadir.clone(),
    };
    let version = params.offer.facts.version.as_ref();
    let persists =
        version.is_some_and(|version| version.flavor == Flavor::Mysql && version.number >= [8, 0, 0]);
    let closes = persists && params.options.replicate_from.is_some();
    let closed = blocking(move || {
        let begun = |e: &SwapError| system("the datadir cannot be swapped", e);
        if place.is_swapped().map_err(|e| begun(&e))? || place.holds_old().map_err(|e| begun(&e))? {
            return Ok(false);
        }
        let staging = place.staging();
        mysql::recover::carry_own(&own, &staging)?;
        let closed = closes && mysql::recover::persist_read_only(&staging)?;
        outside.set_aside(state.as_ref())?;
        Ok(closed)
    })
    .await?;
    if closed {
        Note::Closed(target.datadir.clone()).write(scope).await?;
    }
    on_layout(layout, Layout::swap).await
}

/// The recipient's logs outside its datadir.
pub(super) fn outside(scope: &Scope, target: &Target) -> Outside {
    let bases = target.server.as_ref().map(|server| server.logs_outside(&target.datadir)).unwrap_or_default();
    Outside::new(scope.job_id(), bases)
}

/// The old data are gone by the person's own word: the proven new ones, which wait in staging at the worst, are put in
/// place and left there. That this is no undo is said in the job's error.
async fn keep_the_new(host: &Host, scope: &Scope, target: &Target, layout: Layout) -> Result<(), StepError> {
    service::stop_for_undo(host, scope).await?;
    Note::Kept(target.datadir.clone()).write(scope).await?;
    let outside = outside(scope, target);
    on_layout(layout, |layout| {
        // Absent: an earlier attempt came to its end.
        if layout.exists() {
            layout.swap()?;
        }
        layout.remove()?;
        layout.remove_marker()
    })
    .await?;
    blocking(move || outside.remove()).await?;
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
