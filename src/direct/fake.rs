//! A fake disk for tests. It refuses what a strict device refuses, and records the operations.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Alignment;
use super::file_ops::FileOps;

/// A recorded operation. The two numbers are the offset and the length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Read(u64, usize),
    Write(u64, usize),
    /// A write without O_DIRECT.
    BufferedWrite(u64, usize),
    Zero(u64, u64),
    Truncate(u64),
    Sync,
    WriteBack(u64, u64),
    Evict(u64, u64),
    SetDirect(bool),
}

struct State {
    alignment: Alignment,
    content: Vec<u8>,
    direct: bool,
    operations: Vec<Operation>,
    max_transfer: usize,
    refuses_direct: bool,
    refuses_dontcache: bool,
    write_failure: Option<WriteFailure>,
}

/// Writes that reach past `offset` fail with `errno`.
#[derive(Clone, Copy)]
struct WriteFailure {
    offset: u64,
    errno: i32,
}

/// Clones share their state, so that a test can inspect the disk while a writer uses it.
#[derive(Clone)]
pub struct FakeDisk(Arc<Mutex<State>>);

impl FakeDisk {
    pub fn new(memory: usize, offset: u64, content: Vec<u8>) -> Self {
        let alignment = Alignment { memory, offset };
        Self(Arc::new(Mutex::new(State {
            alignment,
            content,
            direct: true,
            operations: Vec::new(),
            max_transfer: usize::MAX,
            refuses_direct: false,
            refuses_dontcache: false,
            write_failure: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn alignment(&self) -> Alignment {
        self.state().alignment
    }

    /// From now on, one call transfers at most `max_len` bytes.
    pub fn limit_transfers(&self, max_len: usize) {
        self.state().max_transfer = max_len;
    }

    /// From now on, O_DIRECT transfers fail with EINVAL. Some filesystems accept O_DIRECT in open(2) and refuse the
    /// first transfer.
    pub fn refuse_direct(&self) {
        self.state().refuses_direct = true;
    }

    /// From now on, RWF_DONTCACHE fails with EOPNOTSUPP, as before Linux 6.14.
    pub fn refuse_dontcache(&self) {
        self.state().refuses_dontcache = true;
    }

    /// From now on, a write that reaches past `offset` fails with `errno`.
    pub fn fail_writes_past(&self, offset: u64, errno: i32) {
        self.state().write_failure = Some(WriteFailure { offset, errno });
    }

    pub fn content(&self) -> Vec<u8> {
        self.state().content.clone()
    }

    /// The operations so far, without the reads.
    pub fn changes(&self) -> Vec<Operation> {
        let state = self.state();
        state.operations.iter().copied().filter(|operation| !matches!(operation, Operation::Read(..))).collect()
    }
}

impl State {
    fn check(&self, data: &[u8], offset: u64, dontcache: bool) -> io::Result<()> {
        let is_aligned = self.alignment.is_address_aligned(data)
            && offset.is_multiple_of(self.alignment.offset)
            && (data.len() as u64).is_multiple_of(self.alignment.offset);
        if self.direct && (!is_aligned || self.refuses_direct) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        if dontcache && self.refuses_dontcache {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        Ok(())
    }
}

impl FileOps for FakeDisk {
    fn read_at(&self, buffer: &mut [u8], offset: u64, dontcache: bool) -> io::Result<usize> {
        let mut state = self.state();
        state.check(buffer, offset, dontcache)?;
        state.operations.push(Operation::Read(offset, buffer.len()));
        let start = state.content.len().min(offset as usize);
        let len = buffer.len().min(state.content.len() - start).min(state.max_transfer);
        buffer[..len].copy_from_slice(&state.content[start..start + len]);
        Ok(len)
    }

    fn write_at(&self, data: &[u8], offset: u64, dontcache: bool) -> io::Result<usize> {
        let mut state = self.state();
        state.check(data, offset, dontcache)?;
        if let Some(failure) = state.write_failure
            && offset + data.len() as u64 > failure.offset
        {
            return Err(io::Error::from_raw_os_error(failure.errno));
        }
        let record = if state.direct { Operation::Write } else { Operation::BufferedWrite };
        state.operations.push(record(offset, data.len()));
        let len = data.len().min(state.max_transfer);
        let (start, end) = (offset as usize, offset as usize + len);
        if state.content.len() < end {
            state.content.resize(end, 0);
        }
        state.content[start..end].copy_from_slice(&data[..len]);
        Ok(len)
    }

    fn set_direct(&self, on: bool) -> io::Result<()> {
        let mut state = self.state();
        state.direct = on;
        state.operations.push(Operation::SetDirect(on));
        Ok(())
    }

    fn zero_range(&self, start: u64, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.operations.push(Operation::Zero(start, len));
        let end = state.content.len().min((start + len) as usize);
        state.content[start as usize..end].fill(0);
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<u64> {
        Ok(offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state().content.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.operations.push(Operation::Truncate(len));
        state.content.resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.state().operations.push(Operation::Sync);
        Ok(())
    }

    fn write_back(&self, start: u64, len: u64) -> io::Result<()> {
        self.state().operations.push(Operation::WriteBack(start, len));
        Ok(())
    }

    fn evict(&self, start: u64, len: u64) -> io::Result<()> {
        self.state().operations.push(Operation::Evict(start, len));
        Ok(())
    }

    fn disable_read_ahead(&self) -> io::Result<()> {
        Ok(())
    }

    fn cached_pages(&self, _start: u64, _len: u64) -> io::Result<u64> {
        Ok(0)
    }
}
