//! `docs/truth.md`: written once every cell has passed, and compared with the cells that the suite has.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::cell::{self, Cell, VENDORS};
use super::history::History;
use super::layout;
use crate::faults::record;

const INTRO: &str = "\
<!-- Written by `make truth` from a run of the suite; do not edit. -->
# When \"done\" is true

Each cell below was made to happen with real servers, two agents, nats-server and ctl, by [`tests/tests/truth.rs`](../tests/tests/truth.rs):
`seed start --stop-mysql --allow-primary --replicate-from` the source. A cell has passed when either

- **seeded**: the new replica has reached the source's position, every table has the source's checksum, both threads run, and the
  recipient has written nothing of its own; or
- **refused**: ctl ended with 3 and the words below, before a byte was copied and with the recipient untouched.

There is no third outcome: never a failure after the copy, never a row missing. `make truth` makes every cell happen and writes this
page; `make test` has a fixed sample.
";

const SERVERS: [&str; 3] = ["MariaDB 10.11", "MariaDB 11.8", "MySQL 9"];

/// Keeps that a cell has passed.
///
/// # Panics
/// When it cannot be written.
pub fn passed(cell: &Cell) {
    let path = path(cell);
    fs::create_dir_all(path.parent().expect("it lies in a directory")).unwrap();
    fs::write(path, cell.outcome()).unwrap();
}

/// Makes the next run begin with nothing.
///
/// # Errors
/// When the records cannot be removed.
pub fn forget() -> anyhow::Result<()> {
    match fs::remove_dir_all(directory()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes the page.
///
/// # Errors
/// When a cell has not passed.
pub fn write() -> anyhow::Result<usize> {
    let cells = cell::all();
    let has_passed = |cell: &&Cell| fs::read_to_string(path(cell)).is_ok_and(|text| text == cell.outcome());
    let missing: Vec<String> = cells.iter().filter(|cell| !has_passed(cell)).map(Cell::key).collect();
    ensure!(missing.is_empty(), "{} cells have not passed: {}", missing.len(), missing.join(", "));
    fs::write(page(), render()).context("docs/truth.md")?;
    Ok(cells.len())
}

fn directory() -> PathBuf {
    record::directory().with_file_name("truth-records")
}

fn path(cell: &Cell) -> PathBuf {
    directory().join(cell.key())
}

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/truth.md")
}

fn render() -> String {
    let cells = cell::all();
    let mut text = format!("{INTRO}\n{} cells.\n", cells.len());
    let head = |text: &mut String, what: &str| {
        let _ = writeln!(text, "\n| {what} | {} |\n|{}", SERVERS.join(" | "), " --- |".repeat(4));
    };
    text.push_str("\n## Who keeps what where\n\nThe source is written to all the time.\n");
    head(&mut text, "layout");
    for layout in layout::ALL {
        let of = |cell: &&Cell| cell.layout.name == layout.name && cell.history == History::UnderWrites;
        row(&mut text, layout.title, &cells.iter().filter(of).collect::<Vec<_>>());
    }
    text.push_str("\n## What happened\n\nEach with binary logs in the datadirs, and outside them.\n");
    head(&mut text, "history");
    for history in History::ALL.into_iter().filter(|history| *history != History::UnderWrites) {
        let of = |cell: &&Cell| cell.history == history;
        row(&mut text, history.title(), &cells.iter().filter(of).collect::<Vec<_>>());
    }
    text
}

fn row(text: &mut String, title: &str, cells: &[&Cell]) {
    let outcomes = VENDORS.map(|vendor| {
        let cell = cells.iter().find(|cell| cell.vendor == vendor);
        cell.map_or_else(
            || "–".to_owned(),
            |cell| match cell.refused() {
                Some(words) => format!("refused: “{words}”"),
                None => "seeded".to_owned(),
            },
        )
    });
    let _ = writeln!(text, "| {title} | {} |", outcomes.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_in_the_docs_are_the_suites() {
        let text = fs::read_to_string(page()).unwrap();
        assert!(text == render(), "docs/truth.md has other cells than the suite: `make truth`");
    }
}
