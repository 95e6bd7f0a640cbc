//! The same small copies under each restriction: what they must leave on the disk, and what dio-cp may say.

mod setting;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use self::setting::Setting;
use super::web::Server;
use super::{Loop, Mount, Scratch, binary, content, copies, dio_cp, feed, plain_tree, tool};

/// Four blocks of `BLOCK`, the last one cut at an odd length.
const LEN: usize = 2_000_001;
const BLOCK: &str = "512K";
/// Bytes that --in-place must leave alone.
const OLD_LEN: usize = 2_500_000;
/// A copy that takes longer hangs.
const SECONDS: &str = "60";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    File,
    Pipe,
    Replace,
    InPlace,
    Device,
    Tree,
    Clone,
    Verify,
    CheckCache,
    Url,
}

impl Copy {
    pub const ALL: [Self; 10] = [
        Self::File,
        Self::Pipe,
        Self::Replace,
        Self::InPlace,
        Self::Device,
        Self::Tree,
        Self::Clone,
        Self::Verify,
        Self::CheckCache,
        Self::Url,
    ];

    /// Those that need no device and no mount, so that any user can make them.
    pub const FOR_USERS: [Self; 8] =
        [Self::File, Self::Pipe, Self::Replace, Self::InPlace, Self::Tree, Self::Verify, Self::CheckCache, Self::Url];
}

/// How a copy must end.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub status: i32,
    /// False: the destination is as it was.
    pub copied: bool,
    /// A part of what dio-cp says.
    pub says: &'static str,
}

impl Expected {
    pub const DONE: Self = Self { status: 0, copied: true, says: "" };

    /// The copy is made, with a note that contains `says`.
    pub const fn noted(says: &'static str) -> Self {
        Self { status: 0, copied: true, says }
    }

    /// The copy fails with exit status 1 and a message that contains `says`.
    pub const fn refused(says: &'static str) -> Self {
        Self { status: 1, copied: false, says }
    }

    /// No thread can be started.
    pub const NO_THREADS: Self = Self::noted("a signal will end this copy without cleaning up");

    /// --check-cache cannot count the pages.
    pub const UNKNOWN_PAGES: Self = Self { status: 5, copied: true, says: "does not report" };
}

/// How dio-cp is started with these arguments.
pub type Start<'a> = dyn Fn(&[OsString]) -> Command + 'a;

/// Where the copies are made.
pub struct Matrix {
    scratch: Scratch,
    clones: Option<Mount>,
    disk: Option<Loop>,
    server: Server,
    /// What went wrong, all of it.
    problems: Vec<String>,
}

impl Matrix {
    /// For all copies. Needs root, losetup and mkfs.xfs.
    pub fn new() -> Self {
        let mut matrix = Self::for_users();
        matrix.clones = Some(Mount::filesystem(&matrix.scratch, "xfs", 320 << 20, 512));
        matrix.disk = Some(Loop::new(&matrix.scratch, 4 << 20, 512));
        matrix
    }

    /// For the copies that any user can make.
    pub fn for_users() -> Self {
        let server = Server::of(content(LEN), |_| None);
        Self { scratch: Scratch::new(), clones: None, disk: None, server, problems: Vec::new() }
    }

    /// The directory that the copies are made in.
    pub fn directory(&self) -> &Path {
        &self.scratch.0
    }

    /// Makes one copy in a new directory on the test disk.
    pub fn copy(&mut self, under: &str, copy: Copy, expected: Expected, start: &Start<'_>) {
        let base = if copy == Copy::Clone { self.clones.as_ref().unwrap().at.clone() } else { self.scratch.0.clone() };
        self.copy_in(&base, under, copy, expected, start);
    }

    /// Makes one copy in a new directory in `base`. `under` names the restriction in messages.
    pub fn copy_in(&mut self, base: &Path, under: &str, copy: Copy, expected: Expected, start: &Start<'_>) {
        let directory = base.join("copy");
        fs::create_dir(&directory).unwrap();
        let owner = fs::metadata(base).unwrap();
        let problem = self.attempt(&directory, copy, expected, start, &owner);
        fs::remove_dir_all(&directory).unwrap();
        self.problems.extend(problem.map(|problem| format!("{copy:?} under {under}: {problem}")));
    }

    fn attempt(
        &self,
        directory: &Path,
        copy: Copy,
        expected: Expected,
        start: &Start<'_>,
        owner: &fs::Metadata,
    ) -> Option<String> {
        let device = self.disk.as_ref().map(|disk| disk.device.clone()).unwrap_or_default();
        let setting = Setting::new(directory, copy, device, self.server.url("/src"));
        setting.give_to(owner);
        let input = if copy == Copy::Pipe { content(LEN) } else { Vec::new() };
        let output = feed(limited(start(&setting.arguments())), &input, 60_000);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let problem = match output.status.code() {
            Some(124 | 137) => Some(format!("it hangs: ended after {SECONDS} s")),
            _ if said.contains("panicked") => Some("it panics".into()),
            status if status != Some(expected.status) => Some(format!("{} instead of {expected:?}", output.status)),
            _ if !said.contains(expected.says) => Some(format!("it does not say {:?}", expected.says)),
            _ => setting.problem(expected, &said),
        };
        problem.map(|problem| format!("{problem}\n    it said: {}", said.trim_end().replace('\n', "\n    | ")))
    }

    /// Fails if anything went wrong, and says what.
    #[track_caller]
    pub fn finish(self) {
        let problems = &self.problems;
        assert!(problems.is_empty(), "{} copies went wrong:\n  {}", problems.len(), problems.join("\n  "));
    }
}

/// Makes the copies of [`Copy::FOR_USERS`] on a filesystem that has no links.
pub fn copy_without_links(at: &Path, filesystem: &str) {
    let mut matrix = Matrix::for_users();
    for copy in Copy::FOR_USERS.into_iter().filter(|copy| *copy != Copy::Tree) {
        matrix.copy_in(at, filesystem, copy, Expected::DONE, &plainly);
    }
    let (src, dst) = (at.join("src"), at.join("dst"));
    plain_tree(&src, 100);
    copies(["-r".as_ref(), src.as_os_str(), dst.as_os_str()]);
    tool("diff", ["-r", src.to_str().unwrap(), dst.to_str().unwrap()]);
    matrix.finish();
}

/// dio-cp without a restriction.
pub fn plainly(arguments: &[OsString]) -> Command {
    let mut command = dio_cp();
    command.args(arguments);
    command
}

/// dio-cp started by another program, such as prlimit(1), whose arguments are `words`.
pub fn by(words: &[&str], arguments: &[OsString]) -> Command {
    let mut command = Command::new(words[0]);
    super::web::alone(&mut command).args(&words[1..]).arg(binary()).args(arguments);
    command
}

/// The same command with a time limit. SIGKILL comes one second after SIGTERM.
fn limited(inner: Command) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", SECONDS]).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}
