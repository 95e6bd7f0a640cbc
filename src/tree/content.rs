//! The bytes of a file: cloned, read whole if it is small, or copied like a single file.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::batch::Unnamed;
use super::tally::add;
use super::{LargeFileObserver, Tree};
use crate::copy::{OpenFiles, copy_open_files};
use crate::direct::{AlignedBuffer, DirectPolicy, Traffic};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::job::{Job, Reflink, Sparse};
use crate::sys;

/// Files of up to this many bytes are read whole, and written through the page cache with many others. Larger ones are
/// copied like single files.
pub const MAX_SMALL: u64 = 512 << 10;
/// Bytes of a small file's buffer: the largest small file, rounded up to whatever direct I/O requires.
pub const BUFFER_SIZE: usize = MAX_SMALL as usize + (64 << 10);
/// Direct reads have a multiple of this many bytes, which satisfies the alignment of almost every disk.
const READ_STEP: u64 = 4096;

impl Tree<'_> {
    /// Clones or copies the bytes.
    pub fn copy_bytes(
        &self,
        source: &File,
        metadata: &Metadata,
        complete: &mut Unnamed,
        target_path: &Path,
        buffer: &mut AlignedBuffer,
    ) -> Result<()> {
        let job = &self.job.file;
        let len = metadata.len();
        if len == 0 {
            // Files in /proc report length 0 and have content.
            let read = source.read_at(&mut buffer[..READ_STEP as usize], 0);
            if read.map_err(|e| Error::io("reading", &complete.source, e))? > 0 {
                let why = "it reports length 0 and has content; copy it by itself";
                return Err(Error::failed("reading", &complete.source, why));
            }
            if !self.checks_content() {
                return Ok(());
            }
        }
        let plain = job.direct == DirectPolicy::Auto && job.sparse == Sparse::Auto && !self.checks_content();
        if plain && job.reflink != Reflink::Never && !self.clone_refused.load(Ordering::Relaxed) {
            match sys::clone_range(source, 0, 0, &complete.file, 0) {
                Ok(()) => {
                    add(&self.tally.cloned, len);
                    self.observer.event(Event::Copied(len));
                    return Ok(());
                }
                Err(e) if job.reflink == Reflink::Always => return Err(Error::io("cloning", &complete.source, e)),
                Err(e) => {
                    if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EXDEV | libc::ENOTTY)) {
                        self.clone_refused.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
        let has_holes = metadata.blocks() * 512 < len;
        let small = plain && len <= MAX_SMALL && !has_holes && !self.paced && job.reflink != Reflink::Always;
        if small && !self.source_not_direct.load(Ordering::Relaxed) && self.copy_small(source, len, complete, buffer)? {
            return Ok(());
        }
        self.copy_large(source, complete, target_path)
    }

    /// Reads a file with direct I/O in one go, and writes it through the page cache, from which it is evicted when the
    /// batch is on the medium. False if the source refuses direct reads.
    fn copy_small(&self, source: &File, len: u64, complete: &mut Unnamed, buffer: &mut AlignedBuffer) -> Result<bool> {
        let wanted = (len + 1).next_multiple_of(READ_STEP) as usize; // one byte more shows whether the file has grown
        let read = match source.read_at(&mut buffer[..wanted], 0) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => return Ok(false),
            other => other.map_err(|e| Error::io("reading", &complete.source, e))?,
        };
        if (read as u64) < len {
            let why = format!("it shrank from {len} to {read} bytes during the copy");
            return Err(Error::failed("reading", &complete.source, why));
        }
        let data = &buffer[..len as usize];
        let target = || complete.directory.location.path_of(&complete.name);
        complete.file.write_all_at(data, 0).map_err(|e| Error::io("writing", &target(), e))?;
        complete.cached = len;
        self.tally.transferred(
            Traffic { direct: len, ..Traffic::default() },
            Traffic { uncached: len, ..Traffic::default() },
        );
        self.observer.event(Event::Copied(len));
        Ok(true)
    }

    /// Copies a file like a single one: with several blocks in flight, checks, and limits.
    fn copy_large(&self, source: &File, complete: &mut Unnamed, target_path: &Path) -> Result<()> {
        let _turn = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        let reopen = |file: &File| file.try_clone();
        let fail = |e| Error::io("opening", &complete.source, e);
        let files = OpenFiles {
            source: reopen(source).map_err(fail)?,
            source_name: &complete.source,
            destination: reopen(&complete.file).map_err(fail)?,
            destination_name: target_path,
            pace: &self.pace,
        };
        let job = Job {
            checksum: self.checksum_of(&complete.source, target_path)?,
            check_cache: false,
            ..self.job.file.clone()
        };
        let report = copy_open_files(files, &job, &LargeFileObserver(self.observer), self.cleanup)?;
        complete.len = report.bytes;
        add(&self.tally.cloned, report.cloned);
        self.tally.transferred(report.source.traffic, report.destination.written.traffic);
        for note in &report.notes {
            if !note.starts_with("cloned:") {
                self.observer.event(Event::Notice(note));
            }
        }
        if let Some(digest) = &report.digest {
            self.observer.event(Event::Digest(target_path, &digest.bytes));
        }
        Ok(())
    }
}
