//! What `--json` prints that is no command's own result, as JSON Schemas: `schemas/ctl/`. Such results are in `schemas/v1/commands/`.

use schemars::{JsonSchema, schema_for};
use serde::Serialize;
use serde_json::Value;

use crate::donor::Candidate;
use crate::error::Report;
use crate::lines::{Line, SeedNews};
use crate::render::{Examined, Fleet, Kept, Record, SeedRow};
use crate::watch::Update;

/// A failure.
#[derive(Debug, Serialize, JsonSchema)]
struct Failure {
    /// What failed.
    error: Report,
}

/// Any news of a job.
#[derive(Debug, Serialize, JsonSchema)]
#[expect(dead_code, reason = "only its schema is wanted: who prints knows which of both it is")]
#[serde(untagged)]
enum News<'a> {
    /// Of its work.
    Job(Update),
    /// Of a seed beside that.
    Seed(SeedNews<'a>),
}

/// Each file's name and content.
#[must_use]
pub fn documents() -> Vec<(&'static str, Value)> {
    fn of<T: JsonSchema>() -> Value {
        schema_for!(T).into()
    }
    vec![
        ("error.json", of::<Failure>()),
        ("line.json", of::<Line<'static, News<'static>>>()),
        ("fleet.json", of::<Fleet>()),
        ("snapshot-find.json", of::<Vec<Candidate>>()),
        ("doctor.json", of::<Vec<Examined>>()),
        ("seed-list.json", of::<Vec<SeedRow>>()),
        ("seed-kept.json", of::<Vec<Kept>>()),
        ("seed-show.json", of::<Record>()),
    ]
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// `OA_WRITE_SCHEMAS=1` writes them.
    #[test]
    fn schemas_of_what_ctl_prints_are_published() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/ctl");
        let writes = std::env::var_os("OA_WRITE_SCHEMAS").is_some();
        for (name, schema) in documents() {
            let path = directory.join(name);
            if writes {
                fs::create_dir_all(&directory).unwrap();
                fs::write(&path, format!("{schema:#}\n")).unwrap();
            }
            let published = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
            assert!(
                published == Some(schema),
                "schemas/ctl/{name} is not what the code says: `make schemas` writes it"
            );
        }
    }
}
