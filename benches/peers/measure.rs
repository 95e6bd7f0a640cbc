//! One run of one command, and what it took.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::cases::{PreviousCopy, Task};
use crate::interrupt;
use crate::left_out::LeftOut;
use crate::peer::{FIO, Peer};
use crate::results::{CachedShare, InsertedPages};
use crate::side_effects::{MemoryCgroup, PageCacheTrace, pages_of};
use crate::source::{self, CacheState, Content};
use crate::tools;

/// A task whose source exists.
pub struct PreparedTask<'a> {
    pub task: &'a Task,
    pub dir: PathBuf,
    pub source: PathBuf,
    /// Bytes of one copy.
    pub bytes: u64,
    /// Further placeholders in command lines and their values: URLs.
    pub placeholders: Vec<(&'static str, String)>,
    /// SHA-256 of the source, to compare with the output of a pipe. None if no command writes to one.
    pub digest: Option<String>,
}

/// RECENTCY_MIN in fs/ext4/ialloc.c, and some time for the sync.
const DELETED_INODES_ARE_AVOIDED: Duration = Duration::from_secs(65);

/// What a timed run took, all copies together.
pub struct Run {
    /// In seconds.
    pub wall: f64,
    /// User and system time, in seconds.
    pub cpu: f64,
    /// Resident memory of the largest process.
    pub peak_mib: f64,
    pub source_cached: Option<CachedShare>,
}

/// What a run costs other programs.
#[derive(Default)]
pub struct SideEffects {
    pub charged_mib: Option<f64>,
    pub pages: Option<InsertedPages>,
    /// Why a figure is unknown.
    pub notes: Vec<String>,
}

struct Timing {
    wall: f64,
    cpu: f64,
    peak_mib: f64,
}

impl PreparedTask<'_> {
    /// A run that is not timed. It warms up, compares the copy with the source, and measures the side effects. Fails
    /// with [`LeftOut`] if the command fails or its copy differs.
    pub fn rehearse(&self, peer: &Peer) -> Result<SideEffects> {
        let mut effects = SideEffects::default();
        let group = MemoryCgroup::new().map_err(|error| effects.notes.push(error.to_string())).ok();
        let trace = PageCacheTrace::new().map_err(|error| effects.notes.push(error.to_string())).ok();
        self.prepare()?;
        let copy = self.copy_path();
        let to_pipe = peer.line.contains("{sink}");
        let line = self.shell_line(peer, &format!("sha256sum > {}", tools::quoted(&copy)))?;
        let line = group.as_ref().map(MemoryCgroup::enter_command).unwrap_or_default() + &line;
        let inserted = if let Some(trace) = &trace {
            let (timing, inserted) = trace.during(|| self.time(&line))?;
            timing?;
            inserted
        } else {
            self.time(&line)?;
            None
        };
        effects.charged_mib = group.and_then(|group| group.peak_mib());
        if let Some(inserted) = inserted {
            let copies = if copy.exists() && !to_pipe { source::files(&copy)? } else { Vec::new() };
            let source = pages_of(&inserted, &source::files(&self.source)?);
            effects.pages = Some(InsertedPages { source, copy: pages_of(&inserted, &copies) });
        } else if trace.is_some() {
            effects.notes.push(format!("{}: inserted pages are unknown: the kernel lost events", peer.name));
        }
        if to_pipe {
            let digest = fs::read_to_string(&copy)?;
            if digest.split_whitespace().next() != self.digest.as_deref() {
                return Err(LeftOut::error("the bytes in the pipe differ from the source"));
            }
        } else if !peer.is_limit() && peer.line.contains("{dst}") {
            self.compare(&copy)?;
        }
        Ok(effects)
    }

    /// A timed run.
    pub fn run(&self, peer: &Peer) -> Result<Run> {
        self.prepare()?;
        // Counting the pages of 20,000 files would take longer than the run.
        let count_pages =
            matches!(self.task.state, CacheState::Hot | CacheState::HalfHot) && self.task.content == Content::Random;
        let before = if count_pages { source::cached_share(&self.source)? } else { None };
        let line = self.shell_line(peer, "cat > /dev/null")?;
        // It worked in the rehearsal, so its failure is not a reason to leave it out.
        let timing = self.time(&line).map_err(|error| anyhow!("{}: {error:#}", peer.name))?;
        let Timing { wall, cpu, peak_mib } = timing;
        let after = if before.is_some() { source::cached_share(&self.source)? } else { None };
        let source_cached = before.zip(after).map(|(before, after)| CachedShare { before, after });
        let wall = if peer.is_limit() { fio_seconds(&self.dir.join("fio"))? } else { wall };
        Ok(Run { wall, cpu, peak_mib, source_cached })
    }

    fn copy_path(&self) -> PathBuf {
        self.dir.join("dst")
    }

    /// Compares the copy or copies with the source. Fails with [`LeftOut`] if one differs.
    fn compare(&self, copy: &Path) -> Result<()> {
        if self.task.content != Content::Shared {
            return source::compare(&self.source, copy);
        }
        (1..=self.task.copies).try_for_each(|i| source::compare(&self.source, &copy.join(i.to_string())))
    }

    /// The copies that are deleted later.
    fn old_copies(&self) -> PathBuf {
        self.dir.join("old")
    }

    /// Call this after each round.
    pub fn end_round(&self) -> Result<()> {
        if self.task.previous == PreviousCopy::DeletedLater {
            fs::remove_dir_all(self.old_copies())?;
            dio_cp::sys::sync_filesystem(&File::open(&self.dir)?)?;
            std::thread::sleep(DELETED_INODES_ARE_AVOIDED);
        }
        Ok(())
    }

    /// Deals with the previous copy, syncs the filesystem, and brings the source's pages into the task's state.
    fn prepare(&self) -> Result<()> {
        let copy = self.copy_path();
        match self.task.previous {
            PreviousCopy::Deleted => {
                let _ = fs::remove_file(&copy).or_else(|_| fs::remove_dir_all(&copy));
            }
            PreviousCopy::DeletedLater => {
                fs::create_dir_all(self.old_copies())?;
                if copy.exists() {
                    let number = fs::read_dir(self.old_copies())?.count();
                    fs::rename(&copy, self.old_copies().join(number.to_string()))?;
                }
            }
            PreviousCopy::Kept => {
                if !copy.exists() {
                    tools::run("cp", [Path::new("-a"), &self.source, &copy])?;
                }
            }
        }
        if self.task.copies > 1 {
            fs::create_dir(&copy)?;
        }
        let sync = || dio_cp::sys::sync_filesystem(&File::open(&self.dir)?);
        if self.task.state == CacheState::Dirty {
            sync()?;
        }
        source::prepare(&self.source, self.task.content, self.task.state, self.bytes)?;
        if self.task.state != CacheState::Dirty {
            sync()?;
        }
        Ok(())
    }

    /// The peer's command line with all placeholders replaced. `sink` reads the pipe of a task that writes to one.
    fn shell_line(&self, peer: &Peer, sink: &str) -> Result<String> {
        let several = self.task.copies > 1;
        let (source, copy) = (tools::quoted(&self.source), tools::quoted(&self.copy_path()));
        let numbered = |path: &str| if several { format!("{path}/$i") } else { path.to_string() };
        // A file's name is durable once its directory is.
        let sync = if several { format!("sync {copy}/$i {copy}") } else { format!("sync {copy}") };
        let fio = format!("{FIO} --output-format=json --output={}", tools::quoted(&self.dir.join("fio")));
        let tool = tools::find(peer.tool).unwrap_or_default();
        let mut line = peer.line.clone();
        for (placeholder, value) in [
            ("{sync}", sync),
            ("{sink}", sink.to_string()),
            ("{fio}", fio),
            ("{dio}", tools::quoted(Path::new(env!("CARGO_BIN_EXE_dio-cp")))),
            ("{self}", tools::quoted(&std::env::current_exe()?)),
            ("{tool}", tools::quoted(&tool)),
            ("{bytes}", self.bytes.to_string()),
            ("{src}", if self.task.content == Content::Shared { source } else { numbered(&source) }),
            ("{dst}", numbered(&copy)),
        ] {
            line = line.replace(placeholder, &value);
        }
        for (placeholder, value) in &self.placeholders {
            line = line.replace(placeholder, value);
        }
        let copies = self.task.copies;
        Ok(if several { format!("for i in $(seq {copies}); do {line} || exit 1; done") } else { line })
    }

    /// Takes wall and processor time from bash, which prints milliseconds where GNU time prints hundredths of a second,
    /// and the memory of the largest process from GNU time. Fails with [`LeftOut`] if the command fails.
    fn time(&self, line: &str) -> Result<Timing> {
        interrupt::check()?;
        let script = "TIMEFORMAT='%3R %3U %3S'; { time command time -f %M -o peak sh -c \"$0\" 2> stderr; } 2> times";
        let mut command = Command::new("bash");
        command.args(["-c", script, line]).current_dir(&self.dir).env_remove("LC_ALL").env("LC_NUMERIC", "C");
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().context("bash")?;
        interrupt::check()?;
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        if !status.success() {
            return Err(LeftOut::error(format!("it failed: {}", read("stderr").lines().next().unwrap_or_default())));
        }
        let text = read("times") + &read("peak");
        let figures: Result<Vec<f64>, _> = text.split_whitespace().map(str::parse).collect();
        let figures = figures.with_context(|| format!("not the times of a command: {text}"))?;
        ensure!(figures.len() == 4, "not the times of a command: {text}");
        Ok(Timing { wall: figures[0], cpu: figures[1] + figures[2], peak_mib: figures[3] / 1024.0 })
    }
}

/// The run time of the job by fio's own clock, without the start of fio.
fn fio_seconds(output: &Path) -> Result<f64> {
    let report: Value = serde_json::from_str(&fs::read_to_string(output)?).context("fio's report")?;
    let milliseconds = report["jobs"][0]["job_runtime"].as_f64().context("fio's report has no job_runtime")?;
    Ok(milliseconds / 1000.0)
}
