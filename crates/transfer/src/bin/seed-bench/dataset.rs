//! The trees that are moved.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};

const PAGE: usize = 16 * 1024;
const MIB: u64 = 1 << 20;

/// What a tree is like.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Set {
    /// Four files like InnoDB's: pages of 16 KiB of which one half compresses well and the other not at all.
    Large { mib: u64 },
    /// Files of 4 to 20 kB in 20 directories.
    Small { files: u64 },
    /// Both, and some of middling size.
    Mix { mib: u64 },
    /// Files of which one part in 32 is data.
    Sparse { mib: u64 },
    /// Noise.
    Incompressible { mib: u64 },
    /// Rows of text and numbers.
    Compressible { mib: u64 },
    /// [`Set::Large`], and beside it what it was before one page of 20 changed.
    Changed { mib: u64 },
    /// Space that was given and never written: it costs no disk to read.
    Zeros { mib: u64 },
}

/// Makes a tree in `dir`; `old` takes the tree that a delta starts from.
pub(crate) fn make(set: Set, dir: &Path, old: &Path) -> std::io::Result<()> {
    match set {
        Set::Large { mib } => large(dir, mib, |_, _| {}),
        Set::Small { files } => small(dir, files),
        Set::Mix { mib } => {
            large(dir, mib / 2, |_, _| {})?;
            small(dir, mib * 16)?;
            let mut noise = Noise(7);
            for number in 0..mib / 8 {
                filled(&dir.join(format!("middle{number}.ibd")), MIB + number * 8192, |part| {
                    noise.fill(part);
                })?;
            }
            Ok(())
        }
        Set::Sparse { mib } => sparse(dir, mib),
        Set::Incompressible { mib } => {
            let mut noise = Noise(99);
            filled(&dir.join("noise.ibd"), mib * MIB, |part| noise.fill(part))
        }
        Set::Compressible { mib } => {
            let mut row = 0_u64;
            filled(&dir.join("rows.ibd"), mib * MIB, |part| {
                for line in part.chunks_mut(64) {
                    row += 1;
                    let text = format!(
                        "{row:012},customer {:05},paid,EUR {:08.2},shipped;",
                        row % 9973,
                        row as f64 / 7.0
                    );
                    let len = line.len().min(text.len());
                    line[..len].copy_from_slice(&text.as_bytes()[..len]);
                }
            })
        }
        Set::Changed { mib } => {
            fs::create_dir_all(old)?;
            large(old, mib, |_, _| {})?;
            large(dir, mib, |page, bytes| {
                if page % 20 == 0 {
                    bytes[100] ^= 1;
                }
            })
        }
        Set::Zeros { mib } => {
            let file = File::create(dir.join("zeros.ibd"))?;
            fallocate(&file, FallocateFlags::empty(), 0, (mib * MIB).cast_signed()).map_err(Into::into)
        }
    }
}

fn large(dir: &Path, mib: u64, mut change: impl FnMut(u64, &mut [u8])) -> std::io::Result<()> {
    for file in 0..4 {
        let mut noise = Noise(0x1234_5678 + file);
        let mut number = 0;
        filled(&dir.join(format!("table{file}.ibd")), mib / 4 * MIB, |part| {
            for page in part.chunks_mut(PAGE) {
                let half = page.len() / 2;
                noise.fill(&mut page[..half]);
                page[half..].fill(b'a');
                change(number, page);
                number += 1;
            }
        })?;
    }
    Ok(())
}

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

fn sparse(dir: &Path, mib: u64) -> std::io::Result<()> {
    let file = File::create(dir.join("sparse.ibd"))?;
    file.set_len(mib * MIB)?;
    let mut noise = Noise(5);
    let mut part = vec![0; MIB as usize];
    for at in (0..mib).step_by(32) {
        noise.fill(&mut part);
        file.write_all_at(&part, at * MIB)?;
    }
    Ok(())
}

/// A file of `len` bytes that `fill` makes part by part.
fn filled(path: &Path, len: u64, mut fill: impl FnMut(&mut [u8])) -> std::io::Result<()> {
    let mut out = File::create(path)?;
    let mut part = vec![0; MIB as usize];
    let mut left = len;
    while left > 0 {
        let part = &mut part[..left.min(MIB) as usize];
        fill(part);
        out.write_all(part)?;
        left -= part.len() as u64;
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
