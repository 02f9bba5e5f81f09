//! The command provider with programs as a user would write them: btrfs snapshots behind a small script.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are test code too")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{LoopFs, may_mount, run};
use protocol::snapshot::Validity;
use snapshot::Error;
use snapshot::conformance::{self, Fixture, request};
use snapshot::provider::{MountMode, Observed, Provider};
use snapshot::registry::{CommandConfig, ProviderConfig, build};

/// What a storage array's tool would do; ids are its own, not the names asked for.
const SCRIPT: &str = r#"#!/usr/bin/env python3
import json, os, subprocess, sys
env = os.environ
store = env["STORE"]
def call(*argv): subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
verb = sys.argv[1]
if verb == "create":
    call("btrfs", "subvolume", "snapshot", "-r", env["SNAPSHOT_DATADIR"], f"{store}/lun-{env['SNAPSHOT_NAME']}")
    print(f"array/lun-{env['SNAPSHOT_NAME']}")
elif verb == "list":
    names = [n for n in sorted(os.listdir(store)) if n.startswith("lun-")]
    flags = {n: os.path.exists(f"{store}/lost-{n}") for n in names}
    print(json.dumps([{"id": f"array/{n}", "created_at": "2026-11-22T10:15:00Z", "origin": "lun0", "valid": not flags[n], "vendor": 1} for n in names]))
elif verb == "mount":
    path = f"{store}/{env['SNAPSHOT_ID'].removeprefix('array/')}"
    if env["SNAPSHOT_MODE"] == "rw": call("btrfs", "property", "set", "-f", path, "ro", "false")
    call("mount", "--bind", path, env["SNAPSHOT_TARGET"])
    if env["SNAPSHOT_MODE"] == "ro": call("mount", "-o", "remount,bind,ro", env["SNAPSHOT_TARGET"])
elif verb == "unmount":
    call("umount", env["SNAPSHOT_TARGET"])
elif verb == "remove":
    call("btrfs", "subvolume", "delete", f"{store}/{env['SNAPSHOT_ID'].removeprefix('array/')}")
"#;

fn config(script: &Path, store: &Path) -> CommandConfig {
    let verb = |verb: &str| vec![script.display().to_string(), verb.to_owned()];
    CommandConfig {
        create: verb("create"),
        list: verb("list"),
        mount: verb("mount"),
        unmount: verb("unmount"),
        remove: verb("remove"),
        atomic: true,
        name_pattern: "{cluster}-{time}".to_owned(),
        datadir_inside: PathBuf::new(),
        environment: BTreeMap::from([("STORE".to_owned(), store.display().to_string())]),
        timeout_seconds: 60,
    }
}

#[test]
fn commands_keep_the_contract() {
    if !may_mount("commands_keep_the_contract") {
        return;
    }
    let fs = LoopFs::btrfs();
    let (work, datadir, store) =
        (tempfile::tempdir().unwrap(), fs.path().join("mysql"), fs.path().join("store"));
    run("btrfs", [Path::new("-q"), Path::new("subvolume"), Path::new("create"), &datadir]);
    fs::create_dir(&store).unwrap();
    let script = work.path().join("array-tool");
    fs::write(&script, SCRIPT).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let config = ProviderConfig::Command(config(&script, &store));
    let provider = || -> Arc<dyn Provider> { Arc::from(build(&config, work.path()).unwrap()) };
    conformance::run(&Fixture {
        provider: &provider,
        datadir: datadir.clone(),
        work: work.path().canonicalize().unwrap(),
        not_a_snapshot: "array/lun0".parse().unwrap(),
    });
    assert_eq!(fs::read_dir(work.path().join("snapshots")).unwrap().count(), 0, "no sidecar is left");

    let asked = request(&datadir);
    let made =
        provider().create(&asked, &mut |take| Ok(take().map(|()| Observed::crash_consistent())?)).unwrap();
    let name = made.id.as_str().strip_prefix("array/").unwrap();
    fs::write(store.join(format!("lost-{name}")), "").unwrap();
    assert!(matches!(provider().validity(&made.id).unwrap(), Validity::Invalid(_)));
    let target = work.path().join("t");
    fs::create_dir(&target).unwrap();
    let error = provider().mount(&made.id, &target, MountMode::ReadOnly).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}

#[test]
fn what_a_tool_prints_and_how_it_fails_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let tool = |text: &str| {
        let mut config = config(Path::new("true"), dir.path());
        config.list = vec!["printf".to_owned(), "%s".to_owned(), text.to_owned()];
        build(&ProviderConfig::Command(config), dir.path()).unwrap()
    };
    assert_eq!(tool("[]").list().unwrap(), []);
    for bad in ["", "{}", "[{\"id\":\"../etc\",\"created_at\":\"2026-01-01T00:00:00Z\"}]", "[{\"id\":\"a\"}]"]
    {
        let error = tool(bad).list().unwrap_err();
        assert!(matches!(error, Error::ToolOutput { .. }), "{bad}: {error}");
    }
    let mut failing = config(Path::new("true"), dir.path());
    failing.list = ["sh", "-c", "echo the array is away >&2; exit 3"].map(str::to_owned).to_vec();
    let provider = build(&ProviderConfig::Command(failing.clone()), dir.path()).unwrap();
    assert_eq!(provider.list().unwrap_err().to_string(), "sh failed (exit status 3): the array is away");
    failing.mount = vec!["no-such-array-tool".to_owned()];
    let capability = build(&ProviderConfig::Command(failing.clone()), dir.path()).unwrap().probe();
    assert!(!capability.available && capability.reason.unwrap().contains("no-such-array-tool"));
    failing.mount = Vec::new();
    let error = build(&ProviderConfig::Command(failing), dir.path()).unwrap_err();
    assert!(error.to_string().contains("`mount`"), "{error}");
}
