//! `schemas/asyncapi.json` as the tools of others read it.

use std::path::Path;
use std::process::Stdio;

use protocol::command::Command;
use serde_json::Value;

/// Fetched by `scripts/asyncapi`.
fn parser() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/asyncapi")
}

#[tokio::test]
async fn asyncapis_own_parser_finds_nothing_wrong_and_each_command() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let parser = parser();
    if !parser.join("node_modules/@asyncapi/parser").is_dir() {
        testkit::skip!("odd: its parser is not there (scripts/asyncapi fetches it)");
    }
    let mut node = tokio::process::Command::new("node");
    node.arg(tests.join("asyncapi/read.mjs")).arg(&parser).arg(tests.join("../schemas/asyncapi.json"));
    let output = node.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let read: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert_eq!(read["wrong"], Value::Array(Vec::new()));
    let channels = usize::try_from(read["channels"].as_u64().unwrap()).unwrap();
    assert!(channels > Command::SPECS.len(), "{channels} channels");
}
