//! The files of one copy of the matrix: before, and after.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{BLOCK, Copy, Expected, LEN, OLD_LEN};
use crate::common::{cached_pages, content, is_root, make_cold, names, tool, write};

/// The files of one copy.
pub struct Setting {
    directory: PathBuf,
    copy: Copy,
    source: OsString,
    destination: PathBuf,
}

impl Setting {
    pub fn new(directory: &Path, copy: Copy, device: PathBuf, url: String) -> Self {
        let (src, dst) = (directory.join("src"), directory.join("dst"));
        match copy {
            Copy::Pipe | Copy::Url => {}
            Copy::Tree => make_tree(&src),
            _ => write(&src, &content(LEN)),
        }
        match copy {
            Copy::Replace => write(&dst, b"old"),
            Copy::InPlace => write(&dst, &content(OLD_LEN)),
            Copy::Device => write(&device, &content(OLD_LEN)),
            _ => {}
        }
        for path in [&src, &dst].into_iter().filter(|path| path.is_file()) {
            make_cold(path);
        }
        let source = match copy {
            Copy::Pipe => "-".into(),
            Copy::Url => url.into(),
            _ => src.into(),
        };
        Self { directory: directory.into(), copy, source, destination: if copy == Copy::Device { device } else { dst } }
    }

    /// Gives the files to the owner of the directory in which the copies are made.
    pub fn give_to(&self, owner: &fs::Metadata) {
        if owner.uid() != 0 && is_root() {
            let owner = format!("{}:{}", owner.uid(), owner.gid());
            tool("chown", ["-R".as_ref(), OsStr::new(&owner), self.directory.as_os_str()]);
        }
    }

    pub fn arguments(&self) -> Vec<OsString> {
        let options: &[&str] = match self.copy {
            Copy::InPlace => &["--in-place"],
            Copy::Device => &["-f"],
            Copy::Tree => &["-a"],
            Copy::Clone => &["--reflink", "always"],
            Copy::Verify => &["--verify"],
            Copy::CheckCache => &["--check-cache"],
            Copy::File | Copy::Pipe | Copy::Replace | Copy::Url => &[],
        };
        let options = options.iter().chain(&["-b", BLOCK]).map(OsString::from);
        options.chain([self.source.clone(), self.destination.clone().into()]).collect()
    }

    /// What is wrong with what the copy left, if anything is.
    pub fn problem(&self, expected: Expected, said: &str) -> Option<String> {
        let has_source = !matches!(self.copy, Copy::Pipe | Copy::Url);
        let had_destination = matches!(self.copy, Copy::Replace | Copy::InPlace);
        let has_destination = self.copy != Copy::Device && (expected.copied || had_destination);
        let wanted = [(has_destination, "dst"), (has_source, "src")];
        let wanted: Vec<_> = wanted.iter().filter(|(there, _)| *there).map(|(_, name)| *name).collect();
        let found = names(&self.directory);
        if found != wanted {
            return Some(format!("the directory has {found:?} instead of {wanted:?}"));
        }
        if self.copy == Copy::Tree {
            return if expected.copied { tree_problem(&self.directory) } else { None };
        }
        if let Some(problem) = self.unreported_pages(said) {
            return Some(problem);
        }
        if has_destination || self.copy == Copy::Device {
            let actual = fs::read(&self.destination).unwrap();
            let old = if self.copy == Copy::Replace { b"old".to_vec() } else { content(OLD_LEN) };
            let right = match (expected.copied, self.copy) {
                (false, Copy::Device) | (true, Copy::Device | Copy::InPlace) => {
                    let new = if expected.copied { content(LEN) } else { Vec::new() };
                    actual.starts_with(&[&new, &old[new.len()..]].concat())
                }
                (true, _) => actual == content(LEN),
                (false, _) => actual == old,
            };
            if !right {
                return Some("the destination has the wrong bytes".into());
            }
        }
        None
    }

    /// How many pages the copy left in the page cache without saying so, if it left any. At the start there were none.
    fn unreported_pages(&self, said: &str) -> Option<String> {
        let files = [Path::new(&self.source), &self.destination].into_iter().filter(|path| path.is_file());
        let pages: u64 = files.map(cached_pages).sum();
        (pages > 0 && !said.contains("page cache")).then(|| format!("{pages} pages are in the page cache"))
    }
}

fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("sub/empty")).unwrap();
    write(&root.join("large"), &content(LEN));
    write(&root.join("sub/small"), &content(100));
    write(&root.join("sub/nothing"), b"");
    fs::hard_link(root.join("large"), root.join("sub/other-name")).unwrap();
    symlink("../large", root.join("sub/link")).unwrap();
    let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::open(root.join("sub/small")).unwrap().set_modified(past).unwrap();
}

/// What is wrong with the copy of the tree, if anything is.
fn tree_problem(directory: &Path) -> Option<String> {
    let copy = directory.join("dst");
    let inode = |name: &str| fs::metadata(copy.join(name)).unwrap().ino();
    for (path, expected) in
        [("", vec!["large", "sub"]), ("sub", vec!["empty", "link", "nothing", "other-name", "small"])]
    {
        let found = names(&copy.join(path));
        if found != expected {
            return Some(format!("dst/{path} has {found:?} instead of {expected:?}"));
        }
    }
    let right_bytes = [("large", LEN), ("sub/small", 100), ("sub/nothing", 0)]
        .iter()
        .all(|(name, len)| fs::read(copy.join(name)).unwrap() == content(*len));
    let time = |path: &Path| fs::metadata(path.join("sub/small")).unwrap().mtime();
    match () {
        () if !right_bytes => Some("a file of the tree has the wrong bytes".into()),
        () if inode("large") != inode("sub/other-name") => Some("the hard link is a file of its own".into()),
        () if fs::read_link(copy.join("sub/link")).unwrap() != Path::new("../large") => Some("the link differs".into()),
        () if time(&copy) != time(&directory.join("src")) => Some("a modification time differs".into()),
        () => None,
    }
}
