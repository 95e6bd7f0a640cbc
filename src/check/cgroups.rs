//! Who is charged for the cached pages: `/proc/self/pagemap` says which page of memory holds a page of
//! a file, `/proc/kpagecgroup` which memory cgroup is charged for that. Both need root.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::residency::each_window;
use crate::sys;

/// Resident pages by the inode of the cgroup's directory; 0 is charged to nobody.
pub type Charges = BTreeMap<u64, u64>;

/// pagemap's "present" bit, and its page frame number (proc_pid_pagemap(5)).
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;

/// The memory cgroups of this system.
pub struct MemoryCgroups {
    pagemap: File,
    charged: File,
    paths: HashMap<u64, PathBuf>,
}

impl MemoryCgroups {
    /// Opens the two files and lists the cgroups, version 1 or 2. Fails without root.
    pub fn new() -> Result<Self, (PathBuf, io::Error)> {
        let open = |path: &str| File::open(path).map_err(|e| (PathBuf::from(path), e));
        let (pagemap, charged) = (open("/proc/self/pagemap")?, open("/proc/kpagecgroup")?);
        let mut paths = HashMap::new();
        // Version 1 has the controller in a hierarchy of its own; version 2 has one for all.
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let root = if v1.is_dir() { v1 } else { Path::new("/sys/fs/cgroup") };
        let mut left = vec![root.to_path_buf()];
        while let Some(directory) = left.pop() {
            let Ok(found) = std::fs::metadata(&directory) else { continue }; // it is gone again
            for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    left.push(entry.path());
                }
            }
            let name = Path::new("/").join(directory.strip_prefix(root).unwrap_or(&directory));
            paths.insert(found.ino(), name);
        }
        Ok(Self { pagemap, charged, paths })
    }

    /// Adds the file's resident pages to `charges`.
    pub fn charge(&self, file: &File, bytes: u64, charges: &mut Charges) -> io::Result<()> {
        let page = sys::page_size();
        each_window(file, bytes, &mut |window, pages| {
            let mut first = 0;
            while first < pages.len() {
                let resident = pages[first] & 1 == 1;
                let count = pages[first..].iter().take_while(|page| (**page & 1 == 1) == resident).count();
                if resident && window.populate(first, count).is_ok() {
                    let mut entries = vec![0u8; count * 8];
                    self.pagemap.read_exact_at(&mut entries, (window.address() / page + first as u64) * 8)?;
                    for entry in entries.chunks_exact(8) {
                        let entry = u64::from_ne_bytes(entry.try_into().unwrap_or_default());
                        if entry & PRESENT != 0 && entry & FRAME == 0 {
                            return Err(io::Error::other("the kernel hides where pages are: CAP_SYS_ADMIN is needed"));
                        }
                        if entry & PRESENT != 0 {
                            let mut group = [0u8; 8];
                            self.charged.read_exact_at(&mut group, (entry & FRAME) * 8)?;
                            *charges.entry(u64::from_ne_bytes(group)).or_default() += 1;
                        }
                    }
                }
                first += count;
            }
            Ok(())
        })
    }

    /// The cgroup's path below the hierarchy's root; what it was charged for outlives a group.
    pub fn name(&self, inode: u64) -> String {
        match (inode, self.paths.get(&inode)) {
            (0, _) => "not charged".to_string(),
            (_, Some(path)) => path.display().to_string(),
            (inode, None) => format!("a cgroup that is gone (inode {inode})"),
        }
    }
}
