use super::*;

fn tree(path: &Path, content: &str) {
    fs::create_dir_all(path.join("shop")).unwrap();
    fs::write(path.join("ibdata1"), content).unwrap();
    fs::write(path.join("shop/t.ibd"), content).unwrap();
}

fn content(path: &Path) -> String {
    let one = fs::read_to_string(path.join("ibdata1")).unwrap();
    assert_eq!(one, fs::read_to_string(path.join("shop/t.ibd")).unwrap(), "a mix of two trees");
    one
}

struct Case {
    _dir: tempfile::TempDir,
    layout: Layout,
}

fn case(entrywise: bool) -> Case {
    let dir = tempfile::tempdir().unwrap();
    let datadir = dir.path().join("mysql");
    tree(&datadir, "old");
    let mut layout = Layout::of(&datadir, JobId::generate()).unwrap();
    if entrywise {
        layout.entrywise = true;
        layout.root = datadir.join(format!("{PREFIX}{}", layout.job));
    }
    layout.prepare().unwrap();
    tree(&layout.staging(), "new");
    Case { _dir: dir, layout }
}

#[test]
fn swapping_twice_is_swapping_once_and_so_is_back() {
    for entrywise in [false, true] {
        let case = case(entrywise);
        let layout = &case.layout;
        assert!(!layout.is_swapped().unwrap());
        layout.swap_back().unwrap();
        assert_eq!(content(&layout.datadir), "old");
        for _ in 0..2 {
            layout.swap().unwrap();
            assert!(layout.is_swapped().unwrap());
            assert_eq!(content(&layout.datadir), "new");
            assert_eq!(content(&layout.old()), "old");
        }
        for _ in 0..2 {
            layout.swap_back().unwrap();
            assert!(!layout.is_swapped().unwrap());
            assert_eq!(content(&layout.datadir), "old");
            assert_eq!(content(&layout.staging()), "new");
        }
    }
}

#[test]
fn a_later_seed_lies_on_top_of_an_earlier_one_until_it_is_taken_back() {
    for entrywise in [false, true] {
        let case = case(entrywise);
        let first = &case.layout;
        assert!(!first.is_on_top().unwrap());
        first.swap().unwrap();
        assert!(first.is_on_top().unwrap());
        let job = JobId::generate();
        let second =
            Layout { root: first.root.with_file_name(format!("{PREFIX}{job}")), job, ..first.clone() };
        second.prepare().unwrap();
        tree(&second.staging(), "newest");
        second.swap().unwrap();
        assert!(second.is_on_top().unwrap() && !first.is_on_top().unwrap());
        // The first is due for removal: the mark that is there by now is not its own to take.
        first.remove_marker().unwrap();
        assert!(second.is_on_top().unwrap());
        second.swap_back().unwrap();
        assert!(first.is_on_top().unwrap() && !second.is_on_top().unwrap());
        first.swap_back().unwrap();
        assert_eq!(content(&first.datadir), "old");
    }
}

#[test]
fn nothing_is_left_after_the_end_of_either_direction() {
    for entrywise in [false, true] {
        for keep_new in [false, true] {
            let case = case(entrywise);
            let layout = &case.layout;
            layout.swap().unwrap();
            if !keep_new {
                layout.swap_back().unwrap();
            }
            layout.remove_marker().unwrap();
            assert_eq!(leftovers(&layout.datadir), [(layout.root.clone(), layout.job)]);
            layout.remove().unwrap();
            layout.remove().unwrap();
            assert_eq!(leftovers(&layout.datadir), []);
            assert_eq!(content(&layout.datadir), if keep_new { "new" } else { "old" });
            let mut names: Vec<_> =
                fs::read_dir(&layout.datadir).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, ["ibdata1", "shop"]);
        }
    }
}

/// A crash between any two renames, then either direction: the tree that ends in the datadir is whole.
#[test]
fn an_entrywise_swap_cut_anywhere_can_be_finished_or_taken_back() {
    let phases = [
        (Phase::OldOut, 0),
        (Phase::OldOut, 1),
        (Phase::OldOut, 2),
        (Phase::NewIn, 0),
        (Phase::NewIn, 1),
        (Phase::NewIn, 2),
    ];
    for (phase, moved) in phases {
        for forward in [true, false] {
            let case = case(true);
            let layout = &case.layout;
            make_dir(&layout.old()).unwrap();
            layout.enter(Phase::OldOut).unwrap();
            let names = ["ibdata1", "shop"];
            let old_moved = if phase == Phase::OldOut { moved } else { 2 };
            for name in &names[..old_moved] {
                fs::rename(layout.datadir.join(name), layout.old().join(name)).unwrap();
            }
            if phase == Phase::NewIn {
                layout.enter(Phase::NewIn).unwrap();
                for name in &names[..moved] {
                    fs::rename(layout.staging().join(name), layout.datadir.join(name)).unwrap();
                }
            }
            let ended = if forward { layout.swap() } else { layout.swap_back() };
            ended.unwrap();
            let expected = if forward { "new" } else { "old" };
            assert_eq!(content(&layout.datadir), expected, "{phase:?} after {moved}, forward {forward}");
        }
    }
}

#[test]
fn a_datadir_that_is_not_there_yet_is_made_by_the_swap() {
    let dir = tempfile::tempdir().unwrap();
    let datadir = dir.path().join("mysql");
    let layout = Layout::of(&datadir, JobId::generate()).unwrap();
    layout.prepare().unwrap();
    tree(&layout.staging(), "new");
    layout.swap().unwrap();
    assert_eq!(content(&datadir), "new");
    layout.swap_back().unwrap();
    assert!(!datadir.exists());
    assert_eq!(content(&layout.staging()), "new");
}

#[test]
fn a_path_without_a_parent_is_refused() {
    assert!(Layout::of(Path::new("/"), JobId::generate()).is_err());
    assert!(Layout::of(Path::new("relative"), JobId::generate()).is_err());
}

/// A power cut in the middle, and something has started a server on what was in the datadir then.
#[test]
fn what_a_server_makes_in_the_middle_of_a_swap_overwrites_nothing() {
    for (cut, moved) in [(Phase::OldOut, 1), (Phase::NewIn, 0), (Phase::NewIn, 1)] {
        for forward in [true, false] {
            let case = case(true);
            let layout = &case.layout;
            make_dir(&layout.old()).unwrap();
            layout.mark().unwrap();
            layout.record(OLD, &layout.datadir).unwrap();
            layout.record(NEW, &layout.staging()).unwrap();
            layout.enter(Phase::OldOut).unwrap();
            let names = ["ibdata1", "shop"];
            let old_moved = if cut == Phase::OldOut { moved } else { 2 };
            for name in &names[..old_moved] {
                fs::rename(layout.datadir.join(name), layout.old().join(name)).unwrap();
            }
            if cut == Phase::NewIn {
                layout.enter(Phase::NewIn).unwrap();
                for name in &names[..moved] {
                    fs::rename(layout.staging().join(name), layout.datadir.join(name)).unwrap();
                }
            }
            let missing = if cut == Phase::NewIn { &names[moved..] } else { &names[..moved] };
            for name in missing.iter().chain(&["aria_log.00000001"]) {
                fs::write(layout.datadir.join(name), "of a server that should not have run").unwrap();
            }
            let ended = if forward { layout.swap() } else { layout.swap_back() };
            ended.unwrap();
            let (there, waits) = if forward { ("new", "old") } else { ("old", "new") };
            assert_eq!(content(&layout.datadir), there, "{cut:?} after {moved}, forward {forward}");
            let beside = if forward { layout.old() } else { layout.staging() };
            assert_eq!(content(&beside), waits, "{cut:?} after {moved}, forward {forward}");
            assert_eq!(layout.strays().len(), missing.len() + 1, "{:?}", layout.strays());
            assert!(!layout.datadir.join("aria_log.00000001").exists());
        }
    }
}

#[test]
fn a_mount_point_that_is_no_longer_one_is_no_plain_datadir() {
    let case = case(false);
    let layout = &case.layout;
    for (entrywise, good) in [(Some(false), true), (None, true), (Some(true), false)] {
        let again = Layout::as_begun(&layout.datadir, layout.job, entrywise);
        assert_eq!(again.is_ok(), good, "{entrywise:?}");
    }
}
