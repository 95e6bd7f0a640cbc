//! Promise 1: DST has exactly SRC's bytes and length, for any length and alignment, and with short reads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::*;

/// Lengths at and around each boundary: zero, a sector, a page, a block, and all blocks of the queue.
fn lengths(block: usize, depth: usize) -> Vec<usize> {
    let boundaries = [0, 512, 4096, block, block * depth, block * (depth + 1)];
    let mut lengths: Vec<usize> =
        boundaries.iter().flat_map(|b| [b.saturating_sub(513), b.saturating_sub(1), *b, b + 1, b + 511]).collect();
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

/// Block sizes and queue depths.
const BLOCKS_AND_DEPTHS: [(usize, usize); 5] = [(4096, 1), (4096, 4), (8192, 3), (65536, 2), (1 << 20, 4)];

#[test]
fn files_of_every_length_are_copied_exactly() {
    let scratch = Scratch::new();
    for (block, depth) in BLOCKS_AND_DEPTHS {
        for len in lengths(block, depth) {
            let (src, dst) = (scratch.file("src", len), scratch.path("dst"));
            let stderr = copies([
                "-b".as_ref(),
                block.to_string().as_ref(),
                "--queue-depth".as_ref(),
                depth.to_string().as_ref(),
                src.as_os_str(),
                dst.as_os_str(),
            ]);
            assert!(stderr.lines().last().unwrap().starts_with(&format!("{len} byte")), "{stderr}");
            same(&dst, &content(len));
        }
    }
}

#[test]
fn pipes_of_every_length_are_copied_exactly_with_writes_of_any_size() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    for (block, depth) in BLOCKS_AND_DEPTHS {
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
fn files_and_pipes_of_every_length_are_copied_exactly_to_standard_output() {
    let scratch = Scratch::new();
    for (block, depth) in BLOCKS_AND_DEPTHS {
        for len in lengths(block, depth) {
            let src = scratch.file("src", len);
            let args = ["-q", "-b", &block.to_string(), "--queue-depth", &depth.to_string()];
            let output = dio_cp().args(args).arg(&src).arg("-").output().unwrap();
            assert!(output.status.success() && output.stdout == content(len), "file, {len}");
            let mut command = dio_cp();
            command.args(args).args(["-", "-"]);
            let output = feed(command, &content(len), 65_536);
            assert!(output.status.success() && output.stdout == content(len), "pipe, {len}");
        }
    }
}

#[test]
fn a_pipe_that_delivers_single_bytes_is_copied_exactly() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let mut command = dio_cp();
    command.args(["-b", "4096", "-"]).arg(&dst);
    assert!(feed(command, &content(20_000), 1).status.success());
    same(&dst, &content(20_000));
}

#[test]
fn a_fifo_may_be_source_and_destination() {
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
fn a_character_device_is_copied_up_to_count() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    copies(["/dev/zero", dst.to_str().unwrap(), "--count", "10M"]);
    same(&dst, &vec![0; 10 << 20]);
    copies(["/dev/urandom", "/dev/null", "--count", "5M"]);
    copies(["/dev/null", dst.to_str().unwrap()]);
    same(&dst, &[]);
}

#[test]
fn proc_and_sys_files_are_read_to_their_end() {
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
            same(&dst, &fs::read(file).unwrap()); // cpuinfo has the current frequencies, which change
        }
        assert!(fs::metadata(&dst).unwrap().len() > 0, "{file}");
        fs::remove_file(&dst).unwrap(); // it has the mode of the source, which may be read-only
    }
}

#[test]
fn a_file_as_standard_input_is_read_from_its_position_and_left_after_the_copied_bytes() {
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
    // A position past the end gives an empty copy and no error.
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(100_005)).unwrap();
    assert!(dio_cp().arg("-").arg(&dst).stdin(file).stderr(Stdio::null()).status().unwrap().success());
    same(&dst, &[]);
}

#[test]
fn a_file_as_standard_input_that_cannot_be_reopened_is_read_uncached() {
    needs_root_and!("setpriv");
    // Another user may not reach the target directory, so the binary is copied, and only standard streams are used.
    let scratch = Scratch::new();
    let src = scratch.file("src", 9_000_001);
    fs::set_permissions(&src, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    make_cold(&src);
    let binary = Path::new("/dev/shm").join(format!("dio-cp-{}", std::process::id()));
    fs::copy(common::binary(), &binary).unwrap();
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let run = |direct: &str| {
        let mut command = Command::new("setpriv");
        command.args(nobody).arg(&binary).args(["--direct", direct, "-", "-"]);
        command.stdin(File::open(&src).unwrap()).output().unwrap()
    };
    let output = run("auto");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.stdout == content(9_000_001), "{stderr}");
    assert!(stderr.contains("not direct: 9000001 bytes of standard input read uncached"), "{stderr}");
    assert_eq!(cached_pages(&src), 0);
    assert_eq!(run("always").status.code(), Some(4));
    fs::remove_file(&binary).unwrap();
}

#[test]
fn a_file_as_standard_output_is_written_at_its_position() {
    let scratch = Scratch::new();
    let (src, out) = (scratch.file("src", 70_000), scratch.path("out"));
    let mut file = File::create(&out).unwrap();
    file.write_all(b"before ").unwrap();
    assert!(dio_cp().arg(&src).arg("-").stdout(file.try_clone().unwrap()).output().unwrap().status.success());
    file.write_all(b" after").unwrap();
    same(&out, &[b"before ", &content(70_000)[..], b" after"].concat());
}

#[test]
fn offsets_above_4_gib_are_copied_exactly() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    let (len, offset) = ((5u64 << 30) + 12_345, (4u64 << 30) + 5);
    sparse(&src, len, &[(0, 5000), (offset, 100_000), (len - 700, 700)]);
    copies([&src, &dst]);
    let copy = File::open(&dst).unwrap();
    assert_eq!(copy.metadata().unwrap().len(), len);
    for (offset, size) in [(0, 5000), (offset, 100_000), (len - 700, 700)] {
        let mut actual = vec![0; size];
        copy.read_exact_at(&mut actual, offset).unwrap();
        assert_eq!(actual, content(size), "at {offset}");
    }
    assert!(allocated(&dst) < 1 << 20);
    // The same through a pipe, where the holes are zeros.
    let command = format!("{} -q {} - | cmp - {}", binary(), src.display(), dst.display());
    tool("sh", ["-c", &command]);
}

#[test]
fn more_data_than_one_system_call_can_transfer_is_not_truncated() {
    let scratch = Scratch::new();
    let src = scratch.path("src");
    sparse(&src, 3 << 30, &[((3 << 30) - 10, 10)]);
    // One block of 1 GiB per call. With --sparse never, the holes are data, so 3 GiB are read.
    let args = ["-q", "--sparse", "never", "-b", "1G", "--queue-depth", "1"];
    let mut child = dio_cp().args(args).arg(&src).arg("-").stdout(Stdio::piped()).spawn().unwrap();
    let mut count =
        Command::new("wc").arg("-c").stdin(child.stdout.take().unwrap()).stdout(Stdio::piped()).spawn().unwrap();
    let mut bytes = String::new();
    count.stdout.take().unwrap().read_to_string(&mut bytes).unwrap();
    assert_eq!(bytes.trim(), (3u64 << 30).to_string());
    assert!(child.wait().unwrap().success() && count.wait().unwrap().success());
}

#[test]
fn sparse_keeps_holes_makes_holes_or_writes_zeros() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    sparse(&src, 40 << 20, &[(3 << 20, 100_000), (20 << 20, 1 << 20), ((40 << 20) - 100, 100)]);
    let bytes = fs::read(&src).unwrap();
    for (sparse, limit) in [("auto", 2 << 20), ("always", 2 << 20), ("never", u64::MAX)] {
        copies(["--sparse".as_ref(), sparse.as_ref(), src.as_os_str(), dst.as_os_str()]);
        same(&dst, &bytes);
        assert!(allocated(&dst) <= limit, "{sparse}: {}", allocated(&dst));
        assert!(sparse != "never" || allocated(&dst) >= 40 << 20, "{}", allocated(&dst));
    }
    // Zeros in a source without holes: auto writes them; always makes holes, also when reading from a pipe.
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
fn a_file_that_is_one_hole_is_copied_as_a_hole() {
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
fn a_file_with_a_thousand_extents_is_copied_exactly() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    let pieces: Vec<(u64, usize)> = (0..1000).map(|i| (i * 65_536 + (i % 7) * 512, 1000 + i as usize)).collect();
    sparse(&src, 70 << 20, &pieces);
    copies([&src, &dst]);
    same(&dst, &fs::read(&src).unwrap());
    assert!(allocated(&dst) <= allocated(&src) + (64 << 10));
}

#[test]
fn the_size_must_be_the_one_given_by_size() {
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
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{len} as {size}: {stderr}");
        assert_eq!(dst.exists(), status == 0, "{len} as {size}");
        let _ = fs::remove_file(&dst);
    }
    assert_eq!(scratch.names(), ["src"]);
}
