use jiff::SignedDuration;
use protocol::mysql::ServerState;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::*;
use crate::full::{self, Left};
use crate::render::{Missing, Seen};
use crate::samples::{beat, noon, snapshot};

fn seen(host: &str, change: impl FnOnce(&mut Seen)) -> Seen {
    let heartbeat = beat(host, if host.ends_with('7') { "blog" } else { "shop" }, "dc1", vec![]);
    let mut seen = Seen { health: "alive", silent_s: 0, duplicate: false, heartbeat };
    change(&mut seen);
    seen
}

/// A fleet in which a few hosts have trouble.
fn fleet(hosts: usize) -> Board {
    let mut all: Vec<Seen> = (1..=hosts).map(|n| seen(&format!("db{n:04}"), |_| {})).collect();
    all[2].heartbeat.snapshots = vec![snapshot("vg0/mysql-20261122T113000Z", -30)];
    all[2].heartbeat.snapshots_total = 1;
    all[4].heartbeat.mysql.state = ServerState::Stopped;
    all[6].heartbeat.mysql.lag_seconds = Some(3_600);
    all[6].heartbeat.mysql.replica_of = Some("db0001.example.com:3306".into());
    all[9].health = "lost";
    all[9].silent_s = 130;
    let gone = Missing {
        host: "db9999".parse().unwrap(),
        cluster: "shop".into(),
        dc: "dc2".into(),
        state: "missing",
        since: noon() - SignedDuration::from_hours(3),
    };
    let mut board = Board::default();
    board.show(all, vec![gone], Bus::Speaks, None);
    board
}

fn drawn(board: &mut Board, width: u16, height: u16) -> Vec<String> {
    full::drawn(board, width, height, noon())
}

fn press(board: &mut Board, code: KeyCode) -> Option<Left> {
    full::heed(board, KeyEvent::new(code, KeyModifiers::NONE))
}

#[test]
fn troubled_hosts_come_first_and_the_rest_is_counted() {
    let mut board = fleet(204);
    let screen = drawn(&mut board, 80, 24);
    assert_eq!(screen[0], "fleet  12:00:00 UTC  205 hosts, 4 in trouble, 0 jobs");
    let hosts: Vec<&str> = screen[2..7].iter().map(|line| &line[..6]).collect();
    assert_eq!(hosts, ["db0005", "db0010", "db9999", "db0007", "db0001"]);
    for (line, trouble) in [(2, "MySQL stopped"), (3, "lost for 2m 10s"), (4, "missing"), (5, "far behind")] {
        assert!(screen[line].contains(trouble), "{}", screen[line]);
    }
    assert!(screen[23].starts_with("1–21 of 205, 184 more, by trouble   q out"), "{}", screen[23]);
    assert!(screen.iter().all(|line| line.chars().count() <= 80));
}

#[test]
fn narrow_terminals_drop_the_columns_of_least_worth() {
    let heads =
        |width| drawn(&mut fleet(20), width, 10)[1].split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let all = ["HOST", "CLUSTER", "DC", "TROUBLE", "MYSQL", "DATADIR", "FREE", "SNAPSHOTS", "NEWEST", "JOBS"];
    assert_eq!(heads(200), all);
    assert_eq!(heads(80), ["HOST", "TROUBLE", "MYSQL", "NEWEST", "JOBS"]);
    assert_eq!(heads(40), ["HOST", "TROUBLE"]);
    assert_eq!(heads(10), ["HOST"]);
}

#[test]
fn keys_scroll_sort_filter_and_look() {
    let mut board = fleet(1_000);
    drawn(&mut board, 80, 24);
    press(&mut board, KeyCode::End);
    let screen = drawn(&mut board, 80, 24);
    assert!(screen[22].starts_with("db1000"), "{}", screen[22]);
    assert!(screen[23].starts_with("981–1001 of 1001, by"), "{}", screen[23]);
    for code in [KeyCode::Home, KeyCode::Char('s')] {
        press(&mut board, code);
    }
    assert!(drawn(&mut board, 80, 24)[2].starts_with("db0001"), "by name");
    for code in
        [KeyCode::Char('/'), KeyCode::Char('b'), KeyCode::Char('l'), KeyCode::Char('o'), KeyCode::Char('q')]
    {
        assert_eq!(press(&mut board, code), None, "letters of a filter are no commands");
    }
    assert!(drawn(&mut board, 80, 24)[23].starts_with("/bloq"));
    press(&mut board, KeyCode::Backspace);
    press(&mut board, KeyCode::Enter);
    let screen = drawn(&mut board, 80, 24);
    assert!(screen[23].contains("of 100, ") && screen[23].contains("with \"blo\""), "{}", screen[23]);
    press(&mut board, KeyCode::Esc);
    press(&mut board, KeyCode::Char('t'));
    assert!(drawn(&mut board, 80, 24)[23].starts_with("1–4 of 4, by host, only trouble"));
    press(&mut board, KeyCode::Char('t'));
    for _ in 0..2 {
        press(&mut board, KeyCode::Down);
    }
    press(&mut board, KeyCode::Enter);
    let screen = drawn(&mut board, 80, 24).join("\n");
    assert!(screen.contains("┌ db0003 ─") && screen.contains("vg0/mysql-20261122T113000Z"), "{screen}");
    assert_eq!(press(&mut board, KeyCode::Esc), None, "the window is closed first");
    assert_eq!(press(&mut board, KeyCode::Char('q')), Some(Left::Done));
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(full::heed(&mut board, interrupt), Some(Left::Interrupted));
}

#[test]
fn a_silent_bus_is_told_and_no_host_writes_on_the_screen() {
    let mut board = Board::default();
    let mut evil = seen("db1", |_| {});
    evil.heartbeat.cluster = "sh\u{1b}[2Jop\nx".into();
    board.show(vec![evil], vec![], Bus::Silent(13), None);
    let screen = drawn(&mut board, 120, 10);
    assert!(screen[0].ends_with("the bus is silent for 13s"), "{}", screen[0]);
    assert!(screen[2].contains("\\u{1b}[2Jop"), "{}", screen[2]);
    board.show(vec![], vec![], Bus::Away, None);
    let screen = drawn(&mut board, 120, 10);
    assert!(screen[0].ends_with("no connection to the bus: all this is old"), "{}", screen[0]);
    assert!(screen[9].starts_with("no host"), "{}", screen[9]);
}

#[test]
fn the_screen_in_the_docs_is_this_one() {
    let (short, large) =
        (include_str!("../../../../docs/ctl.md"), include_str!("../../../../docs/screens.md"));
    let drawn = [(80, 12, short), (80, 24, large), (200, 50, large)]
        .map(|(width, height, page)| (drawn(&mut fleet(204), width, height).join("\n"), page));
    let missing: Vec<_> =
        drawn.iter().filter(|(shown, page)| !page.contains(shown)).map(|(shown, _)| shown.as_str()).collect();
    assert!(missing.is_empty(), "the docs lack:\n{}", missing.join("\n-----\n"));
}
