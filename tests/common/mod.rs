//! What the tests share: a scratch directory on a real disk, content, the command, and filesystems
//! made on the spot. Nothing here skips in silence.
#![allow(dead_code)] // each test file uses its part

pub mod web;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A directory under Cargo's target directory (`/tmp` may be memory), gone at the end.
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

    /// A file of `len` bytes that no two offsets share.
    pub fn file(&self, name: &str, len: usize) -> PathBuf {
        let path = self.path(name);
        write(&path, &content(len));
        path
    }

    /// The names in it, sorted.
    pub fn names(&self) -> Vec<String> {
        names(&self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Waits for something that somebody else does in their own time.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Pseudo-random bytes, the same for the same length.
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

/// Writes a file so that it is on the disk and its pages are clean.
pub fn write(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

pub fn dio_cp() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dio-cp"));
    web::alone(&mut command).stdin(Stdio::null());
    command
}

/// Runs `dio-cp` with these words.
pub fn run<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Output {
    dio_cp().args(words).output().unwrap()
}

/// Runs `dio-cp` with these words and requires success; gives standard error.
#[track_caller]
pub fn copies<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> String {
    let output = run(words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{:?}: {said}", output.status);
    said
}

/// Runs `dio-cp` and requires this exit status; gives standard error.
#[track_caller]
pub fn fails<S: AsRef<OsStr>>(status: i32, words: impl IntoIterator<Item = S>) -> String {
    let output = run(words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// Feeds `input` to the command's standard input, `chunk` bytes a write.
pub fn feed(mut command: Command, input: &[u8], chunk: usize) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for part in input.chunks(chunk.max(1)) {
                if pipe.write_all(part).is_err() {
                    break; // the command had enough; its exit status tells
                }
            }
        });
        child.wait_with_output().unwrap()
    })
}

#[track_caller]
pub fn same(a: &Path, b: &[u8]) {
    let found = fs::read(a).unwrap();
    assert_eq!(found.len(), b.len(), "length of {}", a.display());
    if let Some(at) = (0..b.len()).find(|i| found[*i] != b[*i]) {
        panic!("{} differs at byte {at} of {}", a.display(), b.len());
    }
}

/// Runs a tool that must work.
#[track_caller]
pub fn tool<S: AsRef<OsStr>>(name: &str, words: impl IntoIterator<Item = S>) -> String {
    let output = Command::new(name).args(words).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Says that a test is skipped, and why; under DIO_CP_REQUIRE_ALL=1 that is a failure.
pub fn skip(why: &str) {
    assert!(std::env::var_os("DIO_CP_REQUIRE_ALL").is_none_or(|v| v != "1"), "required, and cannot run: {why}");
    // Not by eprintln!, which the test harness keeps to itself.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

pub fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

pub fn has_tool(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(name).is_file())
}

/// Returns from the test, saying why, unless it is run by root with these tools.
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
        let words = ["-f", "--show", "--direct-io=on", "-b", &sector, backing.to_str().unwrap()];
        let device = tool("losetup", words).trim().into();
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

/// Something mounted in `scratch`.
pub struct Mount {
    pub at: PathBuf,
    _disk: Option<Loop>,
}

impl Mount {
    /// A fresh filesystem on a loop device.
    pub fn filesystem(scratch: &Scratch, kind: &str, len: u64, sector: u32) -> Self {
        let disk = Loop::new(scratch, len, sector);
        tool(&format!("mkfs.{kind}"), ["-q", disk.name()]);
        let device = disk.name().to_string();
        Self::with(scratch, &["-t", kind, &device], Some(disk))
    }

    /// Whatever mount(8) makes of these words.
    pub fn with(scratch: &Scratch, words: &[&str], disk: Option<Loop>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let at = scratch.path(&format!("mnt-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&at).unwrap();
        tool("mount", words.iter().copied().chain([at.to_str().unwrap()]));
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

/// Pages that the kernel puts into the page cache while `work` runs, by inode:
/// `filemap:mm_filemap_add_to_page_cache` in a trace instance of its own.
pub struct Trace(PathBuf);

impl Trace {
    /// None, with a word, where tracefs is not there.
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

    /// Runs `work`; what it returns, and the insertions while it ran.
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

pub struct Insertions(String);

impl Insertions {
    /// Pages of this file. Its inode is what it is now.
    pub fn of(&self, path: &Path) -> u64 {
        let order = |line: &str| line.rsplit_once("order=").map_or(0, |(_, o)| o.trim().parse::<u32>().unwrap());
        self.lines(path).map(|line| 1 << order(line)).sum()
    }

    /// The kernel's own words.
    pub fn lines(&self, path: &Path) -> impl Iterator<Item = &str> {
        let found = fs::metadata(path).unwrap();
        let dev = found.dev();
        let (major, minor) = ((dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xfff00));
        let tag = format!(" dev {major}:{minor} ino {:x} ", found.ino());
        self.0.lines().filter(move |line| line.contains(&tag))
    }
}

/// Pages of a file that are in the cache now, dirty ones included.
pub fn cached_pages(path: &Path) -> u64 {
    dio_cp::sys::cached_pages(&File::open(path).unwrap(), 0, 0).unwrap()
}

/// True if the kernel tells (Linux 6.5).
pub fn can_count_pages() -> bool {
    // Of a file of our own: of others' it tells nothing.
    let scratch = Scratch::new();
    dio_cp::sys::cached_pages(&File::open(scratch.file("own", 1)).unwrap(), 0, 0).is_ok()
}

/// Drops a file's clean pages.
pub fn make_cold(path: &Path) {
    let file = File::open(path).unwrap();
    let _ = file.sync_all(); // squashfs has nothing to sync, and says so by an error
    dio_cp::sys::advise(&file, 0, 0, 4).unwrap(); // POSIX_FADV_DONTNEED
}

/// Reads every `step`th page, so that it is cached.
pub fn make_hot(path: &Path) {
    let mut file = File::open(path).unwrap();
    std::io::copy(&mut file, &mut std::io::sink()).unwrap();
    let mut sink = Vec::new();
    file.read_to_end(&mut sink).unwrap();
}

/// Allocated bytes.
pub fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// A sparse file: `pieces` of (offset, bytes of data), `len` bytes in all.
pub fn sparse(path: &Path, len: u64, pieces: &[(u64, usize)]) {
    let file = File::create(path).unwrap();
    file.set_len(len).unwrap();
    for (at, size) in pieces {
        file.write_all_at(&content(*size), *at).unwrap();
    }
    file.sync_all().unwrap();
}
