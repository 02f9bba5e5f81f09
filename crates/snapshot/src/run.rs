//! Runs tools: no shell, nothing on standard input, bounded output, the whole process group killed when it hangs.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::Error;

/// More than 10,000 volumes print; what comes after it is read and dropped, so that the tool does not block.
const MAX_OUTPUT_BYTES: usize = 16 << 20;
/// A daemon that a tool started (dmeventd) may keep its pipes open for ever.
const PIPE_GRACE: Duration = Duration::from_secs(2);
/// Where the tools of every distribution are, also when the agent's own environment lacks the administrator's directories.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One call of a tool.
#[derive(Debug)]
pub(crate) struct Tool<'a> {
    /// Program and arguments.
    pub(crate) argv: &'a [String],
    /// Environment beside PATH and the C locale; nothing is inherited.
    pub(crate) environment: BTreeMap<String, String>,
    /// Time limit.
    pub(crate) limit: Duration,
}

/// What a tool printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    status: ExitStatus,
    /// Standard output.
    pub(crate) stdout: Vec<u8>,
    stderr: Vec<u8>,
    name: String,
}

impl Output {
    /// The exit code, unless a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The output of a tool that succeeded.
    pub(crate) fn success(self) -> Result<Self, Error> {
        if self.status.success() { Ok(self) } else { Err(self.failure()) }
    }

    /// The failure with the tool's own last line.
    pub(crate) fn failure(&self) -> Error {
        let status = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "unknown status".to_owned(),
        };
        Error::Tool { program: self.name.clone(), status, last_line: last_line(&self.stderr) }
    }
}

/// The last line that says something; `lvcreate` ends usage errors with a pointer to its help, which says nothing.
fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text
        .lines()
        .map(str::trim)
        .rfind(|l| !l.is_empty() && !l.starts_with("Run `"))
        .unwrap_or("it said nothing");
    line.chars().filter(|c| !c.is_control()).take(400).collect()
}

impl Tool<'_> {
    /// Runs it to its end. A failure status is not an error here: see [`Output::success`].
    pub(crate) fn run(self) -> Result<Output, Error> {
        let Some((program, arguments)) = self.argv.split_first() else {
            return Err(Error::ToolOutput {
                program: "(none)".to_owned(),
                detail: "the command is empty".to_owned(),
            });
        };
        let name = display_name(self.argv);
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("LC_ALL", "C")
            .env("LVM_SUPPRESS_FD_WARNINGS", "1")
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|source| Error::ToolStart { program: program.clone(), source })?;
        let stdout = drain(child.stdout.take());
        let stderr = drain(child.stderr.take());
        let status = wait(&mut child, self.limit)
            .map_err(|source| Error::ToolStart { program: program.clone(), source })?
            .ok_or_else(|| Error::ToolTimeout {
                program: name.clone(),
                limit_ms: u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX),
            })?;
        let collect = |pipe: Receiver<Vec<u8>>| pipe.recv_timeout(PIPE_GRACE).unwrap_or_default();
        let (stdout, stderr) = (collect(stdout), collect(stderr));
        tracing::debug!(tool = %name, status = ?status.code(), "ran");
        Ok(Output { status, stdout, stderr, name })
    }
}

/// Program and sub-command, without parameters that may be long.
fn display_name(argv: &[String]) -> String {
    let base = argv[0].rsplit('/').next().unwrap_or(&argv[0]);
    match argv.get(1).filter(|_| base == "btrfs") {
        Some(sub) => format!("{base} {sub}"),
        None => base.to_owned(),
    }
}

/// Reads a pipe to its end on a thread of its own, keeping the first [`MAX_OUTPUT_BYTES`].
fn drain<R: Read + Send + 'static>(pipe: Option<R>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    if let Some(mut pipe) = pipe {
        thread::spawn(move || {
            let mut kept = Vec::new();
            let mut buffer = [0_u8; 16 << 10];
            while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                let room = MAX_OUTPUT_BYTES.saturating_sub(kept.len());
                kept.extend_from_slice(&buffer[..n.min(room)]);
            }
            let _ = sender.send(kept);
        });
    }
    receiver
}

/// The status, or `None` after the limit: then the whole group has been killed and the child reaped.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            if let Ok(pid) = i32::try_from(child.id()) {
                let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            }
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Whether a program can be found where [`Tool::run`] looks for it.
pub(crate) fn is_installed(program: &str) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let executable = |path: std::path::PathBuf| {
        path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return executable(program.into());
    }
    SEARCH_PATH.split(':').any(|dir| executable(std::path::Path::new(dir).join(program)))
}

/// Arguments as owned text.
pub(crate) fn argv<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.iter().map(|&w| w.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str], limit: Duration) -> Result<Output, Error> {
        let argv: Vec<String> = words.iter().map(|&w| w.to_owned()).collect();
        Tool { argv: &argv, environment: BTreeMap::new(), limit }.run()
    }

    #[test]
    fn a_failure_carries_the_last_line_that_says_something() {
        let out = run(
            &["sh", "-c", "echo one >&2; echo ' two ' >&2; echo 'Run `x --help` now.' >&2; exit 5"],
            Duration::from_secs(20),
        );
        let error = out.unwrap().success().unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit status 5): two");
    }

    #[test]
    fn a_tool_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", mark.display());
        let started = Instant::now();
        let error = run(&["sh", "-c", &script], Duration::from_millis(500)).unwrap_err();
        assert!(matches!(error, Error::ToolTimeout { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
        let pid: i32 = std::fs::read_to_string(&mark).unwrap().trim().parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let gone =
            || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.contains(") Z "));
        while !gone() {
            assert!(Instant::now() < deadline, "the grandchild outlived the time limit");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn standard_input_is_empty_and_a_missing_program_is_named() {
        assert_eq!(run(&["cat"], Duration::from_secs(20)).unwrap().stdout, b"");
        let error = run(&["no-such-tool-here"], Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("no-such-tool-here"));
        assert!(is_installed("sh") && !is_installed("no-such-tool-here"));
    }

    #[test]
    fn a_daemon_that_keeps_the_pipe_open_does_not_block_the_caller() {
        let started = Instant::now();
        let out = run(&["sh", "-c", "setsid sleep 30 & echo done"], Duration::from_secs(25)).unwrap();
        assert!(out.status.success());
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
