//! What a datadir looks like from outside.

use std::path::Path;

/// True for a directory with InnoDB's system tablespace or a grant-table directory in it.
#[must_use]
pub fn looks_like_datadir(path: &Path) -> bool {
    ["ibdata1", "mysql.ibd", "aria_log_control"].iter().any(|f| path.join(f).is_file())
        || path.join("mysql").is_dir() && path.join("performance_schema").is_dir()
}
