//! Makes the instance a replica that continues from recorded coordinates, and waits until it follows.

mod follow;

use std::path::{Path, PathBuf};

use protocol::mysql::{Coordinates, Flavor};

use crate::client::{Login, Session, check_secret_mode, read_secret, tls_of};
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::options::OptionFiles;
use crate::server;
use crate::sql::quote;
use crate::tls::{Tls, TlsMode};

pub use follow::{CatchUp, Following, wait};

/// From whom to replicate, with which account. The password never leaves this host's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Account and password of the replication user.
    pub credentials: Credentials,
}

impl Source {
    /// How the connection to it is encrypted.
    ///
    /// # Errors
    /// When the file with the account cannot be used.
    pub fn tls(&self) -> Result<Tls> {
        Ok(account(&self.credentials)?.tls)
    }
}

/// Where the replication account's password is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A file with the password on its first line.
    PasswordFile {
        /// Account name.
        user: String,
        /// The file, readable by its owner only.
        path: PathBuf,
    },
    /// An option file with `user`, `password` and what [`Tls`] knows in `[client]`, readable by its owner only.
    OptionFile(PathBuf),
}

/// Points the running instance at a source and starts replication; read-only before the first statement.
///
/// `from` are the coordinates *of the source's history* that the data stand at. A GTID is preferred over file:pos.
/// With MySQL a physical copy brings its own `gtid_executed`; it is set only where it is empty.
///
/// # Errors
/// [`Error::Refused`] without usable coordinates, [`Error::Query`] when the server refuses a step.
pub async fn start(instance: &Instance, source: &Source, from: &Coordinates) -> Result<()> {
    let login = account(&source.credentials)?;
    let mut session = instance.connect().await?;
    let version = server::version(&mut session).await?;
    if version.flavor != from.flavor {
        return Err(Error::Refused {
            reason: format!(
                "the coordinates are of {:?}, and this server is {:?}",
                from.flavor, version.flavor
            ),
        });
    }
    set_read_only(&mut session, version.flavor, true).await?;
    for spelling in stop_statements(version.flavor, version.number) {
        session.exec("stop an old replication", spelling).await?;
    }
    if version.flavor == Flavor::Mysql {
        set_gtid_purged(&mut session, from).await?;
    }
    for statement in plan(version.flavor, version.number, source, &login, from)? {
        session.exec(statement.action, &statement.sql).await?;
    }
    session.close().await;
    Ok(())
}

/// Stops replication and forgets its source.
///
/// # Errors
/// [`Error::Query`] when the server refuses.
pub async fn forget(instance: &Instance) -> Result<()> {
    let mut session = instance.connect().await?;
    let version = server::version(&mut session).await?;
    for statement in stop_statements(version.flavor, version.number) {
        session.exec("forget its source", statement).await?;
    }
    session.close().await;
    Ok(())
}

/// Sets `read_only`, on MySQL also `super_read_only`.
///
/// # Errors
/// [`Error::Query`] when the server refuses.
pub async fn set_read_only(session: &mut Session, flavor: Flavor, on: bool) -> Result<()> {
    let value = if on { "ON" } else { "OFF" };
    let sql = match flavor {
        Flavor::Mariadb => format!("SET GLOBAL read_only = {value}"),
        // super_read_only ON implies read_only; switching read_only OFF switches both off.
        Flavor::Mysql if on => "SET GLOBAL super_read_only = ON".to_owned(),
        Flavor::Mysql => "SET GLOBAL read_only = OFF".to_owned(),
    };
    session.exec("switch read_only", sql).await
}

/// Takes back that the server persists `super_read_only`, which stays as it is until its next start.
///
/// # Errors
/// [`Error::Query`] when the server refuses.
pub async fn unpersist_read_only(instance: &Instance) -> Result<()> {
    let mut session = instance.connect().await?;
    session.exec("keep read_only no longer", "RESET PERSIST IF EXISTS super_read_only").await?;
    session.close().await;
    Ok(())
}

/// `CHANGE MASTER TO` takes no expressions, only plain literals: refuse what would need escaping.
fn literal(what: &'static str, text: &str) -> Result<String> {
    let plain = |c: char| !c.is_control() && !matches!(c, '\'' | '"' | '\\' | '`');
    if text.chars().all(plain) {
        return Ok(format!("'{text}'"));
    }
    Err(Error::Refused { reason: format!("{what} holds a quote, a backslash or a control character") })
}

/// The password alone may hold anything; it is escaped for the session's own `sql_mode`, which the plan sets first.
fn password_literal(password: &str) -> Result<String> {
    if password.contains('\0') {
        return Err(Error::Refused { reason: "the replication password holds a NUL".to_owned() });
    }
    Ok(format!("'{}'", password.replace('\'', "''")))
}

/// One statement of the plan; its SQL may hold a secret and is never shown.
struct Statement {
    action: &'static str,
    sql: String,
}

fn plan(
    flavor: Flavor,
    version: [u16; 3],
    source: &Source,
    login: &Login,
    from: &Coordinates,
) -> Result<Vec<Statement>> {
    let host = literal("the source's host", &source.host)?;
    let user = literal("the replication user", &login.user)?;
    let password = password_literal(login.password.as_deref().unwrap_or_default())?;
    let mut plan = vec![Statement {
        action: "fix the meaning of literals",
        sql: "SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES'".to_owned(),
    }];
    let word = if flavor == Flavor::Mariadb || version < [8, 0, 23] { "MASTER" } else { "SOURCE" };
    let mut options = vec![
        format!("{word}_HOST = {host}"),
        format!("{word}_PORT = {}", source.port),
        format!("{word}_USER = {user}"),
        format!("{word}_PASSWORD = {password}"),
    ];
    let at = match (flavor, &from.gtid, &from.binlog) {
        (Flavor::Mariadb, Some(gtid), _) => {
            let gtid = literal("the GTID position", gtid)?;
            // A physical copy of a primary remembers its own writes in the binary log state, and MariaDB warns of a
            // conflict with them; the recorded position is the truth.
            plan.push(Statement {
                action: "set gtid_slave_pos",
                sql: format!("SET GLOBAL gtid_slave_pos = {gtid}"),
            });
            vec!["MASTER_USE_GTID = slave_pos".to_owned()]
        }
        (Flavor::Mysql, Some(_), _) => vec![format!("{word}_AUTO_POSITION = 1")],
        (_, None, Some(at)) => {
            let mut options = vec![
                format!("{word}_LOG_FILE = {}", literal("the binary log's name", &at.file)?),
                format!("{word}_LOG_POS = {}", at.position),
            ];
            options.push(match flavor {
                Flavor::Mariadb => "MASTER_USE_GTID = no".to_owned(),
                Flavor::Mysql => format!("{word}_AUTO_POSITION = 0"),
            });
            options
        }
        (_, None, None) => {
            let reason =
                "no coordinates were recorded with the snapshot; replication cannot continue from it";
            return Err(Error::Refused { reason: reason.to_owned() });
        }
    };
    options.extend(at);
    options.extend(tls_options(word, &login.tls)?);
    if flavor == Flavor::Mysql && !login.tls.is_on() && version >= [8, 0, 0] {
        // caching_sha2_password over plain TCP needs the source's key.
        options.push(
            if word == "SOURCE" { "GET_SOURCE_PUBLIC_KEY = 1" } else { "GET_MASTER_PUBLIC_KEY = 1" }
                .to_owned(),
        );
    }
    let verb = if word == "SOURCE" { "CHANGE REPLICATION SOURCE TO" } else { "CHANGE MASTER TO" };
    plan.push(Statement { action: "set its source", sql: format!("{verb} {}", options.join(", ")) });
    let start = if word == "SOURCE" { "START REPLICA" } else { "START SLAVE" };
    plan.push(Statement { action: "start replication", sql: start.to_owned() });
    Ok(plan)
}

/// Said in full: what a server takes for granted differs between versions.
fn tls_options(word: &str, tls: &Tls) -> Result<Vec<String>> {
    let mut options = vec![format!("{word}_SSL = {}", u8::from(tls.is_on()))];
    if tls.is_on() {
        let verify = u8::from(tls.mode == TlsMode::VerifyIdentity);
        options.push(format!("{word}_SSL_VERIFY_SERVER_CERT = {verify}"));
        let files = [
            ("CA", tls.ca.as_ref()),
            ("CERT", tls.identity.as_ref().map(|(cert, _)| cert)),
            ("KEY", tls.identity.as_ref().map(|(_, key)| key)),
        ];
        for (name, path) in files.into_iter().filter_map(|(name, path)| Some((name, path?))) {
            options.push(format!(
                "{word}_SSL_{name} = {}",
                literal("a TLS file's path", &path.to_string_lossy())?
            ));
        }
    }
    Ok(options)
}

/// Stops the threads and drops the old source with its relay logs; both are no error on a server without one.
fn stop_statements(flavor: Flavor, version: [u16; 3]) -> [&'static str; 2] {
    if flavor == Flavor::Mariadb || version < [8, 0, 22] {
        ["STOP SLAVE", "RESET SLAVE ALL"]
    } else {
        ["STOP REPLICA", "RESET REPLICA ALL"]
    }
}

/// A physical copy has `gtid_executed` in its tables. A logical one has none and must be told.
async fn set_gtid_purged(session: &mut Session, from: &Coordinates) -> Result<()> {
    let Some(gtid) = &from.gtid else { return Ok(()) };
    // With data of its own, the server knows best what it has executed: auto-positioning starts from there.
    let executed = session.scalar("show gtid_executed", "SELECT @@GLOBAL.gtid_executed").await?;
    if executed.is_some_and(|gtids| !gtids.trim().is_empty()) {
        return Ok(());
    }
    session.exec("set gtid_purged", format!("SET GLOBAL gtid_purged = {}", quote(gtid))).await
}

pub(crate) fn account(credentials: &Credentials) -> Result<Login> {
    match credentials {
        Credentials::PasswordFile { user, path } => {
            Ok(Login { user: user.clone(), password: Some(read_secret(path)?), tls: Tls::default() })
        }
        Credentials::OptionFile(path) => {
            check_secret_mode(path)?;
            let client = OptionFiles::load_file(path)?.effective(&["client"]);
            let tls = tls_of(path, &client)?;
            match (client.get("user"), client.get("password")) {
                (Some(user), Some(password)) => {
                    Ok(Login { user: user.to_owned(), password: Some(password.to_owned()), tls })
                }
                _ => Err(missing_account(path)),
            }
        }
    }
}

fn missing_account(path: &Path) -> Error {
    Error::OptionFile {
        path: path.to_owned(),
        line: 0,
        problem: "no user and password in [client]".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use protocol::mysql::BinlogPosition;

    use super::*;

    fn source(host: &str) -> Source {
        let credentials = Credentials::OptionFile("/etc/repl.cnf".into());
        Source { host: host.into(), port: 3306, credentials }
    }

    fn login(tls: Tls) -> Login {
        Login { user: "repl".into(), password: Some("it's \\ me".into()), tls }
    }

    fn sql(flavor: Flavor, version: [u16; 3], from: &Coordinates) -> Vec<String> {
        let plan = plan(flavor, version, &source("db1"), &login(Tls::default()), from).unwrap();
        plan.into_iter().map(|s| s.sql).collect()
    }

    #[test]
    fn mariadb_starts_from_the_recorded_gtid() {
        let from = Coordinates { flavor: Flavor::Mariadb, binlog: None, gtid: Some("0-1-42".into()) };
        let sql = sql(Flavor::Mariadb, [10, 11, 6], &from);
        assert_eq!(sql[1], "SET GLOBAL gtid_slave_pos = '0-1-42'");
        assert_eq!(
            sql[2],
            "CHANGE MASTER TO MASTER_HOST = 'db1', MASTER_PORT = 3306, MASTER_USER = 'repl', \
             MASTER_PASSWORD = 'it''s \\ me', MASTER_USE_GTID = slave_pos, MASTER_SSL = 0"
        );
    }

    #[test]
    fn mysql_uses_auto_position_or_the_file() {
        let mut from = Coordinates {
            flavor: Flavor::Mysql,
            binlog: Some(BinlogPosition { file: "binlog.000007".into(), position: 157 }),
            gtid: Some("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5".into()),
        };
        let with_gtid = sql(Flavor::Mysql, [9, 7, 4], &from);
        assert!(
            with_gtid[1].starts_with("CHANGE REPLICATION SOURCE TO ")
                && with_gtid[1].contains("SOURCE_AUTO_POSITION = 1")
        );
        from.gtid = None;
        let with_file = sql(Flavor::Mysql, [8, 4, 0], &from);
        assert!(with_file[1].contains("SOURCE_LOG_FILE = 'binlog.000007', SOURCE_LOG_POS = 157"));
        assert!(sql(Flavor::Mysql, [5, 7, 44], &from)[1].starts_with("CHANGE MASTER TO "));
    }

    #[test]
    fn what_is_demanded_of_the_sources_certificate_is_said_in_full() {
        let from = Coordinates { flavor: Flavor::Mysql, binlog: None, gtid: Some("x:1".into()) };
        let tls = Tls { mode: TlsMode::VerifyCa, ca: Some("/etc/ca.pem".into()), identity: None };
        let plan = plan(Flavor::Mysql, [9, 7, 4], &source("db1"), &login(tls), &from).unwrap();
        let said = "SOURCE_SSL = 1, SOURCE_SSL_VERIFY_SERVER_CERT = 0, SOURCE_SSL_CA = '/etc/ca.pem'";
        assert!(plan[1].sql.ends_with(said), "{}", plan[1].sql);
    }

    #[test]
    fn hostile_names_are_refused_and_not_escaped() {
        let from = Coordinates { flavor: Flavor::Mariadb, binlog: None, gtid: Some("0-1-42".into()) };
        for host in ["db1', MASTER_USER='root", "db1\\", "db\n1", "db1\""] {
            assert!(
                plan(Flavor::Mariadb, [10, 11, 6], &source(host), &login(Tls::default()), &from).is_err(),
                "{host}"
            );
        }
        let from = Coordinates { gtid: Some("0-1-42'; DROP DATABASE mysql; --".into()), ..from };
        assert!(plan(Flavor::Mariadb, [10, 11, 6], &source("db1"), &login(Tls::default()), &from).is_err());
    }

    #[test]
    fn without_coordinates_it_refuses() {
        let from = Coordinates { flavor: Flavor::Mysql, binlog: None, gtid: None };
        assert!(plan(Flavor::Mysql, [9, 7, 4], &source("db1"), &login(Tls::default()), &from).is_err());
    }
}
