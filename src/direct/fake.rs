//! A disk for tests: it refuses what a strict device refuses, and writes down what it is asked.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Alignment;
use super::file_ops::FileOps;

/// One operation, as the disk saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Read(u64, usize),
    Write(u64, usize),
    /// A write without O_DIRECT.
    Buffered(u64, usize),
    Zero(u64, u64),
    Truncate(u64),
    Sync,
    WriteBack(u64, u64),
    Forget(u64, u64),
    Direct(bool),
}

struct State {
    alignment: Alignment,
    content: Vec<u8>,
    direct: bool,
    operations: Vec<Operation>,
    longest: usize,
    refuses_direct: bool,
    refuses_dontcache: bool,
    fails_writes_at: Option<(u64, i32)>,
}

/// Shared, so that the test can look while the writer has it.
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
            longest: usize::MAX,
            refuses_direct: false,
            refuses_dontcache: false,
            fails_writes_at: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn alignment(&self) -> Alignment {
        self.state().alignment
    }

    /// From now on, one call moves at most `bytes`.
    pub fn short_transfers(&self, bytes: usize) {
        self.state().longest = bytes;
    }

    /// From now on, O_DIRECT transfers get EINVAL, as some filesystems do only when written to.
    pub fn refuse_direct(&self) {
        self.state().refuses_direct = true;
    }

    /// From now on, RWF_DONTCACHE gets EOPNOTSUPP, as before Linux 6.14.
    pub fn refuse_dontcache(&self) {
        self.state().refuses_dontcache = true;
    }

    /// From now on, a write that reaches behind `at` fails with `errno`.
    pub fn fail_writes_at(&self, at: u64, errno: i32) {
        self.state().fails_writes_at = Some((at, errno));
    }

    pub fn content(&self) -> Vec<u8> {
        self.state().content.clone()
    }

    /// What was asked so far, without the reads.
    pub fn changes(&self) -> Vec<Operation> {
        let state = self.state();
        state.operations.iter().copied().filter(|o| !matches!(o, Operation::Read(..))).collect()
    }
}

impl State {
    fn check(&self, data: &[u8], at: u64, dontcache: bool) -> io::Result<()> {
        let a = self.alignment;
        let odd = !a.fits(data) || !at.is_multiple_of(a.offset) || !(data.len() as u64).is_multiple_of(a.offset);
        if self.direct && (odd || self.refuses_direct) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        if dontcache && self.refuses_dontcache {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        Ok(())
    }
}

impl FileOps for FakeDisk {
    fn read_at(&self, buffer: &mut [u8], at: u64, dontcache: bool) -> io::Result<usize> {
        let mut state = self.state();
        state.check(buffer, at, dontcache)?;
        state.operations.push(Operation::Read(at, buffer.len()));
        let start = state.content.len().min(at as usize);
        let n = buffer.len().min(state.content.len() - start).min(state.longest);
        buffer[..n].copy_from_slice(&state.content[start..start + n]);
        Ok(n)
    }

    fn write_at(&self, data: &[u8], at: u64, dontcache: bool) -> io::Result<usize> {
        let mut state = self.state();
        state.check(data, at, dontcache)?;
        if let Some((limit, errno)) = state.fails_writes_at
            && at + data.len() as u64 > limit
        {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let direct = state.direct;
        state.operations.push(match direct {
            true => Operation::Write(at, data.len()),
            false => Operation::Buffered(at, data.len()),
        });
        let n = data.len().min(state.longest);
        let end = at as usize + n;
        if state.content.len() < end {
            state.content.resize(end, 0);
        }
        state.content[at as usize..end].copy_from_slice(&data[..n]);
        Ok(n)
    }

    fn set_direct(&self, on: bool) -> io::Result<()> {
        let mut state = self.state();
        state.direct = on;
        state.operations.push(Operation::Direct(on));
        Ok(())
    }

    fn zero(&self, start: u64, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.operations.push(Operation::Zero(start, len));
        let end = state.content.len().min((start + len) as usize);
        state.content[start as usize..end].fill(0);
        Ok(())
    }

    fn next_data(&self, at: u64) -> io::Result<u64> {
        Ok(at)
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

    fn forget(&self, start: u64, len: u64) -> io::Result<()> {
        self.state().operations.push(Operation::Forget(start, len));
        Ok(())
    }

    fn no_read_ahead(&self) -> io::Result<()> {
        Ok(())
    }

    fn cached(&self, _start: u64, _len: u64) -> io::Result<u64> {
        Ok(0)
    }
}
