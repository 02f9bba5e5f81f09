//! How the host starts and stops its server: systemd, the host's own argv, or spawned by the agent.

use std::collections::BTreeMap;
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
/// What [`UnitFacts`] asks for.
const PROPERTIES: &str = "--property=Id,ExecStart,LoadState,ActiveState,SubState,Result,Restart,TriggeredBy,DropInPaths,NRestarts,\
                          Job,ConditionResult,AssertResult,Environment";
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
    /// The service manager has heard of it: what it says of the unit from now on is about this start.
    pub(crate) fn is_asked(&mut self) -> bool {
        match self {
            Self::Unit => true,
            Self::Command(running) | Self::Server(running) => running.ended().is_some(),
        }
    }

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

    /// Starts it. `closed`: read-only from its first moment, where the agent spawns it itself; one of systemd's is told by its
    /// unit ([`close_starts`](crate::Instance::close_starts)).
    pub(crate) fn start(&self, closed: bool) -> Result<Starting> {
        match self {
            Self::Systemd { unit } => {
                Detached::spawn(&systemctl(&["start", "--no-block", unit])).map(Starting::Command)
            }
            Self::Argv { start, .. } => Detached::spawn(start).map(Starting::Command),
            Self::Direct { argv, user } if closed => {
                Detached::spawn_as(&[argv.as_slice(), &["--read-only=ON".to_owned()]].concat(), *user)
                    .map(Starting::Server)
            }
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

pub(crate) fn systemctl(args: &[&str]) -> Vec<String> {
    std::iter::once(&"systemctl").chain(args).map(|a| (*a).to_owned()).collect()
}

/// What systemd says of a unit at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitFacts {
    /// Its own name, not an alias.
    pub unit: String,
    properties: BTreeMap<String, String>,
}

impl UnitFacts {
    pub(crate) async fn ask(unit: &str, limit: Duration) -> Result<Self> {
        let limits = Limits { time: limit, ..Limits::default() };
        let output = process::run(&systemctl(&["show", PROPERTIES, "--", unit]), &limits).await?;
        let output = output.success("systemctl show")?;
        Ok(Self::parse(unit, &String::from_utf8_lossy(&output.stdout)))
    }

    fn parse(unit: &str, text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let properties: BTreeMap<String, String> =
            pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let id = properties.get("Id").filter(|id| !id.is_empty());
        Self { unit: id.map_or_else(|| unit.to_owned(), Clone::clone), properties }
    }

    fn get(&self, name: &str) -> &str {
        self.properties.get(name).map_or("", String::as_str)
    }

    /// Its operator does not want it to be started.
    #[must_use]
    pub fn is_masked(&self) -> bool {
        self.get("LoadState").starts_with("masked")
    }

    pub(crate) fn is_active(&self) -> bool {
        matches!(self.get("ActiveState"), "active" | "activating" | "reloading")
    }

    pub(crate) fn has_drop_in(&self, file: &Path) -> bool {
        self.get("DropInPaths").split_whitespace().any(|path| Path::new(path) == file)
    }

    /// What its environment passes on to the server (`MYSQLD_OPTS`).
    pub(crate) fn server_options(&self) -> String {
        const NAME: &str = "MYSQLD_OPTS=";
        let environment = self.get("Environment");
        // systemd quotes an assignment as a whole where its value has blanks.
        let quoted = environment.split('"').skip(1).step_by(2).find_map(|one| one.strip_prefix(NAME));
        let plain = || environment.split_whitespace().find_map(|one| one.strip_prefix(NAME));
        quoted.or_else(plain).unwrap_or_default().to_owned()
    }

    /// Whether that reaches the server: as both vendors' units have it.
    pub(crate) fn passes_options_on(&self) -> bool {
        self.get("ExecStart").split_whitespace().any(|word| matches!(word, "$MYSQLD_OPTS" | "${MYSQLD_OPTS}"))
    }

    /// The units that start it when something happens, timers included.
    pub fn triggers(&self) -> impl Iterator<Item = &str> {
        self.get("TriggeredBy").split_whitespace()
    }

    /// Those of them that would try again and again.
    pub(crate) fn activators(&self) -> impl Iterator<Item = &str> {
        self.triggers().filter(|unit| unit.ends_with(".socket") || unit.ends_with(".path"))
    }

    /// What would start it again when it is stopped or ends, in words; `None` when nothing of systemd would.
    #[must_use]
    pub fn starters(&self) -> Option<String> {
        let restart = Some(self.get("Restart")).filter(|rule| !rule.is_empty() && *rule != "no");
        let rule = restart.map(|rule| format!("Restart={rule}"));
        let words: Vec<String> = self.triggers().map(str::to_owned).chain(rule).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }

    /// Why a start that was asked for has failed for good; `None` while it may still succeed.
    pub(crate) fn start_failure(&self) -> Option<String> {
        let (unit, result) = (&self.unit, self.get("Result"));
        if !self.get("Job").is_empty() {
            return None;
        }
        match self.get("ActiveState") {
            "failed" if result == "start-limit-hit" => Some(format!(
                "systemd starts {unit} no more: start-limit-hit, it was started too often in a short time ({} restarts); when \
                 the cause is mended: systemctl reset-failed {unit}",
                self.get("NRestarts")
            )),
            "failed" => Some(format!("{unit} failed: {result}")),
            "inactive" if self.get("AssertResult") == "no" || self.get("ConditionResult") == "no" => {
                Some(format!(
                    "systemd does not start {unit}, for one of its conditions or assertions is not met: systemctl status {unit}"
                ))
            }
            _ => None,
        }
    }
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
    let text = String::from_utf8_lossy(&output.stdout);
    let mut units = units_in_state("loaded", &text);
    if units.is_empty() {
        // Whoever starts it is told that it is masked, not that there is none.
        units = units_in_state("masked", &text);
    }
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

/// The units of a load state in the output of `systemctl show --property=Id,LoadState`; aliases fall together.
fn units_in_state(state: &str, text: &str) -> Vec<String> {
    let wanted = format!("LoadState={state}");
    let mut units: Vec<String> = text
        .split("\n\n")
        .filter(|block| block.lines().any(|l| l == wanted))
        .filter_map(|block| block.lines().find_map(|l| l.strip_prefix("Id=")).map(str::to_owned))
        .collect();
    units.sort();
    units.dedup();
    units
}

/// Who started a process, as far as its control group and its parent tell, for a person to find it.
pub(crate) fn started_by(pid: i32) -> String {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let unit = groups.lines().find_map(|line| {
        line.rsplit('/').find(|part| part.ends_with(".service") || part.ends_with(".scope"))
    });
    let parent = find::parent(pid).filter(|(parent, _)| *parent > 1);
    let parent = parent.map(|(pid, command)| format!("process {pid} ({command})"));
    match (unit.filter(|unit| *unit != "init.scope"), parent) {
        (Some(unit), Some(parent)) => format!("{unit}, {parent}"),
        (Some(unit), None) => unit.to_owned(),
        (None, Some(parent)) => parent,
        (None, None) => "a process that has ended".to_owned(),
    }
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
    fn what_a_unit_passes_on_is_read_as_systemd_shows_it() {
        let of = |environment: &str| {
            UnitFacts::parse("mariadb.service", &format!("Id=mariadb.service\nEnvironment={environment}\n"))
                .server_options()
        };
        assert_eq!(of(""), "");
        assert_eq!(of("LANG=C MYSQLD_OPTS=--port=3307 TZ=UTC"), "--port=3307");
        assert_eq!(of("LANG=C \"MYSQLD_OPTS=--a=1 --b\" TZ=UTC"), "--a=1 --b");
        assert_eq!(of("MYSQLD_OPTS= _WSREP_NEW_CLUSTER="), "");

        let passes = |argv: &str| {
            let line =
                format!("ExecStart={{ path=/usr/sbin/mariadbd ; argv[]=/usr/sbin/mariadbd {argv} ; pid=0 }}");
            UnitFacts::parse("mariadb.service", &line).passes_options_on()
        };
        assert!(passes("$MYSQLD_OPTS $_WSREP_NEW_CLUSTER") && passes("${MYSQLD_OPTS}"));
        assert!(!passes("--user=mysql") && !passes("$MYSQLD_OPTS_OF_OURS"));
    }

    #[test]
    fn aliases_are_one_unit() {
        let text = "Id=mariadb.service\nLoadState=loaded\n\nId=mariadb.service\nLoadState=loaded\n\nId=mysqld.service\nLoadState=not-found\n";
        assert_eq!(units_in_state("loaded", text), ["mariadb.service"]);
        assert!(units_in_state("masked", text).is_empty());
    }

    /// `systemctl show` of Debian 12 (systemd 252): after a run of starts, then under a hold.
    #[test]
    fn a_failed_start_is_told_by_name_once_its_job_is_over() {
        let facts = |text: &str| UnitFacts::parse("mysql", text);
        let limit = "Id=mariadb.service\nActiveState=failed\nResult=start-limit-hit\nNRestarts=4\nJob=\n";
        let told = facts(limit).start_failure().unwrap();
        assert!(
            told.contains("start-limit-hit") && told.contains("systemctl reset-failed mariadb.service"),
            "{told}"
        );
        assert_eq!(facts(&limit.replace("Job=", "Job=312")).start_failure(), None, "it is on its way");
        let held = "Id=mariadb.service\nActiveState=inactive\nResult=success\nAssertResult=no\nConditionResult=yes\nJob=\n";
        assert!(facts(held).start_failure().unwrap().contains("assertions"));
        let again =
            "Id=mariadb.service\nActiveState=activating\nSubState=auto-restart\nResult=exit-code\nJob=\n";
        assert_eq!(facts(again).start_failure(), None, "systemd tries once more");
    }

    #[test]
    fn what_would_start_it_again_is_named() {
        let stock = "Id=mariadb.service\nTriggeredBy=mariadb.socket backup.timer\nRestart=on-abnormal\n";
        let facts = UnitFacts::parse("mysql", stock);
        assert_eq!(facts.starters().as_deref(), Some("mariadb.socket, backup.timer, Restart=on-abnormal"));
        assert_eq!(facts.activators().collect::<Vec<_>>(), ["mariadb.socket"]);
        assert_eq!(UnitFacts::parse("mysql", "Restart=no\nTriggeredBy=\n").starters(), None);
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
