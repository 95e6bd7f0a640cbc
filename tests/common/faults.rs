//! System calls that fail once: which calls a copy makes, and how to make one of them fail (strace(1), `inject`).
//!
//! strace counts `when=N` separately in each thread and process. A fault therefore hits the N-th call of *every* thread
//! that gets that far, and the main thread's count includes the calls that the loader made before `main`. For the sweep this
//! means: every occurrence of a call in the trace is hit by some N, except that the first few occurrences in a worker are
//! not hit where the loader makes as many of the same call (openat, read, close: the workers make further ones). Which
//! thread copies which block differs from run to run, so one N is not always the same place in the copy; the same sweep
//! repeated covers more than once. What was hit is read from strace's own log, not assumed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use super::feed;

/// How long a copy may take; the copies here are done in a few milliseconds.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// As the error of a [`Fault`]: the call is made, and then the program is killed.
pub const KILL: &str = "SIGKILL";

/// Calls that are not made to fail, and why.
const LEFT_OUT: [(&[&str], &str); 10] = [
    (&["exit", "exit_group", "rt_sigreturn", "restart_syscall"], "do not return, or are made by the kernel"),
    (&["futex"], "the C library ends the program on an error that futex(2) cannot give, or waits again for ever"),
    (&["close"], "close(2) always closes; strace would leave the descriptor open, and a pipe without an end"),
    (&["execve"], "the first call is strace's own; tests/command.rs has commands that cannot start"),
    (&["rseq", "set_robust_list", "set_tid_address", "arch_prctl"], "the C library's part of a new thread"),
    (&["sigaltstack", "mprotect"], "the guard page of a new thread's stack; the standard library ends the program"),
    (&["recvfrom", "recvmsg"], "only from a socket pair of the process itself, which cannot fail"),
    (&["getrandom"], "the standard library ends the program on an error other than those it knows"),
    (&["brk"], "returns the old break when it fails, and never an error"),
    (&["getpid", "gettid", "getuid", "geteuid", "umask", "setsid"], "cannot fail here"),
];

/// The errors that a call is made to fail with.
fn errors(call: &str) -> &'static [&'static str] {
    match call {
        "read" | "pread64" | "preadv2" | "readv" => &["EIO", "EINTR", "EAGAIN"],
        "write" | "pwrite64" | "pwritev2" | "writev" => &["EIO", "ENOSPC", "EINTR", "EAGAIN"],
        "fsync" | "fdatasync" | "syncfs" | "ftruncate" | "fallocate" => &["EIO", "ENOSPC", "EINTR"],
        "openat" | "openat2" | "open" => &["EIO", "EMFILE", "EINTR", "EPERM"],
        "linkat" | "renameat" | "rename" | "renameat2" | "symlinkat" | "mkdirat" | "mknodat" => {
            &["EIO", "ENOSPC", "EPERM"]
        }
        "clone" | "clone3" | "fork" | "vfork" => &["EAGAIN", "ENOMEM"],
        "mmap" | "munmap" | "madvise" | "mremap" => &["ENOMEM"],
        "wait4" | "waitid" | "poll" | "pidfd_open" => &["EINTR", "EPERM"],
        _ => &["EIO", "ENOMEM", "EPERM"],
    }
}

/// One call that fails.
#[derive(Clone, Debug)]
pub struct Fault {
    pub call: String,
    pub when: u32,
    pub error: &'static str,
}

/// How a copy with a fault ended.
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
    /// It was ended by the time limit.
    pub hung: bool,
    /// The calls that failed, as strace shows them.
    pub hits: Vec<String>,
}

impl Outcome {
    /// True if standard error has this text.
    pub fn says(&self, text: &str) -> bool {
        self.stderr.contains(text)
    }

    /// True if the program could not write to standard error, and so could not say what happened.
    pub fn is_mute(&self) -> bool {
        self.hits.iter().any(|hit| hit.contains("write(2,") || hit.contains("writev(2,"))
    }
}

fn strace(log: &Path, options: &[&str], command: &Command, input: &[u8]) -> Outcome {
    // The time limit ends strace, the copy and its threads.
    let mut limited = Command::new("timeout");
    limited.args(["-s", "KILL", &TIME_LIMIT.as_secs().to_string(), "strace", "-f", "-qq", "-o"]).arg(log).args(options);
    limited.arg(command.get_program()).args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        limited.current_dir(directory);
    }
    let start = Instant::now();
    let output = feed(limited, input, 10_000);
    let (status, stdout, hung) = (output.status, output.stdout, start.elapsed() >= TIME_LIMIT);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Outcome { status, stdout, stderr, hung, hits: Vec::new() }
}

/// Every fault worth injecting into this command, found by tracing it once.
pub fn faults_of(log: &Path, command: &Command, input: &[u8]) -> Vec<Fault> {
    let Outcome { status, stderr, .. } = strace(log, &["-e", "trace=all"], command, input);
    assert!(status.success(), "without a fault: {status} {stderr}");
    let text = std::fs::read_to_string(log).unwrap();
    let mut main = None;
    let mut before_main: BTreeMap<&str, u32> = BTreeMap::new();
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    let mut started = false;
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(char::is_whitespace) else { continue };
        // Other lines are the ends of calls that were interrupted, signals, and exits.
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        if !call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            continue;
        }
        main.get_or_insert(thread);
        *counts.entry((call, thread)).or_default() += 1;
        // The first thing that the program itself asks the kernel.
        started |= call == "umask";
        if !started {
            *before_main.entry(call).or_default() += 1;
        }
    }
    assert!(started, "no umask(2) in the trace: where does main begin?");
    let mut most: BTreeMap<&str, u32> = BTreeMap::new();
    for ((call, _), count) in counts {
        let most = most.entry(call).or_default();
        *most = count.max(*most);
    }
    let wanted = |call: &str| {
        // A call that this strace has no name for cannot be made to fail by it.
        !call.starts_with("syscall_") && !LEFT_OUT.iter().any(|(calls, _)| calls.contains(&call))
    };
    let mut faults = Vec::new();
    for (call, most) in most.into_iter().filter(|(call, _)| wanted(call)) {
        for when in before_main.get(call).copied().unwrap_or(0) + 1..=most {
            faults.extend(errors(call).iter().map(|error| Fault { call: call.to_string(), when, error }));
        }
    }
    faults
}

/// About `number` of the faults, spread evenly, and at least one for each call.
pub fn sample(faults: Vec<Fault>, number: usize) -> Vec<Fault> {
    let step = faults.len().div_ceil(number.max(1)).max(1);
    let mut seen = "".to_string();
    let chosen = faults.into_iter().enumerate().filter(|(index, fault)| {
        let first = fault.call != seen;
        seen.clone_from(&fault.call);
        first || index % step == 0
    });
    chosen.map(|(_, fault)| fault).collect()
}

/// Runs the command with the fault.
pub fn inject(log: &Path, fault: &Fault, command: &Command, input: &[u8]) -> Outcome {
    let Fault { call, when, error } = fault;
    let what = if *error == KILL { "signal=KILL".to_string() } else { format!("error={error}") };
    let mut options =
        vec!["-e".into(), format!("trace={call}"), "-e".into(), format!("inject={call}:{what}:when={when}")];
    if *error != KILL {
        // Faster: no stop at other calls. A signal is lost without those stops.
        options.push("--seccomp-bpf".into());
    }
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let mut outcome = strace(log, &options, command, input);
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let mut unfinished: BTreeMap<&str, &str> = BTreeMap::new();
    for line in text.lines() {
        let thread = line.split_whitespace().next().unwrap_or_default();
        if line.ends_with("<unfinished ...>") {
            unfinished.insert(thread, line);
        } else if line.contains("(INJECTED)") {
            // The arguments are on the line where the call began.
            let begun = if line.contains(" resumed>") { unfinished.remove(thread).unwrap_or_default() } else { "" };
            outcome.hits.push(format!("{begun}{line}"));
        }
    }
    outcome
}
