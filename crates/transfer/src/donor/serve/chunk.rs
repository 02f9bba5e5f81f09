//! Sends a chunk: whole, packed, or as the difference to what the recipient has.

use std::path::Path;

use super::{Serving, Wanted};
use crate::delta::{changed_blocks, ranges};
use crate::donor::source::SourceFile;
use crate::donor::state::Shared;
use crate::frame::{DELTA_BLOCK, DELTA_SET_LEN, Header, PIECE_HEADER_LEN, PIECE_MAX, Piece, PieceKind, kind};
use crate::{Error, Manifest, Result};

impl Serving<'_> {
    pub(super) fn send_chunk(&mut self, wanted: &Wanted) -> Result<()> {
        let chunk = wanted.chunk;
        let manifest = self.manifest()?;
        let place =
            manifest.locate(chunk).ok_or(Error::Protocol("a question for a chunk that does not exist"))?;
        self.open(&manifest, place.entry)?;
        let header = Header { chunk, value: u64::from(place.len), ..Header::new(kind::CHUNK) };
        self.link.queue(&header.encode())?;
        self.in_chunk = true;
        if let Some(next) = self.pending.front()
            && let Some(next) = manifest.locate(next.chunk).filter(|next| next.entry == place.entry)
            && let Some(file) = &self.file
        {
            manifest.runs(&next).for_each(|run| file.read_ahead(&run));
        }
        let mut sent = 0;
        // A piece lies in one place of its file.
        for run in manifest.runs(&place) {
            let mut at = run.start;
            while at < run.end {
                let len = self.await_leave((run.end - at) as usize)?;
                match &wanted.blocks {
                    None if self.guest.packer.as_mut().is_some_and(|packer| packer.wants(len)) => {
                        self.send_packed(at, len)?;
                    }
                    None => self.send_piece(at, len)?,
                    Some(blocks) => {
                        let theirs = blocks.get(sent / DELTA_BLOCK * 8..).unwrap_or(&[]);
                        self.send_difference(at, len, theirs)?;
                    }
                }
                sent += len;
                at += len as u64;
            }
        }
        let digest = self.hasher.finish();
        self.link.queue(&digest)?;
        self.in_chunk = false;
        self.shared.note_digest(chunk, digest, place.len);
        if let Some(file) = &mut self.file {
            manifest.runs(&place).for_each(|run| file.drop_behind(run, &self.reader));
        }
        Ok(())
    }

    /// Waits until the next piece may go: how long it is. Under a limit what is collected leaves before, for a recipient gives a
    /// connection up that is silent for ten seconds, and with it what has come of a chunk.
    fn await_leave(&mut self, rest: usize) -> Result<usize> {
        let throttle = &self.shared.options.throttle;
        let mut len = PIECE_MAX.min(rest);
        if throttle.bytes_per_s() != 0 {
            self.link.flush(false)?;
            len = throttle.piece_len(self.shared.connections(), PIECE_MAX).min(rest);
            throttle.acquire(len, &self.shared.cancel);
        }
        // A chunk may take long: a snapshot that was lost meanwhile is told now.
        match self.shared.failure() {
            Some(text) => Err(Error::DonorFailed(text.to_string())),
            None => Ok(len),
        }
    }

    /// Reads a piece straight into the send buffer and digests it there: what is proven is what is sent.
    ///
    /// `sendfile` was measured against this and lost by a tenth of both ends' CPU time: the digest needs the bytes in the
    /// processor's cache anyway, from where the copy into the socket costs less than handing over page by page, and the other end
    /// then reads from that warm copy instead of cold page cache.
    fn send_piece(&mut self, offset: u64, len: usize) -> Result<()> {
        let Some(file) = &self.file else { return Err(Error::Protocol("no file is open")) };
        let (hasher, shared, manifest) = (&mut self.hasher, self.shared, self.manifest.as_deref());
        self.link.reserve(PIECE_HEADER_LEN + len)?;
        self.link.queue(&Piece::raw(len).encode())?;
        let read = self.link.queue_with(len, |buffer| {
            file.read(buffer, offset)?;
            hasher.update(buffer);
            check_pages(shared, manifest, file, buffer, offset)
        });
        if read.is_err() {
            self.link.unqueue(PIECE_HEADER_LEN);
        }
        read
    }

    /// As [`Self::send_piece`], but smaller, if it gets smaller.
    fn send_packed(&mut self, offset: u64, len: usize) -> Result<()> {
        let Some(file) = &self.file else { return Err(Error::Protocol("no file is open")) };
        let piece = &mut self.scratch[..len];
        file.read(piece, offset)?;
        self.hasher.update(piece);
        check_pages(self.shared, self.manifest.as_deref(), file, piece, offset)?;
        let packed = self.guest.packer.as_mut().and_then(|packer| packer.pack(piece));
        let (kind, bytes) = packed.unwrap_or((PieceKind::Raw, piece));
        self.link.reserve(PIECE_HEADER_LEN + bytes.len())?;
        self.link.queue(&Piece { kind, raw_len: len, wire_len: bytes.len() }.encode())?;
        self.link.queue(bytes)
    }

    /// As [`Self::send_piece`], but only the blocks that the recipient does not have.
    fn send_difference(&mut self, offset: u64, len: usize, theirs: &[u8]) -> Result<()> {
        let Some(file) = &self.file else { return Err(Error::Protocol("no file is open")) };
        let piece = &mut self.scratch[..len];
        file.read(piece, offset)?;
        self.hasher.update(piece);
        check_pages(self.shared, self.manifest.as_deref(), file, piece, offset)?;
        let set = changed_blocks(piece, theirs);
        let changed: usize = ranges(set, len).map(|range| range.len()).sum();
        let header = Piece { kind: PieceKind::Delta, raw_len: len, wire_len: DELTA_SET_LEN + changed };
        self.link.queue(&header.encode())?;
        self.link.queue(&set.to_le_bytes())?;
        ranges(set, len).try_for_each(|range| self.link.queue(&piece[range]))
    }
}

/// Has the pages of a piece checked, where the file has pages.
fn check_pages(
    shared: &Shared,
    manifest: Option<&Manifest>,
    file: &SourceFile,
    piece: &[u8],
    offset: u64,
) -> Result<()> {
    let mut from = 0;
    while let Some(page) = file.bad_page(piece, offset, from) {
        let path = manifest.map_or(Path::new(""), |manifest| manifest.entry(file.entry).path);
        shared.note_bad_page(path, page)?;
        from = page + 1;
    }
    Ok(())
}
