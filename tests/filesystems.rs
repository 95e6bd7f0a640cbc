//! The same copies on every filesystem that can be made here; and where direct I/O is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;

use common::*;

/// A few copies in `dir` that must be exact wherever that is.
fn copies_are_exact(dir: &Path, knows_holes: bool) -> Vec<String> {
    let (src, dst) = (dir.join("src"), dir.join("dst"));
    let mut said = Vec::new();
    for len in [0, 1, 511, 512, 4095, 4097, 1 << 20, (9 << 20) + 513] {
        write(&src, &content(len));
        said.push(copies(["-v".as_ref(), src.as_os_str(), dst.as_os_str()]));
        same(&dst, &content(len));
        let mut command = dio_cp();
        command.arg("-").arg(&dst);
        assert!(feed(command, &content(len), 60_000).status.success());
        same(&dst, &content(len));
    }
    let len = (9 << 20) + 513;
    copies(["--skip", "1000", "--count", "5000001", src.to_str().unwrap(), dst.to_str().unwrap()]);
    same(&dst, &content(len)[1000..5_001_001]);
    copies(["--seek", "777", "--count", "3M", src.to_str().unwrap(), dst.to_str().unwrap()]);
    let mut expected = content(len)[1000..5_001_001].to_vec();
    expected[777..777 + (3 << 20)].copy_from_slice(&content(len)[..3 << 20]);
    same(&dst, &expected);
    sparse(&src, 30 << 20, &[(0, 10), (7 << 20, 50_000), ((30 << 20) - 1, 1)]);
    copies([&src, &dst]);
    same(&dst, &fs::read(&src).unwrap());
    assert!(!knows_holes || allocated(&dst) < 4 << 20, "{} in {}", allocated(&dst), dir.display());
    fs::remove_file(&src).unwrap();
    assert_eq!(names(dir).iter().filter(|n| n.contains("dio-cp")).count(), 0);
    said
}

#[test]
fn ext4_and_xfs_with_small_and_large_sectors_are_direct() {
    needs_root_and!("losetup", "mkfs.ext4", "mkfs.xfs");
    let scratch = Scratch::new();
    for (kind, sector) in [("ext4", 512), ("ext4", 4096), ("xfs", 512), ("xfs", 4096)] {
        let mount = Mount::filesystem(&scratch, kind, 400 << 20, sector);
        for said in copies_are_exact(&mount.at, true) {
            assert!(!said.contains("not direct"), "{kind}: {said}");
            assert!(said.contains("written direct"), "{kind}: {said}");
        }
        let (src, dst) = (scratch.file("src", 1_000_001), mount.path("dst"));
        copies(["--direct".as_ref(), "always".as_ref(), src.as_os_str(), dst.as_os_str()]);
        same(&dst, &content(1_000_001));
    }
}

#[test]
fn btrfs_is_exact_and_what_it_buffers_is_not_called_direct() {
    needs_root_and!("losetup", "mkfs.btrfs");
    let scratch = Scratch::new();
    let mount = Mount::filesystem(&scratch, "btrfs", 600 << 20, 512);
    let said = copies_are_exact(&mount.at, true);
    assert!(said.last().unwrap().contains("btrfs buffers files that have checksums"), "{said:?}");
    let (src, dst) = (mount.path("src"), mount.path("dst"));
    write(&src, &content(9_000_001));
    make_cold(&src);
    copies([&src, &dst]);
    assert_eq!((cached_pages(&src), cached_pages(&dst)), (0, 0));
    fails(4, ["--direct".as_ref(), "always".as_ref(), src.as_os_str(), dst.as_os_str()]);
    // Without checksums it keeps its word, and so do reads.
    let plain = mount.path("plain");
    fs::create_dir(&plain).unwrap();
    tool("chattr", ["+C", plain.to_str().unwrap()]);
    let dst = plain.join("dst");
    let Some(trace) = Trace::new() else { return };
    make_cold(&src);
    let words = ["--direct".as_ref(), "always".as_ref(), src.as_os_str(), dst.as_os_str()];
    let (_, inserted) = trace.during(|| copies(words));
    assert_eq!(inserted.of(&src), 0);
    assert!(inserted.of(&dst) <= 1, "{}", inserted.of(&dst));
    same(&dst, &content(9_000_001));
}

#[test]
fn compressed_files_are_read_through_the_cache_which_is_said_and_undone() {
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
    let said = copies([&src, &dst]);
    same(&dst, &bytes);
    assert!(said.contains("compressed"), "{said}");
    assert_eq!(cached_pages(&src), 0);
    make_hot(&src);
    let hot = cached_pages(&src);
    copies([&src, &dst]);
    assert_eq!(cached_pages(&src), hot);
}

#[test]
fn tmpfs_is_memory_and_never_called_direct() {
    let shm = Path::new("/dev/shm");
    if !shm.is_dir() {
        return skip("there is no /dev/shm");
    }
    let dir = shm.join(format!("dio-cp-test-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let said = copies_are_exact(&dir, true);
    assert!(said.last().unwrap().contains("is in memory"), "{said:?}");
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5000), dir.join("dst"));
    let said = fails(4, ["--direct".as_ref(), "always".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert!(said.contains("is in memory") && said.contains("as it was"), "{said}");
    let said = fails(4, ["--direct".as_ref(), "always".as_ref(), dst.as_os_str(), scratch.path("x").as_os_str()]);
    assert!(said.contains("is in memory"), "{said}");
    assert_eq!(names(&dir), ["dst"]);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn overlay_passes_direct_io_on() {
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
    let under = |name: &str| scratch.path("upper").join(name);
    assert_eq!(inserted.of(&under("src")), 0);
    assert!(inserted.of(&under("dst")) <= 1);
    assert_eq!(cached_pages(&under("dst")), 0);
    // cachestat sees nothing of a file there, and must not be taken for "nothing is cached".
    let resident = |path: &Path| {
        let output = run(["--residency".as_ref(), "--json".as_ref(), path.as_os_str()]);
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        found["resident"].clone()
    };
    assert_eq!(resident(&src), 0);
    fs::read(&src).unwrap();
    assert_eq!(resident(&src), 1221);
    let output = run(["--json".as_ref(), src.as_os_str(), dst.as_os_str()]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["read"]["resident"], 5_000_001);
    assert_eq!((resident(&src), cached_pages(&under("dst"))), (1221.into(), 0));
    let hole = mount.path("hole");
    sparse(&hole, 1 << 20, &[]);
    fs::read(&hole).unwrap();
    assert_eq!(resident(&hole), 256);
    // Pages of others stay, in the block that is cut, too.
    write(&dst, &content(5000));
    fs::read(&dst).unwrap();
    copies(["--in-place", "--seek", "8192", src.to_str().unwrap(), dst.to_str().unwrap()].map(OsStr::new));
    assert_eq!(cached_pages(&under("dst")), 2);
    // sync_file_range does nothing there.
    copies(["--no-sync".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert_eq!(cached_pages(&under("dst")), 0);
}

#[test]
fn what_mincore_hides_from_the_caller_on_an_overlay_is_not_read_from_the_cache() {
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
    // The owner changes, the data stay root's, below: mincore goes by those, and calls every page resident.
    let src = mount.path("src");
    chown(&src, Some(65534), None).unwrap();
    chown(scratch.path("out"), Some(65534), None).unwrap();
    assert!(!scratch.path("upper").join("src").metadata().is_ok_and(|found| found.blocks() > 100), "no metacopy");
    make_cold(&lower);
    // He may pass the directories above this one, which are perhaps root's alone.
    let caps = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"];
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_dio-cp")];
    let run = |words: &[&str]| {
        let output = Command::new("setpriv").args(caps).args(nobody).args(words).output().unwrap();
        (output.status.code(), serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_default())
    };
    let (src, dst) = (src.to_str().unwrap(), scratch.path("out").join("dst"));
    let (_, found) = run(&["--json", "--residency", src]);
    assert_eq!(found["unknown"], 1, "{found}");
    let (code, found) = run(&["--json", src, dst.to_str().unwrap()]);
    assert_eq!((code, &found["read"]["resident"]), (Some(0), &0.into()), "{found}");
    assert_eq!(cached_pages(&lower), 0);
}

#[test]
fn a_filesystem_without_direct_io_is_written_uncached() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = Scratch::new();
    let disk = Loop::new(&scratch, 400 << 20, 512);
    tool("mkfs.ext4", ["-q", disk.name()]);
    let name = disk.name().to_string();
    // ext4 has no direct I/O for files whose data go through the journal.
    let mount = Mount::with(&scratch, &["-o", "data=journal", &name], Some(disk));
    let said = copies_are_exact(&mount.at, true);
    let last = said.last().unwrap();
    assert!(last.contains("not direct: 9437697 bytes of"), "{last}");
    let (src, dst) = (scratch.file("src", 9_000_001), mount.path("dst"));
    copies([&src, &dst]);
    assert_eq!(cached_pages(&dst), 0);
    // As a source too: read-ahead must not leave anything.
    let big = mount.path("big");
    write(&big, &content(60 << 20));
    make_cold(&big);
    copies([&big, &scratch.path("copy")]);
    assert_eq!(cached_pages(&big), 0);
    let said = fails(4, ["--direct".as_ref(), "always".as_ref(), src.as_os_str(), mount.path("new").as_os_str()]);
    assert!(said.contains("direct I/O refused") && said.contains("was not created"), "{said}");
    assert!(!mount.path("new").exists());
}

#[test]
fn fuse_is_exact_and_leaves_no_page() {
    needs_root_and!("bindfs", "umount");
    let scratch = Scratch::new();
    let (under, at) = (scratch.path("under"), scratch.path("at"));
    fs::create_dir(&under).unwrap();
    fs::create_dir(&at).unwrap();
    tool("bindfs", [&under, &at]);
    let result = std::panic::catch_unwind(|| {
        copies_are_exact(&at, false);
        let (src, dst) = (at.join("src"), at.join("dst"));
        write(&src, &content(5_000_001));
        make_cold(&src);
        copies([&src, &dst]);
        assert_eq!((cached_pages(&src), cached_pages(&dst)), (0, 0));
    });
    tool("umount", ["-l".as_ref(), at.as_os_str()]);
    result.unwrap();
}

#[test]
fn read_only_and_missing_places_are_named() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = Scratch::new();
    let src = scratch.file("src", 5000);
    let mount = Mount::filesystem(&scratch, "ext4", 64 << 20, 512);
    write(&mount.path("old"), b"old");
    tool("mount", ["-o".as_ref(), "remount,ro".as_ref(), mount.at.as_os_str()]);
    for name in ["new", "old"] {
        let said = fails(1, [&src, &mount.path(name)]);
        assert!(said.contains("Read-only file system"), "{said}");
    }
    let said = fails(1, [src.clone(), scratch.path("missing/dst")]);
    assert!(said.contains("the directory does not exist") && said.contains("mkdir -p"), "{said}");
    fails(1, [src.clone(), src.join("dst")]);
}

#[test]
fn ext4_without_extents_is_exact_and_not_called_direct() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = Scratch::new();
    let disk = Loop::new(&scratch, 400 << 20, 512);
    tool("mkfs.ext4", ["-q", "-O", "^extent,^64bit,^metadata_csum", disk.name()]);
    let name = disk.name().to_string();
    let mount = Mount::with(&scratch, &["-t", "ext4", &name], Some(disk));
    copies_are_exact(&mount.at, true);
    let (src, dst) = (mount.path("src"), mount.path("dst"));
    // Data that are still to be allocated: the kernel finds none there.
    let file = fs::File::create(&src).unwrap();
    file.set_len(1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"hello", 83_717).unwrap();
    for sparse_word in ["auto", "always"] {
        copies(["--sparse".as_ref(), sparse_word.as_ref(), src.as_os_str(), dst.as_os_str()]);
        same(&dst, &fs::read(&src).unwrap());
    }
    write(&src, &content(9_000_001));
    let said = copies([&src, &dst]);
    assert!(said.contains("not direct") && said.contains("without extents"), "{said}");
    assert_eq!(cached_pages(&dst), 0);
}
