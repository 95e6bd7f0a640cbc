//! One run of one command: what it took.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::account::{Group, Trace, pages_of};
use crate::cases::Task;
use crate::peer::{FIO, Peer, find};
use crate::source::{self, Content, State};

/// A task with its files in place.
pub struct Bench<'a> {
    pub task: &'a Task,
    pub dir: PathBuf,
    pub src: PathBuf,
    pub bytes: u64,
    /// What else stands in command lines: URLs.
    pub words: Vec<(&'static str, String)>,
    /// Digest of the source, to compare with what came out of a pipe.
    pub digest: Option<String>,
}

/// What one run took, all its copies together.
pub struct Run {
    pub wall: f64,
    pub cpu: f64,
    pub peak_mib: f64,
    /// Share of the source's pages in the cache, before and after.
    pub source_cached: Option<(f64, f64)>,
}

/// What one run cost others.
#[derive(Default)]
pub struct Cost {
    pub charged_mib: Option<f64>,
    pub pages: Option<(u64, u64)>,
    /// Why something is not known.
    pub said: Vec<String>,
}

impl Bench<'_> {
    /// A run that is not timed: it warms up, its bytes are checked, and it shows what it costs others.
    /// Err: it failed, or what it copied is not the same.
    pub fn rehearse(&self, peer: &Peer) -> Result<Cost, String> {
        let mut cost = Cost::default();
        let group = Group::new().map_err(|why| cost.said.push(why)).ok();
        let trace = Trace::new().map_err(|why| cost.said.push(why)).ok();
        self.prepare();
        let dst = self.dst();
        let sink = format!("sha256sum > {}", quoted(&dst));
        let line = self.line(peer, &sink);
        let line = format!("{}{line}", group.as_ref().map(Group::entrance).unwrap_or_default());
        let insertions = match &trace {
            Some(trace) => {
                let (run, insertions) = trace.during(|| self.time(&line));
                run.map(|_| insertions)?
            }
            None => self.time(&line).map(|_| None)?,
        };
        cost.charged_mib = group.and_then(|group| group.peak_mib());
        cost.pages = insertions.map(|all| {
            let copies = if dst.exists() && !peer.line.contains("{sink}") { source::files(&dst) } else { Vec::new() };
            (pages_of(&all, &source::files(&self.src)), pages_of(&all, &copies))
        });
        if trace.is_some() && cost.pages.is_none() {
            cost.said.push(format!("{}: inserted pages are not known: the kernel lost events", peer.name));
        }
        if peer.line.contains("{sink}") {
            let found = fs::read_to_string(&dst).unwrap();
            if found.split_whitespace().next() != self.digest.as_deref() {
                return Err("what came out of the pipe differs".into());
            }
        } else if !peer.is_limit() && peer.line.contains("{dst}") {
            source::require_same(&self.src, &dst)?;
        }
        Ok(cost)
    }

    /// A timed run.
    pub fn run(&self, peer: &Peer) -> Run {
        self.prepare();
        // Looking at 20,000 files' pages would be a case of its own.
        let told = matches!(self.task.state, State::Hot | State::HalfHot) && self.task.content == Content::Random;
        let before = if told { source::cached(&self.src) } else { None };
        let line = self.line(peer, "cat > /dev/null");
        let (wall, cpu, peak_mib) = self.time(&line).unwrap_or_else(|why| panic!("{}: {why}", peer.name));
        let source_cached = before.and_then(|before| Some((before, source::cached(&self.src)?)));
        let wall = if peer.is_limit() { fio_seconds(&self.dir.join("fio")) } else { wall };
        Run { wall, cpu, peak_mib, source_cached }
    }

    fn dst(&self) -> PathBuf {
        self.dir.join("dst")
    }

    /// The old copy is gone, nothing is on its way to the disk, and the source is as the task wants it.
    fn prepare(&self) {
        let dst = self.dst();
        let _ = fs::remove_file(&dst).or_else(|_| fs::remove_dir_all(&dst));
        if self.task.copies > 1 {
            fs::create_dir(&dst).unwrap();
        }
        let settle = || dio_cp::sys::sync_filesystem(&File::open(&self.dir).unwrap()).unwrap();
        if self.task.state == State::Dirty {
            settle();
        }
        source::prepare(&self.src, self.task.content, self.task.state, self.bytes);
        if self.task.state != State::Dirty {
            settle();
        }
    }

    /// The whole line for the shell.
    fn line(&self, peer: &Peer, sink: &str) -> String {
        let many = self.task.copies > 1;
        let (src, dst) = (quoted(&self.src), quoted(&self.dst()));
        let each = |path: &str| if many { format!("{path}/$i") } else { path.to_string() };
        // A name is on the medium when its directory is.
        let sync = if many { format!("sync {dst}/$i {dst}") } else { format!("sync {dst}") };
        let fio = format!("{FIO} --output-format=json --output={}", quoted(&self.dir.join("fio")));
        let own = std::env::current_exe().unwrap();
        let tool = find(peer.tool).unwrap_or_default();
        let mut line = peer.line.clone();
        for (word, value) in [
            ("{sync}", sync),
            ("{sink}", sink.to_string()),
            ("{fio}", fio),
            ("{dio}", quoted(Path::new(env!("CARGO_BIN_EXE_dio-cp")))),
            ("{self}", quoted(&own)),
            ("{tool}", quoted(&tool)),
            ("{bytes}", self.bytes.to_string()),
            ("{src}", each(&src)),
            ("{dst}", each(&dst)),
        ] {
            line = line.replace(word, &value);
        }
        for (word, value) in &self.words {
            line = line.replace(word, value);
        }
        if many { format!("for i in $(seq {}); do {line} || exit 1; done", self.task.copies) } else { line }
    }

    /// Wall and processor time by bash, which gives milliseconds where GNU time gives hundredths; the
    /// largest process's memory in MiB by GNU time. Err: how it failed.
    fn time(&self, line: &str) -> Result<(f64, f64, f64), String> {
        crate::stop_if_interrupted();
        let script = "TIMEFORMAT='%3R %3U %3S'; { time command time -f %M -o peak sh -c \"$0\" 2> said; } 2> figures";
        let mut command = Command::new("bash");
        command.args(["-c", script, line]).current_dir(&self.dir).env_remove("LC_ALL").env("LC_NUMERIC", "C");
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap();
        crate::stop_if_interrupted();
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        if !status.success() {
            return Err(format!("it failed: {}", read("said").lines().next().unwrap_or_default()));
        }
        let figures = read("figures") + &read("peak");
        let figures: Vec<f64> = figures.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
        Ok((figures[0], figures[1] + figures[2], figures[3] / 1024.0))
    }
}

/// A path for the shell.
pub fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_str().unwrap().replace('\'', "'\\''"))
}

/// The job's run time by fio's own clock.
fn fio_seconds(output: &Path) -> f64 {
    let found: serde_json::Value = serde_json::from_str(&fs::read_to_string(output).unwrap()).unwrap();
    found["jobs"][0]["job_runtime"].as_f64().unwrap() / 1000.0
}
