//! What a run costs others: memory charged to a cgroup, page cache included, and pages brought into
//! the page cache. Tracing slows down those who use the cache, so this is for runs that are not timed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::common::is_root;

static NEXT: AtomicU32 = AtomicU32::new(0);

fn fresh_name() -> String {
    format!("dio-cp-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A memory cgroup without a limit, of version 1 or 2.
pub struct Group {
    path: PathBuf,
    v2: bool,
}

impl Group {
    /// Err: why there is none.
    pub fn new() -> Result<Self, String> {
        let root = Path::new("/sys/fs/cgroup");
        let v2 = fs::read_to_string(root.join("cgroup.controllers")).is_ok_and(|c| c.contains("memory"));
        let parent = if v2 { root.to_path_buf() } else { root.join("memory") };
        if v2 {
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        }
        let group = Self { path: parent.join(fresh_name()), v2 };
        let made = fs::create_dir(&group.path);
        if made.is_err() || group.peak_mib().is_none() {
            drop(group);
            return Err("memory charged is not known: needs root and a memory cgroup (version 2: Linux 5.19)".into());
        }
        Ok(group)
    }

    /// What a shell says to be in it.
    pub fn entrance(&self) -> String {
        format!("echo $$ > {} || exit 1; ", self.path.join("cgroup.procs").display())
    }

    pub fn peak_mib(&self) -> Option<f64> {
        let file = if self.v2 { "memory.peak" } else { "memory.max_usage_in_bytes" };
        let bytes: u64 = fs::read_to_string(self.path.join(file)).ok()?.trim().parse().ok()?;
        Some(bytes as f64 / f64::from(1 << 20))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// The kernel's event for each page (or folio of several) that comes into the page cache, in a trace
/// instance of its own.
pub struct Trace(PathBuf);

/// Pages by device and inode, as the kernel writes them; None if the kernel lost events.
pub type Insertions = Option<HashMap<String, u64>>;

impl Trace {
    /// Err: why there is none.
    pub fn new() -> Result<Self, String> {
        let root = Path::new("/sys/kernel/tracing");
        if is_root() && !root.join("instances").exists() {
            let _ = std::process::Command::new("mount").args(["-t", "tracefs", "tracefs"]).arg(root).status();
        }
        let trace = Self(root.join("instances").join(fresh_name()));
        fs::create_dir(&trace.0).map_err(|_| "inserted pages are not known: needs root and tracefs".to_string())?;
        let set = |file: &str, value: &str| fs::write(trace.0.join(file), value);
        set("buffer_size_kb", "16384")
            .and_then(|()| set("events/filemap/mm_filemap_add_to_page_cache/enable", "1"))
            .map_err(|error| format!("inserted pages are not known: {error}"))?;
        Ok(trace)
    }

    /// Runs `work`; the events are read while it runs, for no buffer would hold them all.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> (T, Insertions) {
        fs::write(self.0.join("trace"), "").unwrap();
        let pipe = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(self.0.join("trace_pipe")).unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_events(pipe, &ended));
            // The reader must end even if the work panics.
            let end = OnDrop(&ended);
            let result = work();
            drop(end);
            (result, reader.join().unwrap())
        })
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn read_events(mut pipe: File, ended: &AtomicBool) -> Insertions {
    let mut pages = HashMap::new();
    let (mut lost, mut text, mut part) = (false, Vec::new(), vec![0; 1 << 16]);
    loop {
        // Asked before reading: what comes after the end is nobody's.
        let last = ended.load(Ordering::Acquire);
        match pipe.read(&mut part) {
            Ok(len) if len > 0 => text.extend_from_slice(&part[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("trace_pipe: {error}"),
            _ if last => break,
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in String::from_utf8_lossy(&text[..whole]).lines() {
            lost |= line.contains("LOST");
            if let Some((file, order)) = parse(line) {
                *pages.entry(file.to_string()).or_insert(0) += 1 << order;
            }
        }
        text.drain(..whole);
    }
    (!lost).then_some(pages)
}

/// `… dev 254:0 ino 1f pfn=0x3 ofs=0 order=2` is `254:0 ino 1f` and 2.
fn parse(line: &str) -> Option<(&str, u32)> {
    let (_, rest) = line.split_once(" dev ")?;
    let (file, rest) = rest.split_once(" pfn=")?;
    let order = rest.rsplit_once("order=").map_or(0, |(_, order)| order.trim().parse().unwrap_or(0));
    Some((file, order))
}

/// Pages of these files. Their inodes are what they are now.
pub fn pages_of(insertions: &HashMap<String, u64>, files: &[PathBuf]) -> u64 {
    let key = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        let dev = found.dev();
        let (major, minor) = ((dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xfff00));
        Some(format!("{major}:{minor} ino {:x}", found.ino()))
    };
    files.iter().filter_map(key).filter_map(|key| insertions.get(&key)).sum()
}
