//! Records in an append-only file: length, CRC-32C, payload. A torn end is seen and cut off.

/// Bytes before each payload.
pub(crate) const HEADER_BYTES: usize = 8;
/// A longer record is damage, not data.
const MAX_PAYLOAD_BYTES: usize = 16 << 20;

/// Appends one record to `buffer`.
pub(crate) fn push(buffer: &mut Vec<u8>, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    buffer.extend_from_slice(payload);
}

/// The payload of the record at the start of `bytes`; `None` at the end or where it is torn or damaged.
pub(crate) fn first(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_PAYLOAD_BYTES {
        return None;
    }
    let payload = rest.get(..length)?;
    (crc32c::crc32c(payload) == u32::from_le_bytes(*crc)).then_some(payload)
}

/// All records up to the first damage.
pub(crate) fn all(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let payload = first(rest)?;
        rest = rest.get(HEADER_BYTES + payload.len()..)?;
        Some(payload)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_a_torn_or_damaged_end_is_left_out() {
        let mut file = Vec::new();
        push(&mut file, b"one");
        push(&mut file, b"");
        push(&mut file, b"three");
        assert_eq!(all(&file).collect::<Vec<_>>(), [&b"one"[..], b"", b"three"]);
        for cut in 1..=5 {
            assert_eq!(all(&file[..file.len() - cut]).count(), 2, "cut {cut}");
        }
        let last = file.len() - 1;
        file[last] ^= 1;
        assert_eq!(all(&file).count(), 2);
        assert_eq!(all(&[0xff; 64]).count(), 0);
    }

    #[test]
    fn fuzz_frames_on_disk() {
        let mut sample = Vec::new();
        push(&mut sample, b"{\"an\":\"event\"}");
        push(&mut sample, b"");
        testkit::fuzz::run("spool", &[sample], 5000, |bytes| {
            let mut again = Vec::new();
            all(bytes).for_each(|payload| push(&mut again, payload));
            assert!(bytes.starts_with(&again), "what is read is what was written");
        });
    }
}
