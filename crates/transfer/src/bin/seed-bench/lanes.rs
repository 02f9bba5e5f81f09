//! What is measured.

use std::time::Duration;

use crate::contest::{Contestant, SEED, SEED_AUTO, SEED_TLS};
use crate::dataset::Set;
use crate::lane::{Lane, Place};
use crate::way::Link;

/// All lanes; `quick` has less of each and leaves out the slow ones.
pub(crate) fn all(quick: bool) -> Vec<Lane> {
    let mut lanes = local(if quick { 10 } else { 1 });
    if quick {
        for lane in &mut lanes {
            lane.rounds = 1;
        }
        return lanes;
    }
    lanes.extend(long());
    lanes.extend(huge());
    lanes
}

fn local(less: u64) -> Vec<Lane> {
    use Contestant::{Floor, Rsync, TarNc, TarPigzNc, TarSocatTls, TarZstdNc};
    let lane = |name, set, place, contestants: &[Contestant], rounds| Lane {
        name,
        set,
        place,
        link: None,
        contestants: contestants.to_vec(),
        rounds,
        huge: false,
    };
    let large = Set::Large { mib: 2048 / less };
    let small = Set::Small { files: 20_000 / less };
    let (tmpfs, disk) = (Place::Tmpfs, Place::Disk);
    vec![
        lane("large, tmpfs", large, tmpfs, &[SEED, TarNc, SEED_TLS, Floor, Rsync, TarSocatTls], 7),
        lane("small, tmpfs", small, tmpfs, &[SEED, TarNc, SEED_TLS, Floor, Rsync], 5),
        lane("large, disk", large, disk, &[SEED, TarNc, SEED_TLS, Floor, Rsync], 3),
        lane("small, disk", small, disk, &[SEED, TarNc, SEED_TLS, Rsync], 3),
        lane("mix, tmpfs", Set::Mix { mib: 512 / less }, tmpfs, &[SEED, TarNc, SEED_TLS, Rsync], 3),
        lane("sparse, tmpfs", Set::Sparse { mib: 1024 / less }, tmpfs, &[SEED, TarNc, SEED_TLS], 3),
        lane(
            "incompressible, tmpfs",
            Set::Incompressible { mib: 512 / less },
            tmpfs,
            &[SEED_TLS, SEED_AUTO, Contestant::Seed { tls: true, compression: "zstd" }, TarNc, TarZstdNc],
            3,
        ),
        lane(
            "compressible, tmpfs",
            Set::Compressible { mib: 512 / less },
            tmpfs,
            &[
                SEED_TLS,
                SEED_AUTO,
                Contestant::Seed { tls: true, compression: "lz4" },
                Contestant::Seed { tls: true, compression: "zstd" },
                TarNc,
                TarZstdNc,
                TarPigzNc,
            ],
            3,
        ),
    ]
}

/// Of every long link: 200 Mbit/s.
pub(crate) const LINK_BYTES_PER_S: f64 = 25e6;

/// A link with a round trip of so many milliseconds; of 1,000 packets one is lost.
const fn far(rtt_ms: u64) -> Link {
    Link { one_lost_of: 1000, ..sound(rtt_ms) }
}

/// The same without loss.
const fn sound(rtt_ms: u64) -> Link {
    Link { rtt: Duration::from_millis(rtt_ms), one_lost_of: 0, bytes_per_s: LINK_BYTES_PER_S }
}

fn long() -> Vec<Lane> {
    use Contestant::{TarNc, TarZstdNc};
    let lane = |name, set, link, contestants: &[Contestant]| Lane {
        name,
        set,
        place: Place::Tmpfs,
        link: Some(link),
        contestants: contestants.to_vec(),
        rounds: 2,
        huge: false,
    };
    let near = sound(1);
    let share = |name, link| Lane {
        rounds: 5,
        ..lane(name, Set::Incompressible { mib: 128 }, link, &[SEED_TLS, Contestant::Unpaced])
    };
    let ten = |faults| Contestant::Several { recipients: 10, faults };
    let changed = Set::Changed { mib: 256 };
    vec![
        lane("5 % changed, 200 Mbit/s", changed, near, &[SEED_TLS, Contestant::Delta]),
        lane("24 ms, 0.1 % loss", Set::Incompressible { mib: 48 }, far(24), &[SEED, TarNc, SEED_TLS]),
        lane("150 ms, 0.1 % loss", Set::Incompressible { mib: 24 }, far(150), &[SEED, TarNc, SEED_TLS]),
        share("128 MiB at 24 ms", sound(24)),
        share("128 MiB at 150 ms", sound(150)),
        share("128 MiB at 24 ms, lossy", far(24)),
        share("128 MiB at 150 ms, lossy", far(150)),
        Lane {
            rounds: 5,
            ..lane(
                "ten recipients, 200 Mbit/s",
                Set::Incompressible { mib: 256 },
                near,
                &[SEED_TLS, ten(false), ten(true)],
            )
        },
        lane(
            "compressible, 200 Mbit/s",
            Set::Compressible { mib: 128 },
            near,
            &[SEED_TLS, SEED_AUTO, TarNc, TarZstdNc],
        ),
    ]
}

fn huge() -> Vec<Lane> {
    [("1 GiB of zeros, disk", 1024), ("20 GiB of zeros, disk", 20 * 1024)]
        .map(|(name, mib)| Lane {
            name,
            set: Set::Zeros { mib },
            place: Place::Disk,
            link: None,
            contestants: vec![SEED_TLS],
            rounds: 1,
            huge: true,
        })
        .into()
}
