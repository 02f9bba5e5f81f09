//! The stage between *verify* and *swap*: the recipient's own server program comes up privately on the staged tree.
//!
//! Crash recovery runs while the service still serves, the data are made the recipient's own, and only a tree that has come
//! up and was shut down cleanly is swapped in. What fails here has touched nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use job::{Scope, Step, StepError};
use mysql::recover::{OwnLog, RecoverOptions};
use mysql::{Settings, in_real_directory};
use protocol::error::ErrorCode;
use protocol::mysql::ServerInfo;
use protocol::params::SeedStartParams;
use protocol::seed::SeedStage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sys::dir::Dir;

use super::super::notes::Recovered;
use super::super::swap::{Held, Layout, SwapError};
use super::super::{Target, follower};
use super::replicate::{source, standing, still_available};
use super::verify::flush;
use crate::errors::system;
use crate::host::{Host, blocking};
use crate::jobs::output;

/// Tables are looked at for so long.
const LOOK: Duration = Duration::from_secs(10);
/// Bytes that the socket's path may need below the seed's own directory; where they are not left, it lies in a short one.
const LONGEST_ROOT: usize = 86;
/// The private server's buffer pool: enough to recover with, and beside a server that serves.
const BUFFER_POOL_BYTES: (u64, u64) = (128 << 20, 1 << 30);
/// Where MariaDB's state of a log is kept for one that lies elsewhere.
const LOG_STATE: &str = "log-state";

/// The data come up once, privately.
#[derive(Debug)]
pub(super) struct Recover;

/// The recipient's server, as it was while it could be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::jobs::seed) struct OwnServer {
    /// Words before its program, and the program; absent where none was found.
    program: Option<(Vec<String>, PathBuf)>,
    /// Base path of its binary log.
    log_bin: Option<PathBuf>,
    /// Base path of its relay log, where it is named.
    relay_log: Option<PathBuf>,
}

impl OwnServer {
    pub(super) fn of(host: &Host, server: &ServerInfo, settings: &Settings) -> Self {
        let log_bin = match &server.layout {
            Some(layout) => layout.log_bin.clone(),
            None => settings.log_bin(),
        };
        let relay_log = settings.options.path("relay-log").map(|path| settings.resolve(&path));
        Self {
            program: settings.program(host.instance.config()),
            log_bin,
            relay_log: relay_log.map(in_real_directory),
        }
    }

    fn own_log(&self, datadir: &Path, layout: &Layout) -> OwnLog {
        let Some(log_bin) = &self.log_bin else { return OwnLog::Off };
        match log_bin.strip_prefix(datadir) {
            Ok(inside) => OwnLog::Inside(inside.to_owned()),
            Err(_) => OwnLog::Outside { state: layout.root().join(LOG_STATE) },
        }
    }

    /// Base paths of its logs that do not lie in its datadir.
    pub(super) fn logs_outside(&self, datadir: &Path) -> Vec<PathBuf> {
        let logs = [&self.log_bin, &self.relay_log].into_iter().flatten();
        logs.filter(|base| !base.starts_with(datadir)).cloned().collect()
    }

    /// What MariaDB must find of its log's state, and where, once it writes outside its datadir.
    pub(super) fn log_state(&self, datadir: &Path, layout: &Layout) -> Option<(PathBuf, PathBuf)> {
        let base = self.log_bin.as_ref().filter(|base| !base.starts_with(datadir))?;
        let mut state = base.clone().into_os_string();
        state.push(".state");
        Some((layout.root().join(LOG_STATE), state.into()))
    }
}

#[async_trait]
impl Step<Host> for Recover {
    fn name(&self) -> &'static str {
        SeedStage::Recover.as_str()
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SeedStartParams = scope.params()?;
        let target = Target::of(scope)?;
        let layout = target.layout(scope.job_id())?;
        // For a journal restored by hand: a tree that is in place is not ours alone.
        if layout.is_swapped().map_err(|e| unclear(&e))? {
            return Ok(Value::Null);
        }
        // An agent that died has left its private server on the tree.
        end_private(&layout).await?;
        let way = layout.clone();
        blocking(move || way.let_through().map_err(|e| system("staging cannot be opened to its server", &e)))
            .await?;
        let held = hold(&layout).await?;
        let options = options(host, &params, &target, &layout, &held).await?;
        let report = |progress: mysql::Progress| {
            let done = u64::from(progress.percent.unwrap_or(0));
            scope.report(done, progress.percent.map(|_| 100), json!({ "message": progress.message }));
        };
        let recovered = tokio::select! {
            recovered = mysql::recover::recover(options, &report) => recovered.map_err(|e| held.in_words(e.into())),
            () = scope.cancelled() => return Err(StepError::stopped()),
        };
        let recovered = recovered.map_err(|error| {
            let failure = StepError::from(error);
            let datadir = target.datadir.display();
            let message =
                format!("the data do not come up, and {datadir} was not touched: {}", failure.message);
            StepError { message, ..failure }
        })?;
        if let (Some(from), Some(at)) = (
            &params.options.replicate_from,
            standing(scope, &params, || Some(recovered.coordinates.clone()))?,
        ) {
            let follower = follower(host, &host.instance.info().await);
            still_available(host, &source(host, from)?, &at, &params, &follower).await?;
        }
        let staging = layout.staging();
        blocking(move || flush(&staging)).await?;
        output(&Recovered {
            coordinates: Some(recovered.coordinates),
            recovery_ms: u64::try_from(recovered.recovery.as_millis()).unwrap_or(u64::MAX),
            channels_forgotten: recovered.channels,
            events_disabled: recovered.events,
            tables_looked_at: recovered.looked_at,
            tables: recovered.tables,
        })
    }

    async fn undo(&self, _host: &Host, scope: &Scope) -> Result<(), StepError> {
        let Some(target) = scope.try_output::<Target>("plan")? else { return Ok(()) };
        end_private(&target.layout(scope.job_id())?).await
    }
}

fn unclear(error: &SwapError) -> StepError {
    StepError::from_error(ErrorCode::System, error)
}

/// Ends what runs on the staged tree. Nothing of ours runs where the old tree may lie.
async fn end_private(layout: &Layout) -> Result<(), StepError> {
    if layout.holds_old().map_err(|e| unclear(&e))? || !layout.staging().exists() {
        return Ok(());
    }
    mysql::recover::end_on(&layout.staging()).await?;
    let held = hold(layout).await?;
    let root = layout.root().to_owned();
    let reaped = blocking(move || {
        mysql::sandbox::reap_leftovers(&root, Some(held.root()))?;
        Ok(())
    });
    reaped.await.map_err(StepError::from)
}

/// The seed's directory, whatever its name leads to from now on.
async fn hold(layout: &Layout) -> Result<Held, StepError> {
    let layout = layout.clone();
    let held =
        blocking(move || layout.hold().map_err(|e| system("the staging directory cannot be opened", &e)));
    held.await.map_err(StepError::from)
}

async fn options(
    host: &Host,
    params: &SeedStartParams,
    target: &Target,
    layout: &Layout,
    held: &Held,
) -> Result<RecoverOptions, StepError> {
    let settings = host.instance.settings().await;
    let config = host.instance.config();
    let own = match &target.server {
        Some(own) => own.clone(),
        None => OwnServer::of(host, &host.instance.info().await, &settings),
    };
    let program = own.program.clone().ok_or_else(|| {
        StepError::new(
            ErrorCode::NotFound,
            "no server program was found: name it (mysql.server_binary in the agent's configuration)",
        )
    })?;
    let root = layout.root();
    let (run_root, run_held) = if root.as_os_str().len() <= LONGEST_ROOT {
        let again = Dir::open(&held.root().by_descriptor()).map_err(|e| system("it cannot be held", &e))?;
        (root.to_owned(), Some(Arc::new(again)))
    } else {
        (mysql::sandbox::RUN_ROOT.into(), None)
    };
    Ok(RecoverOptions {
        arguments: settings.format_arguments(&layout.staging()),
        own_log: own.own_log(&target.datadir, &held.layout()),
        datadir: held.staging(),
        program,
        run_root,
        run_held,
        at_least: params.offer.facts.at_least().cloned(),
        is_replica: params.options.replicate_from.is_some(),
        buffer_pool_bytes: buffer_pool_bytes(),
        look: LOOK,
        start_patience: Duration::from_millis(config.start_patience_ms),
        stop_patience: Duration::from_millis(config.stop_patience_ms),
    })
}

/// A quarter of the memory that nobody uses, within bounds.
fn buffer_pool_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|line| {
        line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    let (least, most) = BUFFER_POOL_BYTES;
    (available.unwrap_or(0) * 1024 / 4).clamp(least, most)
}
