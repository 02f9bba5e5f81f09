//! What a running server says of itself.

use std::path::{Path, PathBuf};

use protocol::mysql::{Flavor, Layout, ServerInfo, ServerState, ServerVersion};

use crate::client::{Record, Session};
use crate::error::{Error, Result};
use crate::find::parse_version;
use crate::position;
use crate::settings::in_real_directory;

/// The vendor and version of the server behind a session.
pub(crate) async fn version(session: &mut Session) -> Result<ServerVersion> {
    let sql = "SELECT CONCAT(@@version, ' ', @@version_comment)";
    let text = session.scalar("show its version", sql).await?.unwrap_or_default();
    let (number, comment) = text.split_once(' ').unwrap_or((&text, ""));
    let flavor = if comment.contains("MariaDB") { Flavor::Mariadb } else { Flavor::Mysql };
    parse_version(number, Some(flavor)).ok_or_else(|| Error::Answer {
        action: "SELECT @@version",
        problem: format!("{number:?} is no version"),
    })
}

/// Everything that the running server tells, with what it refuses left absent.
///
/// `root` is the directory that the server's paths start at.
///
/// # Errors
/// When the session breaks.
pub(crate) async fn read_info(session: &mut Session, root: &Path) -> Result<ServerInfo> {
    let version = version(session).await?;
    let vars = session.variables().await?;
    let datadir = vars.get("datadir").map(|d| below(root, Path::new(d)));
    let datadir = datadir.map(|d| std::fs::canonicalize(&d).unwrap_or(d));
    let path = |name: &str| {
        let value = vars.get(name).filter(|v| !v.is_empty())?;
        Some(absolute(root, datadir.as_deref(), Path::new(value)))
    };
    let is_on = |name: &str| vars.get(name).is_some_and(|v| v == "ON" || v == "1");
    let coordinates = position::read(session, version.flavor).await.ok();
    let replica = replica_status(session).await.ok().flatten();
    Ok(ServerInfo {
        state: ServerState::Ready,
        pid: None,
        port: vars.get("port").and_then(|p| p.parse().ok()).filter(|p| *p != 0 && !is_on("skip_networking")),
        socket: path("socket"),
        error_log: path("log_error").filter(|p| p.file_name().is_some_and(|n| n != "stderr")),
        server_uuid: vars.get("server_uuid").cloned().or_else(|| vars.get("server_uid").cloned()),
        server_id: vars.get("server_id").and_then(|v| v.parse().ok()),
        coordinates,
        read_only: vars.get("read_only").map(|_| is_on("read_only")),
        replica_of: replica.as_ref().and_then(source_address),
        replicas: replicas(session).await.ok(),
        lag_seconds: replica.as_ref().and_then(lag_seconds),
        layout: layout(&vars, datadir.as_deref(), &path),
        version: Some(version),
        datadir,
        on_snapshot: None,
        trouble: None,
    })
}

fn layout(vars: &Record, datadir: Option<&Path>, path: &dyn Fn(&str) -> Option<PathBuf>) -> Option<Layout> {
    let elsewhere = |name: &str| {
        let value = path(name)?;
        let value = std::fs::canonicalize(&value).unwrap_or(value);
        (Some(value.as_path()) != datadir).then_some(value)
    };
    Some(Layout {
        innodb_page_size: vars.get("innodb_page_size")?.parse().ok()?,
        lower_case_table_names: vars.get("lower_case_table_names")?.parse().ok()?,
        innodb_data_file_path: vars.get("innodb_data_file_path").cloned(),
        innodb_data_home_dir: elsewhere("innodb_data_home_dir"),
        innodb_log_group_home_dir: elsewhere("innodb_log_group_home_dir"),
        innodb_undo_directory: elsewhere("innodb_undo_directory"),
        log_bin: path("log_bin_basename").map(in_real_directory),
        further_dirs: Layout::FURTHER_DIRS
            .iter()
            .filter_map(|name| elsewhere(name))
            .filter(|path| datadir.is_none_or(|datadir| !path.starts_with(datadir)))
            .collect(),
    })
}

/// A path of the server: relative to its datadir, below its root.
fn absolute(root: &Path, datadir: Option<&Path>, path: &Path) -> PathBuf {
    if path.is_absolute() {
        return below(root, path);
    }
    let path = path.strip_prefix("./").unwrap_or(path);
    // `./` alone is the datadir itself.
    if path.as_os_str().is_empty() || path == Path::new(".") {
        return datadir.unwrap_or(Path::new("/")).to_owned();
    }
    datadir.unwrap_or(Path::new("/")).join(path)
}

fn below(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix("/").map_or_else(|_| path.to_owned(), |rest| root.join(rest))
}

/// The first replication channel, whatever the server calls it; absent on a server that is no replica.
pub(crate) async fn replica_status(session: &mut Session) -> Result<Option<Record>> {
    let spellings = ["SHOW REPLICA STATUS", "SHOW SLAVE STATUS"];
    let action = "show its replication status";
    let rows = position::first_that_works(session, action, &spellings).await?;
    if let Some(row) = rows.into_iter().next() {
        return Ok(Some(row));
    }
    // MariaDB shows only the unnamed connection above; other servers do not know the statement.
    let named = session.records(action, "SHOW ALL REPLICAS STATUS").await.unwrap_or_default();
    Ok(named.into_iter().next())
}

/// A column of a replication status under its new or its old name.
pub(crate) fn column<'a>(status: &'a Record, new: &str, old: &str) -> Option<&'a str> {
    status.get(new).or_else(|| status.get(old)).map(String::as_str)
}

fn source_address(status: &Record) -> Option<String> {
    let host = column(status, "Source_Host", "Master_Host").filter(|h| !h.is_empty())?;
    let port = column(status, "Source_Port", "Master_Port")?;
    Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// Seconds behind the source, absent while a thread is stopped.
pub(crate) fn lag_seconds(status: &Record) -> Option<u64> {
    column(status, "Seconds_Behind_Source", "Seconds_Behind_Master")?.parse().ok()
}

/// Replicas that fetch the binary log now.
async fn replicas(session: &mut Session) -> Result<u32> {
    let rows = session.records("show its processes", "SHOW PROCESSLIST").await?;
    let dumps =
        rows.iter().filter(|r| r.get("Command").is_some_and(|c| c.starts_with("Binlog Dump"))).count();
    Ok(u32::try_from(dumps).unwrap_or(u32::MAX))
}
