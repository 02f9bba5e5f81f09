//! A seed over a path with a round trip of 24 ms that loses one packet of 1,000, by the benchmark's own emulator: two network
//! namespaces, and the kernel's TCP between them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::path::Path;
use std::process::Command;

/// Paced by what the path delivers where this kernel can, and by what it loses: both times several connections are made while the manifest
/// is still on its way, and the trees are compared at the end.
#[test]
fn a_far_recipient_gets_the_same_tree_whatever_the_congestion_control() {
    let is_missing = |program: &&str| Command::new(program).arg("-V").output().is_err();
    let missing: Vec<&str> = ["ip", "socat"].into_iter().filter(is_missing).collect();
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/net/tun").exists() || !missing.is_empty() {
        testkit::skip!("it needs root, /dev/net/tun, ip and socat (not there: {missing:?})");
    }
    let report = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_seed-bench"))
        .args(["--lane", "128 MiB at 24 ms, lossy", "--rounds", "1", "--docs"])
        .arg(report.path())
        .output()
        .unwrap();
    let (report, errors) =
        (std::fs::read_to_string(report.path()).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}");
    for contestant in ["seed-tls", "seed-tls-cubic"] {
        assert!(
            report.contains(&format!("\n| {contestant} | ")),
            "{contestant} did not run: {report}\n{errors}"
        );
    }
}
