//! What is known of the instance without asking it: configuration, its process, its option files, joined by rank.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use protocol::mysql::{Flavor, Layout, ServerVersion};

use crate::config::{MysqlConfig, ServiceConfig};
use crate::errorlog::LogFile;
use crate::find::{self, Occupant};
use crate::options::{OptionFiles, Options, server_groups};
use crate::process::User;

/// Datadir of both vendors' packages.
const DEFAULT_DATADIR: &str = "/var/lib/mysql";
/// Sockets that the packages of Debian, RHEL and the vendors use, tried in order.
const DEFAULT_SOCKETS: [&str; 4] = [
    "/run/mysqld/mysqld.sock",
    "/var/run/mysqld/mysqld.sock",
    "/var/lib/mysql/mysql.sock",
    "/tmp/mysql.sock",
];
/// Options of the plugins that hold keys, by how their names begin.
const KEY_OPTIONS: [&str; 8] = [
    "plugin-load",
    "early-plugin-load",
    "plugin-dir",
    "file-key-management",
    "hashicorp-key-management",
    "aws-key-management",
    "keyring",
    "innodb-encryption-threads",
];
/// Options by which a server reads the files of a datadir, or by which it makes them anew at its start.
const FORMAT_OPTIONS: [&str; 17] = [
    "innodb-page-size",
    "innodb-data-file-path",
    "innodb-temp-data-file-path",
    "innodb-log-file-size",
    "innodb-log-files-in-group",
    "innodb-redo-log-capacity",
    "innodb-undo-tablespaces",
    "innodb-checksum-algorithm",
    "innodb-doublewrite",
    "innodb-flush-method",
    "innodb-use-native-aio",
    "innodb-compression-algorithm",
    "lower-case-table-names",
    "aria-block-size",
    "aria-log-file-size",
    "character-set-server",
    "collation-server",
];
/// Options of directories that a seed carries below the datadir.
const DATA_DIRS: [&str; 3] = ["innodb-data-home-dir", "innodb-log-group-home-dir", "innodb-undo-directory"];
/// Port of both vendors.
const DEFAULT_PORT: u16 = 3306;

/// Where an instance keeps its things. Paths are as seen from this process, absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Data directory.
    pub datadir: Option<PathBuf>,
    /// Unix socket.
    pub socket: Option<PathBuf>,
    /// TCP port; absent with `skip-networking`.
    pub port: Option<u16>,
    /// Error log file; absent when it goes to stderr or the journal.
    pub error_log: Option<PathBuf>,
    /// Pid file.
    pub pid_file: Option<PathBuf>,
    /// Vendor, as far as the binary tells.
    pub flavor: Option<Flavor>,
    /// Server binary.
    pub binary: Option<PathBuf>,
    /// Version of that binary.
    pub version: Option<ServerVersion>,
    /// Root directory that the server's own paths start at; `/` unless it runs in a chroot.
    pub root: PathBuf,
    /// Pid of the server that was proven to work on the datadir.
    pub pid: Option<i32>,
    /// A process that may be about to work on it: it is watched, and nothing that it says is believed.
    pub starting: Option<i32>,
    /// User id of the datadir's owner; absent where it cannot be looked at.
    pub owner: Option<u32>,
    /// The options in force.
    pub options: Options,
}

impl Settings {
    /// Gathers what can be known now. Blocking, but only small files and `/proc`.
    pub(crate) fn gather(config: &MysqlConfig, version: Option<&ServerVersion>) -> Self {
        let mut files = OptionFiles::load(config.defaults_file.as_deref());
        let mut options = effective(config, &files, version);
        let named = config.datadir.clone().or_else(|| options.path("datadir"));
        let mut datadir = named.unwrap_or_else(|| PathBuf::from(DEFAULT_DATADIR));
        let is_pinned = config.datadir.is_some()
            || config.defaults_file.is_some()
            || config.defaults_group_suffix.is_some()
            || config.socket.is_some()
            || config.port.is_some();
        let mut occupant = find::occupant(&datadir);
        if occupant.server.is_none() && !is_pinned && !crate::datadir::looks_like_datadir(&datadir) {
            // Nothing on this host says where the data are, but one server of the system runs: it is the one that is meant.
            if let Some(only) = find::only_system_server() {
                occupant = find::occupant(&only);
                datadir = only;
            }
        }
        if let Some(process) = &occupant.server {
            let defaults_file = process.arg("defaults-file").map(PathBuf::from);
            if config.defaults_file.is_none() {
                files = if process.args.iter().any(|a| a == "--no-defaults") {
                    OptionFiles::default()
                } else {
                    OptionFiles::load_under(&process.root, defaults_file.as_deref())
                };
                options = effective(config, &files, version);
            }
            options.add_command_line(process.args.iter().skip(1).map(String::as_str));
        }
        Self::join(config, &occupant, options, datadir, version)
    }

    fn join(
        config: &MysqlConfig,
        occupant: &Occupant,
        options: Options,
        datadir: PathBuf,
        version: Option<&ServerVersion>,
    ) -> Self {
        let process = occupant.server.as_ref();
        // What a process runs is run only where nobody but root could have put it; another one may not be of its version.
        let installed = || match process.and_then(|p| p.binary.clone()) {
            Some(binary) => Some(binary).filter(|binary| find::is_trusted_program(binary)),
            None => find::binary(),
        };
        let binary = config.server_binary.clone().or_else(installed);
        let datadir = std::fs::canonicalize(&datadir).unwrap_or(datadir);
        let mut settings = Self {
            root: process.map_or_else(|| PathBuf::from("/"), |p| p.root.clone()),
            pid: process.map(|p| p.pid),
            starting: occupant.starting,
            owner: std::fs::metadata(&datadir).ok().map(|meta| meta.uid()),
            flavor: version.map(|v| v.flavor).or_else(|| binary.as_deref().and_then(flavor_of)),
            binary,
            version: version.cloned(),
            datadir: Some(datadir),
            ..Self::default()
        };
        let offline = options.is_on("skip-networking") == Some(true);
        let port = options.get("port").and_then(|p| p.parse().ok()).filter(|p| *p != 0);
        settings.port = config.port.or(if offline { None } else { port.or(Some(DEFAULT_PORT)) });
        settings.socket =
            config.socket.clone().or_else(|| options.path("socket").map(|p| settings.resolve(&p)));
        if settings.socket.is_none() {
            let defaults = DEFAULT_SOCKETS.iter().map(|s| settings.resolve(Path::new(s)));
            settings.socket = defaults.into_iter().find(|s| s.exists());
        }
        settings.pid_file = options.path("pid-file").map(|p| settings.resolve(&p));
        settings.options = options;
        settings.error_log = config.error_log.clone().or_else(|| settings.error_log_option());
        settings
    }

    /// Its error log file, to be read as one that the server's user writes.
    pub(crate) fn log_file(&self) -> Option<LogFile> {
        Some(LogFile::of(self.error_log.clone()?, self.owner?))
    }

    /// The process to watch: the server, or what may be about to be it.
    pub(crate) fn watched(&self) -> Option<i32> {
        self.pid.or(self.starting)
    }

    /// Whom to run a program as that works on the data or on bytes of others; `None` where there is nothing to give up.
    pub(crate) fn data_user(&self) -> Option<User> {
        User::owner_of(&std::fs::metadata(self.datadir.as_deref()?).ok()?)
    }

    /// `log-error` with a name, or without one (a file of the default name); absent, it goes to stderr.
    fn error_log_option(&self) -> Option<PathBuf> {
        let name = self.options.get("log-error")?;
        let mut path = match name {
            "" => PathBuf::from(format!("{}.err", self.hostname_base())),
            // `skip-log-error` switches the file off.
            "stderr" | "0" => return None,
            name => PathBuf::from(name),
        };
        // The servers add a suffix where there is none.
        if path.extension().is_none() {
            path.set_extension("err");
        }
        Some(self.resolve(&path))
    }

    /// A path that the server names: relative to the datadir, and below the server's root.
    #[must_use]
    pub fn resolve(&self, path: &Path) -> PathBuf {
        match path.strip_prefix("/") {
            Ok(rest) => self.root.join(rest),
            Err(_) => self.datadir.clone().unwrap_or_default().join(path),
        }
    }

    /// The file layout that the options say; the servers' defaults where they say nothing.
    #[must_use]
    pub fn layout(&self) -> Layout {
        let dir = |name: &str| {
            self.options.path(name).map(|p| self.resolve(&p)).filter(|p| Some(p) != self.datadir.as_ref())
        };
        Layout {
            innodb_page_size: self.options.get("innodb-page-size").and_then(parse_size).unwrap_or(16 << 10),
            lower_case_table_names: self
                .options
                .get("lower-case-table-names")
                .and_then(|v| v.parse().ok())
                .unwrap_or(0),
            innodb_data_file_path: self.options.get("innodb-data-file-path").map(str::to_owned),
            innodb_data_home_dir: dir("innodb-data-home-dir"),
            innodb_log_group_home_dir: dir("innodb-log-group-home-dir"),
            innodb_undo_directory: dir("innodb-undo-directory"),
            log_bin: self.log_bin(),
            further_dirs: Layout::FURTHER_DIRS
                .iter()
                .filter_map(|name| dir(&name.replace('_', "-")))
                .filter(|path| self.datadir.as_ref().is_none_or(|datadir| !path.starts_with(datadir)))
                .collect(),
        }
    }

    /// The options that give a server the keys of encrypted tablespaces, as arguments for a private server on a copy.
    #[must_use]
    pub fn key_arguments(&self) -> Vec<String> {
        let is_about_keys = |name: &str| KEY_OPTIONS.iter().any(|prefix| name.starts_with(prefix));
        let options = self.options.iter().filter(|(name, _)| is_about_keys(name));
        options
            .map(|(name, value)| {
                value.map_or_else(|| format!("--{name}"), |value| format!("--{name}={value}"))
            })
            .collect()
    }

    /// What a private server must be told to run on this server's data, which lie in `place` for now: how its files are made,
    /// where they are, and what gives it their keys. An option that only some versions know is `loose-`.
    #[must_use]
    pub fn format_arguments(&self, place: &Path) -> Vec<String> {
        let value_of = |name: &str| self.options.get(name).filter(|value| !value.is_empty());
        let mut arguments = Vec::new();
        for name in FORMAT_OPTIONS {
            arguments.extend(value_of(name).map(|value| format!("--loose-{name}={value}")));
        }
        for name in DATA_DIRS {
            let path = value_of(name).map(|value| self.resolve(Path::new(value)));
            let datadir = self.datadir.as_deref().unwrap_or(Path::new("/"));
            if let Some(inside) = path.as_deref().and_then(|path| path.strip_prefix(datadir).ok()) {
                arguments.push(format!("--{name}={}", place.join(inside).display()));
            }
        }
        arguments.extend(self.key_arguments());
        arguments
    }

    /// The program that is this server: what runs, or is configured, with the words before it.
    #[must_use]
    pub fn program(&self, config: &MysqlConfig) -> Option<(Vec<String>, PathBuf)> {
        if let ServiceConfig::Direct(direct) = &config.service {
            let is_server = |word: &String| {
                let name = Path::new(word).file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| find::SERVER_NAMES.contains(&name))
            };
            if let Some(at) = direct.argv.iter().position(is_server) {
                return Some((direct.argv[..at].to_vec(), PathBuf::from(&direct.argv[at])));
            }
        }
        let binary = self.binary.clone()?;
        match binary.strip_prefix(&self.root) {
            Ok(inside) if self.root != Path::new("/") => {
                let prefix = vec!["chroot".to_owned(), self.root.display().to_string()];
                Some((prefix, Path::new("/").join(inside)))
            }
            _ => Some((Vec::new(), binary)),
        }
    }

    /// Base path of the binary log, absolute, links of its directory resolved; absent when it is off.
    #[must_use]
    pub fn log_bin(&self) -> Option<PathBuf> {
        let default = match self.flavor {
            Some(Flavor::Mysql) => Some("binlog"),
            _ => None,
        };
        let base = match (self.options.get("log-bin"), self.options.is_on("log-bin")) {
            (Some(""), _) => default.map_or_else(|| format!("{}-bin", self.hostname_base()), str::to_owned),
            (Some("1"), _) if self.options.get("skip-log-bin").is_some() => default?.to_owned(),
            (_, Some(false)) => return None,
            (Some(base), _) => base.to_owned(),
            (None, _) => default?.to_owned(),
        };
        Some(in_real_directory(self.resolve(Path::new(&base))))
    }

    /// The base name that the servers derive unnamed logs from: the pid file's stem, else the host's name.
    pub(crate) fn hostname_base(&self) -> String {
        let stem =
            self.options.path("pid-file").and_then(|p| Some(p.file_stem()?.to_string_lossy().into_owned()));
        stem.unwrap_or_else(|| {
            let name = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
            name.split('.').next().unwrap_or_default().to_owned()
        })
    }
}

fn effective(config: &MysqlConfig, files: &OptionFiles, version: Option<&ServerVersion>) -> Options {
    let suffix = config.defaults_group_suffix.as_deref();
    files.effective(&server_groups(version.map(|v| v.flavor), version, suffix))
}

/// The vendor, where the binary's name tells it.
fn flavor_of(binary: &Path) -> Option<Flavor> {
    let name = binary.file_name()?.to_string_lossy();
    name.starts_with("mariadb").then_some(Flavor::Mariadb)
}

/// `16k`, `16384`: a size in bytes.
fn parse_size(text: &str) -> Option<u32> {
    let text = text.trim().to_ascii_lowercase();
    let (digits, factor) = match text.strip_suffix('k') {
        Some(digits) => (digits, 1 << 10),
        None => (text.as_str(), 1),
    };
    digits.parse::<u32>().ok()?.checked_mul(factor)
}

/// A path whose directory has no links, so that it can be told whether it lies in another; the file itself may not be there yet.
#[must_use]
pub fn in_real_directory(path: PathBuf) -> PathBuf {
    match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    /// The figures of an instance were those of all of `/` while its server was starting.
    #[test]
    fn a_server_that_has_not_entered_its_datadir_has_the_one_that_it_was_told() {
        let dir = tempfile::tempdir().unwrap();
        let home = std::fs::canonicalize(dir.path()).unwrap();
        let (program, datadir, file) = (home.join("mariadbd"), home.join("data"), home.join("my.cnf"));
        std::fs::create_dir(&datadir).unwrap();
        std::fs::write(datadir.join("ibdata1"), "").unwrap();
        std::fs::write(&file, format!("[mysqld]\ndatadir = {}\n", datadir.display())).unwrap();
        // A process of the server's name that goes nowhere.
        std::fs::copy("/bin/sh", &program).unwrap();
        for told in
            [format!("--datadir={}", datadir.display()), format!("--defaults-file={}", file.display())]
        {
            let mut command = Command::new(&program);
            command.args(["-c", "read line", "mariadbd", &told]).current_dir("/").stdin(Stdio::piped());
            let mut starting = command.spawn().unwrap();
            let config = MysqlConfig { defaults_file: Some(file.clone()), ..MysqlConfig::default() };
            // It has no command line in the first moment after its exec.
            let found = testkit::poll::until(Duration::from_secs(10), "the process", || {
                Some(Settings::gather(&config, None)).filter(|found| found.starting.is_some())
            });
            assert_eq!((found.pid, found.starting), (None, i32::try_from(starting.id()).ok()), "{told}");
            assert_eq!(found.datadir, Some(datadir.clone()), "{told}");
            drop(starting.stdin.take());
            starting.wait().unwrap();
        }
    }
}
