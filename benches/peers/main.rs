//! dio-cp beside its peers, at equal durability, in turn:
//!
//! ```text
//! cargo bench                          all cases; prints, and leaves target/bench-results.json
//! cargo bench -- file-1g pipe-in …     some of them; an unknown one gets a list
//! cargo bench -- --readme [CASE…]      … and keeps them: benches/results.json, and all that is made of it
//! cargo bench -- --redraw              only what is made of it: tables, charts, the README's part
//! cargo bench -- install-peers         those that cargo has, under target/peers
//!
//! DIO_CP_BENCH_ROUNDS=9 …              rounds (default 5, large cases 3), after one that is not timed
//! DIO_CP_BENCH_SCALE=16 …              all sizes above 1 MiB by 16, to try the benchmark itself
//! ```
//!
//! ```text
//! cases, peer          what is measured, and by which commands
//! place, source        on what, and what is copied, in which state of the page cache
//! measure, account     one run: its time; what it costs others
//! neighbours           what a copy does to a random reader beside it
//! bare                 the least that a copy can cost
//! results              the figures, as JSON
//! draw ── table, chart, frontier    … and as text and SVG; tests/bench_results.rs holds the files to it
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../tests/common/mod.rs"]
mod common;

mod account;
mod bare;
mod cases;
mod chart;
mod draw;
mod frontier;
mod measure;
mod neighbours;
mod peer;
mod place;
mod results;
mod source;
mod table;

use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use cases::{NEIGHBOURS, Task};
use measure::{Bench, Cost, Run};
use peer::Peer;
use place::{Place, machine};
use results::{Case, Results, Row};
use source::Content;

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Ctrl-C unwinds like a panic, so that mounts and devices are taken down.
pub fn stop_if_interrupted() {
    assert!(!INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed)), "interrupted");
}

fn main() {
    // cargo adds --bench.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    match words.first().map(String::as_str) {
        Some("bare-loop") => return bare::run(&words[1..]),
        Some("install-peers") => return peer::install(),
        Some("--redraw") => return draw::write(root),
        _ => {}
    }
    let (options, names): (Vec<&str>, Vec<&str>) = words.iter().map(|w| w.as_str()).partition(|w| w.starts_with('-'));
    let tasks = cases::all();
    let order: Vec<&str> = tasks.iter().map(|task| task.name).chain([NEIGHBOURS]).collect();
    if options.iter().any(|option| *option != "--readme") || names.iter().any(|name| !order.contains(name)) {
        println!("cargo bench -- [--readme] [CASE…], --redraw or install-peers; cases: {}", order.join(" "));
        exit(2);
    }
    for tool in ["time", "bash"] {
        if peer::find(tool).is_none() {
            println!("needs {tool}(1)");
            exit(1);
        }
    }
    let flag: Arc<AtomicBool> = INTERRUPTED.get_or_init(Arc::default).clone();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, flag.clone()).unwrap();
    }
    let keep = options.contains(&"--readme");
    let path = if keep { draw::results_path(root) } else { target().join("bench-results.json") };
    let date = common::tool("date", ["-u", "+%F"]).trim().to_string();
    let asked = |name: &str| names.is_empty() || names.contains(&name);
    let mut failed = false;
    let skip = |name: &str, why: String| {
        println!("skipped: {name}: {why}");
        change(&path, |results| results.skip(name, why));
    };
    // Each case is kept as soon as it is there: the next one may be interrupted.
    for task in tasks.iter().filter(|task| asked(task.name)) {
        println!();
        match alone(|| run(task, &date)) {
            Some(Ok(case)) => {
                print!("{}", table::text(&case));
                change(&path, |results| results.merge(case, &order));
            }
            Some(Err(why)) => skip(task.name, why),
            None => failed = true,
        }
    }
    if asked(NEIGHBOURS) {
        println!();
        match alone(|| neighbours::measure(scale(), rounds(3), &date)) {
            Some(Ok(found)) => {
                print!("{}", table::frontier_text(&found));
                change(&path, |results| results.show(NEIGHBOURS, found));
            }
            Some(Err(why)) => skip(NEIGHBOURS, why),
            None => failed = true,
        }
    }
    println!();
    println!("kept: {}", path.display());
    if keep {
        draw::write(root);
    }
    if failed {
        println!("failed: see above");
        exit(1);
    }
}

/// Changes the figures that are kept.
fn change(path: &Path, how: impl FnOnce(&mut Results)) {
    let mut results = Results::read(path);
    results.tools = peer::versions();
    how(&mut results);
    results.write(path);
}

/// A case that panics, and has said why, does not take the others with it; an interruption does.
fn alone<T>(case: impl FnOnce() -> T) -> Option<T> {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(case)).ok();
    stop_if_interrupted();
    result
}

/// Err: why this case cannot be measured here.
fn run(task: &Task, date: &str) -> Result<Case, String> {
    let bytes = if task.bytes > 1 << 20 { (task.bytes / scale()).max(1 << 20) } else { task.bytes };
    // The source and one copy; of a sparse one, its data.
    let data = if task.content == Content::Sparse { bytes / 64 } else { bytes };
    let place = Place::new(task.on, 2 * data * task.copies)?;
    if task.content == Content::Served && !cfg!(feature = "url") {
        return Err("needs the cargo feature url".into());
    }
    let nginx = match task.content {
        Content::Served => Some(common::web::Nginx::new().ok_or("needs nginx and openssl")?),
        _ => None,
    };
    let src = nginx.as_ref().map_or_else(|| place.dir.join("src"), |nginx| nginx.file("f"));
    source::make(&src, task.content, bytes, task.copies);
    let words = nginx.as_ref().map(|nginx| {
        vec![
            ("{url}", nginx.url("/f")),
            ("{paced}", nginx.url("/paced/f")),
            ("{tls}", nginx.tls_url("/f")),
            ("{cacert}", nginx.certificate()),
        ]
    });
    let digest = task.peers.iter().any(|peer| peer.line.contains("{sink}"));
    let digest = digest.then(|| common::tool("sha256sum", [&src]).split_whitespace().next().unwrap_or("").to_string());
    let bench = Bench { task, dir: place.dir.clone(), src, bytes, words: words.unwrap_or_default(), digest };

    let (there, missing): (Vec<&Peer>, Vec<&Peer>) =
        task.peers.iter().partition(|peer| peer::find(peer.tool).is_some());
    let mut said: Vec<String> = task.said.iter().map(|said| (*said).to_string()).collect();
    said.extend(missing.iter().map(|peer| format!("left out: {}: {} is not installed", peer.name, peer.tool)));
    let mut runs: Vec<(&Peer, Cost, Vec<Run>)> = Vec::new();
    for peer in there {
        match bench.rehearse(peer) {
            Ok(cost) => runs.push((peer, cost, Vec::new())),
            Err(why) if peer.name.starts_with("dio-cp") => panic!("{}: {why}", peer.name),
            Err(why) => said.push(format!("left out: {}: {why}", peer.name)),
        }
    }
    for round in 0..rounds(task.rounds) {
        let mut turn: Vec<_> = runs.iter_mut().collect();
        if round % 2 == 1 {
            turn.reverse(); // or the same one would always follow what tires the disk most
        }
        for (peer, _, runs) in turn {
            runs.push(bench.run(peer));
        }
    }
    for why in runs.iter().flat_map(|(_, cost, _)| &cost.said) {
        if !said.contains(why) {
            said.push(why.clone());
        }
    }
    let title = task.title.replace("{size}", &table::size(bytes));
    Ok(Case {
        name: task.name.into(),
        title: if task.copies > 1 { format!("{} × {title}", task.copies) } else { title },
        bytes,
        copies: task.copies,
        date: date.into(),
        machine: format!("{}, {}", machine(), place.label),
        rows: runs.iter().map(|(peer, cost, runs)| row(peer, cost, runs)).collect(),
        said,
    })
}

fn row(peer: &Peer, cost: &Cost, runs: &[Run]) -> Row {
    let cached = runs.iter().filter_map(|run| run.source_cached).min_by(|a, b| a.1.total_cmp(&b.1));
    Row {
        peer: peer.name.clone(),
        command: peer.shown(),
        limit: peer.is_limit(),
        wall: runs.iter().map(|run| run.wall).collect(),
        cpu: runs.iter().map(|run| run.cpu).collect(),
        peak_mib: runs.iter().map(|run| run.peak_mib).collect(),
        charged_mib: cost.charged_mib,
        pages: cost.pages,
        source_cached: cached,
    }
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_path_buf()
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().ok().filter(|n| *n > 0).unwrap_or_else(|| panic!("{name}={value} is no number above 0")))
}

fn rounds(otherwise: usize) -> usize {
    number("DIO_CP_BENCH_ROUNDS").map_or(otherwise, |n| n as usize)
}

fn scale() -> u64 {
    number("DIO_CP_BENCH_SCALE").unwrap_or(1)
}
