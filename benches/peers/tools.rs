//! The tools that the benchmark runs: where they are, their versions, and how to install some of them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::peer::Peer;

/// The static binary, as a tool.
pub const STATIC: &str = "dio-cp-static";

/// Where the tool is: in PATH, or where [`install`] puts it.
pub fn find(tool: &str) -> Option<PathBuf> {
    let installed = install_dir().join("bin");
    if tool == "uutils-dd" {
        // The second path is that of Debian's package.
        let paths = [installed.join("dd"), "/usr/lib/cargo/bin/coreutils/dd".into()];
        return paths.into_iter().find(|path| path.is_file());
    }
    if tool == STATIC {
        let target = format!("{}-unknown-linux-musl/release/dio-cp", std::env::consts::ARCH);
        return Some(install_dir().with_file_name(target)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain([installed]).map(|dir| dir.join(tool)).find(|path| path.is_file())
}

/// The peers whose tool is installed. `notes` gets a line for each of the others.
pub fn installed<'a>(peers: &'a [Peer], notes: &mut Vec<String>) -> Vec<&'a Peer> {
    let (installed, missing): (Vec<_>, Vec<_>) = peers.iter().partition(|peer| find(peer.tool).is_some());
    notes.extend(missing.iter().map(|peer| format!("left out: {}: {} is not installed", peer.name, peer.tool)));
    installed
}

/// Runs a command that must succeed, and returns its standard output.
pub fn run<S: AsRef<OsStr>>(tool: &str, args: impl IntoIterator<Item = S>) -> Result<String> {
    let output = Command::new(tool).args(args).stdin(Stdio::null()).output().with_context(|| tool.to_string())?;
    ensure!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A path quoted for the shell.
pub fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}

/// A line for each installed tool: its name and what `--version` prints first.
pub fn versions() -> Vec<String> {
    let names = [
        "dd",
        "uutils-dd",
        "cp",
        "cat",
        "rsync",
        "tar",
        "xcp",
        "mbuffer",
        "qemu-img",
        "nbdcopy",
        "dcfldd",
        "ddrescue",
        "curl",
        "wget",
        "fio",
    ];
    let version = |tool: &str| {
        let output = Command::new(find(tool)?).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let line = text.lines().find(|line| !line.trim().is_empty())?;
        let words: Vec<&str> = line.split_whitespace().take(6).collect();
        Some(format!("{tool}: {}", words.join(" ")))
    };
    let own = concat!("dio-cp: ", env!("CARGO_PKG_VERSION")).to_string();
    [own].into_iter().chain(names.into_iter().filter_map(version)).collect()
}

/// Installs the tools that cargo provides under the target directory.
pub fn install() {
    for package in ["xcp", "uu_dd"] {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo).args(["install", "--locked", package, "--root"]).arg(install_dir()).status();
        match status {
            Ok(status) if status.success() => println!("installed: {package}"),
            Ok(status) => println!("not installed: {package}: cargo ended with {status}"),
            Err(error) => println!("not installed: {package}: {error}"),
        }
    }
}

fn install_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers")
}
