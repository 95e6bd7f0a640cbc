//! Trees in unusual places: filesystems without lengths or unnamed files, few open files, several sources with the same
//! names, servers among the sources.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Stdio;
use std::time::Duration;

use common::*;

#[test]
fn files_whose_length_means_nothing_are_read_until_they_end() {
    let scratch = Scratch::new();
    let queue = fs::read_dir("/sys/block").unwrap().next().map(|disk| disk.unwrap().path().join("queue/rotational"));
    let Some(rotational) = queue.filter(|file| file.exists()) else { return skip("/sys/block has no disk") };
    copies(["-r".as_ref(), "/proc/version".as_ref(), rotational.as_os_str(), scratch.0.as_os_str()]);
    assert_eq!(scratch.names(), ["rotational", "version"]);
    same(&scratch.path("version"), &fs::read("/proc/version").unwrap());
    same(&scratch.path("rotational"), &fs::read(rotational).unwrap());
}

#[test]
fn generated_files_do_not_change_how_others_are_read() {
    let scratch = Scratch::new();
    scratch.file("file", 100_000);
    fs::create_dir(scratch.path("dst")).unwrap();
    let (file, dst) = (scratch.path("file"), scratch.path("dst"));
    let output = run(["-r", "--json", "/proc/version", file.to_str().unwrap(), dst.to_str().unwrap()]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["read"]["direct"], 100_000, "{report}");
}

#[test]
fn few_open_files_suffice() {
    let scratch = Scratch::new();
    let src = scratch.path("src");
    // A path of more directories, and more directories side by side, than files may be open.
    let mut deep = src.join("deep");
    for i in 0..120 {
        deep.push(format!("{i}"));
        fs::create_dir_all(src.join(format!("wide {i}"))).unwrap();
        fs::write(src.join(format!("wide {i}/file")), content(i)).unwrap();
        fs::hard_link(src.join(format!("wide {i}/file")), src.join(format!("wide {i}/link"))).unwrap();
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), content(600_000)).unwrap();
    for repeated in 0..2 {
        let output = std::process::Command::new("prlimit")
            .args(["--nofile=64:64", binary(), "-aT"])
            .args([&src, &scratch.path("dst")])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "copy {repeated}: {stderr}");
        tool("diff", ["-r".as_ref(), src.as_os_str(), scratch.path("dst").as_os_str()]);
    }
    let links = fs::metadata(scratch.path("dst/wide 7/file")).unwrap().nlink();
    assert_eq!(links, 2);
}

#[test]
fn sources_with_the_same_names_are_merged_in_order() {
    let scratch = Scratch::new();
    for (tree, file) in [("a", "first"), ("b", "second")] {
        fs::create_dir_all(scratch.path(&format!("{tree}/x"))).unwrap();
        (0..500).for_each(|i| fs::write(scratch.path(&format!("{tree}/x/{i}")), file).unwrap());
        symlink(file, scratch.path(&format!("{tree}/x/link"))).unwrap();
    }
    let args = |option: &str| {
        [option.into(), scratch.path("a/x"), scratch.path("b/x"), scratch.path("dst")].map(|path| path.into_os_string())
    };
    for (option, wins) in [("-a", "second"), ("-an", "first")] {
        fs::create_dir(scratch.path("dst")).unwrap();
        copies(args(option));
        (0..500).for_each(|i| same(&scratch.path(&format!("dst/x/{i}")), wins.as_bytes()));
        assert_eq!(fs::read_link(scratch.path("dst/x/link")).unwrap().to_str(), Some(wins));
        fs::remove_dir_all(scratch.path("dst")).unwrap();
    }
}

#[test]
fn every_name_of_a_file_is_in_the_manifest_and_must_be_in_the_list() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("src")).unwrap();
    fs::write(scratch.path("src/one"), "x").unwrap();
    fs::hard_link(scratch.path("src/one"), scratch.path("src/two")).unwrap();
    let (src, dst, list) = (scratch.path("src"), scratch.path("dst"), scratch.path("list"));
    let output = run(["-a".as_ref(), "--checksum".as_ref(), "sha256".as_ref(), src.as_os_str(), dst.as_os_str()]);
    fs::write(&list, &output.stdout).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("/dst/one\n") && text.contains("/dst/two\n"), "{text}");
    tool("sha256sum", ["-c".as_ref(), "--quiet".as_ref(), list.as_os_str()]);
    // The second name is wrong in the list.
    let wrong: String = text
        .lines()
        .map(|line| {
            if line.ends_with("two") {
                format!("{}\n", line.replace(&line[..8], "00000000"))
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    fs::write(&list, wrong).unwrap();
    fs::remove_dir_all(&dst).unwrap();
    let stderr =
        fails(3, ["-a".as_ref(), "--checksum-file".as_ref(), list.as_os_str(), src.as_os_str(), dst.as_os_str()]);
    // The other name, too, if it was waiting for this one.
    assert!(stderr.contains(" of 2 files was not copied") || stderr.contains("2 of 2 files were"), "{stderr}");
    assert!(!dst.join("two").exists(), "{stderr}");
}

#[test]
fn a_manifest_that_cannot_be_written_is_a_failure() {
    let scratch = Scratch::new();
    scratch.file("src", 10);
    fs::create_dir(scratch.path("dst")).unwrap();
    let output = dio_cp()
        .args(["-r", "--checksum", "sha256"])
        .args([scratch.path("src"), scratch.path("dst")])
        .stdout(fs::File::options().write(true).open("/dev/full").unwrap())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("writing the digests to standard output: No space left"), "{stderr}");
}

#[test]
fn direct_io_that_is_required_and_refused_is_exit_status_4() {
    needs_root_and!("mount");
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("memory")).unwrap();
    let memory = scratch.path("memory");
    tool("mount", ["-t".as_ref(), "tmpfs".as_ref(), "tmpfs".as_ref(), memory.as_os_str()]);
    scratch.file("a", 10);
    scratch.file("b", 600_000);
    let args = |option: &str| {
        let [a, b] = [scratch.path("a"), scratch.path("b")];
        ["-r".into(), format!("--direct={option}").into(), a, b, memory.clone()].map(|path| path.into_os_string())
    };
    let (always, auto) = (run(args("always")), run(args("auto")));
    tool("umount", [&memory]);
    assert_eq!(always.status.code(), Some(4), "{}", String::from_utf8_lossy(&always.stderr));
    // Otherwise one line says so, for all files.
    let stderr = String::from_utf8_lossy(&auto.stderr);
    assert!(auto.status.success(), "{stderr}");
    let lines: Vec<_> = stderr.lines().filter(|line| line.contains("not direct")).collect();
    assert_eq!(lines, ["dio-cp: not direct: 600010 bytes written in memory: the filesystem is in memory"]);
}

#[test]
fn a_url_that_fails_does_not_end_the_copy_of_the_others() {
    let scratch = Scratch::new();
    let src = scratch.path("src");
    fs::create_dir(&src).unwrap();
    (0..3000).for_each(|i| fs::write(src.join(format!("{i}")), format!("{i}")).unwrap());
    scratch.file("last", 5000);
    fs::create_dir(scratch.path("dst")).unwrap();
    // Nobody listens on the discard port.
    let stderr = fails(
        1,
        [
            "-r".as_ref(),
            "--retry=0".as_ref(),
            src.as_os_str(),
            "http://127.0.0.1:9/file".as_ref(),
            scratch.path("last").as_os_str(),
            scratch.path("dst").as_os_str(),
        ],
    );
    if cfg!(feature = "url") {
        assert!(stderr.contains("1 of 3002 files was not copied"), "{stderr}");
    }
    assert_eq!(names(&scratch.path("dst")), ["last", "src"]);
    assert_eq!(names(&scratch.path("dst/src")).len(), 3000);
}

#[test]
fn a_signal_removes_hidden_files() {
    needs_root_and!("bindfs");
    let scratch = Scratch::new();
    let (src, real, mount) = (scratch.path("src"), scratch.path("real"), scratch.path("mount"));
    [&src, &real, &mount].iter().for_each(|directory| fs::create_dir(directory).unwrap());
    (0..3000).for_each(|i| fs::write(src.join(format!("{i}")), content(2000)).unwrap());
    // Through FUSE, files cannot be created without a name.
    tool("bindfs", [&real, &mount]);
    let mut copy = dio_cp();
    copy.arg("-r").args([&src, &mount]).stderr(Stdio::piped());
    let child = copy.spawn().unwrap();
    wait_until("hidden files", || fs::read_dir(real.join("src")).is_ok_and(|entries| entries.count() > 20));
    tool("kill", ["-INT", &child.id().to_string()]);
    let output = child.wait_with_output().unwrap();
    // FUSE gives removed files that are open a hidden name of its own, until they are closed.
    wait_until("no hidden files", || !names(&real.join("src")).iter().any(|name| name.starts_with('.')));
    tool("umount", [&mount]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("files found so far are complete"), "{stderr}");
}

#[test]
fn a_fifo_replaces_a_file_at_once() {
    needs_root_and!("mkfifo", "strace");
    let scratch = Scratch::new();
    ["src", "dst"].iter().for_each(|name| fs::create_dir(scratch.path(name)).unwrap());
    tool("mkfifo", [scratch.path("src/name")]);
    fs::write(scratch.path("dst/name"), "old").unwrap();
    let trace = scratch.path("trace");
    let program = [binary().as_ref(), "-aT".as_ref()];
    let options = [
        "-f".as_ref(),
        "-e".as_ref(),
        "trace=unlinkat,unlink,renameat,rename,renameat2".as_ref(),
        "-o".as_ref(),
        trace.as_os_str(),
    ];
    tool(
        "strace",
        options.into_iter().chain(program).chain([scratch.path("src").as_os_str(), scratch.path("dst").as_os_str()]),
    );
    let calls = fs::read_to_string(&trace).unwrap();
    assert!(calls.contains("rename") && !calls.contains("\"name\", 0) = 0\n"), "{calls}");
    assert_eq!(tool("stat", ["-c".as_ref(), "%F".as_ref(), scratch.path("dst/name").as_os_str()]).trim(), "fifo");
    assert_eq!(names(&scratch.path("dst")), ["name"]);
}

#[test]
fn no_clobber_leaves_alone_what_another_process_creates_during_the_copy() {
    needs_root_and!("strace");
    for (options, kept) in [("-rnT", true), ("-rT", false)] {
        let scratch = Scratch::new();
        let (src, dst) = (scratch.path("src"), scratch.path("dst"));
        fs::create_dir(&src).unwrap();
        fs::write(src.join("file"), "new").unwrap();
        symlink("new", src.join("link")).unwrap();
        // Names are given with linkat(2), in the child process, too.
        let mut copy = std::process::Command::new("strace");
        copy.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=linkat:delay_enter=1000000"]);
        copy.args([binary(), options]).args([&src, &dst]).stderr(Stdio::piped());
        let child = copy.spawn().unwrap();
        wait_until("the directory is made", || dst.exists());
        std::thread::sleep(Duration::from_millis(300));
        fs::write(dst.join("file"), "other").unwrap();
        symlink("other", dst.join("link")).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let expected = if kept { "other" } else { "new" };
        assert_eq!(fs::read_to_string(dst.join("file")).unwrap(), expected, "{options}");
        assert_eq!(fs::read_link(dst.join("link")).unwrap().to_str(), Some(expected), "{options}");
        assert_eq!(names(&dst), ["file", "link"]);
    }
}

/// Copies a tree of a directory with a file, while system calls fail as `inject` says.
fn copy_with_fault(scratch: &Scratch, inject: &str) -> std::process::Output {
    let src = scratch.path("src");
    if !src.exists() {
        fs::create_dir_all(src.join("directory")).unwrap();
        fs::write(src.join("directory/file"), content(5000)).unwrap();
        tool(
            "setfattr",
            [
                "-n".as_ref(),
                "user.color".as_ref(),
                "-v".as_ref(),
                "blue".as_ref(),
                src.join("directory/file").as_os_str(),
            ],
        );
    }
    let inject = format!("inject={inject}");
    std::process::Command::new("timeout")
        .args(["20", "strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject, binary(), "-aT"])
        .args([&src, &scratch.path("dst")])
        .output()
        .unwrap()
}

#[test]
fn a_tree_is_copied_with_few_threads_and_refused_without_any() {
    needs_root_and!("strace", "setfattr");
    let scratch = Scratch::new();
    // The first thread watches for signals.
    let output = copy_with_fault(&scratch, "clone3:error=EAGAIN:when=3+");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    same(&scratch.path("dst/directory/file"), &content(5000));
    fs::remove_dir_all(scratch.path("dst")).unwrap();
    let output = copy_with_fault(&scratch, "clone3:error=EAGAIN:when=2+");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("starting a thread to copy to '"), "{stderr}");
    assert!(!scratch.path("dst").exists());
}

#[test]
fn attributes_are_not_lost_silently() {
    needs_root_and!("strace", "setfattr");
    for call in ["flistxattr", "fgetxattr"] {
        let scratch = Scratch::new();
        let output = copy_with_fault(&scratch, &format!("{call}:error=EIO"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{call}: {stderr}");
        assert!(stderr.contains("preserv") && stderr.contains("Input/output error"), "{call}: {stderr}");
        assert!(!scratch.path("dst/directory/file").exists(), "{call}: {stderr}");
    }
}

#[test]
fn a_file_that_cannot_be_synced_gets_no_name() {
    needs_root_and!("strace", "setfattr");
    for call in ["syncfs", "sync_file_range"] {
        let scratch = Scratch::new();
        let output = copy_with_fault(&scratch, &format!("{call}:error=EIO"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{call}: {stderr}");
        assert!(stderr.contains("syncing '") && stderr.contains("Input/output error"), "{call}: {stderr}");
        assert_eq!(names(&scratch.path("dst/directory")), [""; 0], "{call}: {stderr}");
    }
    // The files have their names, but the names are not on the medium.
    let scratch = Scratch::new();
    let output = copy_with_fault(&scratch, "syncfs:error=EIO:when=2");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("a power failure may undo the copy"), "{stderr}");
    same(&scratch.path("dst/directory/file"), &content(5000));
}
