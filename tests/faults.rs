//! Full disks, I/O errors and resource limits: the state of DST, what is left on the disk, and the error message.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::*;

/// Free bytes of the filesystem that `path` is on.
fn free_space(path: &Path) -> u64 {
    let line = tool("stat", ["-f".as_ref(), "-c".as_ref(), "%f %S".as_ref(), path.as_os_str()]);
    line.split_whitespace().map(|n| n.parse::<u64>().unwrap()).product()
}

#[test]
fn a_copy_of_known_length_to_a_full_disk_fails_at_once() {
    needs_root_and!("losetup", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs");
    let scratch = Scratch::new();
    let src = scratch.file("src", 500 << 20);
    for (kind, len) in [("ext4", 64 << 20), ("xfs", 320 << 20), ("btrfs", 200 << 20)] {
        let mount = Mount::filesystem(&scratch, kind, len, 512);
        write(&mount.path("old"), b"old");
        for (name, state) in [("new", "was not created"), ("old", "is as it was")] {
            let dst = mount.path(name);
            let before = free_space(&mount.at);
            let start = Instant::now();
            let stderr = fails(1, [&src, &dst]);
            assert!(stderr.contains("No space left on device") && stderr.contains(state), "{kind}: {stderr}");
            assert!(stderr.contains("reserving 500.0 MiB"), "{kind}: {stderr}");
            assert!(stderr.contains("free some space"), "{kind}: {stderr}");
            assert!(start.elapsed() < Duration::from_secs(20), "{kind}: not at once");
            assert_eq!(names(&mount.at).iter().filter(|n| *n != "lost+found").collect::<Vec<_>>(), ["old"]);
            tool("sync", ["-f".as_ref(), mount.at.as_os_str()]);
            assert!(free_space(&mount.at) + (2 << 20) > before, "{kind}: space was lost");
        }
        assert_eq!(fs::read(mount.path("old")).unwrap(), b"old");
    }
}

#[test]
fn a_stream_that_fills_the_disk_leaves_no_file() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = Scratch::new();
    let mount = Mount::filesystem(&scratch, "ext4", 64 << 20, 512);
    let dst = mount.path("dst");
    for (args, operation) in [(vec![], "writing"), (vec!["--size", "200M"], "reserving")] {
        let mut command = dio_cp();
        command.args(args).arg("-").arg(&dst);
        let output = feed(command, &content(200 << 20), 1 << 20);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("No space left on device") && stderr.contains(operation), "{stderr}");
        assert!(!dst.exists());
    }
    // A stream that fits must succeed, although space is reserved ahead of it.
    let len = free_space(&mount.at) as usize * 85 / 100;
    let mut command = dio_cp();
    command.arg("-").arg(&dst);
    let output = feed(command, &content(len), 1 << 20);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    same(&dst, &content(len));
}

#[test]
fn in_place_on_a_full_disk_fails_before_the_first_write() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = Scratch::new();
    let src = scratch.file("src", 100 << 20);
    let mount = Mount::filesystem(&scratch, "ext4", 64 << 20, 512);
    let dst = mount.path("dst");
    write(&dst, &content(5000));
    let stderr = fails(1, ["--in-place".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert!(stderr.contains("No space left") && stderr.contains("is as it was"), "{stderr}");
    assert!(allocated(&dst) < 100_000, "space past its end was kept: {}", allocated(&dst));
    same(&dst, &content(5000));
    // The same if the source is too short.
    let mut command = dio_cp();
    command.args(["--size", "30M", "--in-place", "-"]).arg(&dst);
    assert_eq!(feed(command, &content(1000), 1000).status.code(), Some(3));
    assert!(allocated(&dst) < 100_000, "{}", allocated(&dst));
}

#[test]
fn a_file_size_limit_is_an_error_and_leaves_the_destination_unchanged() {
    if !has_tool("prlimit") {
        return skip("needs the tool prlimit");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 9_000_001), scratch.path("dst"));
    for limit in ["1000", "4096", "5000000", "8388608", "9000000"] {
        for direct in ["auto", "always", "never"] {
            for pipe in [false, true] {
                write(&dst, b"old");
                let mut command = Command::new("prlimit");
                command.arg(format!("--fsize={limit}")).arg(binary());
                command.args(["--direct", direct]).arg(if pipe { Path::new("-") } else { &src }).arg(&dst);
                let output = feed(command, &content(9_000_001), 1 << 20);
                let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(output.status.code(), Some(1), "{limit} {direct} {pipe}: {stderr}");
                assert!(stderr.contains("File too large") && stderr.contains("ulimit -f"), "{stderr}");
                assert_eq!(fs::read(&dst).unwrap(), b"old");
                assert_eq!(scratch.names(), ["dst", "src"]);
            }
        }
    }
    let mut command = Command::new("prlimit");
    command.arg("--fsize=9003008").arg(binary()).arg(&src).arg(&dst);
    assert!(command.output().unwrap().status.success());
    same(&dst, &content(9_000_001));
}

/// A file that is an NBD export of `nbdkit`, until dropped.
struct Nbd {
    child: Child,
    file: PathBuf,
}

impl Nbd {
    fn new(directory: &Path, args: &[&str]) -> Self {
        let file = directory.join("nbd");
        write(&file, b"");
        let child = Command::new("nbdfuse")
            .arg(&file)
            .args(["--command", "nbdkit", "-s"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while fs::metadata(&file).map_or(0, |m| m.len()) == 0 {
            assert!(start.elapsed() < Duration::from_secs(10), "nbdfuse did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, file }
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.file).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_io_error_is_reported_with_the_operation_and_the_state_of_the_destination() {
    needs_root_and!("nbdfuse", "nbdkit");
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    write(&dst, b"old");
    {
        let nbd =
            Nbd::new(&scratch.0, &["--filter=error", "memory", "size=32M", "error-pread=EIO", "error-pread-rate=1"]);
        let stderr = fails(1, [&nbd.file, &dst]);
        assert!(
            stderr.contains("reading") && stderr.contains("Input/output error") && stderr.contains("is as it was"),
            "{stderr}"
        );
        assert_eq!(fs::read(&dst).unwrap(), b"old");
    }
    let src = scratch.file("src", 9_000_001);
    {
        let nbd =
            Nbd::new(&scratch.0, &["--filter=error", "memory", "size=32M", "error-pwrite=EIO", "error-pwrite-rate=1"]);
        let stderr = fails(1, ["--in-place".as_ref(), src.as_os_str(), nbd.file.as_os_str()]);
        assert!(stderr.contains("writing") && stderr.contains("Input/output error"), "{stderr}");
        assert!(stderr.contains("may be partly overwritten"), "{stderr}");
    }
    // Without injected errors, copies to and from the FUSE file succeed.
    let nbd = Nbd::new(&scratch.0, &["memory", "size=32M"]);
    copies(["--in-place".as_ref(), src.as_os_str(), nbd.file.as_os_str()]);
    copies(["--count".as_ref(), "9000001".as_ref(), nbd.file.as_os_str(), dst.as_os_str()]);
    same(&dst, &content(9_000_001));
}

#[test]
fn a_write_error_ends_a_copy_that_waits_for_its_source() {
    // The pipe stays open without data, so the copy must not wait for it.
    let mut child =
        dio_cp().args(["-b", "4096", "-", "/dev/full"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), &content(5000)).unwrap();
    let start = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_stream_reserves_little_space_ahead() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = Scratch::new();
    let mount = Mount::filesystem(&scratch, "ext4", 700 << 20, 512);
    let before = free_space(&mount.at);
    let written = 300 << 20;
    let mut child =
        dio_cp().arg("-").arg(mount.path("dst")).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), &content(written)).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let used = before - free_space(&mount.at);
    assert!(used < written as u64 + (32 << 20), "{used} bytes used for {written}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

/// Runs `dio-cp` while every call of one kind fails with one error, as under a seccomp filter.
fn under_refusal(inject: &str, args: &[&OsStr]) -> std::process::Output {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-q", "-o", "/dev/null", "-e", &format!("inject={inject}")]);
    strace.arg(binary()).args(args).output().unwrap()
}

#[test]
fn optional_calls_that_are_refused_do_not_end_a_copy() {
    if !has_tool("strace") {
        return skip("needs the tool strace");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5_000_001), scratch.path("dst"));
    for call in ["statx", "fadvise64", "linkat", "fallocate", "sync_file_range", "renameat2", "preadv2"] {
        for error in ["EPERM", "ENOSYS"] {
            for (old, options) in [(false, &[][..]), (true, &[]), (false, &["-n"]), (false, &["--no-sync"])] {
                if call == "linkat" && options == ["-n"] {
                    continue; // publishing without replacing then needs renameat2
                }
                let _ = fs::remove_file(&dst);
                if old {
                    write(&dst, b"old");
                }
                make_cold(&src);
                let args: Vec<&OsStr> =
                    options.iter().map(OsStr::new).chain([src.as_os_str(), dst.as_os_str()]).collect();
                let output = under_refusal(&format!("{call}:error={error}"), &args);
                let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{call} {error} {options:?}: {stderr}");
                same(&dst, &content(5_000_001));
                assert_eq!(scratch.names(), ["dst", "src"], "{call} {error} {options:?}");
                let may_stay = call == "fadvise64" || call == "sync_file_range" && options == ["--no-sync"];
                assert_eq!(stderr.contains("may stay in the page cache"), may_stay, "{call}: {stderr}");
            }
        }
    }
    // Without linkat, renameat2 publishes a file that must not replace another.
    let _ = fs::remove_file(&dst);
    let args = ["-n".as_ref(), src.as_os_str(), dst.as_os_str()];
    assert!(under_refusal("linkat:error=EPERM", &args).status.success());
    same(&dst, &content(5_000_001));
    let output = under_refusal("linkat:error=EPERM", &args);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(scratch.names(), ["dst", "src"]);
}

#[test]
fn a_page_that_cannot_be_evicted_fails_check_cache() {
    if !has_tool("strace") || !can_count_pages() {
        return skip("needs strace and cachestat");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 100_001), scratch.path("dst"));
    make_cold(&src);
    let args = ["--check-cache".as_ref(), src.as_os_str(), dst.as_os_str()];
    let output = under_refusal("fadvise64:error=EPERM", &args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{stderr}");
    assert!(stderr.contains("may stay in the page cache"), "{stderr}");
    same(&dst, &content(100_001));
}

#[test]
fn a_replacement_whose_child_cannot_be_awaited_leaves_no_hidden_name() {
    if !has_tool("strace") {
        return skip("needs the tool strace");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 100_001), scratch.path("dst"));
    for _ in 0..10 {
        write(&dst, b"old");
        let output = under_refusal("wait4:error=EPERM", &[src.as_os_str(), dst.as_os_str()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        same(&dst, &content(100_001));
        assert_eq!(scratch.names(), ["dst", "src"]);
    }
}

#[test]
fn a_partial_file_that_cannot_be_locked_is_not_left_behind() {
    if !has_tool("strace") {
        return skip("needs the tool strace");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 100_001), scratch.path("dst"));
    let output = under_refusal("flock:error=ENOLCK", &["--resume".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert_eq!((output.status.code(), scratch.names()), (Some(1), vec!["src".to_string()]));
}
