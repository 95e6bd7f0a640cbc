//! The command: parse, run, print the error once, exit status.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use dio_cp::cli::{Cli, Progress};
use dio_cp::output::{Display, Shown, last_line};
use dio_cp::{Error, Standing, options, sys};
use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, signal_name};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let display = Arc::new(display(&cli));
    let standing = Arc::new(Standing::default());
    match run(&cli, &display, &standing) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            display.clear();
            let Some(status) = error.exit_status() else {
                let _ = emulate_default_handler(SIGPIPE); // does not come back
                return ExitCode::FAILURE;
            };
            tell(&display, &error);
            ExitCode::from(status)
        }
    }
}

fn run(cli: &Cli, display: &Arc<Display>, standing: &Arc<Standing>) -> dio_cp::Result<()> {
    let job = options::job(cli, sys::umask())?;
    // A file size limit is then an error with a name, and not the end of the program.
    sys::ignore_signal(SIGXFSZ);
    watch_signals(display.clone(), standing.clone())
        .map_err(|e| Error::io("waiting for signals in", std::path::Path::new("dio-cp"), e))?;
    let report = dio_cp::copy(&job, &**display, standing)?;
    display.done();
    if !cli.quiet {
        for note in &report.notes {
            display.print(&format!("dio-cp: {note}"));
        }
        display.print(&last_line(report.bytes, report.elapsed));
    }
    Ok(())
}

fn display(cli: &Cli) -> Display {
    let terminal = std::io::stderr().is_terminal();
    let shown = match cli.progress {
        Progress::Auto if terminal && !cli.quiet => Shown::Bar,
        Progress::Auto | Progress::None => Shown::Nothing,
        Progress::Bar if terminal => Shown::Bar,
        Progress::Bar => Shown::Lines,
        Progress::Json => Shown::Json,
    };
    Display::new(shown, cli.verbose, cli.source == "-")
}

fn tell(display: &Display, error: &Error) {
    display.print(&format!("dio-cp: {error}"));
    if let Some(left) = &error.left {
        display.print(&format!("dio-cp: {left}"));
    }
    if let Some(hint) = &error.hint {
        display.print(&format!("dio-cp: try: {hint}"));
    }
}

/// Ends the program by the signal that comes, after cleaning up, whatever the workers are doing: a
/// read from a pipe that nobody writes to cannot be waited for. SIGUSR1 only shows how far it is.
/// Signals that whoever started us ignores, as nohup(1) does, stay ignored.
fn watch_signals(display: Arc<Display>, standing: Arc<Standing>) -> std::io::Result<()> {
    let wanted = [SIGINT, SIGTERM, SIGHUP, SIGUSR1].into_iter().filter(|signal| !sys::signal_ignored(*signal));
    let mut signals = Signals::new(wanted)?;
    let watch = move || {
        for signal in signals.forever() {
            if signal == SIGUSR1 {
                display.print(&display.line());
                continue;
            }
            let left = standing.abandon();
            display.clear();
            let name = signal_name(signal).unwrap_or("a signal");
            display.print(&format!("dio-cp: ended by {name} after {}", display.line()));
            if let Some(left) = left {
                display.print(&format!("dio-cp: {left}"));
            }
            let _ = emulate_default_handler(signal);
            std::process::exit(128 + signal);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch)?;
    Ok(())
}
