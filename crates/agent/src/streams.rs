//! Programs that make a stream of the data and unpack it again, so that a host without snapshots can give a seed.
//!
//! `mariabackup` and `xtrabackup` are known by themselves; any other pair is configured. Argv lists only: their placeholders are
//! whole paths of the agent's own making.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use mysql::backup::Giver;
use mysql::fence::Fence;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use protocol::error::{ErrorCode, WireError};
use protocol::ids::JobId;

use crate::config::StreamConfig;
use crate::host::Host;

/// Lines kept of what a program says, and bytes of each.
const TAIL_LINES: usize = 5;
const LINE_BYTES: u64 = 512;

/// The stream of that name, configured or known by itself.
pub(crate) fn find(host: &Host, name: &str) -> Result<StreamConfig, WireError> {
    if let Some(configured) = host.config.seed.streams.get(name) {
        return Ok(configured.clone());
    }
    built_in(name).ok_or_else(|| {
        WireError::new(
            ErrorCode::NotFound,
            format!("{} knows no stream {name:?}: configure [seed.streams.{name}], or name mariabackup or xtrabackup", host.id),
        )
    })
}

fn built_in(name: &str) -> Option<StreamConfig> {
    let unpack = match name {
        "mariabackup" => "mbstream",
        "xtrabackup" => "xbstream",
        _ => return None,
    };
    let argv = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Some(StreamConfig {
        give: argv(&[
            name,
            "--defaults-file={option_file}",
            "--backup",
            "--stream=xbstream",
            "--target-dir={temporary}",
            "--tmpdir={temporary}",
            "--socket={socket}",
        ]),
        give_as_agent: false,
        take: argv(&[unpack, "-x", "-C", "{staging}"]),
        prepare: argv(&[name, "--prepare", "--target-dir={staging}"]),
    })
}

/// An argv with its placeholders filled in; those that are not known here stay as they are, and are refused.
pub(crate) fn fill(argv: &[String], places: &[(&str, &Path)]) -> Result<Vec<String>, WireError> {
    let filled: Vec<String> = argv
        .iter()
        .map(|word| {
            places.iter().fold(word.clone(), |word, (name, path)| {
                word.replace(&format!("{{{name}}}"), &path.to_string_lossy())
            })
        })
        .collect();
    match filled.first() {
        Some(program) if !program.is_empty() => Ok(filled),
        _ => Err(WireError::new(
            ErrorCode::MissingCapability,
            "the stream's configuration names no program for this end",
        )),
    }
}

/// A program of the donor's, ready to be started.
pub(crate) struct Donor {
    argv: Vec<String>,
    fence: Fence,
}

/// Makes the place of the donor's program, with what it logs in by, and fills in its argv.
pub(crate) async fn donor(host: &Host, job: JobId, name: &str) -> Result<Donor, WireError> {
    let stream = find(host, name)?;
    let logs_in = stream.give.iter().any(|word| word.contains("{option_file}"));
    let place = Giver::prepare(&host.instance, &donor_dir(host, job), logs_in, stream.give_as_agent).await?;
    let argv = fill(
        &stream.give,
        &[
            ("option_file", &place.option_file),
            ("socket", &place.socket),
            ("datadir", &place.datadir),
            ("temporary", &place.temporary),
        ],
    )?;
    if place.fence.user.is_none() && !stream.give_as_agent && nix::unistd::Uid::effective().is_root() {
        tracing::warn!(
            program = argv[0],
            "it runs as root, since the agent's account has no password that it could log in with as another user"
        );
    }
    Ok(Donor { argv, fence: place.fence })
}

/// Where a stream's program on the donor keeps what it needs; removed with the offer. Its user gets through to it, and not through the
/// state directory.
pub(crate) fn donor_dir(host: &Host, job: JobId) -> PathBuf {
    host.private_root().join(format!("give-{job}"))
}

/// A program at work, leader of its own process group, which is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    name: String,
    said: Arc<Mutex<VecDeque<String>>>,
    listener: Option<JoinHandle<()>>,
}

/// A program that writes a stream.
pub(crate) struct Giving {
    running: Running,
    output: OwnedFd,
}

impl Giving {
    /// Starts it.
    pub(crate) fn start(donor: &Donor) -> Result<Self, String> {
        let mut running = Running::start(&donor.argv, Stdio::null(), Stdio::piped(), Some(&donor.fence))?;
        let output = running.child.stdout.take().map(OwnedFd::from);
        let output = output.ok_or_else(|| format!("{} has no standard output", running.name))?;
        Ok(Self { running, output })
    }
}

impl Running {
    /// Starts it with these ends of pipes, behind a fence if need be; what it says on standard error is kept, the last lines of it.
    pub(crate) fn start(
        argv: &[String],
        stdin: Stdio,
        stdout: Stdio,
        fence: Option<&Fence>,
    ) -> Result<Self, String> {
        let (name, arguments) = argv.split_first().ok_or("an empty command")?;
        let mut command = Command::new(name);
        command.args(arguments).stdin(stdin).stdout(stdout).stderr(Stdio::piped()).process_group(0);
        if let Some(fence) = fence
            && !fence.put_around(&mut command)
        {
            tracing::warn!(program = %name, "this kernel has no Landlock: the program is kept in by its user's rights alone");
        }
        let mut child = command.spawn().map_err(|e| format!("{name} cannot be started: {e}"))?;
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&said);
        let listener = child.stderr.take().map(|stderr| std::thread::spawn(move || listen(stderr, &kept)));
        Ok(Self { child, name: name.clone(), said, listener })
    }

    /// Its standard input, once.
    pub(crate) fn input(&mut self) -> Option<OwnedFd> {
        self.child.stdin.take().map(OwnedFd::from)
    }

    /// Whether it has ended; `Err` with its last words unless it succeeded.
    pub(crate) fn ended(&mut self) -> Option<Result<(), String>> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(self.judge(status)),
            Err(error) => Some(Err(format!("{} cannot be waited for: {error}", self.name))),
        }
    }

    /// Waits for its end; `Err` with its last words unless it succeeded.
    pub(crate) fn wait(&mut self) -> Result<(), String> {
        match self.child.wait() {
            Ok(status) => self.judge(status),
            Err(error) => Err(format!("{} cannot be waited for: {error}", self.name)),
        }
    }

    fn judge(&mut self, status: std::process::ExitStatus) -> Result<(), String> {
        if status.success() {
            return Ok(());
        }
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let words: Vec<&str> = said.iter().map(String::as_str).collect();
        Err(format!("{} ended with {status}: {}", self.name, words.join(" | ")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It leads its group, and it was not reaped: the id is still its own.
            let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

impl transfer::stream::Program for Giving {
    fn output(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    fn finish(&mut self) -> Result<(), String> {
        self.running.wait()
    }
}

fn listen(stderr: impl std::io::Read, said: &Mutex<VecDeque<String>>) {
    let mut reader = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if !line.is_empty() {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            said.push_back(line);
            if said.len() > TAIL_LINES {
                said.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn placeholders_become_paths_and_no_program_is_an_error() {
        let filled =
            fill(&argv(&["tar", "-C", "{staging}", "--x={staging}/y"]), &[("staging", Path::new("/new"))]);
        assert_eq!(filled.unwrap(), ["tar", "-C", "/new", "--x=/new/y"]);
        assert!(fill(&[], &[]).is_err());
    }

    #[test]
    fn a_programs_last_words_are_its_failure() {
        let script = "for n in 1 2 3 4 5 6 7; do echo line $n >&2; done; exit 3";
        let mut running =
            Running::start(&argv(&["sh", "-c", script]), Stdio::null(), Stdio::null(), None).unwrap();
        let error = running.wait().unwrap_err();
        assert!(
            error.contains("exit status: 3") && error.contains("line 7") && !error.contains("line 1"),
            "{error}"
        );
        assert!(Running::start(&argv(&["/no/such/program"]), Stdio::null(), Stdio::null(), None).is_err());
    }

    #[test]
    fn a_dropped_program_is_gone_with_its_children() {
        let running =
            Running::start(&argv(&["sh", "-c", "sleep 4321 & wait"]), Stdio::null(), Stdio::null(), None)
                .unwrap();
        let group = Pid::from_raw(running.child.id().cast_signed());
        drop(running);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while killpg(group, None).is_ok() {
            assert!(std::time::Instant::now() < deadline, "the group lives on");
            std::thread::yield_now();
        }
    }
}
