use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use protocol::ids::{JobId, RequestId};
use protocol::job::{JobState, JobView};
use protocol::seed::TransferProgress;
use ratatui::crossterm::event::KeyCode;

use super::super::board::SeedBoard;
use super::super::tracker::Update;
use crate::full::{Left, View, drawn};
use crate::samples::noon;

/// A seed that has moved data for a minute.
fn seed() -> SeedBoard {
    let id: JobId = "01a22161-c034-70e9-bcc5-bc6dc7e28eef".parse().unwrap();
    let view = JobView {
        id,
        kind: "seed.start".into(),
        state: JobState::Running,
        stage: None,
        actor: "alice".into(),
        request: RequestId::generate(),
        summary: "db1 → db7 from vg0/mysql-20261122T113000Z".into(),
        created_at: noon(),
        donor: Some("db1".parse().unwrap()),
        finished_at: None,
        progress: None,
        result: None,
        error: None,
    };
    let mut board = SeedBoard::new("db7".parse().unwrap(), view);
    for (stage, second) in [("plan", 0), ("prepare", 1), ("transfer", 3)] {
        board.take(&told(stage, "started", second), at(second));
    }
    for second in 0..60_u64 {
        // It gets faster, then slower again.
        let rate = if second < 40 { (second + 1) * 3 } else { 180 - second };
        board.take(
            &Update::Progress { stage: "transfer".into(), progress: moved(second * 100, rate) },
            at(3 + i64::try_from(second).unwrap()),
        );
    }
    board.load(
        &"db1".parse().unwrap(),
        "disks waited for 3 %, load 1.2 on 8 processors, 12 statements".into(),
    );
    board.load(&"db7".parse().unwrap(), "disks waited for 41 %, load 2.0 on 8 processors".into());
    board
}

fn at(second: i64) -> Timestamp {
    noon() + SignedDuration::from_secs(second)
}

fn told(stage: &str, what: &str, second: i64) -> Update {
    let error = (what == "retrying").then(|| "connection reset".to_owned());
    Update::Stage { stage: stage.into(), what: what.into(), error, at: Some(at(second)) }
}

fn moved(mib: u64, mib_per_s: u64) -> TransferProgress {
    TransferProgress {
        bytes_total: 10_000 << 20,
        bytes_done: mib << 20,
        bytes_moved: mib << 20,
        files_total: 10,
        files_done: 1,
        bytes_per_s: mib_per_s << 20,
        silence: None,
    }
}

struct Alone(Mutex<SeedBoard>);

impl View for Alone {
    const TICK: std::time::Duration = std::time::Duration::from_secs(1);

    fn key(&mut self, key: KeyCode) -> Option<Left> {
        self.0.lock().key(key)
    }

    fn draw(&mut self, frame: &mut ratatui::Frame<'_>, now: Timestamp) {
        super::seed(&self.0.lock(), frame, now);
    }
}

fn screen(board: SeedBoard, width: u16, height: u16) -> Vec<String> {
    drawn(&mut Alone(Mutex::new(board)), width, height, at(64))
}

fn line_of<'a>(screen: &'a [String], words: &str) -> &'a str {
    screen.iter().find(|line| line.starts_with(words)).unwrap_or_else(|| panic!("no {words}: {screen:#?}"))
}

#[test]
fn stages_stand_with_their_times_and_those_to_come_without() {
    let shown = screen(seed(), 80, 24);
    assert!(shown[0].starts_with("db7 from db1  12:01:04 UTC, began 1m ago by alice"), "{}", shown[0]);
    assert_eq!(
        line_of(&shown, "prepare").split_whitespace().collect::<Vec<_>>(),
        ["prepare", "done", "12:00:01", "2s"]
    );
    assert_eq!(
        line_of(&shown, "transfer").split_whitespace().collect::<Vec<_>>(),
        ["transfer", "now", "12:00:03", "1m", "1s"]
    );
    assert_eq!(line_of(&shown, "swap"), "swap");
    assert!(line_of(&shown, "59 %").contains("at 121.0 MiB/s"), "{shown:#?}");
    assert_eq!(line_of(&shown, "rate, at most"), "rate, at most 140.0 MiB/s");
    assert!(line_of(&shown, "db7: disks").contains("41 %"));
    assert!(shown.iter().all(|line| line.chars().count() <= 80));
}

#[test]
fn what_goes_wrong_is_told_with_its_time_and_a_stage_begun_again_stands_once() {
    let mut board = seed();
    board.take(&told("transfer", "retrying", 70), at(70));
    let shown = screen(board, 80, 30);
    assert_eq!(line_of(&shown, "12:01:10"), "12:01:10 transfer retrying: connection reset");
    let mut board = seed();
    board.take(&told("transfer", "started", 80), at(80));
    board.take(&Update::Unreachable { message: "no\u{1b}[2J answer".into() }, at(81));
    let shown = screen(board, 80, 30);
    assert_eq!(shown.iter().filter(|line| line.starts_with("transfer")).count(), 1, "{shown:#?}");
    assert!(line_of(&shown, "12:01:21").contains("\\u{1b}[2J"), "{shown:#?}");
}

#[test]
fn a_small_terminal_keeps_stages_and_progress() {
    let shown = screen(seed(), 40, 18);
    assert!(line_of(&shown, "59 %").len() <= 60);
    line_of(&shown, "cleanup");
    assert!(!shown.iter().any(|line| line.starts_with("rate")));
    // And one that is far too small does not end the program.
    screen(seed(), 3, 2);
}

#[test]
fn q_leaves_and_the_keys_are_told() {
    let mut board = seed();
    assert_eq!(board.key(KeyCode::Char('?')), None);
    assert!(
        screen(seed_with_help(), 80, 24).join("\n").contains("the seed goes on, and what ends it is told")
    );
    assert_eq!(board.key(KeyCode::Esc), None, "the window is closed first");
    assert_eq!(board.key(KeyCode::Char('q')), Some(Left::Done));
}

fn seed_with_help() -> SeedBoard {
    let mut board = seed();
    board.key(KeyCode::Char('?'));
    board
}

#[test]
fn the_screens_in_the_docs_are_those_that_are_drawn() {
    let docs = include_str!("../../../../docs/screens.md");
    let drawn = [(80, 24), (200, 50)].map(|(width, height)| screen(seed(), width, height).join("\n"));
    let missing: Vec<_> = drawn.iter().map(String::as_str).filter(|shown| !docs.contains(shown)).collect();
    assert!(missing.is_empty(), "docs/screens.md lacks:\n{}", missing.join("\n-----\n"));
}
