//! Runs a program to its end: own process group, bounded output, killed as a group when its time is up.

use std::fmt::Write as _;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, Uid};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::error::{Error, Result};

/// How a program is run.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Its whole process group is killed after this long.
    pub time: Duration,
    /// Each of stdout and stderr is kept up to this many bytes; the rest is read and dropped.
    pub output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: Duration::from_secs(30), output_bytes: 64 << 10 }
    }
}

/// What a program left.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// The first bytes of its standard output.
    pub stdout: Vec<u8>,
    /// The first bytes of its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// The last line that it wrote, standard error first.
    #[must_use]
    pub fn last_line(&self) -> String {
        [&self.stderr, &self.stdout]
            .into_iter()
            .find_map(|bytes| {
                let text = String::from_utf8_lossy(bytes);
                text.lines().rev().map(str::trim).find(|l| !l.is_empty()).map(str::to_owned)
            })
            .unwrap_or_default()
    }

    /// Fails unless the program ended with success.
    ///
    /// # Errors
    /// [`Error::Program`] with its last line.
    pub fn success(self, program: &str) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        let mut problem = format!("failed with {}", self.status);
        let last = self.last_line();
        if !last.is_empty() {
            let _ = write!(problem, ": {last}");
        }
        Err(Error::Program { program: program.to_owned(), problem })
    }
}

/// The user that a program runs as in root's stead: with no group but its own, no capability, and no way to more rights by what it
/// executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What of the environment a program of another user gets: it may hold our secrets.
const ENVIRONMENT: [&str; 5] = ["PATH", "TZ", "LANG", "LC_ALL", "LD_LIBRARY_PATH"];

impl User {
    /// Whose a file or directory is. `None` where there is nothing to give up: it is root's, or the agent is not root.
    #[must_use]
    pub fn owner_of(file: &Metadata) -> Option<Self> {
        if file.uid() == 0 || !Uid::effective().is_root() {
            return None;
        }
        let known = nix::unistd::User::from_uid(file.uid().into()).ok().flatten();
        Some(Self { uid: file.uid(), gid: known.map_or(file.gid(), |user| user.gid.as_raw()) })
    }

    /// Lets a program start as this user.
    pub fn give_to(self, command: &mut std::process::Command) {
        command.uid(self.uid).gid(self.gid).env_clear();
        command.envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        crate::before_exec::without_new_privileges(command);
    }
}

/// Runs a program to its end, without standard input.
///
/// # Errors
/// [`Error::Program`] when it cannot be started or its time is up. An exit code other than 0 is no error.
pub async fn run(argv: &[String], limits: &Limits) -> Result<Output> {
    run_as(argv, limits, None).await
}

/// As [`run`], as another user if need be.
///
/// # Errors
/// As [`run`].
pub async fn run_as(argv: &[String], limits: &Limits, user: Option<User>) -> Result<Output> {
    let (program, args) = split(argv)?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(user) = user {
        user.give_to(command.as_std_mut());
    }
    let mut group = Group::spawn(command, program)?;
    let (stdout, stderr) = (group.child.stdout.take(), group.child.stderr.take());
    let work = async {
        let (stdout, stderr, status) = tokio::join!(
            read_up_to(stdout, limits.output_bytes),
            read_up_to(stderr, limits.output_bytes),
            group.child.wait()
        );
        status.map(|status| Output { status, stdout, stderr })
    };
    match tokio::time::timeout(limits.time, work).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(e)) => {
            Err(Error::Program { program: program.clone(), problem: format!("could not be waited for: {e}") })
        }
        Err(_) => Err(Error::Program {
            program: program.clone(),
            problem: format!("was stopped after its limit of {} ms", limits.time.as_millis()),
        }),
    }
}

/// The program and its arguments.
pub(crate) fn split(argv: &[String]) -> Result<(&String, &[String])> {
    argv.split_first().ok_or_else(|| Error::Program {
        program: "an empty command".to_owned(),
        problem: "names no program".to_owned(),
    })
}

/// A child that leads its own process group; the group is killed on drop unless the child was seen to end.
///
/// A program that ends by itself may leave others in the background: they are not ours to kill.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) child: Child,
    id: Option<Pid>,
}

/// The nice value of who yields most.
const LEAST_FAVOURED: &str = "19";

fn command_spawned(mut command: Command, program: &str) -> Result<Child> {
    command.spawn().map_err(|e| Error::Program {
        program: program.to_owned(),
        problem: format!("could not be started: {e}"),
    })
}

impl Group {
    pub(crate) fn spawn(mut command: Command, program: &str) -> Result<Self> {
        command.process_group(0);
        let child = command_spawned(command, program)?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Self { child, id })
    }

    /// As [`Group::spawn`], in a session of its own, and with only the processor and disk time that nobody else wants. Best effort: where
    /// the system forbids it, the program runs as others do.
    pub(crate) fn spawn_idle(mut command: Command, program: &str) -> Result<Self> {
        crate::before_exec::only_idle_time(command.as_std_mut());
        let command = Command::from(crate::before_exec::in_own_session(command.into_std()));
        let child = command_spawned(command, program)?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        if let Some(id) = id {
            // What the kernel shares out first is sessions (sched(7), "The autogroup feature"); a policy counts only within one.
            let _ = std::fs::write(format!("/proc/{id}/autogroup"), LEAST_FAVOURED);
        }
        Ok(Self { child, id })
    }

    /// Kills the group now.
    pub(crate) fn kill(&self) {
        if let Some(id) = self.id {
            let _ = killpg(id, Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Once the leader was reaped its id may be someone else's.
        if self.child.id().is_some() {
            self.kill();
        }
    }
}

/// A program that outlives the agent: own session, no pipe to the agent that could break.
#[derive(Debug)]
pub(crate) struct Detached {
    child: Child,
    program: String,
    /// What it writes goes to a nameless file: a pipe would kill it when the agent goes.
    output: File,
}

impl Detached {
    pub(crate) fn spawn(argv: &[String]) -> Result<Self> {
        Self::spawn_as(argv, None)
    }

    pub(crate) fn spawn_as(argv: &[String], user: Option<User>) -> Result<Self> {
        let (program, args) = split(argv)?;
        let problem = |e: io::Error| Error::Program {
            program: program.clone(),
            problem: format!("could not be started: {e}"),
        };
        let output = nameless_file().map_err(problem)?;
        let mut command = std::process::Command::new(program);
        // It is no part of the agent's service: what it would say there is not about the agent, and it needs all its arenas.
        command.env_remove("NOTIFY_SOCKET").env_remove("MALLOC_ARENA_MAX");
        command.args(args).stdin(Stdio::null());
        command.stdout(output.try_clone().map_err(problem)?).stderr(output.try_clone().map_err(problem)?);
        if let Some(user) = user {
            user.give_to(&mut command);
        }
        let child = Command::from(crate::before_exec::in_own_session(command)).spawn().map_err(problem)?;
        Ok(Self { child, program: program.clone(), output })
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub(crate) fn program(&self) -> &str {
        &self.program
    }

    /// The last line that it wrote, within the first 64 KiB.
    pub(crate) fn last_line(&mut self) -> String {
        let mut bytes = Vec::new();
        if self.output.rewind().is_err() || (&self.output).take(64 << 10).read_to_end(&mut bytes).is_err() {
            return String::new();
        }
        let text = String::from_utf8_lossy(&bytes);
        text.lines().rev().map(str::trim).find(|l| !l.is_empty()).unwrap_or_default().to_owned()
    }
}

/// A file for reading and appending that no other process finds.
fn nameless_file() -> io::Result<File> {
    nameless_file_in(&std::env::temp_dir()).or_else(|_| briefly_named_file_in(&std::env::temp_dir()))
}

fn nameless_file_in(dir: &Path) -> io::Result<File> {
    let flags = nix::fcntl::OFlag::O_TMPFILE.bits();
    OpenOptions::new().read(true).append(true).mode(0o600).custom_flags(flags).open(dir)
}

/// For file systems that know no nameless files: the overlay of a container below Linux 6.3, NFS.
fn briefly_named_file_in(dir: &Path) -> io::Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".oa-output-{}-{number}", std::process::id()));
        match OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&path) {
            // What a process of the same id has left before it could remove it.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            opened => {
                let file = opened?;
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
        }
    }
}

/// Reads to the end, keeps the first `limit` bytes.
pub(crate) async fn read_up_to(pipe: Option<impl AsyncRead + Unpin>, limit: usize) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut pipe) = pipe else { return kept };
    let mut buffer = vec![0; 8 << 10];
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        let room = limit.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..n.min(room)]);
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Instant;

    use super::*;

    #[test]
    fn output_is_kept_where_no_nameless_file_can_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = briefly_named_file_in(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it has no name any more");
        file.write_all(b"said").unwrap();
        file.rewind().unwrap();
        file.write_all(b" more").unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "said more");
    }

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[tokio::test]
    async fn output_is_bounded_and_the_program_still_ends() {
        let limits = Limits { output_bytes: 1_000, ..Limits::default() };
        let out = run(&argv(&["head", "-c", "5000000", "/dev/zero"]), &limits).await.unwrap();
        assert!(out.status.success());
        assert_eq!(out.stdout.len(), 1_000);
    }

    #[tokio::test]
    async fn a_hanging_program_is_killed_with_its_children() {
        let began = Instant::now();
        let limits = Limits { time: Duration::from_millis(300), ..Limits::default() };
        let marker = format!("{}.5", 86_000 + std::process::id() % 1_000);
        let script = format!("sleep {marker} & wait");
        let error = run(&argv(&["sh", "-c", &script]), &limits).await.unwrap_err();
        assert!(error.to_string().contains("limit of 300 ms"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(10));
        let gone = || {
            let out = std::process::Command::new("pgrep")
                .args(["-f", &format!("^sleep {marker}")])
                .output()
                .unwrap();
            out.stdout.is_empty()
        };
        while !gone() {
            assert!(began.elapsed() < Duration::from_secs(10), "the grandchild lives on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let error = run(&argv(&["/no/such/program"]), &Limits::default()).await.unwrap_err();
        assert!(error.to_string().contains("/no/such/program could not be started"), "{error}");
        assert!(run(&[], &Limits::default()).await.is_err());
    }

    #[tokio::test]
    async fn a_failure_tells_the_last_line() {
        let out = run(&argv(&["ls", "/no/such/file"]), &Limits::default()).await.unwrap();
        let error = out.success("ls").unwrap_err().to_string();
        assert!(error.contains("No such file"), "{error}");
    }
}
