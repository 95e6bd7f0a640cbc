//! What is copied: files of known content, in a known state of the page cache.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What the source is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Bytes that no disk can compress.
    Random,
    /// One byte over and over, which zram keeps as a word a page: nothing is left but the way there.
    /// It is not zero, which some tools would make a hole of.
    Filled,
    /// A 64th of it data, in 64 pieces.
    Sparse,
    /// Random, under nginx's root.
    Served,
    /// 20,000 files in a directory.
    Tree,
}

/// What of the source is in the page cache as a run begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    Cold,
    /// All of it, clean.
    Hot,
    /// Its first half, clean.
    HalfHot,
    /// All of it, and not yet on the medium.
    Dirty,
}

/// Makes a file, or a directory of them named 1, 2, 3 …
pub fn make(path: &Path, content: Content, bytes: u64, copies: u64) {
    match content {
        Content::Tree => {
            fs::create_dir(path).unwrap();
            for i in 0..20_000 {
                fs::write(path.join(i.to_string()), vec![b'x'; bytes as usize]).unwrap();
            }
        }
        Content::Sparse => {
            let file = File::create(path).unwrap();
            file.set_len(bytes).unwrap();
            let mut part = vec![0; (bytes / 64 / 64) as usize];
            let mut state = SEED;
            for i in 0..64 {
                randomise(&mut part, &mut state);
                file.write_all_at(&part, i * (bytes / 64)).unwrap();
            }
            file.sync_all().unwrap();
        }
        _ if copies > 1 => {
            fs::create_dir(path).unwrap();
            for i in 1..=copies {
                write(&path.join(i.to_string()), content, bytes).sync_all().unwrap();
            }
        }
        _ => write(path, content, bytes).sync_all().unwrap(),
    }
}

fn write(path: &Path, content: Content, bytes: u64) -> File {
    let mut file = File::create(path).unwrap();
    let mut state = SEED;
    let mut part = vec![0x5a; bytes.min(1 << 20) as usize];
    let mut left = bytes as usize;
    while left > 0 {
        if content != Content::Filled {
            randomise(&mut part, &mut state);
        }
        let now = left.min(part.len());
        file.write_all(&part[..now]).unwrap();
        left -= now;
    }
    file
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// xorshift64
fn randomise(bytes: &mut [u8], state: &mut u64) {
    for word in bytes.chunks_exact_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

/// Brings every file of the source into this state.
pub fn prepare(path: &Path, content: Content, state: State, bytes: u64) {
    if content == Content::Tree {
        return; // what was just written is cached
    }
    for path in files(path) {
        match state {
            State::Cold => make_cold(&path),
            State::Hot => {
                std::io::copy(&mut File::open(&path).unwrap(), &mut std::io::sink()).unwrap();
            }
            State::HalfHot => {
                make_cold(&path);
                let file = File::open(&path).unwrap();
                // Without it, reading ahead brings more than was asked for.
                dio_cp::sys::advise(&file, 0, 0, libc::POSIX_FADV_RANDOM).unwrap();
                let mut part = vec![0; 1 << 20];
                let half = bytes / 2;
                for at in (0..half).step_by(part.len()) {
                    let len = part.len().min((half - at) as usize);
                    file.read_exact_at(&mut part[..len], at).unwrap();
                }
            }
            // The rest of the filesystem is on the medium by then; see measure.rs.
            State::Dirty => drop(write(&path, content, bytes)),
        }
    }
}

/// Drops a file's pages.
pub fn make_cold(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    dio_cp::sys::advise(&file, 0, 0, libc::POSIX_FADV_DONTNEED).unwrap();
}

/// The file, or all files of a directory.
pub fn files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_path_buf()];
    }
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Share of the pages that are in the cache. None: the kernel does not tell (before Linux 6.5).
pub fn cached(path: &Path) -> Option<f64> {
    let page = dio_cp::sys::page_size();
    let (mut cached, mut all) = (0, 0);
    for path in files(path) {
        let file = File::open(path).unwrap();
        cached += dio_cp::sys::cached_pages(&file, 0, 0).ok()?;
        all += file.metadata().unwrap().len().div_ceil(page);
    }
    Some(cached as f64 / all as f64)
}

/// Err unless two files, or all files of two directories, have the same length and bytes. Where both
/// have a hole, nothing is read.
pub fn require_same(src: &Path, dst: &Path) -> Result<(), String> {
    for path in files(src) {
        let other = if src.is_dir() { dst.join(path.file_name().unwrap()) } else { dst.to_path_buf() };
        let b = File::open(&other).map_err(|error| format!("it made no copy: {error}"))?;
        let a = File::open(&path).unwrap();
        let (len, found) = (a.metadata().unwrap().len(), b.metadata().unwrap().len());
        if found != len {
            return Err(format!("its copy has {found} bytes instead of {len}"));
        }
        let (mut here, mut there) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let next_data = |at| {
            let data = |file| dio_cp::sys::seek_extent(file, at, libc::SEEK_DATA).unwrap().unwrap_or(len);
            data(&a).min(data(&b))
        };
        let mut at = next_data(0);
        while at < len {
            let part = here.len().min((len - at) as usize);
            a.read_exact_at(&mut here[..part], at).unwrap();
            b.read_exact_at(&mut there[..part], at).unwrap();
            if let Some(wrong) = (0..part).find(|i| here[*i] != there[*i]) {
                return Err(format!("its copy differs at byte {} of {len}", at + wrong as u64));
            }
            at = next_data(at + part as u64);
        }
    }
    Ok(())
}
