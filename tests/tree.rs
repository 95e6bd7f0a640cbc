//! Trees: exact copies with all attributes, whatever is in them and whatever happens meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::*;

/// A tree with everything that a filesystem can hold.
fn nasty_tree(root: &Path) {
    fs::create_dir(root).unwrap();
    for len in [0, 1, 4095, 4096, 4097, (512 << 10) - 1, 512 << 10, (512 << 10) + 1, 3_000_001] {
        fs::write(root.join(format!("len {len}")), content(len)).unwrap();
    }
    let odd = [&b"new\nline"[..], b"quote'\"", b"back\\slash", b"-n", b"\xff\xfe", b" ", b"*"];
    for name in odd.into_iter().map(|name| name.to_vec()).chain([vec![b'x'; 255], vec![0xc3; 255]]) {
        fs::write(root.join(OsString::from_vec(name)), b"odd name").unwrap();
    }
    sparse(&root.join("sparse"), 30 << 20, &[(0, 10), (7 << 20, 50_000), ((30 << 20) - 1, 1)]);
    sparse(&root.join("hole"), 100_000, &[]);
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/b/one"), b"linked").unwrap();
    fs::hard_link(root.join("a/b/one"), root.join("a/two")).unwrap();
    fs::hard_link(root.join("a/b/one"), root.join("three")).unwrap();
    for i in 0..1500 {
        // More than one batch, so that a name comes long after the first.
        fs::write(root.join("a/b/c").join(format!("{i}")), format!("{i}")).unwrap();
    }
    fs::hard_link(root.join("a/b/one"), root.join("z")).unwrap();
    symlink("a/b/one", root.join("link")).unwrap();
    symlink("/nonexistent", root.join("dangling")).unwrap();
    symlink("a", root.join("link to directory")).unwrap();
    tool("mkfifo", [root.join("fifo")]);
    tool("mknod", [root.join("null").as_os_str(), "c".as_ref(), "1".as_ref(), "3".as_ref()]);
    fs::hard_link(root.join("link"), root.join("a/same link")).unwrap();
    fs::hard_link(root.join("fifo"), root.join("a/same fifo")).unwrap();
    let mode = |name: &str, mode| fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
    mode("len 1", 0o4755);
    mode("len 4095", 0o400);
    mode("len 4096", 0o2644);
    mode("fifo", 0o620);
    tool("chown", ["12:34".as_ref(), root.join("len 4097").as_os_str()]);
    tool("chown", ["-h".as_ref(), "56:78".as_ref(), root.join("dangling").as_os_str()]);
    tool(
        "setfattr",
        ["-n".as_ref(), "user.color".as_ref(), "-v".as_ref(), "blue".as_ref(), root.join("len 0").as_os_str()],
    );
    tool("setfattr", ["-n", "user.on", "-v", "directory", root.join("a").to_str().unwrap()]);
    tool("setfacl", ["-m".as_ref(), "u:12:rw".as_ref(), root.join("len 4097").as_os_str()]);
    tool("setfacl", ["-d", "-m", "u:12:rwx", root.join("a").to_str().unwrap()]);
    tool("setcap", ["cap_net_raw=ep".as_ref(), root.join("len 3000001").as_os_str()]);
    tool("touch", ["-h", "-d", "2001-02-03 04:05:06.789012345", root.join("link").to_str().unwrap()]);
    tool("touch", ["-d", "1999-12-31 23:59:59.123456789", root.join("len 0").to_str().unwrap()]);
    fs::create_dir(root.join("sticky")).unwrap();
    mode("sticky", 0o1777);
    fs::create_dir(root.join("read-only")).unwrap();
    fs::write(root.join("read-only/file"), b"x").unwrap();
    mode("read-only", 0o555);
    tool("touch", ["-d", "1988-01-02 03:04:05.678", root.join("a/b").to_str().unwrap()]);
    tool("touch", ["-d", "1977-01-02 03:04:05.678", root.to_str().unwrap()]);
}

/// What rsync would still have to do.
fn rsync_sees(source: &Path, copy: &Path) -> String {
    let slash = |path: &Path| format!("{}/", path.display());
    tool("rsync", ["-aHAXSn", "--delete", "-ic", &slash(source), &slash(copy)])
}

#[test]
fn nothing_is_left_for_rsync_to_do() {
    needs_root_and!("rsync", "setfacl", "setfattr", "setcap", "mknod");
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    nasty_tree(&src);
    let stderr = copies(["-a".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert_eq!(rsync_sees(&src, &dst), "", "{stderr}");
    assert!(allocated(&dst.join("sparse")) < 1 << 20);
    let inode = |name: &str| fs::metadata(dst.join(name)).unwrap().ino();
    assert_eq!((inode("a/two"), inode("three"), inode("z")), (inode("a/b/one"), inode("a/b/one"), inode("a/b/one")));
    // Once more, over what is there, and with -u: nothing changes.
    copies(["-aT".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert_eq!(rsync_sees(&src, &dst), "");
    let stderr = copies(["-auT".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert_eq!(rsync_sees(&src, &dst), "", "{stderr}");
    assert!(stderr.contains("0 bytes copied"), "{stderr}");
}

/// Everything about a tree that a copy without -a decides: types, link targets, contents.
fn shape(root: &Path) -> String {
    tool(
        "sh",
        [
            "-c",
            r#"cd "$0" && find . -printf '%y %P %l\n' | sort && find . -type f | sort | xargs -r -d '\n' sha256sum"#,
            root.to_str().unwrap(),
        ],
    )
}

#[test]
fn the_naming_rules_are_those_of_cp() {
    // The arguments, split at spaces. Both commands run in a directory that `set_up` fills.
    let set_up = r"
        mkdir -p tree/sub other/sub dir empty existing/tree/sub filedir/file; echo 1 > file; echo 2 > file2; echo 3 > tree/one;
        echo 4 > tree/sub/two; echo 5 > other/one; echo 6 > other/sub/three; echo old > existing/tree/one;
        echo old > existing/file; ln -s tree linkdir; ln -s file linkfile; ln -s nowhere dangling; ln -s dir linktodir;
        mkdir -p blocked; echo x > blocked/tree; mkdir -p same/x; echo 7 > same/file; echo 8 > afile";
    let cases = [
        "-r tree new",
        "-r tree/ new",
        "-r tree dir",
        "-r tree/ dir",
        "-r tree/. dir",
        "-r tree dir/",
        "-r tree existing",
        "-r tree new/",
        "-r tree new/deeper",
        "-rT tree dir",
        "-rT tree existing/tree",
        "-rT tree new",
        "-r -t dir tree other",
        "-r tree other dir",
        "-r tree file dir",
        "file file2 dir",
        "file file2 new",
        "file file2 file",
        "tree dir",
        "tree new",
        "file tree dir",
        "-r file dir",
        "-r file new",
        "-r tree file",
        "-r tree blocked",
        "-r file filedir",
        "-r tree tree",
        "-r tree tree/sub",
        "-r tree tree/new",
        "-r linkdir new",
        "-r linkdir/ new",
        "-r linkfile new",
        "-r dangling new",
        "-r dangling dir",
        "-r tree linktodir",
        "-r missing dir",
        "-r missing file dir",
        "-r file file dir",
        "-r tree tree dir",
        "-t dir file",
        "-t dir file file2",
        "-t new file",
        "-t file file2",
        "-T file dir",
        "-T file new",
        "-r -T file dir",
        "-r . ../out",
        "-r tree/.. ../out",
        "-r empty new",
        "-r empty dir",
        "file2 file dir/",
        "-r file same",
        "-n -r tree existing",
        "-r same/file file dir",
        "-r tree/one other/one dir",
        "linkfile file2 dir",
        "-r file/ dir",
        "-r tree -t dir",
        "-r file linkfile",
        "-rT file linkfile",
        "-r file dangling",
        "-r tree dangling",
        "-r tree linkfile",
        "-r file missing/",
        "-T file missing/",
        "-r other/. tree/. dir",
        "-r other/sub tree/sub dir",
        "-n -r other/. tree/. dir",
    ];
    let scratch = Scratch::new();
    let mut different = Vec::new();
    for case in cases {
        let mut results = Vec::new();
        for program in ["cp", binary()] {
            let root = scratch.path("root");
            let _ = fs::remove_dir_all(&root);
            let work = root.join("work");
            fs::create_dir_all(&work).unwrap();
            fs::create_dir(root.join("out")).unwrap();
            tool("sh", ["-c", &format!("cd {} && {set_up}", work.display())]);
            let output =
                std::process::Command::new(program).args(case.split_whitespace()).current_dir(&work).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            results.push((output.status.success(), shape(&root), stderr));
        }
        let (cp, own) = (&results[0], &results[1]);
        // What cp has copied of a tree before it finds that it copies the tree into itself depends on the order of names.
        let into_itself = cp.2.contains("into itself");
        if cp.0 != own.0 || cp.1 != own.1 && !into_itself {
            let lines = |shape: &str| shape.lines().map(str::to_string).collect::<std::collections::BTreeSet<_>>();
            let (theirs, ours) = (lines(&cp.1), lines(&own.1));
            let (missing, added): (Vec<_>, Vec<_>) =
                (theirs.difference(&ours).collect(), ours.difference(&theirs).collect());
            different.push(format!(
                "{case}\n  cp {}: {}  dio-cp {}: {}  missing {missing:?}\n  added {added:?}",
                cp.0, cp.2, own.0, own.2
            ));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn a_cold_tree_leaves_no_page_and_inserts_none_of_the_source() {
    if !can_count_pages() {
        return skip("needs cachestat (Linux 6.5)");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    plain_tree(&src, 1200);
    fs::write(src.join("large"), content(3_000_001)).unwrap();
    let files = || tool("find", [src.as_os_str(), "-type".as_ref(), "f".as_ref()]);
    files().lines().for_each(|file| make_cold(Path::new(file)));
    let Some(trace) = Trace::new() else { return };
    let (stderr, insertions) = trace.during(|| copies(["-a".as_ref(), src.as_os_str(), dst.as_os_str()]));
    for file in files().lines() {
        let file = Path::new(file);
        let copy = dst.join(file.strip_prefix(&src).unwrap());
        assert_eq!(insertions.of(file), 0, "{}", file.display());
        assert_eq!((cached_pages(file), cached_pages(&copy)), (0, 0), "{} {stderr}", file.display());
        assert_eq!(fs::read(file).unwrap(), fs::read(&copy).unwrap());
    }
}

#[test]
fn check_cache_counts_over_all_files() {
    if !can_count_pages() || !has_tool("strace") {
        return skip("needs cachestat (Linux 6.5) and strace");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    plain_tree(&src, 30);
    fs::write(src.join("large"), content(3_000_001)).unwrap();
    let check = ["-q", "--json", "-a", "--check-cache"];
    let output = dio_cp().args(check).args([&src, &dst]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["cache"], serde_json::json!({ "source": 0, "destination": 0, "unknown": 0 }));
    // Where the kernel refuses to evict, the pages stay, and that is found.
    fs::remove_dir_all(&dst).unwrap();
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-q", "-o", "/dev/null", "-e", "inject=fadvise64:error=EPERM", binary()]);
    let output = strace.args(check).args([&src, &dst]).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_report_of_a_tree_has_every_field_that_the_man_page_has() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    plain_tree(&src, 3);
    let output = dio_cp().args(["-q", "--json", "-r"]).args([&src, &dst]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let man = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/dio-cp.1")).unwrap();
    let section = man.split(".SH \"JSON REPORT OF TREES\"").nth(1).unwrap().split(".SH").next().unwrap();
    let terms = section.lines().filter_map(|line| line.strip_prefix("\\fB"));
    let mut described: Vec<_> = terms.flat_map(|line| line.trim_end_matches("\\fR").split(", ")).collect();
    described.sort_unstable();
    let mut fields: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, described);
}

#[test]
fn update_copies_what_has_changed_and_opens_nothing_else() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    plain_tree(&src, 60);
    copies(["-a".as_ref(), src.as_os_str(), dst.as_os_str()]);
    fs::write(src.join("d1/e1/new"), b"new").unwrap();
    fs::write(src.join("d0/e0/f0"), b"changed").unwrap();
    let same_size = src.join("d1/e1/f1");
    fs::write(&same_size, b"y").unwrap();
    let output = dio_cp().args(["-q", "--json", "-auT"]).args([&src, &dst]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["files"], &json["skipped"], &json["bytes"]), (&3.into(), &58.into(), &11.into()), "{json}");
    assert_eq!(shape(&src), shape(&dst));
    if has_tool("strace") {
        let log = scratch.path("log");
        let mut strace = std::process::Command::new("strace");
        strace.args(["-f", "-e", "trace=openat", "-o"]).arg(&log).arg(binary());
        assert!(strace.args(["-q", "-auT"]).args([&src, &dst]).status().unwrap().success());
        let log = fs::read_to_string(&log).unwrap();
        assert!(!log.contains("\"f1"), "{log}");
    }
}

#[test]
fn every_name_of_a_file_on_the_command_line_is_copied() {
    let scratch = Scratch::new();
    let (a, b, link, dir) = (scratch.file("a", 10), scratch.path("b"), scratch.path("link"), scratch.path("dir"));
    fs::hard_link(&a, &b).unwrap();
    symlink(&a, &link).unwrap();
    fs::create_dir(&dir).unwrap();
    copies([&a, &b, &link, &dir]);
    assert_eq!(names(&dir), ["a", "b", "link"]);
    // Unchanged since.
    copies(["-u".as_ref(), a.as_os_str(), b.as_os_str(), dir.as_os_str()]);
    let stderr = copies(["-u".as_ref(), a.as_os_str(), b.as_os_str(), dir.as_os_str()]);
    assert!(stderr.contains("0 bytes copied"), "{stderr}");
}

#[test]
fn a_directory_of_an_interrupted_copy_gets_its_mode() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    plain_tree(&src, 10);
    fs::set_permissions(src.join("d0"), Permissions::from_mode(0o755)).unwrap();
    let mut child = dio_cp().args(["-q", "-r", "--rate-limit", "10K"]).args([&src, &dst]).spawn().unwrap();
    wait_until("the copy has begun", || dst.join("d0").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    copies(["-q".as_ref(), "-ruT".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert_eq!(fs::metadata(dst.join("d0")).unwrap().mode() & 0o777, 0o755);
}

#[test]
fn names_are_left_out_by_gitignores_rules() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    for file in ["a.o", "b.c", "deep/x.o", "deep/keep.o", "build/out", "deep/build/out", "top"] {
        fs::create_dir_all(src.join(file).parent().unwrap()).unwrap();
        fs::write(src.join(file), b"x").unwrap();
    }
    let exclude = ["--exclude", "*.o", "--exclude", "!keep.o", "--exclude", "/build/", "--exclude", "top"];
    copies(exclude.iter().map(OsStr::new).chain(["-r".as_ref(), src.as_os_str(), dst.as_os_str()]));
    let found = tool("sh", ["-c", "cd \"$0\" && find . -type f | sort", dst.to_str().unwrap()]);
    assert_eq!(found, "./b.c\n./deep/build/out\n./deep/keep.o\n");
}

#[test]
fn one_file_system_stops_at_mount_points() {
    needs_root_and!("mkfs.ext4");
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    fs::create_dir_all(src.join("mount")).unwrap();
    fs::write(src.join("file"), b"x").unwrap();
    let mount = src.join("mount");
    tool("mount", ["-t".as_ref(), "tmpfs".as_ref(), "tmpfs".as_ref(), mount.as_os_str()]);
    fs::write(mount.join("inside"), b"x").unwrap();
    let result = std::panic::catch_unwind(|| copies(["-ax".as_ref(), src.as_os_str(), dst.as_os_str()]));
    tool("umount", [mount.as_os_str()]);
    result.unwrap();
    assert_eq!(names(&dst), ["file", "mount"]);
    assert_eq!(names(&dst.join("mount")), [""; 0]);
}

#[test]
fn a_manifest_can_be_checked_and_required() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    plain_tree(&src, 40);
    fs::write(src.join("new\nline"), b"odd").unwrap();
    let output = dio_cp().args(["-q", "-r", "--checksum", "sha256"]).args([&src, &dst]).output().unwrap();
    assert!(output.status.success());
    let manifest = scratch.path("manifest");
    fs::write(&manifest, &output.stdout).unwrap();
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 41);
    tool("sha256sum", ["-c".as_ref(), "--quiet".as_ref(), manifest.as_os_str()]);
    // The list is now required: one changed file is not copied, and keeps its old content.
    fs::write(src.join("d1/e1/f1"), b"y").unwrap();
    let args = ["-rT".as_ref(), "--checksum-file".as_ref(), manifest.as_os_str(), src.as_os_str(), dst.as_os_str()];
    let stderr = fails(3, args);
    assert!(stderr.contains("1 of 41 files was not copied") && stderr.contains("f1"), "{stderr}");
    tool("sha256sum", ["-c".as_ref(), "--quiet".as_ref(), manifest.as_os_str()]);
}

#[test]
fn verify_reads_back_every_file_of_a_tree() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    plain_tree(&src, 30);
    copies(["-r".as_ref(), "--verify".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert_eq!(shape(&src), shape(&dst));
}

#[test]
fn a_file_that_fails_does_not_end_the_copy() {
    needs_root_and!("setpriv");
    let scratch = Scratch::new();
    let (src, out) = (scratch.path("src"), scratch.path("out"));
    plain_tree(&src, 50);
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, Permissions::from_mode(0o777)).unwrap();
    for unreadable in ["d1/e1/f1", "d2/e2/f2", "d3"] {
        fs::set_permissions(src.join(unreadable), Permissions::from_mode(0o000)).unwrap();
    }
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", binary(), "-q", "--json", "-r"]);
    let output = command.arg(&src).arg(&out).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("f1': Permission denied") && stderr.contains("f2': Permission denied"), "{stderr}");
    assert!(stderr.contains("were not copied"), "{stderr}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["failed"], json["failures"].as_array().unwrap().len()), (&3.into(), 3), "{json}");
    assert!(out.join("src/d0/e0/f0").exists() && !out.join("src/d1/e1/f1").exists());
}

#[test]
fn a_full_disk_is_reported_file_by_file_and_leaves_whole_files() {
    needs_root_and!("mkfs.ext4");
    let scratch = Scratch::new();
    let src = scratch.path("src");
    plain_tree(&src, 600);
    ["large", "larger"].iter().for_each(|name| fs::write(src.join(name), content(40 << 20)).unwrap());
    let mount = Mount::filesystem(&scratch, "ext4", 32 << 20, 512);
    let stderr = fails(1, ["-r".as_ref(), src.as_os_str(), mount.path("dst").as_os_str()]);
    assert!(stderr.contains("No space left on device") && stderr.contains("not copied"), "{stderr}");
    let count = |text| stderr.matches(text).count();
    assert!(count("No space left") >= 2 && count("try: ") == 1, "{stderr}");
    for file in tool("find", [mount.path("dst").as_os_str(), "-type".as_ref(), "f".as_ref()]).lines() {
        let file = Path::new(file);
        let original = src.join(file.strip_prefix(mount.path("dst")).unwrap());
        assert_eq!(fs::read(file).unwrap(), fs::read(&original).unwrap(), "{}", file.display());
    }
}

/// The name and content of each file in a tree.
fn contents(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = tool("find", [root.as_os_str(), "-type".as_ref(), "f".as_ref()]);
    files.lines().map(|file| (file.into(), fs::read(file).unwrap())).collect()
}

#[test]
fn a_killed_copy_leaves_each_file_absent_old_or_new_and_nothing_else() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    plain_tree(&src, 900);
    for round in 0..30u64 {
        let _ = fs::remove_dir_all(&dst);
        if round % 2 == 1 {
            // Every second file is old.
            fs::create_dir(&dst).unwrap();
            for (file, _) in contents(&src).iter().step_by(2) {
                let copy = dst.join(file.strip_prefix(&src).unwrap());
                fs::create_dir_all(copy.parent().unwrap()).unwrap();
                fs::write(copy, b"old").unwrap();
            }
        }
        let mut child = dio_cp().args(["-q", "-rT"]).args([&src, &dst]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(round * 4));
        let _ = child.kill();
        child.wait().unwrap();
        // A child in a session of its own may still finish a batch.
        let running = || std::process::Command::new("pgrep").args(["-f", dst.to_str().unwrap()]).output().unwrap();
        wait_until("the batch is finished", || running().stdout.is_empty());
        if !dst.exists() {
            continue;
        }
        for (copy, bytes) in contents(&dst) {
            let original = src.join(copy.strip_prefix(&dst).unwrap());
            assert!(original.exists(), "{} was left behind", copy.display());
            assert!(bytes == b"old" || bytes == fs::read(&original).unwrap(), "{}", copy.display());
        }
    }
}

#[test]
fn a_finished_tree_survives_a_power_failure() {
    needs_root_and!("losetup", "mkfs.ext4", "mkfs.xfs");
    for kind in ["ext4", "xfs"] {
        let scratch = Scratch::new();
        let src = scratch.path("src");
        plain_tree(&src, 700);
        let disk = Loop::new(&scratch, 400 << 20, 512);
        let (device, backing) = (disk.name().to_string(), disk.backing.clone());
        tool(&format!("mkfs.{kind}"), ["-q", &device]);
        let mount = Mount::with(&scratch, &["-t", kind, &device], Some(disk));
        copies(["-a".as_ref(), src.as_os_str(), mount.path("dst").as_os_str()]);
        let image = scratch.path("image");
        tool("cp", ["--sparse=always".as_ref(), backing.as_os_str(), image.as_os_str()]);
        drop(mount);
        let after = Mount::with(&scratch, &["-t", kind, "-o", "loop", image.to_str().unwrap()], None);
        assert_eq!(shape(&src), shape(&after.path("dst")), "{kind}");
    }
}

#[test]
fn after_a_signal_the_message_says_how_many_files_are_complete() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    plain_tree(&src, 3000);
    let mut command = dio_cp();
    command.args(["-r", "--rate-limit", "2M"]).args([&src, &dst]).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_until("the copy has begun", || fs::read_dir(&dst).is_ok_and(|mut entries| entries.next().is_some()));
    std::thread::sleep(Duration::from_millis(200));
    tool("kill", ["-INT", &child.id().to_string()]);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.signal(), Some(2), "{stderr}");
    assert!(stderr.contains("files found so far are complete") && stderr.contains("-u"), "{stderr}");
    assert!(contents(&dst).iter().all(|(path, _)| !path.to_str().unwrap().contains("dio-cp-")), "{stderr}");
}

/// Sets a flag when it is dropped.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_symbolic_link_is_followed_whoever_swaps_directories_for_links() {
    let scratch = Scratch::new();
    let (src, dst, secret, out) =
        (scratch.path("src"), scratch.path("dst"), scratch.path("secret"), scratch.path("out"));
    fs::create_dir_all(&secret).unwrap();
    fs::write(secret.join("f1"), b"secret").unwrap();
    fs::create_dir(&out).unwrap();
    for i in 0..40 {
        fs::create_dir_all(src.join(format!("d{i}"))).unwrap();
        (0..5).for_each(|f| fs::write(src.join(format!("d{i}/f{f}")), b"public").unwrap());
    }
    let stop = AtomicBool::new(false);
    let swap = |root: &Path, target: &Path| {
        let mut swaps = 0;
        for i in (0..40).cycle() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let (directory, aside) = (root.join(format!("d{i}")), root.join(format!(".aside{i}")));
            if fs::rename(&directory, &aside).is_ok() {
                let _ = symlink(target, &directory);
                std::thread::yield_now();
                let _ = fs::remove_file(&directory);
                let _ = fs::rename(&aside, &directory);
                swaps += 1;
            }
        }
        swaps
    };
    let (swap, src, dst, secret, out) = (&swap, &src, &dst, &secret, &out);
    let swaps = std::thread::scope(|scope| {
        let in_source = scope.spawn(move || swap(src, secret));
        let in_destination = scope.spawn(move || swap(dst, out));
        // Ends the swapping threads even if an assertion fails.
        let _stop = StopOnDrop(&stop);
        for _ in 0..40 {
            // Failures are expected: directories come and go.
            let _ = run(["-q".as_ref(), "-rT".as_ref(), src.as_os_str(), dst.as_os_str()]);
            assert_eq!(names(out), [""; 0], "a file was written through a symbolic link");
        }
        stop.store(true, Ordering::Relaxed);
        in_source.join().unwrap() + in_destination.join().unwrap()
    });
    assert!(swaps > 1000, "{swaps}");
    assert!(
        contents(dst).iter().all(|(_, bytes)| bytes == b"public" || bytes.is_empty()),
        "a file was read through a link"
    );
}

#[test]
fn paths_may_be_deeper_than_path_max() {
    let scratch = Scratch::new();
    // Deep, and with long names: both trees are far longer than PATH_MAX.
    for (depth, name) in [(5000, "d".to_string()), (300, "n".repeat(255))] {
        let script = r#"import os, sys
depth, name, root = int(sys.argv[1]), sys.argv[2], sys.argv[3]
os.mkdir(root); os.chdir(root)
for i in range(depth):
    os.mkdir(name); os.chdir(name)
open("bottom", "w").write("x")
"#;
        let check = r#"import os, sys
depth, name, root = int(sys.argv[1]), sys.argv[2], sys.argv[3]
os.chdir(root)
for i in range(depth):
    os.chdir(name)
assert open("bottom").read() == "x"
"#;
        if !has_tool("python3") {
            return skip("needs python3");
        }
        let (src, dst) = (scratch.path("src"), scratch.path("dst"));
        let depth = depth.to_string();
        tool("python3", ["-c", script, &depth, &name, src.to_str().unwrap()]);
        copies(["-q".as_ref(), "-a".as_ref(), src.as_os_str(), dst.as_os_str()]);
        tool("python3", ["-c", check, &depth, &name, dst.to_str().unwrap()]);
        tool("rm", ["-rf".as_ref(), src.as_os_str(), dst.as_os_str()]);
    }
}

#[test]
fn clones_make_a_tree_that_shares_its_blocks() {
    needs_root_and!("mkfs.xfs", "mkfs.btrfs");
    for kind in ["xfs", "btrfs"] {
        let scratch = Scratch::new();
        let mount = Mount::filesystem(&scratch, kind, 1 << 30, 512);
        let (src, dst) = (mount.path("src"), mount.path("dst"));
        plain_tree(&src, 100);
        fs::write(src.join("large"), content(20 << 20)).unwrap();
        let output = dio_cp().args(["-q", "--json", "-a"]).args([&src, &dst]).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["cloned"], json["bytes"], "{kind}: {json}");
        assert!(json["bytes"].as_u64().unwrap() > 20 << 20);
        assert_eq!(shape(&src), shape(&dst), "{kind}");
    }
}

#[test]
fn a_tree_of_many_files_fits_in_a_small_container() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    // A million with DIO_CP_LONG=1.
    let files = if cases::is_long() { 1_000_000 } else { 50_000 };
    for directory in 0..files / 10_000 {
        let path = src.join(directory.to_string());
        fs::create_dir_all(&path).unwrap();
        (0..10_000).for_each(|i| drop(File::create(path.join(i.to_string())).unwrap()));
    }
    if !has_tool("/usr/bin/time") && !Path::new("/usr/bin/time").exists() {
        return skip("needs the tool time");
    }
    let mut command = std::process::Command::new("/usr/bin/time");
    command.args(["-f", "%M", binary(), "-q", "-a"]).args([&src, &dst]);
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    let kib: u64 = stderr.lines().last().unwrap().trim().parse().unwrap();
    assert!(kib < 24 << 10, "{kib} KiB");
    assert_eq!(tool("sh", ["-c", "find \"$0\" -type f | wc -l", dst.to_str().unwrap()]).trim(), files.to_string());
    drop(File::open(&src).unwrap().read_at(&mut [0], 0));
}
