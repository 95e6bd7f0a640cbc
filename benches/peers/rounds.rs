//! Measures a case: its commands run in turn, round after round.

use anyhow::{Result, bail};

use crate::cases::{PreviousCopy, Task};
use crate::common::web::Nginx;
use crate::interrupt;
use crate::left_out::LeftOut;
use crate::measure::{PreparedTask, Run, SideEffects};
use crate::peer::Peer;
use crate::place::{MemoryDir, Place, machine};
use crate::results::{Case, Row};
use crate::source::{self, Content};
use crate::{table, tools, tree};

/// A command and its runs so far.
struct Series<'a> {
    peer: &'a Peer,
    effects: SideEffects,
    runs: Vec<Run>,
}

/// `scale` divides the size of tasks above 1 MiB. Fails with [`LeftOut`] if this machine cannot run the task.
pub fn measure(task: &Task, scale: u64, rounds: usize, date: &str) -> Result<Case> {
    source::require(task.state)?;
    let bytes = if task.bytes > 1 << 20 { (task.bytes / scale).max(1 << 20) } else { task.bytes };
    let place = Place::new(task.storage, space(task, bytes))?;
    let nginx = if task.content == Content::Served { Some(start_nginx()?) } else { None };
    let memory = if task.content == Content::InMemory { Some(MemoryDir::new(bytes)?) } else { None };
    let dir = memory.as_ref().map_or(&place.dir, |memory| &memory.0);
    let source = nginx.as_ref().map_or_else(|| dir.join("src"), |nginx| nginx.file("f"));
    source::create(&source, task.content, bytes, task.copies)?;
    let mut notes: Vec<String> = task.notes.iter().map(ToString::to_string).collect();
    let bytes = if task.content == Content::SystemTree {
        let (description, bytes) = tree::describe(&source)?;
        notes.insert(0, description);
        bytes
    } else {
        bytes
    };
    let placeholders = nginx.as_ref().map(url_placeholders).unwrap_or_default();
    let to_pipe = task.peers.iter().any(|peer| peer.line.contains("{sink}"));
    let digest = if to_pipe { Some(sha256(&source)?) } else { None };
    let prepared = PreparedTask { task, dir: place.dir.clone(), source, bytes, placeholders, digest };
    let mut series = rehearse(&prepared, &mut notes)?;
    for round in 0..rounds {
        let mut turns: Vec<_> = series.iter_mut().collect();
        // In every second round backwards, so that a command does not always follow the same one.
        if round % 2 == 1 {
            turns.reverse();
        }
        for turn in turns {
            turn.runs.push(prepared.run(turn.peer)?);
        }
        prepared.end_round()?;
    }
    for note in series.iter().flat_map(|series| &series.effects.notes) {
        if !notes.contains(note) {
            notes.push(note.clone());
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
        rows: series.iter().map(Series::row).collect(),
        notes,
    })
}

/// The bytes that the source and its copies need at the storage.
fn space(task: &Task, bytes: u64) -> u64 {
    match task.content {
        // Only the data of a sparse file needs space.
        Content::Sparse => 2 * bytes / 64,
        // All copies are clones of the source.
        Content::Shared => 2 * bytes,
        // The source is elsewhere.
        Content::InMemory => bytes,
        // Small files need more space than their bytes, and their inodes and names need some.
        Content::SystemTree if task.previous == PreviousCopy::DeletedLater => 2 * bytes * (1 + task.peers.len() as u64),
        Content::SystemTree => 4 * bytes,
        _ => 2 * bytes * task.copies,
    }
}

/// Runs each installed command once without timing it. Commands that fail are left out, which `notes` then says.
fn rehearse<'a>(prepared: &PreparedTask<'a>, notes: &mut Vec<String>) -> Result<Vec<Series<'a>>> {
    let installed = tools::installed(&prepared.task.peers, notes);
    let mut series = Vec::new();
    for peer in installed {
        match prepared.rehearse(peer) {
            Ok(effects) => series.push(Series { peer, effects, runs: Vec::new() }),
            Err(error) if !error.is::<LeftOut>() => return Err(error.context(peer.name.clone())),
            Err(reason) if peer.name.starts_with("dio-cp") => bail!("{}: {reason}", peer.name),
            Err(reason) => notes.push(format!("left out: {}: {reason}", peer.name)),
        }
        interrupt::check()?;
    }
    prepared.end_round()?;
    Ok(series)
}

impl Series<'_> {
    fn row(&self) -> Row {
        let runs = &self.runs;
        let cached = runs.iter().filter_map(|run| run.source_cached);
        Row {
            peer: self.peer.name.clone(),
            command: self.peer.display_line(),
            limit: self.peer.is_limit(),
            wall: runs.iter().map(|run| run.wall).collect(),
            cpu: runs.iter().map(|run| run.cpu).collect(),
            peak_mib: runs.iter().map(|run| run.peak_mib).collect(),
            charged_mib: self.effects.charged_mib,
            pages: self.effects.pages,
            source_cached: cached.min_by(|a, b| a.after.total_cmp(&b.after)),
        }
    }
}

fn start_nginx() -> Result<Nginx> {
    if !cfg!(feature = "url") {
        return Err(LeftOut::error("needs the cargo feature url"));
    }
    Nginx::new().ok_or_else(|| LeftOut::error("needs nginx and openssl"))
}

fn url_placeholders(nginx: &Nginx) -> Vec<(&'static str, String)> {
    vec![
        ("{url}", nginx.url("/f")),
        ("{paced}", nginx.url("/paced/f")),
        ("{tls}", nginx.tls_url("/f")),
        ("{cacert}", nginx.certificate()),
    ]
}

fn sha256(path: &std::path::Path) -> Result<String> {
    let line = tools::run("sha256sum", [path])?;
    Ok(line.split_whitespace().next().unwrap_or_default().to_string())
}
