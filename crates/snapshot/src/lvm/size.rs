//! How large the store of a classic snapshot becomes. Pure.

use super::parse::Vg;
use crate::Error;
use crate::provider::SizePolicy;

/// The kernel's unit of copy-on-write as `lvcreate` chooses it.
const CHUNK_BYTES: u64 = 4096;
/// Exceptions described by one chunk of the store's own tables.
const EXCEPTIONS_PER_CHUNK: u64 = CHUNK_BYTES / 16;

/// The number of extents for a store by this policy.
///
/// LVM cuts a store silently where the group has too little room, and the snapshot then overflows sooner than anyone expects: so too little
/// room is refused here. A store that could hold the whole origin is the largest that has a use; LVM cuts to it as well.
pub(crate) fn classic_extents(
    policy: SizePolicy,
    min_bytes: u64,
    origin_bytes: u64,
    group: &str,
    vg: &Vg,
) -> Result<u64, Error> {
    let wanted = match policy {
        SizePolicy::OriginPercent(percent) => share(origin_bytes, percent),
        SizePolicy::FreePercent(percent) => share(vg.free_bytes, percent),
        SizePolicy::FixedBytes(bytes) => bytes,
    };
    let wanted = wanted.max(min_bytes).min(largest_useful(origin_bytes));
    let extents = wanted.div_ceil(vg.extent_bytes).max(1);
    let needed_bytes = extents.saturating_mul(vg.extent_bytes);
    if needed_bytes > vg.free_bytes {
        return Err(Error::NoSpace {
            place: format!("volume group {group}"),
            needed_bytes,
            free_bytes: vg.free_bytes,
            advice: "remove a snapshot, extend the group, or set a smaller `size`",
        });
    }
    Ok(extents)
}

/// Room for a copy of every chunk and the tables about them; more is never used.
fn largest_useful(origin_bytes: u64) -> u64 {
    let chunks = origin_bytes.div_ceil(CHUNK_BYTES);
    (chunks + chunks.div_ceil(EXCEPTIONS_PER_CHUNK) + 2).saturating_mul(CHUNK_BYTES)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a policy in percent needs no exact bytes; the cast saturates"
)]
fn share(bytes: u64, percent: f64) -> u64 {
    (bytes as f64 * percent / 100.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENT: u64 = 4 << 20;

    fn extents(policy: SizePolicy, origin: u64, free: u64) -> Result<u64, Error> {
        classic_extents(policy, 8 << 20, origin, "vg0", &Vg { free_bytes: free, extent_bytes: EXTENT })
    }

    #[test]
    fn each_policy_is_rounded_up_to_extents() {
        assert_eq!(extents(SizePolicy::OriginPercent(20.0), 64 << 20, 1 << 30).unwrap(), 4);
        assert_eq!(extents(SizePolicy::FreePercent(50.0), 1 << 30, 64 << 20).unwrap(), 8);
        assert_eq!(extents(SizePolicy::FixedBytes((8 << 20) + 1), 1 << 30, 1 << 30).unwrap(), 3);
        assert_eq!(
            extents(SizePolicy::OriginPercent(0.0), 1 << 30, 1 << 30).unwrap(),
            2,
            "the smallest that is accepted"
        );
    }

    #[test]
    fn the_largest_store_is_the_one_that_lvm_itself_cuts_to() {
        // lvcreate-snapshot-larger-than-free-space-is-reduced: 9 GiB asked of a 640 MiB origin gave 644 MiB.
        assert_eq!(
            extents(SizePolicy::FixedBytes(9 << 30), 640 << 20, 16 << 30).unwrap() * EXTENT,
            644 << 20
        );
    }

    #[test]
    fn too_little_room_is_refused_with_both_figures() {
        let error = extents(SizePolicy::OriginPercent(50.0), 1 << 30, 100 << 20).unwrap_err();
        assert!(
            matches!(error, Error::NoSpace { needed_bytes: 536_870_912, free_bytes: 104_857_600, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("vg0"));
    }
}
