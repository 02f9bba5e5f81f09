//! Journals that were torn, cut short or changed by hand.

use job::journal::{History, JournalError, parse};
use job::{JobError, JobSpec, Outcome};
use protocol::ids::JobId;

use crate::world::{Bench, Mood, World, ended, finished, steps, toys, toys_but, until};

/// The journal of a whole job: done, or failed and undone.
async fn real_journal(faults: &str) -> (JobId, Vec<u8>) {
    let bench = Bench::new();
    let (_, handle, _) = bench.whole(faults, toys()).await;
    let path = bench.root().join(handle.id().to_string()).join("journal.jsonl");
    (handle.id(), std::fs::read(path).unwrap())
}

fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

/// A directory of journals with just this one in it.
fn planted(id: JobId, bytes: &[u8]) -> Bench {
    let bench = Bench::new();
    let dir = bench.root().join(id.to_string());
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("journal.jsonl"), bytes).unwrap();
    bench
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_is_one_json_object() {
    let (id, bytes) = real_journal("").await;
    let values: Vec<serde_json::Value> =
        lines(&bytes).iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert_eq!(values[0]["record"]["event"]["spec"]["id"], id.to_string());
    assert!(values.iter().all(|value| value["record"]["v"] == 1));
    assert_eq!(values[3]["record"]["prev"], values[2]["hash"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_at_any_byte_a_journal_keeps_its_whole_records() {
    for faults in ["", "fail@three:end"] {
        let (_, bytes) = real_journal(faults).await;
        let whole = parse(&bytes).unwrap();
        assert!(!whole.torn);
        for cut in 0..bytes.len() {
            let parsed = parse(&bytes[..cut]).unwrap();
            let complete = bytes[..cut].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(parsed.records, whole.records[..complete]);
            assert_eq!(parsed.torn, cut as u64 != parsed.good_bytes);
            assert_eq!(History::fold(&parsed.records).unwrap().is_some(), complete > 0);
        }
        let mut hole = bytes.clone();
        let last = lines(&bytes).last().unwrap().len();
        let start = hole.len() - last;
        hole[start + 10..start + 40].fill(0);
        let parsed = parse(&hole).unwrap();
        assert!(parsed.torn, "a last line with a hole never reached the disk");
        assert_eq!(parsed.records.len(), whole.records.len() - 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_prefix_of_a_history_can_be_brought_to_its_end() {
    for faults in ["", "fail@three:end"] {
        let (id, bytes) = real_journal(faults).await;
        let lines = lines(&bytes);
        for count in 1..=lines.len() {
            let mut prefix = lines[..count].concat();
            // A torn end, longer than any record that follows it.
            prefix.extend(lines.get(count).map_or(&b""[..], |next| &next[..next.len() / 2]));
            prefix.extend([b'x'; 10_000]);
            let bench = planted(id, &prefix);
            pretend(&bench.world, &prefix);
            let runner = bench.runner("");
            let recovery = runner.recover().await.unwrap();
            assert!(recovery.broken.is_empty());
            if count == lines.len() {
                assert!(recovery.unfinished.is_empty());
                continue;
            }
            let handle = runner.run(id, steps(toys()), bench.world.clone()).await.unwrap();
            match finished(&handle).await {
                Outcome::Done { .. } => bench.world.assert_whole(),
                _ => bench.world.assert_empty(),
            }
            assert_eq!(
                runner.show(id).await.unwrap().history.outcome().cloned(),
                Some(finished(&handle).await)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_is_cut_off_before_anything_is_written_after_it() {
    let (id, bytes) = real_journal("").await;
    let torn = [lines(&bytes)[0], b"\0", &[b'x'; 10_000], b"\n"].concat();
    let bench = planted(id, &torn);
    let runner = bench.runner("");
    let waiting = toys_but("two", |toy| toy.mood = Mood::Waits);
    let handle = runner.run(id, steps(waiting), bench.world.clone()).await.unwrap();
    until("two is in its middle", || bench.world.dir.join("two.half").exists()).await;
    handle.park();
    ended(&handle).await;
    let shown = runner.show(id).await.unwrap();
    assert_eq!(shown.records.len() as u64, shown.history.len());
    let handle = runner.run(id, steps(toys()), bench.world.clone()).await.unwrap();
    assert_eq!(finished(&handle).await, Outcome::Done { warnings: vec![] });
}

/// Makes the files that the finished steps of a journal made.
fn pretend(world: &World, journal: &[u8]) {
    let history = History::fold(&parse(journal).unwrap().records).unwrap().unwrap();
    for step in history.plan() {
        if history.output(&step.name).is_some() {
            std::fs::write(world.dir.join(&step.name), b"").unwrap();
        }
    }
    // Undone steps keep their output in the history; nothing of them may be in the way.
    if history.cause().is_some() {
        for name in crate::world::NAMES {
            let _ = std::fs::remove_file(world.dir.join(name));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_changed_byte_is_detected() {
    let (_, bytes) = real_journal("").await;
    let whole = parse(&bytes).unwrap();
    let head = whole.records.last().unwrap().hash;
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        // The very end of the file is the one place where a change looks like a crash; the head tells.
        match parse(&changed) {
            Err(JournalError::Chain { .. } | JournalError::Corrupt { .. }) => {}
            Ok(parsed) if parsed.records.last().is_some_and(|record| record.hash != head) => {
                assert!(at + 1 == bytes.len() || changed[at] == 0, "byte {at} was changed unnoticed");
            }
            other => panic!("byte {at} was changed unnoticed: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_swapped_and_rewritten_lines_are_detected() {
    let (id, bytes) = real_journal("").await;
    let lines = lines(&bytes);
    for at in 0..lines.len() - 1 {
        let mut removed = lines.clone();
        removed.remove(at);
        assert!(matches!(parse(&removed.concat()), Err(JournalError::Chain { .. })), "line {at} removed");
        let mut swapped = lines.clone();
        swapped.swap(at, at + 1);
        assert!(matches!(parse(&swapped.concat()), Err(JournalError::Chain { .. })), "lines {at} swapped");
        let mut doubled = lines.clone();
        doubled.insert(at, lines[at]);
        assert!(matches!(parse(&doubled.concat()), Err(JournalError::Chain { .. })), "line {at} doubled");
    }

    // A forger who also computes the line's own hash is found out by the next line.
    let text = std::str::from_utf8(lines[0]).unwrap();
    let body = &text[text.find("\"record\":").unwrap() + 9..text.len() - 2];
    let forged_body = body.replace("\"size\":3", "\"size\":4");
    assert_ne!(body, forged_body);
    let hash = job::journal::Digest::of(forged_body.as_bytes());
    let forged = format!("{{\"hash\":\"{hash}\",\"record\":{forged_body}}}\n");
    assert_eq!(parse(forged.as_bytes()).unwrap().records.len(), 1, "on its own the line is well formed");
    let forged = [forged.as_bytes(), &lines[1..].concat()].concat();
    assert!(matches!(parse(&forged), Err(JournalError::Chain { line: 2 })));

    let bench = planted(id, &forged);
    let runner = bench.runner("");
    let recovery = runner.recover().await.unwrap();
    assert_eq!((recovery.unfinished.len(), recovery.broken.len()), (0, 1));
    assert!(bench.root().join(id.to_string()).exists(), "evidence is left where it is");
    assert!(matches!(
        runner.run(id, steps(toys()), bench.world.clone()).await,
        Err(JobError::Journal { source: JournalError::Chain { .. }, .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_format_is_named_and_left_alone() {
    let (id, bytes) = real_journal("").await;
    let first = std::str::from_utf8(lines(&bytes)[0]).unwrap();
    let body =
        first[first.find("\"record\":").unwrap() + 9..first.len() - 2].replacen("\"v\":1", "\"v\":9", 1);
    let hash = job::journal::Digest::of(body.as_bytes());
    let newer = format!("{{\"hash\":\"{hash}\",\"record\":{body}}}\n");
    let expected = JournalError::NewerFormat { found: 9, supported: 1 }.to_string();
    assert_eq!(parse(newer.as_bytes()).unwrap_err().to_string(), expected);
    let bench = planted(id, newer.as_bytes());
    let recovery = bench.runner("").recover().await.unwrap();
    assert_eq!(recovery.broken.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_creation_was_cut_short_never_existed() {
    let bench = Bench::new();
    let runner = bench.runner("");
    let (id, whole) = (JobId::generate(), JobId::generate());
    let dir = bench.root().join(id.to_string());
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(".journal.jsonl.tmp"), b"{\"hash").unwrap();
    runner.create(JobSpec::new(whole, "toy", serde_json::Value::Null)).await.unwrap();
    let recovery = runner.recover().await.unwrap();
    assert_eq!(recovery.unfinished.iter().map(|found| found.spec.id).collect::<Vec<_>>(), [whole]);
    assert!(!dir.exists());
    runner.create(JobSpec::new(id, "toy", serde_json::Value::Null)).await.unwrap();
}
