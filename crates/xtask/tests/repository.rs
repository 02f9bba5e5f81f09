//! The checks of this repository on itself.

use xtask::{layering, repository, schemas, tidy};

#[track_caller]
fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn crates_lean_only_on_what_they_may_know() {
    assert_none(&layering::check(&repository()).unwrap());
}

#[test]
fn schemas_are_what_the_code_says() {
    assert_none(&schemas::check(&repository()).unwrap());
}

#[test]
fn the_repository_is_tidy() {
    assert_none(&tidy::check(&repository()).unwrap());
}
