//! Progress on standard error, as a bar, lines of text, JSON, or nothing; and the question before a device is
//! overwritten.

mod counters;

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use self::counters::Counters;
use super::report::decimal;
use crate::check::checksum_list;
use crate::event::{Confirmation, Event, Observer, Phase};

/// Time between two lines of text or JSON.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two frames of the bar.
const FRAME_INTERVAL: Duration = Duration::from_millis(100);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressMode {
    /// A bar, or a spinner if the length is unknown.
    Bar,
    /// A line of text every second, where there is no terminal to draw a bar on.
    Lines,
    /// A JSON object every second and at every change of phase.
    Json,
    /// Nothing.
    Nothing,
}

/// Which messages are printed besides the progress. Each level includes the levels before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Verbosity {
    /// Errors only.
    Errors,
    /// What the user should know at once.
    Notices,
    /// What was chosen, and why.
    Details,
}

/// Shows the events of a copy.
pub struct ProgressDisplay {
    mode: ProgressMode,
    verbosity: Verbosity,
    /// Standard input is the source of the copy, so answers are read from the terminal.
    stdin_is_data: bool,
    counters: Arc<Counters>,
    bar: Option<ProgressBar>,
    ticker: Mutex<Option<Ticker>>,
    /// Why a line of the manifest could not be printed, if so.
    manifest_error: Mutex<Option<io::Error>>,
}

/// The thread that redraws the bar or prints the lines.
struct Ticker {
    thread: JoinHandle<()>,
    /// Dropping this stops the thread.
    stop: Sender<()>,
}

impl ProgressDisplay {
    /// Nothing is shown, and no time counts, before [`Event::Start`].
    pub fn new(mode: ProgressMode, verbosity: Verbosity, stdin_is_data: bool) -> Self {
        let counters = Arc::new(Counters::new());
        let bar = (mode == ProgressMode::Bar).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(style("{spinner} {bytes} copied  {rate}  in {elapsed}  {msg}"));
            bar
        });
        Self {
            mode,
            verbosity,
            stdin_is_data,
            counters,
            bar,
            ticker: Mutex::new(None),
            manifest_error: Mutex::default(),
        }
    }

    /// The progress line that SIGUSR1 prints.
    pub fn line(&self) -> String {
        self.counters.line()
    }

    /// Prints a line on standard error without damaging the bar.
    pub fn print(&self, line: &str) {
        match &self.bar {
            Some(bar) if !self.counters.cleared.load(Ordering::Acquire) => bar.suspend(|| print_to_stderr(line)),
            _ => print_to_stderr(line),
        }
    }

    /// Removes the bar before the last lines are printed, and stops the ticker.
    pub fn clear(&self) {
        self.counters.cleared.store(true, Ordering::Release);
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if let Some(Ticker { thread, stop }) = lock(&self.ticker).take() {
            drop(stop);
            let _ = thread.join(); // it returns nothing, and a panic in it does not affect the copy
        }
    }

    /// Why a line of the manifest could not be printed, if so.
    pub fn manifest_error(&self) -> Option<io::Error> {
        lock(&self.manifest_error).take()
    }

    /// Ends the display after a successful copy. In JSON mode, the last line says that the copy is durable.
    pub fn done(&self) {
        self.clear();
        if self.mode == ProgressMode::Json {
            print_to_stderr(&self.counters.json("done"));
        }
    }

    fn start(&self, total: Option<u64>) {
        *lock(&self.counters.total) = total;
        self.counters.bytes.store(0, Ordering::Relaxed); // the copy may be starting over
        let is_first = self.counters.start();
        if let Some(bar) = &self.bar {
            bar.set_position(0);
            if is_first {
                bar.reset_elapsed();
            }
        }
        if let (Some(bar), Some(total)) = (&self.bar, total) {
            bar.set_length(total);
            // Narrower than most terminals, because a line that wraps cannot be redrawn.
            bar.set_style(style("{bar:20} {percent:>3} % {bytes} of {total_bytes} {rate} {eta} left {msg}"));
        }
        let mut ticker = lock(&self.ticker);
        if self.mode != ProgressMode::Nothing && ticker.is_none() {
            // If no thread can be started, less progress is shown. The copy does not need the thread.
            *ticker = self.start_ticker().ok();
        }
    }

    fn start_ticker(&self) -> io::Result<Ticker> {
        let (stop, stopped) = mpsc::channel::<()>();
        let (counters, bar, json) = (self.counters.clone(), self.bar.clone(), self.mode == ProgressMode::Json);
        let interval = if bar.is_some() { FRAME_INTERVAL } else { LINE_INTERVAL };
        let tick = move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                match &bar {
                    Some(bar) => bar.tick(),
                    None if json => print_to_stderr(&counters.json(counters.phase().name())),
                    None => print_to_stderr(&counters.line()),
                }
            }
        };
        Ok(Ticker { thread: std::thread::Builder::new().spawn(tick)?, stop })
    }

    fn phase(&self, phase: Phase) {
        *lock(&self.counters.phase) = phase;
        if let Some(bar) = &self.bar {
            bar.set_message(if phase == Phase::Copying { "" } else { phase.name() });
            bar.force_draw();
        }
        if self.mode == ProgressMode::Json {
            print_to_stderr(&self.counters.json(phase.name()));
        }
    }

    /// Prints a message if the verbosity is at least `level`.
    fn print_message(&self, level: Verbosity, message: &str) {
        if self.verbosity >= level {
            self.print(&format!("dio-cp: {message}"));
        }
    }

    /// Where the answer to a question can be read, if anywhere.
    fn answers(&self) -> Option<Box<dyn BufRead>> {
        if self.stdin_is_data {
            let terminal = File::open("/dev/tty").ok()?;
            Some(Box::new(BufReader::new(terminal)))
        } else if io::stdin().is_terminal() {
            Some(Box::new(io::stdin().lock()))
        } else {
            None
        }
    }
}

impl Observer for ProgressDisplay {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Start(total) => {
                self.start(total);
                self.phase(Phase::Copying);
            }
            Event::Copied(bytes) => {
                self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
                if let Some(bar) = &self.bar {
                    bar.inc(bytes);
                }
            }
            Event::FileFound => {
                self.counters.files_found.fetch_add(1, Ordering::Relaxed);
            }
            Event::FileDone => {
                self.counters.files_done.fetch_add(1, Ordering::Relaxed);
                if let Some(bar) = &self.bar {
                    let (found, done) = self.counters.files();
                    bar.set_message(format!("{done} of {found} files"));
                }
            }
            Event::Digest(name, digest) => {
                if let Err(e) = print_digest(name, digest) {
                    lock(&self.manifest_error).get_or_insert(e); // the copy goes on, and fails at the end
                }
            }
            Event::Failure(text) => self.print(&format!("dio-cp: {text}")),
            Event::Phase(phase) => self.phase(phase),
            Event::Detail(message) => self.print_message(Verbosity::Details, message),
            Event::Notice(message) => self.print_message(Verbosity::Notices, message),
        }
    }

    fn confirm(&self, question: &str) -> Confirmation {
        if !io::stderr().is_terminal() {
            return Confirmation::Nobody;
        }
        let Some(mut input) = self.answers() else { return Confirmation::Nobody };
        // If standard error is closed, nobody sees the question, and the answer will be no.
        let _ = write!(io::stderr(), "dio-cp: {question} [y/N] ");
        let _ = io::stderr().flush();
        let mut answer = String::new();
        match input.read_line(&mut answer) {
            Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes" | "Yes") => Confirmation::Yes,
            _ => Confirmation::No,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints the line of a manifest on standard output.
fn print_digest(name: &Path, digest: &[u8]) -> io::Result<()> {
    let line = [&checksum_list::line(digest, name.as_os_str())[..], b"\n"].concat();
    io::stdout().write_all(&line)
}

/// Prints a line on standard error. If that is closed, the line is lost: there is nowhere to report it.
fn print_to_stderr(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn style(template: &str) -> ProgressStyle {
    let base = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    base.with_key("rate", |state: &ProgressState, output: &mut dyn std::fmt::Write| {
        let _ = write!(output, "{}/s", decimal(state.per_sec() as u64));
    })
    .progress_chars("━╸─")
}
