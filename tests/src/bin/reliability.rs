//! Writes `docs/reliability.md` from what the suites of faults recorded in their last run; with `forget` it makes them
//! begin with nothing, so that no record is older than the run.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use e2e::faults::{document, record};

fn main() -> anyhow::Result<()> {
    let directory = record::directory();
    if std::env::args().nth(1).is_some_and(|word| word == "forget") {
        return match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        };
    }
    let records = record::all(&directory).with_context(|| {
        format!("no records in {}: run the suites (make reliability)", directory.display())
    })?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reliability.md");
    fs::write(&path, document::write(&records)?)?;
    println!("wrote docs/reliability.md from {} records", records.len());
    Ok(())
}
