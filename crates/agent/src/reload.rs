//! SIGHUP: configuration, trusted keys, credentials and TLS files are read again, without a restart.
//!
//! A configuration that cannot be used is refused as a whole, loudly, and the old one stays in force. What a part of the
//! agent has taken over at its start waits for a restart and is named in the log.

use std::path::Path;
use std::sync::Arc;

use bus::{Authority, BusConfig};
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ConfigError, merge};
use crate::host::{Host, chain};

/// Reads the configuration from where it came from.
pub(crate) type Load = Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;
/// Puts another log level in force.
pub(crate) type SetLevel = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What a reload needs of the program around the agent.
pub(crate) struct Reload {
    /// Reads the configuration again.
    pub(crate) load: Load,
    /// Changes the log level.
    pub(crate) set_level: SetLevel,
    /// SIGHUP, once there is a runtime to hear it.
    pub(crate) hangup: Option<Signal>,
}

/// Waits for SIGHUP until `shutdown`.
pub(crate) async fn run(
    host: Arc<Host>,
    authority: Arc<Authority>,
    mut reload: Reload,
    shutdown: CancellationToken,
) {
    let Some(mut hangup) = reload.hangup.take() else { return };
    let mut files = digest_of_files(host.bus.config());
    loop {
        tokio::select! {
            _ = hangup.recv() => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(why) = once(&host, &authority, &reload) {
            tracing::error!("SIGHUP: the configuration is refused, the old one stays in force: {why}");
            continue;
        }
        let now = digest_of_files(host.bus.config());
        if now != files {
            match host.bus.reconnect().await {
                Ok(()) => {
                    files = now;
                    tracing::info!(
                        "SIGHUP: connecting to the bus anew with the changed credentials or certificates"
                    );
                }
                Err(error) => tracing::error!(
                    error = %chain(&error),
                    "SIGHUP: the changed credentials or certificates cannot be used, the old connection stays"
                ),
            }
        }
    }
}

fn once(host: &Host, authority: &Authority, reload: &Reload) -> Result<(), String> {
    let new = (reload.load)().map_err(|error| chain(&error))?;
    let (new, waiting) = merge(&host.config, new);
    (reload.set_level)(&new.log.level).map_err(|error| format!("log.level: {error}"))?;
    authority.reload(new.auth.clone()).map_err(|error| chain(&error))?;
    host.donor_throttle.set(new.seed.donor_bytes_per_s);
    if new.auth.accept_unsigned && !host.config.auth.accept_unsigned {
        tracing::warn!("unsigned commands are accepted (auth.accept_unsigned): for trying things out only");
    }
    host.config.replace(new);
    host.look_soon();
    tracing::info!(
        digest = crate::queries::agent::config_digest(&host.config),
        "SIGHUP: the configuration was read again and is in force"
    );
    if !waiting.is_empty() {
        tracing::warn!("SIGHUP: these settings differ and wait for a restart: {}", waiting.join(", "));
    }
    Ok(())
}

/// Tells whether what the connection was made with has changed on disk; a file that cannot be read counts as empty here
/// and is told by the reconnect.
fn digest_of_files(config: &BusConfig) -> [u8; 32] {
    let tls = [&config.tls.ca, &config.tls.cert, &config.tls.key];
    let credentials = config.credentials.as_ref().map(bus::config::Credentials::path);
    let paths = credentials.into_iter().chain(tls.into_iter().flatten().map(|path| path.as_ref() as &Path));
    let mut digest = Sha256::new();
    for path in paths {
        digest.update(Sha256::digest(std::fs::read(path).unwrap_or_default()));
    }
    digest.finalize().into()
}
