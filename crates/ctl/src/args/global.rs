//! Options of every subcommand.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, ValueEnum};

use super::Cli;
use crate::units;

/// Options of every subcommand.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// NATS server; several with commas [default: the context's, else nats://127.0.0.1:4222]
    #[arg(long, env = "ORCH_SERVER", value_name = "URL", global = true, help_heading = "Bus")]
    pub server: Option<String>,
    /// A context of the `nats` tool: server, login, TLS, inbox prefix, JetStream domain; options and ORCH_… win over it
    #[arg(long, env = "NATS_CONTEXT", value_name = "NAME", global = true, help_heading = "Bus")]
    pub context: Option<String>,
    /// NATS credentials file (JWT and seed), mode 0600
    #[arg(
        long,
        env = "ORCH_CREDS",
        value_name = "FILE",
        global = true,
        conflicts_with = "nkey_file",
        help_heading = "Bus"
    )]
    pub creds: Option<PathBuf>,
    /// File with the nkey seed to log in to NATS, mode 0600
    #[arg(long, env = "ORCH_NKEY_FILE", value_name = "FILE", global = true, help_heading = "Bus")]
    pub nkey_file: Option<PathBuf>,
    /// File with the nkey seed that signs commands, mode 0600
    #[arg(long, env = "ORCH_SIGN_KEY", value_name = "FILE", global = true, help_heading = "Bus")]
    pub sign_key: Option<PathBuf>,
    /// Hosts' keys, as `key pin` writes them: a reply that the host's key has not signed is not taken
    #[arg(long, env = "ORCH_HOST_KEYS", value_name = "FILE", global = true, help_heading = "Bus")]
    pub host_keys: Option<PathBuf>,
    /// CA certificates (PEM) to trust for the bus
    #[arg(long, env = "ORCH_TLS_CA", value_name = "FILE", global = true, help_heading = "Bus")]
    pub tls_ca: Option<PathBuf>,
    /// Client certificate (PEM) for mutual TLS
    #[arg(
        long,
        env = "ORCH_TLS_CERT",
        value_name = "FILE",
        global = true,
        requires = "tls_key",
        help_heading = "Bus"
    )]
    pub tls_cert: Option<PathBuf>,
    /// Key of the client certificate (PEM), mode 0600
    #[arg(
        long,
        env = "ORCH_TLS_KEY",
        value_name = "FILE",
        global = true,
        requires = "tls_cert",
        help_heading = "Bus"
    )]
    pub tls_key: Option<PathBuf>,
    /// First token of reply subjects, as the server's permissions for this user demand (`bus config` tells it)
    #[arg(long, env = "ORCH_INBOX_PREFIX", value_name = "PREFIX", global = true, help_heading = "Bus")]
    pub inbox_prefix: Option<String>,
    /// Domain of the JetStream that keeps events, queued commands and buckets, where the server is a leaf node [default: the context's]
    #[arg(long, env = "ORCH_JS_DOMAIN", value_name = "NAME", global = true, help_heading = "Bus")]
    pub js_domain: Option<String>,
    /// Who asks, for the audit [default: USER@HOST]
    #[arg(long, env = "ORCH_ACTOR", value_name = "NAME", global = true, value_parser = parse_actor, help_heading = "Bus")]
    pub actor: Option<String>,
    /// How long to wait for a reply; jobs run on beyond it
    #[arg(long, env = "ORCH_TIMEOUT", default_value = "10s", value_name = "TIME", global = true, value_parser = units::parse_timeout, help_heading = "Bus")]
    pub timeout: Duration,
    /// A collector of OpenTelemetry (OTLP over HTTP) that is told of this call; TRACEPARENT names the trace that it is a part of
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        value_name = "URL",
        global = true,
        hide_short_help = true,
        help_heading = "Bus"
    )]
    pub otlp: Option<String>,
    /// JSON on stdout, for programs; the same as `-o json`
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// Form of what comes on stdout [default: text]
    #[arg(long, short = 'o', value_enum, value_name = "FORM", global = true, help_heading = "Output")]
    pub output: Option<Form>,
    /// Do not ask before destroying something
    #[arg(long, short = 'y', global = true, help_heading = "Output")]
    pub yes: bool,
    /// Leave the command for a host that is down; it runs once when the host is back, unless TIME has passed
    #[arg(long, value_name = "TIME", global = true, value_parser = units::parse_seconds, help_heading = "Bus")]
    pub queue: Option<u64>,
    /// Say more on stderr; twice for all
    #[arg(long, short = 'v', action = clap::ArgAction::Count, global = true, help_heading = "Output")]
    pub verbose: u8,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people
    Text,
    /// For programs, one value a line
    Json,
}

impl Global {
    /// Whether results are JSON, however it was said.
    ///
    /// # Errors
    /// Both forms were asked for.
    pub(super) fn settle_form(&mut self) -> Result<(), clap::Error> {
        match self.output {
            Some(Form::Text) if self.json => Err(Cli::command().error(
                ErrorKind::ArgumentConflict,
                "the argument '--json' cannot be used with '--output text'",
            )),
            Some(form) => {
                self.json = form == Form::Json;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// Whether a line that cannot be read asks for JSON: its author's program wants the failure so, too.
#[must_use]
pub fn asks_for_json(arguments: &[OsString]) -> bool {
    let is =
        |index: usize, texts: &[&str]| arguments.get(index).is_some_and(|a| texts.iter().any(|t| a == t));
    (0..arguments.len()).any(|index| {
        is(index, &["--json", "--output=json", "-ojson", "-o=json"])
            || is(index, &["-o", "--output"]) && is(index + 1, &["json"])
    })
}

fn parse_actor(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 256 || text.chars().any(char::is_control) {
        return Err("an actor has 1 to 256 bytes and no control characters".to_owned());
    }
    Ok(text.to_owned())
}
