//! The case `neighbours`: the latency of random 4 KiB reads on the same disk while another command copies, and the
//! speed of that copy.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::interrupt;
use crate::left_out::LeftOut;
use crate::peer::{Peer, cp, dd, dio, mbuffer, nbdcopy, peer, qemu_img, xcp};
use crate::place::{Place, Storage, machine};
use crate::results::{Frontier, Point};
use crate::source::{self, Content};
use crate::{table, tools};

/// How long the reader reads.
const READER_SECONDS: u32 = 5;
/// The delay between the start of the copy and the start of the reader.
const HEAD_START: Duration = Duration::from_millis(500);

/// Copies one file again and again, until the reader has ended.
struct LatencyBench {
    dir: PathBuf,
    source: PathBuf,
    /// The file that the reader reads.
    reader_file: PathBuf,
    /// Bytes of a copy.
    bytes: u64,
}

/// One round of one command.
struct Sample {
    /// Bytes that the disk wrote per second.
    speed: f64,
    /// The reader's latency, in milliseconds.
    p50: f64,
    p99: f64,
}

/// Fails with [`LeftOut`] if this machine cannot run the case.
pub fn measure(scale: u64, rounds: usize, date: &str) -> Result<Frontier> {
    if tools::find("fio").is_none() {
        return Err(LeftOut::error("needs fio"));
    }
    let bytes = (2 << 30) / scale;
    // Up to four copies exist at a time.
    let place = Place::new(Storage::Disk, bytes * 8)?;
    let dir = place.dir.clone();
    let bench = LatencyBench { source: dir.join("src"), reader_file: dir.join("other"), dir, bytes };
    source::create(&bench.source, Content::Random, bytes, 1)?;
    source::create(&bench.reader_file, Content::Random, bytes / 2, 1)?;
    source::evict(&bench.reader_file)?;
    let full_speed = bench.sample(Some(&dio()))?.speed;
    let mut notes = Vec::new();
    let peers = peers(full_speed, &mut notes)?;
    let peers = tools::installed(&peers, &mut notes);
    // The first point is the reader alone.
    let mut points = vec![Point::new("nobody", "–")];
    points.extend(peers.iter().map(|peer| Point::new(&peer.name, &peer.display_line())));
    // No round to warm up: the measurement of the full speed was one, and the reader bypasses the page cache.
    for _ in 0..rounds {
        for (number, point) in points.iter_mut().enumerate() {
            let sample = bench.sample(number.checked_sub(1).map(|number| peers[number]))?;
            point.speed.push(sample.speed);
            point.p50.push(sample.p50);
            point.p99.push(sample.p99);
        }
    }
    let title = format!("random reads of 4 KiB, one at a time, during copies of {}", table::size(bytes));
    Ok(Frontier { title, date: date.into(), machine: format!("{}, {}", machine(), place.label), points, notes })
}

/// `full_speed` is that of dio-cp without a limit, in bytes per second.
fn peers(full_speed: f64, notes: &mut Vec<String>) -> Result<Vec<Peer>> {
    let with = |options: &str, name: &str| peer(name, "sh", &format!("{{dio}} -q {options} {{src}} {{dst}}"));
    let help = tools::run(env!("CARGO_BIN_EXE_dio-cp"), ["--help"])?;
    // An option's own line begins with it; other lines may mention it.
    let has = |option: &str| help.lines().any(|line| line.split_whitespace().take(2).any(|word| word == option));
    let mut peers = vec![dio()];
    if has("--idle") {
        peers.push(with("--idle", "dio-cp --idle"));
    } else {
        notes.push("left out: dio-cp --idle, which this dio-cp does not have".into());
    }
    if has("--rate-limit") {
        let quarter = (full_speed / 4e6).round();
        peers.push(with("--rate-limit 100M", "dio-cp --rate-limit 100M"));
        peers.push(with(&format!("--rate-limit {quarter}MB"), "dio-cp --rate-limit, a quarter"));
    } else {
        notes.push("left out: dio-cp --rate-limit, which this dio-cp does not have".into());
    }
    peers.push(with("--queue-depth 1", "dio-cp --queue-depth 1"));
    peers.push(with("--queue-depth 1 -b 256K", "dio-cp --queue-depth 1 -b 256K"));
    peers.extend([cp(), dd("1M"), dd("4M"), xcp(), qemu_img(), nbdcopy(), mbuffer()]);
    Ok(peers)
}

impl LatencyBench {
    /// Reads while `peer` copies. Without a peer, only reads.
    fn sample(&self, peer: Option<&Peer>) -> Result<Sample> {
        let Some(peer) = peer else {
            return Ok(Sample { speed: 0.0, ..self.read()? });
        };
        let sample = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                std::thread::sleep(HEAD_START);
                self.read()
            });
            // A copy is always in progress while the reader reads. The last copy ends after the reader, so the speed is
            // that at which the disk writes while the reader reads.
            let mut copies = 0;
            while !reader.is_finished() {
                source::evict(&self.source)?;
                self.copy(peer, copies)?;
                copies += 1;
            }
            reader.join().map_err(|_| anyhow!("the reader panicked"))?
        })?;
        for copy in (0..).map(|number| self.copy_path(number)).take_while(|copy| copy.exists()) {
            fs::remove_file(copy)?;
        }
        dio_cp::sys::sync_filesystem(&File::open(&self.dir)?)?;
        Ok(sample)
    }

    fn copy_path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("dst-{number}"))
    }

    /// Makes one copy. The four latest copies are kept, so that the disk is not busy with deleting the previous one.
    fn copy(&self, peer: &Peer, number: u32) -> Result<()> {
        interrupt::check()?;
        if number >= 4 {
            File::create(self.copy_path(number - 4))?;
        }
        let mut line = peer.line.replace("{sync}", "sync {dst}");
        for (placeholder, value) in [
            ("{dio}", tools::quoted(Path::new(env!("CARGO_BIN_EXE_dio-cp")))),
            ("{tool}", tools::quoted(&tools::find(peer.tool).unwrap_or_default())),
            ("{src}", tools::quoted(&self.source)),
            ("{dst}", tools::quoted(&self.copy_path(number))),
        ] {
            line = line.replace(placeholder, &value);
        }
        let output = Command::new("sh").args(["-c", &line]).stdin(Stdio::null()).output().context("sh")?;
        ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Bytes that the disk has written, by its own count (Documentation/block/stat.rst).
    fn bytes_written(&self) -> Result<f64> {
        let device = fs::metadata(&self.dir)?.dev();
        let path = format!("/sys/dev/block/{}:{}/stat", libc::major(device), libc::minor(device));
        let stat = fs::read_to_string(&path).with_context(|| format!("{path}: the speed cannot be measured"))?;
        let sectors = stat.split_ascii_whitespace().nth(6).context("the disk's statistics have too few fields")?;
        Ok(sectors.parse::<f64>()? * 512.0)
    }

    /// Runs the reader and measures what the disk writes meanwhile.
    fn read(&self) -> Result<Sample> {
        interrupt::check()?;
        let output = self.dir.join("fio");
        let (start, written_before) = (Instant::now(), self.bytes_written()?);
        let status = Command::new("fio")
            .args(["--name=reader", "--rw=randread", "--bs=4k", "--iodepth=1", "--direct=1", "--ioengine=psync"])
            .args(["--readonly", "--time_based", "--norandommap", "--output-format=json"])
            .arg(format!("--runtime={READER_SECONDS}"))
            .arg(format!("--size={}", self.bytes / 2))
            .arg(format!("--filename={}", self.reader_file.display()))
            .arg(format!("--output={}", output.display()))
            .stdin(Stdio::null())
            .status()
            .context("fio")?;
        ensure!(status.success(), "fio: {status}");
        let speed = (self.bytes_written()? - written_before) / start.elapsed().as_secs_f64();
        let report: Value = serde_json::from_str(&fs::read_to_string(&output)?).context("fio's report")?;
        let percentiles = &report["jobs"][0]["read"]["clat_ns"]["percentile"];
        let milliseconds = |percent: &str| {
            let nanoseconds = percentiles[percent].as_f64().context("fio's report has no latency percentiles")?;
            anyhow::Ok(nanoseconds / 1e6)
        };
        Ok(Sample { speed, p50: milliseconds("50.000000")?, p99: milliseconds("99.000000")? })
    }
}
