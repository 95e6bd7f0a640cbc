//! The same copies on each filesystem that the machine supports, with and without direct I/O.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;

use common::*;

/// Makes copies in `dir` that must be exact on any filesystem, clones included. Returns the standard error of some of them
/// that move the bytes.
fn copies_are_exact(dir: &Path, supports_holes: bool) -> Vec<String> {
    copies_with_reflink_are_exact("auto", dir, supports_holes);
    copies_with_reflink_are_exact("never", dir, supports_holes)
}

fn copies_with_reflink_are_exact(reflink: &str, dir: &Path, supports_holes: bool) -> Vec<String> {
    let reflink = ["--reflink", reflink];
    let copies = |args: &[&str], src: &Path, dst: &Path| {
        let paths = [src.as_os_str(), dst.as_os_str()];
        copies(reflink.iter().chain(args).map(|arg| arg.as_ref()).chain(paths))
    };
    let (src, dst) = (dir.join("src"), dir.join("dst"));
    let mut outputs = Vec::new();
    for len in [0, 1, 511, 512, 4095, 4097, 1 << 20, (9 << 20) + 513] {
        write(&src, &content(len));
        outputs.push(copies(&["-v"], &src, &dst));
        same(&dst, &content(len));
        let mut command = dio_cp();
        command.arg("-").arg(&dst);
        assert!(feed(command, &content(len), 60_000).status.success());
        same(&dst, &content(len));
    }
    let len = (9 << 20) + 513;
    copies(&["--skip", "1000", "--count", "5000001"], &src, &dst);
    same(&dst, &content(len)[1000..5_001_001]);
    copies(&["--seek", "777", "--count", "3M"], &src, &dst);
    let mut expected = content(len)[1000..5_001_001].to_vec();
    expected[777..777 + (3 << 20)].copy_from_slice(&content(len)[..3 << 20]);
    same(&dst, &expected);
    sparse(&src, 30 << 20, &[(0, 10), (7 << 20, 50_000), ((30 << 20) - 1, 1)]);
    copies(&[], &src, &dst);
    same(&dst, &fs::read(&src).unwrap());
    assert!(!supports_holes || allocated(&dst) < 4 << 20, "{} in {}", allocated(&dst), dir.display());
    fs::remove_file(&src).unwrap();
    assert_eq!(names(dir).iter().filter(|n| n.contains("dio-cp")).count(), 0);
    outputs
}

#[test]
fn copies_on_ext4_and_xfs_are_direct_with_small_and_large_sectors() {
    needs_root_and!("losetup", "mkfs.ext4", "mkfs.xfs");
    let scratch = Scratch::new();
    for (kind, sector) in [("ext4", 512), ("ext4", 4096), ("xfs", 512), ("xfs", 4096)] {
        let mount = Mount::filesystem(&scratch, kind, 400 << 20, sector);
        for stderr in copies_are_exact(&mount.at, true) {
            assert!(!stderr.contains("not direct"), "{kind}: {stderr}");
            assert!(stderr.contains("written direct"), "{kind}: {stderr}");
        }
        let (src, dst) = (scratch.file("src", 1_000_001), mount.path("dst"));
        copies(["--direct".as_ref(), "always".as_ref(), src.as_os_str(), dst.as_os_str()]);
        same(&dst, &content(1_000_001));
    }
}

#[test]
fn copies_on_btrfs_are_exact_and_buffered_writes_are_not_reported_as_direct() {
    needs_root_and!("losetup", "mkfs.btrfs");
    let scratch = Scratch::new();
    let mount = Mount::filesystem(&scratch, "btrfs", 600 << 20, 512);
    let outputs = copies_are_exact(&mount.at, true);
    assert!(outputs.last().unwrap().contains("btrfs buffers files that have checksums"), "{outputs:?}");
    let (src, dst) = (mount.path("src"), mount.path("dst"));
    write(&src, &content(9_000_001));
    make_cold(&src);
    copies([&src, &dst]);
    assert_eq!((cached_pages(&src), cached_pages(&dst)), (0, 0));
    fails(4, ["--direct".as_ref(), "always".as_ref(), src.as_os_str(), dst.as_os_str()]);
    // Files without checksums are really written with direct I/O. Reads always are.
    let plain = mount.path("plain");
    fs::create_dir(&plain).unwrap();
    tool("chattr", ["+C", plain.to_str().unwrap()]);
    let dst = plain.join("dst");
    let Some(trace) = Trace::new() else { return };
    make_cold(&src);
    let args = ["--direct".as_ref(), "always".as_ref(), src.as_os_str(), dst.as_os_str()];
    let (_, inserted) = trace.during(|| copies(args));
    assert_eq!(inserted.of(&src), 0);
    assert!(inserted.of(&dst) <= 1, "{}", inserted.of(&dst));
    same(&dst, &content(9_000_001));
}

#[test]
fn a_compressed_source_is_reported_as_buffered_and_leaves_no_cached_page() {
    needs_root_and!("losetup", "mkfs.btrfs");
    let scratch = Scratch::new();
    let disk = Loop::new(&scratch, 600 << 20, 512);
    tool("mkfs.btrfs", ["-q", disk.name()]);
    let name = disk.name().to_string();
    let mount = Mount::with(&scratch, &["-o", "compress=zstd", &name], Some(disk));
    let (src, dst) = (mount.path("src"), scratch.path("dst"));
    let bytes = vec![b'x'; 5_000_001];
    write(&src, &bytes);
    make_cold(&src);
    assert_eq!(cached_pages(&src), 0);
    let stderr = copies([&src, &dst]);
    same(&dst, &bytes);
    assert!(stderr.contains("compressed"), "{stderr}");
    assert_eq!(cached_pages(&src), 0);
    make_hot(&src);
    let hot = cached_pages(&src);
    copies([&src, &dst]);
    assert_eq!(cached_pages(&src), hot);
}

#[test]
fn copies_on_tmpfs_are_reported_as_in_memory_and_not_as_direct() {
    let shm = Path::new("/dev/shm");
    if !shm.is_dir() {
        return skip("there is no /dev/shm");
    }
    let dir = shm.join(format!("dio-cp-test-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let outputs = copies_are_exact(&dir, true);
    assert!(outputs.last().unwrap().contains("is in memory"), "{outputs:?}");
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5000), dir.join("dst"));
    let stderr = fails(4, ["--direct".as_ref(), "always".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert!(stderr.contains("is in memory") && stderr.contains("as it was"), "{stderr}");
    let stderr = fails(4, ["--direct".as_ref(), "always".as_ref(), dst.as_os_str(), scratch.path("x").as_os_str()]);
    assert!(stderr.contains("is in memory"), "{stderr}");
    assert_eq!(names(&dir), ["dst"]);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn copies_on_overlayfs_are_direct() {
    needs_root_and!("mount");
    let scratch = Scratch::new();
    for dir in ["lower", "upper", "work"] {
        fs::create_dir(scratch.path(dir)).unwrap();
    }
    let dirs = format!(
        "lowerdir={},upperdir={},workdir={}",
        scratch.path("lower").display(),
        scratch.path("upper").display(),
        scratch.path("work").display()
    );
    let mount = Mount::with(&scratch, &["-t", "overlay", "overlay", "-o", &dirs], None);
    copies_are_exact(&mount.at, true);
    let Some(trace) = Trace::new() else { return };
    let (src, dst) = (mount.path("src"), mount.path("dst"));
    write(&src, &content(5_000_001));
    make_cold(&src);
    let (_, inserted) = trace.during(|| copies([&src, &dst]));
    let upper = |name: &str| scratch.path("upper").join(name);
    assert_eq!(inserted.of(&upper("src")), 0);
    assert!(inserted.of(&upper("dst")) <= 1);
    assert_eq!(cached_pages(&upper("dst")), 0);
    // On overlayfs, cachestat reports no page at all. That must not be taken to mean that nothing is cached.
    let resident = |path: &Path| {
        let output = run(["--residency".as_ref(), "--json".as_ref(), path.as_os_str()]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report["resident"].clone()
    };
    assert_eq!(resident(&src), 0);
    fs::read(&src).unwrap();
    assert_eq!(resident(&src), 1221);
    let output = run(["--json".as_ref(), src.as_os_str(), dst.as_os_str()]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["read"]["resident"], 5_000_001);
    assert_eq!((resident(&src), cached_pages(&upper("dst"))), (1221.into(), 0));
    let hole = mount.path("hole");
    sparse(&hole, 1 << 20, &[]);
    fs::read(&hole).unwrap();
    assert_eq!(resident(&hole), 256);
    // Pages that were cached before stay, including those of a partial block.
    write(&dst, &content(5000));
    fs::read(&dst).unwrap();
    copies(["--in-place", "--seek", "8192", src.to_str().unwrap(), dst.to_str().unwrap()].map(OsStr::new));
    assert_eq!(cached_pages(&upper("dst")), 2);
    // sync_file_range does nothing on overlayfs.
    copies(["--no-sync".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert_eq!(cached_pages(&upper("dst")), 0);
}

#[test]
fn pages_that_mincore_does_not_report_on_overlayfs_are_not_read_from_the_cache() {
    needs_root_and!("mount", "setpriv");
    let scratch = Scratch::new();
    for dir in ["lower", "upper", "work", "out"] {
        fs::create_dir(scratch.path(dir)).unwrap();
    }
    let lower = scratch.path("lower").join("src");
    write(&lower, &content(5_000_001));
    let dirs = format!(
        "metacopy=on,lowerdir={},upperdir={},workdir={}",
        scratch.path("lower").display(),
        scratch.path("upper").display(),
        scratch.path("work").display()
    );
    let mount = Mount::with(&scratch, &["-t", "overlay", "overlay", "-o", &dirs], None);
    // With metacopy, chown changes the owner, but the data stays in the lower file, which is root's. mincore checks the
    // lower file, so it calls every page resident.
    let src = mount.path("src");
    chown(&src, Some(65534), None).unwrap();
    chown(scratch.path("out"), Some(65534), None).unwrap();
    assert!(!scratch.path("upper").join("src").metadata().is_ok_and(|metadata| metadata.blocks() > 100), "no metacopy");
    make_cold(&lower);
    // The capability lets the other user reach the target directory, which may be closed to others.
    let caps = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"];
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", binary()];
    let run = |args: &[&str]| {
        let output = Command::new("setpriv").args(caps).args(nobody).args(args).output().unwrap();
        (output.status.code(), serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_default())
    };
    let (src, dst) = (src.to_str().unwrap(), scratch.path("out").join("dst"));
    let (_, report) = run(&["--json", "--residency", src]);
    assert_eq!(report["unknown"], 1, "{report}");
    let (code, report) = run(&["--json", src, dst.to_str().unwrap()]);
    assert_eq!((code, &report["read"]["resident"]), (Some(0), &0.into()), "{report}");
    assert_eq!(cached_pages(&lower), 0);
}

#[test]
fn copies_on_a_filesystem_without_direct_io_leave_no_cached_page() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = Scratch::new();
    let disk = Loop::new(&scratch, 400 << 20, 512);
    tool("mkfs.ext4", ["-q", disk.name()]);
    let name = disk.name().to_string();
    // With data=journal, ext4 does not support direct I/O.
    let mount = Mount::with(&scratch, &["-o", "data=journal", &name], Some(disk));
    let outputs = copies_are_exact(&mount.at, true);
    let last = outputs.last().unwrap();
    assert!(last.contains("not direct: 9437697 bytes of"), "{last}");
    let (src, dst) = (scratch.file("src", 9_000_001), mount.path("dst"));
    copies([&src, &dst]);
    assert_eq!(cached_pages(&dst), 0);
    // The same for a source. Read-ahead must leave no cached page.
    let big = mount.path("big");
    write(&big, &content(60 << 20));
    make_cold(&big);
    copies([&big, &scratch.path("copy")]);
    assert_eq!(cached_pages(&big), 0);
    let stderr = fails(4, ["--direct".as_ref(), "always".as_ref(), src.as_os_str(), mount.path("new").as_os_str()]);
    assert!(stderr.contains("direct I/O refused") && stderr.contains("was not created"), "{stderr}");
    assert!(!mount.path("new").exists());
}

#[test]
fn copies_on_fuse_are_exact_and_leave_no_cached_page() {
    needs_root_and!("bindfs", "umount");
    let scratch = Scratch::new();
    let (under, mount_point) = (scratch.path("under"), scratch.path("mnt"));
    fs::create_dir(&under).unwrap();
    fs::create_dir(&mount_point).unwrap();
    tool("bindfs", [&under, &mount_point]);
    let result = std::panic::catch_unwind(|| {
        copies_are_exact(&mount_point, false);
        let (src, dst) = (mount_point.join("src"), mount_point.join("dst"));
        write(&src, &content(5_000_001));
        make_cold(&src);
        copies([&src, &dst]);
        assert_eq!((cached_pages(&src), cached_pages(&dst)), (0, 0));
    });
    tool("umount", ["-l".as_ref(), mount_point.as_os_str()]);
    result.unwrap();
}

#[test]
fn a_read_only_filesystem_and_a_missing_directory_are_reported() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = Scratch::new();
    let src = scratch.file("src", 5000);
    let mount = Mount::filesystem(&scratch, "ext4", 64 << 20, 512);
    write(&mount.path("old"), b"old");
    tool("mount", ["-o".as_ref(), "remount,ro".as_ref(), mount.at.as_os_str()]);
    for name in ["new", "old"] {
        let stderr = fails(1, [&src, &mount.path(name)]);
        assert!(stderr.contains("Read-only file system"), "{stderr}");
    }
    let stderr = fails(1, [src.clone(), scratch.path("missing/dst")]);
    assert!(stderr.contains("the directory does not exist") && stderr.contains("mkdir -p"), "{stderr}");
    fails(1, [src.clone(), src.join("dst")]);
}

#[test]
fn copies_on_ext4_without_extents_are_exact_and_not_reported_as_direct() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = Scratch::new();
    let disk = Loop::new(&scratch, 400 << 20, 512);
    tool("mkfs.ext4", ["-q", "-O", "^extent,^64bit,^metadata_csum", disk.name()]);
    let name = disk.name().to_string();
    let mount = Mount::with(&scratch, &["-t", "ext4", &name], Some(disk));
    copies_are_exact(&mount.at, true);
    let (src, dst) = (mount.path("src"), mount.path("dst"));
    // With delayed allocation, SEEK_DATA does not find data that has no block yet.
    let file = fs::File::create(&src).unwrap();
    file.set_len(1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"hello", 83_717).unwrap();
    for sparse_mode in ["auto", "always"] {
        copies(["--sparse".as_ref(), sparse_mode.as_ref(), src.as_os_str(), dst.as_os_str()]);
        same(&dst, &fs::read(&src).unwrap());
    }
    write(&src, &content(9_000_001));
    let stderr = copies([&src, &dst]);
    assert!(stderr.contains("not direct") && stderr.contains("without extents"), "{stderr}");
    assert_eq!(cached_pages(&dst), 0);
}
