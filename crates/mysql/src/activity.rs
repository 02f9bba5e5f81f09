//! Whether anybody uses a server: who is connected, what was written, who came and went. Not the binary log: it stands still
//! where it is off, and for a session that switched it off.

use crate::client::Record;
use crate::error::Result;
use crate::instance::Instance;

/// Statements that write, and rows written by whatever way; temporary tables inside a query count as neither.
const WRITES: [&str; 20] = [
    "Com_alter_table",
    "Com_call_procedure",
    "Com_create_db",
    "Com_create_table",
    "Com_delete",
    "Com_delete_multi",
    "Com_drop_db",
    "Com_drop_table",
    "Com_insert",
    "Com_insert_select",
    "Com_load",
    "Com_rename_table",
    "Com_replace",
    "Com_replace_select",
    "Com_truncate",
    "Com_update",
    "Com_update_multi",
    "Innodb_rows_deleted",
    "Innodb_rows_inserted",
    "Innodb_rows_updated",
];
/// Without this right the list of processes holds the account's own only.
const SEES_ALL: &str = "SELECT 1 FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE = 'PROCESS' \
     AND GRANTEE = CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''')";

/// What a server has counted since its start, and who is connected at this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Activity {
    /// Statements that wrote and rows that were written.
    pub writes: u64,
    /// Connections that were made, those of this agent left out.
    pub connections: u64,
    /// Who else is connected, as `user@host`; replicas of it are not clients.
    pub clients: Vec<String>,
    /// Connections that the agent's account may not see.
    pub hidden: u64,
}

/// Looks at the running server now; clients of the users in `ignored` are none.
///
/// # Errors
/// When it does not answer.
pub async fn look(instance: &Instance, ignored: &[String]) -> Result<Activity> {
    let mut session = instance.connect().await?;
    let own = instance.own_connections();
    // Read first: one that is being made at this moment can only make the server's count seem too high, until the next look.
    let made = own.made();
    let rows = session.rows("show what it has done", "SHOW GLOBAL STATUS").await?;
    let threads = session.records("show its processes", "SHOW FULL PROCESSLIST").await?;
    let sees_all = session.scalar("show its rights", SEES_ALL).await?.is_some();
    session.close().await;
    let count = |name: &str| {
        let row = rows.iter().find(|row| row.first().and_then(|n| n.as_deref()) == Some(name))?;
        row.get(1)?.as_deref()?.parse::<u64>().ok()
    };
    let visible = threads.iter().filter(|thread| is_client(thread)).count() as u64;
    let mut clients: Vec<String> = threads
        .iter()
        .filter(|thread| is_client(thread) && !is_dump(thread) && !is_nobody(thread))
        .filter(|thread| !thread.get("Id").and_then(|id| id.parse().ok()).is_some_and(|id| own.has(id)))
        .filter(|thread| !ignored.iter().any(|user| thread.get("User") == Some(user)))
        .map(name)
        .collect();
    clients.sort();
    clients.dedup();
    Ok(Activity {
        writes: WRITES.iter().filter_map(|name| count(name)).sum(),
        connections: count("Connections").unwrap_or_default().saturating_sub(made),
        clients,
        hidden: match sees_all {
            true => 0,
            false => count("Threads_connected").unwrap_or_default().saturating_sub(visible),
        },
    })
}

/// A connection from outside, no thread of the server's own.
fn is_client(thread: &Record) -> bool {
    let get = |name: &str| thread.get(name).map_or("", String::as_str);
    !matches!(get("User"), "system user" | "event_scheduler") && get("Command") != "Daemon"
}

/// Has not logged in, such as what only looked who listens.
fn is_nobody(thread: &Record) -> bool {
    thread.get("User").is_some_and(|user| user == "unauthenticated user")
}

fn is_dump(thread: &Record) -> bool {
    thread.get("Command").is_some_and(|command| command.starts_with("Binlog Dump"))
}

fn name(thread: &Record) -> String {
    let get = |name: &str| thread.get(name).map_or("", String::as_str);
    // Without the port, which differs with each connection.
    let host = get("Host").rsplit_once(':').map_or_else(|| get("Host"), |(host, _)| host);
    format!("{}@{host}", get("User"))
}
