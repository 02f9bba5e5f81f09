//! One connection to the server: log in, ask, all within a time limit.
//!
//! Passwords are read from files whose modes are checked, live in memory only while a connection is made, and
//! appear in no error.

use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Row, Value};
use nix::unistd::{Uid, User};

use crate::config::MysqlConfig;
use crate::error::{Error, Result};
use crate::options::{OptionFiles, Options};
use crate::tls::Tls;

/// Largest reply that the client accepts, bytes.
const MAX_PACKET_BYTES: usize = 64 << 20;
/// A connection that the agent forgot is closed by the server after this long, seconds.
const IDLE_LIMIT_S: usize = 28_800;

/// An open connection. Dropping it disconnects, and the server releases what the session held.
#[derive(Debug)]
pub struct Session {
    conn: Conn,
    limit: Duration,
}

/// One result row by column name; NULL is absent.
pub type Record = BTreeMap<String, String>;

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Socket(PathBuf),
    /// A socket that is held open, reached by its descriptor, with the path that it is known by.
    Held {
        held: PathBuf,
        path: PathBuf,
    },
    Tcp(u16),
    /// Another host's server.
    Remote(String, u16),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) | Self::Held { path, .. } => write!(f, "{}", path.display()),
            Self::Tcp(port) => write!(f, "127.0.0.1:{port}"),
            Self::Remote(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// An account; `Debug` hides the password.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: Option<String>,
    pub(crate) tls: Tls,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Login {
    /// The account that the configuration names.
    pub(crate) fn from_config(config: &MysqlConfig) -> Result<Self> {
        let mut login = Self { user: os_user(), password: None, tls: Tls::default() };
        if let Some(path) = &config.client_option_file {
            check_secret_mode(path)?;
            let file = OptionFiles::load_file(path)?.effective(&["client"]);
            if let Some(user) = file.get("user") {
                login.user = user.to_owned();
            }
            login.password = file.get("password").map(str::to_owned);
            login.tls = tls_of(path, &file)?;
        }
        if let Some(user) = &config.user {
            login.user.clone_from(user);
        }
        if let Some(path) = &config.password_file {
            login.password = Some(read_secret(path)?);
        }
        Ok(login)
    }
}

/// The first line of a file that only its owner can read.
///
/// # Errors
/// [`Error::SecretExposed`] when others can read it, [`Error::Io`] when it cannot be read.
pub(crate) fn read_secret(path: &Path) -> Result<String> {
    check_secret_mode(path)?;
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Refuses a secret that the group or others can read.
///
/// # Errors
/// [`Error::SecretExposed`] when they can, [`Error::Io`] when the file cannot be looked at.
pub fn check_secret_mode(path: &Path) -> Result<()> {
    let mode = std::fs::metadata(path).map_err(Error::io("read", path))?.mode() & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(Error::SecretExposed { path: path.to_owned(), mode }) }
}

/// How an option file wants connections encrypted.
pub(crate) fn tls_of(path: &Path, client: &Options) -> Result<Tls> {
    Tls::from_options(client).map_err(|problem| Error::OptionFile { path: path.to_owned(), line: 0, problem })
}

/// Looks at the files that the section names: option files must be there, secrets closed to others.
///
/// # Errors
/// The key, and the reason with the file.
pub fn check_files(config: &MysqlConfig) -> std::result::Result<(), (&'static str, String)> {
    if let Some(file) = &config.defaults_file {
        std::fs::File::open(file).map_err(|error| {
            (
                "defaults_file",
                format!("expected the server's option file, but {} cannot be read: {error}", file.display()),
            )
        })?;
    }
    for (key, file) in
        [("password_file", &config.password_file), ("client_option_file", &config.client_option_file)]
    {
        if let Some(file) = file {
            check_secret_mode(file).map_err(|error| {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                (key, format!("{error}{}", cause.unwrap_or_default()))
            })?;
        }
    }
    Ok(())
}

fn os_user() -> String {
    let uid = Uid::effective();
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

const LOG_IN: &str = "a log-in";

impl Session {
    /// Connects and logs in.
    ///
    /// A password that is refused is tried once more: the client library (mysql_common 0.37,
    /// `AuthSwitchRequest::plugin_data`) cuts a zero from the end of the server's nonce, which the random
    /// nonces of MariaDB's ed25519 and parsec plugins end in once in 256 log-ins. Of the first the server refuses the
    /// password then, of the second the library panics.
    pub(crate) async fn open(address: &Address, login: &Login, limit: Duration) -> Result<Self> {
        match Self::log_in(address, login, limit).await {
            Err(error)
                if login.password.is_some()
                    && (error.refuses_the_password()
                        || matches!(error, Error::Answer { action: LOG_IN, .. })) =>
            {
                Self::log_in(address, login, limit).await
            }
            opened => opened,
        }
    }

    async fn log_in(address: &Address, login: &Login, limit: Duration) -> Result<Self> {
        let mut opts = OptsBuilder::default()
            .user(Some(login.user.clone()))
            .pass(login.password.clone())
            .ssl_opts(login.tls.options())
            .prefer_socket(false)
            .max_allowed_packet(Some(MAX_PACKET_BYTES))
            .wait_timeout(Some(IDLE_LIMIT_S));
        opts = match address {
            Address::Socket(path) | Address::Held { held: path, .. } => {
                opts.socket(Some(path.to_string_lossy().into_owned()))
            }
            Address::Tcp(port) => opts.ip_or_hostname("127.0.0.1").tcp_port(*port),
            Address::Remote(host, port) => opts.ip_or_hostname(host.clone()).tcp_port(*port),
        };
        let action = || format!("connect at {address}");
        // A task of its own: whatever a server's answer does to the client library, the agent lives on.
        let mut connecting = tokio::spawn(Conn::new(Opts::from(opts)));
        match tokio::time::timeout(limit, &mut connecting).await {
            Ok(Ok(Ok(conn))) => Ok(Self { conn, limit }),
            Ok(Ok(Err(source))) => Err(Error::Connect {
                address: address.to_string(),
                user: login.user.clone(),
                source: Box::new(source),
            }),
            Ok(Err(_)) => Err(Error::Answer {
                action: LOG_IN,
                problem: format!("{} asks {address} for something that the client cannot do", login.user),
            }),
            Err(_) => {
                connecting.abort();
                Err(Error::Timeout { action: action(), limit })
            }
        }
    }

    /// Replaces the limit for each statement.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The connection itself, for what is no statement.
    pub(crate) fn into_conn(self) -> Conn {
        self.conn
    }

    /// The server's id of this connection.
    #[must_use]
    pub fn connection_id(&self) -> u32 {
        self.conn.id()
    }

    /// Runs a statement whose rows do not matter. `action` completes "refused to …" and holds no secret.
    ///
    /// # Errors
    /// [`Error::Query`] or [`Error::Timeout`].
    pub async fn exec(&mut self, action: &str, sql: impl AsRef<str>) -> Result<()> {
        let limit = self.limit;
        bounded(action, limit, self.conn.query_drop(sql.as_ref())).await
    }

    /// Runs a statement and returns its rows in order, columns in order, NULL as absent.
    ///
    /// # Errors
    /// [`Error::Query`] or [`Error::Timeout`].
    pub async fn rows(&mut self, action: &str, sql: impl AsRef<str>) -> Result<Vec<Vec<Option<String>>>> {
        let limit = self.limit;
        let rows: Vec<Row> = bounded(action, limit, self.conn.query(sql.as_ref())).await?;
        Ok(rows.into_iter().map(|row| row.unwrap().iter().map(text).collect()).collect())
    }

    /// Runs a statement and returns its rows by column name.
    ///
    /// # Errors
    /// [`Error::Query`] or [`Error::Timeout`].
    pub async fn records(&mut self, action: &str, sql: impl AsRef<str>) -> Result<Vec<Record>> {
        let limit = self.limit;
        let rows: Vec<Row> = bounded(action, limit, self.conn.query(sql.as_ref())).await?;
        Ok(rows.iter().map(record).collect())
    }

    /// The first column of the first row.
    ///
    /// # Errors
    /// [`Error::Query`] or [`Error::Timeout`].
    pub async fn scalar(&mut self, action: &str, sql: impl AsRef<str>) -> Result<Option<String>> {
        Ok(self.rows(action, sql).await?.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    /// All global variables.
    ///
    /// # Errors
    /// [`Error::Query`] or [`Error::Timeout`].
    pub async fn variables(&mut self) -> Result<Record> {
        let rows = self.rows("show its variables", "SHOW GLOBAL VARIABLES").await?;
        Ok(rows.into_iter().filter_map(|row| pair(row.into_iter())).collect())
    }

    /// Says goodbye, so that the server logs no aborted connection.
    pub async fn close(self) {
        let limit = self.limit;
        drop(tokio::time::timeout(limit, self.conn.disconnect()).await);
    }
}

fn pair(mut row: impl Iterator<Item = Option<String>>) -> Option<(String, String)> {
    Some((row.next()??, row.next()?.unwrap_or_default()))
}

async fn bounded<T>(
    action: &str,
    limit: Duration,
    work: impl Future<Output = std::result::Result<T, mysql_async::Error>>,
) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(Error::Query { action: action.to_owned(), source: Box::new(source) }),
        Err(_) => Err(Error::Timeout { action: action.to_owned(), limit }),
    }
}

fn record(row: &Row) -> Record {
    row.columns_ref()
        .iter()
        .enumerate()
        .filter_map(|(i, column)| Some((column.name_str().into_owned(), text(row.as_ref(i)?)?)))
        .collect()
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::Int(n) => Some(n.to_string()),
        Value::UInt(n) => Some(n.to_string()),
        other => Some(other.as_sql(true).trim_matches('\'').to_owned()),
    }
}
