//! What a server executes at each of its starts: a new replica must write nothing of its own.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::OFlag;

use super::Availability;
use crate::settings::Settings;

/// Longer than any that sets variables.
const LIMIT_BYTES: u64 = 1 << 20;
/// What changes accounts, and is logged, though it begins as the setting of a variable does.
const NO_VARIABLES: [&str; 3] = ["PASSWORD", "DEFAULT", "ROLE"];

/// Whether a server with these settings only sets variables by its `init-file`. Blocking: it reads that file.
///
/// A server that is closed to writes would end at its start over another statement (MySQL), or log it as its own (MariaDB).
#[must_use]
pub fn check(settings: &Settings) -> Availability {
    let Some(path) = settings.options.path("init-file").map(|path| settings.resolve(&path)) else {
        return Availability::Available;
    };
    let what = match read(&path) {
        Ok(text) if statements(&text).iter().all(|statement| is_harmless(statement)) => {
            return Availability::Available;
        }
        Ok(_) => "which does more than set variables".to_owned(),
        Err(error) => format!("which cannot be read ({error})"),
    };
    Availability::Gone(format!(
        "this server executes {} at each start (init-file), {what}: a new replica must write nothing of its own; take it out of \
         the option file, or leave only SET and SELECT in it",
        path.display()
    ))
}

fn read(path: &Path) -> std::io::Result<String> {
    let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > LIMIT_BYTES {
        return Err(std::io::Error::other("it is no file of statements"));
    }
    let mut text = String::new();
    file.take(LIMIT_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The statements as both servers split them: one per line or by semicolon, comments left out. What is quoted may be cut in two
/// here, and is then taken for what it is not: for harm.
fn statements(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("--") && !line.starts_with('#'));
    let text = lines.collect::<Vec<_>>().join("\n");
    text.split(';').map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect()
}

fn is_harmless(statement: &str) -> bool {
    let mut words = statement.split_whitespace().map(str::to_ascii_uppercase);
    match words.next().as_deref() {
        Some("SET") => {
            words.next().is_some_and(|next| !NO_VARIABLES.iter().any(|word| next.starts_with(word)))
        }
        // `SELECT … INTO` writes files or variables of the session, and nothing that is logged.
        Some("SELECT") => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Availability {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("init.sql");
        std::fs::write(&path, text).unwrap();
        let mut settings = Settings { root: "/".into(), ..Settings::default() };
        settings.options.add_command_line([format!("--init-file={}", path.display()).as_str()]);
        check(&settings)
    }

    #[test]
    fn what_sets_variables_passes_and_all_else_is_refused() {
        for text in [
            "",
            "-- Of ours.\nSET GLOBAL max_connections = 50;\n# More.\nset @@global.long_query_time=1;\nSELECT 1",
            "SET\n  GLOBAL sort_buffer_size = 1;",
        ] {
            assert_eq!(of(text), Availability::Available, "{text:?}");
        }
        for text in [
            "CREATE DATABASE IF NOT EXISTS own;",
            "SET GLOBAL max_connections = 50; DELETE FROM shop.cache",
            "SET PASSWORD FOR a = 'b';",
            "SET DEFAULT ROLE a FOR b",
            "/*! INSERT INTO a VALUES (1) */",
            "SET @a = 'x; y'",
            "SET",
        ] {
            assert!(matches!(of(text), Availability::Gone(_)), "{text:?}");
        }
        let mut settings = Settings { root: "/".into(), ..Settings::default() };
        assert_eq!(check(&settings), Availability::Available);
        settings.options.add_command_line(["--init-file=/nowhere/init.sql"]);
        assert!(matches!(check(&settings), Availability::Gone(_)));
    }
}
