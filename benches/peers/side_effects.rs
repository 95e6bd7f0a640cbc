//! What a run costs other programs: the memory charged to its cgroup, page cache included, and the pages that it brings
//! into the page cache. Tracing slows down programs that use the page cache, so timed runs are not traced.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::common::is_root;

static NEXT: AtomicU32 = AtomicU32::new(0);

fn unique_name() -> String {
    format!("dio-cp-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A memory cgroup without a limit, version 1 or 2.
pub struct MemoryCgroup {
    path: PathBuf,
    v2: bool,
}

impl MemoryCgroup {
    pub fn new() -> Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let v2 = fs::read_to_string(root.join("cgroup.controllers")).is_ok_and(|c| c.contains("memory"));
        let parent = if v2 { root.to_path_buf() } else { root.join("memory") };
        if v2 {
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        }
        let group = Self { path: parent.join(unique_name()), v2 };
        let created = fs::create_dir(&group.path);
        ensure!(
            created.is_ok() && group.peak_mib().is_some(),
            "charged memory is unknown: needs root and a memory cgroup (version 2: Linux 5.19)"
        );
        Ok(group)
    }

    /// The shell command that moves the shell into the cgroup.
    pub fn enter_command(&self) -> String {
        format!("echo $$ > {} || exit 1; ", self.path.join("cgroup.procs").display())
    }

    pub fn peak_mib(&self) -> Option<f64> {
        let file = if self.v2 { "memory.peak" } else { "memory.max_usage_in_bytes" };
        let bytes: u64 = fs::read_to_string(self.path.join(file)).ok()?.trim().parse().ok()?;
        Some(bytes as f64 / f64::from(1 << 20))
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// A trace instance for the kernel's event `mm_filemap_add_to_page_cache`, one for each page or folio.
pub struct PageCacheTrace(PathBuf);

/// The number of pages that entered the page cache, by device and inode as the kernel writes them. None if the kernel
/// lost events.
pub type PagesByInode = Option<HashMap<String, u64>>;

impl PageCacheTrace {
    pub fn new() -> Result<Self> {
        let root = Path::new("/sys/kernel/tracing");
        if is_root() && !root.join("instances").exists() {
            let _ = Command::new("mount").args(["-t", "tracefs", "tracefs"]).arg(root).status();
        }
        let trace = Self(root.join("instances").join(unique_name()));
        fs::create_dir(&trace.0).map_err(|_| anyhow!("inserted pages are unknown: needs root and tracefs"))?;
        let set = |file: &str, value: &str| fs::write(trace.0.join(file), value);
        set("buffer_size_kb", "16384")
            .and_then(|()| set("events/filemap/mm_filemap_add_to_page_cache/enable", "1"))
            .map_err(|error| anyhow!("inserted pages are unknown: {error}"))?;
        Ok(trace)
    }

    /// Runs `work` and counts the pages meanwhile. No buffer can hold all events, so they are read while it runs.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> Result<(T, PagesByInode)> {
        fs::write(self.0.join("trace"), "")?;
        let pipe = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(self.0.join("trace_pipe"))?;
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_events(pipe, &ended));
            // The reader must end even if the work panics.
            let end_reader = SetOnDrop(&ended);
            let result = work();
            drop(end_reader);
            let pages = reader.join().map_err(|_| anyhow!("the reader of trace_pipe panicked"))??;
            Ok((result, pages))
        })
    }
}

impl Drop for PageCacheTrace {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn read_events(mut pipe: File, ended: &AtomicBool) -> Result<PagesByInode> {
    let mut pages = HashMap::new();
    let (mut lost, mut text, mut part) = (false, Vec::new(), vec![0; 1 << 16]);
    loop {
        // Loaded before the read, so that the events of the work are read to the end.
        let last = ended.load(Ordering::Acquire);
        match pipe.read(&mut part) {
            Ok(len) if len > 0 => text.extend_from_slice(&part[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error).context("trace_pipe"),
            _ if last => break,
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
        let complete = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        for line in String::from_utf8_lossy(&text[..complete]).lines() {
            lost |= line.contains("LOST");
            if let Some((file, order)) = parse_event(line) {
                *pages.entry(file.to_string()).or_insert(0) += 1 << order;
            }
        }
        text.drain(..complete);
    }
    Ok((!lost).then_some(pages))
}

/// The device and inode, and the folio's order: `… dev 254:0 ino 1f pfn=0x3 ofs=0 order=2` gives `254:0 ino 1f` and 2.
fn parse_event(line: &str) -> Option<(&str, u32)> {
    let (_, rest) = line.split_once(" dev ")?;
    let (file, rest) = rest.split_once(" pfn=")?;
    let order = rest.rsplit_once("order=").map_or(0, |(_, order)| order.trim().parse().unwrap_or(0));
    Some((file, order))
}

/// The pages of these files, by the inodes that the paths name now.
pub fn pages_of(pages: &HashMap<String, u64>, files: &[PathBuf]) -> u64 {
    let key = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        let device = metadata.dev();
        Some(format!("{}:{} ino {:x}", libc::major(device), libc::minor(device), metadata.ino()))
    };
    files.iter().filter_map(key).filter_map(|key| pages.get(&key)).sum()
}
