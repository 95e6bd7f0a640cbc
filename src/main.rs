//! The command: parses the arguments, runs the copy, and reports how it ended.

mod signals;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use dio_cp::cli::{self, Cli, Progress};
use dio_cp::options::{self, Plan};
use dio_cp::output::{
    ProgressDisplay, ProgressMode, ResidencyOptions, Verbosity, cache_lines, digest_line, json, last_line,
    print_residency, require_clean, tree_json, tree_last_line,
};
use dio_cp::{Cleanup, Error, Job, Report, TreeJob, TreeReport, sys};
use signal_hook::consts::{SIGPIPE, SIGXFSZ};
use signal_hook::low_level::emulate_default_handler;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    if let Err(error) = cli::refuse_dd_operands(&arguments) {
        return fail(&ProgressDisplay::new(ProgressMode::Nothing, Verbosity::Errors, false), &error.into());
    }
    let cli = Cli::parse();
    let display = Arc::new(display(&cli));
    let result = if cli.residency { report_residency(&cli) } else { copy(&cli, &display) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&display, &error),
    }
}

fn copy(cli: &Cli, display: &Arc<ProgressDisplay>) -> anyhow::Result<()> {
    let cleanup = Arc::new(Cleanup::default());
    let plan = options::plan(cli, sys::umask())?;
    let result = prepare(cli, &plan, display, &cleanup).and_then(|()| match &plan {
        Plan::File(job) => Ok(Done::File(Box::new(dio_cp::copy(job, &**display, &cleanup)?))),
        Plan::Tree(job) => Ok(Done::Tree(Box::new(dio_cp::copy_tree(job, &**display, &cleanup)?))),
    });
    if !cleanup.claim_exit() {
        // A signal came first. The thread that watches for signals cleans up and ends the program.
        loop {
            std::thread::park();
        }
    }
    match (result?, &plan) {
        (Done::File(report), Plan::File(job)) => print_report(cli, display, job, &report),
        (Done::Tree(report), Plan::Tree(job)) => print_tree_report(cli, display, job, &report),
        _ => Ok(()),
    }
}

/// The report of what was done.
enum Done {
    File(Box<Report>),
    Tree(Box<TreeReport>),
}

fn prepare(cli: &Cli, plan: &Plan, display: &Arc<ProgressDisplay>, cleanup: &Arc<Cleanup>) -> anyhow::Result<()> {
    let prints_digests = match plan {
        Plan::File(job) => job.checksum.is_some(),
        Plan::Tree(job) => job.file.checksum.is_some(),
    };
    if sys::was_closed(1) && (cli.json || prints_digests) {
        anyhow::bail!("writing the report to standard output: it is closed");
    }
    // Exceeding the file size limit is then an error that can be reported, and does not kill the program.
    sys::ignore_signal(SIGXFSZ);
    signals::watch(display.clone(), cleanup.clone(), cli.from_command).context("starting to watch for signals")
}

/// Prints the JSON report for scripts, and notes and the last line for people. Fails if a file was not copied.
fn print_tree_report(cli: &Cli, display: &ProgressDisplay, job: &TreeJob, report: &TreeReport) -> anyhow::Result<()> {
    display.done();
    if cli.json {
        writeln!(io::stdout(), "{}", tree_json(report, job))
            .map_err(|e| report_lost("standard output", e, "the copy has finished"))?;
    }
    if !cli.quiet {
        report.notes.iter().for_each(|note| display.print(&format!("dio-cp: {note}")));
        display.print(&tree_last_line(report.files, report.bytes, report.bytes - report.cloned, report.elapsed));
    }
    report.require_complete()?;
    display.manifest_error().map_or(Ok(()), Err).context("writing the digests to standard output")?;
    Ok(report.pages_left.map_or(Ok(()), |pages| pages.require_none(&job.destination))?)
}

/// Prints the digest or the JSON report for scripts, and notes and the last line for people.
fn print_report(cli: &Cli, display: &ProgressDisplay, job: &Job, report: &Report) -> anyhow::Result<()> {
    display.done();
    let line = if cli.json { Some(json(report, job).into_bytes()) } else { digest_line(report) };
    if let Some(line) = line {
        let line = [&line[..], b"\n"].concat();
        // The bytes of the copy may go to standard output. Reports then go to standard error.
        if is_standard_output(&report.destination.path) {
            io::stderr().write_all(&line).map_err(|e| report_lost("standard error", e, "the copy is complete"))?;
        } else {
            io::stdout().write_all(&line).map_err(|e| report_lost("standard output", e, "the copy is complete"))?;
        }
    }
    if !cli.quiet {
        for line in report.notes.iter().chain(&cache_lines(report)) {
            display.print(&format!("dio-cp: {line}"));
        }
        let bytes = report.bytes - report.resumed;
        display.print(&last_line(bytes, bytes - report.cloned, report.times.total));
    }
    Ok(require_clean(report, job)?)
}

/// The error for a report that could not be printed. `state` is what became of the copy.
fn report_lost(stream: &str, error: io::Error, state: &str) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return error.into();
    }
    let mut lost = Error::io("writing the report to", Path::new(stream), error);
    lost.hint = None; // it would be about the copy
    lost.destination_state = Some(state.into());
    lost.into()
}

/// True for "-", /dev/stdout and any other name of the same file.
fn is_standard_output(destination: &Path) -> bool {
    let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from).and_then(|file| file.metadata());
    destination == Path::new("standard output")
        || matches!((stdout, destination.metadata()), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
}

fn report_residency(cli: &Cli) -> anyhow::Result<()> {
    let paths: Vec<PathBuf> = cli.operands().into_iter().map(PathBuf::from).collect();
    if paths.is_empty() {
        return Err(Error::usage("PATH is missing").hint("dio-cp --residency .").into());
    }
    let progress = io::stderr().is_terminal() && !cli.quiet && !cli.verbose && cli.progress != Progress::None;
    let (verbose, json, cgroups, quiet) = (cli.verbose, cli.json, cli.cgroups, cli.quiet);
    Ok(print_residency(&paths, &ResidencyOptions { verbose, json, cgroups, quiet, progress })?)
}

fn display(cli: &Cli) -> ProgressDisplay {
    let terminal = io::stderr().is_terminal();
    let mode = match cli.progress {
        Progress::Auto if terminal && !cli.quiet => ProgressMode::Bar,
        Progress::Auto | Progress::None => ProgressMode::Nothing,
        Progress::Bar if terminal => ProgressMode::Bar,
        Progress::Bar => ProgressMode::Lines,
        Progress::Json => ProgressMode::Json,
    };
    let verbosity = match (cli.quiet, cli.verbose) {
        (true, _) => Verbosity::Errors,
        (_, true) => Verbosity::Details,
        _ => Verbosity::Notices,
    };
    ProgressDisplay::new(mode, verbosity, cli.operands().first().is_some_and(|first| *first == "-"))
}

/// Prints the error, what is left, and what to try; or terminates by SIGPIPE, silently.
fn fail(display: &ProgressDisplay, error: &anyhow::Error) -> ExitCode {
    display.clear();
    let copy_error = error.downcast_ref::<Error>();
    let io_error = error.downcast_ref::<io::Error>();
    let no_reader = io_error.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
    let Some(status) = copy_error.map_or(Some(1), Error::exit_status).filter(|_| !no_reader) else {
        let _ = emulate_default_handler(SIGPIPE); // does not return
        return ExitCode::FAILURE;
    };
    display.print(&format!("dio-cp: {error:#}"));
    if let Some(state) = copy_error.and_then(|error| error.destination_state.as_ref()) {
        display.print(&format!("dio-cp: {state}"));
    }
    if let Some(hint) = copy_error.and_then(|error| error.hint.as_ref()) {
        display.print(&format!("dio-cp: try: {hint}"));
    }
    ExitCode::from(status)
}
