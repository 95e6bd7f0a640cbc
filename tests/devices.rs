//! Block devices, as source and destination, with 512 and 4096-byte sectors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::*;

const SIZE: usize = 24 << 20;

/// What is on the device, read around the cache that another open may have.
fn on(device: &Path) -> Vec<u8> {
    tool("blockdev", ["--flushbufs", device.to_str().unwrap()]);
    fs::read(device).unwrap()
}

#[test]
fn any_offset_and_length_changes_nothing_else() {
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
            let seek_word = seek.to_string();
            let words = ["-f", "--seek", &seek_word, src.to_str().unwrap(), disk.name()];
            let said = copies(words);
            assert!(!said.contains("not direct"), "{said}");
            expected[seek..seek + len].copy_from_slice(&content(len));
            assert!(on(&disk.device) == expected, "{len} at {seek}, sector {sector}");
            // And from a pipe, with other bytes.
            let bytes: Vec<u8> = content(len).iter().map(|b| !b).collect();
            let mut command = dio_cp();
            command.args(["-f", "--seek", &seek_word, "-", disk.name()]);
            assert!(feed(command, &bytes, 70_000).status.success());
            expected[seek..seek + len].copy_from_slice(&bytes);
            assert!(on(&disk.device) == expected, "{len} at {seek} from a pipe, sector {sector}");
        }
    }
}

#[test]
fn a_device_is_read_whole_or_in_part() {
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
        // Into a directory, under its own name; and from device to device.
        let dir = scratch.path("dir");
        fs::create_dir_all(&dir).unwrap();
        copies([disk.name(), dir.to_str().unwrap()]);
        same(&dir.join(disk.device.file_name().unwrap()), &content(SIZE));
        let other = Loop::new(&scratch, SIZE as u64, 512);
        copies(["-f", disk.name(), other.name()]);
        assert!(on(&other.device) == content(SIZE));
    }
}

#[test]
fn neither_side_of_a_device_copy_is_cached() {
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
fn holes_are_written_as_zeros() {
    needs_root_and!("losetup", "blockdev");
    let scratch = Scratch::new();
    let src = scratch.path("src");
    sparse(&src, SIZE as u64, &[(5_000_001, 100), (9 << 20, 70_000)]);
    for sparse_word in ["auto", "always"] {
        let disk = Loop::new(&scratch, SIZE as u64, 512);
        let full = scratch.file("full", SIZE);
        copies(["-f", full.to_str().unwrap(), disk.name()]);
        copies(["-f", "--sparse", sparse_word, src.to_str().unwrap(), disk.name()]);
        assert!(on(&disk.device) == fs::read(&src).unwrap(), "{sparse_word}");
    }
}

#[test]
fn what_does_not_fit_is_refused_before_the_first_write() {
    needs_root_and!("losetup", "blockdev");
    let scratch = Scratch::new();
    let disk = Loop::new(&scratch, 1 << 20, 512);
    let src = scratch.file("src", (1 << 20) + 1);
    let said = fails(1, ["-f", src.to_str().unwrap(), disk.name()]);
    assert!(said.contains("too small") && said.contains("1048576"), "{said}");
    let said = fails(1, ["-f", "--seek", "2", "--count", "1M", src.to_str().unwrap(), disk.name()]);
    assert!(said.contains("too small"), "{said}");
    fails(2, ["-f", "--seek", "2M", src.to_str().unwrap(), disk.name()]);
    assert!(on(&disk.device).iter().all(|b| *b == 0));
    // From a pipe it shows when the device is full.
    let mut command = dio_cp();
    command.args(["-f", "-", disk.name()]);
    let output = feed(command, &content(3 << 20), 65_536);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("No space left") && said.contains("may be partly overwritten"), "{said}");
}

#[test]
fn a_mounted_device_is_refused_and_the_mount_named() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = Scratch::new();
    let src = scratch.file("src", 5000);
    let disk = Loop::new(&scratch, SIZE as u64, 512);
    tool("mkfs.ext4", ["-q", disk.name()]);
    let name = disk.name().to_string();
    let mount = Mount::with(&scratch, &[&name], Some(disk));
    let said = fails(1, ["-f", src.to_str().unwrap(), &name]);
    assert!(said.contains(&format!("mounted on {}", mount.at.display())), "{said}");
}

#[test]
fn without_a_terminal_it_needs_force() {
    needs_root_and!("losetup", "blockdev");
    let scratch = Scratch::new();
    let src = scratch.file("src", 5000);
    let disk = Loop::new(&scratch, SIZE as u64, 512);
    let said = fails(2, [src.to_str().unwrap(), disk.name()]);
    assert!(said.contains("-f") && said.contains("24.0 MiB"), "{said}");
    assert!(on(&disk.device).iter().all(|b| *b == 0));
}

#[test]
fn on_a_terminal_it_asks_once() {
    needs_root_and!("losetup", "blockdev", "script");
    let scratch = Scratch::new();
    let src = scratch.file("src", 5000);
    let disk = Loop::new(&scratch, SIZE as u64, 512);
    let line = format!("{} {} {}", env!("CARGO_BIN_EXE_dio-cp"), src.display(), disk.name());
    for (answer, status, first) in [("n\n", 1, 0), ("\n", 1, 0), ("y\n", 0, content(5000)[0])] {
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).stdout(Stdio::piped());
        let output = feed(command, answer.as_bytes(), 10);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert_eq!(said.matches("[y/N]").count(), 1, "{said}");
        assert!(said.contains("24.0 MiB") && said.contains(disk.backing.to_str().unwrap()), "{said}");
        assert_eq!(on(&disk.device)[0], first, "{said}");
    }
}

#[test]
fn a_loop_device_and_the_file_behind_it_are_the_same() {
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
}

#[test]
fn a_block_size_that_does_not_suit_the_sectors_is_refused() {
    needs_root_and!("losetup", "blockdev");
    let scratch = Scratch::new();
    let src = scratch.file("src", 50_000);
    let disk = Loop::new(&scratch, SIZE as u64, 4096);
    let said = fails(2, ["-f", "-b", "512", src.to_str().unwrap(), disk.name()]);
    assert!(said.contains("multiple of 4096") && said.contains("--block-size 4096"), "{said}");
    assert!(!said.contains("overwritten"), "{said}");
    let said = fails(2, ["-b", "512", disk.name(), scratch.path("dst").to_str().unwrap()]);
    assert!(said.contains("multiple of 4096"), "{said}");
    let small = Loop::new(&scratch, SIZE as u64, 512);
    copies(["-f", "-b", "512", src.to_str().unwrap(), small.name()]);
    assert!(on(&small.device)[..50_000] == content(50_000));
}

#[test]
fn unreadable_sectors_are_an_error_with_their_offset() {
    needs_root_and!("losetup");
    let scratch = Scratch::new();
    let disk = Loop::new(&scratch, SIZE as u64, 512);
    copies(["-f", scratch.file("src", SIZE).to_str().unwrap(), disk.name()]);
    fs::File::options().write(true).open(&disk.backing).unwrap().set_len(9 << 20).unwrap();
    let dst = scratch.path("dst");
    write(&dst, b"old");
    let said = fails(1, ["-b", "1M", "--queue-depth", "1", disk.name(), dst.to_str().unwrap()]);
    assert!(said.contains("Input/output error") && said.contains(" at 9.0 MiB"), "{said}");
    assert!(said.contains("is as it was"), "{said}");
    assert_eq!(fs::read(&dst).unwrap(), b"old");
}

#[test]
fn standard_output_that_is_a_device_is_not_written_unasked() {
    needs_root_and!("losetup", "blockdev");
    let scratch = Scratch::new();
    let src = scratch.file("src", 5000);
    let disk = Loop::new(&scratch, SIZE as u64, 512);
    let to_disk = |words: &[&str]| {
        let out = fs::File::options().write(true).open(&disk.device).unwrap();
        dio_cp().args(words).arg(&src).arg("-").stdout(out).output().unwrap()
    };
    let output = to_disk(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(on(&disk.device).iter().all(|b| *b == 0));
    assert!(to_disk(&["-f"]).status.success());
    assert!(on(&disk.device)[..5000] == content(5000));
}
