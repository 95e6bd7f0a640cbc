//! The same copies under older kernels and under seccomp filters that refuse optional system calls.
#![cfg(feature = "url")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::matrix::{Copy, Expected, Matrix};
use common::seccomp::{self, Filter, OPTIONAL};

/// Makes all copies under a filter.
fn copies_under(matrix: &mut Matrix, filter: &Filter, expected: impl Fn(Copy) -> Expected) {
    for copy in Copy::ALL {
        matrix.copy(&filter.name, copy, expected(copy), &|arguments| filter.command(arguments));
    }
}

/// What a filter that refuses one group of calls changes: a request that cannot be met is refused, and a promise that cannot
/// be kept is taken back.
fn expected_without(group: &str, error: i32, copy: Copy) -> Expected {
    match (group, copy) {
        ("FICLONE and FICLONERANGE", Copy::Clone) => Expected::refused("leave out --reflink always"),
        ("fadvise64", Copy::CheckCache) => Expected { status: 5, copied: true, says: "it left 1 page" },
        ("fadvise64", Copy::File | Copy::Pipe | Copy::Replace | Copy::Verify | Copy::Url) => {
            Expected::noted("may stay in the page cache: the kernel refuses posix_fadvise")
        }
        // EPERM means that the kernel does not report the pages to this user.
        ("cachestat", Copy::CheckCache) if error == libc::EPERM => Expected::UNKNOWN_PAGES,
        // The C library takes ENOSYS only as a reason to start threads in the older way.
        ("clone3", Copy::Tree) if error == libc::EPERM => Expected::refused("thread"),
        ("clone3", _) if error == libc::EPERM => Expected::NO_THREADS,
        _ => Expected::DONE,
    }
}

#[test]
#[ignore = "no test: the others start it, and it becomes dio-cp under a filter"]
fn launcher() {
    seccomp::become_dio_cp();
}

/// Makes all copies with each group of optional calls refused, one group at a time.
fn copies_without_each(error: i32) {
    needs_root_and!("losetup", "mkfs.xfs");
    let mut matrix = Matrix::new();
    for group in OPTIONAL {
        let filter = Filter::refusing(&[group], error);
        copies_under(&mut matrix, &filter, |copy| expected_without(group, error, copy));
    }
    matrix.finish();
}

#[test]
fn copies_work_without_each_call_that_an_old_kernel_lacks() {
    copies_without_each(libc::ENOSYS);
}

#[test]
fn copies_work_without_each_call_that_a_container_forbids() {
    copies_without_each(libc::EPERM);
}

#[test]
fn copies_without_any_optional_call_are_exact() {
    needs_root_and!("losetup", "mkfs.xfs");
    let mut matrix = Matrix::new();
    for (error, threads) in [(libc::ENOSYS, Expected::DONE), (libc::EPERM, Expected::NO_THREADS)] {
        copies_under(&mut matrix, &Filter::refusing(&OPTIONAL, error), |copy| match copy {
            Copy::CheckCache => Expected::UNKNOWN_PAGES,
            Copy::Clone => expected_without("FICLONE and FICLONERANGE", error, copy),
            Copy::Tree => expected_without("clone3", error, copy),
            _ => threads,
        });
    }
    matrix.finish();
}

#[test]
fn copies_under_linux_4_19_and_5_10_are_exact() {
    needs_root_and!("losetup", "mkfs.xfs");
    let mut matrix = Matrix::new();
    for filter in [Filter::linux_4_19(), Filter::linux_5_10()] {
        copies_under(&mut matrix, &filter, |_| Expected::DONE);
    }
    matrix.finish();
}
