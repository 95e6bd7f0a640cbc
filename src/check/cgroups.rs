//! Which memory cgroup is charged for the cached pages of a file.
//!
//! `/proc/self/pagemap` gives the page frame that holds a page of a mapped file, and `/proc/kpagecgroup` gives the
//! cgroup that is charged for a page frame. Both need root.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::residency::{for_each_window, is_resident};
use crate::sys::{self, FileMapping};

/// Resident pages by the inode of the cgroup's directory. Inode 0 stands for pages that are charged to no cgroup.
pub type Charges = BTreeMap<u64, u64>;

/// The bit of a pagemap entry that marks a page in memory (proc_pid_pagemap(5)).
const PRESENT_BIT: u64 = 1 << 63;
/// The bits of a pagemap entry that hold the page frame number.
const FRAME_MASK: u64 = (1 << 55) - 1;
/// Bytes per page in pagemap, and per page frame in kpagecgroup.
const ENTRY_SIZE: usize = size_of::<u64>();

/// The memory cgroups of this system.
pub struct MemoryCgroups {
    pagemap: File,
    kpagecgroup: File,
    /// Path below the root of the hierarchy, by the inode of the directory.
    paths: HashMap<u64, PathBuf>,
}

impl MemoryCgroups {
    /// Opens the two files and lists the cgroups, version 1 or 2. Fails without root, and returns the path that could
    /// not be opened.
    pub fn new() -> Result<Self, (PathBuf, io::Error)> {
        let open = |path: &str| File::open(path).map_err(|e| (PathBuf::from(path), e));
        let (pagemap, kpagecgroup) = (open("/proc/self/pagemap")?, open("/proc/kpagecgroup")?);
        // Version 1 has a hierarchy for each controller. Version 2 has one for all controllers.
        let v1_root = Path::new("/sys/fs/cgroup/memory");
        let root = if v1_root.is_dir() { v1_root } else { Path::new("/sys/fs/cgroup") };
        Ok(Self { pagemap, kpagecgroup, paths: cgroup_paths(root) })
    }

    /// Adds the resident pages of a file of `bytes` bytes to `charges`.
    pub fn charge(&self, file: &File, bytes: u64, charges: &mut Charges) -> io::Result<()> {
        for_each_window(file, bytes, &mut |window, pages| {
            let mut first = 0;
            while first < pages.len() {
                let resident = is_resident(pages[first]);
                let count = pages[first..].iter().take_while(|page| is_resident(**page) == resident).count();
                // pagemap only has entries for pages that this process has mapped.
                if resident && window.populate(first, count).is_ok() {
                    self.charge_mapped_pages(window, first..first + count, charges)?;
                }
                first += count;
            }
            Ok(())
        })
    }

    fn charge_mapped_pages(&self, window: &FileMapping, pages: Range<usize>, charges: &mut Charges) -> io::Result<()> {
        let first_page = window.address() / sys::page_size() + pages.start as u64;
        let mut entries = vec![0u8; pages.len() * ENTRY_SIZE];
        self.pagemap.read_exact_at(&mut entries, first_page * ENTRY_SIZE as u64)?;
        for entry in entries.chunks_exact(ENTRY_SIZE) {
            let entry = u64::from_ne_bytes(entry.try_into().unwrap_or_default());
            if entry & PRESENT_BIT == 0 {
                continue; // no longer in memory
            }
            let frame = entry & FRAME_MASK;
            if frame == 0 {
                return Err(io::Error::other("the kernel hides page frame numbers from callers without CAP_SYS_ADMIN"));
            }
            let mut inode = [0u8; ENTRY_SIZE];
            self.kpagecgroup.read_exact_at(&mut inode, frame * ENTRY_SIZE as u64)?;
            *charges.entry(u64::from_ne_bytes(inode)).or_default() += 1;
        }
        Ok(())
    }

    /// The path of a cgroup below the root of the hierarchy. A deleted cgroup has no path, but can still be charged for
    /// pages.
    pub fn name(&self, inode: u64) -> String {
        match (inode, self.paths.get(&inode)) {
            (0, _) => "not charged".to_string(),
            (_, Some(path)) => path.display().to_string(),
            (inode, None) => format!("deleted cgroup (inode {inode})"),
        }
    }
}

/// The cgroups in the hierarchy at `root`. Cgroups that are deleted during the listing are left out.
fn cgroup_paths(root: &Path) -> HashMap<u64, PathBuf> {
    let mut paths = HashMap::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(directory) = pending.pop() {
        let Ok(metadata) = std::fs::metadata(&directory) else { continue };
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|file_type| file_type.is_dir()) {
                pending.push(entry.path());
            }
        }
        let path = Path::new("/").join(directory.strip_prefix(root).unwrap_or(&directory));
        paths.insert(metadata.ino(), path);
    }
    paths
}
