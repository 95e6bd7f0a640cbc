//! dio-cp beside its peers, at equal durability, in turn, on the disk under the target directory:
//!
//! ```text
//! cargo bench                  all cases
//! cargo bench -- file pipe     some of: file, pipe, small, proof, residency, url, paced
//! DIO_CP_BENCH_ROUNDS=9 …      more rounds (default 5, after one to warm up)
//! ```
//!
//! Every round runs every command once, A B C A B C, so that a disk that is shared and drifts does so
//! for all of them. Before each run the source is made cold (file) or hot (pipe), and the old
//! destination is deleted. What is not installed is named and left out. GNU time(1) measures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const GIB: u64 = 1 << 30;

/// One command of a case. `{src}` and `{dst}` stand for the paths, `{dio}` for dio-cp.
#[derive(Clone)]
struct Peer {
    name: &'static str,
    /// What it needs to be installed.
    tool: &'static str,
    line: Cow<'static, str>,
}

const fn peer(name: &'static str, tool: &'static str, line: &'static str) -> Peer {
    Peer { name, tool, line: Cow::Borrowed(line) }
}

// fio is the disk's own limit, at queue depth 8 × 4 MiB, by its own clock, without its start.
const FILE: [Peer; 8] = [
    peer("dio-cp", "sh", "{dio} -q {src} {dst}"),
    peer("dd bs=4M direct", "dd", "dd if={src} of={dst} bs=4M iflag=direct oflag=direct conv=fsync"),
    peer(
        "qemu-img -t none",
        "qemu-img",
        "qemu-img convert -f raw -O raw -t none -T none -m 8 -W {src} {dst}; sync {dst}",
    ),
    peer("nbdcopy", "nbdcopy", "nbdcopy --flush {src} {dst}"),
    peer("mbuffer -m 64M", "mbuffer", "mbuffer -q -m 64M -i {src} -o {dst}; sync {dst}"),
    peer("cp + sync", "cp", "cp {src} {dst}; sync {dst}"),
    peer("fio, only reading", "fio", "fio --rw=read --filename={src} --size=1G --name=limit {fio}"),
    peer("fio, only writing", "fio", "fio --rw=write --filename={dst} --size=1G --name=limit {fio}"),
];
const FIO: &str =
    "--bs=4M --iodepth=8 --ioengine=libaio --direct=1 --fallocate=posix --end_fsync=1 --minimal --output={out}";
const PIPE: [Peer; 5] = [
    peer("dio-cp", "sh", "cat {src} | {dio} -q - {dst}"),
    peer("dd bs=4M direct", "dd", "cat {src} | dd of={dst} bs=4M iflag=fullblock oflag=direct conv=fsync"),
    peer("dd bs=1M direct", "dd", "cat {src} | dd of={dst} bs=1M iflag=fullblock oflag=direct conv=fsync"),
    peer("mbuffer -m 64M", "mbuffer", "cat {src} | mbuffer -q -m 64M -o {dst}; sync {dst}"),
    peer("cat + sync", "cat", "cat {src} | cat > {dst}; sync {dst}"),
];
const SMALL: [Peer; 2] = [
    peer("dio-cp", "sh", "for i in $(seq 300); do {dio} -q {src}/$i {dst}/$i || exit 1; done"),
    peer("cp + sync", "cp", "for i in $(seq 300); do cp {src}/$i {dst}/$i && sync {dst}/$i {dst} || exit 1; done"),
];

const PROOF: [Peer; 6] = [
    peer("dio-cp", "sh", "{dio} -q {src} {dst}"),
    peer("… --verify", "sh", "{dio} -q --verify {src} {dst}"),
    peer("… --checksum blake3", "sh", "{dio} -q --checksum blake3 {src} {dst}"),
    peer("… --checksum sha256", "sh", "{dio} -q --checksum sha256 {src} {dst}"),
    peer("… --checksum sha512", "sh", "{dio} -q --checksum sha512 {src} {dst}"),
    peer("fio, only reading", "fio", "fio --rw=read --filename={src} --size=1G --name=limit {fio}"),
];
/// From nginx on this machine, which has the file in its cache.
const URL: [Peer; 8] = [
    peer("dio-cp http", "nginx", "{dio} -q {url} {dst}"),
    peer("dio-cp http × 2", "nginx", "{dio} -q --connections 2 {url} {dst}"),
    peer("curl -o + sync", "curl", "curl -s -o {dst} {url}; sync {dst}"),
    peer("curl | dd direct", "curl", "curl -s {url} | dd of={dst} oflag=direct bs=4M iflag=fullblock conv=fsync"),
    peer("wget + sync", "wget", "wget -q -O {dst} {url}; sync {dst}"),
    peer("dio-cp https", "nginx", "{dio} -q --cacert {cacert} {tls} {dst}"),
    peer("curl https + sync", "curl", "curl -s --cacert {cacert} -o {dst} {tls}; sync {dst}"),
    peer("curl https, no sync", "curl", "curl -s --cacert {cacert} -o {dst} {tls}"),
];
/// 50 MB/s a connection.
const PACED: [Peer; 3] = [
    peer("dio-cp, 4 at once", "nginx", "{dio} -q --connections 4 {paced} {dst}"),
    peer("dio-cp, 1", "nginx", "{dio} -q {paced} {dst}"),
    peer("curl -o + sync", "curl", "curl -s -o {dst} {paced}; sync {dst}"),
];
const RESIDENCY: [Peer; 3] = [
    peer("dio-cp --residency", "sh", "{dio} --residency {src}"),
    peer("vmtouch", "vmtouch", "vmtouch {src}"),
    peer("fincore", "fincore", "find {src} -type f -print0 | xargs -0 fincore -nb -o PAGES"),
];

/// What one run took.
#[derive(Clone, Copy)]
struct Run {
    wall: f64,
    cpu: f64,
    peak_kib: f64,
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let rounds = std::env::var("DIO_CP_BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    if !installed("time") {
        println!("needs GNU time(1)");
        std::process::exit(1);
    }
    let asked = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    if asked("file") {
        let src = dir.join("src");
        random_file(&src, GIB);
        case("1 GiB, cold file to file", &FILE, &dir, &src, rounds, false);
        fs::remove_file(&src).unwrap();
    }
    if asked("pipe") {
        let src = dir.join("src");
        random_file(&src, 2 * GIB);
        case("2 GiB through a pipe, hot source", &PIPE, &dir, &src, rounds, true);
        fs::remove_file(&src).unwrap();
    }
    if asked("small") {
        let src = dir.join("many");
        fs::create_dir(&src).unwrap();
        for i in 1..=300 {
            random_file(&src.join(i.to_string()), 4096);
        }
        case("300 files of 4 KiB, one command each", &SMALL, &dir, &src, rounds, true);
    }
    if asked("proof") {
        let src = dir.join("src");
        random_file(&src, GIB);
        case("1 GiB, cold file to file, with proof", &PROOF, &dir, &src, rounds, false);
        fs::remove_file(&src).unwrap();
    }
    for (name, len, title, peers) in [
        ("url", 2 * GIB, "2 GiB from nginx on this machine", &URL[..]),
        ("paced", GIB / 2, "512 MiB from nginx at 50 MB/s a connection", &PACED[..]),
    ] {
        if !asked(name) {
            continue;
        }
        let Some(nginx) = common::web::Nginx::new() else { continue };
        let src = nginx.file("f");
        random_file(&src, len);
        let names = [
            ("{url}", nginx.url("/f")),
            ("{paced}", nginx.url("/paced/f")),
            ("{tls}", nginx.tls_url("/f")),
            ("{cacert}", nginx.certificate()),
        ];
        let fill = |line: &str| names.iter().fold(line.to_string(), |line, (name, value)| line.replace(name, value));
        let peers: Vec<Peer> =
            peers.iter().map(|peer| Peer { line: fill(&peer.line).into(), ..peer.clone() }).collect();
        case(title, &peers, &dir, &src, rounds, true);
    }
    if asked("residency") {
        let src = dir.join("tree");
        fs::create_dir(&src).unwrap();
        for i in 0..20_000 {
            fs::write(src.join(i.to_string()), [b'x'; 5000]).unwrap();
        }
        case("the residency of 20,000 files", &RESIDENCY, &dir, &src, rounds, true);
    }
    fs::remove_dir_all(&dir).unwrap();
}

fn case(title: &str, peers: &[Peer], dir: &Path, src: &Path, rounds: usize, hot: bool) {
    println!("\n{title} ({rounds} rounds in turn, medians)");
    let (there, missing): (Vec<&Peer>, Vec<&Peer>) = peers.iter().partition(|peer| installed(peer.tool));
    for peer in missing {
        println!("left out: {} is not installed", peer.name);
    }
    let mut runs: Vec<Vec<Run>> = there.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds {
        for (peer, runs) in there.iter().zip(&mut runs) {
            let run = measure(peer, dir, src, hot, round == 0);
            if round > 0 {
                runs.push(run);
            }
        }
    }
    println!("{:<20} {:>8} {:>15} {:>8} {:>10} {:>8}", "", "wall s", "spread", "cpu s", "peak MiB", "ratio");
    let own = median(runs[0].iter().map(|run| run.wall));
    for (peer, runs) in there.iter().zip(&runs) {
        let wall = median(runs.iter().map(|run| run.wall));
        let cpu = runs.iter().map(|run| run.cpu).sum::<f64>() / runs.len() as f64; // ticks are coarse
        let peak = median(runs.iter().map(|run| run.peak_kib)) / 1024.0;
        let (low, high) = spread(runs);
        println!("{:<20} {wall:>8.2} {low:>7.2}–{high:<7.2} {cpu:>8.3} {peak:>10.1} {:>7.2}×", peer.name, wall / own);
    }
}

fn spread(runs: &[Run]) -> (f64, f64) {
    runs.iter().fold((f64::MAX, 0.0), |(low, high), run| (run.wall.min(low), run.wall.max(high)))
}

fn measure(peer: &Peer, dir: &Path, src: &Path, hot: bool, check: bool) -> Run {
    let dst = dir.join("dst");
    let _ = fs::remove_file(&dst).or_else(|_| fs::remove_dir_all(&dst));
    if src.is_dir() {
        fs::create_dir(&dst).unwrap();
    } else if hot {
        std::io::copy(&mut File::open(src).unwrap(), &mut std::io::sink()).unwrap();
    } else {
        make_cold(src);
    }
    sync(dir);
    let fio = dir.join("fio");
    let line = peer
        .line
        .replace("{fio}", &FIO.replace("{out}", fio.to_str().unwrap()))
        .replace("{dio}", env!("CARGO_BIN_EXE_dio-cp"))
        .replace("{src}", src.to_str().unwrap())
        .replace("{dst}", dst.to_str().unwrap());
    let figures = dir.join("figures");
    let status = Command::new("time")
        .args(["-f", "%e %U %S %M", "-o"])
        .arg(&figures)
        .args(["sh", "-c", &line])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{line}: {status}");
    if check && peer.tool != "fio" && peer.line.contains("{dst}") {
        let same = Command::new("diff").arg("-rq").arg(src).arg(&dst).status().unwrap();
        assert!(same.success(), "{}: the copy differs", peer.name);
    }
    let text = fs::read_to_string(&figures).unwrap();
    let figures: Vec<f64> = text.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
    let wall = if peer.tool == "fio" { fio_seconds(&fio) } else { figures[0] };
    Run { wall, cpu: figures[1] + figures[2], peak_kib: figures[3] }
}

/// Run time out of fio's minimal output, in seconds: fields 9 (reading) and 50 (writing), in ms.
fn fio_seconds(output: &Path) -> f64 {
    let text = fs::read_to_string(output).unwrap();
    let field = |n: usize| text.split(';').nth(n - 1).unwrap().parse::<f64>().unwrap() / 1000.0;
    field(9) + field(50)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

/// Bytes that no disk can compress.
fn random_file(path: &Path, len: u64) {
    let mut file = File::create(path).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut part = vec![0u8; len.min(1 << 20) as usize];
    for _ in 0..len.div_ceil(1 << 20) {
        for word in part.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&part).unwrap();
    }
    file.sync_all().unwrap();
}

fn make_cold(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    dio_cp::sys::advise(&file, 0, 0, 4).unwrap(); // POSIX_FADV_DONTNEED
}

/// Nothing of the run before may still be on its way to the disk.
fn sync(dir: &Path) {
    dio_cp::sys::sync_filesystem(&File::open(dir).unwrap()).unwrap();
}
