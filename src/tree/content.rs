//! The bytes of a file: cloned, read whole if it is small, or copied like a single file.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::PoisonError;

use super::batch::Unnamed;
use super::entry::Names;
use super::tally::add;
use super::{SingleFileObserver, Tree};
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
/// The beginnings of notes that the report of the tree has once, for all files.
const SUMMARIZED: [&str; 2] = ["cloned:", "not direct:"];
const IN_MEMORY: &str = "the filesystem is in memory";
/// Direct reads have a multiple of this many bytes, which satisfies the alignment of almost every disk.
const READ_STEP: u64 = 4096;

impl Tree<'_> {
    /// Clones or copies the bytes.
    pub fn copy_bytes(
        &self,
        source: &File,
        metadata: &Metadata,
        complete: &mut Unnamed,
        buffer: &mut AlignedBuffer,
    ) -> Result<()> {
        let (job, filesystem) = (&self.job.file, &complete.names.source.filesystem);
        let len = metadata.len();
        if filesystem.generated || len == 0 && self.has_content(source, complete, buffer)? {
            return self.copy_large(source, true, complete);
        }
        let ordered = complete.names.target.directory.filesystem.ordered;
        if len == 0 && !self.checks_content() {
            complete.ordered = ordered;
            return Ok(());
        }
        let plain = job.direct == DirectPolicy::Auto && job.sparse == Sparse::Auto && !self.checks_content();
        if plain && job.reflink != Reflink::Never && !filesystem.cannot_clone.is_set() {
            match sys::clone_range(source, 0, 0, &complete.file, 0) {
                Ok(()) => {
                    complete.ordered = ordered;
                    self.cloned.set();
                    add(&self.tally.cloned, len);
                    self.observer.event(Event::Copied(len));
                    return Ok(());
                }
                Err(e) if job.reflink == Reflink::Always => {
                    return Err(Error::io("cloning", &complete.names.source_path(), e));
                }
                Err(e) => {
                    if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EXDEV | libc::ENOTTY)) {
                        filesystem.cannot_clone.set();
                    }
                }
            }
        }
        let has_holes = metadata.blocks() * 512 < len;
        let small = plain && len <= MAX_SMALL && !has_holes && !self.paced && job.reflink != Reflink::Always;
        if small && !filesystem.not_direct.is_set() && self.copy_small(source, len, complete, buffer)? {
            return Ok(());
        }
        self.copy_large(source, false, complete)
    }

    /// True for a file that reports length 0 and has content: some filesystems generate it when it is read.
    fn has_content(&self, source: &File, complete: &Unnamed, buffer: &mut AlignedBuffer) -> Result<bool> {
        match source.read_at(&mut buffer[..READ_STEP as usize], 0) {
            Ok(read) => Ok(read > 0),
            // It refuses direct reads.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(true),
            Err(e) => Err(Error::io("reading", &complete.names.source_path(), e)),
        }
    }

    /// Reads a file with direct I/O in one go, and writes it through the page cache, from which it is evicted when the
    /// batch is on the medium. False if the file has to be read in another way.
    fn copy_small(&self, source: &File, len: u64, complete: &mut Unnamed, buffer: &mut AlignedBuffer) -> Result<bool> {
        let wanted = (len + 1).next_multiple_of(READ_STEP) as usize; // one byte more shows whether the file has grown
        let read = match source.read_at(&mut buffer[..wanted], 0) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => return Ok(false),
            other => other.map_err(|e| Error::io("reading", &complete.names.source_path(), e))?,
        };
        if (read as u64) < len {
            return Ok(false); // a short read, or the file has shrunk
        }
        let data = &buffer[..len as usize];
        let written = complete.file.write_all_at(data, 0);
        written.map_err(|e| Error::io("writing", &complete.names.target_path(), e))?;
        let Names { source, target, .. } = &complete.names;
        let (from_memory, to_memory) = (source.filesystem.in_memory, target.directory.filesystem.in_memory);
        complete.cached = if to_memory { 0 } else { len };
        let memory = Traffic { memory: len, ..Traffic::default() };
        let read = if from_memory { memory } else { Traffic { direct: len, ..Traffic::default() } };
        let written = if to_memory { memory } else { Traffic { uncached: len, ..Traffic::default() } };
        self.tally.not_direct("read", &read, Some(IN_MEMORY));
        if to_memory {
            self.tally.not_direct("written", &written, Some(IN_MEMORY));
        }
        self.tally.transferred(read, written);
        self.observer.event(Event::Copied(len));
        Ok(true)
    }

    /// Copies a file like a single one: with several blocks in flight, checks, and limits.
    fn copy_large(&self, source: &File, is_stream: bool, complete: &mut Unnamed) -> Result<()> {
        let _turn = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        let (source_path, target_path) = (complete.names.source_path(), complete.names.target_path());
        let reopen = |file: &File| file.try_clone();
        let fail = |e| Error::io("opening", &source_path, e);
        let files = OpenFiles {
            source: reopen(source).map_err(fail)?,
            source_name: &source_path,
            is_stream,
            destination: reopen(&complete.file).map_err(fail)?,
            destination_name: &target_path,
            pace: &self.pace,
        };
        let job = Job {
            checksum: self.checksum_of(&source_path, &target_path)?,
            check_cache: false,
            ..self.job.file.clone()
        };
        let report = copy_open_files(files, &job, &SingleFileObserver(self.observer), self.cleanup)?;
        complete.len = report.bytes;
        complete.digest = report.digest.map(|digest| digest.bytes);
        add(&self.tally.cloned, report.cloned);
        let (read, written) = (report.source.traffic, report.destination.written.traffic);
        self.tally.transferred(read, written);
        self.tally.not_direct("read", &read, report.source.why_not_direct.as_deref());
        self.tally.not_direct("written", &written, report.destination.written.why.as_deref());
        for note in report.notes.iter().filter(|note| !SUMMARIZED.iter().any(|start| note.starts_with(start))) {
            self.observer.event(Event::Notice(note));
        }
        Ok(())
    }
}
