//! Full disks, broken disks and limits: what is under the name, what is left, what the user reads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::*;

/// Free bytes of the filesystem that `path` is on.
fn free(path: &Path) -> u64 {
    let line = tool("stat", ["-f".as_ref(), "-c".as_ref(), "%f %S".as_ref(), path.as_os_str()]);
    line.split_whitespace().map(|n| n.parse::<u64>().unwrap()).product()
}

#[test]
fn a_full_disk_is_an_error_at_once_where_the_length_is_known() {
    needs_root_and!("losetup", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs");
    let scratch = Scratch::new();
    let src = scratch.file("src", 500 << 20);
    for (kind, len) in [("ext4", 64 << 20), ("xfs", 320 << 20), ("btrfs", 200 << 20)] {
        let mount = Mount::filesystem(&scratch, kind, len, 512);
        write(&mount.path("old"), b"old");
        for (name, left) in [("new", "was not created"), ("old", "is as it was")] {
            let dst = mount.path(name);
            let before = free(&mount.at);
            let start = Instant::now();
            let said = fails(1, [&src, &dst]);
            assert!(said.contains("No space left on device") && said.contains(left), "{kind}: {said}");
            assert!(said.contains("reserving 500.0 MiB"), "{kind}: {said}");
            assert!(said.contains("free some space"), "{kind}: {said}");
            assert!(start.elapsed() < Duration::from_secs(20), "{kind}: not at once");
            assert_eq!(names(&mount.at).iter().filter(|n| *n != "lost+found").collect::<Vec<_>>(), ["old"]);
            tool("sync", ["-f".as_ref(), mount.at.as_os_str()]);
            assert!(free(&mount.at) + (2 << 20) > before, "{kind}: space was lost");
        }
        assert_eq!(fs::read(mount.path("old")).unwrap(), b"old");
    }
}

#[test]
fn a_full_disk_in_the_middle_of_a_stream_leaves_nothing() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = Scratch::new();
    let mount = Mount::filesystem(&scratch, "ext4", 64 << 20, 512);
    let dst = mount.path("dst");
    for (words, what) in [(vec![], "writing"), (vec!["--size", "200M"], "reserving")] {
        let mut command = dio_cp();
        command.args(words).arg("-").arg(&dst);
        let output = feed(command, &content(200 << 20), 1 << 20);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("No space left on device") && said.contains(what), "{said}");
        assert!(!dst.exists());
    }
    // What fits, fits: the space that is reserved ahead of a stream must not be what fails.
    let most = free(&mount.at) as usize * 85 / 100;
    let mut command = dio_cp();
    command.arg("-").arg(&dst);
    let output = feed(command, &content(most), 1 << 20);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    same(&dst, &content(most));
}

#[test]
fn in_place_on_a_full_disk_fails_before_it_overwrites() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = Scratch::new();
    let src = scratch.file("src", 100 << 20);
    let mount = Mount::filesystem(&scratch, "ext4", 64 << 20, 512);
    let dst = mount.path("dst");
    write(&dst, &content(5000));
    let said = fails(1, ["--in-place".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert!(said.contains("No space left") && said.contains("is as it was"), "{said}");
    assert!(allocated(&dst) < 100_000, "space behind its end was kept: {}", allocated(&dst));
    same(&dst, &content(5000));
    // Nor is it kept when a signal ends it, or the source is too short.
    let mut command = dio_cp();
    command.args(["--size", "30M", "--in-place", "-"]).arg(&dst);
    assert_eq!(feed(command, &content(1000), 1000).status.code(), Some(3));
    assert!(allocated(&dst) < 100_000, "{}", allocated(&dst));
}

#[test]
fn a_file_size_limit_is_a_short_write_and_then_an_error() {
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
                command.arg(format!("--fsize={limit}")).arg(env!("CARGO_BIN_EXE_dio-cp"));
                command.args(["--direct", direct]).arg(if pipe { Path::new("-") } else { &src }).arg(&dst);
                let output = feed(command, &content(9_000_001), 1 << 20);
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(output.status.code(), Some(1), "{limit} {direct} {pipe}: {said}");
                assert!(said.contains("File too large") && said.contains("ulimit -f"), "{said}");
                assert_eq!(fs::read(&dst).unwrap(), b"old");
                assert_eq!(scratch.names(), ["dst", "src"]);
            }
        }
    }
    let mut command = Command::new("prlimit");
    command.arg("--fsize=9003008").arg(env!("CARGO_BIN_EXE_dio-cp")).arg(&src).arg(&dst);
    assert!(command.output().unwrap().status.success());
    same(&dst, &content(9_000_001));
}

/// A file in `at` that is an NBD export of `nbdkit`, until dropped.
struct Nbd(Child, std::path::PathBuf);

impl Nbd {
    fn new(at: &Path, words: &[&str]) -> Self {
        let file = at.join("nbd");
        write(&file, b"");
        let child = Command::new("nbdfuse")
            .arg(&file)
            .args(["--command", "nbdkit", "-s"])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while fs::metadata(&file).map_or(0, |m| m.len()) == 0 {
            assert!(start.elapsed() < Duration::from_secs(10), "nbdfuse did not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(child, file)
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.1).status();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn io_errors_are_told_with_their_place_and_what_is_left() {
    needs_root_and!("nbdfuse", "nbdkit");
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    write(&dst, b"old");
    {
        let nbd =
            Nbd::new(&scratch.0, &["--filter=error", "memory", "size=32M", "error-pread=EIO", "error-pread-rate=1"]);
        let said = fails(1, [&nbd.1, &dst]);
        assert!(
            said.contains("reading") && said.contains("Input/output error") && said.contains("is as it was"),
            "{said}"
        );
        assert_eq!(fs::read(&dst).unwrap(), b"old");
    }
    let src = scratch.file("src", 9_000_001);
    {
        let nbd =
            Nbd::new(&scratch.0, &["--filter=error", "memory", "size=32M", "error-pwrite=EIO", "error-pwrite-rate=1"]);
        let said = fails(1, ["--in-place".as_ref(), src.as_os_str(), nbd.1.as_os_str()]);
        assert!(said.contains("writing") && said.contains("Input/output error"), "{said}");
        assert!(said.contains("may be partly overwritten"), "{said}");
    }
    // And without errors it works, through the same FUSE file, in place and read back.
    let nbd = Nbd::new(&scratch.0, &["memory", "size=32M"]);
    copies(["--in-place".as_ref(), src.as_os_str(), nbd.1.as_os_str()]);
    copies(["--count".as_ref(), "9000001".as_ref(), nbd.1.as_os_str(), dst.as_os_str()]);
    same(&dst, &content(9_000_001));
}

#[test]
fn a_pipe_that_fails_to_be_written_stops_a_waiting_read() {
    // The destination fails while the source gives nothing: the error must not wait for it.
    let mut child =
        dio_cp().args(["-b", "4096", "-", "/dev/full"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), &content(5000)).unwrap();
    let start = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_stream_does_not_take_the_space_of_its_neighbours() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = Scratch::new();
    let mount = Mount::filesystem(&scratch, "ext4", 700 << 20, 512);
    let before = free(&mount.at);
    let written = 300 << 20;
    let mut child =
        dio_cp().arg("-").arg(mount.path("dst")).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), &content(written)).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let taken = before - free(&mount.at);
    assert!(taken < written as u64 + (32 << 20), "{taken} bytes taken for {written}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}
