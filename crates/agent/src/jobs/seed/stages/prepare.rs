//! The staging directory, and what must not move from here on.

use async_trait::async_trait;
use job::{OnUndoFailure, Scope, Step, StepError, crashsafe};
use mysql::datadir;
use protocol::error::{ErrorCode, WireError};
use protocol::params::SeedStartParams;
use protocol::seed::SeedStage;
use serde_json::{Value, json};

use super::super::notes::Note;
use super::super::{OWN, Target, private_dir};
use crate::errors::system;
use crate::host::{Host, blocking};
use crate::jobs::service;

/// The staging directory.
#[derive(Debug)]
pub(super) struct Prepare;

#[async_trait]
impl Step<Host> for Prepare {
    fn name(&self) -> &'static str {
        SeedStage::Prepare.as_str()
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SeedStartParams = scope.params()?;
        let target = Target::of(scope)?;
        let layout = target.layout(scope.job_id())?;
        // A delta compares with the old data and a replacement removes them: neither may move meanwhile.
        let early = params.options.replace || params.options.delta;
        if early && params.options.stop_mysql {
            service::stop_and_hold(host, scope).await?;
        }
        if params.options.replace && target.datadir.exists() {
            if !Note::is_removed(scope) {
                keep_own(host, scope, &target).await?;
            }
            Note::Removed(target.datadir.clone()).write(scope).await?;
            let datadir = target.datadir.clone();
            blocking(move || datadir::clear(&datadir).map_err(WireError::from)).await?;
        }
        let staging = layout.staging();
        blocking(move || layout.prepare().map_err(|e| system("the staging directory cannot be made", &e)))
            .await?;
        Ok(json!({ "staging": staging }))
    }

    async fn undo(&self, host: &Host, scope: &Scope) -> Result<(), StepError> {
        let Some(target) = scope.try_output::<Target>("plan")? else { return Ok(()) };
        let params: SeedStartParams = scope.params()?;
        let layout = target.layout(scope.job_id())?;
        blocking(move || match layout.holds_old() {
            Ok(false) => layout.remove().map_err(|e| system("the staging directory cannot be removed", &e)),
            Ok(true) => Err(WireError::new(
                ErrorCode::Internal,
                format!("the new data are still in place; the old ones are in {}", layout.old().display()),
            )),
            Err(e) => Err(system("whether the new data are in place cannot be told", &e)),
        })
        .await?;
        if params.options.replace {
            return after_removal(host, scope, &target).await;
        }
        if params.options.delta && target.was_running {
            service::start(host, scope).await?;
        }
        Ok(())
    }

    /// The donor must hear of the end all the same, and the secrets go.
    fn on_undo_failure(&self) -> OnUndoFailure {
        OnUndoFailure::GoOn
    }
}

/// The old data go before the new ones come: what is the recipient's own waits beside the journal.
async fn keep_own(host: &Host, scope: &Scope, target: &Target) -> Result<(), StepError> {
    let (datadir, own) = (target.datadir.clone(), private_dir(host, scope.job_id()).join(OWN));
    blocking(move || {
        crashsafe::create_dir(&own, 0o700)
            .map_err(|e| system("the recipient's own files cannot be kept", &e))?;
        mysql::recover::carry_own(&datadir, &own)?;
        Ok(())
    })
    .await
    .map_err(StepError::from)
}

/// What is left of a host whose old data `--replace` has removed, or was about to remove.
async fn after_removal(host: &Host, scope: &Scope, target: &Target) -> Result<(), StepError> {
    if Note::is_kept(scope) {
        return Ok(());
    }
    if !Note::is_removed(scope) {
        if target.was_running {
            service::start(host, scope).await?;
        }
        return Ok(());
    }
    Err(StepError::new(
        ErrorCode::Refused,
        format!(
            "--replace had the old data removed before the copy: {} is empty or incomplete and MySQL is stopped; seed again",
            target.datadir.display()
        ),
    ))
}
