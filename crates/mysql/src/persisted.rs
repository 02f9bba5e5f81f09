//! What a MySQL server keeps of its settings by itself, in its datadir.

use std::path::Path;

use serde_json::Value;
use sys::dir::Dir;

/// Where it keeps what `SET PERSIST` was told.
pub(crate) const FILE: &str = "mysqld-auto.cnf";
/// A line for each variable there is.
const LIMIT_BYTES: u64 = 16 << 20;

/// What a MySQL server was told by `SET PERSIST`, as options of a command line: it counts after every option file. Empty where nothing
/// is persisted or can be read; a server does not start on a file that it cannot read.
#[must_use]
pub fn options(datadir: &Path) -> Vec<String> {
    let read = || Dir::open(datadir)?.read(Path::new(FILE), LIMIT_BYTES);
    let persisted: Value = match read() {
        Ok(Some(bytes)) => serde_json::from_slice(&bytes).unwrap_or_default(),
        _ => return Vec::new(),
    };
    let groups = persisted.as_object().into_iter().flat_map(|all| all.values());
    let variables = groups.filter_map(Value::as_object).flatten();
    variables
        .filter_map(|(name, variable)| Some(format!("--{name}={}", variable.get("Value")?.as_str()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_persisted_reads_as_options() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(options(dir.path()), Vec::<String>::new());
        let text = r#"{"Version": 2, "mysql_dynamic_variables": {"replica_exec_mode": {"Value": "IDEMPOTENT", "Metadata": {}}},
            "mysql_static_variables": {"replica_skip_errors": {"Value": "1062"}}}"#;
        fs::write(dir.path().join(FILE), text).unwrap();
        let mut told = options(dir.path());
        told.sort();
        assert_eq!(told, ["--replica_exec_mode=IDEMPOTENT", "--replica_skip_errors=1062"]);
        fs::write(dir.path().join(FILE), "[1]").unwrap();
        assert_eq!(options(dir.path()), Vec::<String>::new());
    }
}
