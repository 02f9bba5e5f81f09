//! Where servers keep what.

use testkit::mysqld::Shape;

/// Where donor and recipient keep what.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// In a cell's key.
    pub name: &'static str,
    /// For the page.
    pub title: &'static str,
    /// The donor's.
    pub donor: Shape,
    /// The recipient's.
    pub recipient: Shape,
    /// The recipient's datadir is a mount point.
    pub on_mount_point: bool,
    /// The plan's words where it must refuse.
    pub refused: Option<&'static str>,
}

const PLAIN: Shape = Shape { lines: &[], directories: &[], files: &[], moved: &[], is_linked: false };
const LOG_ELSEWHERE: Shape =
    Shape { lines: &["log-bin={base}/logs/binlog"], directories: &["logs"], ..PLAIN };
const STOCK: Layout =
    Layout { name: "", title: "", donor: PLAIN, recipient: PLAIN, on_mount_point: false, refused: None };

/// Both hosts as their package makes them.
pub const AS_PACKAGED: Layout = Layout { name: "as-packaged", title: "as packaged", ..STOCK };

/// Both log outside their datadirs.
pub const LOGS_ELSEWHERE: Layout = Layout {
    name: "logs-elsewhere",
    title: "binary logs outside both datadirs",
    donor: LOG_ELSEWHERE,
    recipient: LOG_ELSEWHERE,
    ..STOCK
};

/// Every layout.
pub const ALL: [Layout; 24] = [
    AS_PACKAGED,
    LOGS_ELSEWHERE,
    Layout {
        name: "donor-logs-elsewhere",
        title: "the donor's binary log outside its datadir",
        donor: LOG_ELSEWHERE,
        ..STOCK
    },
    Layout {
        name: "recipient-logs-elsewhere",
        title: "the recipient's binary log outside its datadir",
        recipient: LOG_ELSEWHERE,
        ..STOCK
    },
    both(
        "log-below",
        "binary logs in a directory of the datadir, named relatively",
        Shape { lines: &["log-bin=logs/binlog"], directories: &["data/logs"], ..PLAIN },
    ),
    both(
        "log-absolute",
        "binary logs in the datadir, named absolutely",
        Shape { lines: &["log-bin={datadir}/binlog"], ..PLAIN },
    ),
    both(
        "index-elsewhere",
        "the index of the binary logs outside the datadir",
        Shape { lines: &["log-bin-index={base}/logs/names.index"], directories: &["logs"], ..PLAIN },
    ),
    Layout {
        name: "other-log-names",
        title: "binary logs of different names",
        donor: Shape { lines: &["log-bin=db1-bin"], ..PLAIN },
        recipient: Shape { lines: &["log-bin=db2-bin"], ..PLAIN },
        ..STOCK
    },
    Layout {
        name: "no-log",
        title: "the recipient keeps no binary log",
        recipient: Shape { lines: &["skip-log-bin", "log-slave-updates=OFF"], ..PLAIN },
        ..STOCK
    },
    both(
        "relay-elsewhere",
        "relay logs outside the datadir",
        Shape { lines: &["relay-log={base}/logs/relay"], directories: &["logs"], ..PLAIN },
    ),
    both(
        "tmpdir-below",
        "tmpdir in the datadir",
        Shape { lines: &["tmpdir={datadir}/tmp"], directories: &["data/tmp"], ..PLAIN },
    ),
    both(
        "error-log-below",
        "error log and pid file in a directory of the datadir",
        Shape {
            lines: &["log-error={datadir}/log/error.log", "pid-file={datadir}/log/pid"],
            directories: &["data/log"],
            ..PLAIN
        },
    ),
    both(
        "work-below",
        "directories of relay logs, other logs and temporary files in the datadir",
        Shape {
            lines: &[
                "relay-log={datadir}/relay/relay",
                "slave-load-tmpdir={datadir}/load",
                "innodb-tmpdir={datadir}/sort",
                "general-log-file={datadir}/log/general",
                "slow-query-log=ON",
                "slow-query-log-file={datadir}/log/slow",
            ],
            directories: &["data/relay", "data/load", "data/sort", "data/log"],
            ..PLAIN
        },
    ),
    Layout {
        refused: Some("init-file"),
        recipient: Shape {
            lines: &["init-file={base}/init.sql"],
            files: &[("init.sql", "CREATE DATABASE IF NOT EXISTS made;\n")],
            ..PLAIN
        },
        name: "init-file",
        title: "the recipient's server makes a schema at each start (`init-file`)",
        ..STOCK
    },
    Layout {
        recipient: Shape {
            lines: &["init-file={base}/init.sql"],
            files: &[("init.sql", "-- Of ours.\nSET GLOBAL max_connections = 50;\n")],
            ..PLAIN
        },
        name: "init-file-settings",
        title: "the recipient's server sets variables at each start (`init-file`)",
        ..STOCK
    },
    Layout {
        refused: Some("slave-exec-mode"),
        recipient: Shape { lines: &["slave-exec-mode=IDEMPOTENT"], ..PLAIN },
        name: "idempotent",
        title: "the recipient's applier passes over rows that are missing",
        ..STOCK
    },
    Layout {
        recipient: Shape {
            lines: &[
                "read-only=ON",
                "skip-slave-start",
                "slave-parallel-workers=4",
                "relay-log-recovery=ON",
                "log-slave-updates=OFF",
                "loose-gtid-strict-mode=ON",
                "loose-super-read-only=ON",
                "sync-binlog=1",
            ],
            ..PLAIN
        },
        name: "replica-settings",
        title: "the recipient has a replica's option file",
        ..STOCK
    },
    Layout {
        name: "link",
        title: "both datadirs named by links",
        donor: Shape { is_linked: true, ..PLAIN },
        recipient: Shape { is_linked: true, ..PLAIN },
        ..STOCK
    },
    Layout {
        name: "mount-point",
        title: "the recipient's datadir is a mount point",
        on_mount_point: true,
        ..STOCK
    },
    Layout {
        name: "mount-point-logs-elsewhere",
        title: "a mount point, and binary logs outside both datadirs",
        on_mount_point: true,
        ..LOGS_ELSEWHERE
    },
    both(
        "two-data-files",
        "the system tablespace in two files",
        Shape { lines: &["innodb-data-file-path=ibdata1:12M;ibdata2:12M:autoextend"], ..PLAIN },
    ),
    Layout {
        refused: Some("lies outside the donor's datadir"),
        ..both(
            "redo-elsewhere",
            "redo logs outside both datadirs",
            Shape {
                lines: &["innodb-log-group-home-dir={base}/redo"],
                directories: &["redo"],
                moved: &[("ib_logfile", "redo"), ("#innodb_redo", "redo")],
                ..PLAIN
            },
        )
    },
    Layout {
        refused: Some("lies outside the donor's datadir"),
        ..both(
            "system-elsewhere",
            "the system tablespace outside both datadirs",
            Shape {
                lines: &["innodb-data-home-dir={base}/system"],
                directories: &["system"],
                moved: &[("ibdata", "system")],
                ..PLAIN
            },
        )
    },
    Layout {
        name: "own-page-settings",
        title: "a recipient with a bigger buffer pool, redo log and SQL mode of its own",
        recipient: Shape {
            lines: &[
                "innodb-buffer-pool-size=64M",
                "sql-mode=ANSI_QUOTES,NO_BACKSLASH_ESCAPES",
                "autocommit=0",
            ],
            ..PLAIN
        },
        ..STOCK
    },
];

const fn both(name: &'static str, title: &'static str, shape: Shape) -> Layout {
    Layout { name, title, donor: shape, recipient: shape, ..STOCK }
}
