//! "Done" is true: layouts and histories of real hosts, seeded with every row or refused before the copy.
//!
//! All cells: `make truth`. Some: `OA_CELLS=xa-prepared cargo nextest run --test truth`.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use e2e::truth::cell::due;
use e2e::truth::judge::run;
use e2e::truth::page::passed;
use futures_util::FutureExt as _;

/// Every cell is tried, whatever came of those before it.
async fn holds(vendor: &str) {
    let mut wrong = Vec::new();
    for cell in due(vendor) {
        let begun = Instant::now();
        match AssertUnwindSafe(run(&cell)).catch_unwind().await {
            Ok(None) => return,
            Ok(Some(Ok(()))) => passed(&cell),
            Ok(Some(Err(why))) => wrong.push(format!("{}: {why}", cell.key())),
            Err(_) => wrong.push(format!("{}: it panicked, see above", cell.key())),
        }
        println!("{}: {:.1} s, {} wrong so far", cell.key(), begun.elapsed().as_secs_f64(), wrong.len());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn done_is_true_on_mariadb_10_11() {
    holds("mariadb").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn done_is_true_on_mariadb_11_8() {
    holds("mariadb11").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn done_is_true_on_mysql_9() {
    holds("mysql9").await;
}
