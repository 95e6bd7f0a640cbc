//! Writing: continues short writes, and evicts the pages that a write left in the cache if the mode is not direct.

use std::io;

use super::FileIo;
use crate::direct::file_ops::PageRange;
use crate::direct::io_mode::IoMode;

/// After this many consecutive writes that transferred nothing, the write fails.
const MAX_EMPTY_WRITES: u32 = 4;

impl FileIo {
    /// Writes all of `data` at `offset`. `counted` is the number of bytes to add to the traffic: the length of `data`
    /// without padding. While [`FileIo::is_aligned`], address, offset and length must be aligned.
    pub fn write_all(&self, data: &[u8], offset: u64, counted: u64) -> io::Result<()> {
        let mut written = 0;
        let mut empty_writes = 0;
        while written < data.len() {
            let (mode, rest) = (self.mode(), &data[written..]);
            let rest_offset = offset + written as u64;
            let write = |len| self.ops.write_at(&rest[..len], rest_offset, mode == IoMode::DontCache);
            let mut len = match self.with_permit(rest.len(), write) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if self.fall_back(mode, &e)? => continue,
                other => other?,
            };
            if mode.is_aligned() && len < rest.len() {
                // The next write must start at an aligned offset, so it repeats the bytes after the last one.
                len = self.alignment.round_down(len as u64) as usize;
            }
            empty_writes = if len == 0 { empty_writes + 1 } else { 0 };
            if empty_writes == MAX_EMPTY_WRITES {
                return Err(io::ErrorKind::WriteZero.into());
            }
            if mode == IoMode::DropBehind {
                self.write_back_and_evict(rest_offset, len as u64)?;
            }
            written += len;
        }
        self.count(self.mode(), counted);
        Ok(())
    }

    /// Writes `data` at `offset` through the page cache. Use this for bytes that no aligned transfer can write without
    /// changing their neighbors or the length of the file. Clears O_DIRECT, so no write of another kind may be in
    /// progress or follow. Returns the range to evict once it is on the medium, or None if other processes had pages of
    /// it cached.
    pub fn write_unaligned(&self, data: &[u8], offset: u64) -> io::Result<Option<PageRange>> {
        let pages = PageRange::containing(offset, data.len());
        let was_cached = self.ops.cached_pages(pages.start, pages.len).unwrap_or(0) > 0;
        self.ops.set_direct(false)?;
        let mut written = 0;
        while written < data.len() {
            match self.ops.write_at(&data[written..], offset + written as u64, false) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                other => written += other?,
            }
        }
        self.count(IoMode::DropBehind, data.len() as u64);
        Ok((!was_cached).then_some(pages))
    }

    fn write_back_and_evict(&self, start: u64, len: u64) -> io::Result<()> {
        // Not every filesystem can write back a range. All of them support fsync.
        self.ops.write_back(start, len).or_else(|_| self.ops.sync())?;
        self.evict(PageRange { start, len })
    }
}
