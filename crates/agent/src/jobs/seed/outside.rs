//! Logs of the recipient that lie outside its datadir: they testify about the old data, and are set aside with them.
//!
//! A server finds such a log by its options, whatever datadir it starts on, and would take what is in it for its own history:
//! transactions that the new data have not would count as executed. The files move into a directory beside them, and back
//! when the seed is taken back.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use mysql::recover::files_of_log;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use protocol::error::WireError;
use protocol::ids::JobId;
use sys::dir::{Dir, Rights};

use crate::errors::system;

const PREFIX: &str = ".orch-seed-";

/// The logs of one recipient's server, and the seed that sets them aside.
#[derive(Debug, Clone)]
pub(super) struct Outside {
    job: JobId,
    bases: Vec<PathBuf>,
}

impl Outside {
    pub(super) fn new(job: JobId, bases: Vec<PathBuf>) -> Self {
        Self { job, bases }
    }

    /// Sets them aside, and puts `state` in the place of a log's; does what is left to do when it was cut in its middle.
    pub(super) fn set_aside(&self, state: Option<&(PathBuf, PathBuf)>) -> Result<(), WireError> {
        let logs = self.logs()?;
        for log in logs.iter().filter(|log| !log.is_complete()) {
            log.move_files(&log.aside).map_err(|e| log.failed("cannot be set aside", &e))?;
        }
        for log in logs.iter().filter(|log| log.has(&log.aside)) {
            log.complete().map_err(|e| log.failed("cannot be kept aside", &e))?;
        }
        let Some((from, to)) = state else { return Ok(()) };
        put_state(from, to).map_err(|e| system(format!("{} cannot be written", to.display()), &e))
    }

    /// Puts them back in the place of what the new server has written there, which is kept until [`Outside::remove`].
    pub(super) fn put_back(&self) -> Result<(), WireError> {
        let logs = self.logs()?;
        // Where not everything was set aside no new server has run.
        for log in logs.iter().filter(|log| log.is_complete()) {
            // From the removal of the mark on what lies in its place is old again, and a crash goes on with the moves.
            let put = log.move_files(&log.of_new).and_then(|()| log.begin_anew());
            put.map_err(|e| log.failed("cannot be put back", &e))?;
        }
        for log in logs.iter().filter(|log| log.has(&log.aside)) {
            log.restore(&log.aside).map_err(|e| log.failed("cannot be put back", &e))?;
        }
        Ok(())
    }

    /// Takes [`Outside::put_back`] back: the new server finds what it had written.
    pub(super) fn set_aside_again(&self) -> Result<(), WireError> {
        self.set_aside(None)?;
        for log in self.logs()?.iter().filter(|log| log.has(&log.of_new)) {
            log.restore(&log.of_new).map_err(|e| log.failed("cannot be used again", &e))?;
        }
        Ok(())
    }

    /// Removes what was set aside, of either server, once there is no way back.
    pub(super) fn remove(&self) -> Result<(), WireError> {
        for log in self.logs()? {
            for name in [&log.of_new, &log.aside] {
                log.directory.remove(name).map_err(|e| log.failed("cannot be removed", &e))?;
            }
        }
        Ok(())
    }

    /// Those whose directory is there.
    fn logs(&self) -> Result<Vec<Log>, WireError> {
        let logs = self.bases.iter().map(|base| Log::of(base, self.job));
        let open = |e: io::Error| system("the directory of a log cannot be opened".to_owned(), &e);
        logs.filter_map(|log| log.map_err(open).transpose()).collect()
    }
}

/// Marks that everything was set aside: from now on, what lies in its place is the new server's.
const COMPLETE: &str = ".complete";

/// A log in a directory that its server's user may write: all is done relative to that directory as it was opened, and follows
/// no link.
#[derive(Debug)]
struct Log {
    directory: Dir,
    base: String,
    /// Where its files wait.
    aside: PathBuf,
    /// Where the new server's wait while the old ones are in place.
    of_new: PathBuf,
}

impl Log {
    fn of(base: &Path, job: JobId) -> io::Result<Option<Self>> {
        let (Some(directory), Some(name)) = (base.parent(), base.file_name().and_then(OsStr::to_str)) else {
            return Ok(None);
        };
        let directory = match Dir::open(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            directory => directory?,
        };
        let aside = format!("{PREFIX}{job}.{name}");
        let of_new = format!("{aside}.new").into();
        Ok(Some(Self { directory, base: name.to_owned(), aside: aside.into(), of_new }))
    }

    fn failed(&self, what: &str, error: &io::Error) -> WireError {
        let place = self.directory.path().join(&self.base);
        system(format!("the log {} {what}", place.display()), error)
    }

    fn has(&self, name: &Path) -> bool {
        matches!(self.directory.metadata(name), Ok(Some(meta)) if meta.is_dir())
    }

    fn is_complete(&self) -> bool {
        matches!(self.directory.metadata(&self.aside.join(COMPLETE)), Ok(Some(meta)) if meta.is_file())
    }

    fn complete(&self) -> io::Result<()> {
        let aside = self.directory.dir(&self.aside)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT;
        aside.open_below(Path::new(COMPLETE), flags, Mode::S_IRUSR | Mode::S_IWUSR)?.sync_all()?;
        aside.sync()
    }

    fn begin_anew(&self) -> io::Result<()> {
        let aside = self.directory.dir(&self.aside)?;
        aside.remove(Path::new(COMPLETE))?;
        aside.sync()
    }

    /// Moves its files into a directory beside them, which is root's alone.
    fn move_files(&self, to: &Path) -> io::Result<()> {
        self.directory.make_dirs(to, Rights::own(0o700))?;
        let aside = self.directory.dir(to)?;
        if !aside.is_ours_alone()? {
            return Err(io::Error::other(format!("{} is another user's", aside.path().display())));
        }
        for name in files_of_log(&self.directory, &self.base).map_err(io::Error::other)? {
            self.directory.shift(Path::new(&name), &aside, Path::new(&name))?;
        }
        aside.sync()
    }

    fn restore(&self, from: &Path) -> io::Result<()> {
        let aside = self.directory.dir(from)?;
        for name in aside.names()? {
            aside.shift(Path::new(&name), &self.directory, Path::new(&name))?;
        }
        self.directory.sync()?;
        self.directory.remove_dir(from)
    }
}

/// Leaves the state of a log for the server that will write it. What the recovered data lack has none.
fn put_state(from: &Path, to: &Path) -> io::Result<()> {
    let opened = |path: &Path| match (path.parent(), path.file_name()) {
        (Some(directory), Some(name)) => Ok((Dir::open(directory)?, PathBuf::from(name))),
        _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    };
    let (ours, state) = opened(from)?;
    let Some(meta) = ours.metadata(&state)? else { return Ok(()) };
    let bytes = ours.read(&state, MAX_STATE_BYTES)?.unwrap_or_default();
    let (directory, name) = opened(to)?;
    directory.write(&name, &bytes, Rights { mode: 0o640, ..Rights::from(&meta) })
}

/// A line for each server that ever wrote into a domain.
const MAX_STATE_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn logs_elsewhere_go_aside_with_the_old_data_and_come_back_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path();
        let write = |name: &str, text: &str| fs::write(directory.join(name), text).unwrap();
        for name in ["binlog.000001", "binlog.index", "relay-log.000002", "error.log"] {
            write(name, "old");
        }
        let before = names(directory);
        let state = (directory.join("kept-state"), directory.join("binlog.state"));
        let outside =
            Outside::new(JobId::generate(), vec![directory.join("binlog"), directory.join("relay-log")]);
        fs::write(&state.0, "0-1-42\n").unwrap();
        for _ in 0..2 {
            outside.set_aside(Some(&state)).unwrap();
            let left: Vec<_> =
                names(directory).into_iter().filter(|name| !name.starts_with(".orch")).collect();
            assert_eq!(left, ["binlog.state", "error.log", "kept-state"]);
        }
        fs::remove_file(&state.0).unwrap();
        // The new server writes its own.
        write("binlog.000001", "new");
        write("binlog.000002", "new");
        let shown =
            || -> Vec<_> { names(directory).into_iter().filter(|name| !name.starts_with(".orch")).collect() };
        let text = || fs::read_to_string(directory.join("binlog.000001")).unwrap();
        for _ in 0..2 {
            outside.put_back().unwrap();
            assert_eq!((shown(), text().as_str()), (before.clone(), "old"));
        }
        // The old server does not start: the new one goes on where it was.
        for _ in 0..2 {
            outside.set_aside_again().unwrap();
            assert_eq!(
                (shown(), text().as_str()),
                (
                    vec![
                        "binlog.000001".into(),
                        "binlog.000002".into(),
                        "binlog.state".into(),
                        "error.log".into()
                    ],
                    "new"
                )
            );
        }
        outside.put_back().unwrap();
        outside.remove().unwrap();
        assert_eq!((names(directory), text().as_str()), (before, "old"));
    }
}
