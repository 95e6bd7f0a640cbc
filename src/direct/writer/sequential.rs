//! Appending: `io::Write` through one buffer, in chunks of any length.

use std::io;

use super::{BUFFER, DirectWriter};
use crate::direct::AlignedBuffer;

impl DirectWriter {
    /// Writes the whole blocks of the sequential buffer out; `all`: the rest too.
    pub(super) fn drain(&mut self, all: bool) -> io::Result<()> {
        let Some(buffer) = self.buffer.take() else { return Ok(()) };
        let len = if all { self.filled } else { self.boundary.down(self.filled as u64) as usize };
        self.write_at(&buffer[..len], self.position)?;
        self.position += len as u64;
        let mut buffer = buffer;
        buffer.copy_within(len..self.filled, 0);
        self.filled -= len;
        self.buffer = Some(buffer);
        Ok(())
    }
}

impl io::Write for DirectWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.check()?;
        let buffer = match &mut self.buffer {
            Some(buffer) => buffer,
            empty => empty.insert(AlignedBuffer::new(BUFFER)?),
        };
        let n = data.len().min(BUFFER - self.filled);
        buffer[self.filled..self.filled + n].copy_from_slice(&data[..n]);
        self.filled += n;
        if self.filled == BUFFER {
            self.drain(false)?;
        }
        Ok(n)
    }

    /// Writes out all whole blocks; part of one stays in memory until [`DirectWriter::finish`].
    fn flush(&mut self) -> io::Result<()> {
        self.check()?;
        self.drain(false)
    }
}
