//! Turns samples into `docs/benchmarks.md` and `results.json`.

use std::fmt::Write as _;

use crate::contest::{Sample, Table};

/// What the project promises: (table, ours, peer, by CPU, at least).
const FLOORS: &[(&str, &str, &str, bool, f64)] = &[
    ("large, tmpfs", "seed", "tar-nc", false, 3.2),
    ("large, tmpfs", "seed", "tar-nc", true, 2.7),
    ("large, disk", "seed", "tar-nc", false, 1.9),
    ("large, tmpfs", "seed-tls", "tar-nc", false, 2.1),
    ("large, tmpfs", "seed-tls", "tar-nc", true, 1.85),
    ("large, tmpfs", "seed", "floor", false, 1.7),
    ("small, tmpfs", "seed", "tar-nc", false, 1.6),
    ("small, tmpfs", "seed", "rsync", false, 2.5),
];

struct Judged {
    name: String,
    ours: f64,
    peer: f64,
    ratio: f64,
    floor: f64,
}

fn judged(tables: &[Table]) -> Vec<Judged> {
    let mut all = Vec::new();
    for &(table_name, ours, peer, by_cpu, floor) in FLOORS {
        let Some(table) = tables.iter().find(|table| table.name == table_name) else { continue };
        let figure = |name: &str| {
            let (_, samples) = table.rows.iter().find(|(row, _)| *row == name)?;
            Some(median(samples, |sample| if by_cpu { sample.cpu_s } else { sample.wall_s }).1)
        };
        let (Some(our_s), Some(peer_s)) = (figure(ours), figure(peer)) else { continue };
        let unit = if by_cpu { "CPU s" } else { "wall s" };
        all.push(Judged {
            name: format!("{ours} vs {peer}, {table_name}, {unit}"),
            ours: our_s,
            peer: peer_s,
            ratio: peer_s / our_s,
            floor,
        });
    }
    all
}

/// Least, median and greatest.
fn median(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> (f64, f64, f64) {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    match values.as_slice() {
        [] => (0.0, 0.0, 0.0),
        [least, .., greatest] => (*least, values[values.len() / 2], *greatest),
        [only] => (*only, *only, *only),
    }
}

/// The whole report for people.
pub(crate) fn markdown(tables: &[Table], rounds: usize) -> String {
    let mut out = String::from("# Benchmarks\n\n");
    let _ = writeln!(
        out,
        "Made by `make bench`: every contestant moves the same tree over loopback, both ends on one machine, in turn, {rounds} rounds. \
         Median (least–greatest). Wall time on disk runs until everything is written out, for all. CPU seconds are those of all \
         processes of both ends. Only ratios mean anything; on a busy machine those of CPU time.\n\n{}\n",
        machine()
    );
    for table in tables {
        let _ = writeln!(out, "## {} ({} MiB)\n", table.name, table.bytes >> 20);
        let _ = writeln!(
            out,
            "| | wall s | MiB/s | × tar\\|nc | CPU s | CPU: tar\\|nc ÷ this | peak MiB donor, recipient |"
        );
        let _ = writeln!(out, "| --- | --- | --- | --- | --- | --- | --- |");
        let base = table
            .rows
            .iter()
            .find(|(name, _)| *name == "tar-nc")
            .map_or(&[][..], |(_, samples)| samples.as_slice());
        let base = (median(base, |sample| sample.wall_s).1, median(base, |sample| sample.cpu_s).1);
        for (name, samples) in &table.rows {
            let (least, wall, greatest) = median(samples, |sample| sample.wall_s);
            let cpu = median(samples, |sample| sample.cpu_s).1;
            let peaks = samples.iter().filter_map(|sample| sample.peak_kib);
            let peak = peaks.fold((0, 0), |most, peak| (most.0.max(peak.0), most.1.max(peak.1)));
            let peak = if peak.0 > 0 { format!("{}, {}", peak.0 >> 10, peak.1 >> 10) } else { String::new() };
            let rate = table.bytes as f64 / wall / (1 << 20) as f64;
            let _ = writeln!(
                out,
                "| {name} | {wall:.2} ({least:.2}–{greatest:.2}) | {rate:.0} | {:.2} | {cpu:.2} | {:.2} | {peak} |",
                base.0 / wall,
                base.1 / cpu
            );
        }
        out.push('\n');
    }
    let _ = writeln!(
        out,
        "## Against what is promised\n\n| what | ours | peer | ratio | at least |\n| --- | --- | --- | --- | --- |"
    );
    for entry in judged(tables) {
        let mark = if entry.ratio >= entry.floor { "" } else { " (missed)" };
        let _ = writeln!(
            out,
            "| {} | {:.2} | {:.2} | {:.2}{mark} | {:.2} |",
            entry.name, entry.ours, entry.peer, entry.ratio, entry.floor
        );
    }
    out
}

/// The promised figures for programs.
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

fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("")
        .trim_matches([':', '\t', ' ']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_kib: u64 =
        memory.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?");
    format!(
        "Machine: {model}, {cores} cores, {} GiB memory, Linux {}; load {load} at the end of the run.",
        memory_kib >> 20,
        kernel.trim()
    )
}
