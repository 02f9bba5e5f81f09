//! A seed is judged by its progress alone: a slow one goes on for as long as bytes move, and the death of either end is told in
//! seconds, also where no packet says so. Nor does an abort wait for what makes no progress.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use e2e::rows;
use e2e::world::{Configure, PATIENCE, Provider, World, WorldOptions, slowly, swiftly};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::job::{JobState, JobView};
use protocol::params::*;
use testkit::netns::{self, Network};
use testkit::poll;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::ChildStdout;

/// Without a byte for so long a seed has failed.
const STALL: Duration = Duration::from_secs(4);
/// An offer lapses without a recipient for so long.
const OFFER: Duration = Duration::from_secs(8);
/// What a limit may take beyond itself until everybody knows, on a busy machine; far less than any limit by default.
const TOLD_WITHIN: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

fn seconds(limit: Duration) -> i64 {
    limit.as_secs().cast_signed()
}

async fn world(bus_address: Option<std::net::Ipv4Addr>, further: Configure) -> World {
    world_of(0, bus_address, further).await
}

async fn world_of(data_mib: u32, bus_address: Option<std::net::Ipv4Addr>, further: Configure) -> World {
    let configure: Configure = Box::new(move |id, agent| {
        agent.set("seed.stall_s", seconds(STALL)).set("seed.offer_s", seconds(OFFER));
        further(id, agent);
    });
    let options = WorldOptions {
        provider: Provider::Directory,
        data_mib,
        configure: Some(configure),
        bus_address,
        ..WorldOptions::default()
    };
    World::start(options).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_seed_outlives_every_limit_while_bytes_move() {
    let world = world(None, Box::new(|_, _| {})).await;
    world.snapshot().await;
    let donor =
        world.call(&world.donor, SeedSurveyParams { snapshot: None, foreign: false, stream: None }).await;
    let bytes = world.call(&world.recipient, SeedPlanParams { donor, options: swiftly() }).await.bytes;
    // So that it takes several times as long as any limit.
    let rate = bytes / (6 * STALL.as_secs());
    let job = world.seed(slowly(rate)).await;
    let view = world.succeeded(&world.recipient, job).await;
    let took_ms = view.result.unwrap()["transfer"]["elapsed_ms"].as_u64().unwrap();
    println!(
        "{bytes} bytes at {rate} bytes/s took {took_ms} ms, {} s is the limit without progress",
        STALL.as_secs()
    );
    assert!(u128::from(took_ms) > 3 * STALL.as_millis(), "too fast to show anything: {took_ms} ms");
    assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
    world.nothing_left(PATIENCE).await;
}

/// The seed has failed by name, and the recipient is as it was.
async fn assert_undone(world: &World, view: JobView) {
    assert_eq!(view.state, JobState::Failed);
    let error = view.error.unwrap();
    let said = error.to_string() + ": " + &error.causes.join(": ");
    assert!(said.contains(&format!("no progress for {} s", STALL.as_secs())), "{said}");
    world.recipient_is_as_it_was().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donor_that_dies_for_good_is_told_in_seconds() {
    let mut world = world(None, Box::new(|_, _| {})).await;
    world.snapshot().await;
    let job = world.seed(slowly(2 * MIB)).await;
    world.in_transfer(job, 2 * MIB).await;
    world.donor.agent.kill9().unwrap();
    let died = Instant::now();
    let view = world.ended(&world.recipient, job).await;
    println!("told {} ms after the donor's death", died.elapsed().as_millis());
    assert!(died.elapsed() < STALL + TOLD_WITHIN, "told only after {:?}", died.elapsed());
    assert_undone(&world, view).await;
    world.donor.agent.boot().unwrap();
    world.serving(&world.donor.id()).await;
    world.nothing_left(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_swallows_everything_is_told_on_both_ends_in_seconds() {
    if let Some(reason) = netns::unavailable_reason() {
        testkit::skip!("{reason}");
    }
    let network = Network::new().unwrap();
    let bus_address = Some(network.attach_test().unwrap());
    let [donor, recipient] = ["db1", "db2"].map(|name| network.host(name).unwrap());
    let places = [donor.clone(), recipient.clone()];
    let world = world(
        bus_address,
        Box::new(move |id, agent| {
            let place = places.iter().find(|place| place.name() == id).unwrap();
            agent.prefix(place.argv_prefix()).set("seed.listen", format!("{}:0", place.address()));
        }),
    )
    .await;
    world.snapshot().await;
    let offer = world.offer(false).await;
    let served = offer.job;
    let start = SeedStartParams { offer, options: slowly(2 * MIB), plan_digest: None };
    let job = world.call(&world.recipient, start).await.job;
    world.in_transfer(job, 2 * MIB).await;
    network.cut_between(&donor, &recipient).unwrap();
    let cut = Instant::now();
    let (taken, given) = tokio::join!(world.ended(&world.recipient, job), world.ended(&world.donor, served));
    println!("told on both ends {} ms after the cut", cut.elapsed().as_millis());
    assert!(cut.elapsed() < STALL + OFFER + TOLD_WITHIN, "told only after {:?}", cut.elapsed());
    assert_undone(&world, taken).await;
    assert!(given.error.is_some(), "the donor names no cause: {given:?}");
    world.nothing_left(PATIENCE).await;
}

/// The next line of a transfer under way with or without the remark that the donor is silent.
async fn told(lines: &mut Lines<BufReader<ChildStdout>>, silent: bool) -> String {
    let told = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("ctl stays with the seed");
            assert!(!line.contains("100 %"), "the transfer is over: {line}");
            if line.starts_with("db2: transfer ")
                && line.contains('%')
                && line.contains("nothing from the donor for") == silent
            {
                return line;
            }
        }
    };
    tokio::time::timeout(TOLD_WITHIN, told).await.unwrap_or_else(|_| panic!("silent {silent}: not told"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_is_told_of_a_silent_donor_long_before_the_limit_and_of_its_return() {
    let far_limit = PATIENCE + TOLD_WITHIN;
    let configure: Configure = Box::new(move |_, agent| _ = agent.set("seed.stall_s", seconds(far_limit)));
    let mut world = world_of(24, None, configure).await;
    world.snapshot().await;
    let job = world.seed(slowly(2 * MIB)).await;
    world.in_transfer(job, 2 * MIB).await;
    let mut command = world.ctl_command(&["seed", "watch", "db2", &job.to_string()]);
    let mut ctl = command.stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(ctl.stdout.take().unwrap()).lines();
    told(&mut lines, false).await;

    // Frozen: connected, and silent.
    let donor = Pid::from_raw(world.donor.agent.pid().unwrap().cast_signed());
    kill(donor, Signal::SIGSTOP).unwrap();
    let line = told(&mut lines, true).await;
    assert!(line.ends_with("gives up after 2m 0s"), "{line}");
    let view = world.call(&world.recipient, JobsShowParams { job }).await;
    let silence = view.progress.unwrap().silence.expect("the job's view tells it too");
    assert_eq!(silence.limit_s, far_limit.as_secs());
    kill(donor, Signal::SIGCONT).unwrap();
    told(&mut lines, false).await;

    // Dead: each connection is refused.
    world.donor.agent.kill9().unwrap();
    told(&mut lines, true).await;
    world.donor.agent.boot().unwrap();
    told(&mut lines, false).await;

    world.hurry(job).await;
    world.succeeded(&world.recipient, job).await;
    // Reads the rest, so that ctl does not wait for its reader.
    while lines.next_line().await.unwrap().is_some() {}
    assert!(ctl.wait().await.unwrap().success());
    assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
    world.nothing_left(PATIENCE).await;
}

/// A service that stands still from the first moment of its next start on: it neither becomes ready nor heeds a SIGTERM. The private
/// server, which begins with the same words, is left alone.
const STANDS_STILL: &str = "#!/bin/sh
once=$1; shift
case \"$*\" in *oa-sandbox-*|*--version*) exec \"$@\";; esac
rm \"$once\" 2>/dev/null && (until grep -q mariadbd /proc/$$/comm; do :; done; kill -STOP $$) &
exec \"$@\"
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_does_not_wait_for_a_server_that_never_gets_ready() {
    let mut world = world(None, Box::new(|_, _| {})).await;
    world.snapshot().await;
    let [wrapper, once] = ["server", "once"].map(|name| world.recipient.agent.dir().join(name));
    fs::write(&wrapper, STANDS_STILL).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let words = [&wrapper, &once].map(|path| path.display().to_string());
    let argv = [words.to_vec(), world.recipient.db.argv()].concat();
    world.recipient.agent.options().set("mysql.service.direct.argv", argv);
    world.recipient.agent.restart().unwrap();
    world.serving(&world.recipient.id()).await;

    fs::write(&once, "").unwrap();
    let job = world.seed(swiftly()).await;
    let stands_still = || {
        let pid = world.recipient.db.pid()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The state follows the program's name, which stands in parentheses.
        stat.rsplit_once(')')?.1.trim_start().starts_with('T').then_some(pid)
    };
    let pid =
        poll::until_async(PATIENCE, "the server to stand still on the new data", || async { stands_still() })
            .await;
    let asked = Instant::now();
    world.call(&world.recipient, JobsAbortParams { job }).await;
    let view = world.ended(&world.recipient, job).await;
    println!("aborted after {} ms", asked.elapsed().as_millis());
    assert_eq!(view.state, JobState::Aborted, "{view:?}");
    assert!(asked.elapsed() < TOLD_WITHIN, "aborted only after {:?}", asked.elapsed());
    // Of a dead one no program is left.
    assert!(fs::read_link(format!("/proc/{pid}/exe")).is_err(), "the server on the new data is still there");
    world.recipient_is_as_it_was().await;
    world.nothing_left(PATIENCE).await;
}
