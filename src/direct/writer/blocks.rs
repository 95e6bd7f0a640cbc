//! Splits a write into whole blocks and the partial blocks at its ends. A partial block is merged with the existing
//! bytes, or kept in memory until the end.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use super::{BUFFER_SIZE, DirectWriter};
use crate::direct::AlignedBuffer;
use crate::direct::file_ops::PageRange;
use crate::sys;

/// Bytes that fill only a part of a block.
pub(super) struct PartialBlock {
    offset: u64,
    data: Vec<u8>,
}

impl DirectWriter {
    pub(super) fn put(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let len = data.len() as u64;
        let end = checked_end(offset, len)?;
        if !self.io.is_aligned() {
            self.io.write_all(data, offset, len)?;
        } else {
            let body_start = self.boundary.round_up(offset).min(end);
            let body_end = self.boundary.round_down(end).max(body_start);
            let (head, rest) = data.split_at((body_start - offset) as usize);
            let (body, tail) = rest.split_at((body_end - body_start) as usize);
            self.put_partial_block(head, offset)?;
            self.put_whole_blocks(body, body_start)?;
            self.put_partial_block(tail, body_end)?;
        }
        self.end.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }

    /// Writes whole blocks at an aligned offset. Copies them first if their address is not aligned.
    fn put_whole_blocks(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if self.alignment().is_address_aligned(data) {
            return self.io.write_all(data, offset, data.len() as u64);
        }
        let mut aligned = AlignedBuffer::new(data.len().min(BUFFER_SIZE))?;
        for (i, part) in data.chunks(BUFFER_SIZE).enumerate() {
            aligned[..part.len()].copy_from_slice(part);
            self.io.write_all(&aligned[..part.len()], offset + (i * BUFFER_SIZE) as u64, part.len() as u64)?;
        }
        Ok(())
    }

    /// Writes a part of one block: merges it with the existing bytes of the block, or keeps it until the end.
    fn put_partial_block(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        // This locks out other threads until the block is written: two parts of one block must be merged one at a time.
        let mut partial_blocks = self.lock_partial_blocks();
        let block_start = self.boundary.round_down(offset);
        let block_size = self.boundary.offset;
        let block_end = block_start + block_size;
        // If the data reach the end of the block, no padding is needed, even if the file ends inside the block now.
        let reaches_block_end = !self.owned && offset + data.len() as u64 == block_end;
        if block_end > self.existing_len && !reaches_block_end {
            partial_blocks.push(PartialBlock { offset, data: data.to_vec() });
            return Ok(());
        }
        let mut buffer = AlignedBuffer::new(block_size as usize)?;
        let block = &mut buffer[..block_size as usize];
        match self.io.read_full(block, block_start, block_size as usize, 0) {
            // The file is not open for reading, so the bytes cannot be merged.
            Err(e) if e.raw_os_error() == Some(libc::EBADF) => {
                partial_blocks.push(PartialBlock { offset, data: data.to_vec() });
                return Ok(());
            }
            other => other?,
        };
        if !self.io.is_aligned() {
            return self.io.write_all(data, offset, data.len() as u64);
        }
        let position = (offset - block_start) as usize;
        block[position..position + data.len()].copy_from_slice(data);
        self.io.write_all(block, block_start, data.len() as u64)
    }

    fn lock_partial_blocks(&self) -> MutexGuard<'_, Vec<PartialBlock>> {
        self.partial_blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the partial blocks that were kept. Returns the ranges to evict once they are on the medium.
    pub(super) fn put_partial_blocks(&mut self) -> io::Result<Vec<PageRange>> {
        let mut partial_blocks = std::mem::take(&mut *self.lock_partial_blocks());
        partial_blocks.sort_unstable_by_key(|part| part.offset);
        if self.owned && self.io.is_aligned() {
            let block_start = |part: &PartialBlock| self.boundary.round_down(part.offset);
            for parts in partial_blocks.chunk_by(|a, b| block_start(a) == block_start(b)) {
                self.put_padded_block(block_start(&parts[0]), parts)?;
            }
            return Ok(Vec::new());
        }
        let mut to_evict = Vec::new();
        for PartialBlock { offset, data } in partial_blocks {
            if self.io.is_aligned() {
                to_evict.extend(self.io.write_unaligned(&data, offset)?);
            } else {
                self.io.write_all(&data, offset, data.len() as u64)?;
            }
        }
        Ok(to_evict)
    }

    /// Writes one block of a new file from its `parts`, with zeros between and after them.
    fn put_padded_block(&self, block_start: u64, parts: &[PartialBlock]) -> io::Result<()> {
        let block_end = block_start + self.boundary.offset;
        let file_end = self.end.load(Ordering::Acquire);
        let padded_end = if file_end <= block_end { self.padded_end(file_end) } else { block_end };
        let padded_len = (padded_end - block_start) as usize;
        let mut buffer = AlignedBuffer::new(padded_len)?; // all zero
        for PartialBlock { offset, data } in parts {
            let position = (offset - block_start) as usize;
            buffer[position..position + data.len()].copy_from_slice(data);
        }
        let data_len: usize = parts.iter().map(|part| part.data.len()).sum();
        self.io.write_all(&buffer[..padded_len], block_start, data_len as u64)
    }

    pub(super) fn put_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = checked_end(offset, len)?;
        // After the existing bytes, zeros need no write: the file has a hole there.
        if !self.owned && offset < self.existing_len {
            // Whole pages can be zeroed without a write. The kernel would zero partial pages through the page cache.
            let page = self.boundary.offset.max(sys::page_size());
            let existing_end = end.min(self.existing_len);
            let body_start = offset.next_multiple_of(page).min(existing_end);
            let body_end = (existing_end - existing_end % page).max(body_start);
            let zeros = AlignedBuffer::new(BUFFER_SIZE.min(len.max(1) as usize))?;
            self.put(&zeros[..(body_start - offset) as usize], offset)?;
            if body_end > body_start && self.io.ops().zero_range(body_start, body_end - body_start).is_err() {
                for start in (body_start..body_end).step_by(BUFFER_SIZE) {
                    self.put(&zeros[..(body_end - start).min(BUFFER_SIZE as u64) as usize], start)?;
                }
            }
            self.put(&zeros[..(existing_end - body_end) as usize], body_end)?;
        }
        self.end.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }
}

/// The end of a range. Fails with EFBIG if it overflows.
fn checked_end(offset: u64, len: u64) -> io::Result<u64> {
    offset.checked_add(len).ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))
}
