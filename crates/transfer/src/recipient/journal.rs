//! What is proven, on disk: survives the death of the process and of the machine.
//!
//! Layout: a head of [`HEAD_LEN`] bytes (magic, session, manifest digest, digest kind, check), then one record of
//! [`RECORD_LEN`] bytes per proven chunk (number, digest, check). Records are appended after the chunk's data is on disk. A torn
//! tail, or anything else that does not check, ends the replay and is cut off.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::digest::{ChunkDigest, DigestKind};
use crate::frame::{le_u32, le_u64};
use crate::{Error, Manifest, Result};

const MAGIC: &[u8; 8] = b"OAJRNL1\n";
const HEAD_LEN: usize = 72;
const RECORD_LEN: usize = 24;

/// An open journal, positioned at its end.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    /// Names this recipient to the donor, also after a restart.
    pub(crate) session: [u8; 16],
    /// There was no journal before.
    pub(super) fresh: bool,
    /// What the records are about; `None` until a manifest was bound.
    bound: Option<([u8; 32], DigestKind)>,
    seed: u64,
    batch: Vec<u8>,
}

impl Journal {
    /// Opens the journal at `path`, or makes a new one with a fresh session.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(Error::file("open the journal", path))?;
        let mut head = [0; HEAD_LEN];
        let known = match file.read_exact(&mut head) {
            Ok(()) => decode_head(&head),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(Error::file("read the journal", path)(error)),
        };
        let (session, bound) = known.unwrap_or_else(|| (rand::random(), None));
        let mut journal = Self {
            file,
            path: path.to_owned(),
            session,
            fresh: known.is_none(),
            bound,
            seed: 0,
            batch: Vec::new(),
        };
        if known.is_none() {
            journal.write_head()?;
            if let Some(dir) = path.parent() {
                let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
                let synced = File::open(dir).and_then(|dir| dir.sync_all());
                synced.map_err(Error::file("flush the directory", dir))?;
            }
        }
        Ok(journal)
    }

    /// Makes the journal one about `manifest`, and calls `proven` for what it says about it. A journal about another tree starts
    /// anew, under the same session; the result says whether it went on.
    pub(crate) fn bind(
        &mut self,
        manifest: &Manifest,
        kind: DigestKind,
        mut proven: impl FnMut(u32, ChunkDigest),
    ) -> Result<bool> {
        self.seed = le_u64(&manifest.digest()[..8]);
        if self.bound != Some((*manifest.digest(), kind)) {
            self.bound = Some((*manifest.digest(), kind));
            self.write_head()?;
            return Ok(false);
        }
        let mut reader = BufReader::with_capacity(64 * 1024, &self.file);
        let mut record = [0; RECORD_LEN];
        let mut good = HEAD_LEN as u64;
        while reader.read_exact(&mut record).is_ok() {
            let Some((chunk, digest)) = decode_record(&record, self.seed) else { break };
            if manifest.locate(chunk).is_none() {
                break;
            }
            proven(chunk, digest);
            good += RECORD_LEN as u64;
        }
        let cut = || -> io::Result<()> {
            self.file.set_len(good)?;
            io::Seek::seek(&mut &self.file, io::SeekFrom::Start(good))?;
            Ok(())
        };
        cut().map_err(Error::file("cut the journal", &self.path))?;
        Ok(true)
    }

    /// Appends what is proven. The chunks' data must be on disk if `durable`.
    pub(crate) fn append(&mut self, chunks: &[(u32, ChunkDigest)], durable: bool) -> Result<()> {
        self.batch.clear();
        for &(chunk, digest) in chunks {
            self.batch.extend_from_slice(&encode_record(chunk, digest, self.seed));
        }
        let written = self
            .file
            .write_all(&self.batch)
            .and_then(|()| if durable { self.file.sync_data() } else { Ok(()) });
        written.map_err(Error::file("write the journal", &self.path))
    }

    fn write_head(&mut self) -> Result<()> {
        let (manifest, kind) = self.bound.map_or(([0; 32], 0), |(manifest, kind)| (manifest, kind as u8));
        let mut head = [0; HEAD_LEN];
        head[..8].copy_from_slice(MAGIC);
        head[8..24].copy_from_slice(&self.session);
        head[24..56].copy_from_slice(&manifest);
        head[56] = kind;
        let check = xxh3_64_with_seed(&head[..64], 0);
        head[64..].copy_from_slice(&check.to_le_bytes());
        let write = || -> io::Result<()> {
            self.file.set_len(0)?;
            self.file.write_all_at(&head, 0)?;
            io::Seek::seek(&mut &self.file, io::SeekFrom::Start(HEAD_LEN as u64))?;
            self.file.sync_all()
        };
        write().map_err(Error::file("write the journal", &self.path))
    }
}

type Head = ([u8; 16], Option<([u8; 32], DigestKind)>);

fn decode_head(head: &[u8; HEAD_LEN]) -> Option<Head> {
    if &head[..8] != MAGIC || xxh3_64_with_seed(&head[..64], 0) != le_u64(&head[64..]) {
        return None;
    }
    let mut session = [0; 16];
    session.copy_from_slice(&head[8..24]);
    let mut manifest = [0; 32];
    manifest.copy_from_slice(&head[24..56]);
    Some((session, DigestKind::from_u8(head[56]).map(|kind| (manifest, kind))))
}

fn encode_record(chunk: u32, digest: ChunkDigest, seed: u64) -> [u8; RECORD_LEN] {
    let mut record = [0; RECORD_LEN];
    record[..4].copy_from_slice(&chunk.to_le_bytes());
    record[4..20].copy_from_slice(&digest);
    let check = xxh3_64_with_seed(&record[..20], seed) as u32;
    record[20..].copy_from_slice(&check.to_le_bytes());
    record
}

fn decode_record(record: &[u8; RECORD_LEN], seed: u64) -> Option<(u32, ChunkDigest)> {
    if xxh3_64_with_seed(&record[..20], seed) as u32 != le_u32(&record[20..]) {
        return None;
    }
    let mut digest = [0; 16];
    digest.copy_from_slice(&record[4..20]);
    Some((le_u32(&record[..4]), digest))
}
