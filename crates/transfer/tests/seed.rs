//! Whole seeds between two ends in one process: what arrives is what was there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;

use std::fs;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use common::{Bench, assert_same_tree, content, wait_in_background, write};
use transfer::{
    Compression, DigestKind, Donor, DonorOptions, Error, Exclude, Phase, RecipientOptions, Token, receive,
};

fn seed_and_compare(change: impl FnOnce(&mut DonorOptions, &mut RecipientOptions)) {
    let bench = Bench::with_datadir();
    let mut donor_options = bench.donor_options();
    let mut recipient_options =
        RecipientOptions::new(Vec::new(), bench.token.clone(), bench.staging(), bench.journal());
    change(&mut donor_options, &mut recipient_options);
    let donor = Arc::new(Donor::start(donor_options).unwrap());
    recipient_options.donor = vec![donor.addr()];
    recipient_options.fingerprint = donor.fingerprint();
    let verdict = wait_in_background(&donor);
    let received = receive(recipient_options).unwrap();
    assert_same_tree(&bench.source(), &bench.staging());
    assert_eq!(
        received.bytes_moved + (39 << 20),
        received.bytes_total,
        "39 of the 40 MiB of the sparse file are holes"
    );
    assert_eq!(received.bytes_resumed, 0);
    let report = verdict.join().unwrap().unwrap();
    assert_eq!(report.root_digest, received.root_digest);
    assert_eq!(donor.progress().snapshot().phase, Phase::Done);
}

#[test]
fn a_tree_arrives_whole_over_plain_tcp() {
    seed_and_compare(|_, _| {});
}

#[test]
fn a_tree_arrives_whole_over_tls() {
    seed_and_compare(|donor, _| donor.tls = true);
}

#[test]
fn a_tree_arrives_whole_over_one_connection_with_blake3() {
    seed_and_compare(|donor, recipient| {
        donor.chunk_size = Some(1 << 20);
        recipient.connections = 1;
        recipient.digests = vec![DigestKind::Blake3];
    });
}

#[test]
fn a_tree_arrives_whole_over_ipv6_with_many_connections() {
    seed_and_compare(|donor, recipient| {
        donor.listen = "[::1]:0".parse().unwrap();
        recipient.connections = 8;
    });
}

#[test]
fn a_tree_arrives_whole_and_smaller_when_it_is_compressed() {
    for compression in [Compression::Lz4, Compression::Zstd] {
        let bench = Bench::with_datadir();
        let noise = content(9, 6 << 20);
        let text: Vec<u8> =
            (0..400_000).flat_map(|row| format!("row {row:09} of a table;").into_bytes()).collect();
        write(&bench.source(), "noise.ibd", &noise);
        write(&bench.source(), "text.ibd", &text);
        for tls in [false, true] {
            let donor = Donor::start(DonorOptions { tls, ..bench.donor_options() }).unwrap();
            let staging = bench.staging().with_extension(format!("{tls}"));
            let options = RecipientOptions {
                compression,
                staging: staging.clone(),
                journal: staging.with_extension("journal"),
                ..bench.recipient_options(&donor)
            };
            let received = receive(options).unwrap();
            assert_same_tree(&bench.source(), &staging);
            let most = received.bytes_moved - text.len() as u64 / 2;
            assert!(received.bytes_wire < most, "{compression:?}: {received:?}");
        }
        // A donor that does not want to is not made to.
        let donor = Donor::start(DonorOptions { compression: false, ..bench.donor_options() }).unwrap();
        let received = receive(RecipientOptions { compression, ..bench.recipient_options(&donor) }).unwrap();
        assert!(received.bytes_wire > received.bytes_moved, "{received:?}");
    }
}

#[test]
fn an_empty_tree_is_a_seed_too() {
    let bench = Bench::new();
    let donor = Donor::start(bench.donor_options()).unwrap();
    let received = receive(bench.recipient_options(&donor)).unwrap();
    assert_eq!((received.files, received.bytes_total), (0, 0));
    assert!(fs::read_dir(bench.staging()).unwrap().next().is_none());
    donor.wait().unwrap();
}

#[test]
fn excluded_files_and_sockets_stay_at_home() {
    let bench = Bench::new();
    write(&bench.source(), "keep", b"1");
    write(&bench.source(), "mysqld.pid", b"1");
    write(&bench.source(), "auto.cnf", b"1");
    write(&bench.source(), "tmp/a", b"1");
    let _socket = UnixListener::bind(bench.source().join("mysql.sock")).unwrap();
    let options =
        DonorOptions { exclude: Exclude::new(["*.pid", "auto.cnf", "/tmp"]), ..bench.donor_options() };
    let donor = Donor::start(options).unwrap();
    receive(bench.recipient_options(&donor)).unwrap();
    let names: Vec<_> =
        fs::read_dir(bench.staging()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["keep"]);
}

#[test]
fn the_recipients_own_user_may_own_everything() {
    if !nix::unistd::geteuid().is_root() {
        testkit::skip!("only root can give files away");
    }
    use std::os::unix::fs::MetadataExt as _;
    let bench = Bench::with_datadir();
    let donor = Donor::start(bench.donor_options()).unwrap();
    receive(RecipientOptions { owner: Some((12345, 23456)), ..bench.recipient_options(&donor) }).unwrap();
    for name in ["ibdata1", "shop", "shop/empty.MYD", "link", "many/t001.frm"] {
        let meta = fs::symlink_metadata(bench.staging().join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (12345, 23456), "{name}");
    }
}

#[test]
fn a_wrong_token_opens_nothing() {
    let bench = Bench::with_datadir();
    let donor = Donor::start(bench.donor_options()).unwrap();
    let error = receive(RecipientOptions { token: Token::generate(), ..bench.recipient_options(&donor) })
        .unwrap_err();
    assert!(matches!(error, Error::Token), "{error:?}");
    assert!(fs::read_dir(bench.staging()).unwrap().next().is_none());
    // The offer is still good for who knows the token.
    receive(RecipientOptions {
        journal: bench.journal().with_extension("2"),
        ..bench.recipient_options(&donor)
    })
    .unwrap();
}

#[test]
fn a_token_serves_one_recipient_only() {
    let bench = Bench::with_datadir();
    let donor = Donor::start(bench.donor_options()).unwrap();
    receive(bench.recipient_options(&donor)).unwrap();
    let thief = Bench::new();
    let options = RecipientOptions { token: bench.token.clone(), ..thief.recipient_options(&donor) };
    let error = receive(options).unwrap_err();
    assert!(matches!(error, Error::Token), "{error:?}");
}

#[test]
fn several_tokens_serve_several_recipients() {
    let bench = Bench::with_datadir();
    let other = Bench::new();
    let donor = Arc::new(Donor::start(bench.donor_options()).unwrap());
    donor.add_token(other.token.clone());
    let verdict = wait_in_background(&donor);
    let first = common::receive_in_background(bench.recipient_options(&donor));
    let second = receive(other.recipient_options(&donor)).unwrap();
    let first = first.join().unwrap().unwrap();
    assert_eq!(first.root_digest, second.root_digest);
    verdict.join().unwrap().unwrap();
    assert_same_tree(&bench.source(), &other.staging());
}

#[test]
fn another_certificate_is_refused() {
    let bench = Bench::with_datadir();
    let donor = Donor::start(DonorOptions { tls: true, ..bench.donor_options() }).unwrap();
    let wrong = "ab".repeat(32).parse().unwrap();
    let error = receive(RecipientOptions { fingerprint: Some(wrong), ..bench.recipient_options(&donor) })
        .unwrap_err();
    assert!(matches!(error, Error::Fingerprint), "{error:?}");
}

#[test]
fn plain_and_tls_do_not_mix() {
    for donor_tls in [true, false] {
        let bench = Bench::with_datadir();
        let donor = Donor::start(DonorOptions { tls: donor_tls, ..bench.donor_options() }).unwrap();
        let mut options = bench.recipient_options(&donor);
        options.fingerprint = if donor_tls { None } else { Some("ab".repeat(32).parse().unwrap()) };
        options.stall_timeout = std::time::Duration::from_millis(700);
        receive(options).unwrap_err();
        assert!(fs::read_dir(bench.staging()).unwrap().next().is_none());
    }
}

#[test]
fn a_full_staging_directory_of_somebody_else_is_not_touched() {
    let bench = Bench::with_datadir();
    write(&bench.staging(), "precious", b"data");
    let donor = Donor::start(bench.donor_options()).unwrap();
    let error = receive(bench.recipient_options(&donor)).unwrap_err();
    assert!(matches!(error, Error::Staging { .. }), "{error:?}");
    assert_eq!(fs::read(bench.staging().join("precious")).unwrap(), b"data");
}

#[test]
fn links_out_of_the_tree_are_refused_by_name() {
    let bench = Bench::new();
    write(&bench.source(), "file", &content(1, 10));
    std::os::unix::fs::symlink("/etc/passwd", bench.source().join("evil")).unwrap();
    let donor = Donor::start(bench.donor_options()).unwrap();
    let error = common::chain(&donor.wait_ready().unwrap_err());
    assert!(error.contains("evil") && error.contains("leaves the tree"), "{error}");
    let error = common::chain(&receive(bench.recipient_options(&donor)).unwrap_err());
    assert!(error.contains("evil"), "the recipient hears it too: {error}");
}
