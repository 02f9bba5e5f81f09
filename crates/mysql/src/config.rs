//! The `[mysql]` section of the agent's configuration.
//!
//! Everything has a default: an agent on a plain Debian or RHEL host needs none of it.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::process::User;

/// Where the instance is, how to log in and how to control it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MysqlConfig {
    /// The server's `--defaults-file`; absent: the files that the server reads by itself.
    pub defaults_file: Option<PathBuf>,
    /// The server's `--defaults-group-suffix`, or the group number of `mysqld_multi` (`mysqld2` is `2`).
    pub defaults_group_suffix: Option<String>,
    /// Overrides the datadir that the server or the option files name.
    pub datadir: Option<PathBuf>,
    /// Overrides the Unix socket.
    pub socket: Option<PathBuf>,
    /// Overrides the TCP port.
    pub port: Option<u16>,
    /// Overrides the error log file.
    pub error_log: Option<PathBuf>,
    /// Overrides the server binary (`mariadbd` or `mysqld`).
    pub server_binary: Option<PathBuf>,
    /// Overrides the decoder of binary logs (`mariadb-binlog` or `mysqlbinlog`).
    pub binlog_program: Option<PathBuf>,
    /// Overrides the command line client (`mariadb` or `mysql`).
    pub client_program: Option<PathBuf>,
    /// Account; absent: the one in `client_option_file`, else the agent's own OS user (`unix_socket`, `auth_socket`).
    pub user: Option<String>,
    /// File with the account's password on its first line, readable by its owner only.
    pub password_file: Option<PathBuf>,
    /// Option file with a `[client]` group (`user`, `password`), readable by its owner only.
    pub client_option_file: Option<PathBuf>,
    /// How the server is started and stopped.
    pub service: ServiceConfig,
    /// The user that `service.direct` starts the server as; absent: the agent's own.
    #[serde(skip)]
    pub run_as: Option<User>,
    /// Limit for a connection and for a short query, milliseconds.
    pub connect_timeout_ms: u64,
    /// A starting server is given up after this long without a sign of progress, milliseconds.
    pub start_patience_ms: u64,
    /// A stopping server is given up after this long without a sign of progress, milliseconds.
    pub stop_patience_ms: u64,
    /// Limit for a status command or `systemctl`, milliseconds.
    pub command_timeout_ms: u64,
    /// Disk usage younger than this is answered from memory, milliseconds.
    pub disk_usage_cache_ms: u64,
}

impl Default for MysqlConfig {
    fn default() -> Self {
        Self {
            defaults_file: None,
            defaults_group_suffix: None,
            datadir: None,
            socket: None,
            port: None,
            error_log: None,
            server_binary: None,
            binlog_program: None,
            client_program: None,
            user: None,
            password_file: None,
            client_option_file: None,
            service: ServiceConfig::Auto,
            run_as: None,
            connect_timeout_ms: 5_000,
            start_patience_ms: 120_000,
            stop_patience_ms: 300_000,
            command_timeout_ms: 30_000,
            disk_usage_cache_ms: 60_000,
        }
    }
}

impl MysqlConfig {
    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn command_timeout(&self) -> Duration {
        Duration::from_millis(self.command_timeout_ms)
    }

    pub(crate) fn start_patience(&self) -> Duration {
        Duration::from_millis(self.start_patience_ms)
    }

    pub(crate) fn stop_patience(&self) -> Duration {
        Duration::from_millis(self.stop_patience_ms)
    }

    /// Says what in this section cannot work, before anything is tried.
    ///
    /// # Errors
    /// The key and what was expected, as one sentence.
    pub fn validate(&self) -> Result<(), String> {
        if self.password_file.is_some() && self.user.is_none() && self.client_option_file.is_none() {
            return Err("password_file needs user: name the account that the password is for".to_owned());
        }
        let empty = |name: &str| {
            Err(format!("service.{name} is an empty list; expected the program and its arguments"))
        };
        match &self.service {
            ServiceConfig::Argv(argv) => {
                for (name, list) in [("argv.start", &argv.start), ("argv.stop", &argv.stop)] {
                    if list.first().is_none_or(String::is_empty) {
                        return empty(name);
                    }
                }
                if argv.status.as_ref().is_some_and(Vec::is_empty) {
                    return empty("argv.status");
                }
                Ok(())
            }
            ServiceConfig::Direct(direct) if direct.argv.first().is_none_or(String::is_empty) => {
                empty("direct.argv")
            }
            _ => Ok(()),
        }
    }
}

/// How the server is started and stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ServiceConfig {
    /// The one systemd unit of the usual names that is loaded on this host.
    #[default]
    Auto,
    /// A named systemd unit.
    Systemd(SystemdService),
    /// The host's own commands.
    Argv(ArgvService),
    /// The agent spawns the server itself, in a session of its own that outlives the agent.
    Direct(DirectService),
}

/// `service.systemd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemdService {
    /// Unit name, with or without `.service`.
    pub unit: String,
}

/// `service.argv`: programs with their arguments, never a shell line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArgvService {
    /// Starts the server and returns, or stays while it starts.
    pub start: Vec<String>,
    /// Asks the server to stop cleanly.
    pub stop: Vec<String>,
    /// Exit 0: running. Exit 3 (LSB): stopped. Anything else cannot be told, and counts as running.
    #[serde(default)]
    pub status: Option<Vec<String>>,
}

/// `service.direct`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectService {
    /// The server binary and its arguments, in the foreground; stopped with SIGTERM.
    pub argv: Vec<String>,
}
