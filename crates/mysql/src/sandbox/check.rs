//! `CHECK TABLE` over the tables of a private server.

use std::time::{Duration, Instant};

use crate::client::Session;
use crate::error::Error;
use crate::sql::quote_identifier;

/// A check that was begun gets at least this long.
const LEAST_TIME: Duration = Duration::from_millis(50);

/// Tables of people, smallest first; InnoDB reads every page of a checked table and proves its checksum.
pub(super) const TABLES: &str = "SELECT table_schema, table_name FROM information_schema.tables \
     WHERE table_type = 'BASE TABLE' AND engine IS NOT NULL AND table_schema NOT IN ('information_schema', 'performance_schema', 'sys') \
     AND NOT (table_schema = 'mysql' AND engine IN ('CSV', 'MEMORY')) \
     ORDER BY data_length + index_length, table_schema, table_name";

/// Checks one table. `Ok(None)`: the budget ended before the answer. The session is consumed, because one that was
/// interrupted cannot be used again.
pub(super) async fn check_table(
    session: Session,
    schema: &str,
    name: &str,
    until: Instant,
) -> Result<Option<Session>, String> {
    let mut session = session.with_limit(until.saturating_duration_since(Instant::now()).max(LEAST_TIME));
    let quoted = |n: &str| quote_identifier(n).map_err(|e| e.to_string());
    let sql = format!("CHECK TABLE {}.{}", quoted(schema)?, quoted(name)?);
    let rows = match session.records("check a table", sql).await {
        Ok(rows) => rows,
        Err(Error::Timeout { .. }) => return Ok(None),
        Err(e) => {
            let cause = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
            return Err(format!("checking {schema}.{name} broke the server: {cause}"));
        }
    };
    let bad = rows.iter().find(|row| {
        let kind = row.get("Msg_type").map_or("", String::as_str).to_ascii_lowercase();
        kind == "error" || (kind == "status" && !is_fine(row.get("Msg_text").map_or("", String::as_str)))
    });
    match bad {
        None => Ok(Some(session)),
        Some(row) => {
            Err(format!("{schema}.{name}: {}", row.get("Msg_text").map_or("damaged", String::as_str)))
        }
    }
}

pub(super) fn is_fine(status: &str) -> bool {
    ["OK", "Table is already up to date"].contains(&status) || status.contains("doesn't support check")
}
