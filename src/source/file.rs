//! A file or block device as a source: ranges are claimed in order and read in parallel.

use std::fs::{File, Metadata};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Course, Source};
use crate::block::{Block, Layout};
use crate::direct::{CachedReader, DirectPolicy, DirectReader, Traffic};
use crate::error::{Error, Result, size};
use crate::job::{Job, Sparse};
use crate::pace::{Direction, Pace};
use crate::sequencer::Sequencer;
use crate::source_info::Identity;
use crate::sys;

/// The most that one block of a hole stands for.
const LONGEST_HOLE: u64 = 1 << 30;

pub struct FileSource {
    name: PathBuf,
    reader: DirectReader,
    /// Whoever insists on direct reads gets no others.
    resident: CachedReader,
    file: File,
    /// Standard input, whose position must end up behind what was copied.
    position: Option<File>,
    /// Offset of the first byte to copy.
    start: u64,
    /// Bytes to copy.
    len: u64,
    /// Length of the whole file when it was opened.
    whole: u64,
    /// And its timestamps.
    opened: Metadata,
    /// Holes are looked for.
    sparse: bool,
    claimed: Mutex<Claimed>,
    pace: Option<Arc<Pace>>,
}

#[derive(Default)]
struct Claimed {
    number: u64,
    offset: u64,
    /// Up to here it is known to be data.
    data_until: u64,
}

impl FileSource {
    pub fn new(job: &Job, name: &Path, reader: DirectReader, file: &File, position: Option<File>) -> Result<Self> {
        let fail = |e| Error::io("opening", name, e);
        let file = file.try_clone().map_err(fail)?;
        let opened = file.metadata().map_err(fail)?;
        let device = opened.file_type().is_block_device();
        let whole = sys::length(&file).map_err(fail)?;
        let begin = match &position {
            Some(stdin) => (&*stdin).stream_position().map_err(fail)?,
            None => 0,
        };
        let there = whole.saturating_sub(begin);
        if let Some(wanted) = job.size.filter(|wanted| *wanted != there) {
            return Err(Error::content(name, format!("it has {there} bytes, and --size says {wanted}")));
        }
        if job.skip > there {
            return Err(Error::usage(format!(
                "--skip {} is behind the end of {}",
                job.skip,
                crate::error::quoted(name)
            ))
            .hint(format!("it has {there} bytes")));
        }
        let len = (there - job.skip).min(job.count.unwrap_or(u64::MAX));
        let sparse = job.sparse != Sparse::Never && !device;
        let flags = || sys::inode_flags(&file).unwrap_or(0) & sys::EXTENTS_OR_INLINE;
        if sparse && sys::filesystem(&file).map_err(fail)? == sys::EXT && flags() == 0 {
            // Without extents, ext4 finds no data there that were not written back yet (Linux 6.18).
            sys::write_back(&file, 0, 0).or_else(|_| file.sync_all()).map_err(fail)?;
        }
        let start = begin + job.skip;
        let claimed = Mutex::default();
        // A device's pages are those of whoever opened it, not of a filesystem that is mounted on it.
        let on = job.direct == DirectPolicy::Auto && reader.is_direct() && !device;
        let resident = CachedReader::new(file.try_clone().map_err(fail)?, on);
        Ok(Self {
            name: name.into(),
            reader,
            resident,
            file,
            position,
            start,
            len,
            whole,
            opened,
            sparse,
            claimed,
            pace: None,
        })
    }

    /// By what it is known again: which file, how long, when it was changed. A device has no such marks.
    pub fn identity(&self) -> Option<Identity> {
        let found = &self.opened;
        found.is_file().then(|| {
            vec![
                ("file", format!("{}:{}", found.dev(), found.ino())),
                ("length", self.whole.to_string()),
                ("modification time", format!("{}.{:09}", found.mtime(), found.mtime_nsec())),
                // Of the inode: it tells of changes that set the other one back.
                ("change time", format!("{}.{:09}", found.ctime(), found.ctime_nsec())),
                ("offset", self.start.to_string()),
                ("number of bytes", self.len.to_string()),
            ]
        })
    }

    /// Finds what is at `from`: the hole that ends there, or the data that begins there.
    /// (end, is a hole), in the copy's offsets.
    fn extent(&self, layout: &Layout, from: u64) -> Result<(u64, bool)> {
        let seek = |at: u64, whence| match sys::seek_extent(&self.file, self.start + at, whence) {
            Ok(Some(found)) => Ok((found - self.start).min(self.len)),
            Ok(None) => Ok(self.len),
            Err(e) => Err(e),
        };
        // A filesystem that knows no holes has none.
        let Ok(data) = seek(from, libc::SEEK_DATA) else { return Ok((self.len, false)) };
        let hole_end = if data == self.len { data } else { layout.down(data) };
        if hole_end > from {
            return Ok((hole_end, true));
        }
        let hole = seek(data, libc::SEEK_HOLE).unwrap_or(self.len);
        Ok((layout.up(hole).min(self.len).max(from + 1), false))
    }

    /// Claims the next range: (number, offset, bytes, is a hole).
    fn claim(&self, layout: &Layout) -> Result<Option<(u64, u64, u64, bool)>> {
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = claimed.offset;
        if offset >= self.len {
            return Ok(None);
        }
        let mut hole = false;
        // A hole ends here at the latest, so that progress shows where it has to be written.
        let limit = layout.down(offset.saturating_add(LONGEST_HOLE)).max(offset + 1);
        if offset >= claimed.data_until {
            let (end, is_hole) = if self.sparse { self.extent(layout, offset)? } else { (self.len, false) };
            (claimed.data_until, hole) = (end, is_hole);
        }
        let mut len = claimed.data_until - offset;
        if hole {
            len = len.min(limit - offset);
            claimed.data_until = offset + len;
        } else {
            len = len.min(layout.place(offset).1 as u64);
        }
        claimed.offset = offset + len;
        claimed.number += 1;
        Ok(Some((claimed.number - 1, offset, len, hole)))
    }

    fn shrank(&self, now: u64) -> Error {
        let why = format!("it shrank from {} to {} bytes while it was copied", self.whole, now);
        Error::failed("reading", &self.name, why)
    }
}

impl Source for FileSource {
    fn next(&self, layout: &Layout, block: &mut Block, sequencer: &Sequencer) -> Result<bool> {
        if sequencer.is_cancelled() {
            return Ok(false);
        }
        let Some((number, offset, len, hole)) = self.claim(layout)? else { return Ok(false) };
        (block.number, block.offset, block.len, block.hole) = (number, offset, len, hole);
        block.lead = layout.place(offset).0;
        if hole {
            return Ok(true);
        }
        if let Some(pace) = &self.pace {
            pace.rate.wait(Direction::Read, len as usize);
        }
        let at = self.start + offset;
        if self.resident.read(&mut block.buffer[block.lead..block.lead + len as usize], at) {
            return Ok(true);
        }
        let fail = |e| Error::io("reading", &self.name, e).at(at);
        let read = self.reader.read_block(&mut block.buffer, block.lead, at, len as usize).map_err(fail)?;
        if (read as u64) < len {
            return Err(self.shrank(at + read as u64));
        }
        Ok(true)
    }

    fn begin(&mut self, _layout: &Layout, course: Course) {
        let claimed = self.claimed.get_mut().unwrap_or_else(PoisonError::into_inner);
        (claimed.offset, claimed.number) = (course.from, course.number);
        self.sparse &= !course.whole;
    }

    fn pace(&mut self, pace: &Arc<Pace>) {
        pace.idle.iter().for_each(|idle| self.reader.yield_at(idle));
        self.pace = Some(pace.clone());
    }

    fn length(&self) -> Option<u64> {
        Some(self.len)
    }

    fn alignment(&self) -> u64 {
        if self.reader.is_direct() { self.reader.alignment().offset } else { 1 }
    }

    fn room(&self, layout: &Layout) -> usize {
        let longest = (layout.block_size as u64).min(self.len) as usize;
        self.reader.room(layout.lead, longest)
    }

    fn data_ranges(&self, layout: &Layout, each: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let mut offset = 0;
        while offset < self.len {
            let (end, hole) = if self.sparse { self.extent(layout, offset)? } else { (self.len, false) };
            if !hole {
                each(offset, end - offset)?;
            }
            offset = end;
        }
        Ok(())
    }

    fn finish(&self) -> Result<Option<String>> {
        let fail = |e| Error::io("reading", &self.name, e);
        self.reader.finish().map_err(fail)?;
        if let Some(stdin) = &self.position {
            (&*stdin).seek(SeekFrom::Start(self.start + self.len)).map_err(fail)?;
        }
        let now = sys::length(&self.file).map_err(fail)?;
        if self.len > 0 && now < self.start + self.len {
            return Err(self.shrank(now));
        }
        if now <= self.whole {
            let time = |m: &Metadata| (m.mtime(), m.mtime_nsec());
            let changed = time(&self.file.metadata().map_err(fail)?) != time(&self.opened);
            let what = "changed while it was copied; the copy may mix old and new";
            return Ok(changed.then(|| format!("{} {what}", crate::error::quoted(&self.name))));
        }
        let grown = size(now - self.whole);
        let what = "while it was copied; the copy has its length at the start";
        Ok(Some(format!("{} grew by {grown} {what}", crate::error::quoted(&self.name))))
    }

    fn traffic(&self) -> (Traffic, Option<String>) {
        let (traffic, why) = self.reader.traffic();
        (Traffic { resident: self.resident.bytes(), ..traffic }, why)
    }

    fn describe(&self) -> String {
        let way = if self.reader.is_direct() { "direct" } else { "not direct" };
        format!("{} bytes, read {way}, alignment {}", self.len, self.alignment())
    }
}
