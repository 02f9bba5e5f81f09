use super::*;

fn id(name: &str) -> AgentId {
    name.parse().unwrap()
}

#[tokio::test]
async fn a_seed_is_known_again_after_a_restart_by_either_host() {
    let dir = tempfile::tempdir().unwrap();
    let seeds = Seeds::open(dir.path()).unwrap();
    let seed = seeds.receive(&id("db2"), 7).await.unwrap();
    seed.change(|record| record.given = Some(record::Given::new(id("db1")))).await.unwrap();
    let before = seed.now();
    let seeds = Seeds::open(dir.path()).unwrap();
    for host in ["db1", "db2"] {
        assert_eq!(seeds.of(&id(host), 7).unwrap().now(), before, "{host}");
    }
    assert!(seeds.of(&id("db2"), 8).is_none() && seeds.of(&id("db3"), 7).is_none());
    assert_eq!(seeds.unfinished().len(), 1);
    assert_eq!(seeds.of(&id("db2"), 7).unwrap().outcome(Duration::from_millis(1)).await, None);
}

#[tokio::test]
async fn one_host_takes_one_seed_and_the_other_is_told_to_have_failed() {
    let dir = tempfile::tempdir().unwrap();
    let seeds = Seeds::open(dir.path()).unwrap();
    let first = seeds.receive(&id("db2"), 1).await.unwrap();
    assert!(Arc::ptr_eq(&first, &seeds.receive(&id("db2"), 1).await.unwrap()), "a repetition");
    let refused = seeds.receive(&id("db2"), 2).await.unwrap_err();
    assert!(refused.to_string().contains("db2 is being seeded already"), "{refused}");
    let outcome = seeds.of(&id("db2"), 2).unwrap().outcome(Duration::ZERO).await.unwrap();
    assert!(!outcome.succeeded);
    seeds.receive(&id("db3"), 2).await.unwrap();
    first.end(Outcome::succeeded()).await;
    first.end(Outcome::failed("late")).await;
    assert!(first.outcome(Duration::ZERO).await.unwrap().succeeded, "an end is final");
    // Another orchestrator's, or one that began to count anew.
    assert_eq!(seeds.receive(&id("db2"), 1).await.unwrap().now().outcome, None);
}

#[tokio::test]
async fn what_cannot_be_read_is_left_alone_and_what_is_old_goes() {
    let dir = tempfile::tempdir().unwrap();
    let seeds = Seeds::open(dir.path()).unwrap();
    let seed = seeds.receive(&id("db2"), 1).await.unwrap();
    let at = Timestamp::now() - KEEP - SignedDuration::from_secs(1);
    seed.end(Outcome { at, ..Outcome::succeeded() }).await;
    let broken = dir.path().join("seeds/9@db4.json");
    std::fs::write(&broken, "{").unwrap();
    assert!(Seeds::open(dir.path()).unwrap().of(&id("db2"), 1).is_none());
    let left: Vec<_> =
        std::fs::read_dir(dir.path().join("seeds")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, [broken]);
}
