//! Find, ask, start and stop real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

mod common;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::{config, instance, mariadb, mysql9};
use mysql::config::{ArgvService, ServiceConfig};
use mysql::{Error, Instance};
use protocol::mysql::{Flavor, ServerState};
use testkit::mysqld::{Mysqld, MysqldOptions};

#[tokio::test]
async fn info_of_a_running_mariadb_comes_from_the_server() {
    let server = mariadb().await;
    server.exec("CREATE DATABASE shop").await.unwrap();
    let info = instance(&server).info().await;
    assert_eq!(info.state, ServerState::Ready);
    assert_eq!(info.pid, server.pid());
    assert_eq!(info.port, Some(server.port()));
    assert_eq!(info.socket, Some(server.socket()));
    assert_eq!(info.datadir.as_deref(), Some(server.datadir()));
    assert_eq!(info.error_log, Some(server.error_log()));
    assert_eq!(info.server_id, Some(server.port().into()));
    let version = info.version.unwrap();
    assert_eq!(version.flavor, Flavor::Mariadb);
    assert!(version.number >= [10, 11, 0], "{version:?}");
    let at = info.coordinates.unwrap();
    assert_eq!(at.binlog.unwrap().file, "binlog.000001");
    assert!(at.gtid.unwrap().starts_with("0-"));
    let layout = info.layout.unwrap();
    assert_eq!((layout.innodb_page_size, layout.lower_case_table_names), (16_384, 0));
    assert_eq!(layout.log_bin, Some(server.datadir().join("binlog")));
    assert_eq!((layout.innodb_data_home_dir, layout.innodb_undo_directory), (None, None));
    assert_eq!((info.read_only, info.replicas, info.replica_of), (Some(false), Some(0), None));
}

#[tokio::test]
async fn info_of_a_stopped_mariadb_comes_from_the_option_files() {
    let server = Mysqld::prepare(MysqldOptions::default()).unwrap();
    let info = instance(&server).info().await;
    assert_eq!(info.state, ServerState::Stopped);
    assert_eq!(info.pid, None);
    assert_eq!(info.port, Some(server.port()));
    assert_eq!(info.socket, Some(server.socket()));
    assert_eq!(info.datadir.as_deref(), Some(server.datadir()));
    assert_eq!(info.error_log, Some(server.error_log()));
    assert_eq!(info.version.unwrap().flavor, Flavor::Mariadb);
    assert_eq!(info.layout.unwrap().log_bin, Some(server.datadir().join("binlog")));
    assert_eq!(info.coordinates, None);
}

#[tokio::test]
async fn logs_of_another_engine_outside_the_datadir_are_told_running_and_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let aria = dir.path().canonicalize().unwrap();
    std::fs::set_permissions(&aria, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let lines = vec![format!("aria_log_dir_path={}", aria.display())];
    let server = Mysqld::prepare(MysqldOptions { lines, ..MysqldOptions::default() }).unwrap();
    let instance = instance(&server);
    for state in [ServerState::Stopped, ServerState::Ready] {
        if state == ServerState::Ready {
            instance.start().await.unwrap();
        }
        let info = instance.info().await;
        assert_eq!(info.state, state);
        assert_eq!(info.layout.unwrap().further_dirs, std::slice::from_ref(&aria), "{state:?}");
    }
    instance.stop().await.unwrap();
}

#[tokio::test]
async fn start_returns_when_the_server_answers_and_stop_when_it_is_gone() {
    let mut server = Mysqld::prepare(MysqldOptions::default()).unwrap();
    let instance = instance(&server);
    instance.start().await.unwrap();
    // No waiting here: ready means that this very next query works.
    server.exec("CREATE TABLE mysql.t (a INT) ENGINE=InnoDB").await.unwrap();
    assert_eq!(instance.state().await, ServerState::Ready);
    instance.start().await.expect("starting a running server is no error");
    instance.stop().await.unwrap();
    assert_eq!(instance.state().await, ServerState::Stopped);
    assert_eq!(server.pid(), None);
    instance.stop().await.expect("stopping a stopped server is no error");
    // Stopped means that another server may have the files.
    server.boot().await.unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_start_fails_with_its_own_words() {
    let options = MysqldOptions { lines: vec!["no-such-option=1".into()], ..MysqldOptions::default() };
    let server = Mysqld::prepare(options).unwrap();
    let began = Instant::now();
    let error = instance(&server).start().await.unwrap_err();
    assert!(matches!(error, Error::NotReady { .. }), "{error}");
    assert!(error.to_string().contains("no-such-option"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(30), "a dead server needs no patience");
}

#[tokio::test]
async fn crash_recovery_is_reported_while_starting() {
    let mut server = mariadb().await;
    server.exec("CREATE DATABASE shop").await.unwrap();
    server.exec("CREATE TABLE shop.t ENGINE=InnoDB SELECT seq FROM shop.seq_1_to_20000").await.unwrap();
    server.kill9().await.unwrap();
    let instance = instance(&server);
    assert_eq!(instance.state().await, ServerState::Stopped);
    let seen = Mutex::new(Vec::new());
    instance.start_with(&|p| seen.lock().unwrap().push(p.message)).await.unwrap();
    let seen = seen.into_inner().unwrap();
    assert!(seen.iter().any(|m| m.contains("crash recovery")), "{seen:?}");
    assert_eq!(server.scalar("SELECT COUNT(*) FROM shop.t").await.unwrap(), "20000");
}

#[tokio::test]
async fn a_mistyped_status_command_never_makes_a_server_look_stopped() {
    let argv = |server: &Mysqld, status: &str| {
        let service = ArgvService {
            start: server.argv(),
            stop: vec!["true".into()],
            status: Some(vec![status.to_owned(), "is-active".into()]),
        };
        Instance::new(mysql::MysqlConfig { service: ServiceConfig::Argv(service), ..config(server) })
    };
    let stopped = Mysqld::prepare(MysqldOptions::default()).unwrap();
    let mistyped = argv(&stopped, "/usr/bin/systmctl");
    assert_eq!(mistyped.state().await, ServerState::Unknown);
    assert!(mistyped.state().await.may_be_running());
    let error = mistyped.start().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    // And a status command that says "stopped" of a running server is not believed.
    let mut running = mariadb().await;
    let liar = argv(&running, "/bin/false");
    assert_eq!(liar.state().await, ServerState::Ready);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_running_server_is_seen_without_its_password_and_without_its_socket() {
    let server = mariadb().await;
    let locked_out = mysql::MysqlConfig { user: Some("stranger".into()), ..config(&server) };
    let info = Instance::new(locked_out).info().await;
    assert_eq!((info.state, info.pid), (ServerState::ReadyNoAccess, server.pid()));
    std::fs::remove_file(server.socket()).unwrap();
    let info = instance(&server).info().await;
    assert_eq!((info.state, info.pid), (ServerState::NotReady, server.pid()));
    let error = mysql::datadir::clear(server.datadir()).unwrap_err();
    assert!(error.to_string().contains("in use by a running server"), "{error}");
}

#[tokio::test]
async fn another_server_on_our_socket_is_not_ours() {
    let other = mariadb().await;
    let ours = Mysqld::prepare(MysqldOptions::default()).unwrap();
    let crossed = mysql::MysqlConfig { socket: Some(other.socket()), ..config(&ours) };
    assert_eq!(Instance::new(crossed.clone()).state().await, ServerState::Stopped);
    let error = Instance::new(crossed).connect().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}

#[tokio::test]
async fn login_by_unix_socket_and_by_password_file() {
    use std::os::unix::fs::PermissionsExt;

    let server = mariadb().await;
    server
        .exec("ALTER USER root@localhost IDENTIFIED VIA mysql_native_password USING 'invalid' OR unix_socket")
        .await
        .unwrap();
    let by_os_user = mysql::MysqlConfig { user: None, ..config(&server) };
    let os_user_is_root = nix::unistd::Uid::effective().is_root();
    if os_user_is_root {
        assert_eq!(Instance::new(by_os_user.clone()).state().await, ServerState::Ready);
        let mut session = Instance::new(by_os_user.clone()).connect().await.unwrap();
        session
            .exec("make an account", "CREATE USER agent@localhost IDENTIFIED BY 'pw with spaces'")
            .await
            .unwrap();
        let secret = server.base().join("secret");
        std::fs::write(&secret, "pw with spaces\n").unwrap();
        let by_password = mysql::MysqlConfig {
            user: Some("agent".into()),
            password_file: Some(secret.clone()),
            ..config(&server)
        };
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Instance::new(by_password.clone()).connect().await.unwrap_err();
        assert!(matches!(error, Error::SecretExposed { mode: 0o644, .. }), "{error}");
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        Instance::new(by_password).connect().await.unwrap();
    }
}

#[tokio::test]
async fn the_error_log_tail_and_disk_figures_are_of_this_instance() {
    let server = mariadb().await;
    let instance = instance(&server);
    let tail = instance.error_log_tail(5).await.unwrap();
    assert!(
        tail.len() == 5 && tail.iter().any(|l| l.contains("ready for connections") || l.contains("Version")),
        "{tail:?}"
    );
    let usage = instance.disk_usage(server.datadir()).await.unwrap();
    assert!(usage.allocated_bytes > 10_000_000 && usage.files > 50, "{usage:?}");
    assert!(instance.disk_free(server.datadir()).unwrap().available_bytes > 0);
}

#[tokio::test]
async fn an_error_log_on_stderr_is_read_where_that_goes() {
    let options = MysqldOptions { lines: vec!["skip-log-error".into()], ..MysqldOptions::default() };
    let server = Mysqld::prepare(options).unwrap();
    let stderr = std::fs::File::create(server.base().join("stderr")).unwrap();
    let argv = server.argv();
    let mut child = std::process::Command::new(&argv[0]).args(&argv[1..]).stderr(stderr).spawn().unwrap();
    let instance = instance(&server);
    testkit::poll::until_async(Duration::from_secs(60), "the server to answer", || async {
        (instance.state().await == ServerState::Ready).then_some(())
    })
    .await;
    assert_eq!(instance.info().await.error_log, None);
    let tail = instance.error_log_tail(20).await.unwrap();
    assert!(tail.iter().any(|line| line.contains("ready for connections")), "{tail:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn mysql_9_is_found_started_stopped_and_asked() {
    let Some(options) = mysql9() else { return };
    let mut server = Mysqld::prepare(options).unwrap();
    let instance = instance(&server);
    assert_eq!(instance.state().await, ServerState::Stopped);
    instance.start().await.unwrap();
    server.exec("CREATE DATABASE shop").await.unwrap();
    let info = instance.info().await;
    assert_eq!((info.state, info.pid), (ServerState::Ready, server.pid()));
    assert_eq!(info.datadir.unwrap().canonicalize().unwrap(), server.datadir().canonicalize().unwrap());
    let version = info.version.unwrap();
    assert_eq!((version.flavor, version.number[0]), (Flavor::Mysql, 9));
    let uuid = info.server_uuid.unwrap();
    let at = instance.coordinates().await.unwrap();
    assert_eq!(at.gtid, Some(format!("{uuid}:1")));
    assert!(at.binlog.unwrap().file.starts_with("binlog.00000"));
    instance.stop().await.unwrap();
    let info = instance.info().await;
    assert_eq!((info.state, info.pid), (ServerState::Stopped, None));
    assert_eq!(info.server_uuid, Some(uuid), "auto.cnf tells it of a stopped server");
    server.boot().await.unwrap();
}
