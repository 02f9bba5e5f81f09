//! How the host starts and stops its server: systemd, the host's own argv, or spawned by the agent.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::config::{MysqlConfig, ServiceConfig};
use crate::error::{Error, Result};
use crate::find;
use crate::process::{self, Detached, Limits, User};
use crate::settings::Settings;

/// Units that distributions install, without instances.
const UNIT_NAMES: [&str; 3] = ["mariadb", "mysql", "mysqld"];
/// Template units, for an instance named by the group suffix.
const UNIT_TEMPLATES: [&str; 3] = ["mariadb@", "mysqld@", "mysql@"];
/// Exit code of a status command for "stopped" (LSB).
const LSB_STOPPED: i32 = 3;

/// What the service manager says; the datadir's lock says the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceState {
    Running,
    Stopped,
    /// It gave no answer that can be relied on.
    Unknown,
    /// There is no service manager to ask.
    None,
}

/// The way to control this instance.
#[derive(Debug, Clone)]
pub(crate) enum Service {
    Systemd { unit: String },
    Argv { start: Vec<String>, stop: Vec<String>, status: Option<Vec<String>> },
    Direct { argv: Vec<String>, user: Option<User> },
}

/// A start under way.
#[derive(Debug)]
pub(crate) enum Starting {
    /// systemd does it.
    Unit,
    /// A command that is expected to end with success, or to stay.
    Command(Detached),
    /// The server itself.
    Server(Detached),
}

impl Starting {
    /// Why the start failed, as far as its process tells; `None` while it may still succeed.
    pub(crate) fn failure(&mut self) -> Option<String> {
        let (running, must_stay) = match self {
            Self::Unit => return None,
            Self::Command(running) => (running, false),
            Self::Server(running) => (running, true),
        };
        let status = running.ended()?;
        (must_stay || !status.success()).then(|| ended_badly(running, status))
    }
}

fn ended_badly(running: &mut Detached, status: ExitStatus) -> String {
    let last = running.last_line();
    let program = running.program().to_owned();
    if last.is_empty() {
        format!("{program} ended with {status}")
    } else {
        format!("{program} ended with {status}: {last}")
    }
}

impl Service {
    /// The service that the configuration names, or the one that this host has.
    pub(crate) async fn find(config: &MysqlConfig, pid: Option<i32>) -> Result<Self> {
        match &config.service {
            ServiceConfig::Systemd(service) => Ok(Self::Systemd { unit: unit_name(&service.unit) }),
            ServiceConfig::Argv(argv) => Ok(Self::Argv {
                start: argv.start.clone(),
                stop: argv.stop.clone(),
                status: argv.status.clone(),
            }),
            ServiceConfig::Direct(direct) => {
                Ok(Self::Direct { argv: direct.argv.clone(), user: config.run_as })
            }
            ServiceConfig::Auto => detect_unit(config, pid).await.map(|unit| Self::Systemd { unit }),
        }
    }

    pub(crate) fn start(&self) -> Result<Starting> {
        match self {
            Self::Systemd { unit } => {
                Detached::spawn(&systemctl(&["start", "--no-block", unit])).map(Starting::Command)
            }
            Self::Argv { start, .. } => Detached::spawn(start).map(Starting::Command),
            Self::Direct { argv, user } => Detached::spawn_as(argv, *user).map(Starting::Server),
        }
    }

    /// Asks for a clean stop; the caller watches it happen.
    pub(crate) fn stop(&self, settings: &Settings) -> Result<Starting> {
        match (self, settings.pid.zip(settings.datadir.as_deref())) {
            (Self::Systemd { unit }, _) => {
                Detached::spawn(&systemctl(&["stop", "--no-block", unit])).map(Starting::Command)
            }
            (Self::Argv { stop, .. }, _) => Detached::spawn(stop).map(Starting::Command),
            (Self::Direct { .. }, Some((pid, datadir))) => {
                // One that ended meanwhile needs no signal.
                find::signal(datadir, pid, Signal::SIGTERM).map_err(|e| Error::NotStopped {
                    reason: format!("process {pid} cannot be signalled: {e}"),
                })?;
                Ok(Starting::Unit)
            }
            (Self::Direct { .. }, None) => Err(Error::NotStopped {
                reason: "something is at work on its datadir, but no process was proven to be its server"
                    .to_owned(),
            }),
        }
    }

    /// Whether a stop is a signal of ours to the server's process.
    pub(crate) fn needs_pid(&self) -> bool {
        matches!(self, Self::Direct { .. })
    }

    /// Fails closed: only a clear "stopped" is one.
    pub(crate) async fn state(&self, limit: Duration) -> ServiceState {
        let limits = Limits { time: limit, ..Limits::default() };
        match self {
            Self::Systemd { unit } => match process::run(&systemctl(&["is-active", unit]), &limits).await {
                Ok(output) => unit_state(&String::from_utf8_lossy(&output.stdout)),
                Err(_) => ServiceState::Unknown,
            },
            Self::Argv { status: Some(status), .. } => match process::run(status, &limits).await {
                Ok(output) => match output.status.code() {
                    Some(0) => ServiceState::Running,
                    Some(LSB_STOPPED) => ServiceState::Stopped,
                    _ => ServiceState::Unknown,
                },
                Err(_) => ServiceState::Unknown,
            },
            Self::Argv { status: None, .. } | Self::Direct { .. } => ServiceState::None,
        }
    }

    /// The unit whose journal holds the error log, if systemd runs the server.
    pub(crate) fn unit(&self) -> Option<&str> {
        match self {
            Self::Systemd { unit } => Some(unit),
            _ => None,
        }
    }
}

fn systemctl(args: &[&str]) -> Vec<String> {
    std::iter::once(&"systemctl").chain(args).map(|a| (*a).to_owned()).collect()
}

fn unit_name(name: &str) -> String {
    if name.ends_with(".service") { name.to_owned() } else { format!("{name}.service") }
}

/// What `systemctl is-active` prints.
fn unit_state(text: &str) -> ServiceState {
    match text.trim() {
        "active" | "activating" | "reloading" | "deactivating" | "refreshing" => ServiceState::Running,
        "inactive" | "failed" => ServiceState::Stopped,
        _ => ServiceState::Unknown,
    }
}

/// The unit that runs the process, else the one unit of the usual names that is installed.
async fn detect_unit(config: &MysqlConfig, pid: Option<i32>) -> Result<String> {
    if let Some(unit) = pid.and_then(unit_of_process) {
        return Ok(unit);
    }
    if !Path::new("/run/systemd/system").is_dir() {
        return Err(Error::NoService { reason: "this host does not run systemd".to_owned() });
    }
    let names: Vec<String> = match &config.defaults_group_suffix {
        Some(suffix) => UNIT_TEMPLATES.iter().map(|t| format!("{t}{suffix}.service")).collect(),
        None => UNIT_NAMES.iter().map(|n| format!("{n}.service")).collect(),
    };
    let mut argv = systemctl(&["show", "--property=Id,LoadState"]);
    argv.extend(names.iter().cloned());
    let limits = Limits { time: config.command_timeout(), ..Limits::default() };
    let output = process::run(&argv, &limits).await?.success("systemctl show")?;
    let mut units = loaded_units(&String::from_utf8_lossy(&output.stdout));
    match (units.pop(), units.is_empty()) {
        (Some(unit), true) => Ok(unit),
        (None, _) => {
            Err(Error::NoService { reason: format!("none of the units {} is installed", names.join(", ")) })
        }
        (Some(unit), false) => {
            units.push(unit);
            Err(Error::NoService { reason: format!("several units are installed: {}", units.join(", ")) })
        }
    }
}

/// The loaded units in the output of `systemctl show --property=Id,LoadState`; aliases fall together.
fn loaded_units(text: &str) -> Vec<String> {
    let mut units: Vec<String> = text
        .split("\n\n")
        .filter(|block| block.lines().any(|l| l == "LoadState=loaded"))
        .filter_map(|block| block.lines().find_map(|l| l.strip_prefix("Id=")).map(str::to_owned))
        .collect();
    units.sort();
    units.dedup();
    units
}

/// The system unit in whose control group a process runs.
fn unit_of_process(pid: i32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    unit_of_cgroup(&text)
}

/// Only units that are a database by name: a server that the agent or a person spawned is in theirs.
fn unit_of_cgroup(text: &str) -> Option<String> {
    let system = text.lines().filter(|line| line.contains(":/system.slice/"));
    let unit = system.filter_map(|line| line.rsplit('/').find(|part| part.ends_with(".service"))).next()?;
    let base = unit.trim_end_matches(".service");
    let known = UNIT_NAMES.contains(&base) || UNIT_TEMPLATES.iter().any(|t| base.starts_with(t));
    known.then(|| unit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_one_unit() {
        let text = "Id=mariadb.service\nLoadState=loaded\n\nId=mariadb.service\nLoadState=loaded\n\nId=mysqld.service\nLoadState=not-found\n";
        assert_eq!(loaded_units(text), ["mariadb.service"]);
    }

    #[test]
    fn only_clear_words_of_systemd_mean_stopped() {
        assert_eq!(unit_state("inactive\n"), ServiceState::Stopped);
        assert_eq!(unit_state("failed\n"), ServiceState::Stopped);
        assert_eq!(unit_state("activating\n"), ServiceState::Running);
        for text in ["", "unknown", "System has not been booted with systemd"] {
            assert_eq!(unit_state(text), ServiceState::Unknown, "{text}");
        }
    }

    #[test]
    fn the_unit_of_a_process_must_be_a_database_unit() {
        assert_eq!(unit_of_cgroup("0::/system.slice/mariadb.service\n").as_deref(), Some("mariadb.service"));
        let instance = "0::/system.slice/system-mysqld.slice/mysqld@db2.service\n";
        assert_eq!(unit_of_cgroup(instance).as_deref(), Some("mysqld@db2.service"));
        assert_eq!(unit_of_cgroup("0::/system.slice/orchestrator-agent.service\n"), None);
        assert_eq!(unit_of_cgroup("0::/user.slice/session-3.scope\n"), None);
        let of_a_user = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/mariadb.service\n";
        assert_eq!(unit_of_cgroup(of_a_user), None);
    }

    #[tokio::test]
    async fn a_mistyped_status_command_never_says_stopped() {
        let argv = |status: &[&str]| Service::Argv {
            start: vec!["true".into()],
            stop: vec!["true".into()],
            status: Some(status.iter().map(|s| (*s).to_owned()).collect()),
        };
        let limit = Duration::from_secs(10);
        assert_eq!(argv(&["/usr/bin/systmctl", "is-active"]).state(limit).await, ServiceState::Unknown);
        assert_eq!(argv(&["false"]).state(limit).await, ServiceState::Unknown);
        assert_eq!(argv(&["sh", "-c", "exit 3"]).state(limit).await, ServiceState::Stopped);
        assert_eq!(argv(&["true"]).state(limit).await, ServiceState::Running);
        let hangs = argv(&["sleep", "600"]).state(Duration::from_millis(200)).await;
        assert_eq!(hangs, ServiceState::Unknown);
    }
}
