//! Reads the layers and says exactly what is wrong with them.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::value::{Error as ValueError, StrDeserializer};
use snapshot::registry::ProviderConfig;
use sys::error::line as chain;
use tracing_subscriber::filter::LevelFilter;

use super::{Binlogs, Config, LogFormat, PageCheck, check};

const ENV_PREFIX: &str = "ORCH_AGENT";
const ENV_SEPARATOR: &str = "__";

/// What flags set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    /// `--set key=value`, in order.
    pub(crate) values: Vec<(String, String)>,
}

/// The configuration cannot be used; the process ends with exit status 78 (`EX_CONFIG`).
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}; give another file with --config")]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// The file is no TOML.
    #[error("{path}: {reason}")]
    Syntax { path: PathBuf, reason: String },
    /// A key is unknown, or its value is of the wrong kind.
    #[error("{origin}: {key}: {reason}")]
    Value { origin: String, key: String, reason: String },
}

/// Reads the configuration as [`load`] does, and looks whether this host has what it names.
pub(crate) fn load_usable(path: Option<&Path>, overrides: &Overrides) -> Result<Config, ConfigError> {
    let (config, origin) = read(path, overrides)?;
    check::on_this_host(&config).map_err(|wrong| origin.wrong(wrong))?;
    Ok(config)
}

/// Reads defaults, `path`, the environment and `overrides`, in this order. A missing file is an error only when it was
/// asked for.
#[cfg(test)]
pub(crate) fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Config, ConfigError> {
    read(path, overrides).map(|(config, _)| config)
}

fn read<'a>(path: Option<&Path>, overrides: &'a Overrides) -> Result<(Config, Origin<'a>), ConfigError> {
    let mut builder = config::Config::builder();
    let default_path = Path::new(super::DEFAULT_PATH);
    let file = path.unwrap_or(default_path);
    let text = match std::fs::read_to_string(file) {
        Ok(text) => Some(text),
        Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => None,
        Err(source) => return Err(ConfigError::Unreadable { path: file.to_owned(), source }),
    };
    if let Some(text) = &text {
        // Parsed by itself first: its errors carry line and column.
        text.parse::<toml::Table>().map_err(|e| ConfigError::Syntax {
            path: file.to_owned(),
            reason: e.to_string().trim().to_owned(),
        })?;
        builder = builder.add_source(config::File::from_str(text, config::FileFormat::Toml));
    }
    builder = builder.add_source(
        config::Environment::with_prefix(ENV_PREFIX)
            .prefix_separator(ENV_SEPARATOR)
            .separator(ENV_SEPARATOR)
            .try_parsing(true),
    );
    let origin = Origin { file: text.is_some().then(|| file.to_owned()), overrides };
    for (key, value) in &overrides.values {
        builder = builder.set_override(key, value.as_str()).map_err(|e| ConfigError::Value {
            origin: "--set".into(),
            key: key.clone(),
            reason: e.to_string(),
        })?;
    }
    let merged = builder.build().map_err(|e| origin.explain(".", &e))?;
    let config: Config = serde_path_to_error::deserialize(merged).map_err(|e| {
        let key = e.path().to_string();
        origin.explain(&key, &e.into_inner())
    })?;
    validate(&config).map_err(|wrong| origin.wrong(wrong))?;
    Ok((config, origin))
}

struct Origin<'a> {
    file: Option<PathBuf>,
    overrides: &'a Overrides,
}

impl Origin<'_> {
    fn explain(&self, path: &str, error: &config::ConfigError) -> ConfigError {
        let key = match error {
            config::ConfigError::Type { key: Some(key), .. }
            | config::ConfigError::At { key: Some(key), .. } => key.clone(),
            _ => path.to_owned(),
        };
        let key = if key.len() < path.len() && path != "." { path.to_owned() } else { key };
        ConfigError::Value { origin: self.of(&key), key, reason: reason_of(error) }
    }

    fn wrong(&self, (key, reason): (String, String)) -> ConfigError {
        ConfigError::Value { origin: self.of(&key), key, reason }
    }

    /// Which layer set the key: the last one that did.
    fn of(&self, key: &str) -> String {
        if self.overrides.values.iter().any(|(name, _)| name == key) {
            return "--set".to_owned();
        }
        let variable =
            format!("{ENV_PREFIX}{ENV_SEPARATOR}{}", key.replace('.', ENV_SEPARATOR).to_uppercase());
        if std::env::vars_os().any(|(name, _)| name.to_string_lossy().to_uppercase() == variable) {
            return format!("environment variable {variable}");
        }
        self.file.as_ref().map_or_else(|| "defaults".to_owned(), |file| file.display().to_string())
    }
}

fn reason_of(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::Type { unexpected, expected, .. } => {
            format!("expected {expected}, found {unexpected}")
        }
        config::ConfigError::At { error, .. } => reason_of(error),
        other => {
            let text = other.to_string();
            let values = text.strip_prefix("enum ").and_then(|rest| values_of(rest.split(' ').next()?));
            values.map_or_else(|| text.clone(), |values| format!("{text}; {values}"))
        }
    }
}

/// The values of an enum of the configuration, which the reader of layers does not tell.
fn values_of(name: &str) -> Option<String> {
    fn expected<'de, T: Deserialize<'de>>() -> Option<String> {
        let text = T::deserialize(StrDeserializer::<ValueError>::new("")).err()?.to_string();
        Some(text.split_once(", ")?.1.to_owned())
    }
    match name {
        "PageCheck" => expected::<PageCheck>(),
        "Binlogs" => expected::<Binlogs>(),
        "LogFormat" => expected::<LogFormat>(),
        "Role" => expected::<protocol::command::Role>(),
        _ => None,
    }
}

/// A word that is no level would be taken for the name of a module, and nothing be logged any more.
fn check_level(text: &str) -> Result<(), String> {
    let wrong = |why: String| {
        Err(format!(
            "{why}; expected error, warn, info, debug or trace, or a filter such as info,transfer=debug"
        ))
    };
    for part in text.split(',').map(str::trim) {
        if !part.contains('=') && !part.contains('[') && part.parse::<LevelFilter>().is_err() {
            return wrong(format!("{part:?} is no level"));
        }
    }
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(()),
        Err(error) => wrong(error.to_string()),
    }
}

/// What types cannot say. The key and the reason of the first thing that cannot work.
fn validate(config: &Config) -> Result<(), (String, String)> {
    let fail = |key: &str, reason: String| Err((key.to_owned(), reason));
    for (key, value) in
        [("agent.heartbeat_s", config.agent.heartbeat_s), ("agent.reconcile_s", config.agent.reconcile_s)]
    {
        if !(0.05..=3600.0).contains(&value) {
            return fail(key, format!("expected 0.05 to 3600 seconds, found {value}"));
        }
    }
    for (key, path) in
        [("agent.state_dir", &config.agent.state_dir), ("snapshot.mount_root", &config.snapshot.mount_root)]
    {
        if !path.is_absolute() {
            return fail(key, format!("expected an absolute path, found {}", path.display()));
        }
    }
    if !(0.0..=300.0).contains(&config.snapshot.lock_wait_s) {
        return fail("snapshot.lock_wait_s", "expected 0 to 300 seconds".to_owned());
    }
    let schedules = [
        ("snapshot.schedule", &config.snapshot.schedule),
        ("snapshot.verify_schedule", &config.snapshot.verify_schedule),
    ];
    for (key, schedule) in schedules {
        if let Some(Err(error)) = schedule.as_ref().map(|text| text.parse::<croner::Cron>()) {
            return fail(key, format!("expected a cron expression such as \"15 */6 * * *\": {error}"));
        }
    }
    if config.snapshot.verify_budget_s == 0 {
        return fail("snapshot.verify_budget_s", "expected some seconds: 0 would check nothing".to_owned());
    }
    for (name, custom) in &config.custom {
        if custom.argv.first().is_none_or(|program| !program.starts_with('/')) {
            return fail(
                &format!("custom.{name}.argv"),
                "expected a program by its absolute path, then its arguments".to_owned(),
            );
        }
    }
    if config.seed.post_copy.first().is_some_and(|program| !program.starts_with('/')) {
        return fail(
            "seed.post_copy",
            "expected a program by its absolute path, then its arguments".to_owned(),
        );
    }
    for (key, seconds) in [
        ("seed.stall_s", config.seed.stall_s),
        ("seed.offer_s", config.seed.offer_s),
        ("seed.post_copy_limit_s", config.seed.post_copy_limit_s),
        ("seed.replicate_patience_s", config.seed.replicate_patience_s),
    ] {
        if seconds == 0 {
            return fail(key, "expected at least 1 second: with 0 everything fails at once".to_owned());
        }
    }
    if let Some(ProviderConfig::Btrfs(tree) | ProviderConfig::Reflink(tree) | ProviderConfig::Directory(tree)) =
        &config.snapshot.provider
        && !tree.root.is_absolute()
    {
        let found = tree.root.display();
        return fail("snapshot.provider.root", format!("expected an absolute path, found {found}"));
    }
    check_level(&config.log.level).map_err(|reason| ("log.level".to_owned(), reason))?;
    bus::Authority::new(config.auth.clone()).map_err(|e| ("auth".to_owned(), chain(&e)))?;
    config.bus.validate().map_err(|e| ("bus".to_owned(), chain(&e)))?;
    config.mysql.validate().map_err(|reason| ("mysql".to_owned(), reason))
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
