//! Start and stop: a server that shows progress is waited for however long it takes, one that shows none is not.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use protocol::mysql::ServerState;

use crate::error::{Error, Result};
use crate::errorlog::{self, Event, Follower};
use crate::find;
use crate::instance::{Instance, Presence, answers};
use crate::service::{Service, ServiceState, Starting, UnitFacts, started_by};
use crate::settings::Settings;

/// Pause between two looks at a starting or stopping server.
const POLL: Duration = Duration::from_millis(100);
/// A server that exits is given this long to be started again by its service manager.
const RESTART_GRACE: Duration = Duration::from_secs(3);
/// A server that was started this often without becoming ready is in a crash loop.
const MAX_CRASHES: u32 = 3;

/// What is told while a server starts or stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Percent of crash recovery done, where the server says it.
    pub percent: Option<u8>,
    /// The server's own words, or what is being waited for.
    pub message: String,
}

impl Instance {
    /// Starts the server and waits until it answers; see [`start_with`](Self::start_with).
    ///
    /// # Errors
    /// As [`start_with`](Self::start_with).
    pub async fn start(&self) -> Result<()> {
        self.start_with(&|_| {}).await
    }

    /// Starts the server and waits until it answers, however long crash recovery goes on: only a time without any
    /// sign of progress ends the wait. A server that answers already is left alone.
    ///
    /// # Errors
    /// [`Error::NotReady`] with the error log's words; [`Error::NoService`]; [`Error::Refused`] when it cannot be told
    /// whether a server runs already.
    pub async fn start_with(&self, progress: &(dyn Fn(Progress) + Send + Sync)) -> Result<()> {
        self.start_as(false, progress).await
    }

    /// As [`start_with`](Self::start_with), for a server that becomes a replica: one that the agent spawns itself is read-only
    /// from its first moment, one of systemd's after [`close_starts`](Self::close_starts).
    ///
    /// # Errors
    /// As [`start_with`](Self::start_with).
    pub async fn start_closed(&self, progress: &(dyn Fn(Progress) + Send + Sync)) -> Result<()> {
        self.start_as(true, progress).await
    }

    async fn start_as(&self, closed: bool, progress: &(dyn Fn(Progress) + Send + Sync)) -> Result<()> {
        let settings = self.settings().await;
        match self.probe_state(&settings).await {
            ServerState::Ready | ServerState::ReadyNoAccess => return Ok(()),
            ServerState::Unknown => {
                return Err(Error::Refused {
                    reason:
                        "it cannot be told whether MySQL runs; check service.status and the datadir's rights"
                            .to_owned(),
                });
            }
            ServerState::NotReady => return self.await_ready(Starting::Unit, None, None, progress).await,
            ServerState::Stopped => {}
        }
        let service = Service::find(self.config(), settings.pid).await?;
        let log = settings.log_file().map(Follower::new);
        self.await_ready(service.start(closed)?, service.unit(), log, progress).await
    }

    /// Stops the server cleanly; see [`stop_with`](Self::stop_with).
    ///
    /// # Errors
    /// As [`stop_with`](Self::stop_with).
    pub async fn stop(&self) -> Result<()> {
        self.stop_with(&|_| {}).await
    }

    /// Stops the server cleanly and waits until its process is gone and its locks are free. Never kills it: a large
    /// buffer pool may take minutes to write, and only a time without any sign of progress ends the wait.
    ///
    /// # Errors
    /// [`Error::NotStopped`] when it still runs, or at once when it ended and something has started another in its place;
    /// [`Error::NoService`] when nothing tells how to stop it.
    pub async fn stop_with(&self, progress: &(dyn Fn(Progress) + Send + Sync)) -> Result<()> {
        let settings = self.settings().await;
        if self.probe_state(&settings).await == ServerState::Stopped {
            return Ok(());
        }
        let service = Service::find(self.config(), settings.pid).await?;
        let settings = if service.needs_pid() { self.when_proven(settings).await } else { settings };
        let mut log = settings.log_file().map(Follower::new);
        let mut stopping = service.stop(&settings)?;
        let mut patience = Patience::new(self.config().stop_patience());
        loop {
            for line in log.as_mut().map(Follower::new_lines).unwrap_or_default() {
                patience.reset();
                if let Some(Event::Stopping | Event::Stopped | Event::Recovering { .. }) =
                    errorlog::parse(&line)
                {
                    progress(Progress { percent: None, message: line });
                }
            }
            let now = self.settings().await;
            if let Some(reason) = self.successor(settings.watched(), now.watched(), &service).await {
                return Err(Error::NotStopped { reason });
            }
            patience.note_io(now.watched());
            if self.presence(&now) == Presence::Gone {
                let state = service.state(self.config().command_timeout()).await;
                if state != ServiceState::Running {
                    return Ok(());
                }
            } else if let Some(reason) = stopping.failure() {
                return Err(Error::NotStopped { reason });
            }
            if patience.is_over() {
                let who = now.watched().map_or_else(
                    || "its datadir is still locked".to_owned(),
                    |p| format!("process {p} still runs"),
                );
                let waited = patience.limit.as_secs();
                return Err(Error::NotStopped { reason: format!("{who}, without progress for {waited} s") });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits for a server that has just been started to take the lock that proves it, or to end.
    async fn when_proven(&self, mut settings: Settings) -> Settings {
        let patience = Patience::new(self.config().stop_patience());
        while settings.pid.is_none() && settings.starting.is_some() && !patience.is_over() {
            tokio::time::sleep(POLL).await;
            settings = self.settings().await;
        }
        settings
    }

    /// Who runs the server and started it, where one runs: for whoever has stopped it and finds that it is back.
    pub async fn running_by(&self) -> Option<String> {
        let pid = self.settings().await.watched()?;
        Some(format!("process {pid}, started by {}", started_by(pid)))
    }

    /// That the process which was to stop has ended and another one serves: then waiting for an end is in vain.
    async fn successor(&self, old: Option<i32>, new: Option<i32>, service: &Service) -> Option<String> {
        let (old, new) = (old?, new?);
        if old == new || find::is_alive(old) {
            return None;
        }
        let facts = match service.unit() {
            Some(unit) => UnitFacts::ask(unit, self.config().command_timeout()).await.ok(),
            None => None,
        };
        let by = match facts.as_ref().and_then(UnitFacts::starters) {
            Some(starters) => format!("; what starts it by itself: {starters}"),
            None => "; a watchdog, a cron job or a person must let it rest first".to_owned(),
        };
        Some(format!("process {old} ended, and {new} was started in its place by {}{by}", started_by(new)))
    }

    /// Kills the server and waits until its process is gone: for one that does not stop, on data that are thrown away or
    /// that crash recovery will mend.
    ///
    /// # Errors
    /// [`Error::NotStopped`] when its process is not known or cannot be signalled, or is still there after `within`.
    pub async fn kill(&self, within: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            let settings = self.settings().await;
            if self.presence(&settings) == Presence::Gone {
                return Ok(());
            }
            if let (Some(pid), Some(datadir)) = (settings.pid.or(settings.starting), &settings.datadir)
                && let Err(e) = find::signal(datadir, pid, Signal::SIGKILL)
            {
                return Err(Error::NotStopped { reason: format!("process {pid} cannot be killed: {e}") });
            }
            if begun.elapsed() > within {
                let waited = within.as_secs();
                return Err(Error::NotStopped {
                    reason: format!("it is still there {waited} s after a SIGKILL"),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Stops, then starts.
    ///
    /// # Errors
    /// As [`stop_with`](Self::stop_with) and [`start_with`](Self::start_with).
    pub async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.start().await
    }

    /// Why systemd has not started the unit and will not.
    async fn refusal(&self, unit: &str) -> Option<String> {
        UnitFacts::ask(unit, self.config().command_timeout()).await.ok()?.start_failure()
    }

    async fn await_ready(
        &self,
        mut starting: Starting,
        unit: Option<&str>,
        mut log: Option<Follower>,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<()> {
        let mut patience = Patience::new(self.config().start_patience());
        let mut watch = CrashWatch::default();
        let mut fatal = None;
        loop {
            for line in log.as_mut().map(Follower::new_lines).unwrap_or_default() {
                patience.reset();
                match errorlog::parse(&line) {
                    Some(Event::Recovering { percent, message }) => progress(Progress { percent, message }),
                    Some(Event::Fatal(_)) => fatal = fatal.or(Some(line)),
                    _ if line.contains("[ERROR]") => fatal = Some(line),
                    _ => {}
                }
            }
            let settings = self.settings().await;
            if log.is_none() {
                log = settings.log_file().map(Follower::new);
            }
            match self.connect_with(&settings).await {
                Ok(session) => {
                    session.close().await;
                    return Ok(());
                }
                Err(e) if settings.pid.is_some() && answers(&e) => return Ok(()),
                Err(e @ Error::SecretExposed { .. }) => return Err(e),
                Err(_) => {}
            }
            patience.note_io(settings.watched());
            let refused = match unit {
                Some(unit) if settings.watched().is_none() && starting.is_asked() => self.refusal(unit).await,
                _ => None,
            };
            let reason = match starting.failure().or(refused) {
                Some(reason) => Some(reason),
                None if watch.gave_up(settings.watched()) => Some("the server exited".to_owned()),
                None if patience.is_over() => {
                    Some(format!("no sign of progress for {} s", patience.limit.as_secs()))
                }
                None => None,
            };
            if let Some(reason) = reason {
                let last = log.as_mut().map(Follower::new_lines).unwrap_or_default();
                let fatal = fatal.or_else(|| last.into_iter().rev().find(|l| l.contains("[ERROR]")));
                return Err(Error::NotReady {
                    reason: fatal
                        .map_or_else(|| reason.clone(), |line| format!("{reason}; its error log: {line}")),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Patience that every sign of progress renews.
#[derive(Debug)]
struct Patience {
    limit: Duration,
    since: Instant,
    io: Option<(i32, u64)>,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now(), io: None }
    }

    fn reset(&mut self) {
        self.since = Instant::now();
    }

    /// A server that reads or writes works, even where it logs nothing.
    fn note_io(&mut self, pid: Option<i32>) {
        let io = pid.and_then(|pid| Some((pid, find::io_bytes(pid)?)));
        if io.is_some() && io != self.io {
            self.reset();
        }
        self.io = io;
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() > self.limit
    }
}

/// Notices a server that exited for good, or that its manager starts again and again.
#[derive(Debug, Default)]
struct CrashWatch {
    pid: Option<i32>,
    gone_since: Option<Instant>,
    crashes: u32,
}

impl CrashWatch {
    fn gave_up(&mut self, pid: Option<i32>) -> bool {
        match (self.pid, pid) {
            (Some(old), Some(new)) if old != new => self.crashes += 1,
            (Some(_), None) => {
                let since = *self.gone_since.get_or_insert_with(Instant::now);
                return since.elapsed() > RESTART_GRACE;
            }
            _ => {}
        }
        self.gone_since = None;
        self.pid = pid.or(self.pid);
        self.crashes >= MAX_CRASHES
    }
}
