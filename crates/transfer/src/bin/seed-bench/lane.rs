//! A data set on a filesystem, at the ends of a way, and who moves it how often.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::contest::{Contestant, Ground, Used};
use crate::dataset::{self, Set};
use crate::neighbour::Neighbour;
use crate::process::{Outcome, failed};
use crate::way::{Link, Way};

/// One lane of the benchmark.
pub(crate) struct Lane {
    pub(crate) name: &'static str,
    pub(crate) set: Set,
    pub(crate) place: Place,
    /// `None`: loopback.
    pub(crate) link: Option<Link>,
    pub(crate) contestants: Vec<Contestant>,
    pub(crate) rounds: usize,
    /// A data set that is neither read before each run nor compared after it: it is too large for that.
    pub(crate) huge: bool,
}

/// On what the trees lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Tmpfs,
    Disk,
}

/// One run's figures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) wall_s: f64,
    pub(crate) used: Used,
    /// How much of a file that is in use meanwhile was not pushed out of the page cache, from 0 to 1.
    pub(crate) still_cached: Option<f64>,
}

/// All figures of one lane.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) bytes: u64,
    pub(crate) rows: Vec<(&'static str, Vec<Sample>)>,
}

/// The directories of a lane; gone when dropped.
struct Field {
    dir: PathBuf,
}

impl Drop for Field {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Field {
    fn make(parent: &Path) -> Outcome<Self> {
        let dir = parent.join(format!("seed-bench-{}", std::process::id()));
        let field = Self { dir };
        fs::create_dir_all(field.root()).map_err(failed("cannot make the lane's directory"))?;
        Ok(field)
    }

    fn root(&self) -> PathBuf {
        self.dir.join("field")
    }
}

impl Lane {
    /// Runs all contestants in turn.
    pub(crate) fn run(&self, tmpfs: &Path, disk: &Path, only: &[String]) -> Outcome<Table> {
        let parent = if self.place == Place::Tmpfs { tmpfs } else { disk };
        let field = Field::make(parent)?;
        let (source, old) = (field.root().join("source"), field.root().join("old"));
        fs::create_dir_all(&source).map_err(failed("cannot make the source"))?;
        dataset::make(self.set, &source, &old).map_err(failed("cannot make the data set"))?;
        let way = match self.link {
            Some(link) => Way::long(link, &field.dir)?,
            None => Way::loopback(),
        };
        let ground = Ground {
            dir: &field.dir,
            source: &source,
            old: &old,
            target: &field.root().join("target"),
            on_disk: self.place != Place::Tmpfs,
            way: &way,
        };
        let bytes = if self.huge { size_of(&source)? } else { read_all(&source)? };
        let chosen: Vec<Contestant> = self
            .contestants
            .iter()
            .copied()
            .filter(|one| only.is_empty() || only.iter().any(|name| name == one.name()))
            .collect();
        let mut rows: Vec<(&'static str, Vec<Sample>)> =
            chosen.iter().map(|contestant| (contestant.name(), Vec::new())).collect();
        if !self.huge && !way.is_long() {
            // A round that does not count: it makes the system find its memory.
            self.once(chosen.first().copied().unwrap_or(Contestant::TarNc), &ground, bytes)?;
        }
        for round in 0..self.rounds {
            for (contestant, row) in chosen.iter().zip(&mut rows) {
                let sample = self.once(*contestant, &ground, bytes)?;
                eprintln!(
                    "{}: round {round} {:<14} {:>7.2} s {:>6.2} + {:>5.2} CPU s {:>6.0} MiB/s",
                    self.name,
                    contestant.name(),
                    sample.wall_s,
                    sample.used.donor_cpu_s,
                    sample.used.recipient_cpu_s,
                    bytes as f64 / sample.wall_s / (1 << 20) as f64
                );
                row.1.push(sample);
            }
        }
        Ok(Table { name: self.name, bytes, rows })
    }

    fn once(&self, contestant: Contestant, ground: &Ground<'_>, bytes: u64) -> Outcome<Sample> {
        let _ = fs::remove_dir_all(ground.target);
        let _ = fs::remove_file(ground.target.with_extension("journal"));
        fs::create_dir(ground.target).map_err(failed("cannot make the target"))?;
        if ground.on_disk {
            sync(ground)?;
        }
        let neighbour = self.huge.then(|| Neighbour::make(ground.dir)).transpose()?;
        if !self.huge {
            read_all(ground.source)?;
        }
        let started = Instant::now();
        let used = contestant.run(ground)?;
        if ground.on_disk {
            sync(ground)?;
        }
        let wall_s = started.elapsed().as_secs_f64();
        let arrived = if self.huge { size_of(ground.target)? } else { read_all(ground.target)? };
        // A contestant that lost something has not run.
        let wanted = bytes * contestant.copies();
        if arrived != wanted {
            return Err(format!("{arrived} of {wanted} bytes arrived"));
        }
        Ok(Sample { wall_s, used, still_cached: neighbour.and_then(Neighbour::still_cached) })
    }
}

fn sync(ground: &Ground<'_>) -> Outcome<()> {
    let dir = File::open(ground.target).map_err(failed("cannot open the target"))?;
    nix::unistd::syncfs(&dir).map_err(failed("cannot flush the filesystem"))
}

/// Reads everything once, so that each run finds the same page cache. Gives the number of bytes.
fn read_all(root: &Path) -> Outcome<u64> {
    let mut buffer = vec![0; 1 << 20];
    walk(root, &mut |path| {
        let mut file = File::open(path)?;
        let mut bytes = 0;
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(bytes),
                len => bytes += len as u64,
            }
        }
    })
}

fn size_of(root: &Path) -> Outcome<u64> {
    walk(root, &mut |path| Ok(fs::metadata(path)?.len()))
}

fn walk(root: &Path, each: &mut impl FnMut(&Path) -> std::io::Result<u64>) -> Outcome<u64> {
    let mut sum = 0;
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).map_err(failed("cannot read a tree"))? {
            let entry = entry.map_err(failed("cannot read a tree"))?;
            if entry.path().is_dir() {
                dirs.push(entry.path());
            } else {
                sum += each(&entry.path()).map_err(failed("cannot read a tree"))?;
            }
        }
    }
    Ok(sum)
}
