//! What LVM's reports say. Total: no output makes it panic, and a field that it does not understand makes a volume unknown, never valid.

use jiff::Timestamp;
use protocol::snapshot::Validity;
use serde::Deserialize;

use crate::Error;

/// One logical volume.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lv {
    pub(crate) group: String,
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) uuid: String,
    /// Ten flags, for example `swi-a-s---`.
    pub(crate) attr: String,
    pub(crate) role: String,
    pub(crate) data_percent: Option<f64>,
    pub(crate) metadata_percent: Option<f64>,
    pub(crate) origin: Option<String>,
    pub(crate) pool: Option<String>,
    pub(crate) snapshot_invalid: String,
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) size_bytes: u64,
    pub(crate) tags: Vec<String>,
    pub(crate) device: Option<(u32, u32)>,
}

/// Free room of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vg {
    pub(crate) free_bytes: u64,
    pub(crate) extent_bytes: u64,
}

#[derive(Deserialize)]
struct Report<T> {
    report: Vec<T>,
}

#[derive(Deserialize)]
struct LvSection {
    #[serde(default)]
    lv: Vec<RawLv>,
}

#[derive(Deserialize)]
struct VgSection {
    #[serde(default)]
    vg: Vec<RawVg>,
}

/// LVM prints every value as text.
#[derive(Deserialize)]
struct RawLv {
    lv_name: String,
    #[serde(default)]
    vg_name: String,
    #[serde(default)]
    lv_path: String,
    #[serde(default)]
    lv_uuid: String,
    #[serde(default)]
    lv_attr: String,
    #[serde(default)]
    lv_role: String,
    #[serde(default)]
    snap_percent: String,
    #[serde(default)]
    data_percent: String,
    #[serde(default)]
    metadata_percent: String,
    #[serde(default)]
    origin: String,
    #[serde(default)]
    pool_lv: String,
    #[serde(default)]
    lv_snapshot_invalid: String,
    #[serde(default)]
    lv_time: String,
    #[serde(default)]
    lv_size: String,
    #[serde(default)]
    lv_tags: String,
    #[serde(default)]
    lv_kernel_major: String,
    #[serde(default)]
    lv_kernel_minor: String,
}

#[derive(Deserialize)]
struct RawVg {
    #[serde(default)]
    vg_free: String,
    #[serde(default)]
    vg_extent_size: String,
}

/// Reads the output of `lvs --reportformat json --units b --nosuffix`.
pub(crate) fn lvs(output: &[u8]) -> Result<Vec<Lv>, Error> {
    let report: Report<LvSection> = serde_json::from_slice(output).map_err(|e| unreadable("lvs", &e))?;
    Ok(report.report.into_iter().flat_map(|s| s.lv).map(Lv::from).collect())
}

/// Reads the output of `vgs` for one group; `None` when it is not there.
pub(crate) fn vgs(output: &[u8]) -> Result<Option<Vg>, Error> {
    let report: Report<VgSection> = serde_json::from_slice(output).map_err(|e| unreadable("vgs", &e))?;
    let Some(raw) = report.report.into_iter().flat_map(|s| s.vg).next() else { return Ok(None) };
    match (raw.vg_free.parse(), raw.vg_extent_size.parse()) {
        (Ok(free_bytes), Ok(extent_bytes)) if extent_bytes > 0 => Ok(Some(Vg { free_bytes, extent_bytes })),
        _ => {
            Err(Error::ToolOutput { program: "vgs".to_owned(), detail: "sizes are not in bytes".to_owned() })
        }
    }
}

fn unreadable(program: &str, error: &serde_json::Error) -> Error {
    Error::ToolOutput { program: program.to_owned(), detail: error.to_string() }
}

impl From<RawLv> for Lv {
    fn from(raw: RawLv) -> Self {
        let text = |t: String| Some(t).filter(|t| !t.is_empty());
        let percent = |t: &str| t.parse::<f64>().ok().filter(|p| p.is_finite());
        let device = raw.lv_kernel_major.parse().ok().zip(raw.lv_kernel_minor.parse().ok());
        Self {
            group: raw.vg_name,
            name: raw.lv_name,
            path: raw.lv_path,
            uuid: raw.lv_uuid,
            data_percent: percent(&raw.snap_percent).or_else(|| percent(&raw.data_percent)),
            metadata_percent: percent(&raw.metadata_percent),
            attr: raw.lv_attr,
            role: raw.lv_role,
            origin: text(raw.origin),
            pool: text(raw.pool_lv),
            snapshot_invalid: raw.lv_snapshot_invalid,
            created_at: read_time(&raw.lv_time),
            size_bytes: raw.lv_size.parse().unwrap_or(0),
            tags: raw.lv_tags.split(',').filter(|t| !t.is_empty()).map(str::to_owned).collect(),
            device,
        }
    }
}

/// Seconds since 1970 as we ask for them, or `2026-11-22 20:41:56 +0000` as LVM prints by itself.
fn read_time(text: &str) -> Option<Timestamp> {
    if let Ok(seconds) = text.parse() {
        return Timestamp::from_second(seconds).ok();
    }
    Timestamp::strptime("%Y-%m-%d %H:%M:%S %z", text).ok()
}

impl Lv {
    /// `vg/lv`, as LVM takes it.
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }

    /// One of the ten flags; `-` where there is none.
    fn flag(&self, at: usize) -> u8 {
        self.attr.as_bytes().get(at).copied().unwrap_or(b'-')
    }

    /// A classic snapshot with its own store.
    pub(crate) fn is_classic_snapshot(&self) -> bool {
        matches!(self.flag(0), b's' | b'S') && self.origin.is_some()
    }

    /// A snapshot of a thin volume.
    pub(crate) fn is_thin_snapshot(&self) -> bool {
        // A thin volume may also have an external origin, without being its snapshot in the pool.
        self.is_thin() && self.origin.is_some() && self.role.split(',').any(|r| r == "thinsnapshot")
    }

    /// A volume in a thin pool.
    pub(crate) fn is_thin(&self) -> bool {
        self.flag(0) == b'V'
    }

    pub(crate) fn is_snapshot(&self) -> bool {
        self.is_classic_snapshot() || self.is_thin_snapshot()
    }

    pub(crate) fn is_read_only(&self) -> bool {
        matches!(self.flag(1), b'r' | b'R')
    }

    pub(crate) fn is_active(&self) -> bool {
        matches!(self.flag(4), b'a' | b'I')
    }

    /// Whether the frozen data can be read. Full is not invalid: a classic store can be 100 % full and whole.
    pub(crate) fn validity(&self) -> Validity {
        let state = self.flag(4);
        if self.snapshot_invalid == "snapshot invalid" || matches!(state, b'I' | b'S') {
            return Validity::Invalid("its copy-on-write store overflowed".to_owned());
        }
        if matches!(state, b'm' | b'M') {
            return Validity::Invalid("merging it into its origin failed".to_owned());
        }
        match self.flag(8) {
            b'F' => return Validity::Invalid("its thin pool failed".to_owned()),
            b'p' => return Validity::Unknown("a physical volume of it is missing".to_owned()),
            b'X' => return Validity::Unknown("LVM cannot tell its health".to_owned()),
            _ => {}
        }
        match state {
            b'a' if self.is_thin() || self.snapshot_invalid.is_empty() => Validity::Valid,
            b'a' => Validity::Unknown(format!("LVM says {:?} of it", self.snapshot_invalid)),
            b's' => Validity::Unknown("it is suspended".to_owned()),
            _ => Validity::Unknown("it is not active".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    fn golden(name: &str) -> Vec<u8> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/lvm").join(name);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    fn lv(file: &str, name: &str) -> Lv {
        let found = lvs(&golden(file)).unwrap().into_iter().find(|l| l.name == name);
        found.unwrap_or_else(|| panic!("{file} has no {name}"))
    }

    #[test]
    fn every_state_is_told_apart() {
        let invalid = Validity::Invalid("its copy-on-write store overflowed".to_owned());
        let inactive = Validity::Unknown("it is not active".to_owned());
        for (file, name, expected) in [
            ("lvs-thick-snapshot-healthy-with-tags.bytes.json", "snap1", Validity::Valid),
            ("lvs-thick-snapshot-100-percent-full-but-still-valid.bytes.json", "full", Validity::Valid),
            ("lvs-thick-snapshot-nearly-full-8-sectors-left.bytes.json", "full", Validity::Valid),
            ("lvs-thick-snapshot-just-invalid.bytes.json", "full", invalid.clone()),
            ("lvs-thick-snapshot-invalid-mounted.bytes.json", "tiny", invalid.clone()),
            (
                "lvs-thick-snapshot-invalid-just-after-dmeventd-unmounted-it.bytes.json",
                "tiny",
                invalid.clone(),
            ),
            ("lvs-origin-and-invalid-snapshot-reactivated.bytes.json", "full", invalid),
            ("lvs-origin-and-invalid-snapshot-inactive.bytes.json", "full", inactive.clone()),
            ("lvs-healthy-snapshot-inactive.bytes.json", "h", inactive.clone()),
            ("lvs-thick-snapshot-readonly.bytes.json", "snapro", Validity::Valid),
            ("lvs-thin-snapshot-inactive-default.bytes.json", "thinsnap", inactive),
            ("lvs-thin-snapshot-active.bytes.json", "thinsnap", Validity::Valid),
            ("lvs-thin-pool-full.bytes.json", "thinsnap", Validity::Valid),
        ] {
            assert_eq!(lv(file, name).validity(), expected, "{file}: {name}");
        }
    }

    #[test]
    fn snapshots_are_told_from_origins_pools_and_plain_volumes() {
        let all = lvs(&golden("lvs-thin-snapshot-active.bytes.json")).unwrap();
        let kinds: Vec<_> =
            all.iter().map(|l| (l.name.as_str(), l.is_classic_snapshot(), l.is_thin_snapshot())).collect();
        assert_eq!(
            kinds,
            [
                ("data", false, false),
                ("huge", true, false),
                ("pool", false, false),
                ("small", false, false),
                ("thinsnap", false, true),
                ("thinvol", false, false)
            ]
        );
        assert_eq!(
            lvs(&golden("lvs-three-thick-snapshots-two-origins.bytes.json"))
                .unwrap()
                .iter()
                .filter(|l| l.is_snapshot())
                .count(),
            4
        );
    }

    #[test]
    fn fields_are_read() {
        let snap = lv("lvs-thick-snapshot-healthy-with-tags.bytes.json", "snap1");
        assert_eq!((snap.full_name().as_str(), snap.path.as_str()), ("vg0/snap1", "/dev/vg0/snap1"));
        assert_eq!(
            (snap.origin.as_deref(), snap.size_bytes, snap.data_percent),
            (Some("data"), 100_663_296, Some(0.02))
        );
        assert_eq!(snap.tags, ["backup", "run=20250101T000000Z"]);
        assert_eq!(snap.created_at, Some("2026-11-22T20:42:49Z".parse().unwrap()));
        assert_eq!(
            lv("lvs-time-as-epoch.json", "my-data").created_at,
            Some(Timestamp::from_second(1_795_382_706).unwrap())
        );
        assert!(lv("lvs-thick-snapshot-readonly.bytes.json", "snapro").is_read_only());
        assert_eq!(lv("lvs-hyphenated-names.bytes.json", "my-data-snap").path, "/dev/vg0/my-data-snap");
        let pool = lv("lvs-thin-pool-full.bytes.json", "pool");
        assert_eq!((pool.data_percent, pool.metadata_percent), (Some(100.0), Some(12.11)));
    }

    #[test]
    fn no_volume_and_no_group_are_empty_lists() {
        for file in [
            "no-vg-at-all-lvs.json",
            "lvs-empty-vg-no-lvs.json",
            "error-lvs-no-such-lv.json",
            "error-lvs-no-such-vg.json",
        ] {
            assert_eq!(lvs(&golden(file)).unwrap(), [], "{file}");
        }
        assert_eq!(
            vgs(&golden("vgs.json")).unwrap(),
            Some(Vg { free_bytes: 1_203_765_248, extent_bytes: 4 << 20 })
        );
    }

    proptest! {
        #[test]
        fn no_output_breaks_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = lvs(&bytes);
            let _ = vgs(&bytes);
        }

        #[test]
        fn no_attributes_break_the_verdict(attr in ".{0,12}", invalid in ".{0,20}") {
            let mut volume = lv("lvs-thick-snapshot-healthy-with-tags.bytes.json", "snap1");
            volume.attr = attr;
            volume.snapshot_invalid = invalid.clone();
            let valid = volume.validity() == Validity::Valid;
            prop_assert!(!valid || volume.is_thin() || invalid.is_empty());
        }
    }

    #[test]
    fn fuzz_what_lvm_prints() {
        let samples = [
            golden("lvs-thick-snapshot-healthy-with-tags.bytes.json"),
            golden("lvs-thick-snapshot-just-invalid.bytes.json"),
            br#"{"report":[{"vg":[{"vg_free":"1048576","vg_extent_size":"4194304"}]}]}"#.to_vec(),
        ];
        testkit::fuzz::run("lvm", &samples, 5000, |bytes| {
            for lv in lvs(bytes).into_iter().flatten() {
                let (valid, said) = (lv.validity() == Validity::Valid, lv.attr.as_bytes());
                assert!(!valid || (said.len() >= 5 && lv.is_active()), "{lv:?}");
                drop(super::super::tags::decode(&lv.tags));
            }
            drop(vgs(bytes));
        });
    }
}
