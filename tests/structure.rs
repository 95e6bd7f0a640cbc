//! Rules of the code's layout that the compiler does not check: unsafe code only in sys, imports that run downwards only,
//! and short files.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Module and rank: a module may import modules of a lower rank, and those in [`SAME_RANK`].
const RANKS: [(&str, u8); 20] = [
    ("main", 10),
    ("signals", 10),
    ("options", 9),
    ("cli", 8),
    ("output", 7),
    ("tree", 6),
    ("copy", 5),
    ("source", 4),
    ("destination", 4),
    ("check", 4),
    ("job", 3),
    ("block", 3),
    ("source_info", 3),
    ("event", 3),
    ("cleanup", 3),
    ("sequencer", 3),
    ("error", 3),
    ("direct", 2),
    ("pace", 1),
    ("sys", 0),
];
/// Modules that others of the same rank may import: anything can fail.
const SAME_RANK: [&str; 1] = ["error"];

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut directories, mut files) = (vec![root.clone()], Vec::new());
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(&root).unwrap().to_path_buf(), text));
            }
        }
    }
    assert!(files.len() > 40, "only {} files were found", files.len());
    files
}

/// `copy` for both `copy.rs` and `copy/plan.rs`.
fn module(path: &Path) -> String {
    path.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_string()
}

#[test]
fn only_sys_allows_unsafe_code() {
    let elsewhere: Vec<_> = sources()
        .into_iter()
        .filter(|(path, _)| module(path) != "sys")
        .filter(|(_, text)| text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains("unsafe")))
        .map(|(path, _)| path)
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}

#[test]
fn imports_run_downwards_only() {
    let ranks = BTreeMap::from(RANKS);
    let mut upward = Vec::new();
    for (path, text) in sources() {
        let own = module(&path);
        if own == "lib" {
            continue;
        }
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for import in line.split("crate::").skip(1) {
                let name: String = import.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let Some(rank) = ranks.get(name.as_str()) else { continue };
                let same_rank = *rank == ranks[own.as_str()] && SAME_RANK.contains(&name.as_str());
                if name != own && *rank >= ranks[own.as_str()] && !same_rank {
                    upward.push(format!("{}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    assert!(upward.is_empty(), "{upward:#?}");
}

#[test]
fn every_source_file_is_short_enough_to_read_in_one_go() {
    let long: Vec<_> =
        sources().into_iter().map(|(path, text)| (path, text.lines().count())).filter(|(_, n)| *n > 300).collect();
    assert!(long.is_empty(), "more than 300 lines: {long:?}");
}
