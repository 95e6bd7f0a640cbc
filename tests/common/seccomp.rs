//! Seccomp filters: what dio-cp finds under an older kernel, or in a container that refuses system calls.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

const CACHESTAT: c_long = 451; // Linux 6.5; the same number on every architecture
/// The number of a system call that no kernel has yet.
const END: c_long = 600;
/// Argument values, from include/uapi.
const FICLONE: u64 = 0x4004_9409;
const FICLONERANGE: u64 = 0x4020_940d;
const RWF_DONTCACHE: u64 = 0x80;
const STATX_DIOALIGN: u64 = 0x2000;
const MADV_POPULATE_READ: u64 = 22;
const MADV_POPULATE_WRITE: u64 = 23;

/// Which calls of one number: all, those whose argument has a value, or those whose argument has a bit.
#[derive(Clone, Copy)]
enum Which {
    All,
    Value(u8, u64),
    Bit(u8, u64),
}

/// Calls that a filter answers with one error.
#[derive(Clone)]
struct Answer {
    error: i32,
    calls: Vec<(c_long, Which)>,
}

/// A filter, by name.
#[derive(Clone)]
pub struct Filter {
    pub name: String,
    answers: Vec<Answer>,
}

/// The optional system calls, grouped as dio-cp uses them.
pub const OPTIONAL: [&str; 18] = [
    "statx",
    "cachestat",
    "preadv2 and pwritev2",
    "fallocate",
    "fadvise64",
    "mincore",
    "madvise",
    "FICLONE and FICLONERANGE",
    "ioprio_set and ioprio_get",
    "prctl",
    "sync_file_range",
    "renameat2",
    "copy_file_range",
    "openat2",
    "process_vm_writev",
    "clone3",
    "pidfd_open and pidfd_send_signal",
    "faccessat2 and close_range",
];

fn calls(group: &str) -> Vec<(c_long, Which)> {
    let numbers: &[c_long] = match group {
        "statx" => &[libc::SYS_statx],
        "cachestat" => &[CACHESTAT],
        "preadv2 and pwritev2" => &[libc::SYS_preadv2, libc::SYS_pwritev2],
        "fallocate" => &[libc::SYS_fallocate],
        "fadvise64" => &[libc::SYS_fadvise64],
        "mincore" => &[libc::SYS_mincore],
        "madvise" => &[libc::SYS_madvise],
        "ioprio_set and ioprio_get" => &[libc::SYS_ioprio_set, libc::SYS_ioprio_get],
        "prctl" => &[libc::SYS_prctl],
        "sync_file_range" => &[libc::SYS_sync_file_range],
        "renameat2" => &[libc::SYS_renameat2],
        "copy_file_range" => &[libc::SYS_copy_file_range],
        "openat2" => &[libc::SYS_openat2],
        "process_vm_writev" => &[libc::SYS_process_vm_writev],
        "clone3" => &[libc::SYS_clone3],
        "pidfd_open and pidfd_send_signal" => &[libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal],
        "faccessat2 and close_range" => &[libc::SYS_faccessat2, libc::SYS_close_range],
        "FICLONE and FICLONERANGE" => {
            return [FICLONE, FICLONERANGE].map(|request| (libc::SYS_ioctl, Which::Value(1, request))).into();
        }
        other => panic!("no such group: {other}"),
    };
    numbers.iter().map(|number| (*number, Which::All)).collect()
}

impl Filter {
    /// Refuses groups of [`OPTIONAL`] calls with one error: ENOSYS as an old kernel does, or EPERM as old container
    /// runtimes do.
    pub fn refusing(groups: &[&str], error: i32) -> Self {
        let error_name = if error == libc::ENOSYS { "ENOSYS" } else { "EPERM" };
        let name = if groups.len() > 1 { "every optional call" } else { groups[0] };
        let calls = groups.iter().flat_map(|group| calls(group)).collect();
        Self { name: format!("{error_name} for {name}"), answers: vec![Answer { error, calls }] }
    }

    /// The system calls of Linux 4.19: the next version's numbers begin at 424.
    pub fn linux_4_19() -> Self {
        Self::older("Linux 4.19", 424)
    }

    /// The system calls of Linux 5.10, whose last number is 440.
    pub fn linux_5_10() -> Self {
        Self::older("Linux 5.10", 441)
    }

    /// A kernel without the numbers from `first` on, and without what has come to older calls since: STATX_DIOALIGN (6.1;
    /// a filter cannot clear a bit of the answer, so the call fails), RWF_DONTCACHE (6.14), MADV_POPULATE_READ (5.14).
    fn older(name: &str, first: c_long) -> Self {
        let missing = (first..END).map(|number| (number, Which::All));
        let populate = [MADV_POPULATE_READ, MADV_POPULATE_WRITE];
        let answers = vec![
            Answer {
                error: libc::ENOSYS,
                calls: missing.chain([(libc::SYS_statx, Which::Bit(3, STATX_DIOALIGN))]).collect(),
            },
            Answer {
                error: libc::EOPNOTSUPP,
                calls: [libc::SYS_preadv2, libc::SYS_pwritev2].map(|n| (n, Which::Bit(5, RWF_DONTCACHE))).into(),
            },
            Answer { error: libc::EINVAL, calls: populate.map(|a| (libc::SYS_madvise, Which::Value(2, a))).into() },
        ];
        Self { name: name.into(), answers }
    }

    /// Every filter that a test uses: the launched process finds its own by name.
    pub fn all() -> Vec<Self> {
        let errors = [libc::ENOSYS, libc::EPERM];
        let each = OPTIONAL.iter().flat_map(|group| errors.map(|error| Self::refusing(&[group], error)));
        let whole = errors.map(|error| Self::refusing(&OPTIONAL, error));
        each.chain(whole).chain([Self::linux_4_19(), Self::linux_5_10()]).collect()
    }

    /// Installs the filter for this thread and the programs it becomes.
    fn install(&self) {
        for answer in &self.answers {
            let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
            for (number, which) in &answer.calls {
                let rules = rules.entry(*number).or_default();
                rules.extend(which.rule());
            }
            let arch = std::env::consts::ARCH.try_into().unwrap();
            let error = SeccompAction::Errno(answer.error.try_into().unwrap());
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, error, arch).unwrap();
            let program: BpfProgram = filter.try_into().unwrap();
            seccompiler::apply_filter(&program).unwrap();
        }
    }

    /// dio-cp under this filter: this test program again, which runs the test `launcher` and becomes dio-cp there.
    pub fn command(&self, arguments: &[OsString]) -> Command {
        let words = ["launcher", "--exact", "--ignored", "--nocapture", "--test-threads=1"];
        let mut command = Command::new(std::env::current_exe().unwrap());
        let separated = arguments.join(OsStr::new("\n"));
        command.args(words).env(FILTER, &self.name).env(ARGUMENTS, separated);
        crate::common::web::alone(&mut command);
        command
    }
}

impl Which {
    /// None if the number alone decides.
    fn rule(self) -> Option<SeccompRule> {
        let (argument, operator, value) = match self {
            Self::All => return None,
            Self::Value(argument, value) => (argument, SeccompCmpOp::Eq, value),
            Self::Bit(argument, bit) => (argument, SeccompCmpOp::MaskedEq(bit), bit),
        };
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).unwrap();
        Some(SeccompRule::new(vec![condition]).unwrap())
    }
}

const FILTER: &str = "DIO_CP_TEST_FILTER";
const ARGUMENTS: &str = "DIO_CP_TEST_ARGUMENTS";

/// Becomes dio-cp under the filter that the environment names. Its standard output is standard error, because the test
/// harness has written to standard output already.
pub fn become_dio_cp() {
    let Some(name) = std::env::var_os(FILTER) else { return };
    let filter = Filter::all().into_iter().find(|filter| *filter.name == *name).unwrap();
    let arguments = std::env::var_os(ARGUMENTS).unwrap().into_vec();
    let mut command = Command::new(super::binary());
    command.args(arguments.split(|byte| *byte == b'\n').map(OsStr::from_bytes));
    command.env_remove(FILTER).env_remove(ARGUMENTS).stdout(std::io::stderr());
    filter.install();
    panic!("{}", command.exec());
}
