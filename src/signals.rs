//! Signals: cleans up, says what is left, and ends the program by the signal that came.
//!
//! This does not wait for the workers, which may be blocked: in a read from a pipe that nobody writes to, or in a write to
//! a standard error that nobody reads.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use dio_cp::output::ProgressDisplay;
use dio_cp::{Cleanup, Event, Observer, sys};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGUSR1};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, signal_name};

/// Time allowed for the last messages.
const MESSAGE_TIMEOUT: Duration = Duration::from_millis(300);

/// Starts a thread that watches for signals. SIGUSR1 prints a progress line. Signals that are ignored already, as by
/// nohup(1), stay ignored. The command whose output is copied gets the same signals, because a terminal does not send them
/// to its process group. Where no thread can be started, a signal ends the program at once, and the user is told so.
pub fn watch(display: Arc<ProgressDisplay>, cleanup: Arc<Cleanup>, runs_command: bool) -> io::Result<()> {
    let stop = if runs_command { Some(SIGTSTP) } else { None };
    let signals = [SIGINT, SIGTERM, SIGHUP, SIGUSR1].into_iter().chain(stop);
    let watched = signals.filter(|signal| !sys::signal_ignored(*signal));
    let (hand_over, handed_over) = mpsc::channel::<Signals>();
    let notices = display.clone();
    let watch = move || {
        let Ok(mut signals) = handed_over.recv() else { return };
        for signal in signals.forever() {
            if signal == SIGUSR1 {
                let display = display.clone();
                run_with_timeout(Duration::ZERO, move || display.print(&display.line()));
                continue;
            }
            if signal == SIGTSTP {
                cleanup.signal_command(SIGTSTP);
                sys::stop_by_default(SIGTSTP); // returns when the program is continued
                cleanup.signal_command(SIGCONT);
                continue;
            }
            if cleanup.claim_exit() {
                let (display, state) = (display.clone(), cleanup.abandon());
                cleanup.end_command(signal);
                run_with_timeout(MESSAGE_TIMEOUT, move || print_end(&display, signal, state));
            } else {
                // The copy has ended by itself and is printing its own report.
                std::thread::sleep(MESSAGE_TIMEOUT);
            }
            let _ = emulate_default_handler(signal);
            std::process::exit(128 + signal);
        }
    };
    // The thread comes first: once the handlers are installed, a signal no longer ends the program by itself.
    if let Err(e) = std::thread::Builder::new().name("signals".into()).spawn(watch) {
        let why = format!("a signal will end this copy without cleaning up: no thread can be started ({e})");
        notices.event(Event::Notice(&why));
        return Ok(());
    }
    hand_over.send(Signals::new(watched)?).map_err(io::Error::other)
}

fn print_end(display: &ProgressDisplay, signal: i32, destination_state: Option<String>) {
    display.clear();
    let name = signal_name(signal).unwrap_or("a signal");
    display.print(&format!("dio-cp: ended by {name} after {}", display.line()));
    if let Some(state) = destination_state {
        display.print(&format!("dio-cp: {state}"));
    }
}

/// Does `work` in another thread, and waits for it no longer than `timeout`.
fn run_with_timeout(timeout: Duration, work: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel::<()>();
    let work = move || {
        work();
        drop(done);
    };
    if std::thread::Builder::new().spawn(work).is_ok() {
        let _ = wait.recv_timeout(timeout); // whether it is done or timed out does not matter
    }
}
