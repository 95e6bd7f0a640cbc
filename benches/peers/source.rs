//! What is copied: files of known content, whose pages are in a known state.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::left_out::LeftOut;
use crate::tree;

/// The content of the source.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Random bytes, which no device can compress.
    Random,
    /// The same byte everywhere, so that zram stores a page as one word and does not compress. The byte is not zero,
    /// because some tools make holes of zeros.
    Filled,
    /// A sparse file: 64 pieces of random data, which are 1/64 of the file, and holes.
    Sparse,
    /// Random bytes in the document root of nginx.
    Served,
    /// Random bytes in one file, of which a run makes all its copies.
    Shared,
    /// Random bytes in a file on tmpfs.
    InMemory,
    /// A directory of 20,000 files.
    Tree,
    /// A directory with 8 files of random bytes, which are the bytes of a copy together.
    LargeFiles,
    /// Many small files in directories: see tree.rs.
    SystemTree,
}

/// Which pages of the source are in the page cache when a run begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum CacheState {
    Cold,
    /// None, and no name or inode is cached either. Needs root.
    Dropped,
    /// All of them, clean.
    Hot,
    /// Those of its first half, clean.
    HalfHot,
    /// All of them, dirty.
    Dirty,
}

/// Creates a file or, for several copies, a directory of files named 1, 2, 3 and so on.
pub fn create(path: &Path, content: Content, bytes: u64, copies: u64) -> Result<()> {
    match content {
        Content::Tree => {
            fs::create_dir(path)?;
            for i in 0..20_000 {
                fs::write(path.join(i.to_string()), vec![b'x'; bytes as usize])?;
            }
        }
        Content::Sparse => create_sparse(path, bytes)?,
        Content::SystemTree => tree::copy_system_tree(path, bytes)?,
        Content::LargeFiles => create_directory(path, content, bytes / 8, 8)?,
        Content::Shared => write(path, content, bytes)?.sync_all()?,
        _ if copies > 1 => create_directory(path, content, bytes, copies)?,
        _ => write(path, content, bytes)?.sync_all()?,
    }
    Ok(())
}

/// The files are named 1, 2, 3 and so on.
fn create_directory(path: &Path, content: Content, bytes: u64, files: u64) -> Result<()> {
    fs::create_dir(path)?;
    for i in 1..=files {
        write(&path.join(i.to_string()), content, bytes)?.sync_all()?;
    }
    Ok(())
}

fn create_sparse(path: &Path, bytes: u64) -> Result<()> {
    let file = File::create(path)?;
    file.set_len(bytes)?;
    let mut piece = vec![0; (bytes / 64 / 64) as usize];
    let mut state = SEED;
    for i in 0..64 {
        randomise(&mut piece, &mut state);
        file.write_all_at(&piece, i * (bytes / 64))?;
    }
    Ok(file.sync_all()?)
}

fn write(path: &Path, content: Content, bytes: u64) -> Result<File> {
    let mut file = File::create(path)?;
    let mut state = SEED;
    let mut buffer = vec![0x5a; bytes.min(1 << 20) as usize];
    let mut left = bytes as usize;
    while left > 0 {
        if content != Content::Filled {
            randomise(&mut buffer, &mut state);
        }
        let len = left.min(buffer.len());
        file.write_all(&buffer[..len])?;
        left -= len;
    }
    Ok(file)
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Fills the buffer by xorshift64.
fn randomise(bytes: &mut [u8], state: &mut u64) {
    for word in bytes.chunks_exact_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

/// Brings the pages of every file of the source into this state.
pub fn prepare(path: &Path, content: Content, state: CacheState, bytes: u64) -> Result<()> {
    match (content, state) {
        // The files were just written or compared, so they are cached. tmpfs has no other state.
        (Content::Tree | Content::SystemTree, CacheState::Hot) | (Content::InMemory, _) => return Ok(()),
        (_, CacheState::Dropped) => return drop_caches(path),
        _ => {}
    }
    for path in files(path)? {
        match state {
            CacheState::Cold | CacheState::Dropped => evict(&path)?,
            CacheState::Hot => {
                std::io::copy(&mut File::open(&path)?, &mut std::io::sink())?;
            }
            CacheState::HalfHot => {
                evict(&path)?;
                read_first_half(&path, bytes)?;
            }
            // The caller has synced the rest of the filesystem, so only these pages are dirty.
            CacheState::Dirty => drop(write(&path, content, bytes)?),
        }
    }
    Ok(())
}

fn read_first_half(path: &Path, bytes: u64) -> Result<()> {
    let file = File::open(path)?;
    // Prevents read-ahead into the second half.
    dio_cp::sys::advise(&file, 0, 0, libc::POSIX_FADV_RANDOM)?;
    let mut buffer = vec![0; 1 << 20];
    let half = bytes / 2;
    for offset in (0..half).step_by(buffer.len()) {
        let len = buffer.len().min((half - offset) as usize);
        file.read_exact_at(&mut buffer[..len], offset)?;
    }
    Ok(())
}

/// Evicts the pages of a file from the page cache.
pub fn evict(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    Ok(dio_cp::sys::advise(&file, 0, 0, libc::POSIX_FADV_DONTNEED)?)
}

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// Fails with [`LeftOut`] if this user cannot bring a source into this state.
pub fn require(state: CacheState) -> Result<()> {
    if state == CacheState::Dropped {
        let opened = File::options().write(true).open(DROP_CACHES);
        opened.map_err(|error| LeftOut::error(format!("cannot drop the caches: {DROP_CACHES}: {error}")))?;
    }
    Ok(())
}

/// Empties the page cache and the caches of names and inodes, of all filesystems. Only clean ones can be dropped.
fn drop_caches(path: &Path) -> Result<()> {
    dio_cp::sys::sync_filesystem(&File::open(path)?)?;
    fs::write(DROP_CACHES, "3").context(DROP_CACHES)
}

/// The file, or all files of a directory and the directories in it.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = tree::walk(path)?;
    Ok(entries.into_iter().filter(|(_, kind)| kind.is_file()).map(|(name, _)| path.join(name)).collect())
}

/// The share of the pages that are in the page cache. None if the kernel cannot count them (before Linux 6.5).
pub fn cached_share(path: &Path) -> Result<Option<f64>> {
    let page = dio_cp::sys::page_size();
    let (mut cached, mut total) = (0, 0);
    for path in files(path)? {
        let file = File::open(path)?;
        let Ok(pages) = dio_cp::sys::cached_pages(&file, 0, 0) else { return Ok(None) };
        cached += pages;
        total += file.metadata()?.len().div_ceil(page);
    }
    Ok(Some(cached as f64 / total as f64))
}

/// Compares a file or a directory with its copy. Fails with [`LeftOut`] if the copy differs.
pub fn compare(source: &Path, copy: &Path) -> Result<()> {
    if source.is_dir() { tree::compare(source, copy) } else { tree::compare_files(source, copy) }
}
