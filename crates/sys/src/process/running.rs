//! Programs beside asynchronous code.

use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::kept::{End, Kept};
use super::output::last_words;
use super::{Error, LAST_LINES, LAST_WORDS_BYTES, Limits, Output, PIPE_GRACE, Program};

impl Program {
    /// Runs it to its end, without standard input. An exit code other than 0 is no error: see [`Output::success`].
    ///
    /// # Errors
    /// [`Error::NotStarted`], [`Error::Lost`] or [`Error::TimedOut`].
    pub async fn run(&self, limits: &Limits) -> Result<Output, Error> {
        let mut group = Group::spawn(self.leader(Stdio::null(), Stdio::piped()).into(), self.name())?;
        let stdout = Mutex::new(Kept::new(End::First, limits.output_bytes));
        let stderr = Mutex::new(Kept::new(End::Last, limits.output_bytes));
        let pipes = (group.child.stdout.take(), group.child.stderr.take());
        let status = {
            let mut reading = pin!(async { tokio::join!(drain(pipes.0, &stdout), drain(pipes.1, &stderr)) });
            let ended = timeout(limits.time, async {
                tokio::select! {
                    status = group.child.wait() => {
                        let _ = timeout(PIPE_GRACE, &mut reading).await;
                        status
                    }
                    _ = &mut reading => group.child.wait().await,
                }
            });
            ended.await
        };
        match status {
            Ok(Ok(status)) => {
                let (stdout, stderr) = (stdout.lock().take(), stderr.lock().take());
                Ok(Output { status, stdout, stderr, program: group.name.clone() })
            }
            Ok(Err(source)) => Err(Error::Lost { program: group.name.clone(), source }),
            Err(_) => Err(Error::TimedOut { program: group.name.clone(), limit: limits.time }),
        }
    }

    /// Starts it with these ends of pipes. It is killed with its whole group when the result is dropped.
    ///
    /// # Errors
    /// [`Error::NotStarted`].
    pub fn spawn(&self, stdin: Stdio, stdout: Stdio) -> Result<Running, Error> {
        let mut group = Group::spawn(self.leader(stdin, stdout).into(), self.name())?;
        let said = Arc::new(Mutex::new(Kept::new(End::Last, LAST_WORDS_BYTES)));
        let (stderr, kept) = (group.child.stderr.take(), Arc::clone(&said));
        let listener = tokio::spawn(async move { drain(stderr, &kept).await });
        Ok(Running { group, said, listener })
    }
}

/// A program at work, leader of its own process group, which is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    group: Group,
    said: Arc<Mutex<Kept>>,
    listener: JoinHandle<()>,
}

impl Running {
    /// Its process id, until its end was seen.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.group.child.id()
    }

    /// What errors call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.group.name
    }

    /// Its standard input, once, if it was asked for by [`Stdio::piped`].
    pub fn input(&mut self) -> Option<ChildStdin> {
        self.group.child.stdin.take()
    }

    /// Its standard output, once, if it was asked for by [`Stdio::piped`].
    pub fn output(&mut self) -> Option<ChildStdout> {
        self.group.child.stdout.take()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.group.child.try_wait().ok().flatten()
    }

    /// Waits for its end, whatever that is. May be dropped and called again.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn wait(&mut self) -> Result<ExitStatus, Error> {
        let status = self.group.child.wait().await;
        status.map_err(|source| Error::Lost { program: self.group.name.clone(), source })
    }

    /// Waits for its end. May be dropped and called again.
    ///
    /// # Errors
    /// [`Error::Failed`] with its last words unless it succeeded, [`Error::Lost`].
    pub async fn success(&mut self) -> Result<(), Error> {
        let status = self.wait().await?;
        if status.success() {
            return Ok(());
        }
        if !self.listener.is_finished() {
            let _ = timeout(PIPE_GRACE, &mut self.listener).await;
        }
        let last_words = last_words(&self.said.lock().take(), &[], LAST_LINES);
        Err(Error::Failed { program: self.group.name.clone(), status, last_words })
    }

    /// The failure of a program that runs on and does not do what it should: `problem` follows its name.
    #[must_use]
    pub fn misbehaved(&self, problem: impl Into<String>) -> Error {
        Error::Misbehaved { program: self.group.name.clone(), problem: problem.into() }
    }

    /// Asks the program itself, not its children, to end.
    pub fn terminate(&self) {
        if let Some(id) = self.group.leader() {
            let _ = kill(id, Signal::SIGTERM);
        }
    }

    /// Kills it with its whole group.
    pub fn kill(&self) {
        self.group.kill();
    }
}

/// A child that leads its own process group; the group is killed on drop unless the child was seen to end.
///
/// A program that ends by itself may leave others in the background: they are not ours to kill.
#[derive(Debug)]
struct Group {
    child: Child,
    name: String,
}

impl Group {
    fn spawn(mut command: Command, name: String) -> Result<Self, Error> {
        match command.spawn() {
            Ok(child) => Ok(Self { child, name }),
            Err(source) => Err(Error::NotStarted { program: name, source }),
        }
    }

    /// Absent once the leader was reaped: its id may be someone else's by then.
    fn leader(&self) -> Option<Pid> {
        self.child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
    }

    fn kill(&self) {
        if let Some(id) = self.leader() {
            let _ = killpg(id, Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn drain(pipe: Option<impl AsyncRead + Unpin>, kept: &Mutex<Kept>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        kept.lock().add(&buffer[..n]);
    }
}
