//! The configured argv runs.

use async_trait::async_trait;
use job::{Scope, Step, StepError};
use protocol::seed::SeedStage;
use serde_json::Value;

use crate::host::Host;
use crate::jobs::datadir;

/// The configured argv runs.
#[derive(Debug)]
pub(super) struct PostCopy;

#[async_trait]
impl Step<Host> for PostCopy {
    fn name(&self) -> &'static str {
        SeedStage::PostCopy.as_str()
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        datadir::run_post_copy(host, scope).await
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}
