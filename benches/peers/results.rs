//! What was measured, as `results.json` keeps it: every round's own figures, so that medians and
//! spreads can be made again by anyone.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

/// One command of a case.
pub struct Row {
    pub peer: String,
    /// With SRC and DST for the paths.
    pub command: String,
    /// Not a copy: the device's own speed.
    pub limit: bool,
    /// Seconds of each round, for all copies of the run together.
    pub wall: Vec<f64>,
    /// Seconds of user and system time of each round.
    pub cpu: Vec<f64>,
    /// The largest process of each round.
    pub peak_mib: Vec<f64>,
    /// Memory charged to a cgroup at most, page cache included.
    pub charged_mib: Option<f64>,
    /// Pages that came into the page cache: the source's, the destination's.
    pub pages: Option<(u64, u64)>,
    /// Share of the source's pages that were cached before and after, of the round that left least.
    pub source_cached: Option<(f64, f64)>,
}

/// Several commands for the same task, in turn.
pub struct Case {
    pub name: String,
    pub title: String,
    /// Bytes of one copy, and how many copies a run makes.
    pub bytes: u64,
    pub copies: u64,
    pub date: String,
    /// Kernel, processors, filesystem and device.
    pub machine: String,
    pub rows: Vec<Row>,
    /// What was left out, and other things to know.
    pub said: Vec<String>,
}

/// One command beside a random reader.
pub struct Point {
    pub peer: String,
    pub command: String,
    /// Bytes per second of the copy in each round; 0 where the reader is alone.
    pub speed: Vec<f64>,
    /// The reader's latency in milliseconds in each round.
    pub p50: Vec<f64>,
    pub p99: Vec<f64>,
}

/// Copies beside a random reader.
pub struct Frontier {
    pub title: String,
    pub date: String,
    pub machine: String,
    pub points: Vec<Point>,
    pub said: Vec<String>,
}

#[derive(Default)]
pub struct Results {
    /// Versions.
    pub tools: Vec<String>,
    pub cases: Vec<Case>,
    pub frontier: Option<Frontier>,
    /// Cases that could not be measured when they were last asked for, and why.
    pub skipped: BTreeMap<String, String>,
}

impl Results {
    /// Nothing, where there is no such file yet.
    pub fn read(path: &Path) -> Self {
        let Ok(found) = std::fs::read_to_string(path) else { return Self::default() };
        let value: Value = serde_json::from_str(&found).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self {
            tools: list(&value["tools"], text),
            cases: list(&value["cases"], Case::from_json),
            frontier: value["frontier"].is_object().then(|| Frontier::from_json(&value["frontier"])),
            skipped: value["skipped"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, why)| (name.clone(), text(why)))
                .collect(),
        }
    }

    pub fn write(&self, path: &Path) {
        let cases: Vec<Value> = self.cases.iter().map(Case::to_json).collect();
        let frontier = self.frontier.as_ref().map(Frontier::to_json);
        let value = json!({ "tools": self.tools, "cases": cases, "frontier": frontier, "skipped": self.skipped });
        std::fs::write(path, format!("{value:#}\n")).unwrap();
    }

    /// A case that was measured again takes the place of its earlier self; `order` has all the names.
    pub fn merge(&mut self, case: Case, order: &[&str]) {
        self.skipped.remove(&case.name);
        self.cases.retain(|known| known.name != case.name);
        self.cases.push(case);
        self.cases.sort_by_key(|case| order.iter().position(|name| *name == case.name));
    }

    /// The same for the copies beside a reader.
    pub fn show(&mut self, name: &str, frontier: Frontier) {
        self.skipped.remove(name);
        self.frontier = Some(frontier);
    }

    pub fn skip(&mut self, name: &str, why: String) {
        self.skipped.insert(name.into(), why);
    }

    pub fn case(&self, name: &str) -> Option<&Case> {
        self.cases.iter().find(|case| case.name == name)
    }
}

impl Case {
    /// dio-cp as it is: the first row.
    pub fn own(&self) -> &Row {
        &self.rows[0]
    }

    /// Median wall time of one copy, in seconds.
    pub fn wall(&self, row: &Row) -> f64 {
        median(&row.wall) / self.copies as f64
    }

    /// The quickest and the slowest round, for one copy.
    pub fn spread(&self, row: &Row) -> (f64, f64) {
        let (low, high) = range(&row.wall);
        (low / self.copies as f64, high / self.copies as f64)
    }

    /// Median processor time of one copy, in seconds.
    pub fn cpu(&self, row: &Row) -> f64 {
        median(&row.cpu) / self.copies as f64
    }

    /// How many times dio-cp's time.
    pub fn ratio(&self, row: &Row) -> f64 {
        median(&row.wall) / median(&self.own().wall)
    }

    fn to_json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(Row::to_json).collect();
        json!({
            "name": self.name, "title": self.title, "bytes": self.bytes, "copies": self.copies, "date": self.date,
            "machine": self.machine, "said": self.said, "rows": rows,
        })
    }

    fn from_json(value: &Value) -> Self {
        Self {
            name: text(&value["name"]),
            title: text(&value["title"]),
            bytes: value["bytes"].as_u64().unwrap(),
            copies: value["copies"].as_u64().unwrap(),
            date: text(&value["date"]),
            machine: text(&value["machine"]),
            rows: list(&value["rows"], Row::from_json),
            said: list(&value["said"], text),
        }
    }
}

impl Row {
    fn to_json(&self) -> Value {
        json!({
            "peer": self.peer, "command": self.command, "limit": self.limit, "wall": rounded(&self.wall),
            "cpu": rounded(&self.cpu), "peak_mib": rounded(&self.peak_mib), "charged_mib": self.charged_mib.map(round),
            "pages": self.pages, "source_cached": self.source_cached.map(|(a, b)| (round(a), round(b))),
        })
    }

    fn from_json(value: &Value) -> Self {
        let pair = |pair: &Value| Some((pair[0].clone(), pair[1].clone())).filter(|_| pair.is_array());
        Self {
            peer: text(&value["peer"]),
            command: text(&value["command"]),
            limit: value["limit"].as_bool().unwrap(),
            wall: list(&value["wall"], number),
            cpu: list(&value["cpu"], number),
            peak_mib: list(&value["peak_mib"], number),
            charged_mib: value["charged_mib"].as_f64(),
            pages: pair(&value["pages"]).map(|(a, b)| (a.as_u64().unwrap(), b.as_u64().unwrap())),
            source_cached: pair(&value["source_cached"]).map(|(a, b)| (number(&a), number(&b))),
        }
    }
}

impl Frontier {
    fn to_json(&self) -> Value {
        let point = |point: &Point| {
            json!({
                "peer": point.peer, "command": point.command, "speed": rounded(&point.speed),
                "p50": rounded(&point.p50), "p99": rounded(&point.p99),
            })
        };
        let points: Vec<Value> = self.points.iter().map(point).collect();
        json!({
            "title": self.title, "date": self.date, "machine": self.machine, "said": self.said, "points": points,
        })
    }

    fn from_json(value: &Value) -> Self {
        let point = |value: &Value| Point {
            peer: text(&value["peer"]),
            command: text(&value["command"]),
            speed: list(&value["speed"], number),
            p50: list(&value["p50"], number),
            p99: list(&value["p99"], number),
        };
        Self {
            title: text(&value["title"]),
            date: text(&value["date"]),
            machine: text(&value["machine"]),
            points: list(&value["points"], point),
            said: list(&value["said"], text),
        }
    }
}

/// The middle one, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// Least and greatest.
pub fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(*value), high.max(*value)))
}

fn list<T>(value: &Value, item: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().unwrap().iter().map(item).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_string()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// Finer than anything here is measured.
fn round(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

fn rounded(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| round(*value)).collect()
}
