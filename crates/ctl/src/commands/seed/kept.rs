//! Old datadirs that seeds have kept.

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use protocol::ids::{AgentId, JobId};
use protocol::job::{JobView, KEPT_UNTIL};
use protocol::params::JobsListParams;

use super::super::{doctor, settle};
use super::{AT_ONCE, JOBS};
use crate::error::{CtlError, Result};
use crate::render::{self, Kept};
use crate::session::Session;

pub(super) async fn run(session: &Session, recipients: Vec<AgentId>) -> Result<()> {
    let hosts = if recipients.is_empty() { doctor::everyone(session).await? } else { recipients };
    let asked = stream::iter(hosts).map(|host| async move { of(session, &host).await }).buffered(AT_ONCE);
    let (mut all, mut failures) = (Vec::new(), Vec::new());
    for answer in asked.collect::<Vec<_>>().await {
        match answer {
            Ok(kept) => all.extend(kept),
            Err(error) => failures.push(error),
        }
    }
    all.sort_by_key(|kept| kept.until);
    session.out.result(&all, |all| render::kept(all, Timestamp::now()));
    settle(session, failures)
}

/// The seed whose old datadir an undo without a name puts back.
pub(super) async fn last(session: &Session, recipient: &AgentId) -> Result<JobId> {
    // Newest first.
    of(session, recipient).await?.first().map(|kept| kept.job).ok_or_else(|| CtlError::NotFound {
        what: format!("{recipient} keeps no old datadir"),
        hint: Some(
            "a seed keeps it with --keep-old 2h; `orchestrator-ctl seed kept` shows those of all hosts"
                .to_owned(),
        ),
    })
}

async fn of(session: &Session, recipient: &AgentId) -> Result<Vec<Kept>> {
    let jobs = session.call(recipient, JobsListParams { limit: JOBS, unfinished: false }).await?;
    let kept = |job: &JobView| {
        let result = job.result.as_ref()?;
        Some(Kept {
            recipient: recipient.clone(),
            job: job.id,
            until: result[KEPT_UNTIL].as_str()?.parse().ok()?,
            old_datadir: result["old_datadir"].as_str().unwrap_or("-").to_owned(),
            summary: job.summary.clone(),
        })
    };
    Ok(jobs.iter().filter_map(kept).collect())
}
