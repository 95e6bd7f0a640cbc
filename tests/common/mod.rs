//! Helpers for the tests: scratch directories on a disk, file content, running `dio-cp`, and new filesystems. A test
//! that cannot run prints the reason.
#![allow(dead_code)] // each test file uses some of them

pub mod answers;
pub mod arena;
pub mod cases;
pub mod faults;
pub mod manifest;
pub mod matrix;
pub mod partial;
pub mod promises;
pub mod recorder;
pub mod seccomp;
pub mod web;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A directory under Cargo's target directory, because `/tmp` may be in memory. Deleted on drop.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Creates a file of `len` pseudo-random bytes, durable and clean in the page cache.
    pub fn file(&self, name: &str, len: usize) -> PathBuf {
        let path = self.path(name);
        write(&path, &content(len));
        path
    }

    /// The names of its entries, sorted.
    pub fn names(&self) -> Vec<String> {
        names(&self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Waits until another process or thread has done something, for up to 20 seconds.
#[track_caller]
pub fn wait_until(condition: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "timed out: {condition}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The names in a directory, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Pseudo-random bytes, always the same for a length.
pub fn content(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ len as u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Writes a file and syncs it, so that its pages are clean.
pub fn write(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

/// The path of the `dio-cp` that is tested: the one that Cargo has built, or the one that DIO_CP_BINARY names, such as a
/// release build.
pub fn binary() -> &'static str {
    static BINARY: LazyLock<String> =
        LazyLock::new(|| std::env::var("DIO_CP_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_dio-cp").to_string()));
    &BINARY
}

/// The command `dio-cp`, without standard input and without the user's proxies, credentials and certificates.
pub fn dio_cp() -> Command {
    let mut command = Command::new(binary());
    web::alone(&mut command).stdin(Stdio::null());
    command
}

/// Runs `dio-cp`.
pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    dio_cp().args(args).output().unwrap()
}

/// Runs `dio-cp`, requires success, and returns standard error.
#[track_caller]
pub fn copies<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> String {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{:?}: {stderr}", output.status);
    stderr
}

/// Runs `dio-cp`, requires this exit status, and returns standard error.
#[track_caller]
pub fn fails<S: AsRef<OsStr>>(status: i32, args: impl IntoIterator<Item = S>) -> String {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

/// Writes `input` to the command's standard input, `chunk` bytes at a time.
pub fn feed(mut command: Command, input: &[u8], chunk: usize) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for part in input.chunks(chunk.max(1)) {
                if pipe.write_all(part).is_err() {
                    break; // the command has closed its standard input; the test checks its exit status
                }
            }
        });
        child.wait_with_output().unwrap()
    })
}

/// Requires that a file has exactly these bytes.
#[track_caller]
pub fn same(path: &Path, expected: &[u8]) {
    let actual = fs::read(path).unwrap();
    assert_eq!(actual.len(), expected.len(), "length of {}", path.display());
    if let Some(offset) = (0..expected.len()).find(|i| actual[*i] != expected[*i]) {
        panic!("{} differs at byte {offset} of {}", path.display(), expected.len());
    }
}

/// Runs another program, requires success, and returns its standard output.
#[track_caller]
pub fn tool<S: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = S>) -> String {
    let output = Command::new(name).args(args).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Prints why a test is skipped. Fails if DIO_CP_REQUIRE_ALL=1.
pub fn skip(reason: &str) {
    assert!(
        std::env::var_os("DIO_CP_REQUIRE_ALL").is_none_or(|v| v != "1"),
        "this test is required, but cannot run: {reason}"
    );
    // The test harness hides the output of eprintln!.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}

pub fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

pub fn has_tool(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(name).is_file())
}

/// Skips the test unless root runs it and these tools are installed.
#[macro_export]
macro_rules! needs_root_and {
    ($($tool:expr),*) => {
        if !$crate::common::is_root() {
            return $crate::common::skip("needs root");
        }
        $(if !$crate::common::has_tool($tool) {
            return $crate::common::skip(concat!("needs the tool ", $tool));
        })*
    };
}

/// A loop device over a sparse file in `scratch`.
pub struct Loop {
    pub device: PathBuf,
    pub backing: PathBuf,
}

impl Loop {
    pub fn new(scratch: &Scratch, len: u64, sector: u32) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let backing = scratch.path(&format!("disk-{}.img", NEXT.fetch_add(1, Ordering::Relaxed)));
        File::create(&backing).unwrap().set_len(len).unwrap();
        let sector = sector.to_string();
        let args = ["-f", "--show", "--direct-io=on", "-b", &sector, backing.to_str().unwrap()];
        let device = tool("losetup", args).trim().into();
        Self { device, backing }
    }

    pub fn name(&self) -> &str {
        self.device.to_str().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

/// A filesystem mounted in `scratch`.
pub struct Mount {
    /// The mount point.
    pub at: PathBuf,
    _disk: Option<Loop>,
}

impl Mount {
    /// Makes a filesystem on a loop device and mounts it.
    pub fn filesystem(scratch: &Scratch, kind: &str, len: u64, sector: u32) -> Self {
        let disk = Loop::new(scratch, len, sector);
        tool(&format!("mkfs.{kind}"), ["-q", disk.name()]);
        let device = disk.name().to_string();
        Self::with(scratch, &["-t", kind, &device], Some(disk))
    }

    /// Runs mount(8) with these arguments and a new mount point.
    pub fn with(scratch: &Scratch, args: &[&str], disk: Option<Loop>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let at = scratch.path(&format!("mnt-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&at).unwrap();
        tool("mount", args.iter().copied().chain([at.to_str().unwrap()]));
        Self { at, _disk: disk }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// A trace instance for the kernel's event `filemap:mm_filemap_add_to_page_cache`, which shows the pages that enter the
/// page cache, with their inodes.
pub struct Trace(PathBuf);

impl Trace {
    /// None, with a message, if tracefs is missing.
    pub fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = Path::new("/sys/kernel/tracing");
        if is_root() && !root.join("instances").exists() {
            let _ = Command::new("mount").args(["-t", "tracefs", "tracefs"]).arg(root).status();
        }
        let name = format!("dio-cp-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let instance = root.join("instances").join(name);
        if fs::create_dir(&instance).is_err() {
            skip("needs tracefs and root");
            return None;
        }
        let trace = Self(instance);
        trace.set("buffer_size_kb", "8192");
        trace.set("events/filemap/mm_filemap_add_to_page_cache/enable", "1");
        Some(trace)
    }

    fn set(&self, file: &str, value: &str) {
        fs::write(self.0.join(file), value).unwrap();
    }

    /// Runs `work`. Returns its result and the insertions while it ran.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> (T, Insertions) {
        self.set("trace", "");
        self.set("tracing_on", "1");
        let result = work();
        self.set("tracing_on", "0");
        (result, Insertions(fs::read_to_string(self.0.join("trace")).unwrap()))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The pages that entered the page cache, as the lines of the trace.
pub struct Insertions(String);

impl Insertions {
    /// The number of pages of this file, by the inode that the path names now.
    pub fn of(&self, path: &Path) -> u64 {
        let order = |line: &str| line.rsplit_once("order=").map_or(0, |(_, o)| o.trim().parse::<u32>().unwrap());
        self.lines(path).map(|line| 1 << order(line)).sum()
    }

    /// The trace's lines about this file.
    pub fn lines(&self, path: &Path) -> impl Iterator<Item = &str> {
        let metadata = fs::metadata(path).unwrap();
        let device = metadata.dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        let tag = format!(" dev {major}:{minor} ino {:x} ", metadata.ino());
        self.0.lines().filter(move |line| line.contains(&tag))
    }
}

/// The number of pages of a file that are in the page cache now, dirty pages included.
pub fn cached_pages(path: &Path) -> u64 {
    dio_cp::sys::cached_pages(&File::open(path).unwrap(), 0, 0).unwrap()
}

/// True if the kernel can count cached pages (cachestat, Linux 6.5).
pub fn can_count_pages() -> bool {
    // The kernel counts them only for files that the caller owns or may write.
    let scratch = Scratch::new();
    dio_cp::sys::cached_pages(&File::open(scratch.file("own", 1)).unwrap(), 0, 0).is_ok()
}

/// Evicts a file's clean pages from the page cache.
pub fn make_cold(path: &Path) {
    let file = File::open(path).unwrap();
    let _ = file.sync_all(); // fails on squashfs, which is read-only
    // The kernel skips pages that it is using at that moment.
    for _ in 0..20 {
        dio_cp::sys::advise(&file, 0, 0, 4).unwrap(); // POSIX_FADV_DONTNEED
        if dio_cp::sys::cached_pages(&file, 0, 0).map_or(true, |pages| pages == 0) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Reads the whole file, so that its pages are cached.
pub fn make_hot(path: &Path) {
    let mut file = File::open(path).unwrap();
    std::io::copy(&mut file, &mut std::io::sink()).unwrap();
}

/// Files of many sizes in a few directories.
pub fn plain_tree(root: &Path, files: usize) {
    for i in 0..files {
        let directory = root.join(format!("d{}", i % 7)).join(format!("e{}", i % 3));
        fs::create_dir_all(&directory).unwrap();
        let len = [0, 1, 511, 4096, 5000, 70_000][i % 6];
        fs::write(directory.join(format!("f{i}")), content(len)).unwrap();
    }
}

/// A number from 0 to 1, different each time.
pub fn random() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}

/// The bytes that are allocated for a file.
pub fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// Creates a sparse file of `len` bytes. `pieces` are the offsets and lengths of its data.
pub fn sparse(path: &Path, len: u64, pieces: &[(u64, usize)]) {
    let file = File::create(path).unwrap();
    file.set_len(len).unwrap();
    for (offset, size) in pieces {
        file.write_all_at(&content(*size), *offset).unwrap();
    }
    file.sync_all().unwrap();
}
