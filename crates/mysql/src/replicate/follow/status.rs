//! What `SHOW REPLICA STATUS` says, under its old and new names.

use protocol::mysql::BinlogPosition;

use crate::client::Record;
use crate::server;

pub(super) enum Health {
    Running(u64),
    /// Not connected yet, or a moment without a lag figure; what the threads say.
    Connecting(String),
    Failed(String),
}

pub(super) fn health(status: &Record) -> Health {
    let get = |new, old| server::column(status, new, old).unwrap_or_default();
    let (io, sql) =
        (get("Replica_IO_Running", "Slave_IO_Running"), get("Replica_SQL_Running", "Slave_SQL_Running"));
    let error = |name: &str| status.get(name).filter(|e| !e.is_empty());
    if let Some(words) = error("Last_SQL_Error") {
        return Health::Failed(words.clone());
    }
    match (io, sql, server::lag_seconds(status)) {
        ("Yes", "Yes", Some(lag)) => Health::Running(lag),
        ("No", _, _) if error("Last_IO_Error").is_some() => Health::Failed(status["Last_IO_Error"].clone()),
        _ => {
            let words = error("Last_IO_Error").cloned();
            let state = || get("Replica_IO_State", "Slave_IO_State").to_owned();
            Health::Connecting(words.unwrap_or_else(state))
        }
    }
}

/// The I/O thread is past connecting, registering and requesting the dump, and knows the log that it is sent.
pub(super) fn is_accepted(status: &Record) -> bool {
    let get = |new, old| server::column(status, new, old).unwrap_or_default();
    let state = get("Replica_IO_State", "Slave_IO_State");
    let receives =
        state.starts_with("Waiting for") && state.ends_with("to send event") || state.starts_with("Queueing");
    receives && !get("Source_Log_File", "Master_Log_File").is_empty()
}

/// How far the applier has come in the source's own log.
pub(super) fn executed(status: &Record) -> Option<BinlogPosition> {
    let file = server::column(status, "Relay_Source_Log_File", "Relay_Master_Log_File")?;
    let position = server::column(status, "Exec_Source_Log_Pos", "Exec_Master_Log_Pos")?.parse().ok()?;
    (!file.is_empty()).then(|| BinlogPosition { file: file.to_owned(), position })
}

/// The columns that move while a replica works.
pub(super) fn standing(status: &Record) -> Vec<String> {
    let columns = [
        ("Source_Log_File", "Master_Log_File"),
        ("Read_Source_Log_Pos", "Read_Master_Log_Pos"),
        ("Relay_Source_Log_File", "Relay_Master_Log_File"),
        ("Exec_Source_Log_Pos", "Exec_Master_Log_Pos"),
        ("Relay_Log_Space", "Relay_Log_Space"),
    ];
    columns.iter().map(|(new, old)| server::column(status, new, old).unwrap_or_default().to_owned()).collect()
}
