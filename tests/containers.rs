//! The same copies in environments that lack something: filesystems, permissions, resources.
#![cfg(feature = "url")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;

use common::matrix::{Copy, Expected, Matrix, by, plainly};
use common::*;

const NOBODY: u32 = 65534;
/// The capability lets the other user reach the target directory, which may be closed to others.
const AS_NOBODY: [&str; 6] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
];

/// A directory that belongs to [`NOBODY`].
fn directory_of_nobody(matrix: &Matrix) -> PathBuf {
    let directory = matrix.directory().join("theirs");
    fs::create_dir(&directory).unwrap();
    chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
    directory
}

/// Makes copies by way of another program, whose words are `words`. All of them must succeed.
fn copies_by(copies: &[Copy], words: &[&str]) {
    copies_as_expected(copies, words, |_| Expected::DONE);
}

fn copies_as_expected(copies: &[Copy], words: &[&str], expected: impl Fn(Copy) -> Expected) {
    let mut matrix = Matrix::new();
    for copy in copies {
        matrix.copy(&words.join(" "), *copy, expected(*copy), &|arguments| by(words, arguments));
    }
    matrix.finish();
}

/// A shell that runs this line in a mount namespace of its own, and then becomes dio-cp.
fn in_mount_namespace(line: &str) -> Vec<String> {
    ["unshare", "--mount", "sh", "-c", &format!("{line} && exec \"$@\""), "sh"].map(Into::into).into()
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

#[test]
fn without_proc_everything_but_the_attributes_of_links_is_copied() {
    needs_root_and!("unshare", "losetup", "mkfs.xfs");
    let line = in_mount_namespace("mount -t tmpfs none /proc");
    copies_as_expected(&Copy::ALL, &words(&line), |copy| match copy {
        Copy::Tree => Expected::noted("could not be preserved"),
        _ => Expected::DONE,
    });
}

#[test]
fn without_sys_everything_is_copied() {
    needs_root_and!("unshare", "losetup", "mkfs.xfs");
    copies_by(&Copy::ALL, &words(&in_mount_namespace("mount -t tmpfs none /sys")));
}

#[test]
fn one_writable_directory_is_enough() {
    needs_root_and!("unshare", "losetup", "mkfs.xfs");
    let mut matrix = Matrix::new();
    let writable = matrix.directory().display().to_string();
    // Filesystems that are mounted below it stay writable, as does the device.
    let line = format!("mount --rbind {writable} {writable} && mount -o remount,ro,bind / && ! touch /x 2>/dev/null");
    let line = in_mount_namespace(&line);
    for copy in Copy::ALL {
        matrix.copy("a read-only root", copy, Expected::DONE, &|arguments| by(&words(&line), arguments));
    }
    matrix.finish();
}

#[test]
fn other_users_can_copy_what_is_theirs() {
    needs_root_and!("setpriv");
    let mut matrix = Matrix::for_users();
    let base = directory_of_nobody(&matrix);
    for copy in Copy::FOR_USERS {
        matrix.copy_in(&base, "user nobody", copy, Expected::DONE, &|arguments| by(&AS_NOBODY, arguments));
    }
    matrix.finish();
}

#[test]
fn a_directory_that_is_not_writable_is_an_error() {
    needs_root_and!("setpriv");
    let mut matrix = Matrix::for_users();
    for copy in Copy::FOR_USERS {
        let refused = Expected::refused("Permission denied");
        matrix.copy("user nobody", copy, refused, &|arguments| by(&AS_NOBODY, arguments));
    }
    matrix.finish();
}

#[test]
fn sixteen_open_files_are_enough_except_for_trees() {
    needs_root_and!("prlimit", "losetup", "mkfs.xfs");
    let copies: Vec<_> = Copy::ALL.into_iter().filter(|copy| *copy != Copy::Tree).collect();
    copies_by(&copies, &["prlimit", "--nofile=16:16"]);
    copies_by(&[Copy::Tree], &["prlimit", "--nofile=24:24"]);
}

#[test]
fn an_address_space_of_64_mib_is_enough() {
    needs_root_and!("prlimit", "losetup", "mkfs.xfs");
    copies_by(&Copy::ALL, &["prlimit", "--as=67108864:67108864"]);
}

#[test]
fn a_stack_of_256_kib_is_enough() {
    needs_root_and!("prlimit", "losetup", "mkfs.xfs");
    copies_by(&Copy::ALL, &["prlimit", "--stack=262144:262144"]);
}

#[test]
fn without_threads_single_files_are_copied() {
    needs_root_and!("prlimit", "setpriv");
    let mut matrix = Matrix::for_users();
    let base = directory_of_nobody(&matrix);
    // The limit does not apply to root. It counts all processes of the user, of which there is one.
    let words = [&["prlimit", "--nproc=1:1"], &AS_NOBODY[..]].concat();
    for copy in Copy::FOR_USERS {
        let expected = if copy == Copy::Tree { Expected::refused("starting a thread") } else { Expected::NO_THREADS };
        matrix.copy_in(&base, "no threads", copy, expected, &|arguments| by(&words, arguments));
    }
    matrix.finish();
}

#[test]
fn a_file_size_limit_is_an_error_except_for_devices() {
    needs_root_and!("prlimit", "losetup", "mkfs.xfs");
    let copies = [Copy::File, Copy::Pipe, Copy::Replace, Copy::Device, Copy::Clone, Copy::Verify, Copy::Url];
    copies_as_expected(&copies, &["prlimit", "--fsize=1048576:1048576"], |copy| match copy {
        Copy::Device => Expected::DONE,
        // XFS and the kernel call it an invalid argument.
        Copy::Clone => Expected::refused("leave out --reflink always"),
        _ => Expected::refused("File too large"),
    });
}

#[test]
fn closed_standard_streams_are_not_taken_for_files() {
    needs_root_and!("losetup", "mkfs.xfs");
    let copies: Vec<_> = Copy::ALL.into_iter().filter(|copy| *copy != Copy::Pipe).collect();
    copies_by(&copies, &["sh", "-c", "exec \"$@\" <&- >&- 2>&-", "sh"]);
}

#[test]
fn a_user_namespace_without_capabilities_is_enough() {
    needs_root_and!("unshare", "setpriv");
    let mut matrix = Matrix::for_users();
    // Owners cannot be set there, and need not be: the copies have the right one from the start.
    for copy in Copy::FOR_USERS {
        matrix.copy("a user namespace", copy, Expected::DONE, &|arguments| {
            by(&["unshare", "--user", "setpriv", "--bounding-set=-all", "--inh-caps=-all"], arguments)
        });
    }
    matrix.finish();
}

#[test]
fn copies_within_overlayfs_are_exact() {
    needs_root_and!("mount");
    let mut matrix = Matrix::for_users();
    let directory = matrix.directory().to_path_buf();
    ["lower", "upper", "work"].iter().for_each(|name| fs::create_dir(directory.join(name)).unwrap());
    let name = |name: &str| directory.join(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", name("lower"), name("upper"), name("work"));
    let scratch = Scratch::new();
    let mount = Mount::with(&scratch, &["-t", "overlay", "overlay", "-o", &options], None);
    for copy in Copy::FOR_USERS {
        matrix.copy_in(&mount.at, "overlayfs", copy, Expected::DONE, &plainly);
    }
    matrix.finish();
}
