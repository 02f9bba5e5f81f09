//! The programs that the end-to-end tests run: those of this work tree, and those of the release before.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};

/// Environment by which cargo tells a test where it is; build scripts that watch it would be built anew each time.
const TEST_ENVIRONMENT: [&str; 6] = [
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_CRATE_NAME",
    "CARGO_BIN_",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_TARGET_TMPDIR",
];

/// The programs that the end-to-end tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The daemon.
    Agent,
    /// The person's tool.
    Ctl,
}

impl Program {
    /// Where it is, built now if it is out of date; with `OA_PROGRAMS` in the environment, in that directory as it is.
    ///
    /// # Errors
    /// When it cannot be built, with the compiler's words.
    pub fn path(self) -> Result<PathBuf> {
        static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
        let directory = match DIRECTORY.get() {
            Some(directory) => directory,
            None => {
                let built = match std::env::var_os("OA_PROGRAMS") {
                    Some(directory) => directory.into(),
                    None => build()?,
                };
                DIRECTORY.get_or_init(|| built)
            }
        };
        Ok(self.within(directory))
    }

    /// Where it is in a directory of programs.
    #[must_use]
    pub fn within(self, directory: &Path) -> PathBuf {
        directory.join(match self {
            Self::Agent => "orchestrator-agent",
            Self::Ctl => "orchestrator-ctl",
        })
    }
}

/// What `scripts/release-before` keeps of the release that this one must work with: `bin` and `schemas`.
///
/// # Errors
/// When it is not there, with what makes it.
pub fn release_before() -> Result<PathBuf> {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/releases.toml");
    let list: toml::Table = fs::read_to_string(&list)?.parse()?;
    let last = list.get("release").and_then(|all| all.as_array()?.last()).context("no release is named")?;
    let version = last.get("version").and_then(toml::Value::as_str).context("a release has a version")?;
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3).context("the test lies in no target directory")?;
    let kept = target.join("releases").join(version);
    ensure!(kept.join("commit").exists(), "{} is not there: scripts/release-before makes it", kept.display());
    Ok(kept)
}

/// Builds both programs beside the test that runs, once per run of the tests.
fn build() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let directory = test.parent().and_then(Path::parent).context("the test lies in no target directory")?;
    let target = directory.parent().context("the test lies in no target directory")?;
    let profile = directory.file_name().and_then(|name| name.to_str()).context("a profile has a name")?;
    let stamp = target.join("oa-programs-of-run");
    let lock =
        OpenOptions::new().create(true).truncate(false).write(true).open(target.join("oa-programs.lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    // Under nextest each test is a process: the first one of a run builds, also for the others.
    let run = std::env::var("NEXTEST_RUN_ID").unwrap_or_default();
    if !run.is_empty() && fs::read_to_string(&stamp).is_ok_and(|last| last == run) {
        return Ok(directory.to_owned());
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // As `scripts/test` does it beforehand: another choice of packages would choose other features and build anew.
    cargo.args(["build", "--quiet", "--workspace", "--all-targets", "--target-dir"]);
    cargo.arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile != "debug" {
        cargo.args(["--profile", profile]);
    }
    for (name, _) in std::env::vars_os() {
        if TEST_ENVIRONMENT.iter().any(|start| name.to_string_lossy().starts_with(start)) {
            cargo.env_remove(name);
        }
    }
    let output = cargo.stdin(Stdio::null()).output().context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "the programs do not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::write(&stamp, run)?;
    Ok(directory.to_owned())
}
