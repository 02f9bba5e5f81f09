//! Seeds through the program, against a real bus and scripted agents.

mod fake;

use std::time::Duration;

use fake::{Fate, LIMIT, Terminal, World, summary};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::command::Command;
use protocol::error::{ErrorCode, WireError};
use protocol::job::JobState;
use protocol::seed::{Guard, GuardResult, SeedStage, Verdict};
use serde_json::json;
use testkit::poll;
use tokio::io::{AsyncBufReadExt, BufReader};

const STAGES: [&str; 10] = [
    "plan",
    "prepare",
    "transfer",
    "verify",
    "recover",
    "swap",
    "post-copy",
    "start",
    "replicate",
    "cleanup",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_without_a_donor_picks_one_says_why_and_runs_to_its_end() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    let far = world.agent("far", "dc2", vec![summary("vg0/s2", 1)]).await;
    let db7 = world.agent("db7", "dc1", vec![]).await;
    let ran = world.run("seed start db7 --stop-mysql --throttle 50M").await;
    ran.expect(0);

    assert!(ran.out.contains("donor db1: same cluster shop, in the recipient's DC dc1"), "{}", ran.out);
    assert!(ran.out.contains("passed over far: in another DC (dc2)"), "{}", ran.out);
    assert!(ran.out.contains("data               10.0 GiB in 312 files"), "{}", ran.out);
    let told: Vec<&str> = ran.out.lines().filter_map(|l| l.strip_prefix("db7: ")).collect();
    let stages: Vec<&str> = told.iter().copied().filter(|l| STAGES.contains(l)).collect();
    assert_eq!(stages, STAGES, "a line per stage, in order:\n{}", ran.out);
    assert!(
        told.iter().any(|l| l.starts_with("done after") && l.contains("db1 → db7 from vg0/s1")),
        "{}",
        ran.out
    );

    assert_eq!(db1.asked(), ["seed.survey", "seed.offer"]);
    assert_eq!(db7.asked(), ["seed.plan", "seed.start"]);
    assert!(far.asked().is_empty());
    assert_eq!(db1.params("seed.offer")["snapshot"], "vg0/s1");
    assert_eq!(db7.params("seed.plan")["options"], db7.params("seed.start")["options"]);
    assert_eq!(db7.params("seed.start")["options"]["stop_mysql"], true);
    assert_eq!(db7.params("seed.start")["options"]["throttle_bytes_per_s"], 50 << 20);
    assert_eq!(
        db7.params("seed.start")["plan_digest"],
        "plan-of-db7",
        "runs exactly the plan that was shown"
    );
    assert!(!format!("{ran:?}").contains("planted-secret-token"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_refuses_ends_with_3_and_nothing_touched() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    let db7 = world.agent("db7", "dc1", vec![]).await;
    let refusing = db7.clone();
    db7.answers(move |command| match command {
        Command::SeedPlan(p) => {
            let mut plan = refusing.plan(&p.donor);
            plan.guards.push(GuardResult {
                guard: Guard::MysqlMayStop,
                verdict: Verdict::Refuse,
                message: "MySQL runs on db7; stop it or give leave with --stop-mysql".into(),
            });
            Some(Ok(serde_json::to_value(plan).unwrap()))
        }
        _ => None,
    });
    for line in ["seed start db7 --from db1", "seed plan db7 --from db1"] {
        let ran = world.run(line).await;
        ran.expect(3);
        assert!(ran.out.contains("REFUSE   mysql_may_stop"), "{}", ran.out);
        assert!(ran.err.contains("give leave with --stop-mysql"), "{}", ran.err);
        let told = world.run(&format!("{line} --json")).await.expect(3).json().pop().unwrap();
        // Spelled as in the plan.
        assert_eq!(
            (&told["error"]["code"], &told["error"]["guard"]),
            (&"refused".into(), &"mysql_may_stop".into())
        );
    }
    assert!(!db1.asked().contains(&"seed.offer"), "no offer is made");
    assert!(!db7.asked().contains(&"seed.start"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_plan_is_run_and_another_one_refused() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    let db7 = world.agent("db7", "dc1", vec![]).await;
    let ran = world.run("seed start db7 --from db1 --plan an-older-one").await;
    assert!(ran.expect(3).err.contains("no longer holds"), "{}", ran.err);
    assert!(!db1.asked().contains(&"seed.offer") && !db7.asked().contains(&"seed.start"));
    let ran = world.run("seed plan db7 --from db1").await;
    assert!(ran.expect(0).out.contains("plan               plan-of-db7"), "{}", ran.out);
    world.run("seed start db7 --from db1 --plan plan-of-db7").await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_came_to_nothing_is_released() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    let db7 = world.agent("db7", "dc1", vec![]).await;
    db7.fails("seed.start", WireError::new(ErrorCode::Busy, "seed 17 holds this agent"));
    let ran = world.run("seed start db7 --from db1").await;
    assert!(ran.expect(6).err.contains("seed 17 holds this agent"), "{}", ran.err);
    assert_eq!(db1.asked(), ["seed.survey", "seed.offer", "seed.release"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_reply_to_the_start_is_waited_for_and_the_offer_stands() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    let db7 = world.agent("db7", "dc1", vec![]).await;
    db7.delays("seed.start", Duration::from_millis(2500));
    world.run("--timeout 2s seed start db7 --from db1").await.expect(0);
    assert_eq!(db7.asked(), ["seed.plan", "seed.start"], "asked twice, done once");
    assert!(!db1.asked().contains(&"seed.release"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_seeds_one_failure_stops_no_other_and_decides_the_exit_code() {
    let world = World::new().await;
    world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    let db7 = world.agent("db7", "dc1", vec![]).await;
    let db8 = world.agent("db8", "dc1", vec![]).await;
    let mut error = WireError::new(ErrorCode::Transfer, "the manifest does not hold");
    error.causes = vec!["ibdata1: digest differs".into()];
    *db8.fate.lock().unwrap() = Fate::FailsAt(SeedStage::Verify, error);
    let ran = world.run("seed start db7 db8 db9 --from db1").await;
    ran.expect(1);
    assert!(ran.out.contains("\nEach will:\n  1. stop MySQL\n"), "one plan display for all:\n{}", ran.out);
    assert!(ran.out.contains("db7: done after"), "{}", ran.out);
    assert!(ran.out.contains("db8: failed at verify"), "{}", ran.out);
    assert!(ran.err.contains("error: db8: seed.start failed at verify"), "{}", ran.err);
    assert!(ran.err.contains("because: ibdata1: digest differs"), "{}", ran.err);
    assert!(
        ran.err.contains("error: db9: seed.plan failed"),
        "a host that is away stops no other: {}",
        ran.err
    );
    assert!(db7.any_job().unwrap().state == JobState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_read_a_seed_as_json_lines() {
    let world = World::new().await;
    world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    world.agent("db7", "dc1", vec![]).await;
    let ran = world.run("seed start db7 --json").await;
    let lines = ran.expect(0).json();
    assert!(lines.iter().all(|line| line["host"] == "db7"), "{}", ran.out);
    let updates: Vec<&str> = lines.iter().map(|line| line["update"].as_str().unwrap()).collect();
    assert_eq!(updates[..2], ["plan", "begun"]);
    assert_eq!(*updates.last().unwrap(), "finished");
    assert_eq!(lines[0]["choice"]["donor"], "db1");
    assert_eq!(lines[0]["plan"]["bytes"], 10_u64 << 30);
    let stages: Vec<&str> =
        lines.iter().filter(|l| l["update"] == "stage").map(|l| l["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, STAGES);
    assert_eq!(lines.last().unwrap()["view"]["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_programs_read_is_what_the_schemas_say() {
    let world = World::new().await;
    world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    world.agent("db7", "dc1", vec![]).await;
    world.dead_host().await;
    world.run("fleet --json").await.expect(0).is_as_published("fleet.json");
    world.run("snapshot find shop --json").await.expect(0).is_as_published("snapshot-find.json");
    world.run("seed start db7 --json").await.expect(0).is_as_published("line.json");
    world.run("seed show db7 --json").await.expect(0).is_as_published("seed-show.json");
    world.run("seed list db7 --json").await.expect(0).is_as_published("seed-list.json");
    // Whatever fails, and whoever notices.
    for (line, code) in
        [("seed start db8 --json", 4), ("seed show db7 --json 4711", 5), ("seed begin --json", 2)]
    {
        world.run(line).await.expect(code).is_as_published("error.json");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_by_ctrl_c_leaves_the_seed_running_and_says_how_to_go_on() {
    let world = World::new().await;
    world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    let db7 = world.agent("db7", "dc1", vec![]).await;
    *db7.fate.lock().unwrap() = Fate::HoldsAt(SeedStage::Transfer);
    let mut child = world.ctl("seed start db7 --from db1").spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    loop {
        let line = tokio::time::timeout(LIMIT, lines.next_line()).await.expect("the stage is told").unwrap();
        if line.expect("stdout ended early") == "db7: transfer" {
            break;
        }
    }
    kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), Signal::SIGINT).unwrap();
    let ran = fake::ran(child.wait_with_output().await.unwrap());
    let job = db7.any_job().unwrap();
    ran.expect(130);
    assert!(ran.err.contains(&format!("orchestrator-ctl seed watch db7 {}", job.id)), "{}", ran.err);
    assert_eq!(job.state, JobState::Running);

    // Someone else watches on, and someone ends it.
    let watcher = world.ctl("seed watch db7").spawn().unwrap();
    let ran = world.run("seed abort db7").await;
    assert!(ran.expect(0).out.contains("was aborted"), "{}", ran.out);
    let watched =
        tokio::time::timeout(LIMIT, watcher.wait_with_output()).await.expect("the watch ends").unwrap();
    fake::ran(watched).expect(7);
    assert!(world.run("seed abort db7").await.expect(5).err.contains("no running seed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_seed_is_shown_later_with_every_event() {
    let world = World::new().await;
    world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    let db7 = world.agent("db7", "dc1", vec![]).await;
    let ran = world.run("seed start db7 --from db1 --detach --json").await;
    let begun = ran.expect(0).json().pop().unwrap();
    assert_eq!(begun["update"], "begun");
    let job = begun["job"].as_str().unwrap().to_owned();
    poll::until_true(LIMIT, "the seed's end", || db7.any_job().unwrap().state.is_final());
    let record = poll::until_async(LIMIT, "all events of the seed", || async {
        let record = world.run(&format!("seed show db7 {job} --json")).await.expect(0).json().remove(0);
        (record["events"].as_array().unwrap().len() == STAGES.len() + 1).then_some(record)
    })
    .await;
    assert_eq!(record["job"]["result"], json!({"rows": 7}));
    let text = world.run("seed show db7").await.expect(0).out.clone();
    assert!(
        text.contains("about     db1 → db7 from vg0/s1") && text.contains("job.stage  verify started\n"),
        "{text}"
    );
    world.run(&format!("seed throttle db7 80M {job}")).await.expect(0);
    assert_eq!(db7.params("seed.throttle")["bytes_per_s"], 80 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_begun_and_left_is_watched_later_with_its_result() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![]).await;
    let ran = world.run("snapshot create db1 --keep 7d --size 20G --detach").await;
    let job = db1.any_job().unwrap().id;
    assert!(ran.expect(0).out.contains(&format!("`orchestrator-ctl jobs db1 watch {job}`")), "{}", ran.out);
    assert_eq!(db1.params("snapshot.create"), json!({"keep_s": 604_800, "size_bytes": 20_u64 << 30}));
    let ran = world.run(&format!("jobs db1 watch {job}")).await;
    assert!(ran.expect(0).out.contains("db1: done after 0s: snapshot.create\n  rows  7\n"), "{}", ran.out);
    let unknown = protocol::ids::JobId::generate();
    world.run(&format!("jobs db1 watch {unknown}")).await.expect(5);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_donor_is_told_with_the_reason_for_every_host() {
    let world = World::new().await;
    let db1 = world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    db1.busy_with("seed.start");
    world.agent("db2", "dc1", vec![]).await;
    world.agent("db7", "dc1", vec![]).await;
    let ran = world.run("seed plan db7").await;
    ran.expect(5);
    for part in ["no donor for db7", "db1: busy being seeded", "db2: has no snapshot", "--from"] {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_bus_is_told_and_waited_through() {
    let mut world = World::new().await;
    world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    let db7 = world.agent("db7", "dc1", vec![]).await;
    *db7.fate.lock().unwrap() = Fate::HoldsAt(SeedStage::Transfer);
    let mut child = world.ctl("seed start db7 --from db1").spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until = async |part: &str| loop {
        let line =
            tokio::time::timeout(LIMIT, lines.next_line()).await.unwrap_or_else(|_| panic!("no {part:?}"));
        if line.unwrap().expect("stdout ended early").contains(part) {
            break;
        }
    };
    until("db7: transfer").await;
    world.server.kill9();
    until("cannot be asked now").await;
    db7.ends_well();
    world.server.restart().unwrap();
    until("db7: done after").await;
    let status = tokio::time::timeout(LIMIT, child.wait()).await.expect("the program ends").unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_a_bar_moves_and_the_end_stays() {
    let world = World::new().await;
    world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    let db7 = world.agent("db7", "dc1", vec![]).await;
    *db7.fate.lock().unwrap() = Fate::HoldsAt(SeedStage::Transfer);
    let mut bar = Terminal::start(&world, "xterm", "seed start db7 --from db1 --yes");
    bar.until("db7 transfer").await;
    bar.until("50 %  500 B of 1000 B").await;
    db7.ends_well();
    bar.until("db7: done after").await;
    assert_eq!(bar.ends().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_seed_fills_the_screen_and_its_end_is_told_below() {
    let world = World::new().await;
    world.agent("db1", "dc1", vec![summary("vg0/s1", 30)]).await;
    let db7 = world.agent("db7", "dc1", vec![]).await;
    *db7.fate.lock().unwrap() = Fate::HoldsAt(SeedStage::Transfer);
    world.run("seed start db7 --from db1 --detach").await.expect(0);
    let mut left = Terminal::start(&world, "xterm-256color", "seed watch db7");
    left.until("STAGE").await;
    assert!(left.seen.contains("\x1b[?1049h"), "an alternate screen: {:?}", left.seen);
    left.until("transfer").await;
    left.press(b"q").await;
    left.until("\x1b[?1049l").await;
    left.until("orchestrator-ctl seed abort db7").await;
    assert_eq!(left.ends().await, Some(130), "how it ends is not known");

    let mut stays = Terminal::start(&world, "xterm-256color", "seed watch db7");
    stays.until("STAGE").await;
    db7.ends_well();
    stays.until("\x1b[?1049l").await;
    stays.until("db7: done after").await;
    assert_eq!(stays.ends().await, Some(0));
}
