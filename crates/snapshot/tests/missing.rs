//! What a host lacks is a reported reason, never a failure to start.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are test code too")]

use std::path::{Path, PathBuf};

use snapshot::conformance::request;
use snapshot::registry::{LvmConfig, ProviderConfig, build};
use snapshot::{Error, volumes};

#[test]
fn a_host_without_device_mapper_or_volumes_says_so() {
    let has_volumes = Path::new("/dev/mapper").read_dir().is_ok_and(|d| d.count() > 1);
    if has_volumes {
        testkit::skip!(odd: "this host has device-mapper volumes");
    }
    for config in [ProviderConfig::Lvm(LvmConfig::default()), ProviderConfig::LvmThin(LvmConfig::default())] {
        let provider = build(&config, Path::new("/nonexistent")).unwrap();
        let capability = provider.probe();
        let reason = capability.reason.expect("a reason is given");
        assert!(!capability.available);
        assert!(
            ["not installed", "root", "device-mapper", "no logical volume"]
                .iter()
                .any(|w| reason.contains(w)),
            "{reason}"
        );
        let error =
            provider.create(&request(Path::new("/tmp")), &mut |_| panic!("not that far")).unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    }
    match volumes::list(None) {
        Ok(listed) => assert!(listed.is_empty(), "{listed:?}"),
        Err(error) => assert!(matches!(error, Error::Unavailable { .. }), "{error}"),
    }
    assert!(matches!(volumes::list(Some("(")), Err(Error::Setting { key: "pattern", .. })));
}

#[test]
fn a_bad_setting_is_named() {
    let lvm = |change: fn(&mut LvmConfig)| {
        let mut config = LvmConfig::default();
        change(&mut config);
        build(&ProviderConfig::Lvm(config), Path::new("/nonexistent")).unwrap_err().to_string()
    };
    assert!(lvm(|c| c.snapshot_volumes_filter = Some("[".to_owned())).contains("snapshot_volumes_filter"));
    assert!(lvm(|c| c.origin = Some("data".to_owned())).contains("`origin`"));
    assert!(lvm(|c| c.datadir_inside = PathBuf::from("../etc")).contains("datadir_inside"));
    assert!(lvm(|c| c.size = snapshot::SizePolicy::OriginPercent(0.0)).contains("`size`"));
}

#[test]
fn settings_are_strict_and_chosen_by_the_provider() {
    let parse = serde_json::from_str::<ProviderConfig>;
    let lvm = parse(r#"{"provider":"lvm-thin","name_pattern":"{host}-{time}","size":{"free_percent":50.0}}"#)
        .unwrap();
    let ProviderConfig::LvmThin(lvm) = lvm else { panic!("{lvm:?}") };
    assert_eq!(lvm.size, snapshot::SizePolicy::FreePercent(50.0));
    for (bad, part) in [
        (r#"{"provider":"lvm","sise":1}"#, "sise"),
        (r#"{"provider":"zfs"}"#, "zfs"),
        (r#"{"provider":"btrfs"}"#, "root"),
        (r#"{"root":"/x"}"#, "provider"),
    ] {
        let error = parse(bad).unwrap_err().to_string();
        assert!(error.contains(part), "{bad}: {error}");
    }
}
