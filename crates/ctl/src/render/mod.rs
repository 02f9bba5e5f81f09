//! Values as people read them. Pure: text in, text out.

mod bus;
mod doctor;
mod fleet;
mod host;
mod plan;
mod record;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;
use sys::text::{indented as below, line};

pub use bus::bus_status;
pub use doctor::{Examined, doctor};
pub use fleet::{Fleet, Missing, Seen, details as fleet_details, fleet, found, row as fleet_row};
pub use host::{
    agent_info, disk_free, disk_usage, heartbeat, log_files, mount, mounts, server_info, snapshots, volumes,
};
pub use plan::{choice, name, plan, plans};
pub use record::{Kept, Record, SeedRow, event, job, jobs, journal, kept, seeds, state, timeline};

/// A table without lines; columns whose header begins with `>` stand to the right.
#[must_use]
pub fn table(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(headers.iter().map(|h| h.trim_start_matches('>')));
    table.add_rows(rows.into_iter().map(|row| row.into_iter().map(|cell| line(&cell).into_owned())));
    for (index, header) in headers.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if header.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.to_string().lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Names and values, one pair a line; pairs without a value are left out.
#[must_use]
pub fn pairs(pairs: &[(&str, Option<String>)]) -> String {
    let width = pairs.iter().filter(|(_, v)| v.is_some()).map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs
        .iter()
        .filter_map(|(name, value)| {
            value.as_ref().map(|value| format!("{name:<width$}  {}\n", below(value, &" ".repeat(width + 2))))
        })
        .collect()
}

/// Any result as names and values, what is inside others further right; lists stay JSON.
#[must_use]
pub fn result(value: &Value) -> String {
    indented(value, 2)
}

fn indented(value: &Value, indent: usize) -> String {
    let pad = " ".repeat(indent);
    let Value::Object(fields) = value else {
        return if value.is_null() { String::new() } else { format!("{pad}{}\n", scalar(value)) };
    };
    let told = || fields.iter().filter(|(_, value)| !is_nothing(value));
    let is_short = |value: &Value| !value.is_object() && !scalar(value).contains('\n');
    let width = told().filter(|(_, v)| is_short(v)).map(|(name, _)| name.len()).max().unwrap_or(0);
    told()
        .map(|(name, value)| match value {
            Value::Object(_) => format!("{pad}{}:\n{}", line(name), indented(value, indent + 2)),
            value if is_short(value) => format!("{pad}{:<width$}  {}\n", line(name), scalar(value)),
            value => {
                let body: String = scalar(value).lines().map(|one| format!("{pad}  {one}\n")).collect();
                format!("{pad}{}:\n{body}", line(name))
            }
        })
        .collect()
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_nothing),
        _ => false,
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A value of a unit-variant enum as it stands on the wire.
pub(crate) fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => "?".to_owned(),
    }
}

pub(crate) fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests;
