//! Logs of the recipient that lie outside its datadir: they testify about the old data, and are set aside with them.
//!
//! A server finds such a log by its options, whatever datadir it starts on, and would take what is in it for its own history:
//! transactions that the new data have not would count as executed. The files move into a directory beside them, and back
//! when the seed is taken back.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use job::crashsafe;
use mysql::recover::files_of_logs;
use protocol::error::WireError;
use protocol::ids::JobId;

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
        for base in &self.bases {
            let Some(aside) = self.aside(base).filter(|aside| !is_complete(aside)) else { continue };
            if base.parent().is_some_and(Path::exists) {
                let files = files_of_logs(std::slice::from_ref(base))?;
                move_all(&files, &aside)
                    .map_err(|e| system(format!("the log {} cannot be set aside", base.display()), &e))?;
            }
        }
        for base in &self.bases {
            if let Some(aside) = self.aside(base).filter(|aside| aside.exists()) {
                complete(&aside).map_err(|e| system(format!("{} cannot be kept", aside.display()), &e))?;
            }
        }
        match state {
            Some((from, to)) if from.exists() => {
                let put = || {
                    fs::copy(from, to)?;
                    let owner = fs::metadata(from)?;
                    chown(to, Some(owner.uid()), Some(owner.gid()))
                };
                put().map_err(|e| system(format!("{} cannot be written", to.display()), &e))
            }
            _ => Ok(()),
        }
    }

    /// Puts them back in the place of what the new server has written there, which is kept until [`Outside::remove`].
    pub(super) fn put_back(&self) -> Result<(), WireError> {
        let failed =
            |base: &Path, e: &io::Error| system(format!("the log {} cannot be put back", base.display()), e);
        for base in &self.bases {
            let Some(aside) = self.aside(base).filter(|aside| is_complete(aside)) else { continue };
            // Where not everything was set aside no new server has run.
            let files = files_of_logs(std::slice::from_ref(base))?;
            move_all(&files, &of_new(&aside)).map_err(|e| failed(base, &e))?;
            // From here on what lies in its place is old again, and a crash goes on with the moves.
            crashsafe::remove_file(&aside.join(COMPLETE))
                .map_err(|e| system(format!("{} cannot be used", aside.display()), &e))?;
        }
        for base in &self.bases {
            let (Some(aside), Some(directory)) = (self.aside(base), base.parent()) else { continue };
            if aside.exists() {
                restore(&aside, directory).map_err(|e| failed(base, &e))?;
            }
        }
        Ok(())
    }

    /// Takes [`Outside::put_back`] back: the new server finds what it had written.
    pub(super) fn set_aside_again(&self) -> Result<(), WireError> {
        self.set_aside(None)?;
        for base in &self.bases {
            let (Some(aside), Some(directory)) = (self.aside(base), base.parent()) else { continue };
            let of_new = of_new(&aside);
            if of_new.exists() {
                restore(&of_new, directory)
                    .map_err(|e| system(format!("the log {} cannot be used again", base.display()), &e))?;
            }
        }
        Ok(())
    }

    /// Removes what was set aside, of either server, once there is no way back.
    pub(super) fn remove(&self) -> Result<(), WireError> {
        let asides = self.bases.iter().filter_map(|base| self.aside(base));
        for aside in asides.flat_map(|aside| [of_new(&aside), aside]) {
            match fs::remove_dir_all(&aside) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(system(format!("{} cannot be removed", aside.display()), &e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn aside(&self, base: &Path) -> Option<PathBuf> {
        let name = base.file_name()?.to_string_lossy().into_owned();
        Some(base.parent()?.join(format!("{PREFIX}{}.{name}", self.job)))
    }
}

/// Marks that everything was set aside: from now on, what lies in its place is the new server's.
const COMPLETE: &str = ".complete";

/// Where the new server's logs wait while the old ones are in place.
fn of_new(aside: &Path) -> PathBuf {
    let mut name = aside.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn is_complete(aside: &Path) -> bool {
    aside.join(COMPLETE).exists()
}

fn complete(aside: &Path) -> io::Result<()> {
    fs::File::create(aside.join(COMPLETE))?.sync_all()?;
    fs::File::open(aside)?.sync_all()
}

fn move_all(files: &[PathBuf], aside: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(aside)?;
    for file in files {
        if let Some(name) = file.file_name() {
            fs::rename(file, aside.join(name))?;
        }
    }
    fs::File::open(aside)?.sync_all()
}

fn restore(aside: &Path, directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(aside)? {
        let entry = entry?;
        fs::rename(entry.path(), directory.join(entry.file_name()))?;
    }
    fs::File::open(directory)?.sync_all()?;
    fs::remove_dir(aside)
}

#[cfg(test)]
mod tests {
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
