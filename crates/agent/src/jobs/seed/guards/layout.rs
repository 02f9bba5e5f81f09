//! Whether a server at the recipient finds the donor's files where its options say they are.

use std::path::Path;

use protocol::mysql::Layout;
use protocol::seed::{DonorFacts, Guard, GuardResult};
use protocol::snapshot::Consistency;

use super::{pass, refuse, warn};
use crate::jobs::seed::facts::RecipientFacts;

/// Of both vendors, where a stopped server's option files say nothing.
const DATA_FILE_PATH: &str = "ibdata1:12M:autoextend";

pub(super) fn layout_compatible(donor: &DonorFacts, me: &RecipientFacts) -> GuardResult {
    let (Some(theirs), Some(ours)) = (&donor.layout, &me.server.layout) else {
        return warn(Guard::LayoutCompatible, "a file layout is unknown: compare it by hand".to_owned());
    };
    if let Some(files) = donor.outside.as_ref().filter(|files| !files.is_empty()) {
        let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        let text = format!(
            "a seed carries the datadir only, and {} has tables elsewhere: {}; seed from a stream, or move them",
            donor.agent,
            files.join(", ")
        );
        return refuse(Guard::LayoutCompatible, text);
    }
    if let Some(text) = log_left_behind(donor, theirs) {
        return refuse(Guard::LayoutCompatible, text);
    }
    let mut differences = layout_differences(theirs, ours);
    differences.extend(place_differences(donor, theirs, me, ours));
    if !differences.is_empty() {
        return refuse(
            Guard::LayoutCompatible,
            format!("donor and recipient differ in {}", differences.join(", ")),
        );
    }
    if donor.outside.is_none() {
        let text = format!("whether {} has tables outside its datadir could not be told", donor.agent);
        return warn(Guard::LayoutCompatible, text);
    }
    pass(Guard::LayoutCompatible, "page size, table name case and data files agree".to_owned())
}

/// Which transactions of a crash-consistent copy are committed is told by the binary log: without it they are taken back (MySQL),
/// or the server does not start (MariaDB). Where commits were blocked for the snapshot the data alone tell.
fn log_left_behind(donor: &DonorFacts, theirs: &Layout) -> Option<String> {
    let log = theirs.log_bin.as_deref()?;
    let datadir = donor.datadir.as_deref()?;
    // A snapshot that somebody else made says nothing of how it was made.
    let meta = donor.snapshot.as_ref()?.meta.as_ref();
    let is_told =
        log.starts_with(datadir) || meta.is_some_and(|meta| meta.consistency == Consistency::Locked);
    (!is_told).then(|| {
        format!(
            "{}'s binary log lies outside its datadir ({}) and does not come along, and the snapshot was made without blocking \
             commits: its last transactions would be lost; take one while the server runs and the agent can log in",
            donor.agent,
            log.display()
        )
    })
}

fn layout_differences(theirs: &Layout, ours: &Layout) -> Vec<String> {
    let mut differences = Vec::new();
    if theirs.innodb_page_size != ours.innodb_page_size {
        differences
            .push(format!("innodb_page_size ({} / {})", theirs.innodb_page_size, ours.innodb_page_size));
    }
    if theirs.lower_case_table_names != ours.lower_case_table_names {
        differences.push(format!(
            "lower_case_table_names ({} / {})",
            theirs.lower_case_table_names, ours.lower_case_table_names
        ));
    }
    let files =
        |layout: &Layout| layout.innodb_data_file_path.clone().unwrap_or_else(|| DATA_FILE_PATH.to_owned());
    let (a, b) = (files(theirs), files(ours));
    if a != b {
        differences.push(format!("innodb_data_file_path ({a} / {b})"));
    }
    differences
}

/// InnoDB's own directories: a seed carries those below the donor's datadir, to the same place below the recipient's. A
/// backup program finds them wherever they are, and puts all into one.
fn place_differences(donor: &DonorFacts, theirs: &Layout, me: &RecipientFacts, ours: &Layout) -> Vec<String> {
    let mut differences = Vec::new();
    let by_program = donor.stream.is_some();
    for (name, their_place, our_place) in [
        ("innodb_data_home_dir", &theirs.innodb_data_home_dir, &ours.innodb_data_home_dir),
        ("innodb_log_group_home_dir", &theirs.innodb_log_group_home_dir, &ours.innodb_log_group_home_dir),
        ("innodb_undo_directory", &theirs.innodb_undo_directory, &ours.innodb_undo_directory),
    ] {
        let their_place = their_place.as_deref().filter(|_| !by_program);
        let outside =
            |path: &Path, whose| format!("{name} ({} lies outside the {whose}'s datadir)", path.display());
        match (
            below(their_place, donor.datadir.as_deref()),
            below(our_place.as_deref(), me.server.datadir.as_deref()),
        ) {
            (Err(path), _) => differences.push(outside(path, "donor")),
            (_, Err(path)) => differences.push(outside(path, "recipient")),
            (Ok(a), Ok(b)) if a != b => {
                let text = format!("{name} (\"{}\" / \"{}\" below the datadirs)", a.display(), b.display());
                differences.push(text);
            }
            _ => {}
        }
    }
    for (whose, layout, counts) in [("donor", theirs, !by_program), ("recipient", ours, true)] {
        let further = layout.further_dirs.iter().filter(|_| counts);
        differences
            .extend(further.map(|path| format!("{} (lies outside the {whose}'s datadir)", path.display())));
    }
    differences
}

/// A directory relative to the datadir; the datadir itself where none is configured; as it is when it lies elsewhere.
fn below<'a>(path: Option<&'a Path>, datadir: Option<&Path>) -> Result<&'a Path, &'a Path> {
    match (path, datadir) {
        (None, _) => Ok(Path::new("")),
        (Some(path), Some(datadir)) => path.strip_prefix(datadir).map_err(|_| path),
        (Some(path), None) => Err(path),
    }
}
