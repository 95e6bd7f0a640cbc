//! A regular file or block device as a source: workers claim ranges in order and read them in parallel.

use std::fs::{File, Metadata};
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{CloneReader, Extents, OpenSource, ReadPlan, ReadReport, Source, suggested_name};
use crate::block::{Block, Layout};
use crate::direct::{CachedReader, DirectPolicy, DirectReader, Traffic};
use crate::error::{Error, Result, quoted, size};
use crate::job::{Job, Sparse};
use crate::pace::{Direction, Pace};
use crate::sequencer::Sequencer;
use crate::source_info::{Identity, SourceInfo};
use crate::sys;

/// The longest hole that one block stands for, in bytes. A limit, so that progress is shown while a hole is written out.
const MAX_HOLE: u64 = 1 << 30;

struct FileSource {
    name: PathBuf,
    reader: DirectReader,
    /// Serves blocks that are in the page cache already.
    cached_reader: CachedReader,
    file: File,
    /// Standard input, whose position must end up after what was copied.
    stdin: Option<File>,
    range: FileRange,
    /// Attributes when the file was opened.
    metadata: Metadata,
    extents: Extents,
    layout: Layout,
    /// The range of the copy that the destination shares already.
    cloned: Range<u64>,
    /// Reads it from the destination, if its bytes are needed.
    clone_reader: Option<CloneReader>,
    cursor: Mutex<Cursor>,
    pace: Arc<Pace>,
}

/// The part of the file that is copied, in bytes.
#[derive(Clone, Copy)]
struct FileRange {
    /// Offset of the first byte to copy.
    start: u64,
    /// Bytes to copy.
    len: u64,
    /// Length of the whole file when it was opened.
    file_len: u64,
}

/// What no worker has claimed yet.
#[derive(Default)]
struct Cursor {
    number: u64,
    offset: u64,
    /// The end of the data that contain `offset`, if they were looked up already.
    data_end: u64,
}

/// A range that a worker has claimed.
struct Claim {
    number: u64,
    offset: u64,
    len: u64,
    hole: bool,
}

/// Takes a file that is open. `stdin`: the file is standard input, and the copy starts at its position.
pub fn open<'a>(
    job: &Job,
    name: &Path,
    reader: DirectReader,
    (file, metadata): (File, Metadata),
    stdin: Option<File>,
    pace: &Arc<Pace>,
) -> Result<OpenSource<'a>> {
    let fail = |e| Error::io("opening", name, e);
    let device = metadata.file_type().is_block_device();
    let range = FileRange::of(job, name, &file, stdin.as_ref())?;
    let detect_holes = job.sparse != Sparse::Never && !device;
    if detect_holes {
        write_back_if_without_extents(&file).map_err(fail)?;
    }
    let mut reader = reader;
    pace.idle.iter().for_each(|idle| reader.yield_at(idle));
    let extents = Extents::new(file.try_clone().map_err(fail)?, range.start, range.len, detect_holes);
    // The pages of a device belong to its openers, not to a filesystem that is mounted on it.
    let use_cache = job.direct == DirectPolicy::Auto && reader.is_direct() && !device;
    let alignment = if reader.is_direct() { reader.alignment().offset } else { 1 };
    let mode = if reader.is_direct() { "direct" } else { "not direct" };
    let source = FileSource {
        name: name.into(),
        reader,
        cached_reader: CachedReader::new(file.try_clone().map_err(fail)?, use_cache),
        file: file.try_clone().map_err(fail)?,
        stdin,
        range,
        metadata: metadata.clone(),
        extents: extents.clone(),
        layout: Layout::default(),
        cloned: 0..0,
        clone_reader: None,
        cursor: Mutex::default(),
        pace: pace.clone(),
    };
    let info = SourceInfo {
        name: name.into(),
        suggested_name: suggested_name(job),
        identity: identity(&metadata, &range),
        length: Some(range.len),
        file: Some((file, metadata)),
    };
    Ok(OpenSource {
        info,
        alignment,
        min_workers: 1,
        extents: Some(extents),
        description: format!("{} bytes, read {mode}, alignment {alignment}", range.len),
        source: Box::new(source),
    })
}

impl FileRange {
    /// What --skip, --count and --size select of the file.
    fn of(job: &Job, name: &Path, file: &File, stdin: Option<&File>) -> Result<Self> {
        let fail = |e| Error::io("opening", name, e);
        let file_len = sys::length(file).map_err(fail)?;
        let first = match stdin {
            Some(mut stdin) => stdin.stream_position().map_err(fail)?,
            None => 0,
        };
        let available = file_len.saturating_sub(first);
        if let Some(required) = job.size.filter(|required| *required != available) {
            return Err(Error::content(name, format!("it has {available} bytes, and --size requires {required}")));
        }
        if job.skip > available {
            let why = format!("--skip {} is past the end of {}, which has {available} bytes", job.skip, quoted(name));
            return Err(Error::usage(why));
        }
        let len = (available - job.skip).min(job.count.unwrap_or(u64::MAX));
        Ok(Self { start: first + job.skip, len, file_len })
    }

    fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// Without extents, SEEK_DATA on ext4 misses data that are not written back yet (Linux 6.18).
fn write_back_if_without_extents(file: &File) -> std::io::Result<()> {
    let has_extents = || sys::inode_flags(file).unwrap_or(0) & sys::EXTENTS_OR_INLINE != 0;
    if sys::filesystem(file)? == sys::EXT && !has_extents() {
        return sys::write_back(file, 0, 0).or_else(|_| file.sync_all());
    }
    Ok(())
}

/// Which file, how long, and when it changed. Nothing identifies the content of a device.
fn identity(metadata: &Metadata, range: &FileRange) -> Option<Identity> {
    metadata.is_file().then(|| {
        vec![
            ("file", format!("{}:{}", metadata.dev(), metadata.ino())),
            ("length", range.file_len.to_string()),
            ("modification time", format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec())),
            // The inode's: it reveals changes after which the modification time was set back.
            ("change time", format!("{}.{:09}", metadata.ctime(), metadata.ctime_nsec())),
            ("offset", range.start.to_string()),
            ("number of bytes", range.len.to_string()),
        ]
    })
}

impl FileSource {
    /// Claims the next range; None at the end.
    fn claim(&self) -> Option<Claim> {
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let in_clone = self.cloned.contains(&cursor.offset);
        if in_clone && self.clone_reader.is_none() {
            cursor.offset = self.cloned.end;
        }
        let offset = cursor.offset;
        if offset >= self.range.len {
            return None;
        }
        let mut hole = false;
        if in_clone && self.clone_reader.is_some() {
            cursor.data_end = self.cloned.end; // the extents of the source may have changed since
        } else if offset >= cursor.data_end {
            let extent = self.extents.at(&self.layout, offset);
            (cursor.data_end, hole) = (extent.end, extent.hole);
        }
        // A block is cloned as a whole or not at all.
        let border = [self.cloned.start, self.cloned.end].into_iter().find(|border| *border > offset);
        let extent_len = cursor.data_end.min(border.unwrap_or(u64::MAX)) - offset;
        let len = if hole {
            let limit = self.layout.round_down(offset.saturating_add(MAX_HOLE)).max(offset + 1);
            extent_len.min(limit - offset)
        } else {
            extent_len.min(self.layout.placement(offset).max_len as u64)
        };
        if hole {
            cursor.data_end = offset + len;
        }
        cursor.offset = offset + len;
        cursor.number += 1;
        Some(Claim { number: cursor.number - 1, offset, len, hole })
    }

    fn shrank(&self, current_len: u64) -> Error {
        let why = format!("it shrank from {} to {current_len} bytes during the copy", self.range.file_len);
        Error::failed("reading", &self.name, why)
    }

    /// What the user should know if the file changed during the copy. An error if it shrank.
    fn note_changes(&self) -> Result<Option<String>> {
        if self.range.len > 0 && self.cloned == (0..self.range.len) {
            return Ok(None); // a clone is a snapshot
        }
        let fail = |e| Error::io("reading", &self.name, e);
        let current_len = sys::length(&self.file).map_err(fail)?;
        if self.range.len > 0 && current_len < self.range.end() {
            return Err(self.shrank(current_len));
        }
        if current_len > self.range.file_len {
            let grown = size(current_len - self.range.file_len);
            let consequence = "the copy has its length at the start";
            return Ok(Some(format!("{} grew by {grown} during the copy; {consequence}", quoted(&self.name))));
        }
        let modified = |metadata: &Metadata| (metadata.mtime(), metadata.mtime_nsec());
        let changed = modified(&self.file.metadata().map_err(fail)?) != modified(&self.metadata);
        Ok(changed
            .then(|| format!("{} changed during the copy; the copy may mix old and new data", quoted(&self.name))))
    }
}

impl Source for FileSource {
    fn begin(&mut self, plan: ReadPlan) -> Result<()> {
        let cursor = self.cursor.get_mut().unwrap_or_else(PoisonError::into_inner);
        (cursor.offset, cursor.number) = (plan.start, plan.first_block);
        self.layout = plan.layout;
        if plan.fill_holes {
            self.extents.ignore_holes();
        }
        (self.cloned, self.clone_reader) = (plan.cloned, plan.clone_reader);
        Ok(())
    }

    fn next(&self, block: &mut Block, sequencer: &Sequencer) -> Result<bool> {
        if sequencer.is_cancelled() {
            return Ok(false);
        }
        let Some(Claim { number, offset, len, hole }) = self.claim() else { return Ok(false) };
        (block.number, block.offset, block.len, block.hole) = (number, offset, len, hole);
        (block.lead, block.cloned) = (self.layout.placement(offset).lead, self.cloned.contains(&offset));
        if hole {
            return Ok(true);
        }
        self.pace.rate.wait(Direction::Read, len as usize);
        if let Some(CloneReader { reader, start }) = self.clone_reader.as_ref().filter(|_| block.cloned) {
            let fail = |e| Error::io("reading back the clone of", &self.name, e).at(offset);
            let read = reader.read_block(&mut block.buffer, block.lead, start + offset, len as usize).map_err(fail)?;
            if (read as u64) < len {
                return Err(Error::failed("reading back the clone of", &self.name, "it is shorter than the source"));
            }
            return Ok(true);
        }
        let file_offset = self.range.start + offset;
        if self.cached_reader.read(&mut block.buffer[block.lead..block.lead + len as usize], file_offset) {
            return Ok(true);
        }
        let fail = |e| Error::io("reading", &self.name, e).at(file_offset);
        let read = self.reader.read_block(&mut block.buffer, block.lead, file_offset, len as usize).map_err(fail)?;
        if (read as u64) < len {
            return Err(self.shrank(file_offset + read as u64));
        }
        Ok(true)
    }

    fn finish(&self) -> Result<ReadReport> {
        let fail = |e| Error::io("reading", &self.name, e);
        self.reader.finish().map_err(fail)?;
        if let Some(mut stdin) = self.stdin.as_ref() {
            stdin.seek(SeekFrom::Start(self.range.end())).map_err(fail)?;
        }
        let note = self.note_changes()?;
        let (mut traffic, why_not_direct) = self.reader.traffic();
        if let Some(clone) = &self.clone_reader {
            clone.reader.finish().map_err(fail)?;
            traffic = traffic + clone.reader.traffic().0;
        }
        let traffic = Traffic { resident: self.cached_reader.bytes(), ..traffic };
        let why_not_evicted = self.reader.why_not_evicted();
        Ok(ReadReport { traffic, why_not_direct, why_not_evicted, note, command: None })
    }
}
