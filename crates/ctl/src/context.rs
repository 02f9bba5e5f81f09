//! The contexts of the `nats` tool (ADR-21): a shell that works with it works with this program. Read only.

use std::io;
use std::path::{Path, PathBuf};

use bus::config::Credentials;
use serde::Deserialize;

use crate::args::Global;
use crate::error::{CtlError, Result};

/// What a context may say; what this program does not do stands there to be refused rather than left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    url: String,
    creds: String,
    nkey: String,
    cert: String,
    key: String,
    ca: String,
    inbox_prefix: String,
    jetstream_domain: String,
    jetstream_api_prefix: String,
    token: String,
    user: String,
    nsc: String,
    user_jwt: String,
    socks_proxy: String,
    tls_first: bool,
}

/// What a context adds to the options.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Servers, with commas.
    pub server: Option<String>,
    /// How to log in.
    pub credentials: Option<Credentials>,
    /// Certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Authorities to trust.
    pub ca: Option<PathBuf>,
    /// First token of reply subjects.
    pub inbox_prefix: Option<String>,
    /// JetStream's API as this user names it.
    pub jetstream_prefix: Option<String>,
}

/// The context that the options name; empty where they name none.
///
/// # Errors
/// The file and the key that cannot be used.
pub fn read(global: &Global) -> Result<Given> {
    match &global.context {
        None => Ok(Given::default()),
        Some(name) => from_dir(&config_home()?.join("nats/context"), name, global),
    }
}

fn config_home() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()) {
        return Ok(dir.into());
    }
    home().map(|home| home.join(".config"))
}

fn home() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    home.ok_or_else(|| {
        CtlError::usage("HOME is not set", "a context is looked for below it: set it, or use --server")
    })
}

fn from_dir(dir: &Path, name: &str, global: &Global) -> Result<Given> {
    if name.is_empty() || name.contains(['/', '\\']) || name.contains("..") {
        let hint = "name it as `nats context ls` does";
        return Err(CtlError::usage(format!("{name:?} is no name of a context"), hint));
    }
    let file = dir.join(format!("{name}.json"));
    let failed = |source| CtlError::File { action: "read the context", path: file.clone(), source };
    let text = std::fs::read_to_string(&file).map_err(failed)?;
    let context: Context = serde_json::from_str(&text).map_err(|error| failed(io::Error::other(error)))?;
    take(&file, context, global)
}

/// Takes what no option says already: what a flag or `ORCH_…` overrules need not be usable.
fn take(file: &Path, context: Context, global: &Global) -> Result<Given> {
    let refuse = |key: &str, why: &str| {
        let hint = "mend the context (`nats context edit`), or give the option or ORCH_… that overrules it";
        CtlError::usage(format!("context {}: key {key:?}: {why}", file.display()), hint)
    };
    let logs_in = global.creds.is_none() && global.nkey_file.is_none();
    let secret_inside =
        "a secret in the context itself is not taken; put it into a file of its own (creds, nkey)";
    for (key, is_set, why) in [
        ("token", logs_in && !context.token.is_empty(), secret_inside),
        ("user", logs_in && !context.user.is_empty(), secret_inside),
        ("user_jwt", logs_in && !context.user_jwt.is_empty(), secret_inside),
        ("nsc", logs_in && !context.nsc.is_empty(), "nsc is not asked; name its file with creds"),
        ("socks_proxy", !context.socks_proxy.is_empty(), "a proxy is not supported"),
        ("tls_first", context.tls_first, "TLS before the server's greeting is not supported"),
    ] {
        if is_set {
            return Err(refuse(key, why));
        }
    }
    let secret = |key: &str, text: &str| -> Result<PathBuf> {
        let path = expanded(text)?;
        sys::file::check_secret(&path).map_err(|error| refuse(key, &sys::error::line(&error)))?;
        Ok(path)
    };
    let readable = |key: &str, text: &str| -> Result<PathBuf> {
        let path = expanded(text)?;
        std::fs::File::open(&path)
            .map_err(|error| refuse(key, &format!("cannot read {}: {error}", path.display())))?;
        Ok(path)
    };
    let mut given = Given::default();
    if logs_in && !context.creds.is_empty() {
        given.credentials = Some(Credentials::CredsFile(secret("creds", &context.creds)?));
    } else if logs_in && !context.nkey.is_empty() {
        given.credentials = Some(Credentials::NkeyFile(secret("nkey", &context.nkey)?));
    }
    if global.tls_cert.is_none() {
        match (context.cert.is_empty(), context.key.is_empty()) {
            (true, true) => {}
            (false, false) => {
                given.identity = Some((readable("cert", &context.cert)?, secret("key", &context.key)?));
            }
            _ => return Err(refuse("cert", "cert and key go together")),
        }
    }
    if global.tls_ca.is_none() && !context.ca.is_empty() {
        given.ca = Some(readable("ca", &context.ca)?);
    }
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    given.server = text(context.url);
    given.inbox_prefix = text(context.inbox_prefix);
    given.jetstream_prefix = text(context.jetstream_api_prefix)
        .or_else(|| text(context.jetstream_domain).map(|domain| format!("$JS.{domain}.API")));
    Ok(given)
}

/// A path of a context: below the home directory where it begins with `~/`.
fn expanded(text: &str) -> Result<PathBuf> {
    match text.strip_prefix("~/") {
        Some(rest) => home().map(|home| home.join(rest)),
        None => Ok(PathBuf::from(text)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    fn options(more: &[&str]) -> Global {
        Cli::try_parse_from([&["orchestrator-ctl"], more, &["fleet"]].concat()).unwrap().global
    }

    fn told(dir: &Path, json: &serde_json::Value, more: &[&str]) -> Result<Given, String> {
        fs::write(dir.join("prod.json"), json.to_string()).unwrap();
        from_dir(dir, "prod", &options(more)).map_err(|error| error.render())
    }

    #[test]
    fn a_context_is_taken_where_no_option_says_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let nkey = dir.path().join("user.nk");
        fs::write(&nkey, "SU…").unwrap();
        fs::set_permissions(&nkey, fs::Permissions::from_mode(0o600)).unwrap();
        let json = serde_json::json!({
            "description": "production", "url": "nats://bus1,nats://bus2", "nkey": nkey,
            "inbox_prefix": "_INBOX_USER_dba", "jetstream_domain": "hub", "color_scheme": "",
        });
        let given = told(dir.path(), &json, &[]).unwrap();
        assert_eq!(given.server.as_deref(), Some("nats://bus1,nats://bus2"));
        assert_eq!(given.credentials, Some(Credentials::NkeyFile(nkey.clone())));
        assert_eq!(given.inbox_prefix.as_deref(), Some("_INBOX_USER_dba"));
        assert_eq!(given.jetstream_prefix.as_deref(), Some("$JS.hub.API"));
        // A login that an option gives overrules the context's, usable or not.
        fs::remove_file(&nkey).unwrap();
        assert_eq!(told(dir.path(), &json, &["--nkey-file", "mine"]).unwrap().credentials, None);
    }

    #[test]
    fn what_cannot_be_used_is_told_with_file_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open.creds");
        fs::write(&open, "x").unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
        for (json, key, why) in [
            (serde_json::json!({"creds": open}), "\"creds\"", "chmod 600"),
            (serde_json::json!({"nkey": "/nowhere/user.nk"}), "\"nkey\"", "/nowhere/user.nk"),
            (serde_json::json!({"token": "word"}), "\"token\"", "file of its own"),
            (serde_json::json!({"cert": open}), "\"cert\"", "go together"),
            (serde_json::json!({"ca": "/nowhere/ca.pem"}), "\"ca\"", "/nowhere/ca.pem"),
        ] {
            let said = told(dir.path(), &json, &[]).unwrap_err();
            assert!(said.contains("prod.json") && said.contains(key) && said.contains(why), "{said}");
            assert!(!said.contains("word"), "{said}");
        }
        let foreign = dir.path().join("foreign.nk");
        fs::write(&foreign, "x").unwrap();
        fs::set_permissions(&foreign, fs::Permissions::from_mode(0o600)).unwrap();
        if std::os::unix::fs::chown(&foreign, Some(65_534), None).is_ok() {
            let said = told(dir.path(), &serde_json::json!({"nkey": foreign}), &[]).unwrap_err();
            assert!(said.contains("\"nkey\"") && said.contains("65534"), "{said}");
        }
        assert!(from_dir(dir.path(), "../prod", &options(&[])).is_err());
        let said = from_dir(dir.path(), "other", &options(&[])).unwrap_err().render();
        assert!(said.contains("other.json"), "{said}");
    }
}
