//! What the mysql user, a server or a stranger's log may hold, read by those who must not believe it.

use std::fs;

use crate::options::OptionFiles;
use crate::{binlog, errorlog, find, gtid, hold, position};

#[test]
fn fuzz_option_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("my.cnf");
    let samples = [
        &b"[mysqld]\ndatadir=/var/lib/mysql\nlog-bin\nport = 3306 # x\nsocket='/run/a b'\n!includedir /nowhere/\n"[..],
        b"[client]\npassword=\"a#b\\\"c\"\n[mariadb-10.11]\nskip-log-bin\nloose-x=1\n",
    ];
    testkit::fuzz::run("options", &samples, 3000, |bytes| {
        fs::write(&path, bytes).unwrap();
        if let Ok(files) = OptionFiles::load_file(&path) {
            let options = files.effective(&["mysqld", "client"]);
            assert!(options.iter().all(|(name, _)| !name.contains(['\n', '='])));
            let _ = (options.path("datadir"), options.is_on("log-bin"));
        }
    });
}

#[test]
fn fuzz_error_logs() {
    let samples = [
        &b"2026-11-27  3:00:00 0 [Note] InnoDB: 128 rollback segments are active.\n"[..],
        b"2026-11-27T03:00:00.000000Z 0 [System] [MY-010931] [Server] /usr/sbin/mysqld: ready for connections. Version: '9.7.0'  socket: '/run/s'  port: 3306\n",
        b"2026-11-27  3:00:00 0 [Note] InnoDB: To recover: 12345 pages\n",
        b"2026-11-27  3:00:01 0 [ERROR] Found 1 prepared transactions! It means that server was not shut down properly\n",
    ];
    testkit::fuzz::run("errorlog", &samples, 5000, |bytes| {
        String::from_utf8_lossy(bytes).lines().for_each(|line| drop(errorlog::parse(line)));
    });
}

#[test]
fn fuzz_binary_logs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("binlog.000001");
    testkit::fuzz::run("binlog", &[binlog::format::sample()], 3000, |bytes| {
        fs::write(&path, bytes).unwrap();
        let end = binlog::format::last_event_end(&path, None);
        assert!(end.is_err() || end.is_ok_and(|end| end <= (bytes.len() as u64).max(4)));
        drop((binlog::inspect(&path), binlog::format::checkpoint(&path)));
    });
}

#[test]
fn fuzz_what_servers_and_units_say() {
    let samples = [
        &b"10.11.6-MariaDB-0+deb12u1-log"[..],
        b"/usr/sbin/mysqld  Ver 9.7.0 for Linux on x86_64 (Source distribution)",
        b"0-1-42,1-2-18446744073709551615",
        b"{\"gtid_executed\": \"3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5\", \"binary_log_file\": \"b.1\", \"binary_log_position\": 4}",
        b"[Unit]\nAssertPathExists=!/x\n\n[X-Orchestrator]\nAgent=db1\nJob=j\nStopped=mariadb.socket\n",
    ];
    testkit::fuzz::run("texts", &samples, 5000, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        drop((
            find::parse_version(&text, None),
            gtid::parse(&text),
            hold::Hold::parse("mariadb.service", &text),
        ));
        drop(position::parse_log_status(&text));
        assert_ne!(position::one_line(&text).as_deref(), Some(""));
    });
}
