//! What is known of a filesystem that a tree is on. Every filesystem of a tree answers for itself: below `/`, files in
//! `/proc` must not decide how those on the disk are read.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys::{self, Directory};

/// A filesystem.
pub struct Filesystem {
    /// The device number (stat(2)).
    pub device: u64,
    /// A directory on it. syncfs(2) reports the write errors since this was opened.
    directory: File,
    /// Files have content that is generated when they are read: their length means nothing.
    pub generated: bool,
    /// Files are stored in memory.
    pub in_memory: bool,
    /// It makes changes of metadata durable in the order in which they were made, clones included.
    pub ordered: bool,
    /// A directory of the copy is on it.
    pub written: Flag,
    /// It refused O_DIRECT.
    pub not_direct: Flag,
    /// It refused to clone.
    pub cannot_clone: Flag,
    /// It cannot create a file without a name.
    pub needs_names: Flag,
}

impl Filesystem {
    /// The filesystem of an open directory.
    pub fn of(device: u64, directory: &Directory) -> io::Result<Self> {
        let magic = sys::filesystem(directory.file())?;
        Ok(Self {
            device,
            directory: directory.file().try_clone()?,
            generated: sys::PSEUDO_FILESYSTEMS.contains(&magic),
            in_memory: sys::MEMORY_FILESYSTEMS.contains(&magic),
            ordered: [sys::BTRFS, sys::XFS].contains(&magic),
            written: Flag::default(),
            not_direct: Flag::default(),
            cannot_clone: Flag::default(),
            needs_names: Flag::default(),
        })
    }

    /// Waits until everything on it is on the medium.
    pub fn sync(&self) -> io::Result<()> {
        sys::sync_filesystem(&self.directory)
    }
}

/// A fact that is learned during the copy. Once set, it stays set.
#[derive(Default)]
pub struct Flag(AtomicBool);

impl Flag {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
