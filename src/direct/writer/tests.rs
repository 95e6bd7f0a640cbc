//! Tests of the writer on a fake disk that enforces alignment and records the operations.

use std::io::Write;

use super::*;
use crate::direct::Traffic;
use crate::direct::fake::{FakeDisk, Operation};

fn new_file(disk: &FakeDisk) -> DirectWriter {
    DirectWriter::from_io(FileIo::fake(disk.clone(), DirectPolicy::Auto), disk.alignment(), true, 0)
}

fn in_place(disk: &FakeDisk) -> DirectWriter {
    let existing_len = disk.content().len() as u64;
    DirectWriter::from_io(FileIo::fake(disk.clone(), DirectPolicy::Auto), disk.alignment(), false, existing_len)
}

#[test]
fn the_tail_is_padded_written_direct_truncated_synced_and_evicted_in_this_order() -> io::Result<()> {
    let disk = FakeDisk::new(512, 4096, Vec::new());
    let mut writer = new_file(&disk);
    writer.write_all(&[9; 5000])?;
    let written = writer.finish()?;
    use Operation::*;
    let expected = [Write(0, 4096), Write(4096, 4096), Truncate(5000), Sync, Evict(0, 0)];
    assert_eq!(disk.changes(), expected);
    assert_eq!(disk.content(), [9; 5000]);
    assert_eq!(written.traffic, Traffic { direct: 5000, ..Traffic::default() });
    Ok(())
}

#[test]
fn chunks_of_any_length_give_the_same_bytes_in_aligned_transfers_only() -> io::Result<()> {
    let bytes: Vec<u8> = (0..BUFFER_SIZE * 2 + 777).map(|i| (i % 251) as u8).collect();
    for chunk in [1000, 4096, 65_537, BUFFER_SIZE, BUFFER_SIZE + 1] {
        let disk = FakeDisk::new(512, 4096, Vec::new());
        let mut writer = new_file(&disk);
        for (i, part) in bytes.chunks(chunk).enumerate() {
            writer.write_all(part)?;
            if i % 3 == 0 {
                writer.flush()?;
            }
        }
        assert_eq!(writer.finish()?.traffic.direct, bytes.len() as u64);
        assert!(disk.content() == bytes, "chunk {chunk}");
    }
    Ok(())
}

#[test]
fn in_place_writes_change_nothing_outside_their_range() -> io::Result<()> {
    let before: Vec<u8> = (0..20_000).map(|i| (i % 250) as u8 + 1).collect();
    for offset in [0, 1, 511, 512, 4095, 4096, 12_000] {
        for len in [0, 1, 511, 512, 513, 4096, 7000] {
            let disk = FakeDisk::new(512, 512, before.clone());
            let writer = in_place(&disk);
            writer.write_at(&vec![0xff; len], offset)?;
            let written = writer.finish()?;
            let mut expected = before.clone();
            expected[offset as usize..offset as usize + len].fill(0xff);
            assert!(disk.content() == expected, "offset {offset} len {len}");
            assert_eq!(written.traffic.direct, len as u64);
            assert!(!disk.changes().iter().any(|operation| matches!(operation, Operation::Truncate(_))));
        }
    }
    Ok(())
}

#[test]
fn a_file_that_grows_in_place_is_never_longer_than_its_final_length() -> io::Result<()> {
    let disk = FakeDisk::new(512, 512, vec![1; 700]);
    let writer = in_place(&disk);
    writer.write_at(&[2; 1000], 600)?;
    assert!(disk.content().len() <= 1600);
    let written = writer.finish()?;
    assert_eq!(disk.content().len(), 1600);
    assert_eq!((disk.content()[599], disk.content()[600], disk.content()[1599]), (1, 2, 2));
    assert_eq!(written.traffic.direct + written.traffic.uncached, 1000);
    assert!(written.traffic.uncached < 1024);
    Ok(())
}

#[test]
fn several_threads_can_write_parts_of_the_same_block() -> io::Result<()> {
    for is_new in [true, false] {
        let disk = FakeDisk::new(512, 4096, if is_new { Vec::new() } else { vec![0; 8192] });
        let writer = if is_new { new_file(&disk) } else { in_place(&disk) };
        std::thread::scope(|scope| {
            for part in 0..8u8 {
                let writer = &writer;
                scope.spawn(move || writer.write_at(&[part + 1; 1000], u64::from(part) * 1000));
            }
        });
        writer.finish()?;
        let expected: Vec<u8> = (0..8000).map(|i| (i / 1000) as u8 + 1).collect();
        assert!(disk.content()[..8000] == expected, "is_new {is_new}");
    }
    Ok(())
}

#[test]
fn the_writer_falls_back_to_uncached_writes_and_reports_why() -> io::Result<()> {
    let disk = FakeDisk::new(512, 512, Vec::new());
    disk.refuse_direct();
    disk.refuse_dontcache();
    let writer = new_file(&disk);
    writer.write_at(&[5; 1000], 0)?;
    let written = writer.finish()?;
    assert_eq!(disk.content(), [5; 1000]);
    assert_eq!(written.traffic, Traffic { uncached: 1000, ..Traffic::default() });
    assert!(written.why.is_some_and(|why| why.contains("refuses")));
    let changes = disk.changes();
    assert!(changes.iter().any(|operation| matches!(operation, Operation::Evict(0, 512))), "{changes:?}");
    Ok(())
}

#[test]
fn a_refusal_under_always_is_an_error() {
    let disk = FakeDisk::new(512, 512, Vec::new());
    disk.refuse_direct();
    let writer = DirectWriter::from_io(FileIo::fake(disk.clone(), DirectPolicy::Always), disk.alignment(), true, 0);
    let error = writer.write_at(&[5; 1024], 0).err();
    assert!(error.is_some_and(|e| e.get_ref().is_some_and(|e| e.is::<crate::direct::Refused>())));
    assert!(disk.content().is_empty());
}

#[test]
fn short_writes_continue_at_an_aligned_offset() -> io::Result<()> {
    let disk = FakeDisk::new(512, 512, Vec::new());
    disk.limit_transfers(1500);
    let mut writer = new_file(&disk);
    let bytes: Vec<u8> = (0..10_000).map(|i| (i % 253) as u8).collect();
    writer.write_all(&bytes)?;
    writer.finish()?;
    assert_eq!(disk.content(), bytes);
    Ok(())
}

#[test]
fn a_device_that_writes_nothing_causes_an_error_and_not_an_endless_loop() {
    let disk = FakeDisk::new(512, 512, Vec::new());
    disk.limit_transfers(100);
    let error = new_file(&disk).write_at(&[5; 1024], 0).err();
    assert_eq!(error.map(|e| e.kind()), Some(io::ErrorKind::WriteZero));
}

#[test]
fn after_a_failed_write_every_later_call_fails() -> io::Result<()> {
    let disk = FakeDisk::new(512, 512, Vec::new());
    disk.fail_writes_past(1024, libc::ENOSPC);
    let writer = new_file(&disk);
    writer.write_at(&[1; 1024], 0)?;
    let first = writer.write_at(&[1; 512], 1024).err();
    assert_eq!(first.and_then(|e| e.raw_os_error()), Some(libc::ENOSPC));
    let second = writer.write_at(&[1; 512], 0).err().map(|e| e.to_string());
    assert!(second.is_some_and(|e| e.contains("earlier write failed")));
    assert!(writer.finish().is_err());
    Ok(())
}

#[test]
fn zeroing_a_range_in_place_does_not_change_its_neighbors() -> io::Result<()> {
    let disk = FakeDisk::new(512, 512, vec![1; 50_000]);
    let writer = in_place(&disk);
    writer.zero_at(1000, 20_000)?;
    writer.zero_at(49_000, 3_000)?;
    writer.finish()?;
    let mut expected = vec![1; 52_000];
    expected[1000..21_000].fill(0);
    expected[49_000..].fill(0);
    assert!(disk.content() == expected);
    assert!(disk.changes().contains(&Operation::Zero(4096, 16_384)));
    Ok(())
}

/// Checks what depends on the page size, with pages of `page` bytes.
fn check_with_pages_of(page: u64) -> io::Result<()> {
    let len = page as usize;
    for offset in [0, 1, page - 1, page, 3 * page + 5] {
        for bytes in [1, 100, len - 1, len, 2 * len + 1] {
            let PageRange { start, len } = PageRange::containing(offset, bytes);
            assert!(start.is_multiple_of(page) && len.is_multiple_of(page), "{offset} {bytes}");
            assert!(start <= offset && offset - start < page, "{offset} {bytes}");
            assert!(
                start + len >= offset + bytes as u64 && start + len - offset - (bytes as u64) < page,
                "{offset} {bytes}"
            );
        }
    }
    let disk = FakeDisk::new(512, 512, Vec::new());
    assert_eq!(new_file(&disk).padded_end(page + 1), 2 * page);

    // Only whole pages are zeroed by the kernel, and no byte outside the range changes.
    let before: Vec<u8> = (0..5 * len + 100).map(|i| (i % 250) as u8 + 1).collect();
    let disk = FakeDisk::new(512, 512, before.clone());
    let writer = in_place(&disk);
    writer.put_zeros(100, 3 * page)?;
    writer.finish()?;
    let mut expected = before;
    expected[100..100 + 3 * len].fill(0);
    assert!(disk.content() == expected);
    let zeroed: Vec<_> = disk.changes().into_iter().filter(|change| matches!(change, Operation::Zero(..))).collect();
    assert_eq!(zeroed, [Operation::Zero(page, 2 * page)]);

    // The old last page is cached by the write that makes the file longer, so all of it is evicted.
    let disk = FakeDisk::new(512, 512, vec![1; len + 100]);
    let writer = in_place(&disk);
    writer.write_at(&vec![2; len], page + 100)?;
    writer.finish()?;
    assert!(disk.content() == [vec![1; len + 100], vec![2; len]].concat());
    let evicted = |change: &Operation| matches!(change, Operation::Evict(start, bytes) if *start <= page && (*bytes == 0 || start + bytes >= 2 * page));
    assert!(disk.changes().iter().any(evicted), "{:?}", disk.changes());
    Ok(())
}

#[test]
fn pages_of_any_size_are_padded_zeroed_and_evicted_as_a_whole() -> io::Result<()> {
    [4096, 16 << 10, 64 << 10]
        .into_iter()
        .try_for_each(|page| sys::other_page_size::with(page, || check_with_pages_of(page)))
}
