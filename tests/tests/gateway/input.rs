//! What nobody should send, and who should not: bounded, answered, and never a command on the bus.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use e2e::world::{PATIENCE, client, serving};
use futures_util::StreamExt as _;
use testkit::agent::{Agent, AgentOptions};
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::node::Node;
use crate::program::{self, Gateway};
use crate::web;

/// An agent without a server, the gateway, and how many commands that change something went over the bus.
struct Yard {
    gateway: Gateway,
    token: String,
    commands: Arc<AtomicUsize>,
    _node: Node,
    _agent: Agent,
    _nats: NatsServer,
}

async fn yard(more: &str) -> Yard {
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let agent = Agent::start(AgentOptions::new("db1", &nats.url())).unwrap();
    let asker = client(&nats.url()).await;
    serving(&asker, agent.id()).await;
    let commands = Arc::new(AtomicUsize::new(0));
    let mut heard = asker.bus().subscribe("orch.v1.cmd.>".to_owned()).await.unwrap();
    let count = commands.clone();
    tokio::spawn(async move {
        while let Some(message) = heard.next().await {
            let reads =
                ["info", "status", "list", "show", "mount-status", "disk-usage", "disk-free", "error-log"];
            if !reads.iter().any(|read| message.subject.ends_with(read)) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let node = Node::start().await;
    let gateway = Gateway::start(&nats.url(), &node, more);
    let (_, token) = node.agent("db1").await;
    Yard { gateway, token, commands, _node: node, _agent: agent, _nats: nats }
}

impl Yard {
    async fn status(&self, request: impl AsRef<[u8]>) -> Option<u16> {
        web::raw(self.gateway.address(), request).await.map(|reply| reply.status)
    }

    async fn path(&self, path: &str) -> Option<u16> {
        self.gateway.get("db1", &path.replace("TOKEN", &self.token)).await.map(|reply| reply.status)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_requests_are_answered_and_never_reach_the_bus() {
    let yard = yard("listen.header_timeout_s = 2").await;
    let wrong = "0".repeat(64);
    let cut = &yard.token[..63];
    for (path, status) in [
        ("/api/mysql-stop".to_owned(), 500),
        (format!("/api/mysql-stop?token={wrong}"), 500),
        (format!("/api/mysql-stop?token={cut}"), 500),
        (format!("/api/mysql-stop?token={}&token=", yard.token), 500),
        ("/api/mysql-stop?TOKEN=TOKEN".to_owned(), 500),
        ("/api/../api/mysql-stop?token=TOKEN".to_owned(), 404),
        ("/api/%2e%2e/mysql-stop?token=TOKEN".to_owned(), 404),
        ("//api/mysql-stop?token=TOKEN".to_owned(), 404),
        ("/api/mysql%2dstop?token=TOKEN".to_owned(), 404),
        ("/api/mysql-stop//?token=TOKEN".to_owned(), 404),
        ("/api/mysql-stop/x?token=TOKEN".to_owned(), 404),
        ("/api/abort-seed/-1?token=TOKEN".to_owned(), 400),
        ("/api/abort-seed/+1?token=TOKEN".to_owned(), 400),
        ("/api/abort-seed/99999999999999999999?token=TOKEN".to_owned(), 400),
        ("/api/removelv?lv=$(reboot)&token=TOKEN".to_owned(), 500),
        ("/api/removelv?lv=/dev/vg0/../sda&token=TOKEN".to_owned(), 500),
        ("/api/mountlv?lv=-y&token=TOKEN".to_owned(), 500),
        ("/api/custom-commands/%2e%2e%2fx?token=TOKEN".to_owned(), 500),
        (format!("/api/mount?x={}&token=TOKEN", "a".repeat(9_000)), 414),
    ] {
        assert_eq!(yard.path(&path).await, Some(status), "{path}");
    }
    let send = yard.path("/api/send-mysql-seed-data/db1%2f..%2fdb2/1?token=TOKEN").await;
    assert_eq!(send, None, "an unknown recipient breaks the connection");
    let unknown = yard.gateway.get("db9", "/api/mount").await.unwrap();
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["Code"], "ERROR");

    let token = &yard.token;
    for (request, wanted) in [
        (
            format!(
                "POST /api/mysql-stop?token={token} HTTP/1.1\r\nHost: db1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            ),
            404,
        ),
        (
            format!(
                "GET /api/mysql-stop?token={token} HTTP/1.1\r\nHost: db1\r\nContent-Length: 5\r\n\r\nhello"
            ),
            413,
        ),
        (format!("GET /api/mysql-stop?token={token} HTTP/1.1\r\nConnection: close\r\n\r\n"), 404),
        ("GET http://db9/api/mount HTTP/1.1\r\nHost: db9\r\nConnection: close\r\n\r\n".to_owned(), 404),
        ("HELLO\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: db1\r\nBad Header\r\n\r\n".to_owned(), 400),
    ] {
        assert_eq!(yard.status(&request).await, Some(wanted), "{request}");
    }
    let long = format!("GET /api/{} HTTP/1.1\r\nHost: db1\r\n\r\n", "a".repeat(1 << 20));
    // The rest of it is not read, so the answer may be lost with the connection.
    assert!(matches!(yard.status(&long).await, None | Some(414 | 431)));
    let many = format!("GET / HTTP/1.1\r\nHost: db1\r\n{}\r\n", "A: b\r\n".repeat(2_000));
    assert!(matches!(yard.status(&many).await, None | Some(400 | 431)));
    assert_eq!(yard.commands.load(Ordering::Relaxed), 0, "a command went over the bus");
    assert_eq!(yard.path("/api/hostname").await, Some(200));
    let log = yard.gateway.log();
    assert!(!log.contains(token.as_str()) && log.contains("a request without the host's token"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_idle_and_slow_connections_hold_nobody_up() {
    let yard = yard("listen.header_timeout_s = 2\nlisten.max_connections = 400").await;
    let mut idle = Vec::new();
    for number in 0..2_000_u32 {
        if let Ok(mut stream) = TcpStream::connect(yard.gateway.address()).await {
            if number % 2 == 0 {
                let _ = stream.write_all(b"GET /api/hostname HTTP/1.1\r\nHo").await;
            }
            idle.push(stream);
        }
    }
    let begun = Instant::now();
    poll::until_async(PATIENCE, "an answer beside them", || async {
        yard.path("/api/hostname").await.filter(|status| *status == 200)
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    for stream in &mut idle {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "an idle connection is held for ever");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_only_look_changes_nothing() {
    let stopping = [
        "mountlv?lv=x&",
        "delete-mysql-datadir?",
        "receive-mysql-seed-data/1?",
        "send-mysql-seed-data/db1/1?",
        "post-copy/?",
        "mysql-start?",
    ];
    let others = [
        "umount?",
        "removelv?lv=x&",
        "create-snapshot?",
        "mysql-stop?",
        "custom-commands/x?",
        "abort-seed/1?",
    ];
    for more in ["gateway.read_only = true", "listen.actors = [\"192.0.2.0/24\"]"] {
        let yard = yard(more).await;
        for action in stopping {
            assert_eq!(yard.path(&format!("/api/{action}token=TOKEN")).await, None, "{more}: {action}");
        }
        for action in others {
            assert_eq!(yard.path(&format!("/api/{action}token=TOKEN")).await, Some(500), "{more}: {action}");
        }
        assert_eq!(yard.path("/api/mysql-status?token=TOKEN").await, Some(200));
        assert_eq!(yard.commands.load(Ordering::Relaxed), 0);
        assert_eq!(yard.gateway.log().matches("\"refused\"").count(), stopping.len() + others.len());
    }
    let outside = yard("listen.clients = [\"192.0.2.0/24\"]").await;
    assert_eq!(outside.path("/api/hostname").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn basic_auth_is_wanted_of_everybody_where_it_is_configured() {
    let dir = tempfile::tempdir().unwrap();
    let login = dir.path().join("login");
    fs::write(&login, "dba:s3cret\n").unwrap();
    fs::set_permissions(&login, fs::Permissions::from_mode(0o600)).unwrap();
    let yard = yard(&format!("listen.basic_auth_file = {:?}", login.display().to_string())).await;
    assert_eq!(yard.path("/api/hostname").await, Some(401));
    for (header, status) in
        [("Basic ZGJhOnMzY3JldA==", 200), ("Basic ZGJhOnMzY3JldB==", 401), ("dba:s3cret", 401)]
    {
        let request = format!(
            "GET /api/hostname HTTP/1.1\r\nHost: db1\r\nAuthorization: {header}\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(yard.status(request).await, Some(status), "{header}");
    }
}

#[test]
fn a_configuration_that_cannot_be_used_is_told_with_file_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("gateway.toml");
    fs::write(&config, "listen.prot = 3002\n").unwrap();
    let output = program::check(&config);
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("gateway.toml: listen.prot: unknown field"), "{said}");
    let output = program::check(&dir.path().join("none.toml"));
    assert_eq!(output.status.code(), Some(78));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_spoken_where_it_is_configured_and_no_certificate_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["db1".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let yard = yard(&format!(
        "listen.tls_cert = {:?}\nlisten.tls_key = {:?}",
        cert.display().to_string(),
        key.display().to_string()
    ))
    .await;
    assert_eq!(yard.path("/api/hostname").await, None, "plain HTTP is not spoken");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let stream = TcpStream::connect(yard.gateway.address()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect("db1".try_into().unwrap(), stream).await.unwrap();
    stream.write_all(b"GET /api/hostname HTTP/1.1\r\nHost: db1\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\"db1\""), "{answer}");
}
