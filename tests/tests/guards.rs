//! Guards that need a look at the donor, at keys or at the source to replicate from: refused by name, nothing touched.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use e2e::replication::{Account, vendor};
use e2e::tree;
use e2e::volume::{Kind, Volume};
use e2e::world::{PATIENCE, Provider, World, WorldOptions, swiftly};
use protocol::params::*;
use protocol::seed::{Guard, ReplicationSource, SeedOptions, SeedPlan, Verdict};
use testkit::mysqld::Vendor;
use testkit::mysqld::mysql_async::prelude::Queryable as _;
use testkit::poll;

/// What the recipient plans, from what the donor says now.
async fn plan(world: &World, options: SeedOptions) -> SeedPlan {
    let donor =
        world.call(&world.donor, SeedSurveyParams { snapshot: None, foreign: false, stream: None }).await;
    world.call(&world.recipient, SeedPlanParams { donor, options }).await
}

fn refused_by(plan: &SeedPlan) -> Vec<Guard> {
    plan.refusals().map(|result| result.guard).collect()
}

fn verdict(plan: &SeedPlan, guard: Guard) -> (Verdict, String) {
    let found = plan.guards.iter().find(|result| result.guard == guard).unwrap();
    (found.verdict, found.message.clone())
}

/// Refused by ctl too, with the guard's words, and not a file is another one.
async fn refused_at_start(world: &World, arguments: &[&str], words: &str) {
    let before = tree::names(world.recipient.db.datadir());
    let said = world.ctl(&[&["seed", "start", "db2", "--stop-mysql"], arguments].concat()).await;
    assert_eq!(said.status.code(), Some(3), "{said:?}");
    assert!(format!("{}{}", said.stdout, said.stderr).contains(words), "{said:?}");
    assert_eq!(tree::names(world.recipient.db.datadir()), before);
    world.recipient_is_as_it_was().await;
    world.nothing_left(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_donor_gives_nothing_without_leave() {
    let configure = |id: &str, agent: &mut testkit::agent::AgentOptions| {
        if id == "db1" {
            agent.set("seed.donor_limits.threads_running", 4);
        }
    };
    let configure: e2e::world::Configure = Box::new(configure);
    let world = World::start(WorldOptions {
        provider: Provider::Directory,
        configure: Some(configure),
        ..WorldOptions::default()
    })
    .await;
    world.snapshot().await;
    assert_eq!(refused_by(&plan(&world, swiftly()).await), []);
    let mut busy = Vec::new();
    for _ in 0..8 {
        let mut conn = world.donor.db.connect().await.unwrap();
        busy.push(tokio::spawn(async move { conn.query_drop("SELECT SLEEP(600)").await }));
    }
    poll::until_async(PATIENCE, "the donor to be busy", || async {
        (refused_by(&plan(&world, swiftly()).await) == [Guard::DonorHealthy]).then_some(())
    })
    .await;
    refused_at_start(&world, &[], "statements run at once, 4 is its limit").await;
    let leave = SeedOptions { allow_busy_donor: true, ..swiftly() };
    let plan = plan(&world, leave).await;
    assert_eq!(refused_by(&plan), []);
    assert_eq!(verdict(&plan, Guard::DonorHealthy).0, Verdict::Warn);
    busy.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encrypted_tablespaces_want_their_keys_on_the_recipient() {
    let keys = tempfile::tempdir().unwrap();
    fs::set_permissions(keys.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = keys.path().join("keys");
    fs::write(&file, "1;770A8A65DA156D24EE2A093277530142770A8A65DA156D24EE2A093277530142\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let lines = [
        "plugin-load-add=file_key_management".to_owned(),
        format!("file-key-management-filename={}", file.display()),
    ];
    let mut world = World::start(WorldOptions {
        provider: Provider::Directory,
        donor_lines: lines.to_vec(),
        ..WorldOptions::default()
    })
    .await;
    world.snapshot().await;
    let (found, words) = verdict(&plan(&world, swiftly()).await, Guard::KeysPresent);
    assert_eq!(found, Verdict::Pass, "{words}");

    world
        .donor
        .db
        .exec("CREATE TABLE shop.secrets (id INT PRIMARY KEY) ENGINE=InnoDB ENCRYPTED=YES")
        .await
        .unwrap();
    world.donor.db.exec("INSERT INTO shop.secrets VALUES (42)").await.unwrap();
    world.snapshot().await;
    assert_eq!(refused_by(&plan(&world, swiftly()).await), [Guard::KeysPresent]);
    refused_at_start(&world, &[], "1 tablespaces are encrypted and db2 has no key management").await;

    // The files alone tell it as well.
    let job = world.call(&world.donor, MysqlStopParams {}).await.job;
    world.succeeded(&world.donor, job).await;
    assert_eq!(refused_by(&plan(&world, swiftly()).await), [Guard::KeysPresent]);
    world.donor.db.boot().await.unwrap();
    world.donor.db.hand_over();

    // With the keys it goes, and the rows can be read.
    let text = fs::read_to_string(world.recipient.db.option_file()).unwrap();
    let text = text.replace("[client]", &format!("{}\n{}\n[client]", lines[0], lines[1]));
    fs::write(world.recipient.db.option_file(), text).unwrap();
    assert_eq!(refused_by(&plan(&world, swiftly()).await), []);
    let job = world.seed(swiftly()).await;
    world.succeeded(&world.recipient, job).await;
    assert_eq!(world.recipient.db.scalar("SELECT id FROM shop.secrets").await.unwrap(), "42");
}

/// The source has purged what the data need to go on.
async fn purged(vendor: Vendor, purge: &[&str]) {
    let account = Account::new();
    let file = account.file().display().to_string();
    let configure = move |id: &str, agent: &mut testkit::agent::AgentOptions| {
        if id == "db2" {
            agent.set("seed.replication_credentials", file.clone());
        }
    };
    let world = World::start(WorldOptions {
        vendor,
        configure: Some(Box::new(configure)),
        ..WorldOptions::default()
    })
    .await;
    let replicate_from =
        Some(ReplicationSource { host: "127.0.0.1".to_owned(), port: world.donor.db.port() });
    let options = SeedOptions { replicate_from, ..swiftly() };
    let source = format!("127.0.0.1:{}", world.donor.db.port());
    world.snapshot().await;

    let plan_now = plan(&world, options.clone()).await;
    assert_eq!(refused_by(&plan_now), [Guard::BinlogsAvailable]);
    assert!(verdict(&plan_now, Guard::BinlogsAvailable).1.contains("as a replica would"), "{plan_now:?}");
    Account::create(&world.donor.db).await;
    let (found, words) = verdict(&plan(&world, options.clone()).await, Guard::BinlogsAvailable);
    let right = if world.donor.db.vendor().is_mysql() { "REPLICATION CLIENT" } else { "BINLOG MONITOR" };
    assert_eq!(found, Verdict::Warn, "{words}");
    assert!(words.contains(right), "{words}");
    world.donor.db.exec(format!("GRANT {right} ON *.* TO repl@'127.0.0.1'")).await.unwrap();
    let (found, words) = verdict(&plan(&world, options.clone()).await, Guard::BinlogsAvailable);
    assert_eq!(found, Verdict::Pass, "{words}");

    for statement in purge {
        world.donor.db.exec(statement).await.unwrap();
    }
    poll::until_async(Duration::from_secs(30), "the logs to be purged", || async {
        let logs = world.donor.db.query("SHOW BINARY LOGS").await.unwrap();
        if logs.len() == 1 {
            return Some(());
        }
        world.donor.db.exec(format!("PURGE BINARY LOGS TO '{}'", logs.last().unwrap()[0])).await.unwrap();
        None
    })
    .await;
    assert_eq!(refused_by(&plan(&world, options).await), [Guard::BinlogsAvailable]);
    refused_at_start(&world, &["--replicate-from", &source], "take a newer snapshot").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_not_on_the_list_is_not_even_connected_to() {
    let account = Account::new();
    let file = account.file().display().to_string();
    let configure = move |id: &str, agent: &mut testkit::agent::AgentOptions| {
        if id == "db2" {
            agent.set("seed.replication_credentials", file.clone());
            agent.set("seed.sources", vec!["db1.example:3306", "*.prod.example"]);
        }
    };
    let world = World::start(WorldOptions {
        provider: Provider::Directory,
        configure: Some(Box::new(configure)),
        ..WorldOptions::default()
    })
    .await;
    world.snapshot().await;
    let attacker = TcpListener::bind("127.0.0.1:0").unwrap();
    attacker.set_nonblocking(true).unwrap();
    let at = attacker.local_addr().unwrap();
    let replicate_from = Some(ReplicationSource { host: at.ip().to_string(), port: at.port() });
    let planned = plan(&world, SeedOptions { replicate_from, ..swiftly() }).await;
    let (found, words) = verdict(&planned, Guard::BinlogsAvailable);
    assert_eq!(found, Verdict::Refuse, "{words}");
    assert!(words.contains(&at.to_string()) && words.contains("seed.sources"), "{words}");
    refused_at_start(&world, &["--replicate-from", &at.to_string()], "seed.sources").await;
    assert_eq!(attacker.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

const AND_LATER: [&str; 3] = [
    "CREATE TABLE shop.later (id INT PRIMARY KEY)",
    "INSERT INTO shop.later VALUES (1)",
    "FLUSH BINARY LOGS",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_logs_that_mariadb_has_purged_are_missed_beforehand() {
    purged(Vendor::Mariadb, &AND_LATER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_logs_that_mysql_9_has_purged_are_missed_beforehand() {
    if let Some(vendor) = vendor("mysql9") {
        purged(vendor, &AND_LATER).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_tells_space_on_both_hosts_and_a_volume_without_inodes_refuses() {
    // Few inodes: an ext4 of this size has some thousand, the seed wants a thousand to spare.
    let recipient_volume = Some(Volume::make(Kind::Ext4, 512));
    let world = World::start(WorldOptions { recipient_volume, ..WorldOptions::default() }).await;
    world.snapshot().await;
    let plan_now = plan(&world, swiftly()).await;
    assert_eq!(refused_by(&plan_now), []);
    assert!(plan_now.donor_free_bytes.is_some_and(|free| free > 0), "{plan_now:?}");
    assert!(plan_now.free_after_bytes > plan_now.free_lowest_bytes, "{plan_now:?}");
    let said = world.ctl(&["seed", "plan", "db2", "--stop-mysql"]).await;
    for words in
        ["free afterwards", "free on the donor", "donor_healthy", "keys_present", "binlogs_available"]
    {
        assert!(said.stdout.contains(words), "{words}: {said:?}");
    }
    let crowd = world.recipient.db.base().join("crowd");
    fs::create_dir(&crowd).unwrap();
    let free = || nix::sys::statvfs::statvfs(&crowd).unwrap().files_free();
    let mut made = 0;
    while free() > 1000 {
        fs::File::create(crowd.join(made.to_string())).unwrap();
        made += 1;
    }
    assert_eq!(refused_by(&plan(&world, swiftly()).await), [Guard::InodesSuffice]);
    refused_at_start(&world, &[], "files need inodes").await;
}

/// A table with a `DATA DIRECTORY` outside the datadir, on the same volume: a snapshot holds it, a seed would not.
async fn a_table_elsewhere(vendor: Vendor) {
    let elsewhere = tempfile::Builder::new().prefix("oa-fast-").tempdir_in(vendor.short_dir()).unwrap();
    fs::set_permissions(elsewhere.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let seen_by_server = match &vendor {
        Vendor::Mariadb => elsewhere.path().to_owned(),
        Vendor::Mariadb11 { root } | Vendor::Mysql9 { root } => {
            Path::new("/").join(elsewhere.path().strip_prefix(root).unwrap())
        }
    };
    let donor_lines = match vendor.is_mysql() {
        true => vec![format!("innodb_directories={}", seen_by_server.display())],
        false => vec![],
    };
    let provider = Provider::Directory;
    let world = World::start(WorldOptions { provider, vendor, donor_lines, ..WorldOptions::default() }).await;
    world.snapshot().await;
    assert_eq!(refused_by(&plan(&world, swiftly()).await), []);
    let statement =
        format!("CREATE TABLE shop.hot (id INT PRIMARY KEY) DATA DIRECTORY='{}'", seen_by_server.display());
    world.donor.db.exec(statement).await.unwrap();
    let plan_now = plan(&world, swiftly()).await;
    assert_eq!(refused_by(&plan_now), [Guard::LayoutCompatible]);
    let (_, words) = verdict(&plan_now, Guard::LayoutCompatible);
    assert!(words.contains(&elsewhere.path().join("shop/hot.ibd").display().to_string()), "{words}");
    refused_at_start(&world, &[], "carries the datadir only").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_with_tables_outside_its_datadir_gives_no_snapshot() {
    a_table_elsewhere(Vendor::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_9_with_tables_outside_its_datadir_gives_no_snapshot() {
    if let Some(vendor) = vendor("mysql9") {
        a_table_elsewhere(vendor).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_somebody_uses_is_no_spare_though_its_log_stands_still() {
    use testkit::mysqld::mysql_async::{Conn, OptsBuilder};
    let world = World::start(WorldOptions {
        provider: Provider::Directory,
        server_lines: vec!["skip-log-bin".to_owned()],
        ..WorldOptions::default()
    })
    .await;
    world.snapshot().await;
    let db = &world.recipient.db;
    db.exec("CREATE USER app@localhost IDENTIFIED BY 'app'").await.unwrap();
    db.exec("GRANT SELECT ON *.* TO app@localhost").await.unwrap();
    let passes = || async {
        let plan = plan(&world, swiftly()).await;
        (verdict(&plan, Guard::NotAPrimary).0 == Verdict::Pass).then_some(())
    };
    poll::until_async(PATIENCE, "an unused server to be one", passes).await;

    let options = OptsBuilder::default()
        .socket(Some(db.socket().to_string_lossy()))
        .prefer_socket(false)
        .user(Some("app"))
        .pass(Some("app"));
    let mut reader = Conn::new(options).await.unwrap();
    let _: Vec<u32> = reader.query("SELECT id FROM own.marker").await.unwrap();
    refused_at_start(&world, &[], "app@localhost").await;
    reader.disconnect().await.unwrap();
    poll::until_async(PATIENCE, "the reader to be gone", passes).await;

    let mut writer = db.connect().await.unwrap();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        writer.query_drop("CREATE TABLE own.live (id INT AUTO_INCREMENT PRIMARY KEY)").await.unwrap();
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        while stopped.try_recv().is_err() {
            pace.tick().await;
            writer.query_drop("INSERT INTO own.live VALUES ()").await.unwrap();
        }
    });
    poll::until_async(PATIENCE, "the writer to be seen", || async {
        refused_by(&plan(&world, swiftly()).await).contains(&Guard::NotAPrimary).then_some(())
    })
    .await;
    refused_at_start(&world, &[], "takes writes").await;
    stop.send(()).unwrap();
    writing.await.unwrap();
}
