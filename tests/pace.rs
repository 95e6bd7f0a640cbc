//! `--rate-limit` keeps a steady rate, and `--idle` yields to other users of the disk.
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
/// On a busy machine, strace may record the time of a call late. A unit test checks the exact limit with a simulated
/// clock.
const TOLERANCE: f64 = 1.25;

/// From strace's output: when each system call `call` began, in seconds, and how many bytes it transferred. `file` is a
/// part of the file's path.
fn transfers(trace: &Path, call: &str, file: &str) -> Vec<(f64, f64)> {
    let text = fs::read_to_string(trace).unwrap();
    let matches = |line: &&str| line.contains(&format!(" {call}(")) && line.contains(file);
    let transfers = text.lines().filter(matches).filter_map(|line| {
        let (time, _) = line.split_once(' ')?;
        let (_, bytes) = line.rsplit_once("= ")?;
        Some((time.parse().ok()?, bytes.split(' ').next()?.parse().ok()?))
    });
    transfers.collect()
}

/// The largest number of bytes whose transfers began within a tenth of a second.
fn peak_bytes(transfers: &[(f64, f64)]) -> f64 {
    let window = |first: usize| {
        let inside = transfers[first..].iter().take_while(|(time, _)| time - transfers[first].0 <= 0.1);
        inside.map(|(_, bytes)| bytes).sum::<f64>()
    };
    (0..transfers.len()).map(window).fold(0.0, f64::max)
}

fn strace(trace: &Path) -> Command {
    let mut command = Command::new("strace");
    // At this rate there is one worker, which is the main thread, so -f is not needed.
    command.args(["-ttt", "-y", "-e", "trace=read,pread64,pwrite64,write", "-o"]).arg(trace);
    command.arg(binary());
    command
}

#[test]
fn a_tenth_of_a_second_transfers_at_most_its_share_and_one_block() {
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
        let transfers = transfers(&trace, call, file);
        let total: f64 = transfers.iter().map(|(_, bytes)| bytes).sum();
        assert!(total >= 20.0 * MB && transfers.len() > 300, "{call}: {total} bytes in {} calls", transfers.len());
        let peak = peak_bytes(&transfers);
        assert!(peak <= TOLERANCE * 4.0 * MB + 65536.0, "{call}: {peak} bytes in 0.1 s");
    }
}

#[test]
fn after_a_stall_of_the_producer_the_rate_is_not_exceeded() {
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
        let transfers = transfers(&trace, call, file);
        assert!(transfers.iter().map(|(_, bytes)| bytes).sum::<f64>() >= 12.0 * MB);
        let peak = peak_bytes(&transfers);
        assert!(peak <= TOLERANCE * 4.0 * MB + 65536.0, "{call}: {peak} bytes in 0.1 s");
    }
}

#[test]
fn the_block_size_follows_the_rate_unless_it_is_given() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 100_000), scratch.path("dst"));
    let used = |args: &[&str]| {
        let args = args.iter().map(|word| word.as_ref());
        let output = run(args.chain(["--json".as_ref(), src.as_os_str(), dst.as_os_str()]));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (report["block_size"].as_u64().unwrap(), report["queue_depth"].as_u64().unwrap())
    };
    assert_eq!(used(&[]), (4 << 20, 4));
    assert_eq!(used(&["--rate-limit", "100M"]), (64 << 10, 1));
    // The README names these values.
    assert_eq!(used(&["--rate-limit", "350MB"]), (80 << 10, 1));
    assert_eq!(used(&["--rate-limit", "351MB"]), (80 << 10, 2));
    assert_eq!(used(&["--rate-limit", "3GB"]), (720 << 10, 4));
    assert_eq!(used(&["--rate-limit", "100M", "-b", "1M", "--queue-depth", "3"]), (1 << 20, 3));
    for args in [["--rate-limit", "0"], ["--rate-limit", "x"], ["--rate-limit", "-1"]] {
        fails(2, [args[0].as_ref(), args[1].as_ref(), src.as_os_str(), dst.as_os_str()]);
    }
}

#[test]
fn holes_do_not_count_for_the_rate_and_a_signal_interrupts_the_wait() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    sparse(&src, 100 << 30, &[(50 << 30, 1 << 20)]);
    // At this rate, transferring the holes would take a day.
    copies(["--rate-limit".as_ref(), "1M".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert_eq!(fs::metadata(&dst).unwrap().len(), 100 << 30);
    fs::remove_file(&dst).unwrap();
    let mut child = dio_cp().args(["--rate-limit", "1", "--queue-depth", "4"]).args([&src, &dst]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none());
    tool("kill", ["-INT", &child.id().to_string()]);
    let began = Instant::now();
    assert!(!child.wait().unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(10), "the signal did not interrupt the wait");
    assert_eq!(scratch.names(), ["src"]);
}

#[test]
fn zeros_of_holes_are_streamed_at_the_rate_and_extra_workers_cost_no_time() {
    let scratch = Scratch::new();
    let src = scratch.path("src");
    sparse(&src, 6 << 20, &[(2 << 20, 1 << 20)]);
    let output_and_seconds = |args: &[&str], destination: &Path| {
        let began = Instant::now();
        let args = args.iter().map(|word| word.as_ref());
        let output = run(args.chain(["-q".as_ref(), src.as_os_str(), destination.as_os_str()]));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (output.stdout, began.elapsed().as_secs_f64())
    };
    let (bytes, seconds) = output_and_seconds(&["--rate-limit", "12M"], Path::new("-"));
    assert!(bytes == fs::read(&src).unwrap() && seconds > 0.45, "{seconds} s");
    // Most of the 64 workers find nothing to copy. Each must not wait a second for a share of the rate.
    let many_workers = ["--rate-limit", "1M", "-b", "1M", "--queue-depth", "64"];
    let (_, seconds) = output_and_seconds(&many_workers, &scratch.path("dst"));
    assert!(seconds < 20.0, "{seconds} s");
    same(&scratch.path("dst"), &fs::read(&src).unwrap());
}

/// Reads 4 KiB at a time from this file with direct I/O, until `stop` is set.
fn read_until(path: &Path, stop: &AtomicBool) {
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

/// A directory in memory. On a disk, `--idle` would yield to the other tests.
fn scratch_in_memory() -> Scratch {
    let path = Path::new("/dev/shm").join(format!("dio-cp-pace-{}", Scratch::new().0.file_name().unwrap().display()));
    fs::create_dir_all(&path).unwrap();
    Scratch(path)
}

/// A filesystem on its own disk, with a source and a file for another reader.
fn disk_with_source(scratch: &Scratch, len: usize) -> Mount {
    let mount = Mount::filesystem(scratch, "ext4", 3 * len as u64 + (40 << 20), 512);
    write(&mount.path("src"), &content(len));
    write(&mount.path("other"), &content(8 << 20));
    make_cold(&mount.path("src"));
    mount
}

#[test]
fn an_idle_copy_yields_while_another_process_reads_and_then_speeds_up() {
    needs_root_and!("losetup", "mkfs.ext4", "strace");
    let scratch = scratch_in_memory();
    let mount = disk_with_source(&scratch, 40 << 20);
    let (src, dst, trace) = (mount.path("src"), mount.path("dst"), scratch.path("trace"));
    let stop = AtomicBool::new(false);
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-e", "trace=pread64,pwrite64", "-o"]).arg(&trace).arg(binary());
    // The rate limit makes the copy last long enough. -b sets the block size that it uses while it does not yield.
    command.args(["--idle", "-v", "--rate-limit", "13M", "-b", "1M"]).args([&src, &dst]);
    let output = std::thread::scope(|scope| {
        let other_reader = scope.spawn(|| read_until(&mount.path("other"), &stop));
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(1200));
        stop.store(true, Ordering::Relaxed);
        other_reader.join().unwrap();
        child.wait_with_output().unwrap()
    });
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let line_of = |text: &str| stderr.lines().position(|line| line.contains(text));
    let (watching, yielding) = (line_of("--idle: watching for other users of"), line_of("yielding"));
    assert!(stderr.contains("loop"), "{stderr}");
    assert!(watching.is_some() && yielding > watching && line_of("at full speed again") > yielding, "{stderr}");
    same(&dst, &content(40 << 20));
    let text = fs::read_to_string(&trace).unwrap();
    let transfers_of = |bytes: &str| text.lines().filter(|line| line.ends_with(&format!("= {bytes}"))).count();
    let (small, large) = (transfers_of("98304"), transfers_of("1048576"));
    assert!(small > 20 && large > 3, "{small} small transfers, {large} large ones");
}

#[test]
fn an_idle_copy_ends_with_any_options_while_another_process_reads() {
    needs_root_and!("losetup", "mkfs.ext4");
    let scratch = scratch_in_memory();
    let len = (40 << 20) + 777;
    let mount = disk_with_source(&scratch, len);
    let (src, dst) = (mount.path("src"), mount.path("dst"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| read_until(&mount.path("other"), &stop));
        // A copy that hangs must not hang the tests.
        let copy = |args: &[&str], destination: &Path| {
            let mut command = Command::new("timeout");
            command.arg("60").arg(binary()).arg("--idle").args(args).arg(&src).arg(destination);
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
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(report["read"]["direct"], len, "{i}");
            // In place, the file grows to an unaligned length. Its last page is written through the cache and evicted.
            let buffered = if i == 2 { len % 4096 + 5 } else { 0 };
            assert_eq!(report["written"]["direct"], len - buffered, "{i}");
            assert_eq!(report["verified"], i == 1);
        }
    });
    assert_eq!(fs::read(&dst).unwrap()[5..], content(len)[..]);
    assert_eq!(cached_pages(&src), 0);
}

/// The timer slack of a thread in nanoseconds: by how much the kernel may delay its wake-ups (proc(5)).
fn timer_slack(thread: &str) -> String {
    fs::read_to_string(format!("/proc/{thread}/timerslack_ns")).unwrap().trim().to_string()
}

#[test]
fn an_idle_copy_has_the_idle_io_class_and_restores_that_of_its_caller() {
    let scratch = Scratch::new();
    if has_tool("ionice") {
        let mut child = dio_cp().args(["--idle", "-"]).arg(scratch.path("out")).stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id().to_string();
        wait_until("the I/O class is idle", || tool("ionice", ["-p", &pid]).trim() == "idle");
        wait_until("the timer slack is 1 ns", || timer_slack(&pid) == "1");
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    } else {
        skip("needs the tool ionice");
    }
    let src = scratch.file("src", 3_000_000);
    // The thread ID of this test.
    let own_thread = fs::read_link("/proc/thread-self").unwrap().file_name().unwrap().to_string_lossy().into_owned();
    sys::set_timer_slack(123_456).unwrap();
    let before = (sys::io_priority().unwrap(), "123456".to_string());
    let job = Job { idle: true, ..Job::new(&src, scratch.path("dst")) };
    dio_cp::copy(&job, &Silent, &Cleanup::default()).unwrap();
    assert_eq!((sys::io_priority().unwrap(), timer_slack(&own_thread)), before);
    let mut bytes = Vec::new();
    File::open(scratch.path("dst")).unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes == content(3_000_000));
}

#[test]
fn a_tebibyte_of_holes_costs_few_system_calls() {
    if !has_tool("strace") {
        return skip("needs the tool strace");
    }
    let scratch = Scratch::new();
    let (src, dst, trace) = (scratch.path("src"), scratch.path("dst"), scratch.path("trace"));
    let pieces: Vec<(u64, usize)> = (0..64).map(|i| (((i * 16) << 30) + (3 << 20), 1 << 20)).collect();
    sparse(&src, 1 << 40, &pieces);
    let mut command = Command::new("strace");
    command.args(["-f", "-o"]).arg(&trace).args(["-e", "trace=all"]).arg(binary());
    let output = command.args(["--json"]).args([&src, &dst]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let read = report["read"]["direct"].as_u64().unwrap() + report["read"]["resident"].as_u64().unwrap();
    assert_eq!((read, report["written"]["direct"].as_u64().unwrap()), (64 << 20, 64 << 20));
    assert_eq!((&report["bytes"], allocated(&dst)), (&(1u64 << 40).into(), allocated(&src)));
    // For each GiB of a hole, there are two lookups, one of them to reserve space.
    let calls = fs::read_to_string(&trace).unwrap().lines().count();
    assert!(calls < 20_000, "{calls} system calls");
    for (offset, len) in pieces.iter().step_by(9) {
        let mut bytes = [vec![0; *len], vec![0; *len]];
        for (file, bytes) in [&src, &dst].into_iter().zip(&mut bytes) {
            File::open(file).unwrap().read_exact_at(bytes, *offset).unwrap();
        }
        assert!(bytes[0] == bytes[1] && bytes[0].iter().any(|byte| *byte != 0));
    }
}
