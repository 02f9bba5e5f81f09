//! Holds the service down while its datadir is changed: nothing may start it then, not its socket, not its restart
//! rule, not a person in a hurry, and not the next boot.
//!
//! A hold is one file: a drop-in of the unit that asserts its own absence. systemd then refuses each start by name, and
//! whoever looks (`systemctl status`) is shown the file, which says why it is there. Removing the file ends the hold, by
//! the agent or by hand. A mask would not do: a runtime mask is gone after a reboot and is overruled by a unit file in
//! `/etc`, a lasting one cannot be laid over such a file at all. A drop-in works on every kind of unit, also on instances
//! and on those that systemd made from an init script.
//!
//! Sockets and path units of the service are stopped for as long, and refuse to start too: else a client's connection
//! would run them into their own limits. What was stopped is written into the file, so that it can be started again
//! whoever comes to do it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::process::{self, Limits};
use crate::service::{Service, UnitFacts, systemctl};

/// The last of a unit's drop-ins by name, so that no other one overrules it.
const FILE: &str = "zzz-orchestrator-agent-hold.conf";
/// Where an operator's own unit files and drop-ins lie: they outlive a reboot.
const UNITS: &str = "/etc/systemd/system";
/// Notes of what is to be started with a service that was left stopped; a reboot starts these by itself.
const NOTES: &str = "/run/orchestrator-agent/held";
/// systemd reads no section of this prefix.
const SECTION: &str = "[X-OrchestratorAgent]";

/// A service that is held down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The unit.
    pub unit: String,
    /// The agent that holds it.
    pub agent: String,
    /// The job that it is held for.
    pub job: String,
    /// Its sockets and path units that were active; they are started before the service is.
    pub stopped: Vec<String>,
}

impl Hold {
    /// The file that is the hold.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        drop_in(Path::new(UNITS), &self.unit)
    }

    fn render(&self, units: &Path) -> String {
        let file = drop_in(units, &self.unit);
        let file = file.display();
        format!(
            "# {} is held down by orchestrator-agent {} while job {} changes its datadir.\n\
             # It ends with the job, or at the agent's next start. To end it by hand, at the risk of a server on half a\n\
             # datadir: rm {file} && systemctl daemon-reload\n\
             [Unit]\nAssertPathExists=!{file}\n\n{SECTION}\nAgent={}\nJob={}\nStopped={}\n",
            self.unit,
            self.agent,
            self.job,
            self.agent,
            self.job,
            self.stopped.join(" ")
        )
    }

    pub(crate) fn parse(unit: &str, text: &str) -> Option<Self> {
        let (_, ours) = text.split_once(SECTION)?;
        let value = |key: &str| {
            ours.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
        };
        Some(Self {
            unit: unit.to_owned(),
            agent: value("Agent")?,
            job: value("Job")?,
            stopped: value("Stopped")?.split_whitespace().map(str::to_owned).collect(),
        })
    }
}

/// The services that an agent holds down, whatever its configuration says now.
#[must_use]
pub fn holds(agent: &str) -> Vec<Hold> {
    found_in(Path::new(UNITS), agent)
}

fn found_in(units: &Path, agent: &str) -> Vec<Hold> {
    let Ok(entries) = fs::read_dir(units) else { return Vec::new() };
    let units = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        let unit = name.to_str()?.strip_suffix(".d")?;
        unit.ends_with(".service").then_some(())?;
        Hold::parse(unit, &fs::read_to_string(entry.path().join(FILE)).ok()?)
    });
    units.filter(|hold| hold.agent == agent).collect()
}

impl Instance {
    /// Holds the service down for a job of an agent: nothing starts it until [`release`](Self::release). A running server
    /// is not stopped by this. Can be repeated. `None` where no systemd runs the service, or its operator has masked it:
    /// then nobody starts it anyway.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Program`] when the hold could not be made, [`Error::Refused`] when systemd does not heed it.
    pub async fn hold(&self, agent: &str, job: &str) -> Result<Option<Hold>> {
        let Some(facts) = self.unit_facts().await? else { return Ok(None) };
        if facts.is_masked() {
            return Ok(None);
        }
        let known = holds(agent).into_iter().find(|hold| hold.unit == facts.unit);
        let mut stopped = known.map(|hold| hold.stopped).unwrap_or_default();
        let limit = self.config().command_timeout();
        for trigger in facts.activators() {
            let trigger_facts = UnitFacts::ask(trigger, limit).await?;
            if trigger_facts.is_active() && !stopped.contains(&trigger_facts.unit) {
                stopped.push(trigger_facts.unit);
            }
        }
        let hold = Hold { unit: facts.unit.clone(), agent: agent.to_owned(), job: job.to_owned(), stopped };
        let text = hold.render(Path::new(UNITS));
        for unit in std::iter::once(&hold.unit).chain(&hold.stopped) {
            write(&drop_in(Path::new(UNITS), unit), &text)?;
        }
        self.systemctl(&["daemon-reload"]).await?;
        let heeded = UnitFacts::ask(&hold.unit, limit).await?;
        if !heeded.has_drop_in(&hold.file()) {
            let (unit, file) = (&hold.unit, hold.file());
            let reason = format!("systemd does not read {}, so {unit} cannot be held down", file.display());
            return Err(Error::Refused { reason });
        }
        if !hold.stopped.is_empty() {
            self.systemctl(&words("stop", &hold.stopped)).await?;
        }
        Ok(Some(hold))
    }

    /// Ends what an agent holds down; the service and what was stopped with it stay as they are, for
    /// [`resume`](Self::resume) or the next boot. Can be repeated.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Program`]: then something is still held.
    pub async fn release(&self, agent: &str) -> Result<Vec<Hold>> {
        let held = holds(agent);
        if held.is_empty() {
            return Ok(held);
        }
        for hold in &held {
            if !hold.stopped.is_empty() {
                write(&Path::new(NOTES).join(&hold.unit), &hold.render(Path::new(UNITS)))?;
            }
            // The hold itself goes last: until then it is found again.
            for unit in hold.stopped.iter().chain([&hold.unit]) {
                remove(&drop_in(Path::new(UNITS), unit))?;
            }
        }
        self.systemctl(&["daemon-reload"]).await?;
        for hold in &held {
            // Starts that were refused meanwhile are of the hold's making. Nothing to reset is an error of some versions.
            let _ = self.systemctl(&["reset-failed", &hold.unit]).await;
        }
        Ok(held)
    }

    /// Starts again what was stopped with the service: before the service, for a socket does not listen once that runs.
    /// Gives the units that did not start.
    pub async fn resume(&self, agent: &str) -> Vec<String> {
        let mut failed = Vec::new();
        let Ok(entries) = fs::read_dir(NOTES) else { return failed };
        for path in entries.flatten().map(|entry| entry.path()) {
            let unit = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let hold = fs::read_to_string(&path).ok().and_then(|text| Hold::parse(unit, &text));
            let Some(hold) = hold.filter(|hold| hold.agent == agent) else { continue };
            for trigger in &hold.stopped {
                if self.systemctl(&["start", trigger]).await.is_err() {
                    failed.push(trigger.clone());
                }
            }
            let _ = fs::remove_file(&path);
        }
        failed
    }

    /// What systemd says of this instance's unit; `None` where it is no unit's.
    ///
    /// # Errors
    /// [`Error::Program`] when systemd does not answer.
    pub async fn unit_facts(&self) -> Result<Option<UnitFacts>> {
        let pid = self.settings().await.pid;
        match Service::find(self.config(), pid).await {
            Ok(Service::Systemd { unit }) => {
                UnitFacts::ask(&unit, self.config().command_timeout()).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    pub(crate) async fn systemctl(&self, args: &[&str]) -> Result<()> {
        let limits = Limits { time: self.config().command_timeout(), ..Limits::default() };
        let argv = systemctl(args);
        process::run(&argv, &limits).await?.success(&argv[..2].join(" ")).map(drop)
    }
}

fn words<'a>(verb: &'a str, units: &'a [String]) -> Vec<&'a str> {
    std::iter::once(verb).chain(units.iter().map(String::as_str)).collect()
}

fn drop_in(units: &Path, unit: &str) -> PathBuf {
    drop_in_named(units, unit, FILE)
}

pub(crate) fn drop_in_named(units: &Path, unit: &str, file: &str) -> PathBuf {
    units.join(format!("{unit}.d")).join(file)
}

/// Whole and on disk, or not there. Readable for all: `systemctl status` shows it to people who are not root.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o755).create(dir).map_err(Error::io("create", dir))?;
    // The agent's umask is strict.
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none()) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(Error::io("open to all", dir))?;
    }
    let draft = path.with_extension("new");
    let written = || -> io::Result<()> {
        let mut file = fs::File::create(&draft)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        fs::File::open(dir)?.sync_all()
    };
    written().map_err(Error::io("write", path))
}

pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => {
            // Only ever an empty one; an operator's drop-ins keep it.
            if let Some(dir) = path.parent() {
                let _ = fs::remove_dir(dir);
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold() -> Hold {
        Hold {
            unit: "mariadb@shop.service".to_owned(),
            agent: "db1:3306".to_owned(),
            job: "0199".to_owned(),
            stopped: vec!["mariadb@shop.socket".to_owned(), "shop.path".to_owned()],
        }
    }

    #[test]
    fn a_hold_asserts_its_own_absence_and_remembers_what_it_stopped() {
        let text = hold().render(Path::new(UNITS));
        let file = "/etc/systemd/system/mariadb@shop.service.d/zzz-orchestrator-agent-hold.conf";
        assert!(text.contains(&format!("\n[Unit]\nAssertPathExists=!{file}\n")), "{text}");
        assert!(text.contains(&format!("rm {file} && systemctl daemon-reload")), "the way out: {text}");
        assert_eq!(Hold::parse("mariadb@shop.service", &text), Some(hold()));
    }

    #[test]
    fn a_hold_is_found_by_its_agent_and_leaves_an_operators_drop_ins_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = drop_in(dir.path(), "mariadb@shop.service");
        write(&file, &hold().render(dir.path())).unwrap();
        let theirs = file.with_file_name("limits.conf");
        fs::write(&theirs, "[Service]\nLimitNOFILE=1\n").unwrap();
        assert_eq!(found_in(dir.path(), "db1:3306"), [hold()]);
        assert_eq!(found_in(dir.path(), "db2"), [], "another agent's");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        remove(&file).unwrap();
        remove(&file).unwrap();
        assert_eq!(found_in(dir.path(), "db1:3306"), []);
        assert!(theirs.exists());
    }
}
