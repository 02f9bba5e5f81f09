//! Whether a datadir is whole: what a server would make anew in silence, and what its dictionary names, must be there.

use std::fs;
use std::path::{Path, PathBuf};

use protocol::mysql::{Flavor, Layout, ServerVersion};

use crate::client::Session;
use crate::error::{Error, Result};

/// More need not be named for a person to understand.
const NAMED: usize = 10;
/// Where InnoDB has its tablespaces, by its own dictionary.
const DATAFILES: [&str; 2] = [
    "SELECT PATH FROM information_schema.INNODB_DATAFILES",
    "SELECT FILENAME FROM information_schema.INNODB_SYS_TABLESPACES WHERE FILENAME LIKE '%.ibd'",
];
/// Tables that InnoDB knows, as `database/table` in the form of file names, and whether each has a tablespace of its own. It
/// knows those too whose files it has not found, and says nothing of them.
const INNODB_TABLES: &str =
    "SELECT NAME, SPACE <> 0 FROM information_schema.INNODB_SYS_TABLES WHERE NAME LIKE '%/%'";
/// Tables whose files the server could not open: it names no engine for them, and says why. It opens them for their sizes only.
const UNOPENED: &str = "SELECT CONCAT(table_schema, '.', table_name), table_comment, data_length FROM information_schema.tables \
     WHERE table_type = 'BASE TABLE' AND engine IS NULL \
     AND table_schema NOT IN ('information_schema', 'performance_schema', 'sys')";
/// An engine that the private server has not loaded: nothing is known of its tables.
const UNKNOWN_ENGINE: &str = "Unknown storage engine";

/// What is not there before a server starts: most of it would be made anew, empty, and look sound.
pub(super) fn missing_before(
    datadir: &Path,
    layout: Option<&Layout>,
    version: &ServerVersion,
) -> Option<String> {
    let place = |of: fn(&Layout) -> &Option<PathBuf>| {
        layout.and_then(|layout| of(layout).clone()).unwrap_or_else(|| datadir.to_owned())
    };
    let has = |directory: &Path, is_one: &dyn Fn(&str) -> bool| {
        fs::read_dir(directory).is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.file_name().to_str().is_some_and(is_one))
        })
    };
    let mut missing = Vec::new();
    let home = place(|layout| &layout.innodb_data_home_dir);
    let spec = layout.and_then(|layout| layout.innodb_data_file_path.as_deref()).unwrap_or("ibdata1");
    for file in spec.split(';').filter_map(|part| part.split(':').next()).filter(|file| !file.is_empty()) {
        let path = if file.starts_with('/') { PathBuf::from(file) } else { home.join(file) };
        if !path.exists() {
            missing.push(format!("{file} (the system tablespace)"));
        }
    }
    let logs = place(|layout| &layout.innodb_log_group_home_dir);
    let redo = has(&logs, &|name| name.starts_with("ib_logfile"))
        || has(&logs.join("#innodb_redo"), &|name| name.starts_with("#ib_redo"));
    if !redo {
        missing.push("ib_logfile0 or #innodb_redo (the redo log)".to_owned());
    }
    let dictionary = datadir.join("mysql");
    match version.flavor {
        // Before it, its dictionary was made of files.
        Flavor::Mysql if version.number < [8, 0, 0] => {}
        Flavor::Mysql => {
            if !datadir.join("mysql.ibd").is_file() {
                missing.push("mysql.ibd (the dictionary)".to_owned());
            }
            let undo = place(|layout| &layout.innodb_undo_directory);
            missing.extend(
                ["undo_001", "undo_002"]
                    .iter()
                    .filter(|name| !undo.join(name).is_file())
                    .map(|name| (*name).to_owned()),
            );
        }
        Flavor::Mariadb => {
            if !has(&dictionary, &|name| name.ends_with(".frm")) {
                missing.push("the database mysql".to_owned());
            }
            let aria = has(&dictionary, &|name| name.ends_with(".MAI"));
            for (name, is_one) in [("aria_log_control", true), ("aria_log.00000001 or a later one", false)] {
                let there = match is_one {
                    true => datadir.join(name).is_file(),
                    false => has(datadir, &|entry| entry.starts_with("aria_log.")),
                };
                if aria && !there && layout.is_none_or(|layout| layout.further_dirs.is_empty()) {
                    missing.push(name.to_owned());
                }
            }
        }
    }
    (!missing.is_empty()).then(|| format!("it is no whole datadir: {} missing", join(&missing)))
}

/// What the dictionary of a running private server names and the datadir lacks, as a problem; else how many tables are of
/// engines that this server does not know.
pub(super) async fn missing_of_dictionary(
    session: &mut Session,
    datadir: &Path,
    flavor: Flavor,
) -> Result<std::result::Result<usize, String>> {
    let rows = session.rows("list what it cannot open", UNOPENED).await?;
    let total = rows.len();
    let unopened: Vec<String> = rows
        .into_iter()
        .filter_map(|row| {
            let mut columns = row.into_iter();
            let name = columns.next()??;
            let why = columns.next().flatten().unwrap_or_default();
            (!why.starts_with(UNKNOWN_ENGINE)).then(|| format!("{name} ({why})"))
        })
        .collect();
    if !unopened.is_empty() {
        return Ok(Err(format!("the dictionary names what cannot be opened: {}", join(&unopened))));
    }
    let mut lost = Vec::new();
    let files = DATAFILES[usize::from(flavor == Flavor::Mariadb)];
    for file in first_column(session, "list its tablespaces", files).await? {
        let path = datadir.join(file.strip_prefix("./").unwrap_or(&file));
        if !path.exists() {
            lost.push(file);
        }
    }
    if flavor == Flavor::Mariadb {
        lost.extend(lost_tables(session, datadir).await?);
    }
    Ok(match lost.is_empty() {
        true => Ok(total),
        false => Err(format!("the dictionary names files that are not there: {}", join(&lost))),
    })
}

/// Files of MariaDB's InnoDB tables that are not there.
async fn lost_tables(session: &mut Session, datadir: &Path) -> Result<Vec<String>> {
    let mut lost = Vec::new();
    for row in session.rows("list the tables that InnoDB knows", INNODB_TABLES).await? {
        let [Some(name), own] = row.as_slice() else { continue };
        let Some((database, table)) = name.split_once('/') else { continue };
        // Of a statement that was cut off, of full text indexes, and of one partition of many.
        let base = table.split("#P#").next().unwrap_or(table).split("#p#").next().unwrap_or(table);
        if base.starts_with("#sql") || base.starts_with("FTS_") {
            continue;
        }
        let there = |file: &str| datadir.join(database).join(file).exists();
        if !there(&format!("{base}.frm")) {
            lost.push(format!("{database}/{base}.frm"));
        }
        let has_own = own.as_deref() == Some("1");
        if has_own && !there(&format!("{table}.ibd")) && !there(&format!("{table}.isl")) {
            lost.push(format!("{name}.ibd"));
        }
    }
    Ok(lost)
}

/// Empty where this version has no such table of its own.
async fn first_column(session: &mut Session, action: &str, sql: &str) -> Result<Vec<String>> {
    match session.rows(action, sql).await {
        Ok(rows) => Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()),
        Err(Error::Query { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn join(names: &[String]) -> String {
    let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
