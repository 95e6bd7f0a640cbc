//! Promise 1: DST has SRC's bytes and length, whatever the length, the alignment, the short reads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::*;

/// Every length around every boundary there is: nothing, a byte, sectors, pages, blocks, and the
/// whole queue.
fn lengths(block: usize, depth: usize) -> Vec<usize> {
    let boundaries = [0, 512, 4096, block, block * depth, block * (depth + 1)];
    let mut lengths: Vec<usize> =
        boundaries.iter().flat_map(|b| [b.saturating_sub(513), b.saturating_sub(1), *b, b + 1, b + 511]).collect();
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

const SHAPES: [(usize, usize); 5] = [(4096, 1), (4096, 4), (8192, 3), (65536, 2), (1 << 20, 4)];

#[test]
fn every_length_from_file_to_file() {
    let scratch = Scratch::new();
    for (block, depth) in SHAPES {
        for len in lengths(block, depth) {
            let (src, dst) = (scratch.file("src", len), scratch.path("dst"));
            let said = copies([
                "-b".as_ref(),
                block.to_string().as_ref(),
                "--queue-depth".as_ref(),
                depth.to_string().as_ref(),
                src.as_os_str(),
                dst.as_os_str(),
            ]);
            assert!(said.lines().last().unwrap().starts_with(&format!("{len} byte")), "{said}");
            same(&dst, &content(len));
        }
    }
}

#[test]
fn every_length_through_pipes_however_short_the_writes() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    for (block, depth) in SHAPES {
        for (i, len) in lengths(block, depth).into_iter().enumerate() {
            let chunk = [1000, 4096, 65_536, 70_001][i % 4];
            let mut command = dio_cp();
            command.args(["-q", "-b", &block.to_string(), "--queue-depth", &depth.to_string(), "-"]).arg(&dst);
            let output = feed(command, &content(len), chunk);
            assert!(output.status.success(), "{len}: {}", String::from_utf8_lossy(&output.stderr));
            same(&dst, &content(len));
        }
    }
}

#[test]
fn every_length_from_file_and_pipe_to_standard_output() {
    let scratch = Scratch::new();
    for (block, depth) in SHAPES {
        for len in lengths(block, depth) {
            let src = scratch.file("src", len);
            let words = ["-q", "-b", &block.to_string(), "--queue-depth", &depth.to_string()];
            let output = dio_cp().args(words).arg(&src).arg("-").output().unwrap();
            assert!(output.status.success() && output.stdout == content(len), "file, {len}");
            let mut command = dio_cp();
            command.args(words).args(["-", "-"]);
            let output = feed(command, &content(len), 65_536);
            assert!(output.status.success() && output.stdout == content(len), "pipe, {len}");
        }
    }
}

#[test]
fn a_pipe_that_gives_single_bytes_still_makes_full_blocks() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let mut command = dio_cp();
    command.args(["-b", "4096", "-"]).arg(&dst);
    assert!(feed(command, &content(20_000), 1).status.success());
    same(&dst, &content(20_000));
}

#[test]
fn a_fifo_is_a_source_and_a_destination() {
    let scratch = Scratch::new();
    let (a, b, dst) = (scratch.path("a"), scratch.path("b"), scratch.path("dst"));
    tool("mkfifo", [&a, &b]);
    let bytes = content(3_000_001);
    let through = dio_cp().arg(&a).arg(&b).stderr(Stdio::null()).spawn().unwrap();
    let last = dio_cp().arg(&b).arg(&dst).stderr(Stdio::null()).spawn().unwrap();
    File::options().write(true).open(&a).unwrap().write_all(&bytes).unwrap();
    for mut child in [through, last] {
        assert!(child.wait().unwrap().success());
    }
    same(&dst, &bytes);
}

#[test]
fn a_character_device_with_count() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    copies(["/dev/zero", dst.to_str().unwrap(), "--count", "10M"]);
    same(&dst, &vec![0; 10 << 20]);
    copies(["/dev/urandom", "/dev/null", "--count", "5M"]);
    copies(["/dev/null", dst.to_str().unwrap()]);
    same(&dst, &[]);
}

#[test]
fn made_up_files_are_read_until_they_end() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    for file in
        ["/proc/cpuinfo", "/proc/filesystems", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/class/net/lo/mtu"]
    {
        if !Path::new(file).exists() {
            return skip(&format!("there is no {file}"));
        }
        copies([file, dst.to_str().unwrap()]);
        if file != "/proc/cpuinfo" {
            same(&dst, &fs::read(file).unwrap()); // cpuinfo has the frequency of the moment
        }
        assert!(fs::metadata(&dst).unwrap().len() > 0, "{file}");
        fs::remove_file(&dst).unwrap(); // it has the mode of its source, which may be 0444
    }
}

#[test]
fn standard_input_that_is_a_file_is_read_from_its_position_and_left_behind_what_was_copied() {
    let scratch = Scratch::new();
    let src = scratch.file("src", 100_000);
    let dst = scratch.path("dst");
    let mut file = File::open(&src).unwrap();
    file.read_exact(&mut [0; 1000]).unwrap();
    let status = dio_cp().args(["-q", "--count", "50000", "-"]).arg(&dst).stdin(file.try_clone().unwrap()).status();
    assert!(status.unwrap().success());
    same(&dst, &content(100_000)[1000..51_000]);
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, &content(100_000)[51_000..]);
    // Behind the end there is nothing, and nothing wrong.
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(100_005)).unwrap();
    assert!(dio_cp().arg("-").arg(&dst).stdin(file).stderr(Stdio::null()).status().unwrap().success());
    same(&dst, &[]);
}

#[test]
fn standard_input_that_may_not_be_opened_again_is_read_uncached() {
    needs_root_and!("setpriv");
    // On a path that anybody may pass, unlike the target directory perhaps: standard streams only.
    let scratch = Scratch::new();
    let src = scratch.file("src", 9_000_001);
    fs::set_permissions(&src, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    make_cold(&src);
    let binary = Path::new("/dev/shm").join(format!("dio-cp-{}", std::process::id()));
    fs::copy(env!("CARGO_BIN_EXE_dio-cp"), &binary).unwrap();
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let run = |direct: &str| {
        let mut command = Command::new("setpriv");
        command.args(nobody).arg(&binary).args(["--direct", direct, "-", "-"]);
        command.stdin(File::open(&src).unwrap()).output().unwrap()
    };
    let output = run("auto");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.stdout == content(9_000_001), "{said}");
    assert!(said.contains("not direct: 9000001 bytes of standard input read uncached"), "{said}");
    assert_eq!(cached_pages(&src), 0);
    assert_eq!(run("always").status.code(), Some(4));
    fs::remove_file(&binary).unwrap();
}

#[test]
fn standard_output_that_is_a_file_is_written_at_its_position() {
    let scratch = Scratch::new();
    let (src, out) = (scratch.file("src", 70_000), scratch.path("out"));
    let mut file = File::create(&out).unwrap();
    file.write_all(b"before ").unwrap();
    assert!(dio_cp().arg(&src).arg("-").stdout(file.try_clone().unwrap()).output().unwrap().status.success());
    file.write_all(b" behind").unwrap();
    same(&out, &[b"before ", &content(70_000)[..], b" behind"].concat());
}

#[test]
fn offsets_beyond_four_gibibytes() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    let (len, at) = ((5u64 << 30) + 12_345, (4u64 << 30) + 5);
    sparse(&src, len, &[(0, 5000), (at, 100_000), (len - 700, 700)]);
    copies([&src, &dst]);
    let copy = File::open(&dst).unwrap();
    assert_eq!(copy.metadata().unwrap().len(), len);
    for (at, size) in [(0, 5000), (at, 100_000), (len - 700, 700)] {
        let mut found = vec![0; size];
        copy.read_exact_at(&mut found, at).unwrap();
        assert_eq!(found, content(size), "at {at}");
    }
    assert!(allocated(&dst) < 1 << 20);
    // And all of it through a pipe, where the holes are zeros.
    let command = format!("{} -q {} - | cmp - {}", env!("CARGO_BIN_EXE_dio-cp"), src.display(), dst.display());
    tool("sh", ["-c", &command]);
}

#[test]
fn more_than_one_system_call_can_move_is_not_cut_off() {
    let scratch = Scratch::new();
    let src = scratch.path("src");
    sparse(&src, 3 << 30, &[((3 << 30) - 10, 10)]);
    // One block of 1 GiB per call, 3 GiB of data as --sparse never sees them.
    let words = ["-q", "--sparse", "never", "-b", "1G", "--queue-depth", "1"];
    let mut child = dio_cp().args(words).arg(&src).arg("-").stdout(Stdio::piped()).spawn().unwrap();
    let mut count =
        Command::new("wc").arg("-c").stdin(child.stdout.take().unwrap()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    count.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said.trim(), (3u64 << 30).to_string());
    assert!(child.wait().unwrap().success() && count.wait().unwrap().success());
}

#[test]
fn holes_stay_holes_become_holes_or_are_written() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    sparse(&src, 40 << 20, &[(3 << 20, 100_000), (20 << 20, 1 << 20), ((40 << 20) - 100, 100)]);
    let bytes = fs::read(&src).unwrap();
    for (sparse, most) in [("auto", 2 << 20), ("always", 2 << 20), ("never", u64::MAX)] {
        copies(["--sparse".as_ref(), sparse.as_ref(), src.as_os_str(), dst.as_os_str()]);
        same(&dst, &bytes);
        assert!(allocated(&dst) <= most, "{sparse}: {}", allocated(&dst));
        assert!(sparse != "never" || allocated(&dst) >= 40 << 20, "{}", allocated(&dst));
    }
    // Zeros that are no holes: auto writes them, always does not, from a pipe too.
    write(&src, &bytes);
    copies([&src, &dst]);
    assert!(allocated(&dst) >= 40 << 20);
    copies(["--sparse".as_ref(), "always".as_ref(), src.as_os_str(), dst.as_os_str()]);
    same(&dst, &bytes);
    assert!(allocated(&dst) <= 2 << 20, "{}", allocated(&dst));
    let mut command = dio_cp();
    command.args(["--sparse", "always", "-"]).arg(&dst);
    assert!(feed(command, &bytes, 65_536).status.success());
    same(&dst, &bytes);
    assert!(allocated(&dst) <= 2 << 20);
}

#[test]
fn a_file_that_is_one_hole() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    for len in [1, 4096, 5000, 9 << 20] {
        sparse(&src, len, &[]);
        copies([&src, &dst]);
        same(&dst, &vec![0; len as usize]);
        assert_eq!(allocated(&dst), 0);
    }
}

#[test]
fn a_thousand_extents() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    let pieces: Vec<(u64, usize)> = (0..1000).map(|i| (i * 65_536 + (i % 7) * 512, 1000 + i as usize)).collect();
    sparse(&src, 70 << 20, &pieces);
    copies([&src, &dst]);
    same(&dst, &fs::read(&src).unwrap());
    assert!(allocated(&dst) <= allocated(&src) + (64 << 10));
}

#[test]
fn the_size_must_be_as_announced() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 10_000), scratch.path("dst"));
    let (s, d) = (src.to_str().unwrap(), dst.to_str().unwrap());
    copies([s, d, "--size", "10000"]);
    fs::remove_file(&dst).unwrap();
    assert!(fails(3, [s, d, "--size", "9999"]).contains("--size requires 9999"));
    for (len, size, status) in [
        (10_000, "10000", 0),
        (10_000, "9999", 3),
        (10_000, "10001", 3),
        (0, "0", 0),
        (1, "0", 3),
        (0, "1", 3),
        (5 << 20, "5M", 0),
        (9 << 20, "5M", 3),
    ] {
        let mut command = dio_cp();
        command.args(["-", d, "--size", size]);
        let output = feed(command, &content(len), 65_536);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{len} as {size}: {said}");
        assert_eq!(dst.exists(), status == 0, "{len} as {size}");
        let _ = fs::remove_file(&dst);
    }
    assert_eq!(scratch.names(), ["src"]);
}
