//! Backup programs: what those that give a stream are started with, and what they write down of the position of their copy.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protocol::mysql::{BinlogPosition, Coordinates, Flavor};

use crate::client::Login;
use crate::config::MysqlConfig;
use crate::error::{Error, Result};
use crate::fence::Fence;
use crate::instance::Instance;
use crate::options::OptionFiles;
use crate::rundir::{self, OPTION_FILE, quoted};

/// Where a program that gives a stream works.
#[derive(Debug, Clone)]
pub struct Giver {
    /// Whom it runs as, and the one directory that it may write to.
    pub fence: Fence,
    /// The server's own options and the account that the agent logs in with.
    pub option_file: PathBuf,
    /// For its temporary files.
    pub temporary: PathBuf,
    /// The server's socket.
    pub socket: PathBuf,
    /// The server's data.
    pub datadir: PathBuf,
}

impl Giver {
    /// Makes the place of such a program in `directory`, which is made anew.
    ///
    /// It runs as the data's owner: the server tells it which plugins to load, and the server's user could have it load anything. Only
    /// where it logs in without a password it stays the agent's user, which is perhaps what it is logged in by (`unix_socket`).
    /// With `logs_in` the server is proven first, so that no other gets to see the account; without it none is written down. `as_agent`
    /// keeps the agent's user, and then the account is for nobody else to read.
    ///
    /// # Errors
    /// [`Error::Connect`] and others of a log-in, [`Error::NotFound`] without a datadir, [`Error::Io`].
    pub async fn prepare(
        instance: &Instance,
        directory: &Path,
        logs_in: bool,
        as_agent: bool,
    ) -> Result<Self> {
        let settings = instance.settings().await;
        let login = Login::from_config(instance.config())?;
        if logs_in {
            instance.connect_with(&settings).await?.close().await;
        }
        let user = settings.data_user().filter(|_| !as_agent && (!logs_in || login.password.is_some()));
        let datadir = settings.datadir.ok_or(Error::NotFound { what: "the datadir" })?;
        let socket = settings.socket.unwrap_or_default();
        let owner = fs::metadata(&datadir).map_err(Error::io("read", &datadir))?;
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("empty", directory)(error));
            }
            _ => {}
        }
        rundir::make(directory, &owner, false)?;
        let option_file = directory.join(OPTION_FILE);
        if logs_in {
            let text = option_text(instance.config(), &login, &socket)?;
            match user {
                Some(_) => rundir::write_options(directory, &text, &owner)?,
                None => sys::file::write(&option_file, text.as_bytes(), 0o600)
                    .map_err(|e| Error::io("write", &option_file)(e.source))?,
            }
        }
        let temporary = rundir::own(directory, "tmp");
        let fence = Fence { user, writable: vec![temporary.clone()], temporary: Some(temporary.clone()) };
        Ok(Self { fence, option_file, temporary, socket, datadir })
    }
}

/// The server's own options, then the account. What the file of the account says is written out: that one is closed to the data's owner.
fn option_text(config: &MysqlConfig, login: &Login, socket: &Path) -> Result<String> {
    let server = match &config.defaults_file {
        Some(file) => vec![file.clone()],
        None => ["/etc/my.cnf", "/etc/mysql/my.cnf"]
            .map(PathBuf::from)
            .into_iter()
            .filter(|f| f.exists())
            .collect(),
    };
    let mut lines: Vec<String> = server.iter().map(|file| format!("!include {}", file.display())).collect();
    if let Some(file) = &config.client_option_file {
        lines.push("[client]".to_owned());
        let options = OptionFiles::load_file(file)?.effective(&["client"]);
        for (name, value) in options.iter().filter(|(name, _)| !["user", "password"].contains(name)) {
            lines.push(rundir::line(
                &value.map_or_else(|| name.to_owned(), |value| format!("{name}={value}")),
            )?);
        }
    }
    for group in ["mariabackup", "xtrabackup"] {
        lines.push(format!("[{group}]"));
        lines.push(format!("user={}", quoted(&login.user)));
        lines.extend(login.password.iter().map(|password| format!("password={}", quoted(password))));
        if !socket.as_os_str().is_empty() {
            lines.push(format!("socket={}", quoted(&socket.to_string_lossy())));
        }
    }
    Ok(lines.join("\n") + "\n")
}

/// Reads `xtrabackup_binlog_info` (`mariadb_backup_binlog_info`): file, position and, after a further tab, the GTIDs.
#[must_use]
pub fn position(text: &str, flavor: Flavor) -> Option<Coordinates> {
    let mut fields = text.trim().splitn(3, '\t').map(str::trim);
    let (file, position) = (fields.next()?, fields.next()?.parse().ok()?);
    if file.is_empty() {
        return None;
    }
    // MySQL's sets of several servers stand on several lines.
    let gtid = fields.next().map(|gtid| gtid.replace(['\n', '\r'], "")).filter(|gtid| !gtid.is_empty());
    Some(Coordinates { flavor, binlog: Some(BinlogPosition { file: file.to_owned(), position }), gtid })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_account_is_written_out_and_no_closed_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let [account, server] = ["account.cnf", "server.cnf"].map(|name| dir.path().join(name));
        fs::write(&account, "[client]\nuser=backup\npassword=\"a#b\"\nssl-ca=/etc/ca.pem\ncompress\n")
            .unwrap();
        fs::File::open(&account).unwrap().set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        let config = MysqlConfig {
            defaults_file: Some(server.clone()),
            client_option_file: Some(account.clone()),
            ..MysqlConfig::default()
        };
        let login = Login::from_config(&config).unwrap();
        let text = option_text(&config, &login, Path::new("/run/s")).unwrap();
        assert!(text.starts_with(&format!("!include {}\n[client]\n", server.display())), "{text}");
        assert!(!text.contains("account.cnf"), "{text}");
        let file = dir.path().join("written.cnf");
        fs::write(&file, text.lines().skip(1).collect::<Vec<_>>().join("\n")).unwrap();
        let read = OptionFiles::load_file(&file).unwrap().effective(&["client", "mariabackup"]);
        let said =
            ["user", "password", "ssl-ca", "compress", "socket"].map(|name| read.get(name).unwrap_or("?"));
        assert_eq!(said, ["backup", "a#b", "/etc/ca.pem", "", "/run/s"]);
    }

    #[test]
    fn both_vendors_positions_are_read() {
        let mariadb = position("binlog.000003\t1234\t0-1-42\n", Flavor::Mariadb).unwrap();
        assert_eq!(mariadb.gtid.as_deref(), Some("0-1-42"));
        assert_eq!(mariadb.binlog.unwrap().position, 1234);
        let mysql =
            position("binlog.000002\t197\t3e11fa47-71ca:1-5,\n4e11fa47-71ca:1\n", Flavor::Mysql).unwrap();
        assert_eq!(mysql.gtid.as_deref(), Some("3e11fa47-71ca:1-5,4e11fa47-71ca:1"));
        assert_eq!(position("binlog.000001\t4\n", Flavor::Mysql).unwrap().gtid, None);
        assert_eq!(position("", Flavor::Mysql), None);
        assert_eq!(position("binlog.000001\tfour", Flavor::Mysql), None);
    }
}
