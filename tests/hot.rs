//! A source that is in the page cache already: read from there, and the cache is as it was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use common::*;
use dio_cp::sys;

const LEN: usize = (21 << 20) + 777;
const PAGES: u64 = (LEN as u64).div_ceil(4096);

/// Bytes of the source that were read (direct, from the cache).
#[track_caller]
fn read(output: std::process::Output) -> (u64, u64) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["written"]["resident"], 0);
    (found["read"]["direct"].as_u64().unwrap(), found["read"]["resident"].as_u64().unwrap())
}

#[track_caller]
fn copied(src: &Path, dst: &Path, words: &[&str]) -> (u64, u64) {
    let words = words.iter().map(OsStr::new).chain(["--json".as_ref(), src.as_os_str(), dst.as_os_str()]);
    let found = read(run(words));
    same(dst, &fs::read(src).unwrap());
    found
}

/// The page flags of each page of a cached file that tell its age: referenced, active
/// (Documentation/admin-guide/mm/pagemap.rst). Looking by way of a mapping for random access changes none.
fn ages(path: &Path) -> Vec<u64> {
    const REFERENCED: u64 = 1 << 2;
    const ACTIVE: u64 = 1 << 6;
    let file = File::open(path).unwrap();
    let len = file.metadata().unwrap().len() as usize;
    let window = sys::FileMapping::new(&file, 0, len).unwrap();
    window.copy_out(0, &mut vec![0; len]).unwrap(); // maps the pages
    let (pagemap, flags) = (File::open("/proc/self/pagemap").unwrap(), File::open("/proc/kpageflags").unwrap());
    let entry = |file: &File, at: u64| {
        let mut entry = [0; 8];
        file.read_exact_at(&mut entry, at * 8).unwrap();
        u64::from_le_bytes(entry)
    };
    let frame = |page: u64| {
        let entry = entry(&pagemap, window.address() / sys::page_size() + page);
        assert!(entry >> 63 == 1, "page {page} is not mapped");
        entry & ((1 << 55) - 1)
    };
    let pages = (len as u64).div_ceil(sys::page_size());
    (0..pages).map(|page| entry(&flags, frame(page)) & (REFERENCED | ACTIVE)).collect()
}

#[test]
fn a_hot_source_is_read_from_the_cache_whose_pages_stay_and_grow_no_older() {
    if !can_count_pages() {
        return skip("needs cachestat (Linux 6.5)");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", LEN), scratch.path("dst"));
    make_cold(&src);
    make_hot(&src);
    assert_eq!(copied(&src, &dst, &[]), (0, LEN as u64));
    assert_eq!(cached_pages(&src), PAGES);
    let part = ["--json", "--skip", "5001", "--count", "9M", "--seek", "77", "-b", "1M"].map(OsStr::new);
    assert_eq!(read(run(part.into_iter().chain([src.as_os_str(), dst.as_os_str()]))), (0, 9 << 20));
    assert!(fs::read(&dst).unwrap()[77..][..9 << 20] == content(LEN)[5001..][..9 << 20]);
    // Whoever insists on direct I/O gets no other.
    assert_eq!(copied(&src, &dst, &["--direct", "always"]), (LEN as u64, 0));
    assert_eq!(cached_pages(&src), PAGES);
    if !is_root() {
        return skip("needs root to see the age of pages");
    }
    make_cold(&src);
    make_hot(&src);
    let before = ages(&src);
    run([&src, &dst]);
    run(["--checksum".as_ref(), "sha256".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert!(ages(&src) == before);
    // It can be seen: reading marks them.
    (0..3).for_each(|_| make_hot(&src));
    assert!(ages(&src) != before);
}

#[test]
fn what_is_not_wholly_cached_is_read_direct_and_nothing_comes_in() {
    needs_root_and!("dd");
    let Some(trace) = Trace::new() else { return };
    let scratch = Scratch::new();
    // Read-ahead may be a good deal.
    let (len, pages) = (2 * LEN, (2 * LEN as u64).div_ceil(4096));
    let (src, dst) = (scratch.file("src", len), scratch.path("dst"));
    for half in ["count=8", "skip=8"] {
        make_cold(&src);
        // Read-ahead leaves its mark behind the last page that was asked for.
        tool("dd", [&format!("if={}", src.display()), "of=/dev/null", "bs=1M", half, "status=none"]);
        let there = cached_pages(&src);
        assert!(there >= 2048 && there < pages, "{there}");
        let words = ["--json".as_ref(), "-b".as_ref(), "1M".as_ref(), src.as_os_str(), dst.as_os_str()];
        let (output, inserted) = trace.during(|| run(words));
        let (direct, resident) = read(output);
        assert!(direct + resident == len as u64 && resident >= 8 << 20 && direct >= 8 << 20, "{direct} {resident}");
        assert_eq!(inserted.of(&src), 0, "{half}");
        // (Somebody else may reclaim some at any time; the test above is about those that are whole.)
        assert!(cached_pages(&src) <= there, "{half}");
        same(&dst, &content(len));
    }
    // Here and there a page is missing (as far as the kernel drops a part of a large folio).
    make_hot(&src);
    let file = File::open(&src).unwrap();
    let blocks: Vec<u64> = (0..len as u64).step_by(1 << 20).collect();
    let drop = |at: &u64| sys::advise(&file, *at + 8192, 64 << 10, libc::POSIX_FADV_DONTNEED).unwrap();
    blocks.iter().step_by(2).for_each(drop);
    let there = cached_pages(&src);
    let whole = |at: &&u64| {
        let len = (1 << 20).min(len as u64 - **at);
        sys::cached_pages(&file, **at, len).unwrap() == len.div_ceil(4096)
    };
    let resident = blocks.iter().filter(whole).map(|at| (1 << 20).min(len as u64 - at)).sum::<u64>();
    assert!(there < pages && resident < len as u64);
    let (found, inserted) = trace.during(|| copied_without_looking(&src, &dst));
    assert_eq!(found, (len as u64 - resident, resident));
    assert!(inserted.of(&src) == 0 && cached_pages(&src) <= there);
}

fn copied_without_looking(src: &Path, dst: &Path) -> (u64, u64) {
    read(run(["--json".as_ref(), "-b".as_ref(), "1M".as_ref(), src.as_os_str(), dst.as_os_str()]))
}

#[test]
fn what_was_just_written_need_not_be_written_back() {
    if !can_count_pages() {
        return skip("needs cachestat (Linux 6.5)");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    // The kernel may write pages back on its own, but hardly three times in the moment that this takes.
    let kept = (0..3).any(|_| {
        fs::write(&src, content(LEN)).unwrap();
        let dirty = || sys::cache_stat(&File::open(&src).unwrap(), 0, 0).unwrap().dirty;
        let before = dirty();
        assert_eq!(copied_without_looking(&src, &dst), (0, LEN as u64));
        same(&dst, &content(LEN));
        let after = dirty();
        fs::remove_file(&src).unwrap();
        before == PAGES && after == PAGES
    });
    assert!(kept, "pages of the source were written back");
}

#[test]
fn where_the_kernel_does_not_tell_it_is_read_direct() {
    needs_root_and!("setpriv", "chmod");
    if !can_count_pages() {
        return skip("needs cachestat (Linux 6.5)");
    }
    let scratch = Scratch::new();
    let src = scratch.file("src", LEN);
    make_hot(&src);
    // The target directory may be closed to others.
    let binary = std::env::temp_dir().join(format!("dio-cp-hot-{}", std::process::id()));
    fs::copy(env!("CARGO_BIN_EXE_dio-cp"), &binary).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary).args(["-v", "-", "-"]);
    let output = command.stdin(File::open(&src).unwrap()).output().unwrap();
    fs::remove_file(&binary).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("were in the page cache"), "{said}");
    assert!(output.stdout == content(LEN));
}

#[test]
fn a_device_is_read_from_the_disk_whatever_is_cached_of_it() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = Scratch::new();
    let mount = Mount::filesystem(&scratch, "ext4", 64 << 20, 512);
    let device = tool("findmnt", ["-no", "SOURCE", mount.at.to_str().unwrap()]);
    let device = Path::new(device.trim());
    make_hot(device);
    // The filesystem has a cache of its own, and writes past the device's.
    let bytes = content(9_000_001);
    write(&mount.path("precious"), &bytes);
    sys::sync_filesystem(&File::open(&mount.at).unwrap()).unwrap();
    let dst = scratch.path("dst");
    let (direct, resident) = copied_without_looking(device, &dst);
    assert_eq!((direct, resident), (64 << 20, 0));
    let image = fs::read(&dst).unwrap();
    assert!(image.windows(1024).step_by(1024).any(|block| block == &bytes[8192..9216]), "an old image");
}

#[test]
fn a_hot_source_that_is_cut_is_an_error_and_no_signal() {
    let scratch = Scratch::new();
    for cut in [1 << 20, 5_000_001] {
        let (src, dst) = (scratch.file("src", 60 << 20), scratch.path("dst"));
        make_hot(&src);
        let mut command = dio_cp();
        command.args(["--rate-limit", "100M"]).args([&src, &dst]);
        let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let fds = std::path::PathBuf::from(format!("/proc/{}/fd", child.id()));
        wait_until("it has opened the source", || {
            let open = fs::read_dir(&fds).into_iter().flatten().flatten();
            open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|path| path == src)
        });
        std::thread::sleep(std::time::Duration::from_millis(30));
        File::options().write(true).open(&src).unwrap().set_len(cut).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("it shrank from 62914560"), "{said}");
        assert!(!dst.exists());
    }
}
