//! Progress on standard error: a bar, lines, JSON, or nothing; and the question before a device.

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::report::{decimal, last_line};
use crate::error::size;
use crate::event::{Confirmation, Event, Observer, Phase};

/// Between two lines of JSON or text.
const LINE: Duration = Duration::from_secs(1);
/// Between two frames of the bar.
const FRAME: Duration = Duration::from_millis(100);

/// What to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressMode {
    /// A bar, or a spinner if the length is unknown.
    Bar,
    /// A line of text a second, where there is no terminal to draw on.
    Lines,
    /// A JSON object a second and at every change of phase.
    Json,
    /// Nothing.
    Nothing,
}

/// How much is said beside the progress, each with what is before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Verbosity {
    /// Errors only.
    Errors,
    /// What the user should know at once.
    Notices,
    /// What was chosen, and why.
    Details,
}

/// Shows a copy's events.
pub struct ProgressDisplay {
    shown: ProgressMode,
    words: Verbosity,
    /// Standard input is the data, so that answers come from the terminal itself.
    stdin_is_data: bool,
    state: Arc<State>,
    bar: Option<ProgressBar>,
    ticker: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

struct State {
    started: Instant,
    bytes: AtomicU64,
    total: Mutex<Option<u64>>,
    phase: Mutex<Phase>,
    /// Somebody printed to the terminal, and the bar is gone for good.
    over: AtomicBool,
}

impl ProgressDisplay {
    /// Starts to show; the clock starts too.
    pub fn new(shown: ProgressMode, words: Verbosity, stdin_is_data: bool) -> Self {
        let state = Arc::new(State {
            started: Instant::now(),
            bytes: AtomicU64::new(0),
            total: Mutex::new(None),
            phase: Mutex::new(Phase::Copying),
            over: AtomicBool::new(false),
        });
        let bar = (shown == ProgressMode::Bar).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(style("{spinner} {bytes} copied  {rate}  in {elapsed}  {msg}"));
            bar
        });
        Self { shown, words, stdin_is_data, state, bar, ticker: Mutex::new(None) }
    }

    /// The line that SIGUSR1 asks for.
    pub fn line(&self) -> String {
        self.state.line()
    }

    /// Prints a line on standard error, beside the bar if there is one.
    pub fn print(&self, line: &str) {
        match &self.bar {
            Some(bar) if !self.state.over.load(Ordering::Acquire) => bar.suspend(|| complain(line)),
            _ => complain(line),
        }
    }

    /// Takes the bar away, for whatever is printed last.
    pub fn clear(&self) {
        self.state.over.store(true, Ordering::Release);
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if let Some((stop, ticker)) = self.ticker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(stop);
            let _ = ticker.join(); // it prints and nothing else
        }
    }

    /// The last line of JSON: it is durable now.
    pub fn done(&self) {
        self.clear();
        if self.shown == ProgressMode::Json {
            complain(&self.state.json("done"));
        }
    }

    fn start(&self, total: Option<u64>) {
        *self.state.total.lock().unwrap_or_else(PoisonError::into_inner) = total;
        self.state.bytes.store(0, Ordering::Relaxed); // it may begin anew
        if let Some(bar) = &self.bar {
            bar.set_position(0);
        }
        if let (Some(bar), Some(total)) = (&self.bar, total) {
            // Narrower than most terminals: a line that wraps cannot be drawn over.
            bar.set_length(total);
            bar.set_style(style("{bar:20} {percent:>3} % {bytes} of {total_bytes} {rate} {eta} left {msg}"));
        }
        let ticking = self.ticker.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if self.shown != ProgressMode::Nothing && !ticking {
            let (stop, stopped) = mpsc::channel::<()>();
            let (state, bar, json) = (self.state.clone(), self.bar.clone(), self.shown == ProgressMode::Json);
            let pause = if bar.is_some() { FRAME } else { LINE };
            let tick = move || {
                while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                    match &bar {
                        Some(bar) => bar.tick(),
                        None if json => complain(&state.json(state.phase().name())),
                        None => complain(&state.line()),
                    }
                }
            };
            // Without a thread to spare it shows less, and copies all the same.
            if let Ok(ticker) = std::thread::Builder::new().spawn(tick) {
                *self.ticker.lock().unwrap_or_else(PoisonError::into_inner) = Some((stop, ticker));
            }
        }
    }

    fn phase(&self, phase: Phase) {
        *self.state.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
        if let Some(bar) = &self.bar {
            bar.set_message(if phase == Phase::Copying { "" } else { phase.name() });
            bar.force_draw();
        }
        if self.shown == ProgressMode::Json {
            complain(&self.state.json(phase.name()));
        }
    }
}

impl State {
    fn total(&self) -> Option<u64> {
        *self.total.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self) -> String {
        let line = last_line(self.bytes.load(Ordering::Relaxed), self.started.elapsed());
        let total = self.total().map(|total| format!(", of {}", size(total)));
        let phase = match self.phase() {
            Phase::Copying => String::new(),
            other => format!(", {}", other.name()),
        };
        format!("{line}{}{phase}", total.unwrap_or_default())
    }

    fn json(&self, phase: &str) -> String {
        let (bytes, seconds) = (self.bytes.load(Ordering::Relaxed), self.started.elapsed().as_secs_f64());
        let total = self.total();
        let rate = if seconds > 0.0 { (bytes as f64 / seconds) as u64 } else { 0 };
        serde_json::json!({
            "phase": phase,
            "bytes": bytes,
            "total": total,
            "seconds": (seconds * 1000.0).round() / 1000.0,
            "bytes_per_second": rate,
        })
        .to_string()
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
                self.state.bytes.fetch_add(bytes, Ordering::Relaxed);
                if let Some(bar) = &self.bar {
                    bar.inc(bytes);
                }
            }
            Event::Phase(phase) => self.phase(phase),
            Event::Detail(text) => self.say(Verbosity::Details, text),
            Event::Notice(text) => self.say(Verbosity::Notices, text),
        }
    }

    fn confirm(&self, question: &str) -> Confirmation {
        if !io::stderr().is_terminal() {
            return Confirmation::Nobody;
        }
        let mut answer = String::new();
        let read = |from: &mut dyn BufRead, answer: &mut String| {
            self.print_question(question);
            from.read_line(answer)
        };
        let result = if self.stdin_is_data {
            match std::fs::File::open("/dev/tty") {
                Ok(terminal) => read(&mut BufReader::new(terminal), &mut answer),
                Err(_) => return Confirmation::Nobody,
            }
        } else if io::stdin().is_terminal() {
            read(&mut io::stdin().lock(), &mut answer)
        } else {
            return Confirmation::Nobody;
        };
        match result {
            Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes" | "Yes") => Confirmation::Yes,
            _ => Confirmation::No,
        }
    }
}

impl ProgressDisplay {
    fn say(&self, words: Verbosity, text: &str) {
        if self.words >= words {
            self.print(&format!("dio-cp: {text}"));
        }
    }

    fn print_question(&self, question: &str) {
        // Nobody to tell if standard error is gone; the answer will then be no.
        let _ = write!(io::stderr(), "dio-cp: {question} [y/N] ");
        let _ = io::stderr().flush();
    }
}

/// A line on standard error. If that is closed there is nobody to tell it to.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn style(template: &str) -> ProgressStyle {
    let base = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    base.with_key("rate", |state: &indicatif::ProgressState, w: &mut dyn std::fmt::Write| {
        let _ = write!(w, "{}/s", decimal(state.per_sec() as u64));
    })
    .progress_chars("━╸─")
}
