use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::time::Instant;

use testkit::poll;

use super::*;

const WAIT: Duration = Duration::from_secs(20);

fn sh(script: &str) -> Program {
    Program::new("sh").args(["-c", script])
}

fn limits(ms: u64) -> Limits {
    Limits { time: Duration::from_millis(ms), ..Limits::default() }
}

fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Both ways to run a program, for what must hold in either.
async fn both_ways(program: &Program, limits: Limits) -> [Result<Output, Error>; 2] {
    let (other, asynchronous) = (program.clone(), program.run(&limits).await);
    let blocking = tokio::task::spawn_blocking(move || other.run_blocking(&limits)).await.unwrap();
    [asynchronous, blocking]
}

#[tokio::test]
async fn output_is_bounded_and_the_program_still_ends() {
    let bounded = Limits { output_bytes: 1_000, ..Limits::default() };
    let script = "head -c 5000000 /dev/zero; head -c 5000000 /dev/zero >&2; echo ' two ' >&2; exit 5";
    for out in both_ways(&sh(script).called("the tool"), bounded).await {
        let out = out.unwrap();
        assert_eq!((out.stdout.len(), out.stderr.len()), (1_000, 1_000));
        assert_eq!(out.success().unwrap_err().to_string(), "the tool failed (exit status 5): two");
    }
}

#[tokio::test]
async fn a_hanging_program_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("pids");
    let hanging = sh(&format!("sleep 600 & echo $! >> {}; wait", mark.display()));
    for out in both_ways(&hanging, limits(500)).await {
        assert!(out.unwrap_err().to_string().contains("limit of 500 ms"));
    }
    let pids = fs::read_to_string(&mark).unwrap();
    assert_eq!(pids.lines().count(), 2);
    poll::until(WAIT, "the grandchildren's end", || (!pids.lines().any(is_alive)).then_some(()));
}

#[tokio::test]
async fn a_daemon_that_keeps_the_pipe_open_does_not_block_the_caller() {
    let started = Instant::now();
    for out in both_ways(&sh("setsid sleep 40 & echo done"), limits(35_000)).await {
        let out = out.unwrap();
        assert!(out.status.success());
        assert_eq!(out.stdout, b"done\n");
    }
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn standard_input_is_empty_and_a_missing_program_is_named() {
    for out in both_ways(&Program::new("cat"), limits(20_000)).await {
        assert_eq!(out.unwrap().stdout, b"");
    }
    for out in both_ways(&Program::new("/no/such/program"), limits(20_000)).await {
        assert_eq!(out.unwrap_err().to_string(), "/no/such/program could not be started");
    }
    assert!(matches!(Program::from_argv::<&str>(&[]), Err(Error::Empty)));
    assert!(matches!(Program::from_argv(&[""]), Err(Error::Empty)));
    assert!(Program::is_installed("sh") && !Program::is_installed("no-such-tool-here"));
}

#[tokio::test]
async fn a_program_has_the_environment_the_mask_and_the_directory_that_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("place");
    fs::create_dir(&place).unwrap();
    let held = fs::File::open(&place).unwrap();
    // What its path leads to afterwards does not matter.
    fs::rename(&place, dir.path().join("moved")).unwrap();
    let program = sh("env | sort | cut -d= -f1 | tr '\n' ' '; touch made")
        .only_environment([("OWN", "x")])
        .umask(0o077)
        .directory_fd(held.into());
    let told = String::from_utf8(program.run(&limits(20_000)).await.unwrap().stdout).unwrap();
    assert_eq!(told.trim().replace(" _", ""), "LC_ALL OWN PATH PWD");
    assert_eq!(fs::metadata(dir.path().join("moved/made")).unwrap().mode() & 0o777, 0o600);
}

/// Reads its own rights, as the kernel shows them, in `/proc`.
const RIGHTS: &str = "grep -E '^(Uid|Gid|Groups|Cap(Inh|Prm|Eff|Amb)|NoNewPrivs):' /proc/self/status";

#[tokio::test]
async fn as_another_user_nothing_of_roots_rights_is_left() {
    if !nix::unistd::geteuid().is_root() {
        testkit::skip!("only root can run programs as others");
    }
    let user = User { groups: vec![4_712.into()], ..User::new(65_534, 65_533) };
    for out in both_ways(&sh(RIGHTS).user(user), limits(20_000)).await {
        let out = out.unwrap().success().unwrap();
        let told = String::from_utf8(out.stdout).unwrap().replace('\t', " ");
        let lines: Vec<&str> = told.lines().map(str::trim).collect();
        let ids = |name, id| format!("{name}: {id} {id} {id} {id}");
        assert_eq!(lines[0], ids("Uid", 65_534));
        assert_eq!(lines[1], ids("Gid", 65_533));
        assert_eq!(lines[2], "Groups: 4712");
        for line in &lines[3..7] {
            assert!(line.ends_with(" 0000000000000000"), "{line}");
        }
        assert_eq!(lines[7], "NoNewPrivs: 1");
    }
}

#[tokio::test]
async fn a_named_user_has_its_groups_and_not_the_agents_environment() {
    if !nix::unistd::geteuid().is_root() {
        testkit::skip!("only root can run programs as others");
    }
    assert!(User::named("no such user here").is_err());
    let user = User::named("daemon").unwrap();
    let out = sh("id -un; id -Gn; echo \"${HOME-none}\"").user(user).run(&limits(20_000)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "daemon\ndaemon\nnone\n");
    let refused = sh("cat /etc/shadow").user(User::new(65_534, 65_534)).run(&limits(20_000)).await.unwrap();
    assert!(refused.last_line().contains("Permission denied"), "{refused:?}");
}

#[tokio::test]
async fn last_words_are_the_failure_of_a_program_at_work() {
    let script = "for n in 1 2 3 4 5 6 7; do echo line $n >&2; done; read x; exit 3";
    let expected = "sh failed (exit status 3): line 3 | line 4 | line 5 | line 6 | line 7";
    let mut running = sh(script).spawn(Stdio::null(), Stdio::null()).unwrap();
    assert_eq!(running.success().await.unwrap_err().to_string(), expected);
    let mut running = sh(script).spawn_blocking(Stdio::piped(), Stdio::null()).unwrap();
    assert!(running.ended().is_none());
    drop(running.input());
    assert_eq!(running.success().unwrap_err().to_string(), expected);
}

#[tokio::test]
async fn a_dropped_program_is_gone_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("pids");
    let program = sh(&format!("sleep 600 & echo $! >> {}; wait", mark.display()));
    let asynchronous = program.spawn(Stdio::null(), Stdio::null()).unwrap();
    let blocking = program.spawn_blocking(Stdio::null(), Stdio::null()).unwrap();
    let pids =
        poll::until(WAIT, "both", || fs::read_to_string(&mark).ok().filter(|p| p.lines().count() == 2));
    drop((asynchronous, blocking));
    poll::until(WAIT, "the grandchildren's end", || (!pids.lines().any(is_alive)).then_some(()));
}

#[tokio::test]
async fn a_detached_program_leads_a_session_and_its_words_are_kept() {
    let mut detached = sh("cut -d' ' -f6 /proc/$$/stat; echo $$; exit 4").detach().unwrap();
    let status = poll::until(WAIT, "its end", || detached.ended());
    assert_eq!(status.code(), Some(4));
    let mut said = String::new();
    let leader = detached.last_line();
    assert!(leader.parse::<u32>().is_ok(), "{leader}");
    let dir = tempfile::tempdir().unwrap();
    let mut file = detached::briefly_named_file_in(dir.path()).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "it has no name any more");
    file.write_all(b"said").unwrap();
    file.rewind().unwrap();
    file.write_all(b" more").unwrap();
    file.rewind().unwrap();
    file.read_to_string(&mut said).unwrap();
    assert_eq!(said, "said more");
}
