use std::io::Write as _;

use super::*;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn error(text: &str) -> String {
    let file = file(text);
    let error = load(Some(file.path()), &Overrides::default()).unwrap_err().to_string();
    assert!(error.contains(&file.path().display().to_string()), "the file is named: {error}");
    error
}

#[test]
fn an_empty_file_is_a_whole_configuration() {
    let config = load(Some(file("").path()), &Overrides::default()).unwrap();
    assert_eq!(config.agent.cluster, "default");
    assert!(!config.auth.accept_unsigned);
}

#[test]
fn an_unknown_key_is_named_with_what_was_expected() {
    let error = error("[agent]\nclutser = \"shop\"\n");
    assert!(error.contains("agent.clutser") || error.contains("clutser"), "{error}");
    assert!(error.contains("cluster"), "{error}");
}

#[test]
fn a_wrong_type_is_named_with_what_was_expected() {
    let error = error("[seed]\nconnections = \"many\"\n");
    assert!(error.contains("seed.connections"), "{error}");
    assert!(error.contains("many"), "{error}");
}

#[test]
fn a_file_that_is_no_toml_is_told_with_its_line() {
    let error = error("[agent]\ncluster = \n");
    assert!(error.contains("line 2"), "{error}");
}

#[test]
fn a_missing_file_is_an_error_when_it_was_asked_for() {
    let error = load(Some(Path::new("/nonexistent/agent.toml")), &Overrides::default()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/agent.toml"));
}

#[test]
fn flags_win_over_the_file() {
    let file = file("[agent]\ncluster = \"shop\"\n");
    let overrides = Overrides { values: vec![("agent.cluster".into(), "other".into())] };
    assert_eq!(load(Some(file.path()), &overrides).unwrap().agent.cluster, "other");
    let overrides = Overrides { values: vec![("seed.connections".into(), "x".into())] };
    let error = load(Some(file.path()), &overrides).unwrap_err().to_string();
    assert!(error.starts_with("--set: seed.connections"), "{error}");
}

#[test]
fn what_types_cannot_say_is_checked_too() {
    assert!(error("[agent]\nheartbeat_s = 0\n").contains("agent.heartbeat_s"));
    assert!(error("[custom.x]\nargv = [\"rm\", \"-rf\"]\n").contains("custom.x.argv"));
    assert!(error("[[auth.trusted]]\nkey = \"UX\"\nname = \"a\"\nroles = [\"read\"]\n").contains("auth"));
    assert!(error("[agent]\nstate_dir = \"relative\"\n").contains("absolute"));
    assert!(error("[snapshot]\nschedule = \"at noon\"\n").contains("snapshot.schedule"));
    assert!(error("[snapshot]\nverify_schedule = \"at noon\"\n").contains("snapshot.verify_schedule"));
    assert!(error("[snapshot]\nverify_budget_s = 0\n").contains("snapshot.verify_budget_s"));
}

#[test]
fn a_log_level_that_would_silence_the_log_is_refused() {
    assert!(error("[log]\nlevel = \"inffo\"\n").contains("log.level: \"inffo\" is no level"));
    for good in ["warn", "INFO", "info,transfer=debug", "off"] {
        load(Some(file(&format!("[log]\nlevel = {good:?}\n")).path()), &Overrides::default()).unwrap();
    }
}

#[test]
fn values_that_cannot_work_are_refused_and_enums_list_theirs() {
    assert!(error("[seed]\nstall_s = 0\n").contains("seed.stall_s"));
    let provider = "[snapshot.provider]\nprovider = \"directory\"\nroot = \"snaps\"\n";
    assert!(error(provider).contains("snapshot.provider.root: expected an absolute path"));
    let text = error("[seed]\npages = \"maybe\"\n");
    assert!(
        text.contains("`off`, `warn`, `fail`") || text.contains("off") && text.contains("fail"),
        "{text}"
    );
    assert!(error("[log]\nformat = \"xml\"\n").contains("json"));
}

#[test]
fn what_is_named_but_not_there_is_told_by_file_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open.nk");
    std::fs::write(&open, "SUAAA").unwrap();
    for (text, key, words) in [
        ("[mysql]\ndefaults_file = \"/nosuch.cnf\"\n".to_owned(), "mysql.defaults_file", "/nosuch.cnf"),
        (format!("[bus]\ncredentials.nkey_file = {open:?}\n"), "bus.credentials", "chmod 600"),
        ("[bus]\ncredentials.nkey_file = \"/nosuch.nk\"\n".to_owned(), "bus.credentials", "/nosuch.nk"),
        ("[bus.tls]\nca = \"/nosuch.pem\"\n".to_owned(), "bus.tls", "/nosuch.pem"),
        (format!("[mysql]\nuser = \"x\"\npassword_file = {open:?}\n"), "mysql.password_file", "open.nk"),
        ("[custom.x]\nargv = [\"/nosuch/program\"]\n".to_owned(), "custom.x.argv", "/nosuch/program"),
        (format!("[seed]\npost_copy = [{open:?}]\n"), "seed.post_copy", "chmod +x"),
    ] {
        let file = file(&text);
        let error = load_usable(Some(file.path()), &Overrides::default()).unwrap_err().to_string();
        let found =
            error.contains(key) && error.contains(words) && error.contains(file.path().to_str().unwrap());
        assert!(found, "{text}: {error}");
    }
}

/// The annotated sample, once as it is and once with its examples (`#key`, without a space) switched on.
#[test]
fn the_annotated_sample_can_be_used_and_shows_the_defaults() {
    let sample = include_str!("../../../../ops/config/agent.toml");
    let config = load(Some(file(sample).path()), &Overrides::default()).unwrap();
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));

    let is_example = |line: &str| {
        line.strip_prefix('#')
            .is_some_and(|rest| rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()))
    };
    let lines: Vec<&str> =
        sample.lines().map(|line| if is_example(line) { &line[1..] } else { line }).collect();
    let config = load(Some(file(&lines.join("\n")).path()), &Overrides::default()).unwrap();
    assert!(config.snapshot.provider.is_some() && config.custom.contains_key("top"));
}
