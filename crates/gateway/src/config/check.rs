//! What types cannot say, and whether the files are there. The key and the reason of the first thing that cannot work.

use hyper::Uri;
use sys::error::line;
use tracing_subscriber::filter::LevelFilter;

use super::Config;
use crate::names::Naming;
use crate::secrets;

type Checked = Result<(), (String, String)>;

fn wrong(key: &str, reason: impl Into<String>) -> Checked {
    Err((key.to_owned(), reason.into()))
}

/// Checks values by themselves.
pub(super) fn values(config: &Config) -> Checked {
    let gateway = &config.gateway;
    if !gateway.state_dir.is_absolute() {
        return wrong("gateway.state_dir", "expected an absolute path");
    }
    if let Err(reason) = Naming::new(&gateway.name) {
        return wrong("gateway.name", reason);
    }
    if !(1..=55).contains(&gateway.hold_s) {
        return wrong("gateway.hold_s", "expected 1 to 55 seconds: orchestrator waits 60");
    }
    if gateway.cache_ms > 10_000 {
        return wrong("gateway.cache_ms", "expected at most 10000: older answers mislead orchestrator");
    }
    for (key, value) in [
        ("gateway.forget_after_s", gateway.forget_after_s),
        ("orchestrator.ping_s", config.orchestrator.ping_s),
        ("orchestrator.resubmit_s", config.orchestrator.resubmit_s),
        ("listen.header_timeout_s", config.listen.header_timeout_s),
        ("listen.max_connections", config.listen.max_connections as u64),
    ] {
        if value == 0 {
            return wrong(key, "expected at least 1");
        }
    }
    if !(512..=32_768).contains(&config.listen.max_url_bytes) {
        return wrong("listen.max_url_bytes", "expected 512 to 32768");
    }
    ports(config)?;
    for node in &config.orchestrator.nodes {
        let uri: Option<Uri> = node.parse().ok();
        let scheme = uri.as_ref().and_then(Uri::scheme_str);
        if !matches!(scheme, Some("http" | "https")) || uri.as_ref().and_then(Uri::host).is_none() {
            return wrong("orchestrator.nodes", format!("{node:?} is no URL such as http://orc1:3001"));
        }
        if node.contains(['@', '?', '#']) {
            return wrong(
                "orchestrator.nodes",
                "a node is scheme, host, port and prefix only; a password belongs into orchestrator.basic_auth_file",
            );
        }
    }
    level(&config.log.level)?;
    config.bus.validate().map_err(|error| ("bus".to_owned(), line(&error)))
}

fn ports(config: &Config) -> Checked {
    let listen = &config.listen;
    if let Some([first, last]) = listen.ports {
        if first == 0 || first > last {
            return wrong("listen.ports", "expected first and last port, for example [3100, 3199]");
        }
        if listen.port.is_some() {
            return wrong(
                "listen.port",
                "leave it away where listen.ports gives each host a port of its own",
            );
        }
    }
    if listen.tls_cert.is_some() != listen.tls_key.is_some() {
        return wrong("listen.tls_cert", "tls_cert and tls_key go together");
    }
    let metrics = config.metrics.listen.map(|address| address.port());
    let page = config.page.listen.map(|address| address.port());
    for (key, port) in [("metrics.listen", metrics), ("page.listen", page)] {
        if let Some(port) = port
            && (listen.shared_port() == Some(port)
                || listen.ports.is_some_and(|[a, b]| (a..=b).contains(&port)))
        {
            return wrong(key, format!("port {port} is one of listen; expected one of its own"));
        }
    }
    if page.is_some() && page == metrics {
        return wrong("page.listen", "metrics.listen has this port; expected one of its own");
    }
    self::page(config)
}

/// The page shows names, error logs and events: beyond this machine only to who is known, and unread on the way.
fn page(config: &Config) -> Checked {
    let page = &config.page;
    if page.tls_cert.is_some() != page.tls_key.is_some() {
        return wrong("page.tls_cert", "tls_cert and tls_key go together");
    }
    if page.max_watchers == 0 {
        return wrong("page.max_watchers", "expected at least 1");
    }
    let is_name = |name: &String| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
    };
    if let Some(name) = page.names.iter().find(|name| !is_name(name)) {
        return wrong(
            "page.names",
            format!("{name:?} is no host name; expected one without scheme and port"),
        );
    }
    if page.actions && page.basic_auth_file.is_none() {
        return wrong(
            "page.actions",
            "needs page.basic_auth_file: what is done is done in the name of who logged in",
        );
    }
    if page.actions && config.gateway.read_only {
        return wrong("page.actions", "gateway.read_only lets nothing be changed");
    }
    let Some(address) = page.listen else { return Ok(()) };
    let is_closed = page.tls_cert.is_some() && page.basic_auth_file.is_some();
    if !address.ip().to_canonical().is_loopback() && !is_closed && !page.allow_plain {
        return wrong(
            "page.listen",
            "off the loopback the page needs page.tls_cert, page.tls_key and page.basic_auth_file; page.allow_plain = true goes \
             without, where a proxy in front adds TLS and a login",
        );
    }
    Ok(())
}

/// A word that is no level would be taken for the name of a module, and nothing be logged any more.
fn level(text: &str) -> Checked {
    for part in text.split(',').map(str::trim) {
        if !part.contains(['=', '[']) && part.parse::<LevelFilter>().is_err() {
            return wrong(
                "log.level",
                format!("{part:?} is no level; expected error, warn, info, debug or trace"),
            );
        }
    }
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(()),
        Err(error) => wrong("log.level", error.to_string()),
    }
}

/// Looks at the files that the configuration names, before anything is tried with them.
pub(super) fn files(config: &Config) -> Checked {
    let at = |key: &str| {
        let key = key.to_owned();
        move |error: secrets::SecretError| (key, line(&error))
    };
    secrets::token_secret(&config.gateway.token_secret_file).map_err(at("gateway.token_secret_file"))?;
    if let Some(path) = &config.gateway.sign_key_file {
        secrets::sign_key(path).map_err(at("gateway.sign_key_file"))?;
    }
    if let Some(path) = &config.gateway.host_keys_file {
        bus::HostKeys::read(path).map_err(|error| ("gateway.host_keys_file".to_owned(), line(&error)))?;
    }
    for (key, path) in [
        ("listen.basic_auth_file", &config.listen.basic_auth_file),
        ("orchestrator.basic_auth_file", &config.orchestrator.basic_auth_file),
        ("page.basic_auth_file", &config.page.basic_auth_file),
    ] {
        if let Some(path) = path {
            secrets::login(path).map_err(at(key))?;
        }
    }
    for (at, cert, key) in [
        ("listen.tls_cert", &config.listen.tls_cert, &config.listen.tls_key),
        ("page.tls_cert", &config.page.tls_cert, &config.page.tls_key),
    ] {
        if let (Some(cert), Some(key)) = (cert, key) {
            crate::tls::acceptor(cert, key).map_err(|error| (at.to_owned(), line(&error)))?;
        }
    }
    config.trace.check().map_err(|error| (format!("trace.{}", error.key()), line(&error)))?;
    if let Some(ca) = &config.orchestrator.tls_ca {
        crate::tls::connector(Some(ca)).map_err(|error| ("orchestrator.tls_ca".to_owned(), line(&error)))?;
    }
    bus::check_files(&config.bus).map_err(|(key, error)| (format!("bus.{key}"), line(&error)))
}
