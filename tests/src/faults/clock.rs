//! A clock of the test's own for agents and their servers, by libfaketime.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use testkit::agent::AgentOptions;

use crate::world::Configure;

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// The clock that libfaketime shows to both agents and their servers.
#[derive(Debug)]
pub struct Clock {
    dir: TempDir,
}

impl Clock {
    /// A clock that tells the true time; none, and said so, where the library is missing.
    ///
    /// # Panics
    /// When the disk refuses.
    #[must_use]
    pub fn new() -> Option<Self> {
        if !Path::new(LIBRARY).exists() {
            testkit::skip::lacking(format_args!("{LIBRARY} is missing (package libfaketime)"));
            return None;
        }
        let dir = tempfile::Builder::new().prefix("oa-clock-").tempdir().unwrap();
        // Servers run as another user and look at it too.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let clock = Self { dir };
        clock.show("+0");
        Some(clock)
    }

    /// Has agents, and what they start, look at this clock.
    #[must_use]
    pub fn configure(&self) -> Configure {
        let offset = self.path();
        Box::new(move |_, agent| show_to(agent, &offset))
    }

    /// Has one agent, and what it starts, look at this clock.
    pub fn show_to(&self, agent: &mut AgentOptions) {
        show_to(agent, &self.path());
    }

    /// Jumps by an offset from the true time, such as `+1d`, for the running processes.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn show(&self, offset: &str) {
        let half = self.dir.path().join("half");
        fs::write(&half, format!("{offset}\n")).unwrap();
        fs::set_permissions(&half, Permissions::from_mode(0o644)).unwrap();
        fs::rename(half, self.path()).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("offset")
    }
}

fn show_to(agent: &mut AgentOptions, offset: &Path) {
    // Only what tells the date jumps: the kernel's monotonic clock cannot.
    agent.env("LD_PRELOAD", LIBRARY).env("FAKETIME_TIMESTAMP_FILE", offset.display().to_string());
    agent.env("FAKETIME_NO_CACHE", "1").env("DONT_FAKE_MONOTONIC", "1");
}
