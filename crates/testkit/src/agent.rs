//! A real agent as a process of its own: started, killed and started again, with its log looked through at the end.
//!
//! It knows the program's configuration file, signals and log; what the agent says on the bus is for the tests.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::ids::AgentId;
use tempfile::TempDir;
use toml::{Table, Value};

use crate::mysqld::Mysqld;
pub use crate::programs::Program;

/// A graceful end may take its time on a busy machine.
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// What an agent is started with: a whole configuration for tests, changed key by key.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    id: AgentId,
    config: Table,
    env: Vec<(String, String)>,
    prefix: Vec<OsString>,
    programs: Option<PathBuf>,
}

impl AgentOptions {
    /// An agent of that name on that bus, with short intervals and unsigned commands allowed.
    ///
    /// # Panics
    /// When `id` is no agent id.
    #[must_use]
    pub fn new(id: &str, bus: &str) -> Self {
        let Ok(agent) = id.parse() else { panic!("{id:?} is no agent id") };
        let (config, env, prefix) = (Table::new(), Vec::new(), Vec::new());
        let mut options = Self { id: agent, config, env, prefix, programs: None };
        options.set("agent.id", id);
        options.set("agent.cluster", "shop");
        options.set("agent.dc", "dc1");
        options.set("agent.heartbeat_s", 0.5);
        options.set("agent.reconcile_s", 0.5);
        options.set("bus.servers", vec![bus.to_owned()]);
        options.set("bus.reconnect_max_ms", 500);
        options.set("auth.accept_unsigned", true);
        options.set("seed.listen", "127.0.0.1:0");
        // A test's own hands are on the servers all the time.
        options.set("seed.watch_s", 0);
        options.set("seed.ignored_clients", vec!["root".to_owned()]);
        // Tests beside one another keep the disks of a small machine busy.
        options.set("seed.donor_limits.io_pressure_percent", 0.0);
        options.set("log.format", "json");
        options
    }

    /// Gives it a server to look after: it finds, stops and starts it by its option file.
    pub fn mysql(&mut self, server: &Mysqld) -> &mut Self {
        self.set("mysql.defaults_file", text(&server.option_file()));
        self.set("mysql.user", "root");
        self.set("mysql.service.direct.argv", server.argv())
    }

    /// Gives it snapshots kept below `root` by one of the providers that keep directories.
    pub fn snapshots(&mut self, provider: &str, root: &Path) -> &mut Self {
        self.set("snapshot.provider.provider", provider);
        self.set("snapshot.provider.root", text(root))
    }

    /// Sets one key, its parts joined by dots.
    ///
    /// # Panics
    /// When a part before the last is no table.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        let mut table = &mut self.config;
        let (parents, last) =
            key.rsplit_once('.').map_or((None, key), |(parents, last)| (Some(parents), last));
        for part in parents.into_iter().flat_map(|parents| parents.split('.')) {
            let entry = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
            table = match entry {
                Value::Table(table) => table,
                other => panic!("{part} of {key} is {other}"),
            };
        }
        table.insert(last.to_owned(), value.into());
        self
    }

    /// Trusts one more public key with these roles.
    pub fn trust(&mut self, key: &str, name: &str, roles: &[&str]) -> &mut Self {
        let mut entry = Table::new();
        entry.insert("key".to_owned(), key.into());
        entry.insert("name".to_owned(), name.into());
        entry.insert("roles".to_owned(), roles.to_vec().into());
        let before = self.config.get("auth").and_then(|auth| auth.get("trusted")?.as_array().cloned());
        let mut trusted = before.unwrap_or_default();
        trusted.push(Value::Table(entry));
        self.set("auth.trusted", trusted)
    }

    /// Takes a key back, or a whole table, its parts joined by dots.
    pub fn unset(&mut self, key: &str) -> &mut Self {
        let mut table = Some(&mut self.config);
        let (parents, last) =
            key.rsplit_once('.').map_or((None, key), |(parents, last)| (Some(parents), last));
        for part in parents.into_iter().flat_map(|parents| parents.split('.')) {
            table = table.and_then(|table| table.get_mut(part)?.as_table_mut());
        }
        if let Some(table) = table {
            table.remove(last);
        }
        self
    }

    /// Sets a variable of its environment, for example `OA_FAULT`.
    pub fn env(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.env.retain(|(other, _)| other != name);
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Puts words before its argv, for example [`crate::netns::Host::argv_prefix`]; they must become the program itself.
    pub fn prefix(&mut self, words: Vec<OsString>) -> &mut Self {
        self.prefix = words;
        self
    }

    /// From the next start on it is the program in this directory, such as one of [`crate::programs::release_before`]; absent:
    /// the one that was just built.
    pub fn programs(&mut self, directory: Option<&Path>) -> &mut Self {
        self.programs = directory.map(Path::to_owned);
        self
    }

    /// Takes a variable back.
    pub fn without_env(&mut self, name: &str) -> &mut Self {
        self.env.retain(|(other, _)| other != name);
        self
    }
}

/// An agent. Dropping it kills it and fails the test when its log holds an ERROR that nobody expected; a server that
/// it has spawned goes with its [`Mysqld`].
#[derive(Debug)]
pub struct Agent {
    dir: TempDir,
    options: AgentOptions,
    child: Option<Child>,
    expected: Vec<String>,
}

impl Agent {
    /// Writes the configuration and starts the process; that it serves is for the caller to see on the bus.
    ///
    /// # Errors
    /// When it cannot be built or started.
    pub fn start(options: AgentOptions) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("oa-agent-").tempdir()?;
        // Servers of another user get through to their snapshots.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
        let mut agent = Self { dir, options, child: None, expected: Vec::new() };
        agent.boot()?;
        Ok(agent)
    }

    /// Starts it (again) with the same state directory and the options as they are now.
    ///
    /// # Errors
    /// When it cannot be started or runs.
    pub fn boot(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs", self.options.id);
        self.write_config()?;
        let program = match &self.options.programs {
            Some(directory) => Program::Agent.within(directory),
            None => Program::Agent.path()?,
        };
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        // As the shipped unit runs it: whatever others shall enter or read gets its mode explicitly.
        let strict = ["/bin/sh", "-c", "umask 077 && exec \"$0\" \"$@\""];
        let mut argv: Vec<OsString> = strict.map(OsString::from).to_vec();
        argv.extend(self.options.prefix.clone());
        argv.push(program.clone().into());
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).arg("--config").arg(self.config_path()).envs(self.options.env.clone());
        command
            .env("MALLOC_ARENA_MAX", "2")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Ends it in good order.
    ///
    /// # Errors
    /// When it does not end in time, or with another status than 0.
    pub fn stop(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else { bail!("{} does not run", self.options.id) };
        kill(pid_of(child), Signal::SIGTERM)?;
        let deadline = Instant::now() + STOP_LIMIT;
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    let threads = crate::waits::threads(child.id());
                    bail!("{} does not stop; its threads:\n{threads}\n{}", self.options.id, self.log_end())
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        self.child = None;
        ensure!(status.success(), "{} ended with {status}: {}", self.options.id, self.log_end());
        Ok(())
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill9(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { bail!("{} does not run", self.options.id) };
        child.kill()?;
        let status = child.wait()?;
        ensure!(
            status.signal() == Some(Signal::SIGKILL as i32),
            "{} had ended with {status}",
            self.options.id
        );
        Ok(())
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it runs on.
    pub fn ended(&mut self, within: Duration) -> Result<ExitStatus> {
        let Some(child) = &mut self.child else { bail!("{} does not run", self.options.id) };
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "{} runs on: {}", self.options.id, self.log_end());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it in good order and starts it again.
    ///
    /// # Errors
    /// As [`stop`](Self::stop) and [`boot`](Self::boot).
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.boot()
    }

    /// Whether the process is alive.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Memory that it holds, KiB.
    ///
    /// # Errors
    /// When it does not run.
    pub fn rss_kib(&self) -> Result<u64> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.options.id))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Writes the configuration as the options are now, then asks the process to read it (SIGHUP).
    ///
    /// # Errors
    /// When it does not run.
    pub fn reload(&self) -> Result<()> {
        self.write_config()?;
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.options.id))?;
        Ok(kill(pid_of(child), Signal::SIGHUP)?)
    }

    fn write_config(&self) -> Result<()> {
        let mut options = self.options.clone();
        options.set("agent.state_dir", text(&self.state_dir()));
        options.set("snapshot.mount_root", text(&self.mount_root()));
        Ok(fs::write(self.config_path(), toml::to_string(&options.config)?)?)
    }

    /// Its id on the bus.
    #[must_use]
    pub fn id(&self) -> &AgentId {
        &self.options.id
    }

    /// What the next [`boot`](Self::boot) is done with.
    pub fn options(&mut self) -> &mut AgentOptions {
        &mut self.options
    }

    /// An ERROR line with this text is part of the test.
    pub fn expect_error(&mut self, text: &str) {
        self.expected.push(text.to_owned());
    }

    /// Journals, spool and offers.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Snapshots are mounted below it.
    #[must_use]
    pub fn mount_root(&self) -> PathBuf {
        self.dir.path().join("mounts")
    }

    /// Its configuration file, written anew at each start.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("agent.toml")
    }

    /// A directory that goes with the agent, for a test's own files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// All that it has said so far, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().rev().take(40).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn unexpected_errors(&self) -> Vec<String> {
        let log = self.log();
        let bad = |line: &&str| line.contains("\"level\":\"ERROR\"") || line.contains("panicked at");
        let known = |line: &&str| self.expected.iter().any(|text| line.contains(text.as_str()));
        log.lines().filter(bad).filter(|line| !known(line)).map(str::to_owned).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        kill_servers_of(&self.dir.path().join("servers"));
        // A dead agent leaves its mounts; their volumes could not be unmounted below them.
        let root = text(&self.mount_root());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for target in
            mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|t| t.starts_with(&root))
        {
            let _ = nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH);
        }
        if std::thread::panicking() {
            eprintln!("--- the end of {}'s log:\n{}", self.options.id, self.log_end());
            return;
        }
        let errors = self.unexpected_errors();
        assert!(
            errors.is_empty(),
            "{} logged errors that the test did not expect:\n{}",
            self.options.id,
            errors.join("\n")
        );
    }
}

/// Second servers outlive their agent.
fn kill_servers_of(run_dirs: &Path) {
    let marker = format!("--defaults-file={}/", run_dirs.display());
    let Ok(proc) = fs::read_dir("/proc") else { return };
    for pid in proc.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()) {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(&marker) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_set_one_by_one() {
        let mut options = AgentOptions::new("db1", "nats://127.0.0.1:1");
        options.set("custom.clean.argv", vec!["/bin/true".to_owned()]).set("seed.stall_s", 5);
        assert_eq!(options.config["custom"]["clean"]["argv"][0].as_str(), Some("/bin/true"));
        assert_eq!(options.config["seed"]["stall_s"].as_integer(), Some(5));
        assert_eq!(options.config["seed"]["listen"].as_str(), Some("127.0.0.1:0"));
        options.env("OA_FAULT", "a").env("OA_FAULT", "b");
        assert_eq!(options.env, [("OA_FAULT".to_owned(), "b".to_owned())]);
        options.without_env("OA_FAULT");
        assert!(options.env.is_empty());
    }
}
