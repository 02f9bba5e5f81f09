//! Settings of the connection, as they stand in a config file.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::error::{BusError, Result};

/// How to reach the bus. Secrets stand in files only, never here.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusConfig {
    /// Servers, for example `nats://bus1.example.com:4222` or `tls://…`; any of them will do.
    pub servers: Vec<String>,
    /// Name of this connection in the server's monitoring; absent: the program's own choice.
    pub name: Option<String>,
    /// How to prove who we are; absent: without credentials.
    pub credentials: Option<Credentials>,
    /// TLS.
    pub tls: TlsConfig,
    /// First token of the reply subjects, for example `_INBOX_db1`; absent: `_INBOX`.
    pub inbox_prefix: Option<String>,
    /// JetStream API prefix, for accounts that import JetStream under another name; absent: `$JS.API`.
    pub jetstream_prefix: Option<String>,
    /// Domain of the JetStream that keeps events, queued commands and buckets, where it is not that of the server that we are
    /// connected to: behind a leaf node. Absent: whichever answers.
    pub jetstream_domain: Option<String>,
    /// Seconds between pings; two unanswered ones make the connection lost.
    pub ping_interval_s: u64,
    /// First wait before a reconnect, in milliseconds; doubled each time, ± 50 % at random.
    pub reconnect_min_ms: u64,
    /// Longest wait before a reconnect, in milliseconds.
    pub reconnect_max_ms: u64,
    /// Milliseconds for one attempt to connect.
    pub connect_timeout_ms: u64,
    /// Milliseconds for a request or an acknowledgement where the caller says nothing else.
    pub request_timeout_ms: u64,
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            servers: vec!["nats://127.0.0.1:4222".into()],
            name: None,
            credentials: None,
            tls: TlsConfig::default(),
            inbox_prefix: None,
            jetstream_prefix: None,
            jetstream_domain: None,
            ping_interval_s: 10,
            reconnect_min_ms: 100,
            reconnect_max_ms: 4_000,
            connect_timeout_ms: 5_000,
            request_timeout_ms: 5_000,
        }
    }
}

/// What the subjects of JetStream's API begin with by default.
pub(crate) const JETSTREAM_API: &str = "$JS.API";

/// Those of a domain's.
pub(crate) fn api_of_domain(domain: &str) -> String {
    format!("$JS.{domain}.API")
}

/// The name of a JetStream domain stands in subjects.
pub(crate) fn check_domain(domain: &str) -> Result<()> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if domain.is_empty() || domain.len() > 64 || !domain.bytes().all(valid) {
        let why = format!("{domain:?} must be 1 to 64 letters, digits, - or _");
        return Err(BusError::Config { key: "jetstream_domain", why });
    }
    Ok(())
}

/// Where the secret lies. The file must belong to the user that runs the program, or root, and be closed to others.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Credentials {
    /// A `.creds` file with JWT and seed.
    CredsFile(PathBuf),
    /// A file with an nkey seed (`SU…`).
    NkeyFile(PathBuf),
    /// A file with a token.
    TokenFile(PathBuf),
    /// A file with `user:password`.
    PasswordFile(PathBuf),
}

impl Credentials {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        match self {
            Self::CredsFile(path)
            | Self::NkeyFile(path)
            | Self::TokenFile(path)
            | Self::PasswordFile(path) => path,
        }
    }
}

/// TLS to the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Refuse a connection without TLS.
    pub require: bool,
    /// PEM file with the authorities to trust; absent: those of the system.
    pub ca: Option<PathBuf>,
    /// PEM file with our certificate, for mutual TLS.
    pub cert: Option<PathBuf>,
    /// PEM file with its key; modes as for credentials.
    pub key: Option<PathBuf>,
}

impl BusConfig {
    /// Checks what can be checked without a connection.
    pub fn validate(&self) -> Result<()> {
        let bad = |key, why: String| Err(BusError::Config { key, why });
        if self.servers.is_empty() {
            return bad("servers", "at least one is needed, for example nats://127.0.0.1:4222".into());
        }
        for server in &self.servers {
            if server.contains('@') {
                return bad(
                    "servers",
                    "credentials do not belong into the URL; use credentials.password_file".into(),
                );
            }
            if let Err(error) = server.parse::<async_nats::ServerAddr>() {
                return bad("servers", format!("{server:?} is no NATS URL: {error}"));
            }
        }
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return bad("tls", "cert and key go together".into());
        }
        for (key, prefix) in
            [("inbox_prefix", &self.inbox_prefix), ("jetstream_prefix", &self.jetstream_prefix)]
        {
            if let Some(prefix) = prefix
                && (prefix.is_empty()
                    || prefix
                        .split('.')
                        .any(|t| t.is_empty() || t.contains(['*', '>', ' ', '\t', '\r', '\n'])))
            {
                return bad(key, format!("{prefix:?} is no subject prefix"));
            }
        }
        if let Some(domain) = &self.jetstream_domain {
            check_domain(domain)?;
            if self.jetstream_prefix.is_some() {
                return bad("jetstream_domain", "it goes without jetstream_prefix: it is one".into());
            }
        }
        if self.ping_interval_s == 0 || self.request_timeout_ms == 0 || self.connect_timeout_ms == 0 {
            return bad("ping_interval_s, request_timeout_ms, connect_timeout_ms", "must be above 0".into());
        }
        if self.reconnect_min_ms == 0 || self.reconnect_min_ms > self.reconnect_max_ms {
            return bad("reconnect_min_ms", "must be above 0 and not above reconnect_max_ms".into());
        }
        Ok(())
    }

    /// The first token of the subjects on which answers come.
    #[must_use]
    pub fn inbox(&self) -> &str {
        self.inbox_prefix.as_deref().unwrap_or("_INBOX")
    }

    /// What the subjects of JetStream's API begin with.
    #[must_use]
    pub fn jetstream_api(&self) -> String {
        let domain = self.jetstream_domain.as_deref().map(api_of_domain);
        domain.or_else(|| self.jetstream_prefix.clone()).unwrap_or_else(|| JETSTREAM_API.to_owned())
    }

    /// The default limit of a request.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
}
