//! `--residency`: files and trees, as vmtouch(8) counts them.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::cgroups::{Charges, MemoryCgroups};
use super::residency::{self, Cache, Residency};

/// What was counted.
#[derive(Default)]
pub struct ResidencyScan {
    /// Files looked at.
    pub files: u64,
    /// Directories looked into.
    pub directories: u64,
    /// Pages that the files have.
    pub pages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Pages in the cache.
    pub resident: u64,
    /// Of these, dirty or being written back, where the kernel tells.
    pub dirty: u64,
    /// Files of which the kernel does not tell.
    pub unknown: u64,
    /// Paths that could not be read.
    pub failed: u64,
    /// Resident pages by the cgroup that is charged.
    pub charges: Charges,
    /// Files that could come again, by device and inode.
    counted: HashSet<(u64, u64)>,
}

/// What a survey tells while it goes on.
pub enum ScanEvent<'a> {
    /// A file.
    File(&'a Path, &'a Residency),
    /// A path that could not be read, and why.
    Failed(&'a Path, &'a io::Error),
}

impl ResidencyScan {
    /// Looks at `paths` and everything below them; links are followed only if they are named.
    /// `groups`: charges too.
    pub fn of(paths: &[PathBuf], groups: Option<&MemoryCgroups>, each: &mut dyn FnMut(ScanEvent<'_>)) -> Self {
        let mut survey = Self::default();
        for path in paths {
            // Looked at before it is opened: to open a FIFO is to be its reader.
            let result = std::fs::metadata(path).and_then(|found| match found.file_type() {
                kind if kind.is_dir() => {
                    survey.tree(path, groups, each);
                    Ok(())
                }
                kind if kind.is_file() || kind.is_block_device() => survey.file(path, true, groups, each),
                _ => Err(io::Error::other("it is neither a file nor a block device, and has no pages")),
            });
            survey.note(path, result, each);
        }
        survey
    }

    fn note(&mut self, path: &Path, result: io::Result<()>, each: &mut dyn FnMut(ScanEvent<'_>)) {
        if let Err(error) = result {
            self.failed += 1;
            each(ScanEvent::Failed(path, &error));
        }
    }

    fn tree(&mut self, root: &Path, groups: Option<&MemoryCgroups>, each: &mut dyn FnMut(ScanEvent<'_>)) {
        // A list instead of recursion: a tree may be deeper than the stack.
        let mut left = vec![root.to_path_buf()];
        while let Some(directory) = left.pop() {
            let entries = match std::fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(e) => {
                    self.note(&directory, Err(e), each);
                    continue;
                }
            };
            self.directories += 1;
            for entry in entries {
                let found = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)));
                match found {
                    Err(e) => self.note(&directory, Err(e), each),
                    Ok((path, kind)) if kind.is_dir() => left.push(path),
                    Ok((path, kind)) if kind.is_file() => {
                        let result = self.file(&path, false, groups, each);
                        self.note(&path, result, each);
                    }
                    Ok(_) => {} // devices, FIFOs, sockets and links have no pages of their own
                }
            }
        }
    }

    fn file(
        &mut self,
        path: &Path,
        named: bool,
        groups: Option<&MemoryCgroups>,
        each: &mut dyn FnMut(ScanEvent<'_>),
    ) -> io::Result<()> {
        // Without waiting for the writer of a FIFO.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
        let metadata = file.metadata()?;
        // A file under several names has its pages once.
        if (named || metadata.nlink() > 1) && !self.counted.insert((metadata.dev(), metadata.ino())) {
            return Ok(());
        }
        let found = residency::of(&file)?;
        if let Some(groups) = groups {
            groups.charge(&file, found.bytes, &mut self.charges)?;
        }
        self.files += 1;
        self.pages = self.pages.saturating_add(found.pages);
        self.bytes = self.bytes.saturating_add(found.bytes);
        self.resident += found.cache.resident().unwrap_or(0);
        match found.cache {
            Cache::Known(stat) => self.dirty += stat.dirty + stat.write_back,
            Cache::Resident(_) => {}
            Cache::Unknown => self.unknown += 1,
        }
        each(ScanEvent::File(path, &found));
        Ok(())
    }
}
