//! `bare-loop SRC DST WORKERS BLOCK`: threads that read and write a whole file with direct I/O and
//! do nothing else. No lengths that are not aligned, no atomic name, no errors but panics: the least
//! that a copy can cost, to hold dio-cp against.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicU64, Ordering};

use dio_cp::AlignedBuffer;

pub fn run(words: &[String]) {
    let [src, dst, workers, block] = words else { panic!("bare-loop SRC DST WORKERS BLOCK") };
    let (workers, block): (usize, u64) = (workers.parse().unwrap(), block.parse().unwrap());
    let src = File::options().read(true).custom_flags(libc::O_DIRECT).open(src).unwrap();
    let dst = File::options().write(true).create_new(true).custom_flags(libc::O_DIRECT).open(dst).unwrap();
    let len = src.metadata().unwrap().len();
    // Inside a length that is there already, writes run in parallel.
    dio_cp::sys::fallocate(&dst, 0, 0, len).unwrap();
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut buffer = AlignedBuffer::new(block as usize).unwrap();
                loop {
                    let at = next.fetch_add(block, Ordering::Relaxed);
                    if at >= len {
                        return;
                    }
                    let part = &mut buffer[..block.min(len - at) as usize];
                    src.read_exact_at(part, at).unwrap();
                    dst.write_all_at(part, at).unwrap();
                }
            });
        }
    });
    dst.sync_all().unwrap();
}
