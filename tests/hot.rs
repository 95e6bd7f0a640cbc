//! A source that is already in the page cache is read from there, and the page cache stays as it was.
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

/// The bytes of the source that were read with direct I/O, and those that were read from the page cache.
#[track_caller]
fn bytes_read(output: std::process::Output) -> (u64, u64) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["written"]["resident"], 0);
    (report["read"]["direct"].as_u64().unwrap(), report["read"]["resident"].as_u64().unwrap())
}

/// Copies and compares the files. Returns the bytes read, as [`bytes_read`] does.
#[track_caller]
fn copy_and_compare(src: &Path, dst: &Path, args: &[&str]) -> (u64, u64) {
    let args = args.iter().map(OsStr::new).chain(["--json".as_ref(), src.as_os_str(), dst.as_os_str()]);
    let bytes = bytes_read(run(args));
    same(dst, &fs::read(src).unwrap());
    bytes
}

/// The flags "referenced" and "active" of each page of a cached file (Documentation/admin-guide/mm/pagemap.rst). They
/// tell the kernel which pages to reclaim first. Reading through a mapping for random access does not change them.
fn age_flags(path: &Path) -> Vec<u64> {
    const REFERENCED: u64 = 1 << 2;
    const ACTIVE: u64 = 1 << 6;
    let file = File::open(path).unwrap();
    let len = file.metadata().unwrap().len() as usize;
    let mapping = sys::FileMapping::new(&file, 0, len).unwrap();
    mapping.copy_out(0, &mut vec![0; len]).unwrap(); // maps the pages
    let (pagemap, flags) = (File::open("/proc/self/pagemap").unwrap(), File::open("/proc/kpageflags").unwrap());
    let entry = |file: &File, index: u64| {
        let mut entry = [0; 8];
        file.read_exact_at(&mut entry, index * 8).unwrap();
        u64::from_le_bytes(entry)
    };
    let frame = |page: u64| {
        let entry = entry(&pagemap, mapping.address() / sys::page_size() + page);
        assert!(entry >> 63 == 1, "page {page} is not mapped");
        entry & ((1 << 55) - 1)
    };
    let pages = (len as u64).div_ceil(sys::page_size());
    (0..pages).map(|page| entry(&flags, frame(page)) & (REFERENCED | ACTIVE)).collect()
}

#[test]
fn a_cached_source_is_read_from_the_cache_without_changing_its_pages() {
    if !can_count_pages() {
        return skip("needs cachestat (Linux 6.5)");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", LEN), scratch.path("dst"));
    make_cold(&src);
    make_hot(&src);
    assert_eq!(copy_and_compare(&src, &dst, &[]), (0, LEN as u64));
    assert_eq!(cached_pages(&src), PAGES);
    let range_args = ["--json", "--skip", "5001", "--count", "9M", "--seek", "77", "-b", "1M"].map(OsStr::new);
    assert_eq!(bytes_read(run(range_args.into_iter().chain([src.as_os_str(), dst.as_os_str()]))), (0, 9 << 20));
    assert!(fs::read(&dst).unwrap()[77..][..9 << 20] == content(LEN)[5001..][..9 << 20]);
    // With --direct always, the cache is not used.
    assert_eq!(copy_and_compare(&src, &dst, &["--direct", "always"]), (LEN as u64, 0));
    assert_eq!(cached_pages(&src), PAGES);
    if !is_root() {
        return skip("needs root to read page flags");
    }
    make_cold(&src);
    make_hot(&src);
    let before = age_flags(&src);
    run([&src, &dst]);
    run(["--checksum".as_ref(), "sha256".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert!(age_flags(&src) == before);
    // Shows that the flags would reveal an ordinary read.
    (0..3).for_each(|_| make_hot(&src));
    assert!(age_flags(&src) != before);
}

#[test]
fn partly_cached_blocks_are_read_with_direct_io_and_no_page_is_inserted() {
    needs_root_and!("dd");
    let Some(trace) = Trace::new() else { return };
    let scratch = Scratch::new();
    // Twice the length, because read-ahead may cache many more pages.
    let (len, pages) = (2 * LEN, (2 * LEN as u64).div_ceil(4096));
    let (src, dst) = (scratch.file("src", len), scratch.path("dst"));
    for half in ["count=8", "skip=8"] {
        make_cold(&src);
        // Read-ahead also caches pages after those that are read.
        tool("dd", [&format!("if={}", src.display()), "of=/dev/null", "bs=1M", half, "status=none"]);
        let cached_before = cached_pages(&src);
        assert!(cached_before >= 2048 && cached_before < pages, "{cached_before}");
        let args = ["--json".as_ref(), "-b".as_ref(), "1M".as_ref(), src.as_os_str(), dst.as_os_str()];
        let (output, inserted) = trace.during(|| run(args));
        let (direct, resident) = bytes_read(output);
        assert!(direct + resident == len as u64 && resident >= 8 << 20 && direct >= 8 << 20, "{direct} {resident}");
        assert_eq!(inserted.of(&src), 0, "{half}");
        // The kernel may reclaim pages at any time, so there may be fewer. The test above compares the exact number.
        assert!(cached_pages(&src) <= cached_before, "{half}");
        same(&dst, &content(len));
    }
    // Evicts some pages of every second block, if the kernel can evict a part of a large folio.
    make_hot(&src);
    let file = File::open(&src).unwrap();
    let blocks: Vec<u64> = (0..len as u64).step_by(1 << 20).collect();
    let evict_part = |offset: &u64| sys::advise(&file, *offset + 8192, 64 << 10, libc::POSIX_FADV_DONTNEED).unwrap();
    blocks.iter().step_by(2).for_each(evict_part);
    let cached_before = cached_pages(&src);
    let is_cached = |offset: &&u64| {
        let len = (1 << 20).min(len as u64 - **offset);
        sys::cached_pages(&file, **offset, len).unwrap() == len.div_ceil(4096)
    };
    let resident = blocks.iter().filter(is_cached).map(|offset| (1 << 20).min(len as u64 - offset)).sum::<u64>();
    assert!(cached_before < pages && resident < len as u64);
    let (bytes, inserted) = trace.during(|| copy_without_comparing(&src, &dst));
    assert_eq!(bytes, (len as u64 - resident, resident));
    assert!(inserted.of(&src) == 0 && cached_pages(&src) <= cached_before);
}

/// Copies in blocks of 1 MiB, without reading the files afterwards. Returns the bytes read, as [`bytes_read`] does.
fn copy_without_comparing(src: &Path, dst: &Path) -> (u64, u64) {
    bytes_read(run(["--json".as_ref(), "-b".as_ref(), "1M".as_ref(), src.as_os_str(), dst.as_os_str()]))
}

#[test]
fn dirty_pages_of_the_source_are_not_written_back() {
    if !can_count_pages() {
        return skip("needs cachestat (Linux 6.5)");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    // The kernel may write pages back at any time, but hardly in each of three short attempts.
    let stayed_dirty = (0..3).any(|_| {
        fs::write(&src, content(LEN)).unwrap();
        let dirty = || sys::cache_stat(&File::open(&src).unwrap(), 0, 0).unwrap().dirty;
        let before = dirty();
        assert_eq!(copy_without_comparing(&src, &dst), (0, LEN as u64));
        same(&dst, &content(LEN));
        let after = dirty();
        fs::remove_file(&src).unwrap();
        before == PAGES && after == PAGES
    });
    assert!(stayed_dirty, "pages of the source were written back");
}

#[test]
fn a_source_whose_cached_pages_cannot_be_counted_is_read_with_direct_io() {
    needs_root_and!("setpriv", "chmod");
    if !can_count_pages() {
        return skip("needs cachestat (Linux 6.5)");
    }
    let scratch = Scratch::new();
    let src = scratch.file("src", LEN);
    make_hot(&src);
    // Another user may not reach the target directory, so the binary is copied.
    let binary = std::env::temp_dir().join(format!("dio-cp-hot-{}", std::process::id()));
    fs::copy(common::binary(), &binary).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary).args(["-v", "-", "-"]);
    let output = command.stdin(File::open(&src).unwrap()).output().unwrap();
    fs::remove_file(&binary).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !stderr.contains("were in the page cache"), "{stderr}");
    assert!(output.stdout == content(LEN));
}

#[test]
fn a_device_is_read_with_direct_io_even_if_its_pages_are_cached() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = Scratch::new();
    let mount = Mount::filesystem(&scratch, "ext4", 64 << 20, 512);
    let device = tool("findmnt", ["-no", "SOURCE", mount.at.to_str().unwrap()]);
    let device = Path::new(device.trim());
    make_hot(device);
    // Filesystem writes do not update the device's own cached pages, which are now stale.
    let bytes = content(9_000_001);
    write(&mount.path("precious"), &bytes);
    sys::sync_filesystem(&File::open(&mount.at).unwrap()).unwrap();
    let dst = scratch.path("dst");
    let (direct, resident) = copy_without_comparing(device, &dst);
    assert_eq!((direct, resident), (64 << 20, 0));
    let image = fs::read(&dst).unwrap();
    assert!(image.windows(1024).step_by(1024).any(|block| block == &bytes[8192..9216]), "the copy has stale pages");
}

#[test]
fn truncating_a_cached_source_is_an_error_and_not_a_sigbus() {
    let scratch = Scratch::new();
    for new_len in [1 << 20, 5_000_001] {
        let (src, dst) = (scratch.file("src", 60 << 20), scratch.path("dst"));
        make_hot(&src);
        let mut command = dio_cp();
        command.args(["--rate-limit", "100M"]).args([&src, &dst]);
        let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let fds = std::path::PathBuf::from(format!("/proc/{}/fd", child.id()));
        wait_until("the source is open", || {
            let open = fs::read_dir(&fds).into_iter().flatten().flatten();
            open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|path| path == src)
        });
        std::thread::sleep(std::time::Duration::from_millis(30));
        File::options().write(true).open(&src).unwrap().set_len(new_len).unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("it shrank from 62914560"), "{stderr}");
        assert!(!dst.exists());
    }
}
