//! What the disks under a copy are doing, by the kernel's own count
//! (Documentation/block/stat.rst, Documentation/admin-guide/iostats.rst).

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sys;

/// Disks.
#[derive(Default)]
pub struct DiskStats {
    /// Their open counters, by name.
    stats: BTreeMap<String, File>,
    /// One of them does not count (`queue/iostats`), or none can be seen.
    blind: bool,
}

impl DiskStats {
    /// The disks that hold these files, or are these devices: those at the bottom, and what lies between.
    /// Where the kernel does not say which one it is (btrfs, overlay, a network), all that there are.
    pub fn of(files: &[&File]) -> Self {
        let mut disks = Self::default();
        if !files.iter().all(|file| disks.add_file(file)) {
            let blind = disks.blind;
            for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
                disks.add_at(&entry.path());
            }
            // Of so many, one that does not count is hardly the one.
            disks.blind = blind || disks.stats.is_empty();
        }
        disks
    }

    /// What holds this file, or is this device. What lives in memory has no disk.
    fn add_file(&mut self, file: &File) -> bool {
        let in_memory = |found: &Metadata| {
            found.is_file() && sys::filesystem(file).is_ok_and(|magic| sys::MEMORY_FILESYSTEMS.contains(&magic))
        };
        file.metadata().is_ok_and(|found| in_memory(&found) || self.add(device(&found)))
    }

    /// By device number. False: there is no such disk.
    fn add(&mut self, device: u64) -> bool {
        let (major, minor) = (libc::major(device), libc::minor(device));
        let Ok(at) = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")) else { return false };
        self.add_at(&at)
    }

    fn add_at(&mut self, at: &Path) -> bool {
        // Of a partition, the whole disk: that is what others use too.
        let disk = if at.join("partition").exists() { at.parent().unwrap_or(at) } else { at };
        self.blind |= fs::read_to_string(disk.join("queue/iostats")).is_ok_and(|on| on.trim() == "0");
        let (Some(name), Ok(stat)) = (disk.file_name(), File::open(disk.join("stat"))) else { return false };
        let name = name.to_string_lossy().into_owned();
        // What lies under a logical volume, an array, an encrypted disk; and under a loop device, unless that
        // goes through the page cache: then the disk works later, and it would seem to be somebody else.
        let through = fs::read_to_string(disk.join("loop/dio")).is_ok_and(|direct| direct.trim() == "1");
        let backing = fs::read_to_string(disk.join("loop/backing_file")).ok().filter(|_| through);
        let below = fs::read_dir(disk.join("slaves")).into_iter().flatten().flatten();
        let below: Vec<PathBuf> = below.filter_map(|entry| fs::canonicalize(entry.path()).ok()).collect();
        if self.stats.insert(name, stat).is_some() {
            return true;
        }
        let backed = backing.is_none_or(|path| File::open(path.trim()).is_ok_and(|file| self.add_file(&file)));
        below.iter().all(|disk| self.add_at(disk)) && backed
    }

    /// True if others' transfers can be seen.
    pub fn tell(&self) -> bool {
        !self.blind
    }

    /// Waits, and counts the transfers that ended or are under way at the end.
    pub fn during(&self, time: Duration) -> u64 {
        let before = self.now();
        std::thread::sleep(time);
        // Of those that lie on one another each counts the same transfers: the most, not the sum.
        let seen = |(before, after): (&(u64, u64), (u64, u64))| after.0.saturating_sub(before.0) + after.1;
        before.iter().zip(self.now()).map(seen).max().unwrap_or(0)
    }

    /// Of each disk, the transfers that ended and those that are under way.
    fn now(&self) -> Vec<(u64, u64)> {
        let count = |stat: &File| {
            let mut text = [0; 256];
            let len = stat.read_at(&mut text, 0).unwrap_or(0);
            let text = String::from_utf8_lossy(&text[..len]);
            let figures: Vec<u64> = text.split_ascii_whitespace().filter_map(|figure| figure.parse().ok()).collect();
            let figure = |n: usize| figures.get(n).copied().unwrap_or(0);
            (figure(0) + figure(4), figure(8)) // reads and writes, in flight
        };
        self.stats.values().map(count).collect()
    }

    /// For -v.
    pub fn describe(&self) -> String {
        match self.tell() {
            true if self.stats.is_empty() => "no disk is used".to_string(),
            true => format!("watching what others do with {}", self.describe_briefly()),
            false => "the kernel does not tell what others do with the disk: yielding all the time".to_string(),
        }
    }

    /// Their names.
    pub fn describe_briefly(&self) -> String {
        self.stats.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// The device that a file is, or that it lies on.
fn device(found: &Metadata) -> u64 {
    if found.file_type().is_block_device() { found.rdev() } else { found.dev() }
}
