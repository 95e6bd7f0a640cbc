//! --checksum, --checksum-file, --verify and --json.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::*;

/// Algorithms of --checksum, and the tools that compute them.
const TOOLS: [(&str, &str); 3] = [("sha256", "sha256sum"), ("sha512", "sha512sum"), ("blake3", "b3sum")];

#[test]
fn checksums_equal_those_of_sha256sum_sha512sum_and_b3sum() {
    needs_root_and!("sha256sum", "sha512sum", "b3sum");
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    for len in [0, 1, 4096, 100_001, (9 << 20) + 7] {
        write(&src, &content(len));
        for (algorithm, name) in TOOLS {
            let output = run(["-q", "--checksum", algorithm, src.to_str().unwrap(), dst.to_str().unwrap()]);
            assert!(output.status.success());
            let line = String::from_utf8(output.stdout).unwrap();
            assert_eq!(line, tool(name, [&dst]), "{algorithm} of {len} bytes");
            let mut command = Command::new(name);
            command.args(["-c"]);
            assert!(feed(command, line.as_bytes(), 100).status.success());
            // From a pipe to a pipe. The checksum is then on standard error.
            let mut command = dio_cp();
            command.args(["-q", "--checksum", algorithm, "-", "-"]);
            let output = feed(command, &content(len), 70_000);
            assert!(output.stdout == content(len));
            assert_eq!(String::from_utf8(output.stderr).unwrap()[..], line.replace(dst.to_str().unwrap(), "-"));
        }
    }
    // A sparse file, and an unaligned part of it. Holes count as zeros.
    sparse(&src, 20 << 20, &[(5_000_001, 70_000), ((20 << 20) - 3, 3)]);
    for (algorithm, name) in TOOLS {
        for args in
            [vec![], vec!["--sparse", "always"], vec!["--skip", "4999999", "--count", "9000001"], vec!["-b", "12K"]]
        {
            let mut command = dio_cp();
            let output =
                command.args(["-q", "--checksum", algorithm]).args(&args).arg(&src).arg(&dst).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), tool(name, [&dst]), "{algorithm} {args:?}");
        }
    }
}

#[test]
fn a_wrong_checksum_leaves_the_destination_unchanged_and_prints_both_checksums() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5_000_001), scratch.path("dst"));
    let (s, d) = (src.to_str().unwrap(), dst.to_str().unwrap());
    let correct = tool("sha256sum", [&src])[..64].to_string();
    let wrong = "0".repeat(64);
    for separator in [":", "=", "-"] {
        copies(["--checksum", &format!("sha256{separator}{correct}"), s, d]);
        copies(["--checksum", &format!("SHA256{separator}{}", correct.to_uppercase()), s, d]);
    }
    write(&dst, b"old");
    let stderr = fails(3, ["--checksum", &format!("sha256:{wrong}"), s, d]);
    assert!(stderr.contains(&correct) && stderr.contains(&wrong) && stderr.contains("is as it was"), "{stderr}");
    assert_eq!(fs::read(&dst).unwrap(), b"old");
    fs::remove_file(&dst).unwrap();
    let mut command = dio_cp();
    command.args(["--checksum", &format!("sha256:{wrong}"), "-", d]);
    assert_eq!(feed(command, &content(5_000_001), 70_000).status.code(), Some(3));
    assert_eq!(scratch.names(), ["src"]);
    for invalid in
        ["md5", "sha256:", "sha256:12", &format!("sha512:{correct}"), "sha256:zz", &format!("blake3:{correct}0")]
    {
        fails(2, ["--checksum", invalid, s, d]);
    }
    assert_eq!(scratch.names(), ["src"]);
}

#[test]
fn a_checksum_file_may_name_the_source_or_the_destination() {
    let scratch = Scratch::new();
    let (src, dst, list) = (scratch.file("os.iso", 100_001), scratch.path("dst"), scratch.path("SHA256SUMS"));
    let args = ["--checksum-file".as_ref(), list.as_os_str(), src.as_os_str(), dst.as_os_str()];
    let correct = tool("sha256sum", [&src])[..64].to_string();
    let wrong = "0".repeat(64);
    for (text, status) in [
        (format!("{wrong}  other\n{correct}  os.iso\n"), 0),
        (format!("{correct} *dst\n"), 0),
        (format!("SHA256 (os.iso) = {correct}\n"), 0),
        (tool("sha512sum", ["--tag".as_ref(), src.as_os_str()]), 0),
        (format!("{wrong}  os.iso\n"), 3),
        (format!("{correct}  other\n"), 3),
        (String::new(), 3),
    ] {
        write(&list, text.as_bytes());
        let stderr = fails(status, args);
        assert_eq!(dst.exists(), status == 0, "{text}: {stderr}");
        let _ = fs::remove_file(&dst);
    }
    // The hint is about lists that b3sum may have made.
    for (name, hints) in [("SHA256SUMS", 0), ("sums", 1)] {
        let list = scratch.path(name);
        write(&list, format!("{wrong}  os.iso\n").as_bytes());
        let stderr = fails(3, ["--checksum-file".as_ref(), list.as_os_str(), src.as_os_str(), dst.as_os_str()]);
        assert_eq!(stderr.matches("try: ").count(), hints, "{stderr}");
    }
    fs::remove_file(&list).unwrap();
    assert!(fails(1, args).contains("SHA256SUMS"));
    assert!(!dst.exists());
}

#[test]
fn verify_succeeds_for_correct_copies() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    for len in [0, 1, 4097, (9 << 20) + 7] {
        write(&src, &content(len));
        for args in [vec![], vec!["--sparse", "always"], vec!["-b", "12K"]] {
            let mut command = dio_cp();
            let output = command.args(["--verify"]).args(&args).arg(&src).arg(&dst).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            same(&dst, &content(len));
        }
    }
    sparse(&src, 30 << 20, &[(5_000_001, 70_000), ((30 << 20) - 3, 3)]);
    copies(["--verify".as_ref(), src.as_os_str(), dst.as_os_str()]);
    copies(["--verify".as_ref(), "--seek".as_ref(), "12345".as_ref(), src.as_os_str(), dst.as_os_str()]);
    if can_count_pages() {
        assert_eq!(cached_pages(&dst), 0);
    }
    for args in [["-", "/dev/null"], [src.to_str().unwrap(), "-"]] {
        assert!(fails(2, [&["--verify"][..], &args].concat()).contains("read back"));
    }
    fails(2, ["--verify".as_ref(), "--no-sync".as_ref(), src.as_os_str(), dst.as_os_str()]);
}

/// Runs `dio-cp --verify`, and flips one bit of the copy in the backing file of `disk` while the command waits for its
/// fsync. The bit belongs to the byte 7 bytes after `offset` in the source. Returns the exit status and standard error.
fn verify_with_flipped_bit(disk: &Loop, args: &[&str], bytes: &[u8], offset: usize) -> (Option<i32>, String) {
    let child = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:delay_exit=3000000:when=1"])
        .arg(binary())
        .arg("--verify")
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The sector is in the backing file once the fsync has begun.
    let sector = &bytes[offset..offset + 512];
    let start = Instant::now();
    let image_offset = loop {
        assert!(start.elapsed() < Duration::from_secs(20), "the bytes did not reach the disk");
        std::thread::sleep(Duration::from_millis(300));
        let image = fs::read(&disk.backing).unwrap();
        if let Some(index) = image.chunks(512).position(|candidate| candidate == sector) {
            break index as u64 * 512;
        }
    };
    let backing = fs::File::options().read(true).write(true).open(&disk.backing).unwrap();
    backing.write_all_at(&[sector[7] ^ 1], image_offset + 7).unwrap();
    backing.sync_all().unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn verify_finds_a_flipped_bit_in_a_file_and_on_a_device() {
    needs_root_and!("losetup", "mkfs.ext4", "strace");
    let scratch = Scratch::new();
    let bytes = content(9 << 20);
    let src = scratch.file("src", 9 << 20);
    let (src, offset) = (src.to_str().unwrap(), 5 << 20);
    let position = "the first one at byte 4194304";
    {
        // Differences are reported by range and not by block: digests of all small blocks would need too much memory.
        let disk = Loop::new(&scratch, 64 << 20, 512);
        let (code, stderr) = verify_with_flipped_bit(&disk, &["-b", "64K", "-f", src, disk.name()], &bytes, offset);
        assert_eq!(code, Some(3), "{stderr}");
        assert!(stderr.contains("1 of 3 ranges differ") && stderr.contains(position), "{stderr}");
    }
    let disk = Loop::new(&scratch, 64 << 20, 512);
    tool("mkfs.ext4", ["-q", disk.name()]);
    let mount_point = scratch.path("mnt");
    fs::create_dir(&mount_point).unwrap();
    tool("mount", [disk.device.as_os_str(), mount_point.as_os_str()]);
    let dst = mount_point.join("dst");
    write(&dst, b"old");
    let result = std::panic::catch_unwind(|| {
        let (code, stderr) = verify_with_flipped_bit(&disk, &[src, dst.to_str().unwrap()], &bytes, offset);
        assert_eq!(code, Some(3), "{stderr}");
        assert!(stderr.contains("1 of 3 ranges differ") && stderr.contains(position), "{stderr}");
        assert!(stderr.contains("is as it was"), "{stderr}");
        assert_eq!(fs::read(&dst).unwrap(), b"old");
    });
    tool("umount", [mount_point.as_os_str()]);
    result.unwrap();
}

/// The terms that a section of the man page describes, sorted.
fn described_terms(man: &str, title: &str) -> Vec<String> {
    let section = man.split(&format!(".SH \"{title}\"")).nth(1).unwrap().split(".SH").next().unwrap();
    let terms = section.lines().filter_map(|line| line.strip_prefix("\\fB"));
    let mut names: Vec<String> =
        terms.flat_map(|line| line.trim_end_matches("\\fR").split(", ")).map(str::to_string).collect();
    names.sort();
    names
}

/// The keys of an object, sorted.
fn fields(object: &serde_json::Value) -> Vec<String> {
    let mut names: Vec<String> = object.as_object().unwrap().keys().cloned().collect();
    names.sort();
    names
}

#[test]
fn the_json_report_has_the_fields_that_the_man_page_describes() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5_000_001), scratch.path("dst"));
    make_cold(&src);
    let output =
        run(["-q", "--json", "--verify", "--checksum", "sha256", src.to_str().unwrap(), dst.to_str().unwrap()]);
    assert!(output.stderr.is_empty() && output.status.success());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["bytes"], 5_000_001);
    assert_eq!(report["written"]["direct"], 5_000_001);
    assert_eq!(report["read"]["direct"], 5_000_001);
    assert_eq!(report["digest"]["hex"], tool("sha256sum", [&src])[..64]);
    assert!(report["seconds"]["verify"].as_f64().unwrap() > 0.0 && report["verified"] == true);
    let man = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/dio-cp.1")).unwrap();
    assert_eq!(fields(&report), described_terms(&man, "JSON REPORT"));
    fails(2, ["--json".as_ref(), src.as_os_str(), "-".as_ref()]);
    // A closed standard output does not undo the copy.
    let mut child = dio_cp().args(["-q", "--json"]).arg(&src).arg(&dst).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let _ = child.wait().unwrap();
    same(&dst, &content(5_000_001));
    std::io::stdout().flush().unwrap();
}

#[test]
fn reports_are_not_mixed_with_the_copied_data() {
    let scratch = Scratch::new();
    let src = scratch.file("src", 100_001);
    for args in [vec!["--checksum", "sha256"], vec!["--json"]] {
        for dst in ["/dev/stdout", "/dev/fd/1"] {
            let output = dio_cp().arg("-q").args(&args).arg(&src).arg(dst).output().unwrap();
            assert!(output.stdout == content(100_001), "{args:?} {dst}: {} bytes", output.stdout.len());
            assert!(!output.stderr.is_empty());
        }
        // Without standard output for the report, the command fails before it copies.
        let dst = scratch.path("dst");
        let line = format!("{} {} {} {} >&-", binary(), args.join(" "), src.display(), dst.display());
        let output = Command::new("sh").args(["-c", &line]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(!dst.exists());
    }
}

#[test]
fn check_cache_does_not_change_the_position_of_standard_input() {
    needs_root_and!("losetup", "setpriv");
    let scratch = Scratch::new();
    let disk = Loop::new(&scratch, 24 << 20, 512);
    copies(["-f", scratch.file("src", 24 << 20).to_str().unwrap(), disk.name()]);
    let binary = Path::new("/dev/shm").join(format!("dio-cp-proof-{}", std::process::id()));
    fs::copy(common::binary(), &binary).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
    let input = fs::File::open(&disk.device).unwrap();
    let out = fs::File::create(scratch.path("out")).unwrap();
    let output = command.args(["--check-cache", "-", "-"]).stdin(input).stdout(out).output();
    fs::remove_file(&binary).unwrap();
    output.unwrap();
    same(&scratch.path("out"), &content(24 << 20));
}

#[test]
fn a_copy_in_memory_is_not_reported_as_verified() {
    let shm = Path::new("/dev/shm");
    if !shm.is_dir() {
        return skip("there is no /dev/shm");
    }
    let scratch = Scratch::new();
    let src = scratch.file("src", 5000);
    let dst = shm.join(format!("dio-cp-verify-{}", std::process::id()));
    let output = run(["-q".as_ref(), "--json".as_ref(), "--verify".as_ref(), src.as_os_str(), dst.as_os_str()]);
    fs::remove_file(&dst).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["verified"], false);
    assert!(report["notes"].to_string().contains("not verified on the medium"), "{report}");
}
