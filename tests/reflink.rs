//! `--reflink`: on filesystems that share blocks between files, a copy moves no bytes and takes no space.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Stdio;

use common::*;

const DISK: u64 = 1 << 30;
const LEN: usize = 40 << 20;

/// Runs `test` on an XFS and a btrfs filesystem.
fn on_each_filesystem(test: impl Fn(&Mount)) {
    for kind in ["xfs", "btrfs"] {
        let scratch = Scratch::new();
        let mount = Mount::filesystem(&scratch, kind, DISK, 512);
        test(&mount);
    }
}

fn report(args: &[&str], src: &Path, dst: &Path) -> serde_json::Value {
    let output = dio_cp().args(["-q", "--json"]).args(args).arg(src).arg(dst).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn free_space(mount: &Mount) -> u64 {
    tool("sync", ["-f", mount.at.to_str().unwrap()]);
    dio_cp::sys::free_bytes(&File::open(&mount.at).unwrap()).unwrap()
}

/// Bytes of a file that share their blocks with another file, as filefrag(8) sees it.
fn shares_blocks(path: &Path) -> bool {
    tool("filefrag", ["-v".as_ref(), path.as_os_str()]).contains("shared")
}

#[test]
fn a_clone_is_exact_takes_no_space_and_inserts_no_page() {
    needs_root_and!("mkfs.xfs", "mkfs.btrfs", "filefrag");
    on_each_filesystem(|mount| {
        for len in [LEN, LEN - 1, LEN + 4097, 4096, 100_001] {
            let (src, dst) = (mount.path("src"), mount.path("dst"));
            let _ = fs::remove_file(&dst);
            write(&src, &content(len));
            make_cold(&src);
            let before = free_space(mount);
            let Some(trace) = Trace::new() else { return };
            let (json, insertions) = trace.during(|| report(&[], &src, &dst));
            assert_eq!((insertions.of(&src), insertions.of(&dst)), (0, 0), "{len}");
            assert_eq!((cached_pages(&src), cached_pages(&dst)), (0, 0), "{len}");
            assert_eq!(json["cloned"], len, "{json}");
            assert_eq!(
                (&json["bytes"], &json["written"]["direct"], &json["read"]["direct"]),
                (&len.into(), &0.into(), &0.into())
            );
            assert!(before.saturating_sub(free_space(mount)) < 2 << 20, "{len}");
            assert!(shares_blocks(&dst), "{len}");
            same(&dst, &content(len));
        }
    });
}

#[test]
fn the_report_says_that_nothing_was_moved() {
    needs_root_and!("mkfs.xfs");
    let scratch = Scratch::new();
    let mount = Mount::filesystem(&scratch, "xfs", DISK, 512);
    let (src, dst) = (mount.path("src"), mount.path("dst"));
    write(&src, &content(LEN));
    let said = copies([&src, &dst]);
    let (first, last) = said.trim_end().split_once('\n').unwrap();
    assert!(first.contains("cloned: 41943040 bytes of") && first.contains("share the blocks of"), "{said}");
    assert!(last.starts_with("41943040 bytes (41.9 MB, 40.0 MiB) copied, ") && last.ends_with(", 0 B/s"), "{said}");
}

#[test]
fn bytes_are_moved_where_the_user_asks_for_it() {
    needs_root_and!("mkfs.xfs", "mkfs.btrfs", "filefrag");
    on_each_filesystem(|mount| {
        let src = mount.path("src");
        write(&src, &content(LEN));
        for args in
            [&["--reflink", "never"][..], &["--sparse", "never"], &["--sparse", "always"], &["--direct", "never"]]
        {
            let dst = mount.path(&args.concat());
            let before = free_space(mount);
            let json = report(args, &src, &dst);
            assert_eq!(json["cloned"], 0, "{args:?}");
            assert!(before - free_space(mount) >= LEN as u64, "{args:?}");
            assert!(!shares_blocks(&dst), "{args:?}");
            same(&dst, &content(LEN));
        }
    });
}

#[test]
fn a_clone_keeps_every_other_promise() {
    needs_root_and!("mkfs.xfs", "mkfs.btrfs", "setfattr");
    on_each_filesystem(|mount| {
        let (src, dst) = (mount.path("src"), mount.path("dst"));
        write(&src, &content(LEN));
        tool("setfattr", ["-n", "user.color", "-v", "blue", src.to_str().unwrap()]);
        File::open(&src).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        write(&dst, b"old");
        // -n: the old file stays.
        fails(1, ["-n", src.to_str().unwrap(), dst.to_str().unwrap()]);
        same(&dst, b"old");
        // A wrong digest: the old file stays.
        let wrong = format!("sha256:{}", "00".repeat(32));
        fails(3, ["--checksum", &wrong, src.to_str().unwrap(), dst.to_str().unwrap()]);
        same(&dst, b"old");
        // The digest is that of the bytes, and they are on the medium. The checks bypass the cache.
        make_cold(&src);
        let json = report(&["-p", "--checksum", "sha256", "--verify", "--check-cache"], &src, &dst);
        assert_eq!(json["cloned"], LEN);
        assert_eq!(json["digest"]["hex"], tool("sha256sum", [&src])[..64]);
        assert_eq!((&json["verified"], &json["written"]["direct"]), (&true.into(), &0.into()));
        same(&dst, &content(LEN));
        assert_eq!(xattr::get(&dst, "user.color").unwrap().unwrap(), b"blue");
        assert_eq!(fs::metadata(&dst).unwrap().modified().unwrap(), std::time::UNIX_EPOCH);
        // Dirty pages of the source are part of the clone.
        File::options().write(true).open(&src).unwrap().write_all_at(b"fresh", 1_000_000).unwrap();
        report(&[], &src, &dst);
        let mut expected = content(LEN);
        expected[1_000_000..1_000_005].copy_from_slice(b"fresh");
        same(&dst, &expected);
        assert_eq!(names(&mount.at), ["dst", "src"]);
    });
}

#[test]
fn the_digest_of_a_clone_is_its_own_even_if_the_source_changes() {
    needs_root_and!("mkfs.xfs", "mkfs.btrfs");
    on_each_filesystem(|mount| {
        let (src, dst) = (mount.path("src"), mount.path("dst"));
        write(&src, &content(LEN));
        // Slow enough to change the source after the clone and before its last block is read.
        let mut command = dio_cp();
        command.args(["-q", "--json", "--checksum", "sha256", "--verify", "--rate-limit", "40M"]).args([&src, &dst]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        File::options().write(true).open(&src).unwrap().write_all_at(b"changed", LEN as u64 - 100).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["cloned"], LEN);
        assert_eq!(json["digest"]["hex"], tool("sha256sum", [&dst])[..64]);
        same(&dst, &content(LEN));
    });
}

#[test]
fn whole_blocks_of_a_part_are_cloned_and_the_rest_is_copied() {
    needs_root_and!("mkfs.xfs", "mkfs.btrfs");
    on_each_filesystem(|mount| {
        let (src, dst) = (mount.path("src"), mount.path("dst"));
        let bytes = content(LEN + 777);
        write(&src, &bytes);
        for (skip, count, cloned) in [
            (0, 1 << 20, 1 << 20),
            (8192, 100_000, 98_304),
            (8192, LEN, LEN + 777 - 8192),
            (4096, 4095, 0),
            (1, 1 << 20, 0),
        ] {
            for checks in [&[][..], &["--verify", "--checksum", "blake3"]] {
                let _ = fs::remove_file(&dst);
                let part = ["--skip", &skip.to_string(), "--count", &count.to_string()];
                let json = report(&[&part, checks].concat(), &src, &dst);
                assert_eq!(json["cloned"], cloned, "{skip} {count} {json}");
                let part = &bytes[skip..bytes.len().min(skip + count)];
                assert_eq!(json["bytes"], part.len());
                same(&dst, part);
                if !checks.is_empty() {
                    assert_eq!(json["digest"]["hex"], *blake3::hash(part).to_hex());
                }
            }
        }
        // In place: only the range changes.
        for (skip, seek, count) in [(0, 0, 1 << 20), (5000, 5000 + 8192, 1 << 20), (4096, 0, 10_000), (7, 0, 50_000)] {
            let old = content(3 << 20);
            write(&dst, &old);
            let inode = fs::metadata(&dst).unwrap().ino();
            let [skip_text, seek_text, count_text] = [skip, seek, count].map(|n: usize| n.to_string());
            let args = ["--skip", &skip_text, "--seek", &seek_text, "--count", &count_text];
            let json = report(&args, &src, &dst);
            assert_eq!(json["cloned"].as_u64().unwrap() > 0, skip % 4096 == seek % 4096, "{args:?}");
            let mut expected = old;
            expected[seek..seek + count].copy_from_slice(&bytes[skip..skip + count]);
            same(&dst, &expected);
            assert_eq!(fs::metadata(&dst).unwrap().ino(), inode);
        }
    });
}

#[test]
fn a_refused_clone_is_copied_silently_or_fails_as_asked() {
    needs_root_and!("mkfs.btrfs", "mkfs.ext4", "chattr");
    let scratch = Scratch::new();
    let btrfs = Mount::filesystem(&scratch, "btrfs", DISK, 512);
    let ext4 = Mount::filesystem(&scratch, "ext4", 256 << 20, 512);
    // Without checksums on one side, btrfs refuses.
    fs::create_dir(btrfs.path("nocow")).unwrap();
    tool("chattr", ["+C".as_ref(), btrfs.path("nocow").as_os_str()]);
    for (src, dst) in [
        (btrfs.path("nocow/src"), btrfs.path("dst")),
        (ext4.path("src"), ext4.path("dst")),
        (ext4.path("src"), btrfs.path("dst")),
    ] {
        write(&src, &content(3_000_001));
        write(&dst, b"old");
        let said = fails(1, ["--reflink", "always", src.to_str().unwrap(), dst.to_str().unwrap()]);
        assert!(said.contains("cloning") && said.contains("is as it was"), "{said}");
        same(&dst, b"old");
        let json = report(&[], &src, &dst);
        assert_eq!(json["cloned"], 0);
        assert!(!json["notes"].to_string().contains("cloned:"), "{json}");
        same(&dst, &content(3_000_001));
        assert_eq!(names(dst.parent().unwrap()).iter().filter(|name| name.ends_with("dio-cp")).count(), 0);
    }
}

#[test]
fn reflink_always_fails_for_streams_and_with_conflicting_options() {
    needs_root_and!("mkfs.xfs");
    let scratch = Scratch::new();
    let mount = Mount::filesystem(&scratch, "xfs", DISK, 512);
    let (src, dst) = (mount.path("src"), mount.path("dst"));
    write(&src, &content(5000));
    let (s, d) = (src.to_str().unwrap(), dst.to_str().unwrap());
    for option in [["--sparse", "always"], ["--sparse", "never"], ["--direct", "always"], ["--direct", "never"]] {
        let said = fails(2, [&["--reflink", "always"][..], &option, &[s, d]].concat());
        assert!(said.contains("--reflink"), "{said}");
    }
    let mut from_pipe = dio_cp();
    from_pipe.args(["--reflink", "always", "-", d]);
    let output = feed(from_pipe, b"text", 4);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    fails(1, ["--reflink", "always", "--skip", "1", s, d]);
    fails(1, ["--reflink", "always", s, "-"]);
    assert!(!dst.exists());
    // Standard input from a file, and an empty file.
    let mut from_file = dio_cp();
    from_file.args(["--reflink", "always", "-", d]).stdin(File::open(&src).unwrap()).stderr(Stdio::piped());
    let output = from_file.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    same(&dst, &content(5000));
    write(&src, b"");
    report(&["--reflink", "always"], &src, &dst);
    same(&dst, b"");
}
