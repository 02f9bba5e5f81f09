//! A file that is being received: written in its place, with the holes that it should have, over what was there before.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::{Error, Result, kernel};

/// Blocks of zeros of this size in sparse files are not written.
const HOLE_BLOCK: usize = 4096;
static ZEROS: [u8; HOLE_BLOCK] = [0; HOLE_BLOCK];

/// A file that is being written, shared by all connections that write to it.
pub(super) struct StagedFile {
    pub(super) file: File,
    pub(super) entry: u32,
    pub(super) path: PathBuf,
    /// Blocks of zeros are left out of it.
    pub(super) sparse: bool,
    pub(super) base: Base,
    /// Chunks that are not proven yet.
    pub(super) left: AtomicU32,
}

/// Where blocks that need not travel are taken from.
pub(super) enum Base {
    /// Nowhere: all travels.
    None,
    /// The file itself began as a clone of the old one.
    Own,
    /// The old file.
    Other(File),
}

impl StagedFile {
    /// Whether there is anything to take blocks from.
    pub(super) fn has_base(&self) -> bool {
        !matches!(self.base, Base::None)
    }

    /// Whether equal blocks are in place already.
    pub(super) fn is_own_base(&self) -> bool {
        matches!(self.base, Base::Own)
    }

    /// Reads what the old file has there; gives the number of bytes, fewer where it ends.
    pub(super) fn read_base(&self, buffer: &mut [u8], offset: u64) -> usize {
        let file = match &self.base {
            Base::None => return 0,
            Base::Own => &self.file,
            Base::Other(old) => old,
        };
        let mut done = 0;
        while done < buffer.len() {
            match file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(len @ 1..) => done += len,
                _ => break,
            }
        }
        done
    }

    /// Makes a range read as zeros, where zeros will be left out.
    pub(super) fn clear(&self, offset: u64, len: u32) -> Result<()> {
        if !self.sparse || self.is_own_base() {
            return Ok(());
        }
        self.zero(offset, u64::from(len)).map_err(Error::file("clear a range of", &self.path))
    }

    /// Makes a range within the file a hole, or zeros where the filesystem has no holes.
    pub(super) fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, mode, offset.cast_signed(), len.cast_signed()) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
            other => return other.map_err(io::Error::from),
        }
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let part = (end - at).min(HOLE_BLOCK as u64);
            self.file.write_all_at(&ZEROS[..part as usize], at)?;
            at += part;
        }
        Ok(())
    }

    /// Writes content in its place; in a sparse file, blocks of zeros stay holes, or become them.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let written = if self.sparse {
            self.write_sparse(bytes, offset)
        } else {
            self.file.write_all_at(bytes, offset)
        };
        written.map_err(Error::file("write", &self.path))
    }

    fn write_sparse(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            let (start, zeros) = (at, is_zero_block(bytes, at, offset));
            while at < bytes.len() && is_zero_block(bytes, at, offset) == zeros {
                at += block_at(bytes, at, offset).len();
            }
            let place = offset + start as u64;
            if !zeros {
                self.file.write_all_at(&bytes[start..at], place)?;
            } else if self.is_own_base() {
                // What lies there is the old file's.
                self.zero(place, (at - start) as u64)?;
            }
        }
        Ok(())
    }

    /// Has the kernel begin to write a range to disk.
    pub(super) fn start_writeback(&self, range: &Range<u64>) {
        kernel::start_writeback(&self.file, range.start, range.end - range.start);
    }
}

/// The part of `bytes`, which belong at `offset`, from `at` to the end of its block in the file.
fn block_at(bytes: &[u8], at: usize, offset: u64) -> &[u8] {
    let len = HOLE_BLOCK - (offset as usize + at) % HOLE_BLOCK;
    &bytes[at..(at + len).min(bytes.len())]
}

fn is_zero_block(bytes: &[u8], at: usize, offset: u64) -> bool {
    let block = block_at(bytes, at, offset);
    block == &ZEROS[..block.len()]
}
