//! `docs/reliability.md`: written from the records of a run, and compared with the cells that the suite has.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::ensure;
use protocol::seed::SeedStage;
use serde_json::Value;

use super::table::{self, Cell, Fault};

/// Lines that differ from run to run begin so.
const MEASURED: &str = "Measured ";

const INTRO: &str = "\
<!-- Written by `make reliability` from a run of the suite; do not edit. -->
# What a seed survives

Each cell below was made to happen with real processes: two agents, two MariaDB servers, nats-server and ctl, by
[`tests/tests/reliability.rs`](../tests/tests/reliability.rs) and
[`reliability_places.rs`](../tests/tests/reliability_places.rs). After each one a checker asserts, on both hosts:

- the recipient has either the complete old datadir or the complete, proven new one, never a mix of both;
- no mount, no listening port, no process, no staging directory, no hold on a snapshot and no secret of the seed is left;
- the job's end and its cause are on the bus, no event is missing and none is there twice;
- a fresh seed right after succeeds.

An abort must have freed both hosts within 3 s of the agent's answer, not counting what other work took from the machine meanwhile.

`make reliability` makes every cell happen and writes this page; `make test` has each fault once, over all stages. A transfer that loses
its network has it back after 60 s here and after 3 s in `make test`.
";

const WORDS: &str = "\
| word | the recipient afterwards |
| --- | --- |
| seeded | runs on the complete new data |
| seeded, server down | has the complete new data; the server that was killed after it had answered stays down, and starts |
| as before | the seed has failed by name; the old datadir is in its place, and MySQL runs as before |
| aborted, as before | the same, as somebody wished |
| refused, as before | nothing had begun |
| new data kept | `--replace` only: the seed has failed by name; the new data are complete, there are no others |
| no data, as planned | `--replace` only: the seed has failed by name after the old data were removed, as its plan had said |
";

/// The text, from the records of a run.
///
/// # Errors
/// When a cell has no record: it did not pass.
pub fn write(records: &BTreeMap<String, Value>) -> anyhow::Result<String> {
    let cells = table::all();
    let has_passed = |cell: &&Cell| {
        let record = records.get(&cell.key());
        record.and_then(|record| record["outcome"].as_str()) == Some(cell.outcome.as_str())
    };
    let missing: Vec<String> = cells.iter().filter(|cell| !has_passed(cell)).map(Cell::key).collect();
    ensure!(missing.is_empty(), "{} cells have not passed: {}", missing.len(), missing.join(", "));
    let freed = records.values().filter_map(|record| record["freed_ms"].as_u64());
    let mut freed: Vec<u64> = freed.collect();
    freed.sort_unstable();
    let measured = match freed.as_slice() {
        [] => String::new(),
        [.., slowest] => format!(
            "{MEASURED}in this run: an abort had freed both hosts after {} ms in the middle, {slowest} ms at the most ({} aborts).\n",
            freed[freed.len() / 2],
            freed.len()
        ),
    };
    Ok(render(&cells, &measured))
}

/// Whether a text lists exactly the cells that the suite has.
#[must_use]
pub fn fits(text: &str) -> bool {
    let lasting =
        |text: &str| text.lines().filter(|line| !line.starts_with(MEASURED)).collect::<Vec<_>>().join("\n");
    lasting(text).trim() == lasting(&render(&table::all(), "")).trim()
}

fn render(cells: &[Cell], measured: &str) -> String {
    let mut text = format!("{INTRO}\n{} cells. The words mean:\n\n{WORDS}\n", cells.len());
    text.push_str(
        "## At every stage\n\nWhere beginning and end of a stage differ, both are given.\n\n| fault |",
    );
    for stage in SeedStage::ALL {
        let _ = write!(text, " {} |", stage.as_str());
    }
    let _ = writeln!(text, "\n|{}", " --- |".repeat(1 + SeedStage::ALL.len()));
    for fault in Fault::MATRIX {
        let _ = write!(text, "| {} |", fault.title());
        for stage in SeedStage::ALL {
            let of_stage = cells.iter().filter(|c| c.fault == fault && c.stage == stage.as_str());
            let mut words: Vec<&str> = of_stage.map(|cell| cell.outcome.as_str()).collect();
            words.dedup();
            let _ = write!(text, " {} |", if words.is_empty() { "–".to_owned() } else { words.join("; ") });
        }
        text.push('\n');
    }
    text.push_str("\n## In one place\n\n| fault | where | outcome |\n| --- | --- | --- |\n");
    for cell in cells.iter().filter(|cell| !Fault::MATRIX.contains(&cell.fault)) {
        let place = format!("{} {}", cell.stage, cell.moment);
        let _ = writeln!(text, "| {} | {} | {} |", cell.fault.title(), place.trim(), cell.outcome.as_str());
    }
    if !measured.is_empty() {
        let _ = write!(text, "\n{measured}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_table_in_the_docs_is_the_suites() {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reliability.md"));
        assert!(
            fits(&text.unwrap()),
            "docs/reliability.md has other cells than the suite: `make reliability`"
        );
    }

    #[test]
    fn a_text_fits_until_a_cell_is_gone() {
        let text = render(&table::all(), "Measured in this run: 1 ms.\n");
        assert!(fits(&text));
        assert!(!fits(&text.replacen("seeded |", "lost |", 1)));
        assert!(!fits("# What a seed survives\n"));
    }
}
