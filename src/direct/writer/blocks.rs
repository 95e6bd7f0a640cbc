//! Splits a write into whole blocks and the parts of blocks at its ends. A part is merged with what is there, or kept in
//! memory until the end.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::{BUFFER, DirectWriter};
use crate::direct::AlignedBuffer;
use crate::sys;

impl DirectWriter {
    pub(super) fn put(&self, data: &[u8], at: u64) -> io::Result<()> {
        let len = data.len() as u64;
        let end = at.checked_add(len).ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))?;
        if !self.io.aligned() {
            self.io.write_all(data, at, len)?;
        } else {
            let body = self.boundary.up(at).min(end); // first byte of the aligned middle
            let tail = self.boundary.down(end).max(body); // first byte behind it
            let (head_bytes, rest) = data.split_at((body - at) as usize);
            let (body_bytes, tail_bytes) = rest.split_at((tail - body) as usize);
            self.put_part(head_bytes, at)?;
            self.put_body(body_bytes, body)?;
            self.put_part(tail_bytes, tail)?;
        }
        self.end.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }

    /// Whole blocks, at an aligned offset.
    fn put_body(&self, data: &[u8], at: u64) -> io::Result<()> {
        if self.alignment().fits(data) {
            return self.io.write_all(data, at, data.len() as u64);
        }
        let mut bounce = AlignedBuffer::new(data.len().min(BUFFER))?;
        for (i, part) in data.chunks(BUFFER).enumerate() {
            bounce[..part.len()].copy_from_slice(part);
            self.io.write_all(&bounce[..part.len()], at + (i * BUFFER) as u64, part.len() as u64)?;
        }
        Ok(())
    }

    /// Part of one block: merged with what is there, or kept for the end.
    fn put_part(&self, data: &[u8], at: u64) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let block = self.boundary.down(at);
        let size = self.boundary.offset;
        // A block that is written up to its end may be merged even where the file ends in it.
        let whole_behind = !self.owned && at + data.len() as u64 == block + size;
        if block + size > self.existing && !whole_behind {
            pieces.push((at, data.to_vec()));
            return Ok(());
        }
        // The lock is held on: two parts of one block must not overtake each other.
        let mut buffer = AlignedBuffer::new(size as usize)?;
        let whole = &mut buffer[..size as usize];
        match self.io.read_full(whole, block, size as usize, 0) {
            // Not open for reading: through the cache at the end, then.
            Err(e) if e.raw_os_error() == Some(libc::EBADF) => {
                pieces.push((at, data.to_vec()));
                return Ok(());
            }
            other => other?,
        };
        if !self.io.aligned() {
            return self.io.write_all(data, at, data.len() as u64);
        }
        let place = (at - block) as usize;
        whole[place..place + data.len()].copy_from_slice(data);
        self.io.write_all(whole, block, data.len() as u64)
    }

    /// The parts kept for the end. Gives the ranges that then want dropping from the cache.
    pub(super) fn put_pieces(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let mut pieces = std::mem::take(self.pieces.get_mut().unwrap_or_else(PoisonError::into_inner));
        pieces.sort_unstable();
        let (unit, mut brought_in) = (self.boundary, Vec::new());
        if self.owned && self.io.aligned() {
            let end = self.end.load(Ordering::Acquire);
            for block in pieces.chunk_by(|a, b| unit.down(a.0) == unit.down(b.0)) {
                let start = unit.down(block[0].0);
                let own: usize = block.iter().map(|(_, data)| data.len()).sum();
                let stop = start + unit.offset;
                let stop = if end <= stop { self.padded(end) } else { stop };
                let mut buffer = AlignedBuffer::new((stop - start) as usize)?; // all zero
                for (at, data) in block {
                    let place = (at - start) as usize;
                    buffer[place..place + data.len()].copy_from_slice(data);
                }
                self.io.write_all(&buffer[..(stop - start) as usize], start, own as u64)?;
            }
            return Ok(brought_in);
        }
        for (at, data) in pieces {
            if self.io.aligned() {
                brought_in.extend(self.io.write_exact(&data, at)?);
            } else {
                self.io.write_all(&data, at, data.len() as u64)?;
            }
        }
        Ok(brought_in)
    }

    pub(super) fn put_zeros(&self, at: u64, len: u64) -> io::Result<()> {
        let end = at.checked_add(len).ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))?;
        if !self.owned && at < self.existing {
            // Whole pages can be zeroed without a write; the rest would go through the cache.
            let unit = self.boundary.offset.max(sys::page_size());
            let last = end.min(self.existing);
            let body = at.next_multiple_of(unit).min(last);
            let tail = (last - last % unit).max(body);
            let zeros = AlignedBuffer::new(BUFFER.min(len.max(1) as usize))?;
            self.put(&zeros[..(body - at) as usize], at)?;
            if tail > body && self.io.ops().zero(body, tail - body).is_err() {
                for start in (body..tail).step_by(BUFFER) {
                    self.put(&zeros[..(tail - start).min(BUFFER as u64) as usize], start)?;
                }
            }
            self.put(&zeros[..(last - tail) as usize], tail)?;
        }
        self.end.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }
}
