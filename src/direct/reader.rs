//! Reads any range of a file or block device, direct where that is possible.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::file_io::FileIo;
use super::io_mode::open;
use super::{AlignedBuffer, Alignment, DirectPolicy, Traffic};
use crate::pace::IdleGate;
use crate::sys;

/// Reads a file by ranges of any offset and length, from any number of threads.
pub struct DirectReader(FileIo);

impl DirectReader {
    /// Opens `path` for reading. Fails as open(2) does, and with [`Refused`](super::Refused) inside
    /// if `policy` is [`DirectPolicy::Always`] and direct I/O is not to be had.
    pub fn open(path: &Path, policy: DirectPolicy) -> io::Result<(Self, File)> {
        let (file, refused) = open(path, OpenOptions::new().read(true), libc::O_NOCTTY, policy)?;
        let reader = FileIo::new(file.try_clone()?, refused, policy, false).map(Self)?;
        Ok((reader, file))
    }

    /// Reads a file that is open already, past the cache if that can be: what is on the medium now.
    pub(crate) fn reread(file: File) -> io::Result<Self> {
        let refused = sys::set_direct(&file, true).err().map(|e| e.to_string());
        FileIo::new(file, refused, DirectPolicy::Auto, false).map(Self)
    }

    /// From now on every read waits at this gate.
    pub(crate) fn yield_at(&mut self, idle: &Arc<IdleGate>) {
        self.0.yield_at(idle);
    }

    /// Where the next data begin, at `at` or behind.
    pub(crate) fn next_data(&self, at: u64) -> io::Result<u64> {
        self.0.ops().next_data(at)
    }

    /// Reads `len` bytes at `at` into `buffer[lead..]`, and gives the number read: less than `len`
    /// only at the end of the file. `buffer` must have [`DirectReader::room`] for it; what lies
    /// around the bytes asked for is scratch space.
    pub fn read_block(&self, buffer: &mut AlignedBuffer, lead: usize, at: u64, len: usize) -> io::Result<usize> {
        let alignment = self.0.alignment();
        if !self.0.aligned() {
            return Ok(self.0.read_full(&mut buffer[lead..lead + len], at, 0, len)?.min(len));
        }
        let start = alignment.down(at);
        let skew = (at - start) as usize;
        let span = alignment.up((skew + len) as u64) as usize;
        // Land where the caller wants it if the device can reach that; else move it there after.
        let direct = lead.checked_sub(skew).filter(|place| place.is_multiple_of(alignment.memory));
        let place = direct.unwrap_or(0);
        if self.0.may_be_buffered() {
            buffer.populate()?;
        }
        let read = self.0.read_full(&mut buffer[place..place + span], start, skew, len)?;
        let read = read.saturating_sub(skew).min(len);
        if direct.is_none() {
            buffer.copy_within(skew..skew + read, lead);
        }
        Ok(read)
    }

    /// Bytes that a buffer needs, so that [`DirectReader::read_block`] can put `len` at `lead`.
    pub fn room(&self, lead: usize, len: usize) -> usize {
        lead + len + 2 * self.alignment().offset as usize
    }

    /// What the file asks of transfers; the reader meets it by itself.
    pub fn alignment(&self) -> Alignment {
        self.0.alignment()
    }

    /// True while reads go with O_DIRECT.
    pub fn is_direct(&self) -> bool {
        self.0.aligned()
    }

    /// The bytes read so far, and why not all went direct, if so.
    pub fn traffic(&self) -> (Traffic, Option<String>) {
        (self.0.traffic(), self.0.why())
    }

    /// Ends the reading, leaving no page that it brought in.
    pub fn finish(&self) -> io::Result<()> {
        self.0.finish_reading()
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
    fn any_range_reads_right_through_aligned_transfers() -> io::Result<()> {
        let bytes = content(10_000);
        for (memory, offset) in [(512, 512), (512, 4096), (4096, 4096)] {
            let disk = FakeDisk::new(memory, offset, bytes.clone());
            let reader = DirectReader(FileIo::fake(disk.clone(), DirectPolicy::Always));
            for at in [0, 1, 511, 512, 4095, 4096, 5000, 9999, 10_000] {
                for len in [0, 1, 512, 513, 4096, 8192] {
                    for lead in [0, 1, 512, 4095] {
                        let mut buffer = AlignedBuffer::new(reader.room(lead, len))?;
                        let read = reader.read_block(&mut buffer, lead, at, len)?;
                        let want = &bytes[at as usize..bytes.len().min(at as usize + len)];
                        assert_eq!(&buffer[lead..lead + read], want, "at {at} len {len} lead {lead}");
                    }
                }
            }
            assert_eq!(reader.traffic().0.uncached, 0);
        }
        Ok(())
    }

    #[test]
    fn short_reads_go_on_from_an_aligned_offset() -> io::Result<()> {
        let bytes = content(20_000);
        let disk = FakeDisk::new(512, 512, bytes.clone());
        disk.short_transfers(1000);
        let reader = DirectReader(FileIo::fake(disk.clone(), DirectPolicy::Always));
        let mut buffer = AlignedBuffer::new(reader.room(0, 20_000))?;
        assert_eq!(reader.read_block(&mut buffer, 0, 0, 20_000)?, 20_000);
        assert_eq!(&buffer[..20_000], &bytes);
        Ok(())
    }
}
