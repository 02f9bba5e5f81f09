//! The trees that are moved.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Makes one data set in a directory.
pub(crate) type Make = Box<dyn Fn(&Path) -> std::io::Result<()>>;

const PAGE: usize = 16 * 1024;

/// All data sets with their names; those of size 0 are left out.
pub(crate) fn sets(large_mib: u64, small_files: u64) -> Vec<(&'static str, Make)> {
    let mut sets: Vec<(&'static str, Make)> = Vec::new();
    if large_mib > 0 {
        sets.push(("large", Box::new(move |dir| large(dir, large_mib))));
    }
    if small_files > 0 {
        sets.push(("small", Box::new(move |dir| small(dir, small_files))));
    }
    sets
}

/// Four files like InnoDB's: pages of 16 KiB of which one half compresses well and the other not at all.
fn large(dir: &Path, mib: u64) -> std::io::Result<()> {
    for file in 0..4 {
        let mut out = File::create(dir.join(format!("table{file}.ibd")))?;
        let mut noise = Noise(0x1234_5678 + file);
        let mut page = vec![0; 64 * PAGE];
        for _ in 0..mib / 4 {
            for part in page.chunks_mut(PAGE) {
                noise.fill(&mut part[..PAGE / 2]);
                part[PAGE / 2..].fill(b'a');
            }
            out.write_all(&page)?;
        }
    }
    Ok(())
}

/// Many files of 4 to 20 kB in 20 directories.
fn small(dir: &Path, files: u64) -> std::io::Result<()> {
    let mut noise = Noise(42);
    let mut bytes = vec![0; 20_000];
    for number in 0..files {
        let sub = dir.join(format!("db{}", number % 20));
        if number < 20 {
            fs::create_dir(&sub)?;
        }
        let len = 4_000 + (noise.next() % 16_000) as usize;
        noise.fill(&mut bytes[..len]);
        fs::write(sub.join(format!("t{number}.MYD")), &bytes[..len])?;
    }
    Ok(())
}

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.next().to_le_bytes()[..part.len()]);
        }
    }
}
