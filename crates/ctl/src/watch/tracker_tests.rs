use jiff::SignedDuration;
use protocol::error::{ErrorCode, WireError};
use protocol::ids::{JobId, RequestId};
use protocol::seed::Silence;
use serde_json::Value;

use super::*;
use crate::samples::noon;

fn view(state: JobState, stage: &str) -> JobView {
    JobView {
        id: JobId::generate(),
        kind: "seed.start".into(),
        state,
        stage: Some(stage.into()),
        actor: "alice".into(),
        request: RequestId::generate(),
        summary: "db1 → db7 from vg0/s1".into(),
        created_at: noon(),
        donor: None,
        finished_at: state.is_final().then(|| noon() + SignedDuration::from_secs(100)),
        progress: None,
        result: None,
        error: None,
    }
}

fn event(stage: &str, what: &str) -> JobStage {
    JobStage {
        job: JobId::generate(),
        kind: "seed.start".into(),
        actor: "alice".into(),
        summary: String::new(),
        state: JobState::Running,
        stage: Some(stage.into()),
        what: what.into(),
        detail: Value::Null,
        error: (what == "retrying").then(|| WireError::new(ErrorCode::Transfer, "connection reset")),
    }
}

fn moved(done: u64) -> TransferProgress {
    TransferProgress {
        bytes_total: 1000 << 20,
        bytes_done: done << 20,
        bytes_moved: done << 20,
        files_total: 10,
        files_done: 1,
        bytes_per_s: 50 << 20,
        silence: None,
    }
}

fn lines(updates: &[Update]) -> Vec<String> {
    updates.iter().map(Update::line).collect()
}

#[test]
fn each_stage_is_told_once_whether_by_view_or_event() {
    let start = Instant::now();
    let mut tracker = Tracker::new(Duration::from_secs(5), true);
    assert_eq!(lines(&tracker.event(&event("plan", "started"), noon())), ["plan"]);
    assert!(tracker.view(&view(JobState::Running, "plan"), start).is_empty());
    assert!(tracker.view(&view(JobState::Running, "transfer"), start).is_empty(), "its event comes");
    assert_eq!(
        lines(&tracker.event(&event("prepare", "started"), noon())),
        ["prepare"],
        "short stages are not lost"
    );
    assert!(tracker.event(&event("prepare", "finished"), noon()).is_empty());
    assert_eq!(lines(&tracker.event(&event("transfer", "started"), noon())), ["transfer"]);
    assert_eq!(
        lines(&tracker.event(&event("transfer", "retrying"), noon())),
        ["transfer retrying: connection reset"]
    );
}

#[test]
fn without_events_or_when_they_lag_the_view_tells_the_stage() {
    let start = Instant::now();
    let mut deaf = Tracker::new(Duration::from_secs(5), false);
    assert_eq!(lines(&deaf.view(&view(JobState::Running, "plan"), start)), ["plan"]);
    let mut lagging = Tracker::new(Duration::from_secs(5), true);
    assert!(lagging.view(&view(JobState::Running, "plan"), start).is_empty());
    assert_eq!(lines(&lagging.view(&view(JobState::Running, "plan"), start + EVENTS_LAG)), ["plan"]);
}

#[test]
fn progress_is_told_at_its_pace_with_rate_and_time_left() {
    let start = Instant::now();
    let mut tracker = Tracker::new(Duration::from_secs(5), true);
    tracker.event(&event("transfer", "started"), noon());
    assert_eq!(
        lines(&tracker.progress(&moved(250), start)),
        ["transfer 25 %  250.0 MiB of 1000.0 MiB at 50.0 MiB/s, 15s left"]
    );
    assert!(tracker.progress(&moved(300), start + Duration::from_secs(4)).is_empty());
    assert_eq!(tracker.progress(&moved(500), start + Duration::from_secs(5)).len(), 1);
    assert!(tracker.progress(&moved(500), start + Duration::from_secs(11)).is_empty(), "nothing moved");
}

#[test]
fn a_silent_donor_is_told_at_once_and_its_return_too() {
    let start = Instant::now();
    let mut tracker = Tracker::new(Duration::from_secs(5), true);
    tracker.event(&event("transfer", "started"), noon());
    let silent = |silent_s, progress: TransferProgress| TransferProgress {
        silence: Some(Silence { silent_s, limit_s: 180 }),
        ..progress
    };
    assert_eq!(
        lines(&tracker.progress(&silent(3, TransferProgress::default()), start)),
        ["transfer 0 %  0 B of 0 B, nothing from the donor for 3s; gives up after 3m 0s"],
        "also before the manifest is there"
    );
    assert_eq!(tracker.progress(&moved(250), start).len(), 1, "it is back");
    assert_eq!(
        lines(&tracker.progress(&silent(3, moved(250)), start)),
        ["transfer 25 %  250.0 MiB of 1000.0 MiB, nothing from the donor for 3s; gives up after 3m 0s"]
    );
    let second = Duration::from_secs(1);
    assert!(tracker.progress(&silent(4, moved(250)), start + second).is_empty(), "at its pace");
    assert_eq!(tracker.progress(&silent(8, moved(250)), start + 5 * second).len(), 1, "again and again");
}

#[test]
fn an_outage_is_told_once_until_the_host_answers_again() {
    let mut tracker = Tracker::new(Duration::from_secs(5), true);
    assert_eq!(tracker.unreachable("no responders").len(), 1);
    assert!(tracker.unreachable("no responders").is_empty());
    tracker.view(&view(JobState::Running, "plan"), Instant::now());
    assert_eq!(tracker.unreachable("no responders").len(), 1);
}

#[test]
fn the_end_tells_time_and_rate() {
    let mut ended = view(JobState::Succeeded, "cleanup");
    ended.progress = Some(moved(1000));
    let mut tracker = Tracker::new(Duration::from_secs(5), true);
    tracker.view(&ended, Instant::now());
    assert_eq!(
        lines(&tracker.finished(&ended)),
        ["cleanup", "done after 1m 40s, 1000.0 MiB moved, 10.0 MiB/s over all: db1 → db7 from vg0/s1"]
    );
    let failed = view(JobState::Failed, "verify");
    assert_eq!(lines(&tracker.finished(&failed)), ["failed at verify after 1m 40s: db1 → db7 from vg0/s1"]);
}

#[test]
fn hostile_counters_make_no_nonsense() {
    let odd = TransferProgress { bytes_total: 1, bytes_done: u64::MAX, bytes_per_s: 1, ..moved(0) };
    assert!(progress_text(&odd).starts_with("100 %"));
    assert!(progress_text(&TransferProgress::default()).starts_with("0 %"));
}
