//! The instance as the agent sees it: what it is and whether it runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use protocol::mysql::{Coordinates, ServerInfo, ServerState, ServerVersion};

use crate::client::{Address, Login, Session};
use crate::config::{MysqlConfig, ServiceConfig};
use crate::connections::OwnConnections;
use crate::error::{Error, Result};
use crate::errorlog::{self, LogFile};
use crate::find::{self, DataLock};
use crate::process::{self, Limits};
use crate::service::{Service, ServiceState};
use crate::settings::Settings;
use crate::usage::{DiskFree, DiskUsage, UsageCache, disk_free};
use crate::{peer, position, server};

/// The instance of this host. Cheap to clone; every call looks at the host anew.
#[derive(Debug, Clone)]
pub struct Instance {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: MysqlConfig,
    usage: UsageCache,
    own: OwnConnections,
    /// Version of a binary, valid while its file is the same.
    version: Mutex<Option<(PathBuf, SystemTime, Option<ServerVersion>)>>,
}

impl Instance {
    /// The instance that a configuration describes. Touches nothing.
    #[must_use]
    pub fn new(config: MysqlConfig) -> Self {
        let (usage, own, version) = (UsageCache::default(), OwnConnections::default(), Mutex::new(None));
        let shared = Shared { config, usage, own, version };
        Self { shared: Arc::new(shared) }
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &MysqlConfig {
        &self.shared.config
    }

    pub(crate) fn own_connections(&self) -> &OwnConnections {
        &self.shared.own
    }

    /// What is known without asking the server: configuration, process, option files.
    pub async fn settings(&self) -> Settings {
        let known = self.shared.version.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known = known.and_then(|(_, _, version)| version);
        let settings = self.gather(known.clone()).await;
        // The version tells which groups of the option files count.
        match self.binary_version(&settings).await {
            version if version == known => settings,
            version => self.gather(version).await,
        }
    }

    /// What the instance is and whether it runs. Never fails: what cannot be found is absent.
    pub async fn info(&self) -> ServerInfo {
        let settings = self.settings().await;
        let (state, session) = self.probe(&settings).await;
        let mut info = offline_info(&settings, state);
        info.trouble =
            session.as_ref().err().and_then(|error| error.as_ref()).map(|error| sys::error::line(error));
        if let Ok(mut session) = session {
            if let Ok(told) = server::read_info(&mut session, &settings.root).await {
                info = ServerInfo {
                    pid: settings.pid,
                    datadir: told.datadir.or(info.datadir),
                    socket: told.socket.or(info.socket),
                    error_log: told.error_log.or(info.error_log),
                    layout: told.layout.or(info.layout),
                    ..told
                };
            }
            session.close().await;
        }
        info
    }

    /// Whether it runs. [`ServerState::Stopped`] only when process, locks and service manager agree on it.
    pub async fn state(&self) -> ServerState {
        let settings = self.settings().await;
        let (state, session) = self.probe(&settings).await;
        if let Ok(session) = session {
            session.close().await;
        }
        state
    }

    /// Opens a connection to the running server.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::SecretExposed`], [`Error::NotFound`].
    pub async fn connect(&self) -> Result<Session> {
        self.connect_with(&self.settings().await).await
    }

    /// Where the running server's history stands.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), or when the account lacks the right to see it.
    pub async fn coordinates(&self) -> Result<Coordinates> {
        let mut session = self.connect().await?;
        let version = server::version(&mut session).await?;
        let coordinates = position::read(&mut session, version.flavor).await?;
        session.close().await;
        Ok(coordinates)
    }

    /// Threads of the running server that run a statement now, our own left out; absent when it does not answer.
    pub async fn threads_running(&self) -> Option<u32> {
        let mut session = self.connect().await.ok()?;
        let rows = session.rows("show its load", "SHOW GLOBAL STATUS LIKE 'Threads_running'").await;
        session.close().await;
        let threads: u32 = rows.ok()?.into_iter().next()?.into_iter().nth(1)??.parse().ok()?;
        Some(threads.saturating_sub(1))
    }

    /// Seconds that it is behind its source on purpose (`MASTER_DELAY`); 0 where that cannot be seen.
    pub async fn wanted_delay(&self) -> u64 {
        let Ok(mut session) = self.connect().await else { return 0 };
        let status = server::replica_status(&mut session).await;
        session.close().await;
        status.ok().flatten().and_then(|s| s.get("SQL_Delay")?.parse().ok()).unwrap_or(0)
    }

    /// Whether it replicates over TLS now; false where that cannot be seen.
    pub async fn replicates_over_tls(&self) -> bool {
        let Ok(mut session) = self.connect().await else { return false };
        let status = server::replica_status(&mut session).await;
        session.close().await;
        let said = status.ok().flatten();
        said.is_some_and(|s| server::column(&s, "Source_SSL_Allowed", "Master_SSL_Allowed") == Some("Yes"))
    }

    /// Version of the running server, else of the installed binary.
    pub async fn version(&self) -> Option<ServerVersion> {
        let settings = self.settings().await;
        if let Ok(mut session) = self.connect_with(&settings).await {
            let version = server::version(&mut session).await.ok();
            session.close().await;
            if version.is_some() {
                return version;
            }
        }
        settings.version
    }

    /// Bytes below a directory, from memory where that is recent enough.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be read.
    pub async fn disk_usage(&self, path: &Path) -> Result<DiskUsage> {
        self.shared.usage.get(path, self.usage_max_age()).await
    }

    /// As [`disk_usage`](Self::disk_usage), but after `patience` whatever is known, if anything: a walk over a large datadir
    /// on a busy disk takes minutes.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be read.
    pub async fn disk_usage_within(&self, path: &Path, patience: Duration) -> Result<Option<DiskUsage>> {
        self.shared.usage.within(path, self.usage_max_age(), patience).await
    }

    /// Bytes below a directory, counted from now on; whoever asks meanwhile shares the walk.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be read.
    pub async fn disk_usage_now(&self, path: &Path) -> Result<DiskUsage> {
        self.shared.usage.get(path, Duration::ZERO).await
    }

    fn usage_max_age(&self) -> Duration {
        Duration::from_millis(self.config().disk_usage_cache_ms)
    }

    /// Free space where a path lies.
    ///
    /// # Errors
    /// [`Error::Io`] when the path does not exist.
    pub fn disk_free(&self, path: &Path) -> Result<DiskFree> {
        disk_free(path)
    }

    /// The last lines of the error log, from its file or from the journal of its unit.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it goes to neither.
    pub async fn error_log_tail(&self, lines: usize) -> Result<Vec<String>> {
        let settings = self.settings().await;
        if let Some(log) = settings.log_file() {
            return log.tail(lines);
        }
        if let Some(path) = settings.pid.and_then(find::stderr_file) {
            return LogFile::opened_by_server(path).tail(lines);
        }
        let not_found = Error::NotFound { what: "the error log" };
        let Ok(service) = Service::find(self.config(), settings.pid).await else { return Err(not_found) };
        let Some(unit) = service.unit() else { return Err(not_found) };
        let lines = lines.min(errorlog::MAX_TAIL_LINES);
        let argv =
            ["journalctl", "--no-pager", "--output=short-iso", "--lines", &lines.to_string(), "--unit", unit];
        let limits = Limits { time: self.config().command_timeout(), output_bytes: 1 << 20 };
        let output = process::run(&argv.map(str::to_owned), &limits).await?.success("journalctl")?;
        Ok(errorlog::last_lines(&output.stdout, lines))
    }

    async fn gather(&self, version: Option<ServerVersion>) -> Settings {
        let shared = Arc::clone(&self.shared);
        let gathered =
            tokio::task::spawn_blocking(move || Settings::gather(&shared.config, version.as_ref())).await;
        gathered.unwrap_or_default()
    }

    async fn binary_version(&self, settings: &Settings) -> Option<ServerVersion> {
        let (prefix, binary) = match &self.config().service {
            // A host may have another vendor's server installed beside the one that it is configured with.
            ServiceConfig::Direct(_) => settings.program(self.config())?,
            _ => (Vec::new(), settings.binary.clone()?),
        };
        let file = match prefix.as_slice() {
            [program, .., root] if program.ends_with("chroot") => {
                Path::new(root).join(binary.strip_prefix("/").unwrap_or(&binary))
            }
            _ => binary.clone(),
        };
        let modified = std::fs::metadata(file).and_then(|m| m.modified()).ok()?;
        let known = self.shared.version.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((path, at, version)) = known
            && path == binary
            && at == modified
        {
            return version;
        }
        let limits = Limits { time: self.config().command_timeout(), ..Limits::default() };
        // What stands before it, such as `chroot`, needs the rights that it is configured to run with.
        let user = settings.data_user().filter(|_| prefix.is_empty());
        let argv = [prefix, vec![binary.to_string_lossy().into_owned()]].concat();
        let version = find::version_by(&argv, &limits, user).await;
        *self.shared.version.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((binary, modified, version.clone()));
        version
    }

    pub(crate) async fn connect_with(&self, settings: &Settings) -> Result<Session> {
        let login = Login::from_config(self.config())?;
        let limit = self.config().connect_timeout();
        let opened = match (&settings.socket, settings.port) {
            (Some(socket), _) => {
                let proven = peer::socket_of(socket, settings.owner, limit).await?;
                self.shared.own.tried();
                Session::open(&proven.address(), &login, limit).await
            }
            (None, Some(port)) => {
                peer::check_port(port, settings.owner)?;
                Session::open(&Address::Tcp(port), &login, limit).await
            }
            (None, None) => return Err(Error::NotFound { what: "the socket or port" }),
        };
        self.shared.own.tried();
        let mut session = opened?;
        self.shared.own.connected(&session);
        let told = session.scalar("show its datadir", "SELECT @@datadir").await?.unwrap_or_default();
        let theirs = settings.resolve(Path::new(&told));
        match &settings.datadir {
            Some(ours) if !find::is_same_dir(ours, &theirs) => Err(Error::Refused {
                reason: format!(
                    "the server that answers runs on {}, and this instance is {}",
                    theirs.display(),
                    ours.display()
                ),
            }),
            _ => Ok(session),
        }
    }

    pub(crate) async fn probe_state(&self, settings: &Settings) -> ServerState {
        self.probe(settings).await.0
    }

    /// The session, or why there is none; nothing where none was tried.
    async fn probe(&self, settings: &Settings) -> (ServerState, Result<Session, Option<Error>>) {
        let presence = self.presence(settings);
        if presence != Presence::Gone {
            return match (presence, self.connect_with(settings).await) {
                (_, Ok(session)) => (ServerState::Ready, Ok(session)),
                (Presence::Running, Err(error)) if answers(&error) => {
                    (ServerState::ReadyNoAccess, Err(Some(error)))
                }
                (Presence::Running, Err(error)) => (ServerState::NotReady, Err(Some(error))),
                (_, Err(error)) => (ServerState::Unknown, Err(Some(error))),
            };
        }
        // Not even a connection is tried where nothing runs: a socket of systemd would start the server for it.
        let state = match Service::find(self.config(), settings.pid).await {
            Ok(service) => match service.state(self.config().command_timeout()).await {
                ServiceState::Stopped | ServiceState::None => ServerState::Stopped,
                ServiceState::Running => ServerState::NotReady,
                ServiceState::Unknown => ServerState::Unknown,
            },
            // No way to start it is not a sign that it runs.
            Err(_) => ServerState::Stopped,
        };
        (state, Err(None))
    }

    pub(crate) fn presence(&self, settings: &Settings) -> Presence {
        if settings.pid.or(settings.starting).is_some() {
            return Presence::Running;
        }
        let Some(datadir) = &settings.datadir else { return Presence::Unknown };
        match find::data_lock(datadir) {
            DataLock::Held(_) => Presence::Running,
            DataLock::Free => Presence::Gone,
            // Without files to lock there is no server on them, if the directory could be seen at all.
            DataLock::Unknown => match std::fs::read_dir(datadir) {
                Ok(mut entries) => {
                    let has_data = entries.any(|e| e.is_ok_and(|e| e.file_name() == "ibdata1"));
                    if has_data { Presence::Unknown } else { Presence::Gone }
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Presence::Gone,
                Err(_) => Presence::Unknown,
            },
        }
    }
}

/// Whether a server is there, by process and locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Running,
    Gone,
    Unknown,
}

/// True when an error comes from a server that is up but keeps us out.
pub(crate) fn answers(error: &Error) -> bool {
    /// Too many connections, access denied (three kinds), host not allowed, unknown plugin, must change password.
    const UP: [u16; 7] = [1040, 1045, 1044, 1698, 1130, 1524, 1862];
    match error {
        Error::Answer { .. } => true,
        Error::Connect { source, .. } => match source.as_ref() {
            mysql_async::Error::Server(e) => UP.contains(&e.code),
            // The server asks for an authentication method that the client has not.
            mysql_async::Error::Driver(_) => true,
            _ => false,
        },
        _ => false,
    }
}

/// What the files and the process tell of a server that does not answer.
fn offline_info(settings: &Settings, state: ServerState) -> ServerInfo {
    ServerInfo {
        state,
        pid: settings.pid,
        port: settings.port,
        socket: settings.socket.clone(),
        datadir: settings.datadir.clone(),
        error_log: settings.error_log.clone(),
        version: settings.version.clone(),
        server_uuid: settings.datadir.as_deref().and_then(auto_cnf_uuid),
        server_id: settings.options.get("server-id").and_then(|v| v.parse().ok()),
        coordinates: None,
        read_only: settings.options.is_on("read-only"),
        replica_of: None,
        replicas: None,
        lag_seconds: None,
        layout: Some(settings.layout()),
        on_snapshot: None,
        trouble: None,
    }
}

/// `server_uuid` of a stopped MySQL server.
fn auto_cnf_uuid(datadir: &Path) -> Option<String> {
    let path = datadir.join("auto.cnf");
    let files = crate::options::OptionFiles::load_file(&path).ok()?;
    files.effective(&["auto"]).get("server-uuid").map(str::to_owned)
}
