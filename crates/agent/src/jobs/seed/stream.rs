//! A seed from a program's stream: unpacked as it arrives, then prepared. It cannot be resumed, so each run begins with an
//! empty staging directory.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use job::{Scope, StepError};
use protocol::error::{ErrorCode, WireError};
use protocol::mysql::{Coordinates, Flavor};
use protocol::params::SeedStartParams;
use protocol::seed::TransferProgress;
use serde_json::json;
use transfer::{Progress, RecipientOptions};

use self::ground::Ground;
use super::Target;
use super::notes::Transferred;
use super::swap::Layout;
use crate::errors::system;
use crate::host::{Host, blocking};
use crate::streams::{self, Running};

mod ground;

/// Between two looks at a program that prepares.
const LOOK: Duration = Duration::from_millis(200);
/// Longer than any position, bytes.
const POSITION_MAX: u64 = 1 << 20;
/// Where the programs leave the position, in the tree that they make.
const POSITION_FILES: [&str; 2] = ["xtrabackup_binlog_info", "mariadb_backup_binlog_info"];

/// The transfer stage of a stream.
pub(super) async fn receive(
    host: &Host,
    scope: &Scope,
    params: &SeedStartParams,
    name: &str,
    options: RecipientOptions,
) -> Result<Transferred, StepError> {
    let layout = Target::of(scope)?.layout(scope.job_id())?;
    let staging = layout.staging();
    let owner = Target::of(scope)?.owner;
    // What an earlier run unpacked is of no use: the stream begins anew.
    let (ground, fence) = blocking(move || {
        layout.remove().map_err(|e| system("the staging directory cannot be removed", &e))?;
        layout.prepare().map_err(|e| system("the staging directory cannot be made", &e))?;
        let ground = Ground::of(&layout, owner)?;
        let fence = ground.open()?;
        Ok((ground, fence))
    })
    .await?;
    let stream = streams::find(host, name)?;
    let argv = streams::fill(&stream.take, &[("staging", &staging)])?;
    let mut unpacking = Running::start(&argv, Stdio::piped(), Stdio::null(), Some(&fence))
        .map_err(|words| StepError::new(ErrorCode::MissingCapability, words))?;
    let sink = unpacking.input().ok_or_else(|| StepError::new(ErrorCode::Internal, "no standard input"))?;
    let (progress, cancel) = (Arc::clone(&options.progress), Arc::clone(&options.cancel));
    let limit = options.stall_timeout;
    let mut done = tokio::task::spawn_blocking(move || transfer::stream::take(&options, sink));
    let taken = loop {
        tokio::select! {
            taken = &mut done => break taken.map_err(|e| StepError::from_error(ErrorCode::Internal, &e))?,
            () = scope.cancelled() => {
                cancel.cancel();
                let _ = done.await;
                return Err(StepError::stopped());
            }
            () = tokio::time::sleep(LOOK) => report(scope, params, &progress, limit),
        }
    };
    let taken = match taken {
        Ok(taken) => taken,
        Err(error) => {
            let failure = StepError::from_error(ErrorCode::Transfer, &error);
            // Where it took no more bytes it died first, and then its own words are the cause.
            return Err(match (&error, unpacking.ended()) {
                (transfer::Error::RecipientFailed(_), Some(Err(words))) => {
                    StepError::new(ErrorCode::Transfer, words).caused_by(&failure)
                }
                _ => failure,
            });
        }
    };
    await_end(scope, unpacking).await?;
    let files = blocking(move || mysql::usage::walk(&ground.path()).map_err(WireError::from)).await?.files;
    let seconds = taken.elapsed.as_secs_f64().max(0.001);
    Ok(Transferred {
        since: None,
        not_since: None,
        stream: Some(name.to_owned()),
        bytes_total: taken.bytes,
        bytes_moved: taken.bytes,
        bytes_resumed: 0,
        bytes_wire: taken.bytes_wire,
        files,
        root_digest: sys::hex::encode(taken.digest),
        elapsed_ms: u64::try_from(taken.elapsed.as_millis()).unwrap_or(u64::MAX),
        bytes_per_s: (taken.bytes as f64 / seconds) as u64,
    })
}

/// The length of a stream is not known before its end: the donor's estimate is shown, or more where it was too small.
fn report(scope: &Scope, params: &SeedStartParams, progress: &Progress, limit: Duration) {
    let now = progress.snapshot();
    let total = params.offer.facts.bytes.max(now.bytes_done);
    let shown = TransferProgress { bytes_total: total, ..super::taken_of(&now, limit) };
    scope.report(now.bytes_done, Some(total), json!(shown));
}

/// The first part of the verify stage: what was unpacked becomes a datadir. Gives the position that the program recorded.
pub(super) async fn prepare(
    host: &Host,
    scope: &Scope,
    params: &SeedStartParams,
    name: &str,
    layout: &Layout,
) -> Result<Option<Coordinates>, StepError> {
    let stream = streams::find(host, name)?;
    let staging = layout.staging();
    let owner = Target::of(scope)?.owner;
    let way = layout.clone();
    let ground = Arc::new(blocking(move || Ground::of(&way, owner)).await?);
    if !stream.prepare.is_empty() {
        // The program of the run before may be at work still, and two of them on one tree would spoil it.
        if scope.is_rerun() {
            return Err(StepError::new(
                ErrorCode::Internal,
                "the agent died while the stream was prepared; nobody can tell how far it came, so seed again",
            ));
        }
        let fence = blocking({
            let ground = Arc::clone(&ground);
            move || ground.open()
        })
        .await?;
        let argv = streams::fill(&stream.prepare, &[("staging", &staging)])?;
        let preparing = Running::start(&argv, Stdio::null(), Stdio::null(), Some(&fence))
            .map_err(|words| StepError::new(ErrorCode::MissingCapability, words))?;
        await_end(scope, preparing).await?;
    }
    let text = blocking(move || {
        ground.close()?;
        let tree = ground.tree().map_err(|e| system("the staged tree cannot be opened", &e))?;
        let read = |file: &&str| tree.read(Path::new(file), POSITION_MAX).ok().flatten();
        Ok(POSITION_FILES.iter().find_map(read).and_then(|text| String::from_utf8(text).ok()))
    })
    .await?;
    let flavor = params.offer.facts.version.as_ref().map_or(Flavor::Mariadb, |version| version.flavor);
    Ok(text.and_then(|text| mysql::backup::position(&text, flavor)))
}

/// Waits for a program's end, however long it works; killed with its group when the job is told to stop.
async fn await_end(scope: &Scope, mut running: Running) -> Result<(), StepError> {
    loop {
        if let Some(ended) = running.ended() {
            return ended.map_err(|words| StepError::new(ErrorCode::Transfer, words));
        }
        tokio::select! {
            () = scope.cancelled() => return Err(StepError::stopped()),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
