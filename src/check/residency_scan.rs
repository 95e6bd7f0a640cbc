//! `--residency`: counts the cached pages of files and directory trees, as vmtouch(8) does.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::cgroups::{Charges, MemoryCgroups};
use super::residency::Residency;

/// What a scan counted.
#[derive(Default)]
pub struct ResidencyTotals {
    /// Files counted.
    pub files: u64,
    /// Directories read.
    pub directories: u64,
    /// Size of the files in pages.
    pub pages: u64,
    /// Size of the files in bytes.
    pub bytes: u64,
    /// Pages in the page cache.
    pub resident: u64,
    /// Of these, pages that are dirty or under writeback, where the kernel reports them.
    pub dirty: u64,
    /// Files whose cached pages the kernel does not report.
    pub unknown: u64,
    /// Paths that could not be read.
    pub failed: u64,
    /// Resident pages by the cgroup that is charged for them.
    pub charges: Charges,
}

/// What a scan reports while it runs.
pub enum ScanEvent<'a> {
    /// A file was counted.
    File { path: &'a Path, residency: &'a Residency },
    /// A path could not be read.
    Failed { path: &'a Path, error: io::Error },
}

/// Counts the cached pages of `paths` and of the files in them. Symbolic links are followed only if they are among
/// `paths`. With `cgroups`, also counts which cgroup is charged for each page.
pub fn scan(
    paths: &[PathBuf],
    cgroups: Option<&MemoryCgroups>,
    report: &mut dyn FnMut(ScanEvent<'_>),
) -> ResidencyTotals {
    let mut scanner = Scanner { cgroups, report, totals: ResidencyTotals::default(), counted: HashSet::new() };
    for path in paths {
        scanner.scan_argument(path);
    }
    scanner.totals
}

struct Scanner<'a> {
    cgroups: Option<&'a MemoryCgroups>,
    report: &'a mut dyn FnMut(ScanEvent<'_>),
    totals: ResidencyTotals,
    /// Device and inode of the files that may come up again under another name.
    counted: HashSet<(u64, u64)>,
}

impl Scanner<'_> {
    fn scan_argument(&mut self, path: &Path) {
        // The type is checked before the file is opened: opening a FIFO would make this process its reader.
        let file_type = match std::fs::metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) => return self.fail(path, error),
        };
        if file_type.is_dir() {
            self.scan_tree(path);
        } else if file_type.is_file() || file_type.is_block_device() {
            self.scan_file(path, true);
        } else {
            self.fail(path, io::Error::other("it is not a file, directory or block device, so it has no pages"));
        }
    }

    fn scan_tree(&mut self, root: &Path) {
        // A list instead of recursion, because a tree may be deeper than the stack allows.
        let mut pending = vec![root.to_path_buf()];
        while let Some(directory) = pending.pop() {
            let entries = match std::fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) => {
                    self.fail(&directory, error);
                    continue;
                }
            };
            self.totals.directories += 1;
            for entry in entries {
                match entry.and_then(|entry| Ok((entry.path(), entry.file_type()?))) {
                    Err(error) => self.fail(&directory, error),
                    Ok((path, file_type)) if file_type.is_dir() => pending.push(path),
                    Ok((path, file_type)) if file_type.is_file() => self.scan_file(&path, false),
                    Ok(_) => {} // device nodes, FIFOs, sockets and symbolic links have no pages of their own
                }
            }
        }
    }

    /// `is_argument`: the user named this path, so it may be given twice.
    fn scan_file(&mut self, path: &Path, is_argument: bool) {
        match self.count(path, is_argument) {
            Ok(Some(residency)) => (self.report)(ScanEvent::File { path, residency: &residency }),
            Ok(None) => {}
            Err(error) => self.fail(path, error),
        }
    }

    /// Adds a file to the totals. None if it was counted before under another name.
    fn count(&mut self, path: &Path, is_argument: bool) -> io::Result<Option<Residency>> {
        // O_NONBLOCK: if a FIFO has replaced the file, do not wait for its writer.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
        let metadata = file.metadata()?;
        let may_repeat = is_argument || metadata.nlink() > 1;
        if may_repeat && !self.counted.insert((metadata.dev(), metadata.ino())) {
            return Ok(None);
        }
        let residency = Residency::measure(&file)?;
        let totals = &mut self.totals;
        if let Some(cgroups) = self.cgroups {
            cgroups.charge(&file, residency.bytes, &mut totals.charges)?;
        }
        totals.files += 1;
        totals.pages = totals.pages.saturating_add(residency.pages);
        totals.bytes = totals.bytes.saturating_add(residency.bytes);
        totals.dirty += residency.cached.dirty_or_under_writeback().unwrap_or(0);
        match residency.cached.resident() {
            Some(resident) => totals.resident += resident,
            None => totals.unknown += 1,
        }
        Ok(Some(residency))
    }

    fn fail(&mut self, path: &Path, error: io::Error) {
        self.totals.failed += 1;
        (self.report)(ScanEvent::Failed { path, error });
    }
}
