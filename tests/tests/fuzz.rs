//! Bodies from the bus and journals from the disk that nobody wrote so: refused or read, never a panic. The readers of other
//! crates have theirs beside them; `make fuzz MINUTES=n` runs them all.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::path::{Path, PathBuf};

use protocol::command::Command;
use protocol::envelope::Request;
use protocol::event::Event;
use protocol::heartbeat::Heartbeat;
use protocol::subject::Subject;
use serde_json::Value;

/// The parts of this name of all examples of commands.
fn examples(part: &str) -> Vec<(String, Value)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../schemas/v1/examples");
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let name = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    let read = |path: &PathBuf| -> Option<(String, Value)> {
        let example: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        Some((name(path), example.get(part)?.clone()))
    };
    files.iter().filter_map(read).collect()
}

#[test]
fn fuzz_requests() {
    let requests: Vec<Vec<u8>> =
        examples("request").iter().map(|(_, request)| serde_json::to_vec(request).unwrap()).collect();
    testkit::fuzz::run("requests", &requests, 20_000, |bytes| {
        let Ok(request) = Request::parse(bytes) else { return };
        if let Ok(command) = Command::parse(&request.command, request.params) {
            let again = command.params();
            Command::parse(command.spec().name, again).expect("what was read can be written and read");
        }
    });
}

#[test]
fn fuzz_subjects_events_and_heartbeats() {
    let texts = [
        &b"orch.v1.cmd.db1.seed.start"[..],
        br#"{"specversion":"1.0","id":"x","source":"orch/db1","type":"orch.snapshot.created","time":"2026-11-27T03:00:00Z"}"#,
        br#"{"agent":"db1","cluster":"shop","dc":"ams","boot":"01a2067f-17df-7504-bca7-68407533ca89","snapshots":[]}"#,
    ];
    testkit::fuzz::run("texts", &texts, 20_000, |bytes| {
        drop((serde_json::from_slice::<Event>(bytes), serde_json::from_slice::<Heartbeat>(bytes)));
        if let Ok(subject) = Subject::parse(std::str::from_utf8(bytes).unwrap_or_default()) {
            assert_eq!(Subject::parse(&subject.to_string()).unwrap(), subject);
        }
    });
}

#[test]
fn fuzz_journals() {
    let journals: Vec<Vec<u8>> = examples("reply")
        .iter()
        .filter(|(name, _)| name == "jobs.record")
        .map(|(_, reply)| {
            let lines = reply["result"]["lines"].as_array().unwrap();
            lines.iter().map(|line| format!("{}\n", line.as_str().unwrap())).collect::<String>().into_bytes()
        })
        .collect();
    testkit::fuzz::run("journals", &journals, 5000, |bytes| {
        if let Ok(parsed) = job::journal::parse(bytes) {
            assert!(parsed.good_bytes <= bytes.len() as u64);
            assert!(parsed.torn || parsed.good_bytes == bytes.len() as u64);
        }
    });
}
