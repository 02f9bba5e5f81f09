//! Programs that outlive the agent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::process::{Child, Command};

use super::output::last_words;
use super::{Error, Program};

/// Looked at of what it wrote: the first bytes.
const OUTPUT_BYTES: u64 = 64 << 10;

/// A program that outlives the agent: own session, no pipe to the agent that could break.
#[derive(Debug)]
pub struct Detached {
    child: Child,
    name: String,
    /// What it writes goes to a nameless file: a pipe would kill it when the agent goes.
    output: File,
}

impl Program {
    /// Starts it so that it outlives the agent and its terminal.
    ///
    /// # Errors
    /// [`Error::NotStarted`].
    pub fn detach(&self) -> Result<Detached, Error> {
        let mut program = self.clone();
        program.become_.session = true;
        let name = self.name();
        let started = || -> io::Result<(Child, File)> {
            let output = nameless_file()?;
            let mut command = program.command();
            command.stdout(output.try_clone()?).stderr(output.try_clone()?);
            Ok((Command::from(command).spawn()?, output))
        };
        match started() {
            Ok((child, output)) => Ok(Detached { child, name, output }),
            Err(source) => Err(Error::NotStarted { program: name, source }),
        }
    }
}

impl Detached {
    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// What errors call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The last line that it wrote, within the first 64 KiB.
    pub fn last_line(&mut self) -> String {
        let mut said = Vec::new();
        let _ = self.output.rewind().and_then(|()| (&self.output).take(OUTPUT_BYTES).read_to_end(&mut said));
        last_words(&said, &[], 1)
    }
}

/// A file for reading and appending that no other process finds.
fn nameless_file() -> io::Result<File> {
    let dir = std::env::temp_dir();
    let flags = nix::fcntl::OFlag::O_TMPFILE.bits();
    let nameless = OpenOptions::new().read(true).append(true).mode(0o600).custom_flags(flags).open(&dir);
    nameless.or_else(|_| briefly_named_file_in(&dir))
}

/// For file systems that know no nameless files: the overlay of a container below Linux 6.3, NFS.
pub(super) fn briefly_named_file_in(dir: &Path) -> io::Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".oa-output-{}-{number}", std::process::id()));
        match OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&path) {
            // What a process of the same id has left before it could remove it.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            opened => {
                let file = opened?;
                fs::remove_file(&path)?;
                return Ok(file);
            }
        }
    }
}
