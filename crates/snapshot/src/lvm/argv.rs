//! The command lines of LVM, as pure functions. None ever asks a question: `-y` where LVM would, and standard input is empty.

use crate::run::argv;

/// What is asked of every volume. Fields that an LVM does not know would make it fail, so all are from 2.02 or older.
pub(crate) const LV_FIELDS: &str = "lv_name,vg_name,lv_path,lv_uuid,lv_attr,lv_role,snap_percent,data_percent,metadata_percent,origin,\
origin_size,pool_lv,lv_snapshot_invalid,lv_time,lv_size,lv_tags,lv_kernel_major,lv_kernel_minor";

const REPORT: [&str; 4] = ["--reportformat", "json", "--units", "b"];
/// Local time with a zone name is what LVM prints else.
const EPOCH_TIMES: &str = "report { time_format = \"%s\" }";

/// Lists all volumes of the host, or one.
pub(crate) fn lvs(volume: Option<&str>) -> Vec<String> {
    let mut words = argv(["lvs"]);
    words.extend(argv(REPORT));
    words.extend(argv(["--nosuffix", "--config", EPOCH_TIMES, "-o", LV_FIELDS]));
    words.extend(volume.map(str::to_owned));
    words
}

/// Size, free room and extent size of a group.
pub(crate) fn vgs(group: &str) -> Vec<String> {
    let mut words = argv(["vgs"]);
    words.extend(argv(REPORT));
    words.extend(argv(["--nosuffix", "-o", "vg_name,vg_size,vg_free,vg_extent_size", group]));
    words
}

/// A classic snapshot with a store of so many extents.
pub(crate) fn create_classic(origin: &str, name: &str, extents: u64, tags: &[String]) -> Vec<String> {
    let mut words = argv(["lvcreate", "-y", "-s", "-l", &extents.to_string(), "-n", name]);
    words.extend(add_tags(tags));
    words.push(origin.to_owned());
    words
}

/// A snapshot of a thin volume, active at once and after a restart (`-kn`).
pub(crate) fn create_thin(origin: &str, name: &str, tags: &[String]) -> Vec<String> {
    let mut words = argv(["lvcreate", "-y", "-s", "-kn", "-n", name]);
    words.extend(add_tags(tags));
    words.push(origin.to_owned());
    words
}

/// Activates a volume, also one that is marked to be skipped (`-K`), as thin snapshots made by hand are.
pub(crate) fn activate(volume: &str) -> Vec<String> {
    argv(["lvchange", "-ay", "-K", volume])
}

/// Removes a volume. The caller has proven that it is a snapshot.
pub(crate) fn remove(volume: &str) -> Vec<String> {
    argv(["lvremove", "-y", volume])
}

/// Gives a volume so many extents more.
pub(crate) fn extend(volume: &str, extents: u64) -> Vec<String> {
    argv(["lvextend", "-y", "-l", &format!("+{extents}"), volume])
}

/// Changes tags.
pub(crate) fn retag(volume: &str, remove: &[String], add: &[String]) -> Vec<String> {
    let mut words = argv(["lvchange", "-y"]);
    words.extend(remove.iter().flat_map(|t| ["--deltag".to_owned(), t.clone()]));
    words.extend(add_tags(add));
    words.push(volume.to_owned());
    words
}

fn add_tags(tags: &[String]) -> impl Iterator<Item = String> + '_ {
    tags.iter().flat_map(|t| ["--addtag".to_owned(), t.clone()])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shape of the commands that were tried on a real system (`tests/golden/lvm/*.how`).
    #[test]
    fn commands_have_the_form_that_was_tried() {
        let line = |words: Vec<String>| words.join(" ");
        let tags = ["backup".to_owned()];
        assert_eq!(
            line(create_thin("vg0/thinvol", "thinsnap", &tags)),
            "lvcreate -y -s -kn -n thinsnap --addtag backup vg0/thinvol"
        );
        assert_eq!(line(create_classic("vg0/data", "s", 24, &[])), "lvcreate -y -s -l 24 -n s vg0/data");
        assert_eq!(line(extend("vg0/p", 2)), "lvextend -y -l +2 vg0/p");
        assert_eq!(line(remove("vg0/tiny")), "lvremove -y vg0/tiny");
        assert_eq!(line(activate("vg0/thinsnap")), "lvchange -ay -K vg0/thinsnap");
        assert_eq!(
            line(retag("vg0/s", &["a".to_owned()], &["b".to_owned()])),
            "lvchange -y --deltag a --addtag b vg0/s"
        );
        assert!(
            line(lvs(Some("vg0/s"))).ends_with(" vg0/s")
                && line(lvs(None)).contains("--reportformat json --units b --nosuffix")
        );
    }
}
