//! One way to copy at a time, again and again: sources, a destination that is put as it was, and the command.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::manifest::{Content, Entries, Entry, manifest};
use super::{Scratch, content, dio_cp, tool};

/// Five blocks of 64 KiB, the last one cut.
pub const LEN: usize = 300_001;

/// What is copied where.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    FromPipe,
    ToPipe,
    Command,
    InPlace,
    Tree,
}

/// One way to copy.
pub struct Variant {
    pub name: &'static str,
    pub kind: Kind,
    pub options: &'static [&'static str],
    /// DST exists.
    pub old: bool,
    /// How many faults to inject by default.
    pub sample: usize,
}

/// A directory with the sources, and one in which DST is.
pub struct Arena {
    pub scratch: Scratch,
    pub run: PathBuf,
    pub dst: PathBuf,
}

impl Arena {
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let src = scratch.file("src", LEN);
        let _ = xattr::set(&src, "user.color", b"blue");
        fs::set_permissions(&src, Permissions::from_mode(0o640)).unwrap();
        tool("touch", ["-d", "2001-02-03 04:05:06.789", src.to_str().unwrap()]);
        fs::write(scratch.path("sums"), tool("sha256sum", [&src])).unwrap();
        tree(&scratch.path("tree"));
        let run = scratch.path("run");
        let dst = run.join("dst");
        Self { scratch, run, dst }
    }

    /// Puts DST as it was before the copy.
    pub fn reset(&self, variant: &Variant) {
        let _ = fs::remove_dir_all(&self.run);
        fs::create_dir(&self.run).unwrap();
        if variant.old && variant.kind == Kind::Tree {
            old_tree(&self.scratch.path("tree"), &self.dst);
        } else if variant.old {
            fs::write(&self.dst, content(100_001)).unwrap();
            let _ = xattr::set(&self.dst, "user.origin", b"here");
        }
    }

    /// The command, and what it reads from standard input.
    pub fn command(&self, variant: &Variant) -> (Command, Vec<u8>) {
        let (src, dst) = (self.scratch.path("src"), self.dst.as_path());
        let mut command = dio_cp();
        command.args(["-b", "64K"]).args(variant.options).current_dir(&self.scratch.0);
        match variant.kind {
            Kind::File | Kind::InPlace => command.args([&src, dst]),
            Kind::FromPipe => command.arg("-").arg(dst),
            Kind::ToPipe => command.arg(src).arg("-"),
            Kind::Command => command.arg("--from-command").arg(dst).args(["--", "/bin/cat"]).arg(src),
            Kind::Tree => command.arg(self.scratch.path("tree")).arg(dst),
        };
        (command, if variant.kind == Kind::FromPipe { content(LEN) } else { Vec::new() })
    }
}

/// A small tree with one of everything.
fn tree(root: &Path) {
    fs::create_dir_all(root.join("sub/deep")).unwrap();
    fs::write(root.join("sub/deep/small"), b"small, with an attribute").unwrap();
    let _ = xattr::set(root.join("sub/deep/small"), "user.color", b"blue");
    let _ = xattr::set(root.join("sub"), "user.on", b"directory");
    fs::write(root.join("sub/linked"), content(5000)).unwrap();
    fs::hard_link(root.join("sub/linked"), root.join("also linked")).unwrap();
    symlink("sub/linked", root.join("symlink")).unwrap();
    tool("mkfifo", [root.join("fifo")]);
    fs::write(root.join("large"), content((512 << 10) + 70_001)).unwrap();
    fs::set_permissions(root.join("large"), Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(root.join("sub"), Permissions::from_mode(0o750)).unwrap();
    let _ = std::os::unix::fs::chown(root.join("sub/deep/small"), Some(12), Some(34)); // root only
    for (path, day) in
        [("sub/deep/small", 1), ("sub/linked", 2), ("large", 3), ("fifo", 4), ("sub/deep", 5), ("sub", 6)]
    {
        tool("touch", ["-d", &format!("2001-02-0{day} 04:05:06.789"), root.join(path).to_str().unwrap()]);
    }
    tool("touch", ["-d", "2001-02-07", root.to_str().unwrap()]);
}

/// A copy of that tree from earlier: two files have changed since, a symbolic link points elsewhere, a FIFO was a file, a
/// name is new, and one has been deleted.
fn old_tree(tree: &Path, copy: &Path) {
    tool("cp", ["-a".as_ref(), tree.as_os_str(), copy.as_os_str()]);
    fs::write(copy.join("sub/deep/small"), b"old").unwrap();
    fs::write(copy.join("large"), content(600_001)).unwrap();
    fs::remove_file(copy.join("also linked")).unwrap();
    fs::remove_file(copy.join("symlink")).unwrap();
    symlink("elsewhere", copy.join("symlink")).unwrap();
    fs::remove_file(copy.join("fifo")).unwrap();
    fs::write(copy.join("fifo"), b"a file then").unwrap();
    fs::write(copy.join("deleted since"), b"kept").unwrap();
    for changed in ["deleted since", "fifo", "sub/deep/small", "large"] {
        tool("touch", ["-d", "2000-01-01", copy.join(changed).to_str().unwrap()]);
    }
    tool("touch", ["-h", "-d", "2000-01-01", copy.join("symlink").to_str().unwrap()]);
}

/// What DST must be after the copy.
pub fn expected(arena: &Arena, variant: &Variant) -> Entries {
    let mut new = manifest(&arena.scratch.path(if variant.kind == Kind::Tree { "tree" } else { "src" }));
    if variant.old && variant.kind == Kind::Tree {
        let kept = manifest(&arena.dst).remove(Path::new("deleted since")).unwrap();
        new.insert("deleted since".into(), kept);
    }
    new
}

/// The content, if it is one file and not a tree.
pub fn only_file(entries: &Entries) -> Option<&[u8]> {
    match entries.get(Path::new("")) {
        Some(Entry { content: Content::File(bytes), .. }) => Some(bytes),
        _ => None,
    }
}
