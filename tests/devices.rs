//! Block devices, as source and destination, with 512 and 4096-byte sectors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use common::*;

const SIZE: usize = 24 << 20;

/// The content of the device, without pages that an open file descriptor may have cached.
fn read_device(device: &Path) -> Vec<u8> {
    tool("blockdev", ["--flushbufs", device.to_str().unwrap()]);
    fs::read(device).unwrap()
}

#[test]
fn a_copy_to_any_offset_of_a_device_changes_no_other_byte() {
    needs_root_and!("losetup", "blockdev");
    let scratch = Scratch::new();
    for sector in [512, 4096] {
        let disk = Loop::new(&scratch, SIZE as u64, sector);
        let mut expected = vec![0; SIZE];
        for (len, seek) in [
            (SIZE, 0),
            (1, 0),
            (513, 1),
            (5000, 4095),
            (4096, 8192),
            (9_000_001, 1_000_003),
            (0, 77),
            (700, SIZE - 700),
        ] {
            let src = scratch.file("src", len);
            let seek_value = seek.to_string();
            let args = ["-f", "--seek", &seek_value, src.to_str().unwrap(), disk.name()];
            let stderr = copies(args);
            assert!(!stderr.contains("not direct"), "{stderr}");
            expected[seek..seek + len].copy_from_slice(&content(len));
            assert!(read_device(&disk.device) == expected, "{len} at {seek}, sector {sector}");
            // The same from a pipe, with other bytes.
            let bytes: Vec<u8> = content(len).iter().map(|b| !b).collect();
            let mut command = dio_cp();
            command.args(["-f", "--seek", &seek_value, "-", disk.name()]);
            assert!(feed(command, &bytes, 70_000).status.success());
            expected[seek..seek + len].copy_from_slice(&bytes);
            assert!(read_device(&disk.device) == expected, "{len} at {seek} from a pipe, sector {sector}");
        }
    }
}

#[test]
fn a_device_is_copied_completely_or_in_part() {
    needs_root_and!("losetup", "blockdev");
    let scratch = Scratch::new();
    for sector in [512, 4096] {
        let disk = Loop::new(&scratch, SIZE as u64, sector);
        let src = scratch.file("src", SIZE);
        copies(["-f", src.to_str().unwrap(), disk.name()]);
        let dst = scratch.path("dst");
        copies([disk.name(), dst.to_str().unwrap()]);
        same(&dst, &content(SIZE));
        copies([disk.name(), dst.to_str().unwrap(), "--skip", "12345", "--count", "1000001"]);
        same(&dst, &content(SIZE)[12_345..1_012_346]);
        // Into a directory, where the copy has the device's name; and from device to device.
        let dir = scratch.path("dir");
        fs::create_dir_all(&dir).unwrap();
        copies([disk.name(), dir.to_str().unwrap()]);
        same(&dir.join(disk.device.file_name().unwrap()), &content(SIZE));
        let other = Loop::new(&scratch, SIZE as u64, 512);
        copies(["-f", disk.name(), other.name()]);
        assert!(read_device(&other.device) == content(SIZE));
    }
}

#[test]
fn copies_from_and_to_a_device_leave_no_cached_page() {
    needs_root_and!("losetup", "blockdev");
    if !can_count_pages() {
        return skip("needs cachestat (Linux 6.5)");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 9_000_001), scratch.path("dst"));
    let disk = Loop::new(&scratch, SIZE as u64, 512);
    tool("blockdev", ["--flushbufs", disk.name()]);
    let before = cached_pages(&disk.device);
    copies(["-f", "--seek", "100", src.to_str().unwrap(), disk.name()]);
    copies([disk.name(), dst.to_str().unwrap()]);
    assert!(cached_pages(&disk.device) <= before, "{} of the device", cached_pages(&disk.device));
    assert_eq!(cached_pages(&dst), 0);
}

#[test]
fn holes_are_written_to_a_device_as_zeros() {
    needs_root_and!("losetup", "blockdev");
    let scratch = Scratch::new();
    let src = scratch.path("src");
    sparse(&src, SIZE as u64, &[(5_000_001, 100), (9 << 20, 70_000)]);
    for sparse_mode in ["auto", "always"] {
        let disk = Loop::new(&scratch, SIZE as u64, 512);
        let full = scratch.file("full", SIZE);
        copies(["-f", full.to_str().unwrap(), disk.name()]);
        copies(["-f", "--sparse", sparse_mode, src.to_str().unwrap(), disk.name()]);
        assert!(read_device(&disk.device) == fs::read(&src).unwrap(), "{sparse_mode}");
    }
}

#[test]
fn a_source_that_is_too_large_is_refused_before_the_first_write() {
    needs_root_and!("losetup", "blockdev");
    let scratch = Scratch::new();
    let disk = Loop::new(&scratch, 1 << 20, 512);
    let src = scratch.file("src", (1 << 20) + 1);
    let stderr = fails(1, ["-f", src.to_str().unwrap(), disk.name()]);
    assert!(stderr.contains("too small") && stderr.contains("1048576"), "{stderr}");
    let stderr = fails(1, ["-f", "--seek", "2", "--count", "1M", src.to_str().unwrap(), disk.name()]);
    assert!(stderr.contains("too small"), "{stderr}");
    fails(2, ["-f", "--seek", "2M", src.to_str().unwrap(), disk.name()]);
    assert!(read_device(&disk.device).iter().all(|b| *b == 0));
    // The length of a pipe is unknown, so the copy fails when the device is full.
    let mut command = dio_cp();
    command.args(["-f", "-", disk.name()]);
    let output = feed(command, &content(3 << 20), 65_536);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("No space left") && stderr.contains("may be partly overwritten"), "{stderr}");
}

#[test]
fn a_mounted_device_is_refused_and_the_error_names_the_mount_point() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = Scratch::new();
    let src = scratch.file("src", 5000);
    let disk = Loop::new(&scratch, SIZE as u64, 512);
    tool("mkfs.ext4", ["-q", disk.name()]);
    let name = disk.name().to_string();
    let mount = Mount::with(&scratch, &[&name], Some(disk));
    let stderr = fails(1, ["-f", src.to_str().unwrap(), &name]);
    assert!(stderr.contains(&format!("mounted on {}", mount.at.display())), "{stderr}");
    // /proc/self/mountinfo escapes the space, and not what a terminal would obey.
    let (odd, disk) = (scratch.0.join(OsStr::from_bytes(b"a b\x1b\xff")), Loop::new(&scratch, SIZE as u64, 512));
    fs::create_dir(&odd).unwrap();
    tool("mkfs.ext4", ["-q", disk.name()]);
    tool("mount", [disk.device.as_os_str(), odd.as_os_str()]);
    let stderr = fails(1, ["-f", src.to_str().unwrap(), disk.name()]);
    tool("umount", [&odd]);
    assert!(stderr.contains("/a b\\u{1b}\u{fffd}; unmount"), "{stderr}");
}

#[test]
fn without_a_terminal_a_copy_to_a_device_needs_force() {
    needs_root_and!("losetup", "blockdev");
    let scratch = Scratch::new();
    let src = scratch.file("src", 5000);
    let disk = Loop::new(&scratch, SIZE as u64, 512);
    let stderr = fails(2, [src.to_str().unwrap(), disk.name()]);
    assert!(stderr.contains("-f") && stderr.contains("24.0 MiB"), "{stderr}");
    assert!(read_device(&disk.device).iter().all(|b| *b == 0));
}

#[test]
fn on_a_terminal_a_copy_to_a_device_asks_once() {
    needs_root_and!("losetup", "blockdev", "script");
    let scratch = Scratch::new();
    let src = scratch.file("src", 5000);
    let disk = Loop::new(&scratch, SIZE as u64, 512);
    let line = format!("{} {} {}", binary(), src.display(), disk.name());
    for (answer, status, first_byte) in [("n\n", 1, 0), ("\n", 1, 0), ("y\n", 0, content(5000)[0])] {
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).stdout(Stdio::piped());
        let output = feed(command, answer.as_bytes(), 10);
        let stderr = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(status), "{stderr}");
        assert_eq!(stderr.matches("[y/N]").count(), 1, "{stderr}");
        assert!(stderr.contains("24.0 MiB") && stderr.contains(disk.backing.to_str().unwrap()), "{stderr}");
        assert_eq!(read_device(&disk.device)[0], first_byte, "{stderr}");
    }
}

#[test]
fn the_time_for_an_answer_is_not_a_part_of_the_copy() {
    needs_root_and!("losetup", "blockdev", "script");
    let scratch = Scratch::new();
    let src = scratch.file("src", 5000);
    let disk = Loop::new(&scratch, SIZE as u64, 512);
    let line = format!("(sleep 3; echo y) | script -qec '{} {} {}' /dev/null", binary(), src.display(), disk.name());
    let start = Instant::now();
    let output = tool("sh", ["-c", &line]);
    let elapsed = start.elapsed().as_secs_f64();
    let seconds = output.split("copied, ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    // However slow the copy is, most of the wait is missing from its time. It began after the program had started.
    assert!(elapsed - seconds.parse::<f64>().unwrap() > 2.0, "{elapsed} s: {output}");
}

#[test]
fn a_loop_device_and_its_backing_file_are_the_same_file() {
    needs_root_and!("losetup");
    let scratch = Scratch::new();
    let disk = Loop::new(&scratch, SIZE as u64, 512);
    let node = scratch.path("node");
    let number = fs::read_to_string(format!("/sys/block/{}/dev", disk.device.file_name().unwrap().to_str().unwrap()));
    let number = number.unwrap();
    let (major, minor) = number.trim().split_once(':').unwrap();
    tool("mknod", [node.to_str().unwrap(), "b", major, minor]);
    let backing = disk.backing.to_str().unwrap();
    let node = node.to_str().unwrap();
    for (a, b) in [(disk.name(), disk.name()), (disk.name(), node), (backing, disk.name()), (disk.name(), backing)] {
        assert!(fails(1, ["-f", a, b]).contains("same file"), "{a} {b}");
    }
    // sysfs gives the name as it is.
    for name in [&b"not UTF-8 \xff"[..], b"space at the end ", b"newline at the end\n"] {
        let renamed = scratch.0.join(OsStr::from_bytes(name));
        fs::rename(&disk.backing, &renamed).unwrap();
        assert!(fails(1, [OsStr::new("-f"), renamed.as_os_str(), disk.device.as_os_str()]).contains("same file"));
        fs::rename(&renamed, &disk.backing).unwrap();
    }
}

#[test]
fn a_block_size_that_is_not_a_multiple_of_the_sector_size_is_refused() {
    needs_root_and!("losetup", "blockdev");
    let scratch = Scratch::new();
    let src = scratch.file("src", 50_000);
    let disk = Loop::new(&scratch, SIZE as u64, 4096);
    let stderr = fails(2, ["-f", "-b", "512", src.to_str().unwrap(), disk.name()]);
    assert!(stderr.contains("multiple of 4096") && stderr.contains("--block-size 4096"), "{stderr}");
    assert!(!stderr.contains("overwritten"), "{stderr}");
    let stderr = fails(2, ["-b", "512", disk.name(), scratch.path("dst").to_str().unwrap()]);
    assert!(stderr.contains("multiple of 4096"), "{stderr}");
    let small_sectors = Loop::new(&scratch, SIZE as u64, 512);
    copies(["-f", "-b", "512", src.to_str().unwrap(), small_sectors.name()]);
    assert!(read_device(&small_sectors.device)[..50_000] == content(50_000));
}

#[test]
fn a_read_error_is_reported_with_its_offset() {
    needs_root_and!("losetup");
    let scratch = Scratch::new();
    let disk = Loop::new(&scratch, SIZE as u64, 512);
    copies(["-f", scratch.file("src", SIZE).to_str().unwrap(), disk.name()]);
    fs::File::options().write(true).open(&disk.backing).unwrap().set_len(9 << 20).unwrap();
    let dst = scratch.path("dst");
    write(&dst, b"old");
    let stderr = fails(1, ["-b", "1M", "--queue-depth", "1", disk.name(), dst.to_str().unwrap()]);
    assert!(stderr.contains("Input/output error") && stderr.contains(" at 9.0 MiB"), "{stderr}");
    assert!(stderr.contains("is as it was"), "{stderr}");
    assert_eq!(fs::read(&dst).unwrap(), b"old");
}

#[test]
fn a_device_as_standard_output_needs_force() {
    needs_root_and!("losetup", "blockdev");
    let scratch = Scratch::new();
    let src = scratch.file("src", 5000);
    let disk = Loop::new(&scratch, SIZE as u64, 512);
    let to_disk = |args: &[&str]| {
        let out = fs::File::options().write(true).open(&disk.device).unwrap();
        dio_cp().args(args).arg(&src).arg("-").stdout(out).output().unwrap()
    };
    let output = to_disk(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(read_device(&disk.device).iter().all(|b| *b == 0));
    assert!(to_disk(&["-f"]).status.success());
    assert!(read_device(&disk.device)[..5000] == content(5000));
}
