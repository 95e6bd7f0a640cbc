//! Compares dio-cp with other tools. All copies are equally durable, and the commands take turns.
//!
//! ```text
//! cargo bench                          measures all cases; prints them, and writes target/bench-results.json
//! cargo bench -- file-1g pipe-in …     measures these cases; an unknown name prints the list of all
//! cargo bench -- --readme [CASE…]      writes benches/results.json instead, and the files generated from it
//! cargo bench -- --redraw              only generates the files: tables, charts, and the table in the README
//! cargo bench -- install-peers         installs the tools that cargo provides, under target/peers
//!
//! DIO_CP_BENCH_ROUNDS=9 …              number of timed rounds (default 5, for large cases 3)
//! DIO_CP_BENCH_SCALE=16 …              divides all sizes above 1 MiB, to test the benchmark itself
//! ```
//!
//! ```text
//! cases, *_cases, peer     what is measured, and with which commands
//! place, source, tree      on which storage, and which files are copied with which pages cached
//! rounds                   measures a case: its commands in turn
//! measure, side_effects    one run: its time, and what it costs other programs
//! neighbours               the latency of a random reader during a copy
//! bare                     a minimal copy loop, for comparison
//! tools                    where the other tools are
//! results, statistics      the figures, as JSON, and their medians
//! draw, table, chart, frontier    the generated files; tests/bench_results.rs checks that they are up to date
//! ```

#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[path = "../../tests/common/mod.rs"]
mod common;

mod bare;
mod cases;
mod chart;
mod draw;
mod frontier;
mod interrupt;
mod left_out;
mod measure;
mod neighbours;
mod peer;
mod place;
mod results;
mod rounds;
mod side_effects;
mod source;
mod static_cases;
mod statistics;
mod table;
mod tools;
mod tree;
mod tree_cases;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::exit;

use anyhow::{Context, Result, anyhow, bail, ensure};

use cases::NEIGHBOURS;
use left_out::LeftOut;
use results::Results;

fn main() -> Result<()> {
    // cargo adds --bench.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    match args.first().map(String::as_str) {
        Some("bare-loop") => return bare::run(&args[1..]),
        Some("install-peers") => {
            tools::install();
            return Ok(());
        }
        Some("--redraw") => return draw::write(root),
        _ => {}
    }
    let (options, names): (Vec<&str>, Vec<&str>) = args.iter().map(String::as_str).partition(|a| a.starts_with('-'));
    let tasks: Vec<_> = cases::all().into_iter().chain(tree_cases::all()).chain(static_cases::all()).collect();
    let order: Vec<&str> = tasks.iter().map(|task| task.name).chain([NEIGHBOURS]).collect();
    if options.iter().any(|option| *option != "--readme") || names.iter().any(|name| !order.contains(name)) {
        println!("usage: cargo bench -- [--readme] [CASE…], --redraw or install-peers; cases: {}", order.join(" "));
        exit(2);
    }
    for tool in ["time", "bash"] {
        ensure!(tools::find(tool).is_some(), "needs the tool {tool}");
    }
    interrupt::handle_signals()?;

    let update_readme = options.contains(&"--readme");
    let path = if update_readme { draw::results_path(root) } else { target_dir()?.join("bench-results.json") };
    let date = tools::run("date", ["-u", "+%F"])?.trim().to_string();
    let (scale, rounds) = (variable("DIO_CP_BENCH_SCALE")?.unwrap_or(1), variable("DIO_CP_BENCH_ROUNDS")?);
    let rounds_or = |default: usize| rounds.map_or(default, |rounds| rounds as usize);
    let is_requested = |name: &str| names.is_empty() || names.contains(&name);
    let mut session = Session { path, failed: Vec::new() };
    for task in tasks.iter().filter(|task| is_requested(task.name)) {
        let measure = || rounds::measure(task, scale, rounds_or(task.rounds), &date);
        session.run(task.name, measure, |case, results| {
            print!("{}", table::text(&case));
            results.set_case(case, &order);
        })?;
    }
    if is_requested(NEIGHBOURS) {
        let measure = || neighbours::measure(scale, rounds_or(3), &date);
        session.run(NEIGHBOURS, measure, |frontier, results| {
            print!("{}", table::frontier_text(&frontier));
            results.set_frontier(NEIGHBOURS, frontier);
        })?;
    }
    println!("\nwritten: {}", session.path.display());
    if update_readme {
        draw::write(root)?;
    }
    ensure!(session.failed.is_empty(), "failed: {}", session.failed.join(", "));
    Ok(())
}

/// The results so far.
struct Session {
    /// Written after each case, so that an interruption loses no others.
    path: PathBuf,
    /// The names of the cases that failed.
    failed: Vec<String>,
}

impl Session {
    /// Measures a case and stores its figures. A failure does not prevent the next cases; an interruption does.
    fn run<T>(
        &mut self,
        name: &str,
        measure: impl FnOnce() -> Result<T>,
        store: impl FnOnce(T, &mut Results),
    ) -> Result<()> {
        println!();
        // The helpers that are shared with the tests panic if something fails.
        let figures = catch_unwind(AssertUnwindSafe(measure)).unwrap_or_else(|_| Err(anyhow!("it panicked")));
        interrupt::check()?;
        match figures {
            Ok(figures) => self.update(|results| store(figures, results)),
            Err(reason) if reason.is::<LeftOut>() => {
                println!("skipped: {name}: {reason:#}");
                self.update(|results| results.skip(name, format!("{reason:#}")))
            }
            Err(error) => {
                println!("failed: {name}: {error:#}");
                self.failed.push(name.to_string());
                Ok(())
            }
        }
    }

    fn update(&self, change: impl FnOnce(&mut Results)) -> Result<()> {
        let mut results = Results::read(&self.path)?;
        results.tools = tools::versions();
        change(&mut results);
        results.write(&self.path)
    }
}

fn target_dir() -> Result<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().context("no target directory")?;
    Ok(target.to_path_buf())
}

/// A positive number from the environment.
fn variable(name: &str) -> Result<Option<u64>> {
    let Ok(value) = std::env::var(name) else { return Ok(None) };
    match value.parse() {
        Ok(number) if number > 0 => Ok(Some(number)),
        _ => bail!("{name}={value} is not a number above 0"),
    }
}
