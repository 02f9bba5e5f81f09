//! A donor whose data travel as the stream of a program.

use protocol::params::SnapshotListParams;

use super::arena::{Arena, ArenaOptions};
use crate::volume::Volume;
use crate::world::{Configure, Provider};

/// An arena whose donor gives a tree at rest as the stream `files`, and whose recipient may lie on a volume of its own.
///
/// # Panics
/// When anything does not come up.
pub async fn with_stream(recipient_volume: Option<Volume>) -> Arena {
    let configure: Configure = Box::new(|_, agent| {
        agent.set("seed.offer_s", 10);
    });
    let options = ArenaOptions {
        provider: Provider::Directory,
        data_mib: 16,
        recipient_volume,
        configure: Some(configure),
        ..ArenaOptions::default()
    };
    let mut arena = Arena::start(options).await;
    let world = &mut arena.world;
    let snapshot = world.call(&world.donor, SnapshotListParams { usable: true }).await.remove(0).id;
    let tree = world.donor.db.base().join("snapshots").join(snapshot.as_str()).join("data");
    let words = |argv: &[&str]| argv.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let give = words(&["tar", "-cf", "-", "-C", &tree.display().to_string(), "."]);
    world
        .donor
        .agent
        .options()
        .set("seed.streams.files.give", give)
        .set("seed.streams.files.give_as_agent", true);
    let taker = world.recipient.agent.options();
    taker.set("seed.streams.files.take", words(&["tar", "-xf", "-", "-C", "{staging}"]));
    taker.set("seed.streams.files.prepare", words(&["true"]));
    for host in [&mut world.donor, &mut world.recipient] {
        host.agent.restart().unwrap();
    }
    for host in [&world.donor, &world.recipient] {
        world.serving(&host.id()).await;
    }
    arena
}
