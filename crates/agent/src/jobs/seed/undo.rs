//! Old datadirs that are kept after a seed: put back by `seed.undo`, removed when their time is over.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use job::{Scope, Step, StepError, Steps, crashsafe};
use protocol::command::Call as _;
use protocol::error::{ErrorCode, WireError};
use protocol::ids::JobId;
use protocol::params::SeedUndoParams;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::outside::Outside;
use super::stages::stop_or_kill;
use super::swap::Layout;
use crate::admission::{Claim, Claims, Resource};
use crate::errors::system;
use crate::host::{Host, blocking, chain};
use crate::jobs::kind::Kind;
use crate::jobs::on_snapshot::refuse_while_covered;
use crate::jobs::service;

/// Longest time between two looks at what is kept: a clock that jumped must not keep it for ever.
const SWEEP: Duration = Duration::from_secs(60);

/// A note of *put-back*: MySQL has answered on the old data.
const STARTED: &str = "started";

/// One old datadir that is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    datadir: PathBuf,
    /// Base paths of the logs that were set aside with it.
    #[serde(default)]
    logs: Vec<PathBuf>,
    until: Timestamp,
    /// Whether the datadir was a mount point then; absent in records of older agents.
    #[serde(default)]
    entrywise: Option<bool>,
}

/// Remembers that a seed's old datadir is kept until then.
pub(super) fn keep(
    host: &Host,
    job: JobId,
    datadir: &Path,
    logs: Vec<PathBuf>,
    until: Timestamp,
) -> Result<(), StepError> {
    let entrywise = Layout::of(datadir, job).ok().map(|layout| layout.is_entrywise());
    let kept = json!(Kept { datadir: datadir.to_owned(), logs, until, entrywise }).to_string();
    crashsafe::write(&path(host, job), kept.as_bytes(), 0o600)
        .map_err(|e| system("the old datadir cannot be kept", &e))?;
    host.kept.notify_one();
    Ok(())
}

fn path(host: &Host, job: JobId) -> PathBuf {
    host.config.agent.state_dir.join("kept").join(format!("{job}.json"))
}

/// Whether the old datadir of this seed is kept.
pub(crate) fn is_kept(host: &Host, job: JobId) -> bool {
    path(host, job).exists()
}

/// Until when the old datadir of this seed is kept; absent when it is not (any more).
pub(crate) fn kept_until(host: &Host, job: JobId) -> Option<Timestamp> {
    load(&path(host, job)).map(|kept| kept.until)
}

/// The seeds whose old datadirs are kept.
fn kept_jobs(host: &Host) -> Vec<JobId> {
    let entries = fs::read_dir(host.config.agent.state_dir.join("kept"));
    let names = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    names.filter_map(|path| path.file_stem()?.to_str()?.parse().ok()).collect()
}

fn load(path: &Path) -> Option<Kept> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Removes kept datadirs whose time is over, until `shutdown`.
pub(crate) async fn sweep(host: Arc<Host>, shutdown: CancellationToken) {
    loop {
        let due = Arc::clone(&host);
        let next = tokio::task::spawn_blocking(move || remove_due(&due)).await.ok().flatten();
        tokio::select! {
            () = tokio::time::sleep(next.unwrap_or(SWEEP).min(SWEEP)) => {}
            () = host.kept.notified() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Removes what is due; how long until the next one is.
fn remove_due(host: &Host) -> Option<Duration> {
    let entries = fs::read_dir(host.config.agent.state_dir.join("kept")).ok()?;
    let mut next: Option<Duration> = None;
    for path in entries.flatten().map(|entry| entry.path()) {
        let job = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        let (Some(job), Some(kept)) = (job, load(&path)) else { continue };
        let left = kept.until.duration_since(Timestamp::now());
        if let Ok(left) = Duration::try_from(left)
            && !left.is_zero()
        {
            // A little late rather than once more in vain.
            let left = left + Duration::from_millis(10);
            next = Some(next.map_or(left, |next| next.min(left)));
            continue;
        }
        // A seed that is being taken back needs what it kept.
        if host.runner.running().iter().any(|handle| handle.spec().kind == PutBack::NAME) {
            continue;
        }
        let removed = Layout::as_begun(&kept.datadir, job, kept.entrywise).and_then(|layout| {
            layout.remove()?;
            layout.remove_marker()
        });
        let logs = Outside::new(job, kept.logs).remove();
        if let Err(error) = logs {
            tracing::warn!(%job, %error, "old logs cannot be removed");
            continue;
        }
        match removed {
            Ok(()) => {
                tracing::info!(%job, datadir = %kept.datadir.display(), "an old datadir was kept long enough and is removed");
                drop(crashsafe::remove_file(&path));
            }
            Err(error) => tracing::warn!(%job, error = %chain(&error), "an old datadir cannot be removed"),
        }
    }
    next
}

fn has_started(scope: &Scope) -> bool {
    scope.notes_of("put-back").iter().any(|note| note.get(STARTED).is_some())
}

/// Puts the old datadir of a seed back; the seeded data go once MySQL has answered on the old ones.
#[derive(Debug)]
pub(crate) struct PutBack;

impl Kind for PutBack {
    type Params = SeedUndoParams;
    const NAME: &'static str = SeedUndoParams::SPEC.name;

    fn claims(_: &SeedUndoParams) -> Claims {
        &[
            (Resource::Service, Claim::Alone),
            (Resource::Datadir, Claim::Alone),
            (Resource::Seed, Claim::Alone),
        ]
    }

    fn check(host: &Host, _: &SeedUndoParams) -> Result<(), WireError> {
        refuse_while_covered(host, Self::NAME)
    }

    fn summary(params: &SeedUndoParams) -> String {
        format!("old datadir of seed {}", params.job)
    }

    fn steps() -> Steps<Host> {
        vec![Arc::new(Self)]
    }
}

#[async_trait]
impl Step<Host> for PutBack {
    fn name(&self) -> &'static str {
        "put-back"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SeedUndoParams = scope.params()?;
        let record = path(host, params.job);
        let Some(kept) = load(&record) else {
            if scope.is_rerun() {
                return Ok(Value::Null);
            }
            return Err(StepError::new(
                ErrorCode::NotFound,
                format!(
                    "no old datadir is kept for seed {}: it was removed, or --keep-old was not given",
                    params.job
                ),
            ));
        };
        let layout = Layout::as_begun(&kept.datadir, params.job, kept.entrywise)
            .map_err(|e| StepError::from_error(ErrorCode::System, &e))?;
        // A later seed's tree must not be taken for this one's, nor what this one kept be lost with it.
        let begun = !scope.notes().is_empty();
        if !begun && !layout.is_on_top().map_err(|e| StepError::from_error(ErrorCode::System, &e))? {
            return Err(StepError::new(
                ErrorCode::Refused,
                format!(
                    "{} is not what seed {} put there: was the host seeded again? The old tree is left in {}",
                    kept.datadir.display(),
                    params.job,
                    layout.old().display()
                ),
            ));
        }
        let logs = Outside::new(params.job, kept.logs);
        if !has_started(scope) {
            scope.note(json!({ "puts_back": layout.old() })).await?;
            service::stop_and_hold(host, scope).await?;
            let (back, old_logs) = (layout.clone(), logs.clone());
            blocking(move || {
                old_logs.put_back()?;
                back.swap_back().map_err(|e| system("the old datadir cannot be put back", &e))
            })
            .await?;
            service::start(host, scope).await?;
            scope.note(json!({ STARTED: kept.datadir })).await?;
        }
        // Only now is the old datadir more than a promise, and the seeded one the copy too many.
        let kept_ones = kept_jobs(host);
        blocking(move || {
            logs.remove()?;
            layout.remove().map_err(|e| system("the seeded data cannot be removed", &e))?;
            layout
                .remove_marker_but_of(&kept_ones)
                .map_err(|e| system("the marker of an earlier seed stays", &e))?;
            crashsafe::remove_file(&record).map_err(|e| system("the record of the old datadir stays", &e))
        })
        .await?;
        Ok(json!({ "datadir": kept.datadir }))
    }

    /// Puts the seeded data in place again, unless MySQL has answered on the old ones; nothing is removed.
    async fn undo(&self, host: &Host, scope: &Scope) -> Result<(), StepError> {
        let params: SeedUndoParams = scope.params()?;
        let Some(kept) = load(&path(host, params.job)).filter(|_| !has_started(scope)) else { return Ok(()) };
        if scope.notes().is_empty() {
            return Ok(());
        }
        let layout = Layout::as_begun(&kept.datadir, params.job, kept.entrywise)
            .map_err(|e| StepError::from_error(ErrorCode::System, &e))?;
        stop_or_kill(host, scope).await?;
        let logs = Outside::new(params.job, kept.logs);
        blocking(move || {
            layout.swap().map_err(|e| system("the seeded data cannot be put in place again", &e))?;
            logs.set_aside_again()
        })
        .await?;
        service::start(host, scope).await?;
        Ok(())
    }
}
