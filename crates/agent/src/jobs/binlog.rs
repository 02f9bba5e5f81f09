//! `binlog.apply`: events applied to the server. Nobody knows whether they are safe to apply twice.

use std::sync::Arc;

use async_trait::async_trait;
use job::{Scope, Step, StepError, Steps};
use protocol::command::Call as _;
use protocol::error::{ErrorCode, WireError};
use protocol::ids::{JobId, UploadId};
use protocol::job::JobAccepted;
use protocol::params::BinlogApplyParams;
use serde_json::{Value, json};

use crate::admission::{Claim, Claims, Resource};
use crate::errors::system;
use crate::host::Host;
use crate::jobs::kind::Kind;
use crate::jobs::{self, Origin, once};
use crate::queries::binlog::decoded;
use crate::uploads;

/// Applies binary log events.
#[derive(Debug)]
pub(crate) struct Apply;

/// Begins it with the content beside the journal and not in it: whoever may look at jobs reads a journal, and rows are for those who may
/// copy the data.
pub(crate) async fn begin(
    host: &Arc<Host>,
    params: BinlogApplyParams,
    origin: &Origin,
) -> Result<JobAccepted, WireError> {
    Apply::check(host, &params)?;
    let Some(content) = &params.content else { return jobs::begin::<Apply>(host, params, origin).await };
    let (content, upload) = (decoded(content)?, UploadId::generate());
    let kept = BinlogApplyParams { content: None, upload: Some(upload) };
    let keep = || uploads::whole(&host.config.agent.state_dir, upload, &content);
    jobs::begin_with::<Apply>(host, JobId::generate(), kept, origin, keep).await
}

impl Kind for Apply {
    type Params = BinlogApplyParams;
    const NAME: &'static str = BinlogApplyParams::SPEC.name;

    fn claims(_: &BinlogApplyParams) -> Claims {
        &[(Resource::Service, Claim::Shared), (Resource::Datadir, Claim::Shared)]
    }

    fn check(host: &Host, params: &BinlogApplyParams) -> Result<(), WireError> {
        match (&params.content, params.upload) {
            (Some(_), None) => Ok(()),
            (None, Some(upload)) if uploads::path(&host.config.agent.state_dir, upload).is_file() => Ok(()),
            (None, Some(upload)) => Err(WireError::new(
                ErrorCode::NotFound,
                format!("there is no upload {upload} on {}", host.id),
            )),
            _ => Err(WireError::new(ErrorCode::BadRequest, "give either content or upload")),
        }
    }

    fn steps() -> Steps<Host> {
        vec![Arc::new(Self)]
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
        Ok(apply(host, &params).await?)
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

async fn apply(host: &Host, params: &BinlogApplyParams) -> Result<Value, WireError> {
    let applied = match (&params.content, params.upload) {
        // As journals of releases before 0.2 have it.
        (Some(content), _) => {
            mysql::binlog::apply(&host.instance, decoded(content)?.as_slice(), uploads::MAX_BYTES).await
        }
        (None, Some(upload)) => {
            let path = uploads::path(&host.config.agent.state_dir, upload);
            let file = tokio::fs::File::open(&path)
                .await
                .map_err(|e| system(format!("cannot read {}", path.display()), &e))?;
            let applied = mysql::binlog::apply(&host.instance, file, uploads::MAX_BYTES).await;
            // Whether it was applied or not: half of it may have been, and must not be applied once more by mistake.
            tokio::fs::remove_file(&path).await.ok();
            applied
        }
        (None, None) => return Err(WireError::new(ErrorCode::BadRequest, "give either content or upload")),
    };
    let applied = applied?;
    Ok(
        json!({ "bytes": applied.bytes, "took_ms": u64::try_from(applied.took.as_millis()).unwrap_or(u64::MAX) }),
    )
}
