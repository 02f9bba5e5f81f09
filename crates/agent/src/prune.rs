//! Journals of jobs that ended long ago are removed: at the start, and once an hour while the agent runs. Whoever lists jobs reads all that
//! are there.

use std::sync::Arc;
use std::time::Duration;

use job::Retention;
use tokio_util::sync::CancellationToken;

use crate::host::{Host, chain};
use crate::outputs;

/// Between two prunings.
const PAUSE: Duration = Duration::from_secs(3_600);
/// So many of the newest are kept however old they are.
const KEEP_NEWEST: usize = 100;

/// Prunes until `shutdown`.
pub(crate) async fn run(host: Arc<Host>, shutdown: CancellationToken) {
    loop {
        // Read anew each time: a reload may have changed it.
        let days = u64::from(host.config.agent.keep_jobs_days);
        let retention = Retention { keep_newest: KEEP_NEWEST, keep_for: Duration::from_secs(days * 86_400) };
        if let Err(error) = host.runner.prune(retention).await {
            tracing::warn!(error = %chain(&error), "old journals cannot be removed");
        }
        outputs::prune(&host).await;
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = shutdown.cancelled() => return,
        }
    }
}
