//! Trees of small files: a copy of the system's own, and how two trees compare.

use std::fs::{self, File, FileType};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::left_out::LeftOut;
use crate::table::size;

/// The size of the tree that [`copy_system_tree`] makes when it is not scaled down.
pub const BYTES: u64 = 600 << 20;
/// The number of its files.
const FILES: u64 = 46_000;

/// What is copied into it, and up to which size of a file. The second directory only fills up.
const ORIGINS: [(&str, u64); 2] = [("/usr/share", u64::MAX), ("/usr/lib", 64 << 10)];

/// An entry of a tree, by its path relative to the root of the tree.
type Entry = (PathBuf, FileType);

/// How many files may still be copied, and how many bytes.
struct Budget {
    files: u64,
    bytes: u64,
}

/// Copies directories, files and symbolic links of this machine into the new directory `path`, until there are
/// `bytes` bytes, or as many files as belong to them.
pub fn copy_system_tree(path: &Path, bytes: u64) -> Result<()> {
    let mut budget = Budget { files: FILES * bytes / BYTES, bytes };
    fs::create_dir(path)?;
    for (origin, max_len) in ORIGINS {
        let origin = Path::new(origin);
        let name = origin.file_name().context("a directory without a name")?;
        let copy = path.join(name);
        fs::create_dir(&copy)?;
        for entry in walk(origin)? {
            if budget.files == 0 {
                break;
            }
            copy_entry(origin, &copy, &entry, max_len, &mut budget)?;
        }
    }
    Ok(())
}

/// Files that this user must not read are left out.
fn copy_entry(origin: &Path, copy: &Path, entry: &Entry, max_len: u64, budget: &mut Budget) -> Result<()> {
    let (relative, kind) = entry;
    let (from, to) = (origin.join(relative), copy.join(relative));
    if kind.is_dir() {
        fs::create_dir(&to)?;
    } else if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
    } else if kind.is_file() {
        let len = fs::metadata(&from)?.len();
        if len > max_len.min(budget.bytes) {
            return Ok(());
        }
        match fs::copy(&from, &to) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(()),
            copied => copied.with_context(|| from.display().to_string())?,
        };
        budget.files -= 1;
        budget.bytes -= len;
    }
    Ok(())
}

/// All entries below a directory, each directory before what is in it, sorted. A directory that this user must not
/// read has none.
pub fn walk(root: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    walk_below(root, Path::new(""), &mut entries)?;
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}

fn walk_below(root: &Path, directory: &Path, entries: &mut Vec<Entry>) -> Result<()> {
    let path = root.join(directory);
    let listed = match fs::read_dir(&path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(()),
        listed => listed.with_context(|| path.display().to_string())?,
    };
    for entry in listed {
        let entry = entry?;
        let (relative, kind) = (directory.join(entry.file_name()), entry.file_type()?);
        entries.push((relative.clone(), kind));
        if kind.is_dir() {
            walk_below(root, &relative, entries)?;
        }
    }
    Ok(())
}

/// What is in a tree, in words, and the bytes of its files.
pub fn describe(root: &Path) -> Result<(String, u64)> {
    let entries = walk(root)?;
    let count = |is: fn(&FileType) -> bool| entries.iter().filter(|(_, kind)| is(kind)).count();
    let mut bytes = 0;
    for (path, _) in entries.iter().filter(|(_, kind)| kind.is_file()) {
        bytes += fs::metadata(root.join(path))?.len();
    }
    let (files, directories) = (count(FileType::is_file), count(FileType::is_dir) + 1);
    let links = count(FileType::is_symlink);
    let size = size(bytes);
    let [origin, rest] = ORIGINS.map(|(origin, _)| origin);
    let text = format!("the tree: {files} files, {directories} directories and {links} symbolic links, {size}");
    Ok((format!("{text}; from {origin} and, to fill up, {rest}"), bytes))
}

/// Compares the entries of two trees: their names, kinds and contents. Fails with [`LeftOut`] if they differ.
pub fn compare(source: &Path, copy: &Path) -> Result<()> {
    if !copy.is_dir() {
        return Err(LeftOut::error("it made no copy"));
    }
    let (expected, actual) = (walk(source)?, walk(copy)?);
    if let Some((expected, actual)) = expected.iter().zip(&actual).find(|(expected, actual)| expected != actual) {
        let (expected, actual) = (expected.0.display(), actual.0.display());
        return Err(LeftOut::error(format!("its copy has {actual} where the source has {expected}")));
    }
    if expected.len() != actual.len() {
        let (expected, actual) = (expected.len(), actual.len());
        return Err(LeftOut::error(format!("its copy has {actual} entries instead of {expected}")));
    }
    for (path, kind) in &expected {
        let (source, copy) = (source.join(path), copy.join(path));
        if kind.is_file() {
            compare_files(&source, &copy)?;
        } else if kind.is_symlink() && fs::read_link(&source)? != fs::read_link(&copy)? {
            return Err(LeftOut::error(format!("its copy has another symbolic link {}", path.display())));
        }
    }
    Ok(())
}

/// Ranges that are holes in both files are not read.
pub fn compare_files(source: &Path, copy: &Path) -> Result<()> {
    let source = File::open(source)?;
    let copy = File::open(copy).map_err(|error| LeftOut::error(format!("it made no copy: {error}")))?;
    let (len, copy_len) = (source.metadata()?.len(), copy.metadata()?.len());
    if copy_len != len {
        return Err(LeftOut::error(format!("its copy has {copy_len} bytes instead of {len}")));
    }
    let next_data = |offset| -> Result<u64> {
        let seek = |file| dio_cp::sys::seek_extent(file, offset, libc::SEEK_DATA);
        Ok(seek(&source)?.unwrap_or(len).min(seek(&copy)?.unwrap_or(len)))
    };
    let (mut expected, mut actual) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = next_data(0)?;
    while offset < len {
        let part = expected.len().min((len - offset) as usize);
        source.read_exact_at(&mut expected[..part], offset)?;
        copy.read_exact_at(&mut actual[..part], offset)?;
        if let Some(differing) = (0..part).find(|i| expected[*i] != actual[*i]) {
            return Err(LeftOut::error(format!("its copy differs at byte {} of {len}", offset + differing as u64)));
        }
        offset = next_data(offset + part as u64)?;
    }
    Ok(())
}
