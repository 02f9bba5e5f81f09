//! What the project promises, held against what was measured.

use crate::lane::{Sample, Table};
use crate::lanes::LINK_BYTES_PER_S;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Wall,
    Cpu,
    Wire,
    /// The larger of both ends' peaks in MiB, by itself.
    Peak,
    /// The share of a neighbour's pages that stayed, by itself.
    Cached,
    /// The share of a long link's rate that the data's own bytes made, by itself.
    Link,
}

/// (what, (lane, ours), (lane, peer), by what, bound, whether the bound is the least or the most).
type Claim = (&'static str, (&'static str, &'static str), (&'static str, &'static str), By, f64, Bound);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Least,
    Most,
}

const LARGE: &str = "large, tmpfs";
const SMALL: &str = "small, tmpfs";
const DISK: &str = "large, disk";
const DELTA: &str = "5 % changed, 200 Mbit/s";
const TEN: &str = "ten recipients, 200 Mbit/s";
const HUGE: &str = "20 GiB of zeros, disk";
const ONE: &str = "1 GiB of zeros, disk";

const CLAIMS: &[Claim] = &[
    (
        "plain TCP + digests vs tar|nc, large files, tmpfs",
        (LARGE, "seed"),
        (LARGE, "tar-nc"),
        By::Wall,
        3.2,
        Bound::Least,
    ),
    (
        "plain TCP + digests vs tar|nc, large files, disk",
        (DISK, "seed"),
        (DISK, "tar-nc"),
        By::Wall,
        1.9,
        Bound::Least,
    ),
    (
        "plain TCP + digests vs tar|nc, large files, CPU seconds",
        (LARGE, "seed"),
        (LARGE, "tar-nc"),
        By::Cpu,
        2.7,
        Bound::Least,
    ),
    (
        "TLS + digests vs tar|nc, large files, tmpfs",
        (LARGE, "seed-tls"),
        (LARGE, "tar-nc"),
        By::Wall,
        2.1,
        Bound::Least,
    ),
    (
        "TLS + digests vs tar|nc, large files, CPU seconds",
        (LARGE, "seed-tls"),
        (LARGE, "tar-nc"),
        By::Cpu,
        1.85,
        Bound::Least,
    ),
    (
        "plain TCP + digests vs the floor, large files, tmpfs",
        (LARGE, "seed"),
        (LARGE, "floor"),
        By::Wall,
        1.7,
        Bound::Least,
    ),
    ("20,000 small files vs tar|nc", (SMALL, "seed"), (SMALL, "tar-nc"), By::Wall, 1.6, Bound::Least),
    ("20,000 small files vs rsync", (SMALL, "seed"), (SMALL, "rsync"), By::Wall, 2.5, Bound::Least),
    (
        "delta with 5 % changed pages vs full, bytes (at most)",
        (DELTA, "seed-delta"),
        (DELTA, "seed-tls"),
        By::Wire,
        0.06,
        Bound::Most,
    ),
    (
        "delta with 5 % changed pages vs full, time (at most)",
        (DELTA, "seed-delta"),
        (DELTA, "seed-tls"),
        By::Wall,
        0.4,
        Bound::Most,
    ),
    (
        "direct TCP at 24 ms RTT, 0.1 % loss, vs tar|nc",
        ("24 ms, 0.1 % loss", "seed"),
        ("24 ms, 0.1 % loss", "tar-nc"),
        By::Wall,
        2.0,
        Bound::Least,
    ),
    (
        "direct TCP at 150 ms RTT, 0.1 % loss, vs tar|nc",
        ("150 ms, 0.1 % loss", "seed"),
        ("150 ms, 0.1 % loss", "tar-nc"),
        By::Wall,
        2.0,
        Bound::Least,
    ),
    share_of_link("share of the link, TLS, 24 ms", "128 MiB at 24 ms", 0.9),
    share_of_link("share of the link, TLS, 150 ms", "128 MiB at 150 ms", 0.75),
    share_of_link("share of the link, TLS, 24 ms, lossy", "128 MiB at 24 ms, lossy", 0.8),
    share_of_link("share of the link, TLS, 150 ms, lossy", "128 MiB at 150 ms, lossy", 0.6),
    (
        "ten recipients vs one, bytes that the donor sends (at most)",
        (TEN, "seed-tls-relay"),
        (TEN, "seed-tls"),
        By::Wire,
        1.5,
        Bound::Most,
    ),
    (
        "ten recipients vs one, time (at most)",
        (TEN, "seed-tls-relay"),
        (TEN, "seed-tls"),
        By::Wall,
        1.5,
        Bound::Most,
    ),
    (
        "seven recipients vs one, beside a slow, a false and a dead one, time (at most)",
        (TEN, "seed-tls-relay-faults"),
        (TEN, "seed-tls"),
        By::Wall,
        2.0,
        Bound::Most,
    ),
    (
        "peak memory of an agent's end, MiB, 1 GiB (at most)",
        (ONE, "seed-tls"),
        (ONE, "seed-tls"),
        By::Peak,
        64.0,
        Bound::Most,
    ),
    (
        "peak memory of an agent's end, MiB, 20 GiB (at most)",
        (HUGE, "seed-tls"),
        (HUGE, "seed-tls"),
        By::Peak,
        64.0,
        Bound::Most,
    ),
    (
        "page cache of a file in use, 20 GiB seeded, share not pushed out",
        (HUGE, "seed-tls"),
        (HUGE, "seed-tls"),
        By::Cached,
        0.99,
        Bound::Least,
    ),
];

const fn share_of_link(name: &'static str, lane: &'static str, least: f64) -> Claim {
    (name, (lane, "seed-tls"), (lane, "seed-tls"), By::Link, least, Bound::Least)
}

/// One promise and what came of it.
pub(crate) struct Judged {
    pub(crate) name: &'static str,
    pub(crate) ours: f64,
    pub(crate) peer: f64,
    pub(crate) ratio: f64,
    pub(crate) floor: f64,
    pub(crate) kept: bool,
}

/// All promises of which both figures were measured.
pub(crate) fn judged(tables: &[Table]) -> Vec<Judged> {
    let mut all = Vec::new();
    for &(name, ours, peer, by, floor, bound) in CLAIMS {
        let (Some(our_figure), Some(peer_figure)) = (figure(tables, ours, by), figure(tables, peer, by))
        else {
            continue;
        };
        let (ratio, peer_figure) = match (by, bound) {
            (By::Peak | By::Cached | By::Link, _) => (our_figure, 1.0),
            (_, Bound::Least) => (peer_figure / our_figure, peer_figure),
            (_, Bound::Most) => (our_figure / peer_figure, peer_figure),
        };
        let kept = if bound == Bound::Least { ratio >= floor } else { ratio <= floor };
        all.push(Judged { name, ours: our_figure, peer: peer_figure, ratio, floor, kept });
    }
    all
}

fn figure(tables: &[Table], (lane, contestant): (&str, &str), by: By) -> Option<f64> {
    let table = tables.iter().find(|table| table.name == lane)?;
    let (_, samples) = table.rows.iter().find(|(name, _)| *name == contestant)?;
    let of = |sample: &Sample| match by {
        By::Wall => Some(sample.wall_s),
        By::Cpu => Some(sample.used.donor_cpu_s + sample.used.recipient_cpu_s),
        By::Wire => sample.used.wire.map(|bytes| bytes as f64),
        By::Peak => sample.used.peak_kib.map(|(donor, recipient)| donor.max(recipient) as f64 / 1024.0),
        By::Cached => sample.still_cached,
        By::Link => Some(table.bytes as f64 / sample.wall_s / LINK_BYTES_PER_S),
    };
    Some(median(samples.iter().filter_map(of).collect())?.1)
}

/// Least, median and greatest.
pub(crate) fn median(mut values: Vec<f64>) -> Option<(f64, f64, f64)> {
    values.sort_by(f64::total_cmp);
    Some((*values.first()?, values[values.len() / 2], *values.last()?))
}

/// For programs.
pub(crate) fn json(tables: &[Table]) -> String {
    let entries: Vec<String> = judged(tables)
        .iter()
        .map(|entry| {
            format!(
                "  {{\"name\": \"{}\", \"ours\": {:.4}, \"peer\": {:.4}, \"ratio\": {:.3}, \"floor\": {}}}",
                entry.name, entry.ours, entry.peer, entry.ratio, entry.floor
            )
        })
        .collect();
    format!("[\n{}\n]\n", entries.join(",\n"))
}
