//! Programs beside blocking threads.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use parking_lot::Mutex;

use super::kept::{End, Kept};
use super::output::last_words;
use super::{Error, LAST_LINES, LAST_WORDS_BYTES, Limits, Output, PIPE_GRACE, Program};

impl Program {
    /// As [`Program::run`], on a blocking thread.
    ///
    /// # Errors
    /// [`Error::NotStarted`], [`Error::Lost`] or [`Error::TimedOut`].
    pub fn run_blocking(&self, limits: &Limits) -> Result<Output, Error> {
        let mut running = self.start(Stdio::null(), Stdio::piped(), limits.output_bytes)?;
        let stdout = Heard::listen(running.child.stdout.take(), End::First, limits.output_bytes);
        let Some(status) = running.wait_for(limits.time)? else {
            return Err(Error::TimedOut { program: running.name.clone(), limit: limits.time });
        };
        let (stdout, stderr) = (stdout.take(), running.said.take());
        Ok(Output { status, stdout, stderr, program: running.name.clone() })
    }

    /// As [`Program::spawn`], on a blocking thread.
    ///
    /// # Errors
    /// [`Error::NotStarted`].
    pub fn spawn_blocking(&self, stdin: Stdio, stdout: Stdio) -> Result<Running, Error> {
        self.start(stdin, stdout, LAST_WORDS_BYTES)
    }

    fn start(&self, stdin: Stdio, stdout: Stdio, stderr_bytes: usize) -> Result<Running, Error> {
        let name = self.name();
        match self.leader(stdin, stdout).spawn() {
            Ok(mut child) => {
                let said = Heard::listen(child.stderr.take(), End::Last, stderr_bytes);
                Ok(Running { child, name, said })
            }
            Err(source) => Err(Error::NotStarted { program: name, source }),
        }
    }
}

/// A program at work, leader of its own process group, which is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
    said: Heard,
}

impl Running {
    /// Its process id, also after its end.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What errors call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its standard input, once, if it was asked for by [`Stdio::piped`].
    pub fn input(&mut self) -> Option<OwnedFd> {
        self.child.stdin.take().map(OwnedFd::from)
    }

    /// Its standard output, once, if it was asked for by [`Stdio::piped`].
    pub fn output(&mut self) -> Option<OwnedFd> {
        self.child.stdout.take().map(OwnedFd::from)
    }

    /// Whether it has ended; `Err` with its last words unless it succeeded.
    pub fn ended(&mut self) -> Option<Result<(), Error>> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(self.judge(status)),
            Err(source) => Some(Err(self.lost(source))),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`Error::Failed`] with its last words unless it succeeded, [`Error::Lost`].
    pub fn success(&mut self) -> Result<(), Error> {
        match self.child.wait() {
            Ok(status) => self.judge(status),
            Err(source) => Err(self.lost(source)),
        }
    }

    /// How it ended; absent when it has not within the limit.
    fn wait_for(&mut self, limit: Duration) -> Result<Option<ExitStatus>, Error> {
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_micros(500);
        loop {
            let ended = self.child.try_wait().map_err(|source| self.lost(source))?;
            if ended.is_some() || Instant::now() >= deadline {
                return Ok(ended);
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    fn judge(&mut self, status: ExitStatus) -> Result<(), Error> {
        if status.success() {
            return Ok(());
        }
        let last_words = last_words(&self.said.take(), &[], LAST_LINES);
        Err(Error::Failed { program: self.name.clone(), status, last_words })
    }

    fn lost(&self, source: std::io::Error) -> Error {
        Error::Lost { program: self.name.clone(), source }
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

/// A pipe that is read to its end on a thread of its own.
#[derive(Debug)]
struct Heard {
    kept: Arc<Mutex<Kept>>,
    end: Receiver<()>,
}

impl Heard {
    fn listen<R: Read + Send + 'static>(pipe: Option<R>, end: End, limit: usize) -> Self {
        let kept = Arc::new(Mutex::new(Kept::new(end, limit)));
        let (open, end) = mpsc::channel();
        if let Some(mut pipe) = pipe {
            let kept = Arc::clone(&kept);
            thread::spawn(move || {
                let _open: mpsc::Sender<()> = open;
                let mut buffer = [0_u8; 16 << 10];
                while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                    kept.lock().add(&buffer[..n]);
                }
            });
        }
        Self { kept, end }
    }

    /// What was kept once the pipe is at its end, or after the grace that a daemon is given.
    fn take(&self) -> Vec<u8> {
        let _ = self.end.recv_timeout(PIPE_GRACE);
        self.kept.lock().take()
    }
}
