//! Promise 2: a copy leaves the page cache as it was. The tests count the pages that the kernel inserts during the
//! copy, not only those that are left at its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::File;
use std::path::Path;

use common::*;

/// Runs the test in the target directory, and on ext4 and XFS with 512 and 4096-byte sectors.
fn on_each_filesystem(test: impl Fn(&Scratch, &Path, &Trace)) {
    let Some(trace) = Trace::new() else { return };
    let scratch = Scratch::new();
    test(&scratch, &scratch.0, &trace);
    for (kind, sector) in [("ext4", 512), ("ext4", 4096), ("xfs", 512), ("xfs", 4096)] {
        let mount = Mount::filesystem(&scratch, kind, 400 << 20, sector);
        test(&scratch, &mount.at, &trace);
    }
}

#[test]
fn a_file_copy_caches_no_page_of_the_source_and_at_most_one_of_the_destination() {
    needs_root_and!("mkfs.xfs", "mkfs.ext4", "losetup");
    on_each_filesystem(|_, dir, trace| {
        for len in [4096, 5000, 1 << 20, (9 << 20) + 1, (20 << 20) + 513] {
            let (src, dst) = (dir.join("src"), dir.join("dst"));
            write(&src, &content(len));
            make_cold(&src);
            let (stderr, inserted) = trace.during(|| copies([&src, &dst]));
            assert_eq!(inserted.of(&src), 0, "{len} in {}: {stderr}", dir.display());
            assert!(inserted.of(&dst) <= 1, "{len} in {}: {}", dir.display(), inserted.of(&dst));
            assert_eq!(cached_pages(&dst), 0, "{len} in {}", dir.display());
            assert!(!stderr.contains("not direct"), "{stderr}");
            same(&dst, &content(len));
        }
    });
}

#[test]
fn a_copy_from_a_pipe_with_short_reads_caches_at_most_one_page() {
    needs_root_and!("mkfs.xfs", "mkfs.ext4", "losetup");
    on_each_filesystem(|_, dir, trace| {
        let dst = dir.join("dst");
        let bytes = content((9 << 20) + 777);
        for chunk in [999, 65_536] {
            let mut command = dio_cp();
            command.arg("-").arg(&dst);
            let (output, inserted) = trace.during(|| feed(command, &bytes, chunk));
            assert!(output.status.success());
            assert!(inserted.of(&dst) <= 1, "{} in {}", inserted.of(&dst), dir.display());
            assert_eq!(cached_pages(&dst), 0);
        }
    });
}

#[test]
fn the_trace_counts_the_pages_of_a_buffered_copy() {
    needs_root_and!();
    let Some(trace) = Trace::new() else { return };
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 1 << 20), scratch.path("dst"));
    make_cold(&src);
    let args = ["--direct", "never", src.to_str().unwrap(), dst.to_str().unwrap()];
    let (_, inserted) = trace.during(|| copies(args));
    assert_eq!(inserted.of(&src), 256);
    assert_eq!(inserted.of(&dst), 256);
    assert_eq!(cached_pages(&dst), 256); // --direct never does not evict them
}

#[test]
fn a_copy_to_standard_output_caches_no_page_of_the_source() {
    needs_root_and!();
    let Some(trace) = Trace::new() else { return };
    let scratch = Scratch::new();
    let src = scratch.file("src", (9 << 20) + 5);
    make_cold(&src);
    let (output, inserted) = trace.during(|| run([src.to_str().unwrap(), "-"]));
    assert!(output.stdout == content((9 << 20) + 5));
    assert_eq!(inserted.of(&src), 0);
    // The same if standard input is the file.
    let mut command = dio_cp();
    command.args(["-", "-"]).stdin(File::open(&src).unwrap());
    let (output, inserted) = trace.during(|| command.output().unwrap());
    assert!(output.stdout == content((9 << 20) + 5));
    assert_eq!(inserted.of(&src), 0);
}

#[test]
fn an_unaligned_in_place_copy_caches_only_partial_last_pages() {
    needs_root_and!("mkfs.xfs", "mkfs.ext4", "losetup");
    on_each_filesystem(|scratch, dir, trace| {
        let src = scratch.file("in-place-src", (5 << 20) + 77);
        make_cold(&src);
        for seek in [0, 1, 4097, 1_000_003, 9_000_000] {
            let dst = dir.join("dst");
            write(&dst, &vec![7; 6_000_001]);
            make_cold(&dst);
            let args = ["--seek", &seek.to_string(), src.to_str().unwrap(), dst.to_str().unwrap()];
            let (_, inserted) = trace.during(|| copies(args));
            assert_eq!(inserted.of(&src), 0, "seek {seek} in {}", dir.display());
            // If the file grows, the page with its old end is also cached.
            let grows = seek + (5 << 20) + 77 > 6_000_001;
            let limit = if grows { 2 } else { 0 };
            let lines: Vec<_> = inserted.lines(&dst).collect();
            assert!(inserted.of(&dst) <= limit, "seek {seek} in {}: {lines:#?}", dir.display());
            assert_eq!(cached_pages(&dst), 0, "seek {seek} in {}", dir.display());
        }
    });
}

#[test]
fn pages_of_the_source_that_were_cached_before_stay_cached() {
    if !can_count_pages() {
        return skip("needs cachestat (Linux 6.5)");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 8 << 20), scratch.path("dst"));
    make_hot(&src);
    assert_eq!(cached_pages(&src), 2048);
    copies([&src, &dst]);
    assert_eq!(cached_pages(&src), 2048);
    assert_eq!(cached_pages(&dst), 0);
}

#[test]
fn a_dirty_source_is_copied_with_its_latest_content() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    std::fs::write(&src, content(5_000_001)).unwrap(); // no fsync
    copies([&src, &dst]);
    same(&dst, &content(5_000_001));
}

#[test]
fn a_copy_with_no_sync_leaves_no_cached_page() {
    if !can_count_pages() {
        return skip("needs cachestat (Linux 6.5)");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5_000_001), scratch.path("dst"));
    copies(["--no-sync".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert_copied_and_not_cached(&dst);
}

#[track_caller]
fn assert_copied_and_not_cached(dst: &Path) {
    assert_eq!(cached_pages(dst), 0);
    same(dst, &content(5_000_001));
}

#[test]
fn pages_of_a_file_as_standard_output_are_evicted() {
    if !can_count_pages() {
        return skip("needs cachestat (Linux 6.5)");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5_000_001), scratch.path("dst"));
    let output = dio_cp().arg(&src).arg("-").stdout(File::create(&dst).unwrap()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("not direct"));
    assert_copied_and_not_cached(&dst);
    make_cold(&dst);
    let append = File::options().append(true).open(&dst).unwrap();
    assert!(dio_cp().args(["-q"]).arg(&src).arg("-").stdout(append).status().unwrap().success());
    assert_eq!(cached_pages(&dst), 0);
}

#[test]
fn pages_of_a_source_without_direct_io_are_evicted_after_reading() {
    needs_root_and!("mksquashfs");
    let scratch = Scratch::new();
    let src = scratch.file("src", 9_000_001);
    let image = scratch.path("image");
    tool("mksquashfs", [src.to_str().unwrap(), image.to_str().unwrap(), "-quiet", "-no-progress"]);
    let mount = Mount::with(&scratch, &["-t", "squashfs", "-o", "loop", image.to_str().unwrap()], None);
    let (inside, dst) = (mount.path("src"), scratch.path("dst"));
    let stderr = copies([&inside, &dst]);
    assert!(stderr.contains("not direct: 9000001 bytes"), "{stderr}");
    assert_eq!(stderr.lines().count(), 2, "the note appears once: {stderr}");
    same(&dst, &content(9_000_001));
    assert_eq!(cached_pages(&inside), 0);
    // Pages that were cached before stay: of the whole file, or of a part.
    make_hot(&inside);
    let hot = cached_pages(&inside);
    copies([&inside, &dst]);
    assert_eq!(cached_pages(&inside), hot);
    make_cold(&inside);
    tool("dd", [&format!("if={}", inside.display()), "of=/dev/null", "bs=1M", "count=2", "status=none"]);
    let part = cached_pages(&inside);
    assert!(part > 0 && part < hot);
    copies([&inside, &dst]);
    // squashfs caches its own whole blocks, so pages next to the cached part may also stay.
    let after = cached_pages(&inside);
    assert!(after >= part && after <= part + 4 * 32, "{part} pages were cached, now {after} of {hot}");
    let stderr = fails(4, ["--direct".as_ref(), "always".as_ref(), inside.as_os_str(), dst.as_os_str()]);
    assert!(stderr.contains("direct I/O refused"), "{stderr}");
    same(&dst, &content(9_000_001));
}
