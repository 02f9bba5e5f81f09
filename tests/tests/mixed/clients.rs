//! ctl of one release with agents of the other.

use std::path::PathBuf;

use e2e::rows;
use e2e::world::{self, PATIENCE, World};
use protocol::params::SnapshotListParams;
use testkit::agent::Program;

use super::{Release, is_there, world};

/// ctl of a release on the bus of a world.
struct Ctl<'a> {
    program: PathBuf,
    world: &'a World,
}

impl Ctl<'_> {
    /// What it says; its exit code must be one of these.
    async fn says(&self, words: &str, codes: &[i32]) -> String {
        let words: Vec<&str> = words.split_whitespace().collect();
        let mut command = world::ctl_at(&self.program, &self.world.nats.url(), &words);
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("ctl {words:?} does not end")).unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let code = output.status.code().unwrap();
        assert!(codes.contains(&code), "ctl {words:?} ended with {code}: {said}");
        said
    }
}

/// All that a person does from the first look to the end of a seed.
async fn from_the_first_look_to_a_seed(ctl: Release, agents: Release) {
    if !is_there() {
        return;
    }
    let world = world(agents, agents, 4).await;
    let program = match ctl.programs() {
        Some(directory) => Program::Ctl.within(&directory),
        None => Program::Ctl.path().unwrap(),
    };
    let ctl = Ctl { program, world: &world };
    let fleet = ctl.says("fleet", &[0]).await;
    assert!(fleet.contains("db1") && fleet.contains("db2"), "{fleet}");
    for asked in
        ["host db1 info", "host db2 status", "mysql db1 info", "mysql db1 disk-usage", "jobs db2 list"]
    {
        ctl.says(asked, &[0]).await;
    }
    // It has something to say on a host of a test.
    ctl.says("doctor", &[0, 1]).await;
    ctl.says("snapshot create db1", &[0]).await;
    let usable = world.call(&world.donor, SnapshotListParams { usable: true }).await;
    let snapshot = usable[0].id.to_string();
    let listed = ctl.says("snapshot list db1", &[0]).await;
    assert!(listed.contains(&snapshot), "{listed}");
    ctl.says(&format!("snapshot verify db1 {snapshot} --budget 5s"), &[0]).await;
    ctl.says(&format!("snapshot mount db1 {snapshot}"), &[0]).await;
    ctl.says(&format!("snapshot unmount db1 {snapshot}"), &[0]).await;
    let plan = ctl.says("seed plan db2 --from db1 --stop-mysql --allow-primary", &[0]).await;
    assert!(plan.contains(&snapshot), "{plan}");
    ctl.says("seed start db2 --from db1 --stop-mysql --allow-primary --keep-old 1h", &[0]).await;
    assert_eq!(rows::checksums(&world.recipient.db).await, rows::checksums(&world.donor.db).await);
    for asked in ["seed watch db2", "seed show db2", "seed kept db2", "events --since 1h"] {
        let said = ctl.says(asked, &[0]).await;
        assert!(said.contains("db2"), "ctl {asked}: {said}");
    }
    ctl.says("seed undo db2", &[0]).await;
    world.recipient_is_as_it_was().await;
    ctl.says(&format!("snapshot remove db1 {snapshot}"), &[0]).await;
    world.nothing_left(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn this_ctl_works_with_agents_of_the_release_before() {
    from_the_first_look_to_a_seed(Release::This, Release::Before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ctl_before_works_with_agents_of_this_release() {
    from_the_first_look_to_a_seed(Release::Before, Release::This).await;
}
