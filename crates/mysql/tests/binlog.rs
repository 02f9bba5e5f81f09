//! Binary and relay logs of real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

mod common;

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use common::{config, instance, mariadb, mysql9};
use mysql::binlog::{self, LogKind, Range};
use mysql::{Error, Instance, MysqlConfig};
use testkit::mysqld::{Mysqld, MysqldOptions, Vendor};

const ENOUGH: u64 = 64 << 20;

/// A server with one table, and the position before its last insert.
async fn with_events(server: &Mysqld) -> u64 {
    server.exec("CREATE DATABASE shop").await.unwrap();
    server.exec("CREATE TABLE shop.t (id INT PRIMARY KEY, v VARCHAR(50)) ENGINE=InnoDB").await.unwrap();
    server.exec("INSERT INTO shop.t VALUES (1, 'before')").await.unwrap();
    let at = instance(server).coordinates().await.unwrap().binlog.unwrap().position;
    server.exec("INSERT INTO shop.t VALUES (2, 'after')").await.unwrap();
    at
}

fn from(first: &str, start: u64) -> Range {
    Range { first: first.into(), start, last: None, stop: None }
}

fn read(mut reader: binlog::BinaryReader) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

async fn text(instance: &Instance, logs: &binlog::LogSet, range: &Range) -> String {
    let mut stream = binlog::text(instance, logs, range, true, ENOUGH).await.unwrap();
    let mut text = String::new();
    while let Some(chunk) = stream.next().await.unwrap() {
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    text
}

#[tokio::test]
async fn files_and_end_are_those_of_the_server_running_or_stopped() {
    let mut server = mariadb().await;
    with_events(&server).await;
    server.exec("FLUSH BINARY LOGS").await.unwrap();
    let at = instance(&server).coordinates().await.unwrap().binlog.unwrap();
    let logs = instance(&server).logs(LogKind::Binary).await.unwrap();
    let names: Vec<_> = logs.files.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["binlog.000001", "binlog.000002"]);
    assert_eq!(logs.end().unwrap(), Some(at));
    server.stop().await.unwrap();
    let stopped = instance(&server).logs(LogKind::Binary).await.unwrap();
    assert_eq!(stopped.files.len(), 2);
    let none = instance(&server).logs(LogKind::Relay).await.unwrap_err();
    assert!(matches!(none, Error::NotFound { .. }), "{none}");
}

#[tokio::test]
async fn text_from_a_position_shows_what_came_after_it_only() {
    let server = mariadb().await;
    let at = with_events(&server).await;
    let instance = instance(&server);
    let logs = instance.logs(LogKind::Binary).await.unwrap();
    let text = text(&instance, &logs, &from("binlog.000001", at)).await;
    assert!(text.contains("'after'"), "{text}");
    assert!(!text.contains("'before'"), "{text}");
    let mut limited = binlog::text(&instance, &logs, &from("binlog.000001", 0), true, 100).await.unwrap();
    let error = limited.next().await.unwrap_err();
    assert!(error.to_string().contains("ask for a smaller range"), "{error}");
}

#[tokio::test]
async fn names_that_are_not_in_the_index_and_odd_positions_are_refused() {
    let server = mariadb().await;
    let at = with_events(&server).await;
    let instance = instance(&server);
    let logs = instance.logs(LogKind::Binary).await.unwrap();
    for name in ["../my.cnf", "/etc/passwd", "--help", "binlog.000099", "binlog.index", ""] {
        assert!(matches!(logs.binary(&from(name, 4), ENOUGH), Err(Error::NotFound { .. })), "{name}");
        assert!(binlog::text(&instance, &logs, &from(name, 4), true, ENOUGH).await.is_err(), "{name}");
    }
    let error = logs.binary(&from("binlog.000001", at + 1), ENOUGH).unwrap_err();
    assert!(error.to_string().contains("no event starts at position"), "{error}");
    let error = logs.binary(&from("binlog.000001", 4), 100).unwrap_err();
    assert!(error.to_string().contains("at most 100 may be asked for"), "{error}");
    let backwards = Range { stop: Some(at - 1), ..from("binlog.000001", at) };
    assert!(matches!(logs.binary(&backwards, ENOUGH), Err(Error::Refused { .. })));
}

/// A log that a hostile host has written: a statement of it is a command of the client that runs a program.
async fn a_command_in_a_log_is_not_run(donor: &Mysqld, recipient: &Instance) {
    let sign = donor.base().join("sign");
    donor.exec("SET GLOBAL binlog_checksum = NONE").await.unwrap();
    let logs = Instance::new(config(donor)).logs(LogKind::Binary).await.unwrap();
    let (file, at) = logs.files.last().map(|file| (file.name.clone(), file.size_bytes)).unwrap();
    let statement = format!("CREATE DATABASE {}", "z".repeat(60));
    donor.exec(&statement).await.unwrap();
    let mut log = read(
        Instance::new(config(donor))
            .logs(LogKind::Binary)
            .await
            .unwrap()
            .binary(&from(&file, at), ENOUGH)
            .unwrap(),
    );
    let place = log.windows(statement.len()).position(|bytes| bytes == statement.as_bytes()).unwrap();
    let command = format!("\\! touch {}", sign.display());
    let command = format!("{command:width$}", width = statement.len());
    log[place..place + statement.len()].copy_from_slice(command.as_bytes());
    // It is a statement like any other, which the server does not understand.
    let error = binlog::apply(recipient, &log[..], ENOUGH).await.unwrap_err();
    assert!(error.to_string().contains("ERROR"), "{error}");
    assert!(!sign.exists(), "the client has run a program that the log names");
    donor.exec("SET GLOBAL binlog_checksum = CRC32").await.unwrap();
}

/// The events after a position, over a rotation, applied to a server that has those before it.
async fn travels(donor: &Mysqld, recipient: &Mysqld, config_of: impl Fn(&Mysqld) -> MysqlConfig) {
    let at = with_events(donor).await;
    donor.exec("FLUSH BINARY LOGS").await.unwrap();
    donor.exec("INSERT INTO shop.t VALUES (3, 'rotated')").await.unwrap();
    let logs = Instance::new(config_of(donor)).logs(LogKind::Binary).await.unwrap();
    let (first, last) = (&logs.files[logs.files.len() - 2], &logs.files[logs.files.len() - 1]);
    let range = Range { last: Some(last.name.clone()), ..from(&first.name, at) };
    let reader = logs.binary(&range, ENOUGH).unwrap();
    let announced = reader.total_bytes;
    let bytes = read(reader);
    assert_eq!(bytes.len() as u64, announced);

    recipient.exec("CREATE DATABASE shop").await.unwrap();
    recipient.exec("CREATE TABLE shop.t (id INT PRIMARY KEY, v VARCHAR(50)) ENGINE=InnoDB").await.unwrap();
    let instance = Instance::new(config_of(recipient));
    let applied = binlog::apply(&instance, &bytes[..], ENOUGH).await.unwrap();
    assert_eq!(applied.bytes, announced);
    let rows = recipient.query("SELECT id, v FROM shop.t ORDER BY id").await.unwrap();
    assert_eq!(rows, [["2", "after"], ["3", "rotated"]]);
    let error = binlog::apply(&instance, &b"#!/bin/sh\nDROP DATABASE shop;"[..], ENOUGH).await.unwrap_err();
    assert!(error.to_string().contains("does not begin as a binary log"), "{error}");
    let error = binlog::apply(&instance, &bytes[..], 100).await.unwrap_err();
    assert!(error.to_string().contains("longer than the 100 bytes"), "{error}");
    a_command_in_a_log_is_not_run(donor, &instance).await;
    // The rows are there already: the client's own words come back.
    let error = binlog::apply(&instance, &bytes[..], ENOUGH).await.unwrap_err();
    assert!(error.to_string().contains("ERROR"), "{error}");
}

#[tokio::test]
async fn binary_contents_travel_between_mariadb_servers() {
    let (donor, recipient) = (mariadb().await, mariadb().await);
    travels(&donor, &recipient, config).await;
}

#[tokio::test]
async fn binary_contents_travel_between_mysql_9_servers() {
    use std::os::unix::fs::PermissionsExt;

    let Some(mut options) = mysql9() else { return };
    let Vendor::Mysql9 { root } = options.vendor.clone() else { unreachable!() };
    // Each would skip the other's transactions as its own by GTID; here they are plain events.
    options.lines.extend(["gtid-mode=OFF".into(), "enforce-gtid-consistency=OFF".into()]);
    let donor = Mysqld::start(MysqldOptions { ..options.clone() }).await.unwrap();
    let recipient = Mysqld::start(options).await.unwrap();
    // The tools need the libraries of their own tree; the temporary files they read are outside of it.
    let wrap = |server: &Mysqld, tool: &str| -> PathBuf {
        let path = server.base().join(tool);
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let loader = root.join("lib64/ld-linux-x86-64.so.2");
        let (loader, libraries, root) = (loader.display(), libraries.display(), root.display());
        let script =
            format!("#!/bin/sh\nexec {loader} --library-path {libraries} {root}/usr/bin/{tool} \"$@\"\n");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    travels(&donor, &recipient, |server| MysqlConfig {
        binlog_program: Some(wrap(server, "mysqlbinlog")),
        client_program: Some(wrap(server, "mysql")),
        ..config(server)
    })
    .await;
}

#[tokio::test]
async fn an_encrypted_log_is_recognised() {
    let keys = tempfile::Builder::new().prefix("oa-keys-").tempdir_in("/tmp").unwrap();
    let file = keys.path().join("keys");
    std::fs::write(&file, format!("1;{}\n", "0123456789abcdef".repeat(4))).unwrap();
    for path in [keys.path(), &file] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let lines = vec![
        "plugin-load-add=file_key_management".into(),
        format!("file-key-management-filename={}", file.display()),
        "encrypt-binlog=ON".into(),
    ];
    let server = Mysqld::start(MysqldOptions { lines, ..MysqldOptions::default() }).await.unwrap();
    with_events(&server).await;
    let logs = instance(&server).logs(LogKind::Binary).await.unwrap();
    let error = logs.binary(&from("binlog.000001", 4), ENOUGH).unwrap_err();
    assert!(error.to_string().contains("it is encrypted"), "{error}");
}

#[tokio::test]
async fn relay_logs_of_a_replica_are_listed_to_their_end() {
    let (primary, replica) = (mariadb().await, mariadb().await);
    primary.exec("CREATE USER repl@'127.0.0.1' IDENTIFIED BY 'x'").await.unwrap();
    primary.exec("GRANT REPLICATION SLAVE ON *.* TO repl@'127.0.0.1'").await.unwrap();
    let change = format!(
        "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='repl', MASTER_PASSWORD='x'",
        primary.port()
    );
    replica.exec(change).await.unwrap();
    replica.exec("START SLAVE IO_THREAD").await.unwrap();
    with_events(&primary).await;
    let instance = instance(&replica);
    testkit::poll::until_async(Duration::from_secs(30), "the events in the relay log", || async {
        let logs = instance.logs(LogKind::Relay).await.ok()?;
        let last = logs.files.last()?;
        assert!(last.name.contains("-relay-bin.") || last.name.contains("relay"), "{}", last.name);
        let range = from(&last.name, 0);
        text(&instance, &logs, &range).await.contains("'after'").then_some(())?;
        logs.end().unwrap()
    })
    .await;
    let names = instance.log_names().await;
    assert_eq!(names.log_bin, ["binlog".to_owned()].into());
    assert!(
        names.relay_log.iter().all(|base| base.contains("relay")) && !names.relay_log.is_empty(),
        "{names:?}"
    );
}
