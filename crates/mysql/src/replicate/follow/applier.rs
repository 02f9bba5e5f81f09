//! Whether the applier gets on inside one transaction, whose position moves only with its end.

use crate::client::{Record, Session};
use crate::error::Result;

/// Counters that grow while rows are written, read for writing, or a table is built anew.
const COUNTERS: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN ('Handler_write', 'Handler_update', 'Handler_delete', \
     'Handler_read_rnd_next', 'Handler_read_next', 'Handler_read_key', 'Innodb_rows_inserted', 'Innodb_rows_updated', \
     'Innodb_rows_deleted', 'Innodb_buffer_pool_write_requests', 'Innodb_data_written')";

/// How much has been done so far, as the server counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Effort {
    is_busy: bool,
    counted: Vec<Option<String>>,
}

impl Effort {
    /// An applier thread executes something, and the server's work has grown since.
    pub(super) fn is_more_than(&self, before: &Self) -> bool {
        self.is_busy && self.counted != before.counted
    }
}

/// Looks at the applier's threads and at the server's counters.
pub(super) async fn effort(session: &mut Session) -> Result<Effort> {
    let threads = session.records("show its processes", "SHOW FULL PROCESSLIST").await?;
    let counted = session.rows("show what it has done", COUNTERS).await?;
    Ok(Effort {
        is_busy: threads.iter().any(is_busy_applier),
        counted: counted.into_iter().filter_map(|row| row.into_iter().nth(1)).collect(),
    })
}

/// A thread of replication that neither waits nor receives. A lock that it waits for is no work.
fn is_busy_applier(thread: &Record) -> bool {
    let get = |name: &str| thread.get(name).map_or("", String::as_str);
    let idle =
        ["Waiting", "Slave has read all", "Replica has read all", "Connecting", "Queueing", "Reconnecting"];
    let is_replication = get("User") == "system user" && !matches!(get("Command"), "Daemon" | "Slave_IO");
    is_replication && !get("State").is_empty() && !idle.iter().any(|words| get("State").starts_with(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(command: &str, state: &str) -> Record {
        [("User", "system user"), ("Command", command), ("State", state)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn an_applier_works_unless_it_waits() {
        for (command, state) in [
            ("Slave_SQL", "Update_rows_log_event::find_row(7) on table `t`"),
            ("Slave_worker", "copy to tmp table"),
            ("Query", "Applying batch of row changes (update)"),
        ] {
            assert!(is_busy_applier(&thread(command, state)), "{state}");
        }
        for (command, state) in [
            ("Slave_IO", "Waiting for master to send event"),
            ("Slave_SQL", "Slave has read all relay log; waiting for more updates"),
            ("Query", "Replica has read all relay log; waiting for more updates"),
            ("Slave_worker", "Waiting for table metadata lock"),
            ("Daemon", "InnoDB purge worker"),
        ] {
            assert!(!is_busy_applier(&thread(command, state)), "{state}");
        }
    }
}
