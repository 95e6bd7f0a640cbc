//! Where a file has data and where it has holes.

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::block::Layout;
use crate::error::Result;
use crate::source_info::CopiedRange;
use crate::sys;

/// The part of a file that is copied, with its holes.
#[derive(Clone)]
pub struct Extents {
    file: Arc<File>,
    /// Offset in the file of the first byte to copy.
    start: u64,
    /// Bytes to copy.
    len: u64,
    /// Look for holes; otherwise everything is data.
    detect_holes: bool,
}

/// A run of data, or a hole.
#[derive(Clone, Copy)]
pub struct Extent {
    /// One past its last byte, in bytes from the first byte copied.
    pub end: u64,
    /// It is a hole.
    pub hole: bool,
}

impl Extents {
    /// `len` bytes of `file` from offset `start` on.
    pub fn new(file: File, start: u64, len: u64, detect_holes: bool) -> Self {
        Self { file: Arc::new(file), start, len, detect_holes }
    }

    /// The range that is copied.
    pub fn range(&self) -> CopiedRange<'_> {
        CopiedRange { file: &self.file, start: self.start, len: self.len }
    }

    /// Treats holes as data from now on.
    pub fn ignore_holes(&mut self) {
        self.detect_holes = false;
    }

    /// The extent that contains `offset`, rounded to the layout's boundaries: a hole shrinks to whole blocks.
    pub fn at(&self, layout: &Layout, offset: u64) -> Extent {
        let all_data = Extent { end: self.len, hole: false };
        if !self.detect_holes {
            return all_data;
        }
        // A filesystem that does not know about holes has none.
        let Ok(data) = self.seek(offset, libc::SEEK_DATA) else { return all_data };
        let hole_end = if data == self.len { data } else { layout.round_down(data) };
        if hole_end > offset {
            return Extent { end: hole_end, hole: true };
        }
        let data_end = self.seek(data, libc::SEEK_HOLE).unwrap_or(self.len);
        Extent { end: layout.round_up(data_end).min(self.len).max(offset + 1), hole: false }
    }

    /// Calls `each` with the offset and length in bytes of every run of data, in order.
    pub fn for_each_data(&self, layout: &Layout, mut each: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let mut offset = 0;
        while offset < self.len {
            let extent = self.at(layout, offset);
            if !extent.hole {
                each(offset, extent.end - offset)?;
            }
            offset = extent.end;
        }
        Ok(())
    }

    fn seek(&self, offset: u64, whence: libc::c_int) -> io::Result<u64> {
        let position = sys::seek_extent(&self.file, self.start + offset, whence)?;
        Ok(position.map_or(self.len, |position| (position - self.start).min(self.len)))
    }
}
