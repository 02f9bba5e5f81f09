//! Turns samples into `docs/benchmarks.md`.

use std::fmt::Write as _;

use crate::claims::{judged, median};
use crate::lane::{Sample, Table};

const INTRODUCTION: &str = "# Benchmarks

Made by `make bench`: every contestant moves the same tree, both ends on one machine, in turn. Over loopback unless the lane
names a round trip: then between two network namespaces with a TUN device each, whose packets a program carries over late, at
200 Mbit/s, and not all of them (this needs no netem; both ends use the kernel's TCP with cubic, which a donor of ours leaves for bbr; *-cubic* stays).
Median (least–greatest). Wall time on disk runs until everything is written out, for all. CPU seconds are those of all
processes of an end. Only ratios mean anything; on a busy machine those of CPU time.

*seed* is plain TCP with digests, *seed-tls* what agents do unless told otherwise, *-auto*, *-lz4* and *-zstd* are its
compressions, *seed-delta* starts from an old tree. *seed-tls-relay* are ten recipients at once that hand on to one another (bytes: what the donor sends);
*-faults*: of the ten one is slow, one hands on false bytes and one dies, and the other seven count. *floor* is one connection, `sendfile` at one end, `recv`
and `write` at the other, and nothing else. `orchestrator-agent` runs the very same code. `make bench` takes some 10 minutes;
`cargo run --release -p transfer --bin seed-bench -- --quick`, `--lane TEXT` and `--only NAME,NAME` take less.
";

/// The whole report for people.
pub(crate) fn markdown(tables: &[Table], skipped: &[(&str, String)]) -> String {
    let mut out = format!("{INTRODUCTION}\n{}\n\n## Against what is promised\n\n", machine());
    let _ = writeln!(out, "| what | ours | peer | ratio | bound |\n| --- | --- | --- | --- | --- |");
    for entry in judged(tables) {
        let mark = if entry.kept { "" } else { " (missed)" };
        let _ = writeln!(
            out,
            "| {} | {:.2} | {:.2} | {:.2}{mark} | {:.2} |",
            entry.name.replace('|', "\\|"),
            entry.ours,
            entry.peer,
            entry.ratio,
            entry.floor
        );
    }
    for table in tables {
        lane(&mut out, table);
    }
    for (name, why) in skipped {
        let _ = writeln!(out, "\n## {name}\n\nSkipped, because {why}.");
    }
    out
}

fn lane(out: &mut String, table: &Table) {
    let _ = writeln!(out, "\n## {} ({} MiB)\n", table.name, table.bytes >> 20);
    let _ = writeln!(
        out,
        "| | wall s | MiB/s | × tar\\|nc | CPU s donor + recipient | CPU: tar\\|nc ÷ this | MiB on the wire | peak MiB donor, recipient |"
    );
    let _ = writeln!(out, "| --- | --- | --- | --- | --- | --- | --- | --- |");
    let base = table.rows.iter().find(|(name, _)| *name == "tar-nc");
    let base = base.and_then(|(_, samples)| Some((of(samples, |s| s.wall_s)?.1, of(samples, cpu)?.1)));
    for (name, samples) in &table.rows {
        let Some((least, wall, greatest)) = of(samples, |sample| sample.wall_s) else { continue };
        let (_, donor, _) = of(samples, |sample| sample.used.donor_cpu_s).unwrap_or_default();
        let (_, recipient, _) = of(samples, |sample| sample.used.recipient_cpu_s).unwrap_or_default();
        let (least_cpu, cpu_s, greatest_cpu) = of(samples, cpu).unwrap_or_default();
        let against =
            |base: Option<f64>, ours: f64| base.map_or(String::new(), |base| format!("{:.2}", base / ours));
        let peaks = samples.iter().filter_map(|sample| sample.used.peak_kib);
        let peak = peaks.reduce(|most, peak| (most.0.max(peak.0), most.1.max(peak.1)));
        let wire = samples.iter().find_map(|sample| sample.used.wire);
        let _ = writeln!(
            out,
            "| {name} | {wall:.2} ({least:.2}–{greatest:.2}) | {:.0} | {} | {donor:.2} + {recipient:.2} ({least_cpu:.2}–{greatest_cpu:.2}) | {} | {} | {} |",
            table.bytes as f64 / wall / (1 << 20) as f64,
            against(base.map(|base| base.0), wall),
            against(base.map(|base| base.1), cpu_s),
            wire.map_or(String::new(), |bytes| (bytes >> 20).to_string()),
            peak.map_or(String::new(), |peak| format!("{}, {}", peak.0 >> 10, peak.1 >> 10)),
        );
    }
}

fn cpu(sample: &Sample) -> f64 {
    sample.used.donor_cpu_s + sample.used.recipient_cpu_s
}

fn of(samples: &[Sample], what: impl Fn(&Sample) -> f64) -> Option<(f64, f64, f64)> {
    median(samples.iter().map(what).collect())
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    let model = model.trim_matches([':', '\t', ' ']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo");
    let memory_kib: u64 =
        memory.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    format!(
        "Machine: {model}, {cores} cores, {} GiB memory, Linux {}; load {} at the end of the run.",
        memory_kib >> 20,
        kernel.trim(),
        load.split_whitespace().next().unwrap_or("?")
    )
}
