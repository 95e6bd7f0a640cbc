//! The public API: `DirectWriter`, and the report of `copy`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use common::*;
use dio_cp::{AlignedBuffer, Cleanup, DirectPolicy, DirectWriter, Job, Reflink, Report, Silent, Traffic};

#[track_caller]
fn report(src: &Path, dst: &Path, direct: DirectPolicy) -> Report {
    let job = Job { direct, reflink: Reflink::Never, block_size: 1 << 20, ..Job::new(src, dst) };
    dio_cp::copy(&job, &Silent, &Cleanup::default()).unwrap()
}

#[test]
fn the_report_counts_bytes_by_how_they_were_transferred() {
    let scratch = Scratch::new();
    let len = 5_000_001;
    let (src, dst) = (scratch.file("src", len), scratch.path("dst"));
    let (all, none) = (len as u64, Traffic::default());
    make_cold(&src);
    let direct = report(&src, &dst, DirectPolicy::Auto);
    assert_eq!((direct.bytes, direct.holes), (all, 0));
    assert_eq!(direct.source.traffic, Traffic { direct: all, ..none });
    assert_eq!(direct.destination.written.traffic, Traffic { direct: all, ..none });
    assert_eq!(direct.destination.written.cached_pages, if can_count_pages() { Some(0) } else { None });
    assert!(direct.notes.is_empty(), "{:?}", direct.notes);
    let cached = report(&src, &dst, DirectPolicy::Never);
    assert_eq!(
        (cached.source.traffic, cached.destination.written.traffic),
        (Traffic { cached: all, ..none }, Traffic { cached: all, ..none })
    );
    let shm = Path::new("/dev/shm").join(format!("dio-cp-library-{}", std::process::id()));
    let memory = report(&src, &shm, DirectPolicy::Auto);
    assert_eq!(memory.destination.written.traffic, Traffic { memory: all, ..none });
    fs::remove_file(&shm).unwrap();
    let hole = scratch.path("hole");
    sparse(&hole, 9 << 20, &[(1 << 20, 1 << 20)]);
    let holes = report(&hole, &dst, DirectPolicy::Auto);
    assert_eq!((holes.bytes, holes.holes, holes.destination.written.traffic.direct), (9 << 20, 8 << 20, 1 << 20));
}

#[test]
fn on_btrfs_only_writes_to_files_without_checksums_count_as_direct() {
    needs_root_and!("losetup", "mkfs.btrfs", "chattr");
    let scratch = Scratch::new();
    let mount = Mount::filesystem(&scratch, "btrfs", 400 << 20, 512);
    let (src, dst) = (mount.path("src"), mount.path("dst"));
    write(&src, &content(5_000_001));
    make_cold(&src);
    let none = Traffic::default();
    let buffered = report(&src, &dst, DirectPolicy::Auto);
    assert_eq!(buffered.source.traffic, Traffic { direct: 5_000_001, ..none });
    assert_eq!(buffered.destination.written.traffic, Traffic { uncached: 5_000_001, ..none });
    let plain = mount.path("plain");
    fs::create_dir(&plain).unwrap();
    tool("chattr", ["+C", plain.to_str().unwrap()]);
    let direct = report(&src, &plain.join("dst"), DirectPolicy::Always);
    assert_eq!(direct.destination.written.traffic, Traffic { direct: 5_000_001, ..none });
}

#[test]
fn a_writer_accepts_chunks_of_any_size_and_leaves_no_cached_page() {
    let scratch = Scratch::new();
    let path = scratch.path("out");
    for (len, chunk) in [(0, 1), (1, 1), (4096, 4096), (4097, 13), ((9 << 20) + 5, 100_003)] {
        let bytes = content(len);
        let mut writer = DirectWriter::create(&path).unwrap();
        for part in bytes.chunks(chunk) {
            writer.write_all(part).unwrap();
        }
        let written = writer.finish().unwrap();
        assert_eq!(written.traffic, Traffic { direct: len as u64, ..Traffic::default() });
        if can_count_pages() {
            assert_eq!((written.cached_pages, cached_pages(&path)), (Some(0), 0));
        }
        same(&path, &bytes);
    }
}

#[test]
fn a_writer_accepts_writes_at_offsets_from_several_threads() {
    let scratch = Scratch::new();
    let path = scratch.path("out");
    let bytes = content(3_000_017);
    for piece in [1000, 4096, 100_003] {
        let writer = DirectWriter::create(&path).unwrap();
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let (writer, bytes) = (&writer, &bytes);
                scope.spawn(move || {
                    for (i, part) in bytes.chunks(piece).enumerate().filter(|(i, _)| i % 3 == worker) {
                        writer.write_at(part, (i * piece) as u64).unwrap();
                    }
                });
            }
        });
        writer.finish().unwrap();
        same(&path, &bytes);
    }
}

#[test]
fn a_writer_on_an_existing_file_changes_only_the_written_ranges() {
    let scratch = Scratch::new();
    let path = scratch.file("out", 50_000);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let writer = DirectWriter::new(file).unwrap();
    let mut buffer = AlignedBuffer::new(8192).unwrap();
    buffer.fill(7);
    writer.write_at(&buffer[..5000], 12_345).unwrap();
    writer.zero_at(30_000, 10_000).unwrap();
    writer.write_at(b"end", 60_000).unwrap();
    writer.finish().unwrap();
    let mut expected = content(50_000);
    expected[12_345..17_345].fill(7);
    expected[30_000..40_000].fill(0);
    expected.resize(60_000, 0);
    expected.extend(b"end");
    same(&path, &expected);
    if can_count_pages() {
        make_cold(&path); // `same` has cached it
        assert_eq!(cached_pages(&path), 0);
    }
}

#[test]
fn after_a_write_error_a_writer_keeps_failing() {
    let mut writer = DirectWriter::new(File::options().write(true).open("/dev/full").unwrap()).unwrap();
    let error = io::copy(&mut io::repeat(1).take(9 << 20), &mut writer).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(28));
    assert!(writer.write(b"more").is_err());
    assert!(writer.flush().is_err());
    assert!(writer.finish().is_err());
}

#[test]
fn a_copy_that_was_abandoned_before_its_start_creates_no_file() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5000), scratch.path("dst"));
    let cleanup = Cleanup::default();
    assert_eq!(cleanup.abandon(), None);
    assert!(dio_cp::copy(&Job::new(&src, &dst), &Silent, &cleanup).is_err());
    assert_eq!(scratch.names(), ["src"]);
}

#[test]
fn a_writer_on_a_write_only_file_keeps_the_other_bytes_of_partial_blocks() {
    let scratch = Scratch::new();
    let path = scratch.file("out", 50_000);
    let writer = DirectWriter::new(File::options().write(true).open(&path).unwrap()).unwrap();
    make_cold(&path);
    writer.write_at(&[7; 20_000], 12_345).unwrap();
    writer.finish().unwrap();
    if can_count_pages() {
        assert_eq!(cached_pages(&path), 0);
    }
    let mut expected = content(50_000);
    expected[12_345..32_345].fill(7);
    same(&path, &expected);
}
