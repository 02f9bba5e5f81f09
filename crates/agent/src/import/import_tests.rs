//! Configurations of the original that are public: its own page's, three that containers were made with, and one of a fork's last
//! release. Secrets are planted in them.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::config::{self, Overrides};

const PUBLIC: [(&str, &str); 5] = [
    ("readme", include_str!("original/readme.json")),
    ("container-first", include_str!("original/container-first.json")),
    ("container-second", include_str!("original/container-second.json")),
    ("container-third", include_str!("original/container-third.json")),
    ("fork", include_str!("original/fork.json")),
];

fn imported(text: &str) -> (Map<String, Value>, Draft) {
    let values: Map<String, Value> = serde_json::from_str(text).unwrap();
    let draft = keys::import(&values);
    (values, draft)
}

fn outcome(draft: &Draft, key: &str) -> Outcome {
    draft.accounts().iter().find(|account| account.key == key).unwrap().outcome
}

#[test]
fn every_key_of_public_configurations_is_accounted_for() {
    for (name, text) in PUBLIC {
        let (values, draft) = imported(text);
        for key in values.keys() {
            let account = draft.accounts().iter().find(|account| account.key.eq_ignore_ascii_case(key));
            let account = account.unwrap_or_else(|| panic!("{name}: {key}"));
            assert_ne!(account.outcome, Outcome::Unknown, "{name}: {key}");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.toml");
        fs::write(&file, draft.agent_toml()).unwrap();
        config::load(Some(&file), &Overrides::default())
            .unwrap_or_else(|error| panic!("{name}: {error}\n{}", draft.agent_toml()));
    }
}

#[test]
fn no_line_of_a_shell_is_run_before_a_person_has_looked_at_it() {
    let (_, draft) = imported(PUBLIC[0].1);
    let active: Vec<_> =
        draft.agent_toml().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    assert!(
        !active.iter().any(|line| line.contains("bash") || line.contains("rm ") || line.contains('$')),
        "{active:?}"
    );
    assert_eq!(outcome(&draft, "PostCopyCommand"), Outcome::Decide);
    assert!(!is_whole(&draft));
    let script = draft.files().into_iter().find(|file| file.name == "post-copy").unwrap();
    assert!(script.text.contains("rm -f $1/*.pid") && script.mode == 0o700, "{script:?}");
    assert!(draft.agent_toml().contains("# seed.post_copy = "), "it is a comment until then");
    let decided = draft
        .agent_toml()
        .replace("# seed.", "seed.")
        .replace("# [snap", "[snap")
        .replace("# provider", "provider");
    let decided: toml::Table =
        decided.replace("# origin", "origin").replace("# snapshot_v", "snapshot_v").parse().unwrap();
    assert!(decided["seed"]["post_copy"].is_array(), "where it is meant to be: {decided}");
    assert_eq!(
        decided["snapshot"]["provider"]["snapshot_volumes_filter"].as_str(),
        Some(r"mysql\-snap"),
        "{decided}"
    );
    // Where everybody may write, another user could lay what is mounted over.
    assert_eq!(outcome(&draft, "SnapshotMountPoint"), Outcome::Decide);

    let (_, draft) =
        imported(r#"{"CustomCommands": {"a": "/bin/a; reboot", "b": "/bin/b 'x y'", "../c": "/bin/c"}}"#);
    assert_eq!(
        ["a", "b", "../c"].map(|name| outcome(&draft, &format!("CustomCommands.{name}"))),
        [Outcome::Decide, Outcome::Taken, Outcome::Decide]
    );
    let toml = draft.agent_toml();
    assert!(toml.contains(r#"["/bin/b", "x y"]"#) && !toml.contains("reboot"), "{toml}");
}

#[test]
fn services_are_known_and_the_rest_is_taken() {
    let (_, draft) = imported(PUBLIC[4].1);
    let toml = draft.agent_toml();
    for line in [
        "unit = \"mysqld\"",
        "cluster = \"shop\"",
        "dc = \"dc1\"",
        "listen = \"0.0.0.0:21234\"",
        "datadir = \"/var/lib/mysql\"",
    ] {
        assert!(toml.contains(line), "{line} in {toml}");
    }
    let gateway = draft.files().into_iter().find(|file| file.name == "gateway.toml").unwrap().text;
    assert!(gateway.contains("nodes = [\"http://orchestrator.example.com:3001\"]"), "{gateway}");
    let differ = imported(
        r#"{"MySQLServiceStartCommand": "service a start", "MySQLServiceStopCommand": "service b stop"}"#,
    )
    .1;
    assert!(!differ.agent_toml().contains("unit"), "start and stop of two services are none");
}

#[test]
fn secrets_go_into_closed_files_and_nowhere_else() {
    for (name, text) in [PUBLIC[3], PUBLIC[4]] {
        let (_, draft) = imported(text);
        let dir = tempfile::tempdir().unwrap();
        let into = dir.path().join("new");
        let written = write(&draft, &into).unwrap();
        assert!(!report(&draft).contains("planted"), "{name}");
        for path in &written {
            let content = fs::read_to_string(path).unwrap();
            let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert!(!content.contains("planted") || mode == 0o600, "{name}: {}", path.display());
        }
        assert_eq!(fs::metadata(&into).unwrap().permissions().mode() & 0o777, 0o700);
        let error = write(&draft, &into).unwrap_err().to_string();
        assert!(error.contains("nothing is overwritten"), "{error}");
        if name == "fork" {
            let client = fs::read_to_string(into.join("replication.cnf")).unwrap();
            assert!(client.contains(r#"password = "planted\"secret\\4""#), "{client}");
        }
    }
}

#[test]
fn what_is_no_configuration_of_the_original_is_told() {
    let (_, draft) = imported(
        r#"{"SnapshotMuontPoint": "/mnt", "HTTPPort": "x", "SeedPort": 70000, "MySQLDataDir": "data"}"#,
    );
    assert_eq!(outcome(&draft, "SnapshotMuontPoint"), Outcome::Unknown);
    for key in ["HTTPPort", "SeedPort", "MySQLDataDir"] {
        assert_eq!(outcome(&draft, key), Outcome::Decide, "{key}");
    }
    assert!(
        report(&draft).lines().next_back().unwrap().contains("DECIDE") || report(&draft).contains("UNKNOWN")
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("conf.json");
    for text in ["", "[]", "{\"a\":", "\u{0}"] {
        fs::write(&file, text).unwrap();
        assert!(read(&file).is_err(), "{text:?}");
    }
    assert!(read(Path::new("/no/such/file")).is_err());
}
