//! Programs, always by argv: in a process group of their own that is killed as a whole, with bounded output, with a time limit,
//! and as the user that they are meant for.
//!
//! Nothing ties a child's life to that of the agent's process: Linux would tie it to the *thread* that started it. Who leaves
//! a server behind must find it again.

mod before_exec;
pub mod blocking;
mod detached;
mod kept;
mod output;
mod running;
mod user;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::Mode;

use self::before_exec::Become;
pub use self::detached::Detached;
pub use self::output::{Error, Output};
pub use self::running::Running;
pub use self::user::User;

/// Where the tools of every distribution are, also when the agent's own environment lacks the administrator's directories.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A daemon that a program started may keep its pipes open for ever.
const PIPE_GRACE: Duration = Duration::from_secs(2);
/// Kept of what a long-lived program says on standard error: the last bytes.
const LAST_WORDS_BYTES: usize = 8 << 10;
/// Shown of them in an error.
const LAST_LINES: usize = 5;

/// How far a program may go that is run to its end.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Its whole process group is killed after this long.
    pub time: Duration,
    /// The first bytes of standard output and the last ones of standard error are kept up to this many; the rest is read and dropped.
    pub output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: Duration::from_secs(30), output_bytes: 64 << 10 }
    }
}

/// A program and all that its process is to have.
///
/// It has the agent's environment and directory, unless something else is said. As another user it inherits no environment at all.
#[derive(Debug, Clone)]
pub struct Program {
    argv: Vec<OsString>,
    name: Option<String>,
    environment: Option<BTreeMap<OsString, OsString>>,
    directory: Option<PathBuf>,
    become_: Become,
}

impl Program {
    /// The program with that path, or of that name in the search path.
    #[must_use]
    pub fn new(program: impl Into<OsString>) -> Self {
        let argv = vec![program.into()];
        Self { argv, name: None, environment: None, directory: None, become_: Become::default() }
    }

    /// A whole argv as a configuration has it.
    ///
    /// # Errors
    /// [`Error::Empty`] when it names no program.
    pub fn from_argv<S: AsRef<OsStr>>(argv: &[S]) -> Result<Self, Error> {
        match argv.split_first() {
            Some((program, args)) if !program.as_ref().is_empty() => {
                Ok(Self::new(program.as_ref()).args(args))
            }
            _ => Err(Error::Empty),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.argv.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.argv.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// What errors call it, instead of its path.
    #[must_use]
    pub fn called(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// It inherits no environment: it has these variables, a search path and the C locale.
    #[must_use]
    pub fn only_environment<K, V>(mut self, variables: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        let mut all = bare_environment();
        all.extend(variables);
        self.environment = Some(all);
        self
    }

    /// Its working directory by path: resolved as the agent, so only for places that nobody else can change.
    #[must_use]
    pub fn directory(mut self, path: impl AsRef<Path>) -> Self {
        self.directory = Some(path.as_ref().to_owned());
        self
    }

    /// Its working directory by descriptor, whatever its path leads to by now.
    #[must_use]
    pub fn directory_fd(mut self, directory: OwnedFd) -> Self {
        self.become_.directory = Some(Arc::new(directory));
        self
    }

    /// Whose rights it has: its groups are set before its uid, and for anybody but root all capabilities and every way to new
    /// ones (set-uid programs, file capabilities) are gone.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.become_.user = Some(user);
        self
    }

    /// The permission bits that files of its making never have.
    #[must_use]
    pub fn umask(mut self, mask: u32) -> Self {
        self.become_.umask = Some(Mode::from_bits_truncate(mask));
        self
    }

    /// What errors call it.
    fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.argv[0].to_string_lossy().into_owned())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).stdin(Stdio::null());
        let bare = || self.become_.user.is_some().then(bare_environment);
        if let Some(variables) = self.environment.clone().or_else(bare) {
            command.env_clear().envs(variables);
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        self.become_.clone().apply_to(&mut command);
        command
    }

    /// The command of a child that leads its own group.
    fn leader(&self, stdin: Stdio, stdout: Stdio) -> Command {
        let mut command = self.command();
        command.stdin(stdin).stdout(stdout).stderr(Stdio::piped()).process_group(0);
        command
    }

    /// Whether there is such a program where a program without an inherited environment is looked for.
    #[must_use]
    pub fn is_installed(program: &str) -> bool {
        use std::os::unix::fs::PermissionsExt as _;
        let executable =
            |path: PathBuf| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
        if program.contains('/') {
            return executable(program.into());
        }
        SEARCH_PATH.split(':').any(|dir| executable(Path::new(dir).join(program)))
    }
}

fn bare_environment() -> BTreeMap<OsString, OsString> {
    [("PATH", SEARCH_PATH), ("LC_ALL", "C")].map(|(name, value)| (name.into(), value.into())).into()
}

#[cfg(test)]
mod tests;
