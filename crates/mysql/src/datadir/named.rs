//! Directories below the datadir that options name for files of the server itself: a copy of another host's data lacks them,
//! and a server without them does not start.

use std::path::{Component, Path, PathBuf};

use sys::dir::{Dir, Rights};

use crate::error::{Error, Result};
use crate::settings::Settings;

/// Options that name a directory, several of them with `:` between.
const DIRECTORIES: [&str; 3] = ["tmpdir", "innodb-tmpdir", "slave-load-tmpdir"];
/// Options that name a file or the beginning of its name.
const FILES: [&str; 9] = [
    "log-bin",
    "log-bin-index",
    "relay-log",
    "relay-log-index",
    "log-error",
    "pid-file",
    "socket",
    "slow-query-log-file",
    "general-log-file",
];

/// Those directories, relative to the datadir.
#[must_use]
pub fn named_directories(settings: &Settings) -> Vec<PathBuf> {
    let options = &settings.options;
    let directories =
        DIRECTORIES.iter().filter_map(|name| options.get(name)).flat_map(|value| value.split(':'));
    let files = FILES.iter().filter_map(|name| Path::new(options.get(name)?).parent()?.to_str());
    let mut found: Vec<PathBuf> = directories
        .chain(files)
        .filter(|path| !path.is_empty())
        .filter_map(|path| below(settings, Path::new(path)))
        .collect();
    found.sort();
    found.dedup();
    found
}

fn below(settings: &Settings, path: &Path) -> Option<PathBuf> {
    let datadir = settings.datadir.as_deref()?;
    let resolved = settings.resolve(path);
    // A datadir by way of a link is written in options as people know it.
    let relative = match resolved.strip_prefix(datadir) {
        Ok(relative) => relative.to_owned(),
        Err(_) => {
            let written = settings.resolve(&settings.options.path("datadir")?);
            resolved.strip_prefix(written).ok()?.to_owned()
        }
    };
    let relative: PathBuf = relative.components().filter(|part| *part != Component::CurDir).collect();
    let is_plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    (is_plain && !relative.as_os_str().is_empty()).then_some(relative)
}

/// Makes those that are missing below `root`. Their owner is set with that of everything there.
///
/// # Errors
/// [`Error::Io`].
pub fn make_directories(root: &Path, relative: &[PathBuf]) -> Result<()> {
    let dir = Dir::open(root).map_err(Error::io("open", root))?;
    for path in relative {
        dir.make_dirs(path, Rights::own(0o750)).map_err(Error::io("create", root.join(path)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::OptionFiles;

    #[test]
    fn only_directories_below_the_datadir_are_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines = "[mysqld]\ntmpdir=/data/tmp:/tmp\nlog-bin=binlog/mysql-bin\nlog-error=/data/log/error.log\n\
                     pid-file=/run/mysqld.pid\nrelay-log=relay-bin\nslow-query-log-file=./slow.log\nsocket=/data/../s\n";
        std::fs::write(file.path(), lines).unwrap();
        let options = OptionFiles::load_file(file.path()).unwrap().effective(&["mysqld"]);
        let settings =
            Settings { datadir: Some("/data".into()), root: "/".into(), options, ..Settings::default() };
        let named = named_directories(&settings);
        assert_eq!(named, ["binlog", "log", "tmp"].map(PathBuf::from));
        let root = tempfile::tempdir().unwrap();
        make_directories(root.path(), &named).unwrap();
        make_directories(root.path(), &named).unwrap();
        assert!(root.path().join("binlog").is_dir());
    }
}
