//! Reads the file and says exactly what is wrong with it.

use std::path::{Path, PathBuf};

use super::{Config, check};

/// The configuration cannot be used; the process ends with exit status 78 (`EX_CONFIG`).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}; give another file with --config", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong there.
        reason: String,
    },
    /// A key is unknown, or its value cannot be used.
    #[error("{}: {key}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key, for example `listen.port`.
        key: String,
        /// What is wrong and what is expected.
        reason: String,
    },
}

/// Reads the configuration and looks whether this host has what it names.
///
/// # Errors
/// The first thing that cannot be used, with its key.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let config = parse(&text).map_err(|wrong| wrong.of(path))?;
    check::values(&config)
        .and_then(|()| check::files(&config))
        .map_err(|(key, reason)| ConfigError::Value { path: path.to_owned(), key, reason })?;
    Ok(config)
}

enum Wrong {
    Syntax(String),
    Value(String, String),
}

impl Wrong {
    fn of(self, path: &Path) -> ConfigError {
        let path = path.to_owned();
        match self {
            Self::Syntax(reason) => ConfigError::Syntax { path, reason },
            Self::Value(key, reason) => ConfigError::Value { path, key, reason },
        }
    }
}

fn parse(text: &str) -> Result<Config, Wrong> {
    // Parsed by itself first: its errors carry line and column.
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| Wrong::Syntax(error.to_string().trim().to_owned()))?;
    serde_path_to_error::deserialize(table).map_err(|error| {
        let key = error.path().to_string();
        Wrong::Value(key, error.into_inner().to_string().trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.toml");
        let secret = dir.path().join("token.secret");
        sys::file::create(&secret, b"0123456789abcdef0123456789abcdef\n", 0o600).unwrap();
        let text = format!("gateway.token_secret_file = {:?}\n{text}", secret.display().to_string());
        std::fs::write(&path, text).unwrap();
        match load(&path) {
            Ok(_) => String::new(),
            Err(error) => error.to_string().replace(&path.display().to_string(), "FILE"),
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_key() {
        assert_eq!(told("orchestrator.nodes = [\"http://orc1:3001\"]"), "");
        for (text, wanted) in [
            ("listen.prot = 3002", "FILE: listen.prot: unknown field"),
            ("listen.port = \"x\"", "FILE: listen.port: invalid type"),
            ("listen = 3", "FILE: listen"),
            ("gateway.datadir_delete = \"now\"", "FILE: gateway.datadir_delete: unknown variant"),
            ("gateway.name = \"gw\"", "FILE: gateway.name: expected a host name with {host} in it"),
            ("gateway.name = \"{host}/x\"", "FILE: gateway.name"),
            ("gateway.hold_s = 60", "FILE: gateway.hold_s: expected 1 to 55 seconds"),
            ("listen.ports = [10, 9]", "FILE: listen.ports: expected first and last port"),
            ("listen.ports = [9, 10]\nlisten.port = 5", "FILE: listen.port: leave it away"),
            ("listen.clients = [\"10.0.0.0/33\"]", "FILE: listen.clients[0]"),
            ("listen.tls_cert = \"/x\"", "FILE: listen.tls_cert: tls_cert and tls_key go together"),
            ("orchestrator.nodes = [\"orc1:3001\"]", "FILE: orchestrator.nodes: \"orc1:3001\" is no URL"),
            ("orchestrator.nodes = [\"http://u:p@orc1\"]", "FILE: orchestrator.nodes: "),
            ("log.level = \"loud\"", "FILE: log.level: \"loud\" is no level"),
            ("metrics.listen = 9393", "FILE: metrics.listen: invalid type"),
            ("metrics.listen = \"0.0.0.0\"", "FILE: metrics.listen: invalid socket address"),
            ("metrics.clients = [\"db\"]", "FILE: metrics.clients[0]: \"db\" is no network"),
            ("metrics.listen = \"127.0.0.1:3002\"", "FILE: metrics.listen: port 3002 is one of listen"),
            ("page.listen = \"127.0.0.1:8080\"", ""),
            ("page.listen = \"[::1]:8080\"", ""),
            ("page.listen = \"0.0.0.0:8080\"", "FILE: page.listen: off the loopback"),
            ("page.listen = \"0.0.0.0:8080\"\npage.allow_plain = true", ""),
            ("page.listen = \"127.0.0.1:3002\"", "FILE: page.listen: port 3002 is one of listen"),
            (
                "page.listen = \"127.0.0.1:9393\"\nmetrics.listen = \"127.0.0.1:9393\"",
                "FILE: page.listen: metrics.listen has this port",
            ),
            ("page.names = [\"https://orch\"]", "FILE: page.names: \"https://orch\" is no host name"),
            ("page.actions = true", "FILE: page.actions: needs page.basic_auth_file"),
            ("page.tls_key = \"/x\"", "FILE: page.tls_cert: tls_cert and tls_key go together"),
            ("gateway.sign_key_file = \"/nowhere\"", "FILE: gateway.sign_key_file: "),
            ("gateway.host_keys_file = \"/nowhere\"", "FILE: gateway.host_keys_file: "),
            ("[bus]\nservers = []", "FILE: bus: "),
            ("x = [", "FILE: TOML parse error"),
        ] {
            let told = told(text);
            assert!(told.starts_with(wanted), "{text}: {told:?}");
        }
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (path, secret) = (dir.path().join("gateway.toml"), dir.path().join("secret"));
        sys::file::create(&secret, b"0123456789abcdef0123456789abcdef\n", 0o644).unwrap();
        std::fs::write(&path, format!("gateway.token_secret_file = {:?}", secret.display().to_string()))
            .unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("gateway.token_secret_file") && error.contains("chmod 600"), "{error}");
        sys::file::write(&secret, b"short\n", 0o600).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("at least 32 characters") && !error.contains("short"), "{error}");
    }

    #[test]
    fn every_key_of_the_sample_is_one() {
        let sample = include_str!("../../../../ops/config/gateway.toml");
        let is_key = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains([' ', '#']));
        let all: Vec<&str> = sample
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| is_key(rest)).unwrap_or(line))
            .collect();
        let Ok(config) = parse(&all.join("\n")) else { panic!("{}", all.join("\n")) };
        assert!(config.bus.credentials.is_some() && config.gateway.sign_key_file.is_some());
        assert_eq!((config.listen.port, config.listen.ports), (Some(3_002), Some([3_100, 3_199])));
        assert_eq!(config.metrics.listen.unwrap().port(), 9_393);
        let (shown, default) = (&config.listen, super::super::ListenConfig::default());
        assert_eq!(
            (shown.max_connections, shown.max_url_bytes, shown.header_timeout_s),
            (default.max_connections, default.max_url_bytes, default.header_timeout_s)
        );
    }
}
