//! All kinds of jobs that this agent knows.

use std::sync::Arc;

use job::JobSpec;
use protocol::error::{ErrorCode, WireError};
use serde_json::Value;

use super::kind::{About, Definition};
use super::{binlog, custom, datadir, offer, on_snapshot, seed, service, snapshot};
use crate::host::Host;

/// One line per kind.
pub(crate) static KINDS: [Definition; 15] = [
    Definition::of::<seed::Start>(),
    Definition::of::<seed::undo::PutBack>(),
    Definition::of::<offer::Give>(),
    Definition::of::<snapshot::create::Create>(),
    Definition::of::<snapshot::remove::Remove>(),
    Definition::of::<snapshot::verify::Verify>(),
    Definition::of::<service::Start>(),
    Definition::of::<service::Stop>(),
    Definition::of::<service::Restart>(),
    Definition::of::<on_snapshot::StartOnSnapshot>(),
    Definition::of::<on_snapshot::Leave>(),
    Definition::of::<datadir::Clear>(),
    Definition::of::<datadir::PostCopy>(),
    Definition::of::<binlog::Apply>(),
    Definition::of::<custom::RunCommand>(),
];

/// The kind of this name; none when this build does not know it.
pub(crate) fn find(kind: &str) -> Option<&'static Definition> {
    KINDS.iter().find(|known| known.name == kind)
}

/// What a journalled job is.
pub(crate) fn about(kind: &str, params: &Value) -> About {
    find(kind).map_or_else(About::unknown, |known| known.about(params))
}

/// Goes on with a job that was found at the start of the agent.
pub(crate) async fn resume(host: &Arc<Host>, spec: &JobSpec) -> Result<(), WireError> {
    let kind = find(&spec.kind).ok_or_else(|| {
        WireError::new(ErrorCode::Internal, format!("this agent knows no jobs of kind {}", spec.kind))
    })?;
    host.admitted.lock().await.note(spec.id, spec.request_id, kind.about(&spec.params).claims);
    host.runner.run(spec.id, (kind.steps)(), Arc::clone(host)).await?;
    Ok(())
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
