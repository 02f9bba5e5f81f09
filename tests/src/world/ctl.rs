//! orchestrator-ctl as a person runs it.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use testkit::agent::Program;
use tokio::process::Command;

use super::World;

/// What ctl said.
#[derive(Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Results.
    pub stdout: String,
    /// Remarks and errors.
    pub stderr: String,
}

impl World {
    /// Runs ctl to its end.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ctl(&self, arguments: &[&str]) -> Said {
        let output = tokio::time::timeout(self.patience, self.ctl_command(arguments).output());
        let output = output.await.unwrap_or_else(|_| panic!("ctl {arguments:?} does not end")).unwrap();
        Said {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// ctl with these arguments, not yet started.
    #[must_use]
    pub fn ctl_command(&self, arguments: &[&str]) -> Command {
        ctl_command(&self.nats.url(), arguments)
    }
}

/// ctl on a bus with these arguments, not yet started.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn ctl_command(url: &str, arguments: &[&str]) -> Command {
    ctl_at(&Program::Ctl.path().unwrap(), url, arguments)
}

/// As [`ctl_command`], with a program of another release.
#[must_use]
pub fn ctl_at(program: &Path, url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["--server", url, "--actor", "tester", "--yes"]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}
