//! How thorough the tests are.

use proptest::test_runner::Config;

/// `cases` random cases; fifty times as many with DIO_CP_LONG=1. Failures are not written to the source tree.
pub fn cases(cases: u32) -> Config {
    let cases = if is_long() { cases * 50 } else { cases };
    let max_global_rejects = cases.max(1024);
    Config { cases, max_global_rejects, failure_persistence: None, max_shrink_time: 60_000, ..Config::default() }
}

/// True with DIO_CP_LONG=1: tests take minutes and cover much more.
pub fn is_long() -> bool {
    std::env::var_os("DIO_CP_LONG").is_some_and(|value| value == "1")
}
