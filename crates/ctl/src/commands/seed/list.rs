//! Seeds of the whole fleet, as their recipients remember them.

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use protocol::command::Call as _;
use protocol::ids::AgentId;
use protocol::params::{JobsListParams, SeedStartParams};

use super::super::{doctor, settle};
use super::{AT_ONCE, JOBS};
use crate::error::Result;
use crate::render::{self, SeedRow};
use crate::session::Session;

/// The newest `limit` seeds, those under way first.
pub(super) async fn run(
    session: &Session,
    recipients: Vec<AgentId>,
    limit: usize,
    unfinished: bool,
) -> Result<()> {
    let hosts = if recipients.is_empty() { doctor::everyone(session).await? } else { recipients };
    let asked =
        stream::iter(hosts).map(|host| async move { of(session, host, unfinished).await }).buffered(AT_ONCE);
    let (mut all, mut failures) = (Vec::new(), Vec::new());
    for answer in asked.collect::<Vec<_>>().await {
        match answer {
            Ok(seeds) => all.extend(seeds),
            Err(error) => failures.push(error),
        }
    }
    all.sort_by_key(|seed| (seed.job.state.is_final(), std::cmp::Reverse(seed.job.created_at)));
    all.truncate(limit);
    session.out.result(&all, |all| render::seeds(all, Timestamp::now()));
    settle(session, failures)
}

async fn of(session: &Session, recipient: AgentId, unfinished: bool) -> Result<Vec<SeedRow>> {
    let jobs = session.call(&recipient, JobsListParams { limit: JOBS, unfinished }).await?;
    let seeds = jobs.into_iter().filter(|job| job.kind == SeedStartParams::SPEC.name);
    Ok(seeds.map(|job| SeedRow { recipient: recipient.clone(), job }).collect())
}
