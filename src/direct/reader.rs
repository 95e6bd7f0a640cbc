//! [`DirectReader`]: reads any range of a file or block device through aligned direct transfers.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::file_io::FileIo;
use super::io_mode::open;
use super::{AlignedBuffer, Alignment, DirectPolicy, Traffic};
use crate::pace::IdleGate;
use crate::sys;

/// Reads a file or block device, bypassing the page cache.
///
/// [`DirectReader::read_block`] reads a range of any offset and length into an [`AlignedBuffer`]. It aligns the
/// transfer as the device requires. Several threads may call it at once. Call [`DirectReader::finish`] after the last
/// read.
///
/// If the filesystem refuses direct I/O, the reader reads uncached: through the page cache, but it evicts the pages
/// that a read inserted and leaves the pages that were cached before. [`DirectReader::traffic`] says how many bytes
/// took which path.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// # let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
/// use dio_cp::{AlignedBuffer, DirectPolicy, DirectReader};
///
/// let (reader, _file) = DirectReader::open(&path, DirectPolicy::Auto)?;
/// let mut buffer = AlignedBuffer::new(reader.room(0, 100))?;
/// let len = reader.read_block(&mut buffer, 0, 7, 100)?; // bytes 7 to 106 of the file
/// reader.finish()?;
///
/// assert_eq!(&buffer[..len], &std::fs::read(&path)?[7..107]);
/// # Ok(())
/// # }
/// ```
///
/// # Threads and asynchronous programs
///
/// The reader is `Send` and `Sync`. Every call blocks until the device has done its work. From asynchronous code, use
/// it on a blocking thread: with tokio, move the reader (in an `Arc`, if several tasks read) and the buffer into
/// `spawn_blocking`, and return the buffer from there.
pub struct DirectReader {
    io: FileIo,
}

impl DirectReader {
    /// Opens `path` for reading. Returns the reader and the open file, for example to query its metadata; both share
    /// one file description. Fails as open(2) does. Under [`DirectPolicy::Always`], also fails if direct I/O is
    /// refused; the inner error is then [`Refused`](super::Refused).
    pub fn open(path: &Path, policy: DirectPolicy) -> io::Result<(Self, File)> {
        let (file, refusal) = open(path, OpenOptions::new().read(true), libc::O_NOCTTY, policy)?;
        let io = FileIo::new(file.try_clone()?, refusal, policy, false)?;
        Ok((Self { io }, file))
    }

    /// Wraps a file that is open for reading. Sets O_DIRECT if possible, so that reads return what is on the medium.
    pub(crate) fn from_file(file: File) -> io::Result<Self> {
        let refusal = sys::set_direct(&file, true).err().map(|e| e.to_string());
        let io = FileIo::new(file, refusal, DirectPolicy::Auto, false)?;
        Ok(Self { io })
    }

    /// Reads an open file under `policy`, with direct I/O where possible. Fails as [`DirectReader::open`] does.
    pub(crate) fn with_policy(file: File, policy: DirectPolicy) -> io::Result<Self> {
        let wanted = policy != DirectPolicy::Never;
        let refusal = if wanted { sys::set_direct(&file, true).err().map(|e| e.to_string()) } else { None };
        Ok(Self { io: FileIo::new(file, refusal, policy, false)? })
    }

    /// Makes every later read wait for `idle`.
    pub(crate) fn yield_at(&mut self, idle: &Arc<IdleGate>) {
        self.io.yield_at(idle);
    }

    /// The offset of the next data at or after `offset`, or `u64::MAX` if there are none. Returns `offset` if the file
    /// cannot have holes.
    pub(crate) fn next_data(&self, offset: u64) -> io::Result<u64> {
        self.io.ops().next_data(offset)
    }

    /// Reads `len` bytes at `offset` of the file into `buffer[lead..lead + len]`. Returns the number of bytes read,
    /// which is less than `len` only at the end of the file. `buffer` must have at least [`DirectReader::room`] bytes.
    /// The call may overwrite the rest of the buffer too. If `lead` and `offset` have the same remainder modulo the
    /// alignment, the device transfers the bytes to their final place; otherwise they are copied once. Fails as
    /// pread(2) does.
    pub fn read_block(&self, buffer: &mut AlignedBuffer, lead: usize, offset: u64, len: usize) -> io::Result<usize> {
        let alignment = self.io.alignment();
        if !self.io.is_aligned() {
            return Ok(self.io.read_full(&mut buffer[lead..lead + len], offset, 0, len)?.min(len));
        }
        let aligned_offset = alignment.round_down(offset);
        let skip = (offset - aligned_offset) as usize;
        let aligned_len = alignment.round_up((skip + len) as u64) as usize;
        // Read to the place that the caller wants if its address is aligned. Otherwise move the bytes there afterwards.
        let in_place = lead.checked_sub(skip).filter(|start| start.is_multiple_of(alignment.memory));
        let start = in_place.unwrap_or(0);
        if self.io.may_be_buffered() {
            buffer.populate()?;
        }
        let read = self.io.read_full(&mut buffer[start..start + aligned_len], aligned_offset, skip, len)?;
        let read = read.saturating_sub(skip).min(len);
        if in_place.is_none() {
            buffer.copy_within(skip..skip + read, lead);
        }
        Ok(read)
    }

    /// The size in bytes that a buffer needs, so that [`DirectReader::read_block`] can read `len` bytes to `lead`.
    pub fn room(&self, lead: usize, len: usize) -> usize {
        lead + len + 2 * self.alignment().offset as usize
    }

    /// The alignment that the file requires. The reader aligns its transfers itself.
    pub fn alignment(&self) -> Alignment {
        self.io.alignment()
    }

    /// True while reads use O_DIRECT. Turns false if the filesystem refuses them.
    pub fn is_direct(&self) -> bool {
        self.io.is_aligned()
    }

    /// The bytes read so far and, if not all of them were direct, the reason.
    pub fn traffic(&self) -> (Traffic, Option<String>) {
        (self.io.traffic(), self.io.why_not_direct())
    }

    /// Why pages that the reads brought into the page cache may stay there. None if the kernel evicted them.
    pub(crate) fn why_not_evicted(&self) -> Option<String> {
        self.io.why_not_evicted()
    }

    /// Call this after the last read. It evicts the pages that the reads have left in the page cache, if there are any.
    pub fn finish(&self) -> io::Result<()> {
        self.io.finish_reading()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeDisk;
    use super::*;

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
    }

    #[test]
    fn any_range_can_be_read_with_aligned_transfers() -> io::Result<()> {
        let bytes = content(10_000);
        for (memory_alignment, offset_alignment) in [(512, 512), (512, 4096), (4096, 4096)] {
            let disk = FakeDisk::new(memory_alignment, offset_alignment, bytes.clone());
            let reader = DirectReader { io: FileIo::fake(disk.clone(), DirectPolicy::Always) };
            for offset in [0, 1, 511, 512, 4095, 4096, 5000, 9999, 10_000] {
                for len in [0, 1, 512, 513, 4096, 8192] {
                    for lead in [0, 1, 512, 4095] {
                        let mut buffer = AlignedBuffer::new(reader.room(lead, len))?;
                        let read = reader.read_block(&mut buffer, lead, offset, len)?;
                        let expected = &bytes[offset as usize..bytes.len().min(offset as usize + len)];
                        assert_eq!(&buffer[lead..lead + read], expected, "offset {offset} len {len} lead {lead}");
                    }
                }
            }
            assert_eq!(reader.traffic().0.uncached, 0);
        }
        Ok(())
    }

    #[test]
    fn short_reads_continue_at_an_aligned_offset() -> io::Result<()> {
        let bytes = content(20_000);
        let disk = FakeDisk::new(512, 512, bytes.clone());
        disk.limit_transfers(1000);
        let reader = DirectReader { io: FileIo::fake(disk.clone(), DirectPolicy::Always) };
        let mut buffer = AlignedBuffer::new(reader.room(0, 20_000))?;
        assert_eq!(reader.read_block(&mut buffer, 0, 0, 20_000)?, 20_000);
        assert_eq!(&buffer[..20_000], &bytes);
        Ok(())
    }
}
