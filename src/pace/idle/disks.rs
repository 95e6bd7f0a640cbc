//! Activity of the disks under a copy, according to the kernel's counters
//! (Documentation/block/stat.rst, Documentation/admin-guide/iostats.rst).

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sys;

/// The disks under some files.
#[derive(Default)]
pub struct DiskStats {
    /// The open `stat` file of each disk, by the disk's name.
    stats: BTreeMap<String, File>,
    /// A disk does not keep counters (`queue/iostats` is 0), or no disk was found.
    incomplete: bool,
}

/// The counters of one disk.
struct Counters {
    /// Transfers completed since boot.
    completed: u64,
    in_flight: u64,
}

impl Counters {
    /// Parses a `stat` file.
    fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let fields: Vec<u64> = text.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        let field = |n: usize| fields.get(n).copied().unwrap_or(0);
        Self { completed: field(0).saturating_add(field(4)), in_flight: field(8) } // reads and writes
    }
}

impl DiskStats {
    /// The disks that hold these files, or are these devices, down to the physical ones. All disks of the machine where
    /// the kernel does not say which ones these are (btrfs, overlay, network filesystems).
    pub fn of(files: &[&File]) -> Self {
        let mut disks = Self::default();
        if !files.iter().all(|file| disks.add_file(file)) {
            let incomplete = disks.incomplete;
            for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
                disks.add_directory(&entry.path());
            }
            // Of all the machine's disks, one that does not keep counters is unlikely to be the one in use.
            disks.incomplete = incomplete || disks.stats.is_empty();
        }
        disks
    }

    /// Adds what holds this file, or is this device. A file in memory has no disk. False: its disk is not known.
    fn add_file(&mut self, file: &File) -> bool {
        let in_memory = |metadata: &Metadata| {
            metadata.is_file() && sys::filesystem(file).is_ok_and(|magic| sys::MEMORY_FILESYSTEMS.contains(&magic))
        };
        file.metadata().is_ok_and(|metadata| in_memory(&metadata) || self.add_device(device_number(&metadata)))
    }

    fn add_device(&mut self, device: u64) -> bool {
        let (major, minor) = (libc::major(device), libc::minor(device));
        let Ok(directory) = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")) else { return false };
        self.add_directory(&directory)
    }

    /// Adds a disk by its directory in sysfs.
    fn add_directory(&mut self, directory: &Path) -> bool {
        // A partition counts as the whole disk, which others use too.
        let is_partition = directory.join("partition").exists();
        let disk = if is_partition { directory.parent().unwrap_or(directory) } else { directory };
        self.incomplete |= fs::read_to_string(disk.join("queue/iostats")).is_ok_and(|on| on.trim() == "0");
        let (Some(name), Ok(stat)) = (disk.file_name(), File::open(disk.join("stat"))) else { return false };
        let name = name.to_string_lossy().into_owned();
        if self.stats.insert(name, stat).is_some() {
            return true;
        }
        // The disks below a logical volume, an array or an encrypted disk, and below a loop device with direct I/O. A loop
        // device without it goes through the page cache: its disk would be busy later, as if others used it.
        let loop_direct = fs::read_to_string(disk.join("loop/dio")).is_ok_and(|direct| direct.trim() == "1");
        let backing_file = sys::loop_backing_file(disk).filter(|_| loop_direct);
        let backing_known = backing_file.is_none_or(|path| File::open(path).is_ok_and(|file| self.add_file(&file)));
        let below = fs::read_dir(disk.join("slaves")).into_iter().flatten().flatten();
        let below: Vec<PathBuf> = below.filter_map(|entry| fs::canonicalize(entry.path()).ok()).collect();
        below.iter().all(|disk| self.add_directory(disk)) && backing_known
    }

    /// True if the counters show every transfer.
    pub fn reliable(&self) -> bool {
        !self.incomplete
    }

    /// Waits for `time`, and counts the transfers that were completed meanwhile or are in flight at the end.
    pub fn transfers_during(&self, time: Duration) -> u64 {
        let before = self.counters();
        std::thread::sleep(time);
        let seen = before
            .iter()
            .zip(self.counters())
            .map(|(before, after)| after.completed.saturating_sub(before.completed).saturating_add(after.in_flight));
        // Disks that are stacked count the same transfers, so this is the largest count, not the sum.
        seen.max().unwrap_or(0)
    }

    fn counters(&self) -> Vec<Counters> {
        let read = |stat: &File| {
            let mut text = [0; 256];
            let len = stat.read_at(&mut text, 0).unwrap_or(0);
            Counters::parse(&text[..len])
        };
        self.stats.values().map(read).collect()
    }

    /// For -v.
    pub fn describe(&self) -> String {
        if !self.reliable() {
            "the kernel does not count the transfers of the disk: yielding all the time".to_string()
        } else if self.stats.is_empty() {
            "source and destination are not on a disk: nothing to watch".to_string()
        } else {
            format!("watching for other users of {}", self.names())
        }
    }

    /// The names of the disks.
    pub fn names(&self) -> String {
        self.stats.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// The device that a file is, or is stored on.
fn device_number(metadata: &Metadata) -> u64 {
    if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.dev() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(crate::cases::cases(5000))]

        #[test]
        fn the_counters_are_fields_1_5_and_9(
            fields in prop::collection::vec(any::<u64>(), 0..18),
            noise in prop::collection::vec(any::<u8>(), 0..99),
        ) {
            let field = |n: usize| fields.get(n).copied().unwrap_or(0);
            let text: String = fields.iter().map(|field| format!("{field:8} ")).collect();
            let counters = Counters::parse(text.as_bytes());
            prop_assert_eq!(counters.completed, field(0).saturating_add(field(4)));
            prop_assert_eq!(counters.in_flight, field(8));
            Counters::parse(&noise);
        }
    }
}
