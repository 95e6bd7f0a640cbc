//! Signals: clean up, say what is left, and end by the signal that came, whatever the workers are
//! doing. A read from a pipe that nobody writes to cannot be waited for; nor can a standard error
//! that nobody reads.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use dio_cp::output::ProgressDisplay;
use dio_cp::{Cleanup, sys};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, signal_name};

/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Watches from now on. SIGUSR1 only shows how far the copy is. Signals that whoever started us
/// ignores, as nohup(1) does, stay ignored.
pub fn watch(display: Arc<ProgressDisplay>, cleanup: Arc<Cleanup>) -> std::io::Result<()> {
    let wanted = [SIGINT, SIGTERM, SIGHUP, SIGUSR1].into_iter().filter(|signal| !sys::signal_ignored(*signal));
    let mut signals = Signals::new(wanted)?;
    let watch = move || {
        for signal in signals.forever() {
            if signal == SIGUSR1 {
                let display = display.clone();
                aside(Duration::ZERO, move || display.print(&display.line()));
                continue;
            }
            if cleanup.claim() {
                let (display, left) = (display.clone(), cleanup.abandon());
                aside(LAST_WORDS, move || last_words(&display, signal, left));
            } else {
                // The copy has ended by itself, and is saying so.
                std::thread::sleep(LAST_WORDS);
            }
            let _ = emulate_default_handler(signal);
            std::process::exit(128 + signal);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch)?;
    Ok(())
}

fn last_words(display: &ProgressDisplay, signal: i32, left: Option<String>) {
    display.clear();
    let name = signal_name(signal).unwrap_or("a signal");
    display.print(&format!("dio-cp: ended by {name} after {}", display.line()));
    if let Some(left) = left {
        display.print(&format!("dio-cp: {left}"));
    }
}

/// Does `work` in a thread of its own, and waits for it for `limit` at most.
fn aside(limit: Duration, work: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel::<()>();
    let work = move || {
        work();
        drop(done);
    };
    if std::thread::Builder::new().spawn(work).is_ok() {
        let _ = wait.recv_timeout(limit); // done, or too late
    }
}
