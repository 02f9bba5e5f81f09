//! Suites live in `tests/tests/`.
