//! What a copy does to others: random reads of 4 KiB on the same disk beside each copy, how long they
//! take against how fast the copy is.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::measure::quoted;
use crate::peer::{Peer, cp, dd, dio, find, mbuffer, nbdcopy, peer, qemu_img, xcp};
use crate::place::{On, Place, machine};
use crate::results::{Frontier, Point};
use crate::source::{self, Content};
use crate::table;

/// How long the reader reads.
const SECONDS: u32 = 5;
/// The reader begins when the copy is under way.
const HEAD_START: Duration = Duration::from_millis(500);

/// Copies of one file, one after another, until the reader beside them has enough.
struct Bench {
    dir: PathBuf,
    src: PathBuf,
    /// The reader's own file.
    other: PathBuf,
    bytes: u64,
}

/// Err: why it cannot be measured here.
pub fn measure(scale: u64, rounds: usize, date: &str) -> Result<Frontier, String> {
    if find("fio").is_none() {
        return Err("needs fio".into());
    }
    let bytes = (2 << 30) / scale;
    // The last copies stay until the reader has ended.
    let place = Place::new(On::Disk, bytes * 8)?;
    let bench = Bench { src: place.dir.join("src"), other: place.dir.join("other"), dir: place.dir.clone(), bytes };
    source::make(&bench.src, Content::Random, bytes, 1);
    source::make(&bench.other, Content::Random, bytes / 2, 1);
    source::make_cold(&bench.other);
    let mut said = Vec::new();
    let full = bench.beside(Some(&dio())).0;
    let peers = peers(full, &mut said);
    let mut points: Vec<Point> = [("nobody", "–")]
        .into_iter()
        .map(|(peer, command)| (peer.to_string(), command.to_string()))
        .chain(peers.iter().map(|peer| (peer.name.clone(), peer.shown())))
        .map(|(peer, command)| Point { peer, command, speed: Vec::new(), p50: Vec::new(), p99: Vec::new() })
        .collect();
    // No round to warm up: the measuring of dio-cp's full speed was one, and the reader has no cache.
    for _ in 0..rounds {
        for (number, point) in points.iter_mut().enumerate() {
            let (speed, p50, p99) = bench.beside(number.checked_sub(1).map(|peer| &peers[peer]));
            point.speed.push(speed);
            point.p50.push(p50);
            point.p99.push(p99);
        }
    }
    let title = format!("random reads of 4 KiB, one at a time, beside copies of {}", table::size(bytes));
    Ok(Frontier { title, date: date.into(), machine: format!("{}, {}", machine(), place.label), points, said })
}

/// `full`: dio-cp's speed when nothing holds it back, in bytes per second.
fn peers(full: f64, said: &mut Vec<String>) -> Vec<Peer> {
    let with = |words: &str, name: &str| peer(name, "sh", &format!("{{dio}} -q {words} {{src}} {{dst}}"));
    let mut peers = vec![dio()];
    let help = Command::new(env!("CARGO_BIN_EXE_dio-cp")).arg("--help").output().unwrap();
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    // An option at the beginning of a line, and not the mention of one.
    let has = |option: &str| help.lines().any(|line| line.split_whitespace().take(2).any(|word| word == option));
    if has("--idle") {
        peers.push(with("--idle", "dio-cp --idle"));
    } else {
        said.push("left out: dio-cp --idle, which this dio-cp does not have".into());
    }
    if has("--rate-limit") {
        let quarter = (full / 4e6).round();
        peers.push(with("--rate-limit 100M", "dio-cp --rate-limit 100M"));
        peers.push(with(&format!("--rate-limit {quarter}MB"), "dio-cp --rate-limit, a quarter"));
    } else {
        said.push("left out: dio-cp --rate-limit, which this dio-cp does not have".into());
    }
    peers.push(with("--queue-depth 1", "dio-cp --queue-depth 1"));
    peers.push(with("--queue-depth 1 -b 256K", "dio-cp --queue-depth 1 -b 256K"));
    peers.extend([cp(), dd("1M"), dd("4M"), xcp(), qemu_img(), nbdcopy(), mbuffer()]);
    let (there, missing): (Vec<Peer>, Vec<Peer>) = peers.into_iter().partition(|peer| find(peer.tool).is_some());
    said.extend(missing.iter().map(|peer| format!("left out: {}: {} is not installed", peer.name, peer.tool)));
    there
}

impl Bench {
    /// Bytes per second of the copies, and the reader's p50 and p99 in ms.
    fn beside(&self, peer: Option<&Peer>) -> (f64, f64, f64) {
        let Some(peer) = peer else {
            let (_, p50, p99) = self.read();
            return (0.0, p50, p99);
        };
        let result = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                std::thread::sleep(HEAD_START);
                self.read()
            });
            // The last copy goes on when the reader has ended, which read nothing without a copy beside it;
            // what counts is what reached the disk while it read.
            let mut copies = 0;
            while !reader.is_finished() {
                source::make_cold(&self.src);
                self.copy(peer, copies);
                copies += 1;
            }
            reader.join().unwrap()
        });
        for copy in (0..).map(|number| self.dst(number)).take_while(|copy| copy.exists()) {
            fs::remove_file(copy).unwrap();
        }
        dio_cp::sys::sync_filesystem(&File::open(&self.dir).unwrap()).unwrap();
        result
    }

    fn dst(&self, number: u32) -> PathBuf {
        self.dir.join(format!("dst-{number}"))
    }

    /// One copy. Old ones stay for as long as there is room: deleting is no part of it.
    fn copy(&self, peer: &Peer, number: u32) {
        crate::stop_if_interrupted();
        let dst = self.dst(number);
        if number >= 4 {
            File::create(self.dst(number - 4)).unwrap();
        }
        let mut line = peer.line.replace("{sync}", "sync {dst}");
        for (word, value) in [
            ("{dio}", quoted(Path::new(env!("CARGO_BIN_EXE_dio-cp")))),
            ("{tool}", quoted(&find(peer.tool).unwrap())),
            ("{src}", quoted(&self.src)),
            ("{dst}", quoted(&dst)),
        ] {
            line = line.replace(word, &value);
        }
        let output = Command::new("sh").args(["-c", &line]).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Bytes that the disk has written, by its own count (Documentation/block/stat.rst).
    fn written(&self) -> f64 {
        let device = fs::metadata(&self.dir).unwrap().dev();
        let stat = format!("/sys/dev/block/{}:{}/stat", libc::major(device), libc::minor(device));
        let stat = fs::read_to_string(&stat).unwrap_or_else(|e| panic!("{stat}: {e}; the speed cannot be seen"));
        stat.split_ascii_whitespace().nth(6).unwrap().parse::<f64>().unwrap() * 512.0
    }

    /// Bytes per second that the disk wrote meanwhile, and the reader's p50 and p99 in ms.
    fn read(&self) -> (f64, f64, f64) {
        crate::stop_if_interrupted();
        let report = self.dir.join("fio");
        let (start, before) = (Instant::now(), self.written());
        let status = Command::new("fio")
            .args(["--name=reader", "--rw=randread", "--bs=4k", "--iodepth=1", "--direct=1", "--ioengine=psync"])
            .args(["--readonly", "--time_based", "--norandommap", "--output-format=json"])
            .arg(format!("--runtime={SECONDS}"))
            .arg(format!("--size={}", self.bytes / 2))
            .arg(format!("--filename={}", self.other.display()))
            .arg(format!("--output={}", report.display()))
            .stdin(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "fio: {status}");
        let speed = (self.written() - before) / start.elapsed().as_secs_f64();
        let found: serde_json::Value = serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
        let percentiles = &found["jobs"][0]["read"]["clat_ns"]["percentile"];
        let ms = |percent: &str| percentiles[percent].as_f64().unwrap() / 1e6;
        (speed, ms("50.000000"), ms("99.000000"))
    }
}
