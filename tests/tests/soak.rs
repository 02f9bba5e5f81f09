//! A long run: `make soak HOURS=n SEED=m`. Five hosts are seeded, snapshotted and struck at random; after each round all data
//! are where they belong and nothing is left, and in the end no agent holds more than in the beginning.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure here fails the test")]

use std::time::{Duration, Instant};

use e2e::faults::clock::Clock;
use e2e::soak::plan::Rounds;
use e2e::soak::play::Player;
use testkit::netns;

/// Between two looks at what the agents hold.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);

fn number<T: std::str::FromStr>(name: &str, otherwise: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Says how to do the same again when it ends badly.
struct Again {
    seed: u64,
}

impl Drop for Again {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "\nthe long run has failed in the last round above; `make soak SEED={}` does the same",
                self.seed
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_run_loses_nothing_and_leaks_nothing() {
    if let Some(reason) = netns::unavailable_reason() {
        testkit::skip!("{reason}");
    }
    if Clock::new().is_none() {
        return;
    }
    let seed: u64 = number("OA_SOAK_SEED", 1);
    let run = Duration::from_secs_f64(number("OA_SOAK_MINUTES", 10.0) * 60.0);
    let (_again, began) = (Again { seed }, Instant::now());
    println!("SEED={seed}: {} minutes", run.as_secs() / 60);
    let mut player = Player::start(seed).await;
    let mut next_look = LOOK_EVERY;
    for round in Rounds::of(seed) {
        if began.elapsed() > run {
            break;
        }
        player.play(&round).await;
        if began.elapsed() > next_look {
            player.measure(&format!("after {} h", next_look.as_secs() / 3_600)).await;
            next_look += LOOK_EVERY;
        }
    }
    player.measure("at the end").await;
    player.prune().await;
    player.report.ends("nothing lost, nothing left, nothing leaked");
    let (ran, rounds) = player.report.so_far();
    println!("SEED={seed}: {rounds} rounds in {} minutes, nothing lost, nothing leaked", ran.as_secs() / 60);
}
