//! `snapshot.remove`: a snapshot that nobody holds goes. Whose it is, `owned` tells; who holds it is asked of the mounts, which refuse.

use std::sync::Arc;

use async_trait::async_trait;
use job::{Scope, Step, StepError, Steps};
use protocol::command::Call as _;
use protocol::error::{ErrorCode, WireError};
use protocol::params::SnapshotRemoveParams;
use serde_json::Value;

use crate::admission::{Claim, Claims, Resource};
use crate::host::{Host, blocking};
use crate::jobs::kind::Kind;
use crate::owned::{Foreign, find};
use crate::state::acting::Change;

/// Removes a snapshot that nobody holds.
#[derive(Debug)]
pub(crate) struct Remove;

impl Kind for Remove {
    type Params = SnapshotRemoveParams;
    const NAME: &'static str = SnapshotRemoveParams::SPEC.name;

    fn claims(_: &SnapshotRemoveParams) -> Claims {
        &[(Resource::Snapshots, Claim::Alone)]
    }

    fn check(host: &Host, _: &SnapshotRemoveParams) -> Result<(), WireError> {
        host.snapshots().map(|_| ())
    }

    fn summary(params: &SnapshotRemoveParams) -> String {
        params.snapshot.to_string()
    }

    fn steps() -> Steps<Host> {
        vec![Arc::new(Self)]
    }
}

#[async_trait]
impl Step<Host> for Remove {
    fn name(&self) -> &'static str {
        "remove"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SnapshotRemoveParams = scope.params()?;
        let snapshots = host.snapshots()?.clone();
        let acts = host.acting.begin(scope.spec().actor, Change::Removing(params.snapshot.clone()));
        match find(host, &params.snapshot, Foreign::allowed(params.foreign)).await {
            // The run before had removed it and died before it could say so.
            Err(error) if scope.is_rerun() && error.code == ErrorCode::NotFound => {}
            Err(error) => return Err(error.into()),
            Ok(found) => {
                blocking(move || snapshots.mounts.remove_snapshot(&found.id).map_err(WireError::from))
                    .await?;
            }
        }
        // Seen and told before the name goes.
        host.look_now().await;
        drop(acts);
        Ok(Value::Null)
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}
