//! This release beside the one before (tests/releases.toml): what docs/versions.md promises, with the programs of both.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

mod clients;
mod frozen;
mod seeds;
mod strangers;

use std::path::{Path, PathBuf};

use e2e::world::{Configure, Host, World, WorldOptions};
use protocol::params::AgentInfoParams;
use testkit::programs::release_before;

/// Whose programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    /// Of this work tree.
    This,
    /// The one before.
    Before,
}

impl Release {
    fn other(self) -> Self {
        if self == Self::This { Self::Before } else { Self::This }
    }

    /// As its programs name themselves.
    fn version(self) -> String {
        match self {
            Self::This => env!("CARGO_PKG_VERSION").to_owned(),
            Self::Before => release_before().unwrap().file_name().unwrap().to_str().unwrap().to_owned(),
        }
    }

    /// Where its programs are; absent: where the tests find those of this work tree.
    fn programs(self) -> Option<PathBuf> {
        (self == Self::Before).then(|| release_before().unwrap().join("bin"))
    }
}

/// Whether the programs of the release before are there; a loud word where they are not.
fn is_there() -> bool {
    match release_before() {
        Ok(_) => true,
        Err(why) => {
            // Its programs are built from the history of this repository.
            if is_shallow() {
                testkit::skip::odd(format_args!(
                    "this clone has no history to build the release before from"
                ));
            } else {
                testkit::skip::lacking(format_args!("the release before cannot be run: {why:#}"));
            }
            false
        }
    }
}

fn is_shallow() -> bool {
    let git = ["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--is-shallow-repository"];
    let said = std::process::Command::new("git").args(git).output();
    said.is_ok_and(|said| said.stdout.starts_with(b"true"))
}

/// A world whose agents are of these releases.
async fn world(donor: Release, recipient: Release, data_mib: u32) -> World {
    let of = (donor, recipient);
    let (donor, recipient) = (donor.programs(), recipient.programs());
    let configure: Configure = Box::new(move |id, agent| {
        let programs = if id == "db1" { &donor } else { &recipient };
        agent.programs(programs.as_deref().map(Path::new));
    });
    let world =
        World::start(WorldOptions { data_mib, configure: Some(configure), ..WorldOptions::default() }).await;
    is_of(&world, &world.donor, of.0).await;
    is_of(&world, &world.recipient, of.1).await;
    world
}

/// Waits until an agent serves; it must be one of that release, or the test would show nothing.
async fn is_of(world: &World, host: &Host, release: Release) {
    world.serving(&host.id()).await;
    assert_eq!(world.call(host, AgentInfoParams {}).await.version, release.version(), "{}", host.id());
}
