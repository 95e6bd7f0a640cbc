//! The command: parse, run, print the error once, exit status.

mod signals;

use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use dio_cp::cli::{Cli, Progress};
use dio_cp::output::{
    ProgressDisplay, ProgressMode, ResidencyOptions, Verbosity, cache_lines, digest_line, json, last_line,
    require_clean, survey,
};
use dio_cp::{Cleanup, Error, Job, Report, Result, options, sys};
use signal_hook::consts::{SIGPIPE, SIGXFSZ};
use signal_hook::low_level::emulate_default_handler;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    if let Err(error) = options::refuse_dd_words(&words) {
        return fail(&ProgressDisplay::new(ProgressMode::Nothing, Verbosity::Errors, false), &error);
    }
    let cli = Cli::parse();
    let display = Arc::new(display(&cli));
    if cli.residency {
        return match look(&cli) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&display, &error),
        };
    }
    let cleanup = Arc::new(Cleanup::default());
    let result = run(&cli, &display, &cleanup);
    if !cleanup.claim() {
        // A signal came first: it has the last word, and ends the program.
        loop {
            std::thread::park();
        }
    }
    match result.and_then(|(job, report)| tell(&cli, &display, &job, &report)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&display, &error),
    }
}

/// --residency.
fn look(cli: &Cli) -> Result<()> {
    let named = std::iter::once(&cli.source).chain(&cli.destination).chain(&cli.more);
    let paths: Vec<PathBuf> = named.map(PathBuf::from).collect();
    let progress = std::io::stderr().is_terminal() && !cli.quiet && !cli.verbose && cli.progress != Progress::None;
    let (verbose, json, cgroups, quiet) = (cli.verbose, cli.json, cli.cgroups, cli.quiet);
    survey(&paths, &ResidencyOptions { verbose, json, cgroups, quiet, progress })
}

fn run(cli: &Cli, display: &Arc<ProgressDisplay>, cleanup: &Arc<Cleanup>) -> Result<(Job, Report)> {
    let job = options::job(cli, sys::umask())?;
    if sys::was_closed(1) && (cli.json || job.checksum.is_some()) {
        return Err(Error::failed("writing the report to", Path::new("standard output"), "it is closed"));
    }
    // A file size limit is then an error with a name, and not the end of the program.
    sys::ignore_signal(SIGXFSZ);
    signals::watch(display.clone(), cleanup.clone())
        .map_err(|e| Error::io("waiting for signals in", Path::new("dio-cp"), e))?;
    let report = dio_cp::copy(&job, &**display, cleanup)?;
    Ok((job, report))
}

/// What came of it: for scripts the digest, or everything as JSON, on standard output (standard error
/// if that is where the bytes went); for people the notes and the last line.
fn tell(cli: &Cli, display: &ProgressDisplay, job: &Job, report: &Report) -> Result<()> {
    display.done();
    let line = match cli.json {
        true => Some(json(report, job).into_bytes()),
        false => digest_line(report),
    };
    if let Some(line) = line {
        let line = [&line[..], b"\n"].concat();
        // Where standard output is where the bytes went, whatever it was called.
        let (written, where_to) = match is_standard_output(&report.destination.path) {
            true => (std::io::stderr().write_all(&line), "standard error"),
            false => (std::io::stdout().write_all(&line), "standard output"),
        };
        written.map_err(|e| match e.kind() {
            ErrorKind::BrokenPipe => Error::broken_pipe(Path::new(where_to)),
            _ => Error::io("writing the report to", Path::new(where_to), e),
        })?;
    }
    if !cli.quiet {
        for note in &report.notes {
            display.print(&format!("dio-cp: {note}"));
        }
        for line in cache_lines(report) {
            display.print(&format!("dio-cp: {line}"));
        }
        display.print(&last_line(report.bytes - report.resumed, report.times.total));
    }
    require_clean(report, job)
}

/// True for "-", /dev/stdout and the like.
fn is_standard_output(destination: &Path) -> bool {
    let own = std::io::stdout().as_fd().try_clone_to_owned().map(File::from).and_then(|file| file.metadata());
    destination == Path::new("standard output")
        || matches!((own, destination.metadata()), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
}

fn display(cli: &Cli) -> ProgressDisplay {
    let terminal = std::io::stderr().is_terminal();
    let shown = match cli.progress {
        Progress::Auto if terminal && !cli.quiet => ProgressMode::Bar,
        Progress::Auto | Progress::None => ProgressMode::Nothing,
        Progress::Bar if terminal => ProgressMode::Bar,
        Progress::Bar => ProgressMode::Lines,
        Progress::Json => ProgressMode::Json,
    };
    let words = match (cli.quiet, cli.verbose) {
        (true, _) => Verbosity::Errors,
        (_, true) => Verbosity::Details,
        _ => Verbosity::Notices,
    };
    ProgressDisplay::new(shown, words, cli.source == "-")
}

/// Prints the error, what is left, and what to try; or ends by SIGPIPE, without a word.
fn fail(display: &ProgressDisplay, error: &Error) -> ExitCode {
    display.clear();
    let Some(status) = error.exit_status() else {
        let _ = emulate_default_handler(SIGPIPE); // does not come back
        return ExitCode::FAILURE;
    };
    display.print(&format!("dio-cp: {error}"));
    if let Some(left) = &error.destination_state {
        display.print(&format!("dio-cp: {left}"));
    }
    if let Some(hint) = &error.hint {
        display.print(&format!("dio-cp: try: {hint}"));
    }
    ExitCode::from(status)
}
