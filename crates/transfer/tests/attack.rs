//! The data's owner against a seed that lands: it may write beside staging, or in it, and exchanges what root is about to use.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::{Bench, chain, content, list, receive_in_background, wait_until, write};
use transfer::{Donor, Error, Throttle};

/// Nobody: another user than the test's, which is root.
const ATTACKER: u32 = 65_534;

/// What every file outside looks like: path, owner, mode, content or target.
fn state_of(root: &Path) -> Vec<(PathBuf, u32, u32, Vec<u8>)> {
    let mut paths: Vec<PathBuf> = list(root).into_iter().map(|name| root.join(name)).collect();
    paths.push(root.to_owned());
    let state = paths.into_iter().map(|path| {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = match meta.file_type() {
            kind if kind.is_file() => fs::read(&path).unwrap(),
            kind if kind.is_symlink() => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
            _ => Vec::new(),
        };
        (path, meta.uid(), meta.mode(), content)
    });
    state.collect()
}

/// Runs a program as the attacker.
fn as_attacker(program: &str, args: &[&Path]) {
    use std::os::unix::process::CommandExt as _;
    let status = Command::new(program).args(args).uid(ATTACKER).gid(ATTACKER).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}

struct Arena {
    bench: Bench,
    /// Below which the attacker may do as it likes; staging is in it.
    field: PathBuf,
    /// Root's, with names as the seed's.
    outside: PathBuf,
}

impl Arena {
    fn new() -> Self {
        let bench = Bench::new();
        write(&bench.source(), "big.ibd", &content(7, 12 << 20));
        for n in 0..20 {
            write(&bench.source(), &format!("shop/t{n}.ibd"), &content(n, 3000));
        }
        fs::create_dir(bench.source().join("links")).unwrap();
        symlink("../big.ibd", bench.source().join("links/link")).unwrap();
        let root = bench.staging().parent().unwrap().to_owned();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let (field, outside) = (root.join("field"), root.join("outside"));
        fs::create_dir(&field).unwrap();
        chown(&field, Some(ATTACKER), Some(ATTACKER)).unwrap();
        for name in ["shop/t1.ibd", "t1.ibd", "link", "big.ibd", "only-here"] {
            write(&outside, name, b"root's own");
        }
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o755)).unwrap();
        Self { bench, field, outside }
    }

    fn staging(&self) -> PathBuf {
        self.field.join("staging")
    }

    /// Receives, slowly until `attack` has been, and gives the outcome after proving that nothing outside has changed.
    fn receive(&self, owner: (u32, u32), attack: impl FnOnce(&Path)) -> Result<(), Error> {
        let before = state_of(&self.outside);
        let donor = Donor::start(self.bench.donor_options()).unwrap();
        let throttle = Arc::new(Throttle::limited(200_000));
        let mut options = self.bench.recipient_options(&donor);
        options.staging = self.staging();
        options.staging_inode = fs::metadata(self.staging()).ok().map(|meta| meta.ino());
        options.throttle = Arc::clone(&throttle);
        options.owner = Some(owner);
        let receiving = receive_in_background(options);
        wait_until("the tree is being written", || self.staging().join("shop").is_dir());
        attack(&self.staging());
        throttle.set(0);
        let outcome = receiving.join().unwrap().map(drop);
        assert_eq!(state_of(&self.outside), before, "what is root's outside of staging");
        outcome
    }
}

fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        testkit::skip::lacking("only root can play another user");
    }
    is_root
}

#[test]
fn a_directory_of_staging_that_becomes_a_link_leads_nowhere() {
    if !is_root() {
        return;
    }
    // One with files, which are opened, and one with a link, which is made by its name.
    for exchanged in ["shop", "links"] {
        let arena = Arena::new();
        fs::create_dir(arena.staging()).unwrap();
        // Worse than any seed: the attacker owns staging itself.
        chown(arena.staging(), Some(ATTACKER), Some(ATTACKER)).unwrap();
        let outcome = arena.receive((ATTACKER, ATTACKER), |staging| {
            fs::set_permissions(staging, fs::Permissions::from_mode(0o755)).unwrap();
            chown(staging.join(exchanged), Some(ATTACKER), Some(ATTACKER)).unwrap();
            as_attacker("mv", &[&staging.join(exchanged), &staging.join("away")]);
            as_attacker("ln", &[Path::new("-s"), &arena.outside, &staging.join(exchanged)]);
        });
        let error = outcome.unwrap_err();
        assert!(chain(&error).contains(exchanged), "by name: {}", chain(&error));
    }
}

#[test]
fn staging_that_is_moved_away_fails_the_seed_by_name() {
    if !is_root() {
        return;
    }
    let arena = Arena::new();
    fs::create_dir(arena.staging()).unwrap();
    let outcome = arena.receive((0, 0), |staging| {
        as_attacker("mv", &[staging, &arena.field.join("away")]);
        as_attacker("ln", &[Path::new("-s"), &arena.outside, staging]);
    });
    let error = outcome.unwrap_err();
    assert!(
        matches!(error, Error::Staging { .. }) && chain(&error).contains("moved or replaced"),
        "{}",
        chain(&error)
    );
}

#[test]
fn another_directory_in_the_place_of_staging_is_not_used() {
    if !is_root() {
        return;
    }
    let arena = Arena::new();
    let before = state_of(&arena.outside);
    let donor = Donor::start(arena.bench.donor_options()).unwrap();
    let mut options = arena.bench.recipient_options(&donor);
    options.staging = arena.staging();
    fs::create_dir(arena.staging()).unwrap();
    options.staging_inode = Some(fs::metadata(arena.staging()).unwrap().ino());
    as_attacker("mv", &[&arena.staging(), &arena.field.join("away")]);
    as_attacker("mkdir", &[&arena.staging()]);
    let error = transfer::receive(options.clone()).unwrap_err();
    assert!(chain(&error).contains("another directory is in its place"), "{}", chain(&error));
    as_attacker("rmdir", &[&arena.staging()]);
    as_attacker("ln", &[Path::new("-s"), &arena.outside, &arena.staging()]);
    assert!(transfer::receive(options).is_err());
    assert_eq!(state_of(&arena.outside), before);
}
