//! `--rate-limit` and `--idle`: evenly, and only what nobody else wants.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::*;
use dio_cp::{Cleanup, Job, Silent, sys};

const MB: f64 = 1e6;
/// strace notes the time when it gets to it, which on a busy machine may be late. The exact bound is a
/// unit test's, with a clock of its own.
const LATE: f64 = 1.25;

/// Bytes that `call` moved, and when each call of it began, in seconds: out of strace's lines.
fn calls(trace: &Path, call: &str, fd_of: &str) -> Vec<(f64, f64)> {
    let text = fs::read_to_string(trace).unwrap();
    let of = |line: &&str| line.contains(&format!(" {call}(")) && line.contains(fd_of);
    let moved = text.lines().filter(of).filter_map(|line| {
        let (at, _) = line.split_once(' ')?;
        let (_, bytes) = line.rsplit_once("= ")?;
        Some((at.parse().ok()?, bytes.split(' ').next()?.parse().ok()?))
    });
    moved.collect()
}

/// The most bytes that began to move in any tenth of a second.
fn most(moved: &[(f64, f64)]) -> f64 {
    let window = |from: usize| {
        let inside = moved[from..].iter().take_while(|(at, _)| at - moved[from].0 <= 0.1);
        inside.map(|(_, bytes)| bytes).sum::<f64>()
    };
    (0..moved.len()).map(window).fold(0.0, f64::max)
}

fn strace(trace: &Path) -> Command {
    let mut command = Command::new("strace");
    // One worker is the main thread: no other needs to be followed.
    command.args(["-ttt", "-y", "-e", "trace=read,pread64,pwrite64,write", "-o"]).arg(trace);
    command.arg(env!("CARGO_BIN_EXE_dio-cp"));
    command
}

#[test]
fn no_tenth_of_a_second_has_more_than_its_share_and_one_block() {
    if !has_tool("strace") {
        return skip("needs the tool strace");
    }
    let scratch = Scratch::new();
    let (src, dst, trace) = (scratch.file("src", 20_000_001), scratch.path("dst"), scratch.path("trace"));
    make_cold(&src);
    let began = Instant::now();
    let output = strace(&trace).args(["--rate-limit", "40MB"]).args([&src, &dst]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(began.elapsed().as_secs_f64() > 20.0 / 40.0 - 0.01);
    same(&dst, &content(20_000_001));
    for (call, file) in [("pread64", "/src>"), ("pwrite64", "/tmp/")] {
        let moved = calls(&trace, call, file);
        let total: f64 = moved.iter().map(|(_, bytes)| bytes).sum();
        assert!(total >= 20.0 * MB && moved.len() > 300, "{call}: {total} bytes in {} calls", moved.len());
        let most = most(&moved);
        assert!(most <= LATE * 4.0 * MB + 65536.0, "{call}: {most} bytes in 0.1 s");
    }
}

#[test]
fn a_producer_that_stalls_is_not_made_up_for() {
    if !has_tool("strace") {
        return skip("needs the tool strace");
    }
    let scratch = Scratch::new();
    let (dst, trace) = (scratch.path("dst"), scratch.path("trace"));
    let mut command = strace(&trace);
    command.args(["--rate-limit", "40MB", "-"]).arg(&dst).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let bytes = content(12_000_000);
    for part in bytes.chunks(4_000_000) {
        pipe.write_all(part).unwrap();
        std::thread::sleep(Duration::from_millis(150));
    }
    drop(pipe);
    assert!(child.wait().unwrap().success());
    same(&dst, &bytes);
    for (call, file) in [("read", "<pipe:"), ("pwrite64", "/tmp/")] {
        let moved = calls(&trace, call, file);
        assert!(moved.iter().map(|(_, bytes)| bytes).sum::<f64>() >= 12.0 * MB);
        let most = most(&moved);
        assert!(most <= LATE * 4.0 * MB + 65536.0, "{call}: {most} bytes in 0.1 s");
    }
}

#[test]
fn blocks_shrink_with_the_rate_unless_they_are_given() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 100_000), scratch.path("dst"));
    let used = |words: &[&str]| {
        let words = words.iter().map(|word| word.as_ref());
        let output = run(words.chain(["--json".as_ref(), src.as_os_str(), dst.as_os_str()]));
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (found["block_size"].as_u64().unwrap(), found["queue_depth"].as_u64().unwrap())
    };
    assert_eq!(used(&[]), (4 << 20, 4));
    assert_eq!(used(&["--rate-limit", "100M"]), (64 << 10, 1));
    // As README has it.
    assert_eq!(used(&["--rate-limit", "350MB"]), (80 << 10, 1));
    assert_eq!(used(&["--rate-limit", "351MB"]), (80 << 10, 2));
    assert_eq!(used(&["--rate-limit", "3GB"]), (720 << 10, 4));
    assert_eq!(used(&["--rate-limit", "100M", "-b", "1M", "--queue-depth", "3"]), (1 << 20, 3));
    for words in [["--rate-limit", "0"], ["--rate-limit", "x"], ["--rate-limit", "-1"]] {
        fails(2, [words[0].as_ref(), words[1].as_ref(), src.as_os_str(), dst.as_os_str()]);
    }
}

#[test]
fn holes_take_no_time_and_a_signal_does_not_wait() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    sparse(&src, 100 << 30, &[(50 << 30, 1 << 20)]);
    // At this rate the holes alone would take a day.
    copies(["--rate-limit".as_ref(), "1M".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert_eq!(fs::metadata(&dst).unwrap().len(), 100 << 30);
    fs::remove_file(&dst).unwrap();
    let mut child = dio_cp().args(["--rate-limit", "1", "--queue-depth", "4"]).args([&src, &dst]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none());
    tool("kill", ["-INT", &child.id().to_string()]);
    let began = Instant::now();
    assert!(!child.wait().unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(10), "it waited for its turn");
    assert_eq!(scratch.names(), ["src"]);
}

#[test]
fn a_limited_stream_gets_the_zeros_of_holes_at_its_rate_and_workers_cost_no_time() {
    let scratch = Scratch::new();
    let src = scratch.path("src");
    sparse(&src, 6 << 20, &[(2 << 20, 1 << 20)]);
    let took = |words: &[&str], to: &Path| {
        let began = Instant::now();
        let words = words.iter().map(|word| word.as_ref());
        let output = run(words.chain(["-q".as_ref(), src.as_os_str(), to.as_os_str()]));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (output.stdout, began.elapsed().as_secs_f64())
    };
    let (bytes, seconds) = took(&["--rate-limit", "12M"], Path::new("-"));
    assert!(bytes == fs::read(&src).unwrap() && seconds > 0.45, "{seconds} s");
    // Each of 64 workers that finds no more would once have taken a second.
    let many = ["--rate-limit", "1M", "-b", "1M", "--queue-depth", "64"];
    let (_, seconds) = took(&many, &scratch.path("dst"));
    assert!(seconds < 20.0, "{seconds} s");
    same(&scratch.path("dst"), &fs::read(&src).unwrap());
}

/// Somebody who reads 4 KiB at a time from this file, past the cache, until `stop`.
fn reader(path: &Path, stop: &AtomicBool) {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
    let mut buffer = dio_cp::AlignedBuffer::new(4096).unwrap();
    let pages = file.metadata().unwrap().len() / 4096;
    for i in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        file.read_exact_at(&mut buffer[..4096], i * 7919 % pages * 4096).unwrap();
    }
}

/// Not on a disk, where other tests would be the others.
fn memory() -> Scratch {
    let path = Path::new("/dev/shm").join(format!("dio-cp-pace-{}", Scratch::new().0.file_name().unwrap().display()));
    fs::create_dir_all(&path).unwrap();
    Scratch(path)
}

/// A disk of our own, and on it a source and somebody's file.
fn disk(scratch: &Scratch, len: usize) -> Mount {
    let mount = Mount::filesystem(scratch, "ext4", 3 * len as u64 + (40 << 20), 512);
    write(&mount.path("src"), &content(len));
    write(&mount.path("other"), &content(8 << 20));
    make_cold(&mount.path("src"));
    mount
}

#[test]
fn an_idle_copy_yields_while_others_read_and_comes_back() {
    needs_root_and!("losetup", "mkfs.ext4", "strace");
    let scratch = memory();
    let mount = disk(&scratch, 40 << 20);
    let (src, dst, trace) = (mount.path("src"), mount.path("dst"), scratch.path("trace"));
    let stop = AtomicBool::new(false);
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-e", "trace=pread64,pwrite64", "-o"]).arg(&trace).arg(env!("CARGO_BIN_EXE_dio-cp"));
    // Slow enough that it lasts: the blocks are what they are without --idle.
    command.args(["--idle", "-v", "--rate-limit", "13M", "-b", "1M"]).args([&src, &dst]);
    let output = std::thread::scope(|scope| {
        let beside = scope.spawn(|| reader(&mount.path("other"), &stop));
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(1200));
        stop.store(true, Ordering::Relaxed);
        beside.join().unwrap();
        child.wait_with_output().unwrap()
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let line = |text: &str| said.lines().position(|line| line.contains(text));
    let (watching, others) = (line("--idle: watching what others do with"), line("yielding"));
    assert!(said.contains("loop"), "{said}");
    assert!(watching.is_some() && others > watching && line("alone") > others, "{said}");
    same(&dst, &content(40 << 20));
    let text = fs::read_to_string(&trace).unwrap();
    let moved = |bytes: &str| text.lines().filter(|line| line.ends_with(&format!("= {bytes}"))).count();
    let (small, large) = (moved("98304"), moved("1048576"));
    assert!(small > 20 && large > 3, "{small} small transfers, {large} large ones");
}

#[test]
fn an_idle_copy_ends_whatever_else_is_asked_while_others_read() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = memory();
    let len = (40 << 20) + 777;
    let mount = disk(&scratch, len);
    let (src, dst) = (mount.path("src"), mount.path("dst"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| reader(&mount.path("other"), &stop));
        // The tests end, too, if one of them hangs.
        let copy = |words: &[&str], to: &Path| {
            let mut command = Command::new("timeout");
            command.arg("60").arg(env!("CARGO_BIN_EXE_dio-cp")).arg("--idle").args(words).arg(&src).arg(to);
            command.output().unwrap()
        };
        let results = [
            copy(&["--json"], &dst),
            copy(&["--json", "--checksum", "sha256", "--verify", "-b", "1M"], &dst),
            copy(&["--json", "--in-place", "--seek", "5", "--queue-depth", "8"], &dst),
            copy(&["-q", "--checksum", "blake3"], Path::new("-")),
        ];
        stop.store(true, Ordering::Relaxed);
        for (i, output) in results.iter().enumerate() {
            assert!(output.status.success(), "{i}: {}", String::from_utf8_lossy(&output.stderr));
            if i == 3 {
                assert!(output.stdout == content(len));
                continue;
            }
            let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(found["read"]["direct"], len, "{i}");
            // In place it grows to an odd length: the last page goes through the cache, and out of it.
            let cut = if i == 2 { len % 4096 + 5 } else { 0 };
            assert_eq!(found["written"]["direct"], len - cut, "{i}");
            assert_eq!(found["verified"], i == 1);
        }
    });
    assert_eq!(fs::read(&dst).unwrap()[5..], content(len)[..]);
    assert_eq!(cached_pages(&src), 0);
}

/// By how many ns a thread may be woken late (proc(5)).
fn slack(thread: &str) -> String {
    fs::read_to_string(format!("/proc/{thread}/timerslack_ns")).unwrap().trim().to_string()
}

#[test]
fn an_idle_copy_is_in_the_idle_class_and_leaves_its_caller_as_he_was() {
    let scratch = Scratch::new();
    if has_tool("ionice") {
        let mut child = dio_cp().args(["--idle", "-"]).arg(scratch.path("out")).stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id().to_string();
        wait_until("it is idle", || tool("ionice", ["-p", &pid]).trim() == "idle");
        wait_until("its pauses are exact", || slack(&pid) == "1");
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    } else {
        skip("needs the tool ionice");
    }
    let src = scratch.file("src", 3_000_000);
    // The test's own thread, by its number.
    let me = fs::read_link("/proc/thread-self").unwrap().file_name().unwrap().to_string_lossy().into_owned();
    sys::set_timer_slack(123_456).unwrap();
    let before = (sys::io_priority().unwrap(), "123456".to_string());
    let job = Job { idle: true, ..Job::new(&src, scratch.path("dst")) };
    dio_cp::copy(&job, &Silent, &Cleanup::default()).unwrap();
    assert_eq!((sys::io_priority().unwrap(), slack(&me)), before);
    let mut bytes = Vec::new();
    File::open(scratch.path("dst")).unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes == content(3_000_000));
}

#[test]
fn a_tebibyte_of_holes_costs_what_its_data_cost() {
    if !has_tool("strace") {
        return skip("needs the tool strace");
    }
    let scratch = Scratch::new();
    let (src, dst, trace) = (scratch.path("src"), scratch.path("dst"), scratch.path("trace"));
    let pieces: Vec<(u64, usize)> = (0..64).map(|i| (((i * 16) << 30) + (3 << 20), 1 << 20)).collect();
    sparse(&src, 1 << 40, &pieces);
    let mut command = Command::new("strace");
    command.args(["-f", "-o"]).arg(&trace).args(["-e", "trace=all"]).arg(env!("CARGO_BIN_EXE_dio-cp"));
    let output = command.args(["--json"]).args([&src, &dst]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let read = found["read"]["direct"].as_u64().unwrap() + found["read"]["resident"].as_u64().unwrap();
    assert_eq!((read, found["written"]["direct"].as_u64().unwrap()), (64 << 20, 64 << 20));
    assert_eq!((&found["bytes"], allocated(&dst)), (&(1u64 << 40).into(), allocated(&src)));
    // Per GiB of a hole it looks twice (once for the space), whatever the number of its bytes.
    let calls = fs::read_to_string(&trace).unwrap().lines().count();
    assert!(calls < 20_000, "{calls} system calls");
    for (at, len) in pieces.iter().step_by(9) {
        let mut bytes = [vec![0; *len], vec![0; *len]];
        for (file, bytes) in [&src, &dst].into_iter().zip(&mut bytes) {
            File::open(file).unwrap().read_exact_at(bytes, *at).unwrap();
        }
        assert!(bytes[0] == bytes[1] && bytes[0].iter().any(|byte| *byte != 0));
    }
}
