//! A private server on a datadir that is not the host's: socket only, no network, its own temporary directory.
//!
//! It proves a snapshot: crash recovery must end, tables must check out, and its coordinates are read. It writes to the
//! datadir, so give it a writable view. Nothing of it is left behind.

mod check;
mod launch;
mod options;
mod pace;
mod whole;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use protocol::mysql::{Coordinates, Flavor};
use protocol::snapshot::Proof;
use sys::dir::Dir;
use tokio::process::Command;

use self::check::{TABLES, check_table};
use self::launch::{LogEnd, RunDir, lock, logged_position, option_file, run_dir, usable_log_bin};
pub use self::options::SandboxOptions;
use self::pace::Pace;
use crate::binlog;
use crate::client::{Address, Login, Session};
use crate::error::{Error, Result};
use crate::errorlog::{self, Event, Follower, LogFile};
use crate::find;
use crate::position;
use crate::power::Progress;
use crate::process::{Group, User};
use crate::rundir::{self, OPTION_FILE};
use crate::tls::Tls;

/// Where private servers have their run directories unless they are told otherwise.
pub const RUN_ROOT: &str = "/run/orchestrator-agent/private";
const POLL: Duration = Duration::from_millis(50);
/// Marks a directory as ours in the argument list of a server that was left behind.
const RUN_PREFIX: &str = "oa-sandbox-";
/// A stopping sandbox is killed after this long: its data are thrown away anyway.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How much checking a proof may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckBudget {
    /// `CHECK TABLE` goes on for at most this long; what was not reached is told in the proof.
    pub time: Duration,
}

impl Default for CheckBudget {
    fn default() -> Self {
        Self { time: Duration::from_secs(300) }
    }
}

/// A running private server. Dropping it kills it and removes its run directory.
#[derive(Debug)]
pub struct Sandbox {
    /// Ends before the group does.
    pace: Option<Pace>,
    group: Group,
    run: RunDir,
    /// Owner of the data, as whom it runs.
    owner: u32,
    flavor: Flavor,
    recovery: Duration,
    log_bin: Option<LogEnd>,
    seen: Vec<String>,
}

/// Proves a datadir: recovery, table checks, coordinates. A datadir that is no good is an answer, not an error. It must be a copy that is
/// thrown away afterwards: what the private server writes is not synced.
///
/// # Errors
/// [`Error::Refused`], [`Error::NotFound`] or [`Error::Program`] when no private server could be tried at all.
pub async fn verify(
    options: SandboxOptions,
    budget: CheckBudget,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Proof> {
    let began = Instant::now();
    let failed = |detail: String, recovery: Duration| Proof {
        checked_at: Timestamp::now(),
        passed: false,
        detail,
        recovery_ms: millis(recovery),
        recovered: None,
        unchecked_tables: 0,
    };
    if let Some(problem) = options.missing().await? {
        return Ok(failed(problem, Duration::ZERO));
    }
    let datadir = options.datadir.clone();
    let options = SandboxOptions { discarded: true, ..options };
    let mut sandbox = match Sandbox::start(options, progress).await {
        Ok(sandbox) => sandbox,
        Err(Error::NotReady { reason }) => {
            return Ok(failed(format!("the server does not start on it: {reason}"), began.elapsed()));
        }
        Err(other) => return Err(other),
    };
    let recovery = sandbox.recovery;
    let outcome = sandbox.check(&datadir, budget, progress).await;
    let damage = sandbox.damage();
    sandbox.stop().await;
    Ok(match (outcome, damage) {
        (Ok((detail, recovered, unchecked_tables)), None) => Proof {
            checked_at: Timestamp::now(),
            passed: true,
            detail,
            recovery_ms: millis(recovery),
            recovered: Some(recovered),
            unchecked_tables,
        },
        (Ok(_), Some(line)) => failed(format!("its error log tells of damage: {line}"), recovery),
        (Err(problem), damage) => failed(
            damage.map_or_else(|| problem.clone(), |line| format!("{problem}; its error log: {line}")),
            recovery,
        ),
    })
}

impl Sandbox {
    /// Starts a private server and waits until it answers.
    ///
    /// # Errors
    /// [`Error::NotReady`] when it does not come up on this datadir; other errors when it could not be tried.
    pub async fn start(options: SandboxOptions, progress: &(dyn Fn(Progress) + Send + Sync)) -> Result<Self> {
        let datadir = fs::canonicalize(&options.datadir).map_err(Error::io("read", &options.datadir))?;
        if find::is_in_use(&datadir) {
            return Err(Error::Refused { reason: format!("a server runs on {} already", datadir.display()) });
        }
        let (binary, version) = options.program().await?;
        let flavor = version.flavor;
        let owner = fs::metadata(&options.datadir).map_err(Error::io("read", &datadir))?;
        // What the host puts before its binary may need root, as `chroot` does.
        let user = User::owner_of(&owner).filter(|_| options.prefix.is_empty());
        let program = [options.prefix.clone(), vec![binary.display().to_string()]].concat();
        let run = run_dir(&options.run_root, options.run_held.as_ref(), &owner)?;
        // A line of the index that leads elsewhere would lead to the live server's logs.
        binlog::localize_indexes(&options.datadir)?;
        let log_bin = options.log_bin.as_deref().and_then(|base| usable_log_bin(&datadir, base));
        let text = option_file(&options, &datadir, &run, flavor, owner.uid(), log_bin.is_some())?;
        rundir::write_options(&run.reached, &text, &owner)?;
        let mut command = Command::new(&program[0]);
        // As its own user it enters the directory: that it cannot is no fault of the data.
        command.args(&program[1..]).arg(told(&run.path)).current_dir(&datadir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(user) = user {
            user.give_to(command.as_std_mut());
        }
        let spawn = if options.idle { Group::spawn_idle } else { Group::spawn };
        let group = spawn(command, &binary.display().to_string())
            .map_err(|e| cannot_enter(e, &datadir, owner.uid()))?;
        let rate = options.bytes_per_s.filter(|rate| *rate > 0);
        let pace = group.child.id().zip(rate).and_then(|(server, rate)| Pace::keep(server, rate));
        let (owner, recovery) = (owner.uid(), Duration::ZERO);
        let mut sandbox = Self { pace, group, run, owner, flavor, recovery, log_bin, seen: Vec::new() };
        sandbox.await_ready(options.start_patience, progress).await?;
        Ok(sandbox)
    }

    /// Opens a connection; the grant tables are off, and any account is all-powerful.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub async fn connect(&self) -> Result<Session> {
        let login = Login { user: "root".to_owned(), password: None, tls: Tls::default() };
        Session::open(&Address::Socket(self.socket()), &login, Duration::from_secs(10)).await
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        rundir::socket(&self.run.reached)
    }

    /// Pid of the private server.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.group.child.id()
    }

    /// How long crash recovery and start took.
    #[must_use]
    pub fn recovery(&self) -> Duration {
        self.recovery
    }

    /// Where the recovered data stand.
    ///
    /// # Errors
    /// [`Error::Query`].
    pub async fn recovered(&self) -> Result<Coordinates> {
        let mut session = self.connect().await?;
        let told = position::read(&mut session, self.flavor).await?;
        session.close().await;
        // With its log on, the server opened a new file: the data stand at the end of the one before.
        let binlog = match &self.log_bin {
            Some(end) => end.position(),
            None => self.seen.iter().rev().find_map(|line| logged_position(line)),
        };
        Ok(Coordinates { binlog, ..told })
    }

    /// Vendor of its program.
    #[must_use]
    pub fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// Shuts it down and proves that this was clean: it ended with success, and its engine said to which point of its log it
    /// had written everything. Given up after `patience` without a sign of progress.
    ///
    /// # Errors
    /// [`Error::NotStopped`] when it does not stop, or not cleanly.
    pub async fn stop_cleanly(mut self, patience: Duration) -> Result<()> {
        /// Of both vendors' InnoDB, the last that it writes.
        const COMPLETED: &str = "Shutdown completed; log sequence number";
        let not_stopped = |reason: String| Error::NotStopped { reason };
        self.pace = None;
        let mut session = self.connect().await?;
        session.exec("shut down", "SHUTDOWN").await?;
        let (mut io, mut since) = (None, Instant::now());
        let status = loop {
            match tokio::time::timeout(POLL, self.group.child.wait()).await {
                Ok(ended) => break ended.map_err(|e| not_stopped(e.to_string()))?,
                Err(_) if since.elapsed() > patience => {
                    return Err(not_stopped(format!("no sign of progress for {} s", patience.as_secs())));
                }
                Err(_) => {
                    let now = self.group.child.id().and_then(|p| find::io_bytes(i32::try_from(p).ok()?));
                    if now != io {
                        (io, since) = (now, Instant::now());
                    }
                }
            }
        };
        let log = self.log().tail(errorlog::MAX_TAIL_LINES)?;
        if status.success() && log.iter().any(|line| line.contains(COMPLETED)) {
            return Ok(());
        }
        let last = log.last().map(String::as_str).unwrap_or_default();
        Err(not_stopped(format!("it ended with {status}, which was no clean shutdown: {last}")))
    }

    /// Stops it cleanly, killing it when that takes too long, and removes its run directory.
    pub async fn stop(mut self) {
        self.pace = None;
        if let Some(pid) = self.group.child.id().and_then(|p| i32::try_from(p).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if tokio::time::timeout(STOP_LIMIT, self.group.child.wait()).await.is_err() {
            self.group.kill();
            drop(self.group.child.wait().await);
        }
    }

    async fn await_ready(
        &mut self,
        patience: Duration,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<()> {
        let began = Instant::now();
        let mut since = began;
        let mut io = None;
        let mut log = Follower::new(self.log());
        loop {
            for line in log.new_lines() {
                since = Instant::now();
                if let Some(Event::Recovering { percent, message }) = errorlog::parse(&line) {
                    progress(Progress { percent, message });
                }
                self.note(line);
            }
            let now = self.group.child.id().and_then(|p| find::io_bytes(i32::try_from(p).ok()?));
            if now != io {
                (io, since) = (now, Instant::now());
            }
            if let Ok(Some(status)) = self.group.child.try_wait() {
                log.new_lines().into_iter().for_each(|line| self.note(line));
                return Err(Error::NotReady { reason: self.last_words(status) });
            }
            if self.socket().exists()
                && let Ok(session) = self.connect().await
            {
                session.close().await;
                self.recovery = began.elapsed();
                return Ok(());
            }
            if since.elapsed() > patience {
                let reason = format!("no sign of progress for {} s", patience.as_secs());
                return Err(Error::NotReady { reason });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Keeps the lines that tell of recovery and damage; a broken server may write without end.
    fn note(&mut self, line: String) {
        const MAX_KEPT: usize = 200;
        if self.seen.len() < MAX_KEPT && (line.contains("[ERROR]") || logged_position(&line).is_some()) {
            self.seen.push(line);
        }
    }

    fn last_words(&self, status: ExitStatus) -> String {
        let errors = self.seen.iter().filter(|l| l.contains("[ERROR]"));
        // The first error names the cause; the last ones only say that it aborts.
        match errors.clone().find(|l| !l.contains("Aborting")).or(errors.clone().next()) {
            Some(line) => format!("it ended with {status}: {line}"),
            None => format!("it ended with {status}"),
        }
    }

    fn log(&self) -> LogFile {
        LogFile::of(rundir::own(&self.run.reached, "error.log"), self.owner)
    }

    /// The first line of its error log that tells of damaged data.
    pub(crate) fn damage(&self) -> Option<String> {
        let text = self.log().tail(errorlog::MAX_TAIL_LINES).unwrap_or_default();
        let signs = [
            "corrupt",
            "checksum mismatch",
            "Failed to read page",
            "is missing",
            "got signal",
            "Assertion failure",
        ];
        text.into_iter().find(|line| {
            (line.contains("[ERROR]") || line.contains("got signal") || line.contains("Assertion"))
                && signs.iter().any(|s| line.contains(s))
        })
    }

    /// Checks tables, smallest first, as far as the budget goes. The error is a sentence for the proof.
    async fn check(
        &mut self,
        datadir: &Path,
        budget: CheckBudget,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<(String, Coordinates, u64), String> {
        let sentence = |e: &Error| {
            let cause = std::error::Error::source(e).map(|c| format!(": {c}")).unwrap_or_default();
            format!("{e}{cause}")
        };
        let recovered = self.recovered().await.map_err(|e| sentence(&e))?;
        let mut session = self.connect().await.map_err(|e| sentence(&e))?;
        let tables = session.rows("list its tables", TABLES).await.map_err(|e| sentence(&e))?;
        if tables.is_empty() {
            return Err("it holds no table at all".to_owned());
        }
        let unknown = whole::missing_of_dictionary(&mut session, datadir, self.flavor)
            .await
            .map_err(|e| sentence(&e))??;
        let until = Instant::now() + budget.time;
        let mut checked = 0;
        for table in &tables {
            let [Some(schema), Some(name), ..] = table.as_slice() else { continue };
            if Instant::now() >= until {
                break;
            }
            match check_table(session, schema, name, until).await {
                Ok(Some(next)) => session = next,
                Ok(None) => break,
                Err(problem) => return Err(problem),
            }
            checked += 1;
            progress(Progress {
                percent: u8::try_from(checked * 100 / tables.len()).ok(),
                message: format!("checked {schema}.{name}"),
            });
        }
        let left = tables.len() - checked + unknown;
        let detail = match left {
            0 => format!("recovered, and all {checked} tables check out"),
            left => {
                format!("recovered, {checked} tables check out, {left} were not reached within the budget")
            }
        };
        Ok((detail, recovered, left as u64))
    }
}

/// The argument that names a private server's options, which only root could write.
fn told(run_dir: &Path) -> String {
    format!("--defaults-file={}", run_dir.join(OPTION_FILE).display())
}

/// A program that cannot be started as the data's owner, with the usual reason named.
fn cannot_enter(error: Error, datadir: &Path, uid: u32) -> Error {
    match error {
        Error::Program { program, problem } if problem.contains("Permission denied") => Error::Program {
            program,
            problem: format!(
                "{problem}: user {uid}, whose data these are, must be able to run it and to get through every directory above {}",
                datadir.display()
            ),
        },
        other => other,
    }
}

/// Ends private servers that a killed agent left behind, and removes their run directories. Returns how many. Blocking.
///
/// A run directory whose lock is free has no agent any more. What is ended runs as root or as the owner of that directory's own part,
/// and was told its option file, which only root could write. `held` as in [`SandboxOptions::run_held`].
///
/// # Errors
/// [`Error::NotStopped`] when one of them stays.
pub fn reap_leftovers(run_root: &Path, held: Option<&Dir>) -> Result<usize> {
    let reached = held.map_or_else(|| run_root.to_owned(), Dir::by_descriptor);
    let Ok(entries) = fs::read_dir(reached) else { return Ok(0) };
    let mut reaped = 0;
    for path in entries.filter_map(|e| Some(e.ok()?.path())) {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let ours = |meta: &fs::Metadata| meta.is_dir() && meta.uid() == Uid::effective().as_raw();
        if !name.starts_with(RUN_PREFIX) || !path.symlink_metadata().is_ok_and(|meta| ours(&meta)) {
            continue;
        }
        let Ok(Some(_lock)) = lock(&path) else { continue };
        if let Ok(own) = fs::symlink_metadata(rundir::own(&path, "")) {
            find::end_servers(own.uid(), &told(&run_root.join(name)), STOP_LIMIT)?;
        }
        reaped += usize::from(fs::remove_dir_all(&path).is_ok());
    }
    Ok(reaped)
}

/// Whether the binary log of that base name lies wholly in this datadir.
pub(crate) fn has_usable_log_bin(datadir: &Path, base: &str) -> bool {
    usable_log_bin(datadir, base).is_some()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
