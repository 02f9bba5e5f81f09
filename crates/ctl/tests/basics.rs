//! The program against a real bus and scripted agents: hosts, errors, exit codes, events, keys.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

mod fake;

use std::process::Stdio;
use std::time::Duration;

use bus::{Authority, AuthorityConfig, TrustedKey};
use data_encoding::BASE64;
use fake::{LIMIT, Terminal, World, ctl, run, summary};
use protocol::command::{Command, Role};
use protocol::error::{ErrorCode, WireError};
use protocol::event::{AgentStarted, EventData, SnapshotGone};
use serde_json::json;
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;
use tokio::io::{AsyncBufReadExt, BufReader};

const MULTI: &str = "a busy machine";

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_is_down_is_unreachable_at_once_and_says_what_to_do() {
    let ran = run(ctl("nats://127.0.0.1:1", "--timeout 500ms fleet --json")).await;
    ran.expect(4);
    assert!(ran.err.contains("cannot reach the bus"), "{}", ran.err);
    assert!(ran.err.contains("next:    is nats-server running there?"), "{}", ran.err);
    assert_eq!(ran.json()[0]["error"]["exit"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fleet_is_complete_with_hosts_that_do_not_answer() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    db1.publish(EventData::AgentStarted(AgentStarted { version: "0.1.0".into(), jobs_resumed: vec![] }))
        .await;
    world.dead_host().await;
    world.agent("db7", "dc2", vec![]).await;

    let ran = world.run("fleet").await;
    ran.expect(0);
    let column =
        |host: &str| ran.out.lines().find(|l| l.starts_with(host)).unwrap_or_else(|| panic!("{}", ran.out));
    assert!(column("db1").contains("30m ago") && column("db1").contains("3.0 GiB"), "{}", ran.out);
    assert!(column("db9").contains("missing"), "{}", ran.out);
    assert!(ran.out.contains("2 hosts answer, 1 missing; 2 take unsigned commands"), "{}", ran.out);

    let ran = world.run("fleet --dc dc1 --json").await;
    let hosts = ran.expect(0).json()[0]["hosts"].clone();
    assert_eq!(hosts.as_array().unwrap().len(), 1);
    assert_eq!(hosts[0]["heartbeat"]["agent"], "db1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_fleet_tells_what_changes_and_nothing_else() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![]).await;
    let mut watch = world.ctl("fleet --watch").spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next =
        async || tokio::time::timeout(LIMIT, lines.next_line()).await.expect(MULTI).unwrap().unwrap();
    assert!(next().await.starts_with("db1"));
    db1.busy_with("mysql.restart");
    let line = next().await;
    assert!(line.starts_with("db1") && line.contains("mysql.restart"), "{line}");
    world.agent("db2", "dc1", vec![]).await;
    assert!(next().await.starts_with("db2"), "heartbeats that bring no news are not told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_host_is_met_with_the_name_that_was_meant() {
    let world = World::new().await;
    world.agent("db7", "dc1", vec![]).await;
    let ran = world.run("host bd7 info").await;
    ran.expect(4);
    assert!(ran.err.contains("did you mean db7?"), "{}", ran.err);
    let ran = world.run("host mail info").await;
    assert!(ran.expect(4).err.contains("start orchestrator-agent on mail"), "{}", ran.err);
    assert!(world.run("seed start bd7").await.expect(4).err.contains("did you mean db7?"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_refusal_has_its_exit_code_and_names_host_and_cause() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![]).await;
    for (code, exit) in [
        (ErrorCode::Refused, 3),
        (ErrorCode::PlanChanged, 3),
        (ErrorCode::NotFound, 5),
        (ErrorCode::Busy, 6),
        (ErrorCode::Mysql, 1),
        (ErrorCode::ShuttingDown, 75),
        (ErrorCode::Forbidden, 77),
    ] {
        let mut error = WireError::new(code, "it will not");
        error.causes = vec!["the disk hums".into()];
        db1.fails("mysql.info", error);
        let ran = world.run("mysql db1 info --json").await;
        ran.expect(exit);
        let said = ran.json()[0]["error"].clone();
        assert_eq!(
            (&said["host"], &said["code"], &said["exit"]),
            (&json!("db1"), &json!(code.as_str()), &json!(exit))
        );
        assert_eq!(said["causes"], json!(["it will not", "the disk hums"]));
        assert_eq!(ran.err.matches("the disk hums").count(), 1, "the chain is told once: {}", ran.err);
        assert!(ran.err.starts_with("error: db1: mysql.info failed"), "{}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_too_slow_is_worth_a_retry_and_not_a_failure() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![]).await;
    db1.delays("mysql.info", Duration::from_secs(5));
    let ran = world.run("--timeout 300ms mysql db1 info").await;
    assert!(ran.expect(75).err.contains("--timeout waits longer"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_reach_the_person_but_steer_no_terminal() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![]).await;
    db1.answers(|command| match command {
        Command::MysqlErrorLog(p) => {
            assert_eq!(p.lines, 2);
            Some(Ok(json!(["ready for connections", "evil \u{1b}[2J line"])))
        }
        _ => None,
    });
    let ran = world.run("mysql db1 error-log -n 2").await;
    assert_eq!(ran.expect(0).out, "ready for connections\nevil \\u{1b}[2J line\n");
    assert_eq!(world.run("mysql db1 error-log -n 2 --json").await.json()[0][1], "evil \u{1b}[2J line");
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_logs_arrive_byte_for_byte_over_many_chunks() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![]).await;
    db1.answers(|command| match command {
        Command::BinlogBinary(p) => {
            let content = BASE64.encode(&[0xfe, b'b', p.offset as u8, 0, 0x1b]);
            Some(Ok(json!({"content": content, "next_offset": (p.offset < 10).then_some(p.offset + 5)})))
        }
        _ => None,
    });
    let output = world.ctl("binlog db1 binary binlog.000001").output().await.unwrap();
    assert!(output.status.success());
    let chunk = |offset| [0xfe, b'b', offset, 0, 0x1b];
    assert_eq!(output.stdout, [chunk(0), chunk(5), chunk(10)].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_waited_for_in_vain_is_refused() {
    let world = World::new().await;
    world.agent("db1", "dc1", vec![]).await;
    let mistyped = world.run("events --kind job.finishd").await;
    assert!(mistyped.expect(2).err.contains("did you mean job.finished?"), "{}", mistyped.err);
    assert!(world.run("events --kind hosts").await.expect(2).err.contains("snapshot.created"));
    for good in ["events --kind job", "events --kind *.created", "events --kind mysql.state -n 3"] {
        world.run(good).await.expect(0);
    }
    for queued in ["fleet --queue 2h", "mysql db1 info --queue 2h", "seed plan db2 --from db1 --queue 2h"] {
        let ran = world.run(queued).await;
        assert!(ran.expect(2).err.contains("nobody would read the answer"), "{queued}: {}", ran.err);
    }
    let source = world.run("seed plan db2 --from db1 --replicate-from mysql://db1:3306").await;
    assert!(source.expect(2).err.contains("is not HOST:PORT"), "{}", source.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn emptying_a_datadir_needs_a_person_or_their_exact_word() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![]).await;
    let ran = world.run("datadir db1 clear --datadir /var/lib/mysql").await;
    assert!(ran.expect(2).err.contains("--yes --datadir /var/lib/mysql"), "{}", ran.err);
    let ran = world.run("datadir db1 clear --yes").await;
    assert!(ran.expect(2).err.contains("--datadir PATH"), "{}", ran.err);
    assert!(!db1.asked().contains(&"datadir.clear"), "nothing may be sent unconfirmed");
    world.run("datadir db1 clear --yes --datadir /var/lib/mysql").await.expect(0);
    assert_eq!(db1.params("datadir.clear"), json!({"datadir": "/var/lib/mysql"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_at_a_terminal_is_asked_before_a_snapshot_goes() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![]).await;
    // Also when the remarks go to a file.
    for (answer, code, sent, remarks) in
        [("n\n", 2, false, ""), ("n\n", 2, false, " 2>/dev/null"), ("y\n", 0, true, "")]
    {
        // `script` gives the program a terminal of its own.
        let program = env!("CARGO_BIN_EXE_orchestrator-ctl");
        let line = format!("{program} --server {} snapshot remove db1 vg0/s1{remarks}", world.server.url());
        let mut script = tokio::process::Command::new("script");
        script
            .args(["-qefc", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = script.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stdin, answer.as_bytes()).await.unwrap();
        let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect(MULTI).unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("Remove snapshot vg0/s1 of db1? [y/N]"), "{text}");
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert_eq!(db1.asked().contains(&"snapshot.remove"), sent, "{text}");
        drop(stdin);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usable_snapshots_are_found_from_heartbeats_alone() {
    let world = World::new().await;
    let mut proven = summary("vg0/proven", 600);
    proven.proven = true;
    world.agent("db1", "dc1", vec![summary("vg0/new", 5), proven]).await;
    world.agent("db2", "dc2", vec![summary("vg0/far", 1)]).await;
    let ids = |ran: &fake::Ran| -> Vec<String> {
        let found = ran.json()[0].clone();
        found.as_array().unwrap().iter().map(|c| c["snapshot"]["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        ids(world.run("snapshot find shop --prefer-dc dc1 -o json").await.expect(0)),
        ["vg0/proven", "vg0/new", "vg0/far"]
    );
    assert_eq!(ids(world.run("snapshot shop find --dc dc2 --json").await.expect(0)), ["vg0/far"]);
    assert_eq!(ids(world.run("snapshot find shop --local-dc dc2 --json").await.expect(0)), ["vg0/far"]);
    let ran = world.run("snapshot find shoop").await;
    assert!(ran.expect(5).err.contains("did you mean shop?"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_replayed_filtered_and_followed() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![]).await;
    let removed =
        |id: &str| EventData::SnapshotRemoved(SnapshotGone { id: id.parse().unwrap(), by: "outside".into() });
    db1.publish(EventData::AgentStarted(AgentStarted { version: "1".into(), jobs_resumed: vec![] })).await;
    db1.publish(removed("vg0/s1")).await;
    poll::until_async(LIMIT, "both events in the stream", || async {
        (world.run("events --json").await.expect(0).json().len() == 2).then_some(())
    })
    .await;
    let ran = world.run("events --kind snapshot --host db1").await;
    assert_eq!(ran.expect(0).out.lines().count(), 1, "{}", ran.out);
    assert!(ran.out.contains("snapshot.removed  vg0/s1 (outside)"), "{}", ran.out);
    assert_eq!(world.run("events --host db2 --json").await.expect(0).out, "");
    assert_eq!(world.run("events --cluster billing --json").await.expect(0).out, "");

    let mut follow = world.ctl("events --follow --since 1h --json").spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next =
        async || tokio::time::timeout(LIMIT, lines.next_line()).await.expect(MULTI).unwrap().unwrap();
    assert!(next().await.contains("agent.started"));
    assert!(next().await.contains("vg0/s1"));
    db1.publish(removed("vg0/s2")).await;
    assert!(next().await.contains("vg0/s2"), "a new event is shown as it comes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_can_be_left_for_a_host_that_is_down() {
    let world = World::new().await;
    let ran = world.run("snapshot create db9 --queue 1h").await;
    assert!(ran.expect(0).out.contains("db9 is away: queued as request"), "{}", ran.out);
    let ran = world.run("host db9 info --queue 1h").await;
    assert!(ran.expect(2).err.contains("cannot be queued"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_signed_with_a_key_file_that_is_closed_to_others() {
    let world = World::new().await;
    let file = world.dir.path().join("alice.nk");
    let ran = run(ctl("nats://127.0.0.1:1", &format!("key generate {}", file.display()))).await;
    let public = ran.expect(0).out.trim().to_owned();
    let seed = std::fs::read_to_string(&file).unwrap();
    assert!(public.starts_with('U') && !format!("{ran:?}").contains(seed.trim()), "{ran:?}");
    assert!(ran.err.contains("never put an agent's login key into auth.trusted"), "{}", ran.err);
    let shown = run(ctl("nats://127.0.0.1:1", &format!("key show {}", file.display()))).await;
    assert_eq!(shown.expect(0).out.trim(), public);

    let trusted = vec![TrustedKey { key: public, name: "alice".into(), roles: vec![Role::Read] }];
    let authority = Authority::new(AuthorityConfig { accept_unsigned: false, trusted }).unwrap();
    let db1 = world.agent_with("db1", "dc1", vec![], authority).await;
    db1.answers(|command| matches!(command, Command::MysqlErrorLog(_)).then(|| Ok(json!([]))));

    let ran = world.run("mysql db1 error-log").await;
    assert!(ran.expect(77).err.contains("--sign-key FILE"), "{}", ran.err);
    let signed = format!("--sign-key {}", file.display());
    world.run(&format!("{signed} mysql db1 error-log")).await.expect(0);
    let ran = world.run(&format!("{signed} snapshot create db1")).await;
    assert!(ran.expect(77).err.contains("roles"), "a reader makes no snapshot: {}", ran.err);

    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let ran = world.run(&format!("{signed} mysql db1 error-log")).await;
    assert!(ran.expect(1).err.contains("chmod 600"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_sends_anything_and_shows_what_the_agent_says_of_it() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![]).await;
    db1.answers(|command| matches!(command, Command::MysqlErrorLog(_)).then(|| Ok(json!(["x"]))));
    assert_eq!(
        world.run("raw db1 mysql.error-log {\"lines\":3} --json").await.expect(0).json()[0],
        json!(["x"])
    );
    let ran = world.run("raw db1 mysql.errorlog").await;
    assert!(ran.expect(1).err.contains("did you mean mysql.error-log?"), "{}", ran.err);
    let ran = world.run("raw db1 mysql.error-log {\"rows\":3}").await;
    assert!(ran.expect(2).err.contains("rows"), "{}", ran.err);
    world.run("raw db1 mysql.error-log {").await.expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_the_program_quietly() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![]).await;
    let mut follow = world.ctl("events --follow --since 1h").spawn().unwrap();
    drop(follow.stdout.take());
    db1.publish(EventData::AgentStarted(AgentStarted { version: "1".into(), jobs_resumed: vec![] })).await;
    tokio::time::timeout(LIMIT, follow.wait()).await.expect("the program ends").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_of_the_bus_is_made_without_a_bus() {
    let [db1, alice] = [(); 2].map(|()| nkeys::KeyPair::new_user().public_key());
    let line = format!("bus config --agent db1.example.com={db1} --controller alice={alice}");
    let ran = run(ctl("nats://127.0.0.1:1", &line)).await;
    ran.expect(0);
    assert!(
        ran.out.contains(&db1) && ran.out.contains(&alice) && ran.out.contains("accounts {"),
        "{}",
        ran.out
    );
    assert!(ran.err.contains("alice must set the inbox prefix _INBOX_USER_alice"), "{}", ran.err);
    let twice = format!("bus config --agent db1={db1} --agent db2={db1}");
    run(ctl("nats://127.0.0.1:1", &twice)).await.expect(2);

    // What was made is what a server takes, and what lets ctl work.
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("alice.nk");
    let public = ::ctl::keys::generate(&key).unwrap();
    let made = run(ctl("nats://127.0.0.1:1", &format!("bus config --controller alice={public}"))).await;
    let server = NatsServer::start(&NatsOptions::jetstream().config(made.expect(0).out.clone())).unwrap();
    let line = format!("--nkey-file {} --inbox-prefix _INBOX_USER_alice fleet", key.display());
    assert!(run(ctl(&server.url(), &line)).await.expect(0).out.contains("no agent answers"));
    let ran = run(ctl(&server.url(), "--timeout 1s fleet")).await;
    assert!(ran.expect(77).err.contains("log in with --nkey-file"), "{}", ran.err);
    // Without the inbox prefix no answer can be heard, which is not that nobody answers.
    let ran = run(ctl(&server.url(), &format!("--nkey-file {} fleet", key.display()))).await;
    assert!(ran.expect(77).err.contains("ORCH_INBOX_PREFIX"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_cannot_be_written_is_a_failure_whatever_the_command() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![]).await;
    db1.publish(EventData::AgentStarted(AgentStarted { version: "1".into(), jobs_resumed: vec![] })).await;
    let key = format!("key generate {}", world.dir.path().join("full.nk").display());
    for line in ["fleet", "fleet --json", "events --json", key.as_str()] {
        let mut command = world.ctl(line);
        command.stdout(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        // Not `output`, which would take stdout back.
        let ran = fake::ran(command.spawn().unwrap().wait_with_output().await.unwrap());
        assert!(ran.expect(1).err.contains("cannot write to stdout: No space left"), "{line}: {}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_learns_of_wrong_arguments_as_of_every_other_failure() {
    let ran = run(ctl("nats://127.0.0.1:1", "seed start db7 --throttle 50 --json")).await;
    let error = ran.expect(2).json()[0]["error"].clone();
    assert_eq!((&error["exit"], &error["code"]), (&json!(2), &json!("bad_request")));
    assert!(ran.err.contains("write 50B, 50K, 50M or 50G"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_of_one_name_are_both_shown_and_told() {
    let world = World::new().await;
    world.agent("db1", "dc1", vec![]).await;
    world.agent("db1", "dc2", vec![]).await;
    let ran = world.run("fleet").await;
    assert_eq!(ran.expect(0).out.matches("DUPLICATE").count(), 2, "{}", ran.out);
    assert!(ran.out.contains("db1: more than one process speaks in this name"), "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_fleet_has_a_screen_of_its_own_and_gives_the_terminal_back() {
    let world = World::new().await;
    world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    world.dead_host().await;
    let mut watch = Terminal::start(&world, "xterm-256color", "fleet --watch");
    watch.until("keys").await;
    assert!(watch.seen.contains("\x1b[?1049h"), "an alternate screen: {:?}", watch.seen);
    for word in ["TROUBLE", "db9", "missing"] {
        assert!(watch.seen.contains(word), "{:?}", watch.seen);
    }
    watch.press(b"q").await;
    watch.until("\x1b[?1049l").await;
    assert_eq!(watch.ends().await, Some(0));

    let mut plain = Terminal::start(&world, "dumb", "fleet --watch");
    plain.until("db1").await;
    assert!(!plain.seen.contains('\x1b'), "{:?}", plain.seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_cluster_is_met_with_the_one_that_was_meant() {
    let world = World::new().await;
    world.agent("db1", "dc1", vec![]).await;
    let ran = world.run("fleet --cluster shpo").await;
    ran.expect(4);
    assert!(
        ran.err.contains("no host of cluster \"shpo\"") && ran.err.contains("did you mean shop?"),
        "{}",
        ran.err
    );
    let ran = world.run("fleet --dc elsewhere").await;
    ran.expect(4);
    assert!(ran.err.contains("there are dc1"), "{}", ran.err);
    let ran = world.run("events --since 2099-01-01T00:00:00Z").await;
    ran.expect(2);
    assert!(ran.err.contains("has not come yet"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn man_pages_and_completions_are_made_without_a_bus() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man");
    run(ctl("nats://127.0.0.1:1", &format!("man {}", pages.display()))).await.expect(0);
    let page = std::fs::read_to_string(pages.join("orchestrator-ctl-seed-start.1")).unwrap();
    assert!(page.contains("\\-\\-from") && page.starts_with(".ie"), "{page}");
    for (shell, sign) in
        [("bash", "complete -o"), ("zsh", "#compdef orchestrator-ctl"), ("fish", "complete --keep-order")]
    {
        let ran = run(ctl("nats://127.0.0.1:1", &format!("completions {shell}"))).await;
        ran.expect(0);
        assert!(ran.out.contains(sign) && ran.out.contains("ORCH_COMPLETE"), "{shell}: {}", ran.out);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_is_told_the_names_of_hosts_and_waits_for_no_bus() {
    let world = World::new().await;
    for host in ["db1", "db12", "web1"] {
        world.agent(host, "dc1", vec![]).await;
    }
    // As a bash does that has taken `completions bash`, in a terminal.
    let ask = async |server: &str, words: &str| {
        let script = format!(
            "source <(orchestrator-ctl completions bash); COMP_WORDS=(orchestrator-ctl {words}); \
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_TYPE=9; _clap_complete_orchestrator_ctl orchestrator-ctl \"${{COMP_WORDS[COMP_CWORD]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let mut bash = tokio::process::Command::new("bash");
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_orchestrator-ctl"));
        let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
        bash.args(["-c", &script]).env("PATH", path).env("ORCH_SERVER", server).stdin(Stdio::null());
        run(bash).await.expect(0).out.lines().map(|word| word.trim().to_owned()).collect::<Vec<_>>()
    };
    let server = world.server.url();
    assert_eq!(ask(&server, "seed start db").await, ["db1", "db12"]);
    assert_eq!(ask(&server, "seed start db1 --from w").await, ["web1"]);
    assert!(ask(&server, "seed st").await.contains(&"start".to_owned()));
    let began = std::time::Instant::now();
    let none = ask("nats://127.0.0.1:1", "seed start db").await;
    assert!(none.iter().all(|word| !word.starts_with("db")), "{none:?}");
    assert!(began.elapsed() < LIMIT, "a prompt hangs on a bus that is down");
}
