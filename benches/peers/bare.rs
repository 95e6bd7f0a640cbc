//! `bare-loop SRC DST WORKERS BLOCK`: threads that read and write a file with direct I/O and do nothing else. It does
//! not support unaligned lengths, and it does not rename the file. It is the lower bound for the cost of a copy.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use dio_cp::AlignedBuffer;

pub fn run(args: &[String]) -> Result<()> {
    let [source, destination, workers, block] = args else { bail!("usage: bare-loop SRC DST WORKERS BLOCK") };
    let workers: usize = workers.parse().context("WORKERS is not a number")?;
    let block: u64 = block.parse().context("BLOCK is not a number")?;
    let source = File::options().read(true).custom_flags(libc::O_DIRECT).open(source)?;
    let destination = File::options().write(true).create_new(true).custom_flags(libc::O_DIRECT).open(destination)?;
    let len = source.metadata()?.len();
    // Writes within the file's length run in parallel; writes that extend it do not.
    dio_cp::sys::fallocate(&destination, 0, 0, len)?;
    let next = AtomicU64::new(0);
    let copy_blocks = || -> Result<()> {
        let mut buffer = AlignedBuffer::new(block as usize)?;
        loop {
            let offset = next.fetch_add(block, Ordering::Relaxed);
            if offset >= len {
                return Ok(());
            }
            let part = &mut buffer[..block.min(len - offset) as usize];
            source.read_exact_at(part, offset)?;
            destination.write_all_at(part, offset)?;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(copy_blocks)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a worker panicked")))
    })?;
    Ok(destination.sync_all()?)
}
