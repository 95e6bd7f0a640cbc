//! Promise 5: memory use does not grow with the size of the copy, and a container of 32 MiB is enough, page cache
//! included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
#[cfg(feature = "url")]
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::*;

/// A memory cgroup with a limit, version 1 or 2.
struct LimitedCgroup {
    path: PathBuf,
    v2: bool,
}

impl LimitedCgroup {
    /// None, with a message, if there is no memory controller.
    fn new(name: &str, limit: u64) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let v2 = fs::read_to_string(root.join("cgroup.controllers")).is_ok_and(|c| c.contains("memory"));
        let parent = if v2 { root.to_path_buf() } else { root.join("memory") };
        if v2 {
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        }
        let path = parent.join(format!("dio-cp-test-{}-{name}", std::process::id()));
        let limit_file = path.join(if v2 { "memory.max" } else { "memory.limit_in_bytes" });
        if fs::create_dir(&path).is_err() || fs::write(limit_file, limit.to_string()).is_err() {
            let _ = fs::remove_dir(&path);
            skip("needs root and a memory cgroup");
            return None;
        }
        Some(Self { path, v2 })
    }

    /// A shell that runs this command line in the cgroup.
    fn sh(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        let procs = self.path.join("cgroup.procs");
        command.args(["-c", &format!("echo $$ > {} && exec {line}", procs.display())]).stdin(Stdio::null());
        command
    }

    /// `dio-cp` with these arguments, in the cgroup.
    fn dio_cp(&self, args: &str) -> Command {
        self.sh(&format!("{} {args}", binary()))
    }

    /// The peak of the charged bytes.
    fn peak(&self) -> u64 {
        let file = if self.v2 { "memory.peak" } else { "memory.max_usage_in_bytes" };
        fs::read_to_string(self.path.join(file)).unwrap().trim().parse().unwrap()
    }
}

impl Drop for LimitedCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

const LIMIT: u64 = 32 << 20;

#[test]
fn a_copy_larger_than_the_limit_stays_below_it() {
    let Some(group) = LimitedCgroup::new("file", LIMIT) else { return };
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", (300 << 20) + 77), scratch.path("dst"));
    make_cold(&src);
    let output = group.dio_cp(&format!("{} {}", src.display(), dst.display())).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(group.peak() < LIMIT, "{} bytes charged", group.peak());
    same(&dst, &content((300 << 20) + 77));
}

#[test]
fn a_stream_larger_than_the_limit_stays_below_it() {
    let Some(group) = LimitedCgroup::new("pipe", LIMIT) else { return };
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let output = feed(group.dio_cp(&format!("- {}", dst.display())), &content(200 << 20), 1 << 20);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(group.peak() < LIMIT, "{} bytes charged", group.peak());
    same(&dst, &content(200 << 20));
}

/// Names and inodes that the kernel caches are charged, too, so the peak is the limit. The kernel must be able to evict them.
#[test]
fn a_tree_larger_than_the_limit_can_be_copied() {
    let Some(group) = LimitedCgroup::new("tree", LIMIT) else { return };
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    for directory in 0..20 {
        let path = src.join(directory.to_string());
        fs::create_dir_all(&path).unwrap();
        (0..1000).for_each(|i| fs::write(path.join(i.to_string()), content(6000 + i)).unwrap());
    }
    fs::write(src.join("large"), content(100 << 20)).unwrap();
    let output = group.dio_cp(&format!("-a {} {}", src.display(), dst.display())).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    tool("diff", ["-r", src.to_str().unwrap(), dst.to_str().unwrap()]);
}

#[test]
fn a_copy_does_not_evict_hot_pages_of_its_cgroup() {
    if !can_count_pages() {
        return skip("needs cachestat (Linux 6.5)");
    }
    let Some(group) = LimitedCgroup::new("hot", 512 << 20) else { return };
    let scratch = Scratch::new();
    let (hot, src, dst) = (scratch.file("hot", 200 << 20), scratch.path("src"), scratch.path("dst"));
    tool("dd", ["if=/dev/zero", &format!("of={}", src.display()), "bs=1M", "count=700", "oflag=direct", "status=none"]);
    let hot_pages_after = |command: &str| {
        make_cold(&hot);
        make_cold(&src);
        assert!(group.sh(&format!("cat {} > /dev/null", hot.display())).status().unwrap().success());
        let line = format!("{command} {} {}", src.display(), dst.display());
        assert!(group.sh(&line).stderr(Stdio::null()).status().unwrap().success());
        fs::remove_file(&dst).unwrap();
        cached_pages(&hot)
    };
    // The kernel itself may evict pages that nobody uses (DAMON_RECLAIM), but not in every attempt.
    let keeps_hot_pages = |command: &str| {
        let mut left = Vec::new();
        while left.len() < 10 && left.last() != Some(&(200 << 8)) {
            left.push(hot_pages_after(command));
        }
        assert_eq!(left.last(), Some(&(200 << 8)), "{command}: {left:?}");
    };
    keeps_hot_pages(binary());
    keeps_hot_pages(&format!("{} --idle", binary()));
    // cp evicts them, which shows that the test can fail.
    let left = hot_pages_after("cp");
    assert!(left < 20 << 8, "cp left {left} pages");
}

#[test]
fn the_process_uses_less_than_24_mib_for_any_size() {
    if !has_tool("time") {
        return skip("needs the tool time (GNU)");
    }
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let peak = |src: &Path| {
        let mut command = Command::new("time");
        command.args(["-f", "%M", binary(), "-q"]).arg(src).arg(&dst);
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        stderr.trim().parse::<u64>().unwrap()
    };
    let (small, large) = (scratch.file("small", 100 << 20), scratch.file("large", 400 << 20));
    let (small_peak, large_peak) = (peak(&small), peak(&large));
    assert!(large_peak < 24 << 10, "{large_peak} KiB");
    assert!(large_peak < small_peak + 1024, "{small_peak} KiB grew to {large_peak} KiB");
    // The number of extents does not matter either.
    let sparse_src = scratch.path("sparse");
    let pieces: Vec<(u64, usize)> = (0..20_000).map(|i| (i * 8192, 100)).collect();
    sparse(&sparse_src, 20_000 * 8192, &pieces);
    assert!(peak(&sparse_src) < 24 << 10);
}

/// Downloads 3 GiB from nginx, whose file is almost completely a hole.
#[cfg(feature = "url")]
#[test]
fn a_download_larger_than_the_limit_stays_below_it_with_tls_too() {
    let Some(nginx) = web::Nginx::new() else { return };
    let Some(group) = LimitedCgroup::new("url", LIMIT) else { return };
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    sparse(&nginx.file("f"), 3 << 30, &[((3 << 30) - 100, 100)]);
    for (url, options) in
        [(nginx.url("/f"), ""), (nginx.tls_url("/f"), "--sparse always"), (nginx.tls_url("/f"), "--resume")]
    {
        let cacert = nginx.certificate();
        let line = format!("{url} {} --cacert {cacert} --json --direct always {options}", dst.display());
        let output = group.dio_cp(&line).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(group.peak() < LIMIT, "{} bytes charged", group.peak());
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["bytes"], &report["cached_pages"]), (&(3u64 << 30).into(), &0.into()));
        let mut end = [0; 100];
        fs::File::open(&dst).unwrap().read_exact_at(&mut end, (3 << 30) - 100).unwrap();
        assert_eq!(end, content(100)[..]);
    }
}
