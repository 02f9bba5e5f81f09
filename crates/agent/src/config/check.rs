//! What a configuration names must be there before it is put in force: files of secrets closed to others, programs that can be run.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::Config;
use crate::host::chain;

/// The key and the reason of the first thing that this host lacks.
pub(super) fn on_this_host(config: &Config) -> Result<(), (String, String)> {
    bus::check_files(&config.bus).map_err(|(key, error)| (format!("bus.{key}"), chain(&error)))?;
    mysql::check_files(&config.mysql).map_err(|(key, reason)| (format!("mysql.{key}"), reason))?;
    config.trace.check().map_err(|error| (format!("trace.{}", error.key()), chain(&error)))?;
    if let Some(file) = &config.seed.replication_credentials {
        mysql::check_secret_file(file)
            .map_err(|error| ("seed.replication_credentials".to_owned(), chain(&error)))?;
    }
    let custom = config.custom.iter().map(|(name, custom)| (format!("custom.{name}.argv"), &custom.argv));
    for (key, argv) in custom.chain([("seed.post_copy".to_owned(), &config.seed.post_copy)]) {
        if let Some(program) = argv.first() {
            runnable(Path::new(program)).map_err(|reason| (key, reason))?;
        }
    }
    Ok(())
}

fn runnable(program: &Path) -> Result<(), String> {
    let expected = "expected a program that can be run";
    match std::fs::metadata(program) {
        Err(error) => Err(format!("{expected}, but {} cannot be looked at: {error}", program.display())),
        Ok(metadata) if !metadata.is_file() => {
            Err(format!("{expected}, but {} is no file", program.display()))
        }
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => {
            Err(format!("{expected}, but {} is not executable: chmod +x", program.display()))
        }
        Ok(_) => Ok(()),
    }
}
