//! [`std::io::Write`]: appends chunks of any length through one buffer.

use std::io;

use super::{BUFFER_SIZE, DirectWriter};
use crate::direct::AlignedBuffer;

impl DirectWriter {
    /// Writes the whole blocks in the buffer. With `all`, writes the rest too.
    pub(super) fn write_buffer(&mut self, all: bool) -> io::Result<()> {
        let Some(mut buffer) = self.buffer.take() else { return Ok(()) };
        let len = if all { self.buffered } else { self.boundary.round_down(self.buffered as u64) as usize };
        self.write_at(&buffer[..len], self.buffer_offset)?;
        self.buffer_offset += len as u64;
        buffer.copy_within(len..self.buffered, 0);
        self.buffered -= len;
        self.buffer = Some(buffer);
        Ok(())
    }
}

impl io::Write for DirectWriter {
    /// Appends to the buffer, and writes the buffer if it is full. Fails as [`DirectWriter::write_at`] does.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.check_failure()?;
        let buffer = match &mut self.buffer {
            Some(buffer) => buffer,
            none => none.insert(AlignedBuffer::new(BUFFER_SIZE)?),
        };
        let len = data.len().min(BUFFER_SIZE - self.buffered);
        buffer[self.buffered..self.buffered + len].copy_from_slice(&data[..len]);
        self.buffered += len;
        if self.buffered == BUFFER_SIZE {
            self.write_buffer(false)?;
        }
        Ok(len)
    }

    /// Writes all whole blocks. A partial block stays in memory until [`DirectWriter::finish`]. Does not sync.
    fn flush(&mut self) -> io::Result<()> {
        self.check_failure()?;
        self.write_buffer(false)
    }
}
