//! Who is let in, under which name, and how many follow at once; without a browser.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use e2e::world::PATIENCE;
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::site::Site;
use crate::node::Node;
use crate::program::{self, Gateway};
use crate::web;

async fn served(site: &Site) {
    poll::until_async(PATIENCE, "the page", || async {
        site.get("/").await.filter(|reply| reply.status == 200)
    })
    .await;
}

/// A connection that follows a place, once its first tick has come.
async fn follow(site: &Site, at: &str) -> Result<TcpStream, String> {
    let mut stream = TcpStream::connect(site.address()).await.unwrap();
    let request = format!("GET /live?at={at} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = String::new();
    let mut piece = [0; 4096];
    let reading = async {
        while !said.contains("event: tick") {
            let read = stream.read(&mut piece).await.unwrap();
            said.push_str(&String::from_utf8_lossy(&piece[..read]));
            if read == 0 || said.contains(" 503 ") || said.contains(" 404 ") {
                return Err(said);
            }
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap()?;
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_answers_under_its_own_names_by_get_alone_and_in_nobodys_frame() {
    let nats = NatsServer::down(&NatsOptions::jetstream()).unwrap();
    let node = Node::start().await;
    let site = Site::claim();
    let _gateway = Gateway::start(&nats.url(), &node, &site.config("page.names = [\"fleet.example.com\"]"));
    served(&site).await;
    let said = site.get("/").await.unwrap().body;
    assert!(
        said.contains("No connection to the bus") && said.contains("orchestrator-ctl bus status"),
        "{said}"
    );
    for (host, status) in [
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("localhost", 200),
        ("fleet.example.com", 200),
        ("[::1]", 200),
    ] {
        for path in ["/", "/page.js", "/live?at=/nothing", "/nothing"] {
            let wanted = if status == 200 && path.contains("nothing") { 404 } else { status };
            let reply = web::get(site.address(), host, path).await.unwrap();
            assert_eq!(reply.status, wanted, "{host} {path}: {}", reply.body);
        }
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        assert_eq!(web::raw(site.address(), request).await.unwrap().status, 404, "{method}");
    }
    for path in
        ["/host/nobody", "/host/a%2fb", "/seed/1", "/seed/01a2058f-ae02-75f2-bc42-97f374dffcab", "/x", "//"]
    {
        let reply = site.get(path).await.unwrap();
        assert_eq!((reply.status, reply.kind.as_str()), (404, "text/html; charset=utf-8"), "{path}");
        assert!(reply.body.contains("Not here"), "{path}");
    }
    let mut stream = TcpStream::connect(site.address()).await.unwrap();
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    for header in [
        "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
         frame-ancestors 'none'; base-uri 'none'; form-action 'self'\r\n",
        "x-content-type-options: nosniff\r\n",
        "referrer-policy: no-referrer\r\n",
        "cache-control: no-store\r\n",
    ] {
        assert!(answer.contains(header), "{header}\n{answer}");
    }
    assert!(
        !answer.contains(" style=") && !answer.contains("<script>") && !answer.contains("javascript:"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_follow_are_counted_and_a_place_is_free_again_when_one_leaves() {
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let node = Node::start().await;
    let site = Site::claim();
    let gateway = Gateway::start(&nats.url(), &node, &site.config("page.max_watchers = 6"));
    served(&site).await;
    let mut following = Vec::new();
    for place in ["/", "/seeds", "/events"] {
        following.push(follow(&site, place).await.unwrap());
    }
    // One address gets half of the places.
    let refused = follow(&site, "/").await.unwrap_err();
    assert!(refused.contains(" 503 "), "{refused}");
    assert!(gateway.log().contains("see page.max_watchers"));
    following.pop();
    poll::until_async(PATIENCE, "a place to be free", || async { follow(&site, "/").await.ok() }).await;
    // Many who connect and say nothing, and who follow and read nothing, hold nobody up.
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(site.address()).await.unwrap());
    }
    let began = std::time::Instant::now();
    assert_eq!(site.get("/").await.unwrap().status, 200);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(follow(&site, "%2Fnothing").await.unwrap_err().contains(" 404 "));
    drop((following, idle));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn off_the_loopback_the_page_wants_tls_and_a_login_and_nobody_is_shown_anything_without_it() {
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let node = Node::start().await;
    let site = Site::claim();
    let dir = tempfile::tempdir().unwrap();
    let login = dir.path().join("login");
    fs::write(&login, "dba:s3cret\n").unwrap();
    fs::set_permissions(&login, fs::Permissions::from_mode(0o600)).unwrap();
    let gateway =
        Gateway::start(&nats.url(), &node, &site.config(&format!("page.basic_auth_file = {login:?}")));
    let ask = async |line: &str| {
        let request = format!("GET /events HTTP/1.1\r\nHost: localhost\r\n{line}Connection: close\r\n\r\n");
        web::raw(site.address(), request).await
    };
    poll::until_async(PATIENCE, "the page", || ask("")).await;
    for line in ["", "Authorization: Basic ZGJhOndyb25n\r\n", "Authorization: Basic\r\n"] {
        let reply = ask(line).await.unwrap();
        assert!(reply.status == 401 && !reply.body.contains("html"), "{line}: {reply:?}");
    }
    assert_eq!(ask("Authorization: Basic ZGJhOnMzY3JldA==\r\n").await.unwrap().status, 200);
    let text = fs::read_to_string(gateway.config())
        .unwrap()
        .replace("page.listen = \"127.0.0.1:", "page.listen = \"0.0.0.0:");
    let open = dir.path().join("gateway.toml");
    fs::write(&open, text).unwrap();
    let refused = program::check(&open);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("page.listen: off the loopback the page needs page.tls_cert"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_speaks_tls_alone_where_it_has_a_certificate() {
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let node = Node::start().await;
    let site = Site::claim();
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let _gateway = Gateway::start(
        &nats.url(),
        &node,
        &site.config(&format!("page.tls_cert = {cert:?}\npage.tls_key = {key:?}")),
    );
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let answer = poll::until_async(PATIENCE, "the page by TLS", || async {
        let stream = TcpStream::connect(site.address()).await.ok()?;
        let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        Some(answer)
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("What is wrong now"), "{answer}");
    assert!(site.get("/").await.is_none(), "plain HTTP is not spoken");
}
