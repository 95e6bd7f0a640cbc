//! The measured figures, as `results.json` stores them: those of every round, so that anyone can compute medians and
//! spreads again.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::statistics::{median, range};

/// One command of a case.
pub struct Row {
    pub peer: String,
    /// With SRC and DST instead of paths.
    pub command: String,
    /// True if it does not copy, but measures the speed of the device.
    pub limit: bool,
    /// Seconds of each round, all copies of the run together.
    pub wall: Vec<f64>,
    /// Seconds of user and system time of each round.
    pub cpu: Vec<f64>,
    /// Resident memory of the largest process of each round.
    pub peak_mib: Vec<f64>,
    /// The peak of the memory charged to a cgroup, page cache included.
    pub charged_mib: Option<f64>,
    pub pages: Option<InsertedPages>,
    /// Of the round that left the fewest pages in the cache.
    pub source_cached: Option<CachedShare>,
}

/// How many pages of 4 KiB a run brought into the page cache.
#[derive(Clone, Copy)]
pub struct InsertedPages {
    pub source: u64,
    pub copy: u64,
}

/// The share of a file's pages that were in the page cache before and after a run, from 0 to 1.
#[derive(Clone, Copy)]
pub struct CachedShare {
    pub before: f64,
    pub after: f64,
}

/// Several commands for the same task.
pub struct Case {
    pub name: String,
    pub title: String,
    /// The size of one copy.
    pub bytes: u64,
    /// How many copies a run makes.
    pub copies: u64,
    pub date: String,
    /// Kernel, processors, memory, filesystem and device.
    pub machine: String,
    /// The first row is dio-cp.
    pub rows: Vec<Row>,
    /// What was left out, and other remarks.
    pub notes: Vec<String>,
}

/// One command that copies while a reader reads at random offsets.
pub struct Point {
    pub peer: String,
    pub command: String,
    /// Bytes per second of the copy in each round. 0 if there was only the reader.
    pub speed: Vec<f64>,
    /// The reader's latency in each round, in milliseconds.
    pub p50: Vec<f64>,
    pub p99: Vec<f64>,
}

/// The speed of copies against the latency of a random reader.
pub struct Frontier {
    pub title: String,
    pub date: String,
    pub machine: String,
    pub points: Vec<Point>,
    pub notes: Vec<String>,
}

#[derive(Default)]
pub struct Results {
    /// A line for each tool, with its version.
    pub tools: Vec<String>,
    pub cases: Vec<Case>,
    pub frontier: Option<Frontier>,
    /// By the case's name: why the latest attempt could not measure it.
    pub skipped: BTreeMap<String, String>,
}

impl Results {
    /// Empty if the file does not exist.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let value = serde_json::from_str(&text).map_err(anyhow::Error::from);
        value.and_then(|value| Self::from_json(&value)).with_context(|| path.display().to_string())
    }

    fn from_json(value: &Value) -> Result<Self> {
        let frontier = &value["frontier"];
        let skipped = value["skipped"].as_object().into_iter().flatten();
        Ok(Self {
            tools: list(&value["tools"], text)?,
            cases: list(&value["cases"], Case::from_json)?,
            frontier: if frontier.is_object() { Some(Frontier::from_json(frontier)?) } else { None },
            skipped: skipped.map(|(name, reason)| Ok((name.clone(), text(reason)?))).collect::<Result<_>>()?,
        })
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let cases: Vec<Value> = self.cases.iter().map(Case::to_json).collect();
        let frontier = self.frontier.as_ref().map(Frontier::to_json);
        let value = json!({ "tools": self.tools, "cases": cases, "frontier": frontier, "skipped": self.skipped });
        std::fs::write(path, format!("{value:#}\n")).with_context(|| path.display().to_string())
    }

    /// Adds a case or replaces its earlier results. `order` has the names of all cases.
    pub fn set_case(&mut self, case: Case, order: &[&str]) {
        self.skipped.remove(&case.name);
        self.cases.retain(|other| other.name != case.name);
        self.cases.push(case);
        self.cases.sort_by_key(|case| order.iter().position(|name| *name == case.name));
    }

    /// Sets the results of the case `name`, which is the one with a random reader.
    pub fn set_frontier(&mut self, name: &str, frontier: Frontier) {
        self.skipped.remove(name);
        self.frontier = Some(frontier);
    }

    /// Notes why a case could not be measured. Its earlier results stay.
    pub fn skip(&mut self, name: &str, reason: String) {
        self.skipped.insert(name.into(), reason);
    }

    pub fn case(&self, name: &str) -> Option<&Case> {
        self.cases.iter().find(|case| case.name == name)
    }
}

impl Case {
    /// The row of dio-cp, to which the others are compared.
    pub fn own(&self) -> &Row {
        &self.rows[0]
    }

    /// Median wall time of one copy, in seconds.
    pub fn wall(&self, row: &Row) -> f64 {
        median(&row.wall) / self.copies as f64
    }

    /// Wall time of one copy in the fastest and the slowest round, in seconds.
    pub fn spread(&self, row: &Row) -> (f64, f64) {
        let (low, high) = range(&row.wall);
        (low / self.copies as f64, high / self.copies as f64)
    }

    /// Median processor time of one copy, in seconds.
    pub fn cpu(&self, row: &Row) -> f64 {
        median(&row.cpu) / self.copies as f64
    }

    /// The row's wall time divided by dio-cp's.
    pub fn ratio(&self, row: &Row) -> f64 {
        median(&row.wall) / median(&self.own().wall)
    }

    fn to_json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(Row::to_json).collect();
        json!({
            "name": self.name, "title": self.title, "bytes": self.bytes, "copies": self.copies, "date": self.date,
            "machine": self.machine, "said": self.notes, "rows": rows,
        })
    }

    fn from_json(value: &Value) -> Result<Self> {
        let rows = list(&value["rows"], Row::from_json)?;
        if rows.is_empty() {
            bail!("a case has no rows");
        }
        Ok(Self {
            name: text(&value["name"])?,
            title: text(&value["title"])?,
            bytes: integer(&value["bytes"])?,
            copies: integer(&value["copies"])?,
            date: text(&value["date"])?,
            machine: text(&value["machine"])?,
            rows,
            notes: list(&value["said"], text)?,
        })
    }
}

impl Row {
    fn to_json(&self) -> Value {
        json!({
            "peer": self.peer, "command": self.command, "limit": self.limit, "wall": rounded(&self.wall),
            "cpu": rounded(&self.cpu), "peak_mib": rounded(&self.peak_mib), "charged_mib": self.charged_mib.map(round),
            "pages": self.pages.map(|pages| (pages.source, pages.copy)),
            "source_cached": self.source_cached.map(|share| (round(share.before), round(share.after))),
        })
    }

    fn from_json(value: &Value) -> Result<Self> {
        let (pages, cached) = (&value["pages"], &value["source_cached"]);
        Ok(Self {
            peer: text(&value["peer"])?,
            command: text(&value["command"])?,
            limit: value["limit"].as_bool().context("limit is not a boolean")?,
            wall: list(&value["wall"], number)?,
            cpu: list(&value["cpu"], number)?,
            peak_mib: list(&value["peak_mib"], number)?,
            charged_mib: value["charged_mib"].as_f64(),
            pages: match pages {
                Value::Null => None,
                _ => Some(InsertedPages { source: integer(&pages[0])?, copy: integer(&pages[1])? }),
            },
            source_cached: match cached {
                Value::Null => None,
                _ => Some(CachedShare { before: number(&cached[0])?, after: number(&cached[1])? }),
            },
        })
    }
}

impl Point {
    /// A command without any round yet.
    pub fn new(peer: &str, command: &str) -> Self {
        Self { peer: peer.into(), command: command.into(), speed: Vec::new(), p50: Vec::new(), p99: Vec::new() }
    }

    fn to_json(&self) -> Value {
        json!({
            "peer": self.peer, "command": self.command, "speed": rounded(&self.speed),
            "p50": rounded(&self.p50), "p99": rounded(&self.p99),
        })
    }

    fn from_json(value: &Value) -> Result<Self> {
        Ok(Self {
            peer: text(&value["peer"])?,
            command: text(&value["command"])?,
            speed: list(&value["speed"], number)?,
            p50: list(&value["p50"], number)?,
            p99: list(&value["p99"], number)?,
        })
    }
}

impl Frontier {
    fn to_json(&self) -> Value {
        let points: Vec<Value> = self.points.iter().map(Point::to_json).collect();
        json!({
            "title": self.title, "date": self.date, "machine": self.machine, "said": self.notes, "points": points,
        })
    }

    fn from_json(value: &Value) -> Result<Self> {
        Ok(Self {
            title: text(&value["title"])?,
            date: text(&value["date"])?,
            machine: text(&value["machine"])?,
            points: list(&value["points"], Point::from_json)?,
            notes: list(&value["said"], text)?,
        })
    }
}

fn list<T>(value: &Value, item: impl Fn(&Value) -> Result<T>) -> Result<Vec<T>> {
    value.as_array().with_context(|| format!("not a list: {value}"))?.iter().map(item).collect()
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().with_context(|| format!("not a string: {value}"))?.to_string())
}

fn integer(value: &Value) -> Result<u64> {
    value.as_u64().with_context(|| format!("not an integer: {value}"))
}

fn number(value: &Value) -> Result<f64> {
    value.as_f64().with_context(|| format!("not a number: {value}"))
}

/// To four decimal places, which is finer than any of the measurements.
fn round(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

fn rounded(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| round(*value)).collect()
}
