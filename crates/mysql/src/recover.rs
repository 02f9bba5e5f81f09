//! A copied datadir becomes a server's own before that server ever sees it: its program comes up privately, crash recovery
//! runs by the log that came along, what was the donor's is taken out, and it shuts down cleanly.
//!
//! The copy is written to and must be nobody else's. What fails leaves it to be thrown away.

mod identity;
mod logs;
mod own;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::mysql::Coordinates;
use sys::dir::Dir;

pub use self::identity::{carry_own, files_of_log, persist_read_only};
pub use self::logs::OwnLog;
use crate::binlog::localize_indexes;
use crate::error::{Error, Result};
use crate::find;
use crate::power::Progress;
use crate::sandbox::{Sandbox, SandboxOptions};

const POLL: Duration = Duration::from_millis(50);
/// The kernel ends a killed process unless its disk hangs.
const KILLED_WITHIN: Duration = Duration::from_secs(30);

/// What to recover, by which program, and what becomes of it.
#[derive(Debug, Clone)]
pub struct RecoverOptions {
    /// The copied datadir.
    pub datadir: PathBuf,
    /// Words before the program, and the program: see [`Settings::program`](crate::Settings::program).
    pub program: (Vec<String>, PathBuf),
    /// Parent of the private server's run directory.
    pub run_root: PathBuf,
    /// As [`SandboxOptions::run_held`].
    pub run_held: Option<Arc<Dir>>,
    /// Of the recipient's own options: see [`Settings::format_arguments`](crate::Settings::format_arguments).
    pub arguments: Vec<String>,
    /// Where the recipient writes its binary log.
    pub own_log: OwnLog,
    /// What the data must have at least, where their position is not known otherwise.
    pub at_least: Option<Coordinates>,
    /// It becomes a replica: events run on its source only.
    pub is_replica: bool,
    /// Buffer pool of the private server, bytes.
    pub buffer_pool_bytes: u64,
    /// Tables are looked at for so long.
    pub look: Duration,
    /// Given up after so long without a sign of progress at the start.
    pub start_patience: Duration,
    /// And at the shutdown.
    pub stop_patience: Duration,
}

/// What recovery found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Where the recovered data stand.
    pub coordinates: Coordinates,
    /// Crash recovery and start took so long.
    pub recovery: Duration,
    /// Channels, or named connections, of the donor that were forgotten.
    pub channels: u64,
    /// Events that were switched off.
    pub events: u64,
    /// Tables that were opened.
    pub looked_at: usize,
    /// Tables there are.
    pub tables: usize,
}

/// Recovers a copied datadir; see the module. Dropping the future kills the private server: [`end_on`] waits for that.
///
/// # Errors
/// [`Error::NotReady`] with the server's words when it does not come up on these data, [`Error::Refused`] for what they lack,
/// [`Error::NotStopped`] when the shutdown was not clean.
pub async fn recover(
    options: RecoverOptions,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Recovered> {
    // What the donor persisted for itself must not count, and is not the recipient's.
    localize_indexes(&options.datadir)?;
    let tree = Dir::open(&options.datadir).map_err(Error::io("open", &options.datadir))?;
    let forget =
        |name: &str| tree.remove(Path::new(name)).map_err(Error::io("remove", options.datadir.join(name)));
    for name in ["mysqld-auto.cnf", "auto.cnf"] {
        forget(name)?;
    }
    let followed = identity::forget_sources(&tree)?;
    let carried = logs::find(&tree)?;
    let (prefix, binary) = options.program;
    let mut arguments = options.arguments;
    if let Some(log) = &carried {
        arguments.push(format!("--log-bin-index={}", log.index.display()));
    }
    let sandbox = SandboxOptions {
        binary: Some(binary),
        prefix,
        run_root: options.run_root,
        run_held: options.run_held,
        log_bin: carried.as_ref().map(|log| log.base.display().to_string()),
        extra_args: arguments,
        buffer_pool_bytes: options.buffer_pool_bytes,
        start_patience: options.start_patience,
        ..SandboxOptions::new(&options.datadir)
    };
    let sandbox = Sandbox::start(sandbox, progress).await?;
    let flavor = sandbox.flavor();
    progress(Progress {
        percent: None,
        message: "recovered; the data are made the recipient's own".to_owned(),
    });
    let coordinates = sandbox.recovered().await?;
    let mut session = sandbox.connect().await?;
    if let Some(least) = &options.at_least {
        own::hold(&mut session, &coordinates, least).await?;
    }
    own::be_silent(&mut session).await?;
    let channels = followed + own::forget_channels(&mut session, flavor).await?;
    let events = if options.is_replica { own::disable_events(&mut session, flavor).await? } else { 0 };
    let (looked_at, tables) = own::look(&mut session, Instant::now() + options.look).await?;
    session.close().await;
    if let Some(line) = sandbox.damage() {
        return Err(Error::Refused { reason: format!("the server's error log tells of damage: {line}") });
    }
    let recovery = sandbox.recovery();
    sandbox.stop_cleanly(options.stop_patience).await?;
    if let Some(log) = &carried {
        logs::adopt(&tree, log, &options.own_log)?;
    }
    // Of the private server; the recipient's own comes with its other private files.
    forget("auto.cnf")?;
    Ok(Recovered { coordinates, recovery, channels, events, looked_at, tables })
}

/// Ends every server that runs on this datadir, and waits until none does.
///
/// # Errors
/// [`Error::NotStopped`] when one is still there.
pub async fn end_on(datadir: &Path) -> Result<()> {
    let begun = Instant::now();
    loop {
        let servers: Vec<_> = find::servers().into_iter().filter(|server| server.owns(datadir)).collect();
        if servers.is_empty() && !find::data_lock(datadir).is_held() {
            return Ok(());
        }
        for server in &servers {
            let _ = kill(Pid::from_raw(server.pid), Signal::SIGKILL);
        }
        if begun.elapsed() > KILLED_WITHIN {
            let reason = format!("a private server still runs on {}", datadir.display());
            return Err(Error::NotStopped { reason });
        }
        tokio::time::sleep(POLL).await;
    }
}
