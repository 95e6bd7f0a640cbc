//! `--resume`: a later run resumes from the temporary file of an interrupted copy, if that file can be trusted. Without
//! `--resume`, no temporary file is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Output};
use std::time::{Duration, Instant};

use common::partial::{ATTRIBUTE, partial, record};
use common::*;

const LEN: usize = (48 << 20) + 333;

/// Waits until the copy has recorded that 4 MiB are durable.
fn wait_for_record(child: &mut Child, partial: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while durable(partial).is_none_or(|bytes| bytes < 4 << 20) {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "nothing was recorded");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The number of durable bytes that the temporary file records.
fn durable(partial: &Path) -> Option<u64> {
    let record = xattr::get(partial, ATTRIBUTE).ok()??;
    serde_json::from_slice::<serde_json::Value>(&record).unwrap()["durable"].as_u64()
}

/// Copies `src` and interrupts the copy by this signal after a part is durable.
fn interrupt_copy(src: &Path, dst: &Path, signal: &str) {
    // The rate limit makes the copy last until a record exists.
    let mut child = dio_cp().args(["--resume", "-q", "--rate-limit", "16M"]).args([src, dst]).spawn().unwrap();
    wait_for_record(&mut child, &partial(dst));
    tool("kill", [&format!("-{signal}"), &child.id().to_string()]);
    assert!(!child.wait().unwrap().success());
}

/// Resumes the copy with further arguments. Returns the report and standard error.
#[track_caller]
fn resume(src: &str, dst: &Path, args: &[&str]) -> (serde_json::Value, String) {
    let output = run([src, dst.to_str().unwrap(), "--resume", "--json"].into_iter().chain(args.iter().copied()));
    (report(&output), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[track_caller]
fn report(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// True if the filesystem of the target directory supports extended attributes. Otherwise the test is skipped.
fn supports_attributes(scratch: &Scratch) -> bool {
    let probe = scratch.file("probe", 1);
    let supported = xattr::set(&probe, ATTRIBUTE, b"x").is_ok();
    fs::remove_file(probe).unwrap();
    if !supported {
        skip("needs extended attributes");
    }
    supported
}

#[test]
fn an_interrupted_copy_resumes_after_the_durable_bytes() {
    let scratch = Scratch::new();
    if !supports_attributes(&scratch) {
        return;
    }
    let (src, dst) = (scratch.file("src", 300 << 20), scratch.path("dst"));
    for signal in ["KILL", "INT", "TERM"] {
        interrupt_copy(&src, &dst, signal);
        assert_eq!(scratch.names(), [".dst.partial.dio-cp", "src"]);
        let kept = durable(&partial(&dst)).unwrap();
        assert!(kept > 0 && kept < 300 << 20);
        let (report, stderr) = resume(src.to_str().unwrap(), &dst, &["--checksum", "blake3"]);
        assert!(stderr.contains("resuming"), "{stderr}");
        assert_eq!(report["resumed"], kept - kept % (64 << 10));
        assert_eq!(report["bytes"], 300 << 20);
        let read = |method: &str| report["read"][method].as_u64().unwrap();
        assert_eq!(read("direct") + read("resident") + report["resumed"].as_u64().unwrap(), 300 << 20);
        assert_eq!(report["cached_pages"], 0);
        assert_eq!(scratch.names(), ["dst", "src"]);
        same(&dst, &content(300 << 20));
        assert_eq!(xattr::get(&dst, ATTRIBUTE).unwrap(), None);
        if has_tool("b3sum") {
            let digest = tool("b3sum", ["--no-names", src.to_str().unwrap()]);
            assert_eq!(report["digest"]["hex"].as_str().unwrap(), digest.trim());
        }
        assert_eq!(fs::metadata(&dst).unwrap().permissions().mode(), fs::metadata(&src).unwrap().permissions().mode());
        fs::remove_file(&dst).unwrap();
    }
}

#[test]
fn after_a_signal_the_error_says_what_is_kept_and_that_the_destination_is_unchanged() {
    let scratch = Scratch::new();
    if !supports_attributes(&scratch) {
        return;
    }
    let (src, dst) = (scratch.file("src", 200 << 20), scratch.file("dst", 1000));
    let mut command = dio_cp();
    command.args(["--resume", "--rate-limit", "16M"]).args([&src, &dst]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_for_record(&mut child, &partial(&dst));
    tool("kill", ["-INT", &child.id().to_string()]);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("is as it was") && stderr.contains("are kept in") && stderr.contains("--resume"),
        "{stderr}"
    );
    same(&dst, &content(1000));
    let mode = fs::Permissions::from_mode(0o640);
    fs::set_permissions(&dst, mode).unwrap();
    resume(src.to_str().unwrap(), &dst, &[]);
    same(&dst, &content(200 << 20));
    assert_eq!(fs::metadata(&dst).unwrap().permissions().mode() & 0o777, 0o640);
}

/// Creates the temporary file that an interrupted copy of `src` would leave, with this number of durable bytes and this
/// content.
fn create_partial(src: &Path, dst: &Path, durable: u64, bytes: &[u8]) {
    common::partial::create_partial(dst, &record(src, durable), bytes);
}

#[test]
fn only_a_temporary_file_with_a_matching_record_is_resumed() {
    let scratch = Scratch::new();
    if !supports_attributes(&scratch) {
        return;
    }
    let (src, dst) = (scratch.file("src", LEN), scratch.path("dst"));
    let bytes = content(LEN);
    let mut wrong = bytes.clone();
    wrong[..9 << 20].fill(7);
    let src_arg = src.to_str().unwrap();
    // The control: with a matching record, the copy resumes. Otherwise the cases below would prove nothing.
    create_partial(&src, &dst, 9 << 20, &wrong);
    let (report, _) = resume(src_arg, &dst, &[]);
    assert_eq!(report["resumed"], 9 << 20);
    same(&dst, &wrong);
    /// Changes the source (first argument) or the temporary file.
    type Change = fn(&Path, &Path);
    let cases: [(&str, Change, &str); 11] = [
        (
            "another modification time",
            |src, _| {
                File::open(src).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
            },
            "modification time",
        ),
        (
            "writable by others",
            |_, partial| {
                fs::set_permissions(partial, fs::Permissions::from_mode(0o622)).unwrap();
            },
            "another user",
        ),
        (
            "a second name",
            |_, partial| fs::hard_link(partial, partial.with_file_name("second")).unwrap(),
            "another user",
        ),
        ("no record", |_, partial| xattr::remove(partial, ATTRIBUTE).unwrap(), "does not say"),
        ("an invalid record", |_, partial| xattr::set(partial, ATTRIBUTE, b"{]").unwrap(), "does not say"),
        (
            "a record without a source",
            |_, partial| {
                xattr::set(partial, ATTRIBUTE, br#"{"durable": 8388608, "of": {}}"#).unwrap();
            },
            "another source",
        ),
        (
            "a record that a terminal would obey",
            |_, partial| {
                xattr::set(partial, ATTRIBUTE, br#"{"durable": 8388608, "of": {"file": "\u001b[2J"}}"#).unwrap();
            },
            "its file was \\u{1b}[2J, and is",
        ),
        (
            "shorter than the record says",
            |_, partial| {
                File::options().write(true).open(partial).unwrap().set_len(4096).unwrap();
            },
            "shorter",
        ),
        (
            "a symbolic link",
            |src, partial| {
                fs::rename(partial, partial.with_file_name("second")).unwrap();
                std::os::unix::fs::symlink(partial.with_file_name("second"), partial).unwrap();
                assert!(src.exists());
            },
            "symbolic link",
        ),
        (
            "another file",
            |src, _| {
                let bytes = fs::read(src).unwrap();
                let time = fs::metadata(src).unwrap().modified().unwrap();
                write(&src.with_file_name("second"), &bytes);
                fs::rename(src.with_file_name("second"), src).unwrap();
                File::open(src).unwrap().set_modified(time).unwrap();
            },
            "its file was",
        ),
        (
            "another length",
            |src, _| {
                let time = fs::metadata(src).unwrap().modified().unwrap();
                let file = File::options().write(true).open(src).unwrap();
                file.write_all_at(b"x", LEN as u64).unwrap();
                file.set_modified(time).unwrap();
            },
            "length",
        ),
    ];
    for (case, change, reason) in cases {
        write(&src, &bytes);
        create_partial(&src, &dst, 9 << 20, &wrong);
        change(&src, &partial(&dst));
        let (report, stderr) = resume(src_arg, &dst, &[]);
        assert_eq!(report["resumed"], 0, "{case}: {stderr}");
        assert!(stderr.contains("starting over") && stderr.contains(reason), "{case}: {stderr}");
        same(&dst, &fs::read(&src).unwrap());
        assert!(!partial(&dst).exists());
        let second = dst.with_file_name("second");
        if second.exists() {
            same(&second, &wrong);
            fs::remove_file(second).unwrap();
        }
    }
    // Another part of the same file.
    create_partial(&src, &dst, 9 << 20, &wrong);
    write(&src, &bytes);
    create_partial(&src, &dst, 9 << 20, &wrong);
    let (report, stderr) = resume(src_arg, &dst, &["--skip", "1"]);
    assert_eq!(report["resumed"], 0, "{stderr}");
    same(&dst, &bytes[1..]);
}

#[test]
fn a_temporary_file_of_another_user_is_not_resumed() {
    needs_root_and!();
    let scratch = Scratch::new();
    if !supports_attributes(&scratch) {
        return;
    }
    let (src, dst) = (scratch.file("src", LEN), scratch.path("dst"));
    create_partial(&src, &dst, 9 << 20, &vec![7; LEN]);
    std::os::unix::fs::chown(partial(&dst), Some(65534), Some(65534)).unwrap();
    let (report, stderr) = resume(src.to_str().unwrap(), &dst, &[]);
    assert_eq!(report["resumed"], 0, "{stderr}");
    same(&dst, &content(LEN));
}

#[test]
fn a_copy_that_only_lacked_its_name_is_resumed() {
    let scratch = Scratch::new();
    if !supports_attributes(&scratch) {
        return;
    }
    for len in [8 << 20, (8 << 20) + 1, LEN] {
        let (src, dst) = (scratch.file("src", len), scratch.path("dst"));
        create_partial(&src, &dst, len as u64, &[content(len), vec![0; 4096 * 3]].concat());
        let (report, _) = resume(src.to_str().unwrap(), &dst, &["--checksum", "sha256", "--verify"]);
        assert_eq!(report["resumed"], len - len % (64 << 10));
        assert_eq!(report["bytes"], len);
        same(&dst, &content(len));
        let expected = tool("sha256sum", [src.to_str().unwrap()]);
        assert_eq!(report["digest"]["hex"].as_str().unwrap(), &expected[..64]);
        // This run has not read the source for the earlier bytes, so it cannot compare them.
        assert_eq!(report["verified"], false);
        assert!(report["notes"].to_string().contains("not compared with the source"));
    }
}

#[test]
fn after_a_wrong_checksum_nothing_is_kept() {
    let scratch = Scratch::new();
    if !supports_attributes(&scratch) {
        return;
    }
    let (src, dst) = (scratch.file("src", LEN), scratch.path("dst"));
    create_partial(&src, &dst, 8 << 20, &vec![7; LEN]);
    let expected = format!("sha256:{}", &tool("sha256sum", [src.to_str().unwrap()])[..64]);
    let args = [src.to_str().unwrap(), dst.to_str().unwrap(), "--resume", "--checksum", &expected];
    fails(3, args);
    assert_eq!(scratch.names(), ["src"]);
    copies(args);
    same(&dst, &content(LEN));
}

#[test]
fn after_a_failed_sync_nothing_is_kept() {
    if !has_tool("strace") {
        return skip("needs the tool strace");
    }
    let scratch = Scratch::new();
    if !supports_attributes(&scratch) {
        return;
    }
    let (src, dst) = (scratch.file("src", 40 << 20), scratch.path("dst"));
    // Only one call fails, because the kernel reports such an error once. The first fsync is that of the directory.
    for (inject, block) in [("fdatasync:error=EIO:when=1", "4K"), ("fsync:error=EIO:when=2", "4M")] {
        let (log, inject) = (scratch.path("log"), format!("inject={inject}"));
        let args = ["-f", "-o", log.to_str().unwrap(), "-e", "trace=fsync,fdatasync", "-e", &inject];
        let mut command = std::process::Command::new("strace");
        command.args(args).arg(binary()).args(["--resume", "-b", block, "--queue-depth", "1"]);
        let output = command.args([&src, &dst]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(fs::read_to_string(&log).unwrap().contains("INJECTED"), "the fault did not happen: {stderr}");
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("Input/output error") && !stderr.contains("are kept"), "{stderr}");
        fs::remove_file(log).unwrap();
        assert_eq!(scratch.names(), ["src"]);
    }
}

#[test]
fn a_temporary_file_that_was_replaced_during_the_copy_is_not_renamed() {
    let scratch = Scratch::new();
    if !supports_attributes(&scratch) {
        return;
    }
    let (src, dst) = (scratch.file("src", 30 << 20), scratch.path("dst"));
    let mut command = dio_cp();
    command.args(["--resume", "--rate-limit", "16M"]).args([&src, &dst]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_for_record(&mut child, &partial(&dst));
    fs::remove_file(partial(&dst)).unwrap();
    write(&partial(&dst), b"another process");
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("removed or replaced") && !stderr.contains("are kept"), "{stderr}");
    same(&partial(&dst), b"another process");
    assert_eq!(scratch.names(), [".dst.partial.dio-cp", "src"]);
}

#[test]
fn the_temporary_file_survives_a_failed_run_and_another_block_size() {
    let scratch = Scratch::new();
    if !supports_attributes(&scratch) {
        return;
    }
    let (src, dst) = (scratch.file("src", LEN), scratch.path("dst"));
    let (src_arg, dst_arg) = (src.to_str().unwrap(), dst.to_str().unwrap());
    create_partial(&src, &dst, 9 << 20, &content(LEN));
    let list = scratch.path("SHA256SUMS");
    fs::write(&list, format!("{}  other\n", "0".repeat(64))).unwrap();
    let stderr = fails(3, [src_arg, dst_arg, "--resume", "--checksum-file", list.to_str().unwrap()]);
    assert!(stderr.contains("9.0 MiB are kept"), "{stderr}");
    // Only the kept bytes are allocated.
    assert!(allocated(&partial(&dst)) <= 10 << 20);
    fs::remove_file(list).unwrap();
    let args = ["--direct", "never", "-b", "100001", "--checksum", "sha256"];
    let (report, _) = resume(src_arg, &dst, &args);
    assert_eq!((&report["resumed"], &report["written"]["direct"]), (&(9 << 20).into(), &0.into()));
    assert_eq!(report["digest"]["hex"].as_str().unwrap(), &tool("sha256sum", [src_arg])[..64]);
    same(&dst, &content(LEN));
    create_partial(&src, &dst, 9 << 20, &content(LEN));
    let (report, _) = resume(src_arg, &dst, &["-b", "64M", "--checksum", "blake3"]);
    assert_eq!(report["resumed"], 9 << 20);
    same(&dst, &content(LEN));
}

#[test]
fn a_copy_that_was_interrupted_within_a_hole_is_resumed() {
    let scratch = Scratch::new();
    if !supports_attributes(&scratch) {
        return;
    }
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    let mut bytes = content(6 << 20);
    bytes.resize(300 << 20, 0);
    write(&src, &bytes);
    let mut command = dio_cp();
    command.args(["--resume", "-q", "--rate-limit", "16M", "--sparse", "always"]).args([&src, &dst]);
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while durable(&partial(&dst)).is_none_or(|bytes| bytes < 8 << 20) {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "nothing was recorded");
        std::thread::sleep(Duration::from_millis(10));
    }
    tool("kill", ["-KILL", &child.id().to_string()]);
    child.wait().unwrap();
    let (report, stderr) = resume(src.to_str().unwrap(), &dst, &["--sparse", "always"]);
    assert!(report["resumed"].as_u64().unwrap() >= 8 << 20, "{stderr}");
    same(&dst, &bytes);
}

#[test]
fn special_names_and_empty_files_work_with_resume() {
    let scratch = Scratch::new();
    if !supports_attributes(&scratch) {
        return;
    }
    let (src, dst) = (scratch.file("src", LEN), scratch.path("dst"));
    // The source is the temporary file of this destination.
    fs::rename(&src, partial(&dst)).unwrap();
    let stderr = fails(1, [partial(&dst).to_str().unwrap(), dst.to_str().unwrap(), "--resume"]);
    assert!(stderr.contains("it is the partial file of"), "{stderr}");
    fs::rename(partial(&dst), &src).unwrap();
    // An empty source.
    let empty = scratch.file("empty", 0);
    copies([empty.to_str().unwrap(), dst.to_str().unwrap(), "--resume"]);
    same(&dst, &[]);
    // The attribute of a replaced file is not copied to the new file.
    xattr::set(&dst, ATTRIBUTE, b"{}").unwrap();
    resume(src.to_str().unwrap(), &dst, &[]);
    assert_eq!(xattr::get(&dst, ATTRIBUTE).unwrap(), None);
    for last in ["a", "b"] {
        let long = scratch.path(&format!("{}{last}", "ä".repeat(127)));
        resume(src.to_str().unwrap(), &long, &[]);
        same(&long, &content(LEN));
        fs::remove_file(long).unwrap();
    }
    let stderr = fails(1, [src.to_str().unwrap(), scratch.path("no/dst").to_str().unwrap(), "--resume"]);
    assert!(stderr.contains("mkdir -p"), "{stderr}");
    assert_eq!(scratch.names(), ["dst", "empty", "src"]);
}

#[test]
fn a_second_copy_to_the_same_destination_is_refused() {
    let scratch = Scratch::new();
    if !supports_attributes(&scratch) {
        return;
    }
    let (src, dst) = (scratch.file("src", 200 << 20), scratch.path("dst"));
    let mut first = dio_cp().args(["--resume", "-q", "--rate-limit", "16M"]).args([&src, &dst]).spawn().unwrap();
    wait_for_record(&mut first, &partial(&dst));
    let stderr = fails(1, [src.to_str().unwrap(), dst.to_str().unwrap(), "--resume"]);
    assert!(stderr.contains("another copy to it is running"), "{stderr}");
    tool("kill", ["-INT", &first.id().to_string()]);
    first.wait().unwrap();
    resume(src.to_str().unwrap(), &dst, &[]);
    same(&dst, &content(200 << 20));
    assert_eq!(scratch.names(), ["dst", "src"]);
}

#[test]
fn resume_is_refused_for_pipes_devices_and_in_place_copies() {
    let scratch = Scratch::new();
    let src = scratch.file("src", 10);
    let dst = scratch.path("dst");
    let (src_arg, dst_arg) = (src.to_str().unwrap(), dst.to_str().unwrap());
    for args in [["-", dst_arg], [src_arg, "-"], ["/dev/zero", dst_arg], [src_arg, "/dev/null"]] {
        fails(2, args.into_iter().chain(["--resume"]));
    }
    fails(2, [src_arg, dst_arg, "--resume", "--in-place"]);
    fails(2, [src_arg, dst_arg, "--resume", "--seek", "1"]);
    assert_eq!(scratch.names(), ["src"]);
}

#[test]
fn a_sparse_copy_resumes_after_a_full_disk() {
    needs_root_and!("mkfs.ext4", "losetup");
    let scratch = Scratch::new();
    let mount = Mount::filesystem(&scratch, "ext4", 64 << 20, 512);
    let (src, dst) = (scratch.path("src"), mount.path("dst"));
    let pieces = [(0, 5 << 20), (30 << 20, 5 << 20), (70 << 20, (6 << 20) + 5)];
    sparse(&src, 100 << 20, &pieces);
    // Fills the disk, so that the copy fails in the middle. With --sparse always, no space is reserved in advance.
    let ballast = mount.path("ballast");
    write(&ballast, &vec![1; 45 << 20]);
    let args = [src.to_str().unwrap(), dst.to_str().unwrap(), "--sparse", "always", "--queue-depth", "1", "-b", "1M"];
    let stderr = fails(1, args.into_iter().chain(["--resume"]));
    assert!(stderr.contains("No space left") && stderr.contains("are kept"), "{stderr}");
    fs::remove_file(&ballast).unwrap();
    let (report, _) = resume(args[0], &dst, &args[2..]);
    assert!(report["resumed"].as_u64().unwrap() > 5 << 20, "{report}");
    same(&dst, &fs::read(&src).unwrap());
    assert!(allocated(&dst) < 20 << 20);
    // Without --resume, no file is left.
    fs::remove_file(&dst).unwrap();
    write(&ballast, &vec![1; 45 << 20]);
    fails(1, args);
    assert_eq!(names(&mount.at), ["ballast", "lost+found"]);
}

#[test]
fn the_recorded_bytes_survive_a_power_failure() {
    needs_root_and!("mkfs.ext4", "mkfs.xfs", "losetup");
    for kind in ["ext4", "xfs"] {
        let scratch = Scratch::new();
        let src = scratch.file("src", 300 << 20);
        let disk = Loop::new(&scratch, 700 << 20, 512);
        let (device, backing) = (disk.name().to_string(), disk.backing.clone());
        tool(&format!("mkfs.{kind}"), ["-q", &device]);
        let mount = Mount::with(&scratch, &["-t", kind, &device], Some(disk));
        let dst = mount.path("dst");
        let mut command = dio_cp();
        let mut child = command.args(["--resume", "-q", "--rate-limit", "16M"]).args([&src, &dst]).spawn().unwrap();
        wait_for_record(&mut child, &partial(&dst));
        // The fsync for the second record makes the first record durable.
        let first = durable(&partial(&dst)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while durable(&partial(&dst)).unwrap() == first {
            assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "nothing more was recorded");
        }
        tool("kill", ["-STOP", &child.id().to_string()]);
        let image = scratch.path("image");
        tool("cp", ["--sparse=always".as_ref(), backing.as_os_str(), image.as_os_str()]);
        tool("kill", ["-KILL", &child.id().to_string()]);
        child.wait().unwrap();
        drop(mount); // both filesystems have the same UUID and must not be mounted at the same time
        let after = Mount::with(&scratch, &["-t", kind, "-o", "loop", image.to_str().unwrap()], None);
        let partial_file = partial(&after.path("dst"));
        let kept = durable(&partial_file).expect("the record is lost");
        assert!(kept >= first, "{kind}: {kept} < {first}");
        let mut actual = vec![0; kept as usize];
        File::open(&partial_file).unwrap().read_exact_at(&mut actual, 0).unwrap();
        assert!(actual == content(300 << 20)[..kept as usize], "{kind}: recorded bytes are lost");
        resume(src.to_str().unwrap(), &after.path("dst"), &[]);
        same(&after.path("dst"), &content(300 << 20));
    }
}

#[test]
fn without_extended_attributes_nothing_is_kept_and_a_note_says_so() {
    needs_root_and!("bindfs", "fusermount3");
    let scratch = Scratch::new();
    let (under, mount_point) = (scratch.path("under"), scratch.path("mnt"));
    fs::create_dir(&under).unwrap();
    fs::create_dir(&mount_point).unwrap();
    tool("bindfs", ["--xattr-none", under.to_str().unwrap(), mount_point.to_str().unwrap()]);
    let src = scratch.file("src", LEN);
    let output = run([src.to_str().unwrap(), mount_point.join("dst").to_str().unwrap(), "--resume"]);
    let names_left = names(&under);
    let copied = fs::read(under.join("dst")).unwrap_or_default();
    tool("fusermount3", ["-u", mount_point.to_str().unwrap()]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("not store extended attributes"), "{stderr}");
    assert_eq!(names_left, ["dst"]);
    assert!(copied == content(LEN));
}

#[cfg(feature = "url")]
mod url {
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use common::web::{Server, serve};

    #[test]
    fn a_resumed_download_requests_only_the_missing_bytes() {
        let scratch = Scratch::new();
        if !supports_attributes(&scratch) {
            return;
        }
        let bytes = content(LEN);
        for connections in ["1", "3"] {
            let (body, served) = (bytes.clone(), Arc::new(AtomicUsize::new(0)));
            let count = served.clone();
            let server = Server::new(move |number, request, stream| {
                let (start, end) = request.range().unwrap_or((0, None));
                // The server sends 20 MiB to the first run and then closes its connections.
                let left = (20usize << 20).saturating_sub(count.load(Ordering::SeqCst));
                let len = end.unwrap_or(body.len()).min(body.len()) - start;
                let first_run = number < 1000 && request.header("x-run") == Some("1");
                let cut = (first_run && left < len).then_some(left);
                count.fetch_add(cut.unwrap_or(len), Ordering::SeqCst);
                serve(request, stream, &body, Some("\"v1\""), cut)
            });
            let dst = scratch.path("dst");
            let url = server.url("/f");
            let args = [url.as_str(), dst.to_str().unwrap(), "--resume", "--connections", connections, "-b", "1M"];
            let stderr = fails(1, args.into_iter().chain(["--retry", "0", "--header", "X-Run: 1"]));
            assert!(stderr.contains("are kept in"), "{stderr}");
            let before = server.requests().len();
            let (report, stderr) =
                resume(&url, &dst, &["--connections", connections, "-b", "1M", "--checksum", "sha256"]);
            let resumed = report["resumed"].as_u64().unwrap() as usize;
            assert!(resumed >= 1 << 20 && stderr.contains("resuming"), "{report} {stderr}");
            same(&dst, &bytes);
            assert_eq!(scratch.names(), ["dst"]);
            let first_offset = server.requests()[before + 1..].iter().map(|r| r.range().unwrap().0).min();
            assert_eq!(first_offset, Some(resumed));
            fs::remove_file(&dst).unwrap();
        }
    }

    #[test]
    fn a_download_with_another_version_or_url_starts_over_and_gives_the_reason() {
        let scratch = Scratch::new();
        if !supports_attributes(&scratch) {
            return;
        }
        let dst = scratch.path("dst");
        let mut other = content(LEN);
        other.reverse();
        let (old, new) = (content(LEN), other.clone());
        let server = Server::new(move |number, request, stream| match number {
            0 => serve(request, stream, &old, Some("\"v1\""), Some(9 << 20)),
            1 => serve(request, stream, &new, Some("\"v2\""), Some(9 << 20)),
            _ => serve(request, stream, &new, Some("\"v2\""), None),
        });
        let interrupted_download = |path: &str| {
            let url = server.url(path);
            fails(1, [&url, dst.to_str().unwrap(), "--resume", "--retry", "0"])
        };
        assert!(interrupted_download("/f").contains("8.0 MiB are kept"), "whole blocks");
        let stderr = interrupted_download("/f");
        assert!(
            stderr.contains("starting over") && stderr.contains("version was \"v1\", and is \"v2\" now"),
            "{stderr}"
        );
        let (report, stderr) = resume(&server.url("/g"), &dst, &[]);
        assert!(report["resumed"] == 0 && stderr.contains("its URL was"), "{stderr}");
        same(&dst, &other);
        assert_eq!(scratch.names(), ["dst"]);
    }

    #[test]
    fn without_range_support_a_resumed_download_starts_over() {
        let scratch = Scratch::new();
        if !supports_attributes(&scratch) {
            return;
        }
        let dst = scratch.path("dst");
        let bytes = content(LEN);
        let body = bytes.clone();
        let server = Server::new(move |number, request, stream| {
            let mut plain = request.clone();
            plain.headers.clear();
            // The server ignores the range and sends the whole file, so the copy must not append it to the kept bytes.
            serve(&plain, stream, &body, Some("\"v1\""), (number == 0).then_some(9 << 20))
        });
        fails(1, [&server.url("/f"), dst.to_str().unwrap(), "--resume", "--retry", "0"]);
        resume(&server.url("/f"), &dst, &["--checksum", "sha256"]);
        same(&dst, &bytes);
    }

    #[test]
    fn an_interrupted_download_without_a_version_keeps_nothing_and_says_so() {
        let scratch = Scratch::new();
        let server = Server::new(|_, _, stream| {
            web::head(stream, "200 OK", &[("Content-Length", "9000000")]) && stream.write_all(&[1; 5_000_000]).is_err()
        });
        let dst = scratch.path("dst");
        let stderr = fails(1, [&server.url("/f"), dst.to_str().unwrap(), "--resume", "--retry", "0"]);
        assert!(stderr.contains("cannot be kept"), "{stderr}");
        assert!(scratch.names().is_empty());
    }

    use common::web;
}
