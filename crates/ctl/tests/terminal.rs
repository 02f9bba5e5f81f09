//! The program on a real terminal, as tmux has it: what a person sees at 100, 80 and 40 columns.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says where")]

mod fake;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use fake::{Fate, LIMIT, World, beat, summary};
use protocol::mysql::ServerState;
use protocol::seed::SeedStage;
use protocol::subject::Subject;

const WIDTHS: [usize; 3] = [100, 80, 40];
const HEIGHT: usize = 24;
/// As large as a fleet of one bus may well be.
const HOSTS: usize = 1_000;
/// Hosts whose MySQL is down.
const TROUBLED: [usize; 4] = [5, 500, 700, 990];

fn has_tmux() -> bool {
    Command::new("tmux").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// A server of tmux of our own, with one terminal in it. What runs there says `before` and, when it has ended, `after` with its code.
struct Tmux {
    dir: tempfile::TempDir,
}

impl Tmux {
    fn start(world: &World, width: usize, arguments: &str) -> Self {
        let tmux = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::write(tmux.file("conf"), "set -g status off\nset -g default-terminal screen-256color\n")
            .unwrap();
        let program = env!("CARGO_BIN_EXE_orchestrator-ctl");
        let server = world.server.url();
        let line = format!("echo before; {program} --server {server} {arguments}; echo after $?; exec cat");
        let (width, height) = (width.to_string(), HEIGHT.to_string());
        tmux.command(&["new-session", "-d", "-x", &width, "-y", &height, &line]);
        tmux
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        tmux.arg("-u").arg("-S").arg(self.file("socket")).arg("-f").arg(self.file("conf")).args(arguments);
        tmux.env("LC_ALL", "C.UTF-8")
            .env("ORCH_ACTOR", "alice")
            .env_remove("TMUX")
            .env_remove("ORCH_SIGN_KEY");
        let output = tmux.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The lines that a person sees now.
    fn seen(&self) -> Vec<String> {
        self.command(&["capture-pane", "-p"]).lines().map(str::to_owned).collect()
    }

    fn press(&self, keys: &[&str]) {
        self.command(&[&["send-keys"], keys].concat());
    }

    fn resize(&self, width: usize) {
        self.command(&["resize-window", "-x", &width.to_string(), "-y", &HEIGHT.to_string()]);
    }

    /// The screen as soon as it is as it should be; panics with what is there instead.
    #[track_caller]
    fn until(&self, is_right: impl Fn(&[String]) -> bool) -> Vec<String> {
        let right = || Some(self.seen()).filter(|seen| is_right(seen));
        testkit::poll::within(LIMIT, right)
            .unwrap_or_else(|| panic!("it never came, there is:\n{}", self.seen().join("\n")))
    }

    /// Leaves by `q`: what was on the terminal before is there again, and nothing else but what is said at the end.
    #[track_caller]
    fn is_given_back(&self, said: &[&str]) {
        self.press(&["q"]);
        let seen = self.until(|seen| seen.iter().any(|line| line.starts_with("after ")));
        let seen: Vec<&str> =
            seen.iter().map(|line| line.trim_end()).filter(|line| !line.is_empty()).collect();
        assert_eq!(seen, [&["before"], said].concat());
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        Command::new("tmux").arg("-S").arg(self.file("socket")).arg("kill-server").status().ok();
    }
}

/// Speaks for a thousand hosts until it is dropped with its runtime.
fn crowd(world: &World) {
    let bus = world.bus.clone();
    let mut beats: Vec<_> = (0..HOSTS)
        .map(|number| {
            let mut beat = beat(&format!("db{number:04}"), "dc1", vec![summary("vg0/s1", 30)], false);
            if TROUBLED.contains(&number) {
                beat.mysql.state = ServerState::Stopped;
            }
            beat
        })
        .collect();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            for beat in &mut beats {
                beat.sequence += 1;
                let subject = Subject::Heartbeat { agent: beat.agent.clone() }.to_string();
                bus.publish(subject, None, serde_json::to_vec(beat).unwrap().into()).await.ok();
            }
        }
    });
}

/// Whether the whole screen is the fleet's: a head, a table of hosts without a gap, a foot, and nothing that has run over.
fn is_board(seen: &[String], width: usize, hosts: usize, foot: &str) -> bool {
    let (Some(head), Some(last)) = (seen.first(), seen.last()) else { return false };
    let shown = hosts.min(HEIGHT - 3);
    seen.len() == HEIGHT
        && seen.iter().all(|line| line.chars().count() <= width)
        && head.starts_with("fleet")
        && head.contains("1000 hosts, 4 in trouble")
        && seen[1].starts_with("HOST")
        && seen[2..2 + shown].iter().all(|line| line.starts_with("db"))
        && seen[2 + shown..HEIGHT - 1].iter().all(|line| line.trim().is_empty())
        && last.starts_with(foot)
        && last.trim_end().ends_with("? keys")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_hosts_scroll_sort_and_filter_on_terminals_of_any_width() {
    if !has_tmux() {
        testkit::skip!("tmux is not installed");
    }
    let world = World::new().await;
    crowd(&world);
    let all = |foot: &'static str, width| move |seen: &[String]| is_board(seen, width, HOSTS, foot);
    for width in WIDTHS {
        let tmux = Tmux::start(&world, width, "fleet --watch");
        let seen = tmux.until(all("1–21 of 1000", width));
        for (line, number) in seen[2..].iter().zip(TROUBLED) {
            assert!(
                line.starts_with(&format!("db{number:04}  ")) && line.contains("stopped"),
                "{}",
                seen.join("\n")
            );
        }
        tmux.press(&["G"]);
        let seen = tmux.until(all("980–1000 of 1000, by trouble", width));
        assert!(seen[HEIGHT - 2].starts_with("db0999"), "{}", seen.join("\n"));
        tmux.press(&["PPage"]);
        tmux.until(all("979–999 of 1000", width));
        tmux.press(&["g", "s"]);
        let seen =
            tmux.until(|seen| all("1–21 of 1000", width)(seen) && seen[HEIGHT - 1].contains("by host"));
        assert!(seen[2].starts_with("db0000") && seen[22].starts_with("db0020"), "{}", seen.join("\n"));
        tmux.press(&["/", "d", "b", "0", "7", "7", "Enter"]);
        let seen = tmux.until(|seen| is_board(seen, width, 10, "1–10 of 10"));
        assert!(seen[2].starts_with("db0770") && seen[11].starts_with("db0779"), "{}", seen.join("\n"));
        tmux.press(&["Escape"]);
        tmux.until(all("1–21 of 1000", width));
        tmux.press(&["t"]);
        tmux.until(|seen| is_board(seen, width, 4, "1–4 of 4"));
        tmux.is_given_back(&["after 0"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_changes_its_width_keeps_nothing_of_the_old_one() {
    if !has_tmux() {
        testkit::skip!("tmux is not installed");
    }
    let world = World::new().await;
    crowd(&world);
    let tmux = Tmux::start(&world, WIDTHS[0], "fleet --watch");
    tmux.until(|seen| is_board(seen, WIDTHS[0], HOSTS, "1–21 of 1000"));
    for width in [40, 80, 100, 40] {
        tmux.resize(width);
        let wide = width > 80;
        tmux.until(|seen| {
            is_board(seen, width, HOSTS, "1–21 of 1000") && seen[1].contains("CLUSTER") == wide
        });
    }
    tmux.is_given_back(&["after 0"]);
}

/// A seed of db7 from db1 that stays in the transfer.
async fn seed_under_way(world: &World) -> std::sync::Arc<fake::Fake> {
    world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    let db7 = world.agent("db7", "dc1", vec![]).await;
    *db7.fate.lock().unwrap() = Fate::HoldsAt(SeedStage::Transfer);
    db7
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_seed_fits_terminals_of_any_width() {
    if !has_tmux() {
        testkit::skip!("tmux is not installed");
    }
    let world = World::new().await;
    seed_under_way(&world).await;
    world.run("seed start db7 --from db1 --detach").await.expect(0);
    let stages = [
        "plan ",
        "prepare ",
        "transfer ",
        "verify",
        "recover",
        "swap",
        "post-copy",
        "start",
        "replicate",
        "cleanup",
    ];
    let is_seed = |seen: &[String], width: usize| {
        let table = seen.iter().position(|line| line.starts_with("STAGE")).unwrap_or(HEIGHT);
        let is_bar = |line: &&String| line.contains('█');
        seen.len() == HEIGHT
            && seen.iter().all(|line| line.chars().count() <= width)
            && seen[0].starts_with("db7  ")
            && seen
                .iter()
                .filter(is_bar)
                .any(|line| line.chars().filter(|c| "█░".contains(*c)).count() == width)
            && seen[2].starts_with("50 %")
            && stages
                .iter()
                .zip(seen.iter().skip(table + 1))
                .filter(|(stage, line)| line.starts_with(*stage))
                .count()
                == 10
            && seen[HEIGHT - 1].trim_end() == "q out, the seed goes on   ? keys"
    };
    for width in WIDTHS {
        let tmux = Tmux::start(&world, width, "seed watch db7");
        tmux.until(|seen| is_seed(seen, width));
        tmux.resize(60);
        tmux.until(|seen| is_seed(seen, 60));
        tmux.press(&["q"]);
        let seen = tmux.until(|seen| seen.iter().any(|line| line.starts_with("after 130"))).join("\n");
        assert!(
            seen.starts_with("before\n") && seen.contains("seed abort db7") && !seen.contains("STAGE"),
            "{seen}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bar_stays_on_its_line_and_leaves_no_copy_of_itself() {
    if !has_tmux() {
        testkit::skip!("tmux is not installed");
    }
    for width in WIDTHS {
        let world = World::new().await;
        let db7 = seed_under_way(&world).await;
        let tmux = Tmux::start(&world, width, "seed start db7 --from db1 --yes");
        // Below a bar stands how busy the hosts are, further right; what ran over would begin at the left.
        let is_whole =
            |pair: &[String]| pair[0].contains("50 %") && (pair[1].is_empty() || pair[1].starts_with("  "));
        let bars = |seen: &[String]| seen.iter().filter(|line| line.contains("db7 transfer")).count();
        let whole = |seen: &[String]| {
            seen.windows(2).filter(|pair| pair[0].contains("db7 transfer") && is_whole(pair)).count()
        };
        tmux.until(|seen| bars(seen) == 1 && whole(seen) == 1);
        // Each look at the hosts draws it anew.
        for _ in 0..2 {
            let before = db7.asked().len();
            tmux.until(|_| db7.asked().len() > before);
            let seen = tmux.seen();
            assert_eq!((bars(&seen), whole(&seen)), (1, 1), "{}", seen.join("\n"));
        }
        db7.ends_well();
        let seen = tmux.until(|seen| seen.iter().any(|line| line.starts_with("after 0")));
        assert_eq!(bars(&seen), 0, "{}", seen.join("\n"));
        assert!(seen.iter().any(|line| line.starts_with("db7: done after")), "{}", seen.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_has_a_colour_on_a_terminal_and_none_elsewhere() {
    if !has_tmux() {
        testkit::skip!("tmux is not installed");
    }
    let world = World::new().await;
    world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    world.dead_host().await;
    let tmux = Tmux::start(&world, 100, "fleet");
    tmux.until(|seen| seen.iter().any(|line| line.starts_with("after 0")));
    let coloured = tmux.command(&["capture-pane", "-p", "-e"]);
    assert!(
        coloured.contains("\x1b[31mmissing\x1b[39m") || coloured.contains("\x1b[31mmissing\x1b[0m"),
        "{coloured:?}"
    );
    let plain = world.run("fleet").await;
    assert!(plain.expect(0).out.contains("missing") && !plain.out.contains('\x1b'), "{:?}", plain.out);
}
