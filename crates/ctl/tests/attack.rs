//! A hostile agent: every text that it may choose carries what steers terminals, hides or forges a line.

mod fake;

use fake::{World, ran, summary};
use protocol::command::Command;
use protocol::error::{ErrorCode, WireError};
use protocol::event::{EventData, JobStage};
use protocol::ids::{JobId, RequestId};
use protocol::job::JobState;
use serde_json::{Value, json};

/// Clears the screen, sets the title, writes backwards, hides, and begins a line that looks like ours.
const EVIL: &str = "x\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}1m\u{202e}\u{200b}\r\nFORGED  succeeded";

fn view(job: JobId, state: &str) -> Value {
    json!({
        "id": job, "kind": EVIL, "state": state, "stage": EVIL, "actor": EVIL, "summary": EVIL,
        "request": RequestId::generate(), "created_at": "2026-01-01T00:00:00Z",
        "finished_at": "2026-01-01T00:00:01Z", "progress": null, "result": {"stdout": EVIL, EVIL: EVIL},
        "error": {"code": "system", "message": EVIL, "retryable": false, "causes": [EVIL, "why"]},
    })
}

async fn hostile(world: &World) -> JobId {
    let db1 = world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    let job = JobId::generate();
    db1.answers(move |command| match command {
        Command::JobsList(_) => Some(Ok(json!([view(job, "failed")]))),
        Command::JobsShow(_) => Some(Ok(view(job, "failed"))),
        Command::CustomList(_) => Some(Ok(json!([{"name": EVIL, "about": EVIL, "time_limit_s": 1}]))),
        Command::MysqlErrorLog(_) => Some(Ok(json!([EVIL]))),
        Command::BinlogText(_) => Some(Ok(json!({
            "content": data_encoding::BASE64.encode(EVIL.as_bytes()), "next_offset": null
        }))),
        Command::HostVolumes(_) => {
            let mut error = WireError::new(ErrorCode::Refused, EVIL);
            error.causes = vec![EVIL.to_owned()];
            error.guard = Some(EVIL.to_owned());
            Some(Err(error))
        }
        _ => None,
    });
    let stage = JobStage {
        job,
        kind: EVIL.into(),
        actor: EVIL.into(),
        summary: EVIL.into(),
        state: JobState::Failed,
        stage: Some(EVIL.into()),
        what: EVIL.into(),
        detail: json!({EVIL: EVIL}),
        error: Some(WireError::new(ErrorCode::System, EVIL)),
    };
    db1.publish(EventData::JobStage(stage)).await;
    job
}

/// What a terminal obeys, in what was written; the program's own bars (`own`) begin with a cursor's or a line's sequence.
fn obeyed(text: &str) -> Vec<&'static str> {
    let parts = ["\u{1b}[2J", "\u{1b}]0;", "\u{7}", "\u{9b}", "\u{202e}", "\u{200b}"];
    parts.into_iter().filter(|part| text.contains(part)).collect()
}

fn lines(job: JobId) -> Vec<String> {
    vec![
        "jobs db1 list".to_owned(),
        format!("jobs db1 show {job}"),
        format!("jobs db1 watch {job}"),
        format!("seed show db1 {job}"),
        format!("seed watch db1 {job}"),
        "custom db1 list".to_owned(),
        "mysql db1 error-log".to_owned(),
        "host db1 volumes".to_owned(),
        "events".to_owned(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_a_host_steers_a_terminal_or_forges_a_line() {
    let world = World::new().await;
    let job = hostile(&world).await;
    for line in lines(job) {
        let ran = world.run(&line).await;
        let told = format!("{}{}", ran.out, ran.err);
        assert!(
            told.contains(r"x\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}1m\u{202e}\u{200b}\u{d}"),
            "{line}: {told}"
        );
        assert_eq!(obeyed(&told), [""; 0], "{line}: {told:?}");
        let may_begin = line.contains("error-log");
        assert!(may_begin || told.lines().all(|line| !line.starts_with("FORGED")), "{line}: {told}");
        let ran = world.run(&format!("{line} --json")).await;
        assert_eq!(obeyed(&ran.out), [""; 0], "{line}: {:?}", ran.out);
        let exact = ran.json().iter().any(|value| holds(value, EVIL));
        assert!(exact, "{line}: what programs read is exact: {}", ran.out);
    }
}

fn holds(value: &Value, text: &str) -> bool {
    match value {
        Value::String(value) => value == text,
        Value::Array(items) => items.iter().any(|item| holds(item, text)),
        Value::Object(fields) => fields.values().any(|item| holds(item, text)),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_where_bars_move_and_contents_go_to_a_terminal() {
    let world = World::new().await;
    let job = hostile(&world).await;
    for line in [format!("seed watch db1 {job}"), "binlog db1 text binlog.000001".to_owned()] {
        let ctl = world.ctl(&line);
        let ctl = ctl.as_std();
        let words: Vec<String> = std::iter::once(ctl.get_program())
            .chain(ctl.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        // util-linux has it: it runs a program on a terminal of its own.
        let mut script = tokio::process::Command::new("script");
        script
            .args(["-q", "-e", "-c", &words.join(" "), "/dev/null"])
            .env_remove("NO_COLOR")
            .env("TERM", "xterm");
        script.envs(ctl.get_envs().filter_map(|(name, value)| Some((name, value?))));
        script.stdin(std::process::Stdio::null());
        let Ok(output) = script.output().await else {
            testkit::skip!("there is no script(1)");
        };
        let told = ran(output).out;
        assert!(told.contains(r"x\u{1b}[2J"), "{line}: {told:?}");
        assert_eq!(obeyed(&told), [""; 0], "{line}: {told:?}");
    }
}
