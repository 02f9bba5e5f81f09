//! One cell: a server's make, a layout and a history, and what must come of them.

use super::history::History;
use super::layout::{self, Layout};

/// Servers that the cells are tried with; see [`vendor`](crate::replication::vendor).
pub const VENDORS: [&str; 3] = ["mariadb", "mariadb11", "mysql9"];

/// One cell.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    /// Whose server.
    pub vendor: &'static str,
    /// Who keeps what where.
    pub layout: Layout,
    /// What happened.
    pub history: History,
}

impl Cell {
    /// A name for its record.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}.{}.{}", self.vendor, self.layout.name, self.history.name())
    }

    /// Whether its server is MySQL.
    #[must_use]
    pub fn is_mysql(&self) -> bool {
        self.vendor == "mysql9"
    }

    /// The words with which the plan must refuse; absent: it is seeded with every row.
    #[must_use]
    pub fn refused(&self) -> Option<&'static str> {
        let is_mysql = self.is_mysql();
        let is_elsewhere = self.layout.name == layout::LOGS_ELSEWHERE.name;
        let needs_lock = match self.history {
            // MySQL blocks commits only behind the longest statement, which is not waited for.
            History::LongStatement => is_mysql,
            // A log that was closed does not prove that the engine's was.
            History::DonorWasStopped => true,
            _ => false,
        };
        if needs_lock && is_elsewhere {
            return Some("without blocking commits");
        }
        self.layout.refused.or_else(|| self.history.refused(is_mysql))
    }

    /// In the table.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        if self.refused().is_some() { "refused" } else { "seeded" }
    }
}

/// Every cell.
#[must_use]
pub fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    for vendor in VENDORS {
        for layout in layout::ALL {
            cells.push(Cell { vendor, layout, history: History::UnderWrites });
        }
        for history in History::ALL.into_iter().filter(|history| *history != History::UnderWrites) {
            for layout in [layout::AS_PACKAGED, layout::LOGS_ELSEWHERE] {
                if history.is_possible(vendor == "mysql9") {
                    cells.push(Cell { vendor, layout, history });
                }
            }
        }
    }
    cells
}

/// The cells of this run for one server: all with `OA_CELLS=all`, those whose key holds one of the texts with `OA_CELLS=text,text`,
/// else a fixed sample in which each layout and each history comes up with one of the servers.
#[must_use]
pub fn due(vendor: &str) -> Vec<Cell> {
    let asked = std::env::var("OA_CELLS").unwrap_or_default();
    let of_vendor = all().into_iter().filter(|cell| cell.vendor == vendor);
    match asked.as_str() {
        "all" => of_vendor.collect(),
        "" => sample().into_iter().filter(|cell| cell.vendor == vendor).collect(),
        texts => of_vendor.filter(|cell| texts.split(',').any(|text| cell.key().contains(text))).collect(),
    }
}

/// Every thirteenth cell: layouts and histories of every kind, other ones for each server.
fn sample() -> Vec<Cell> {
    all().into_iter().step_by(13).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_over_eighty_cells_and_each_is_there_once() {
        let keys: BTreeSet<String> = all().iter().map(Cell::key).collect();
        assert_eq!(keys.len(), all().len());
        assert!(keys.len() >= 80, "{}", keys.len());
    }

    #[test]
    fn a_run_without_a_wish_has_some_of_each_server() {
        for vendor in VENDORS {
            assert!(sample().iter().any(|cell| cell.vendor == vendor), "{vendor}");
        }
    }
}
