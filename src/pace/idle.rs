//! `--idle`: only what nobody else wants of the disks.
//!
//! Every transfer to or from a disk passes here ([`IdleGate::enter`]). Two modes:
//!
//! - **alone**: as if there were no `--idle`, but for the idle I/O class. Ten times a second the
//!   transfers under way are let run out, and in the moment of quiet that follows it looks whether the
//!   disks work all the same: then somebody else wants them.
//! - **yielding**: one small transfer at a time, and after each a pause of 0.7 times what it took.
//!   So two fifths of the time the disk is everybody else's, they never wait for more than one small
//!   transfer, and a disk that gets slower gets less to do. What the disks do in the pauses are
//!   others' transfers; when there are none for a while, it is alone again.
//!
//! This needs no help from the I/O scheduler. Where that knows the idle class (mq-deadline, BFQ), large
//! transfers get it on top. Small ones do not: they would wait until nobody has anything in the queue
//! (beside a random reader under mq-deadline 165 MB/s instead of 215, and single ones for 28 ms), and the
//! pauses do as well.

mod disks;

use std::cell::Cell;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use disks::DiskStats;

use crate::sys;

/// How often it looks while it is alone.
const EVERY: Duration = Duration::from_millis(100);
/// How long a look is: long enough for a random reader's dozen of transfers on flash; on a spinning disk
/// the one that is under way shows.
const LOOK: Duration = Duration::from_millis(2);
/// How long it looks again, if it saw a single transfer.
const LONGER: Duration = Duration::from_millis(10);
/// What is seen is counted in parts of this.
const SCALE: u64 = 1000;
/// Bytes of a transfer while it yields. Of 64, 80, 96, 128, 192, 256 and 384 KiB with pauses of 0.5 to 3
/// times, this and [`PAUSE`] are the fastest beside which a random reader's p50 stays well below 1.3 times
/// and its p99 below twice that of a reader alone (on the virtual flash disk of benches/RESULTS.md).
const SMALL: usize = 96 << 10;
/// Pauses while it yields, as a multiple of what the transfer took.
const PAUSE: f64 = 0.7;
/// Who waits for the gate while it yields looks again so often: whoever is through goes on alone, and
/// need not wake the others after each of thousands of transfers.
const PATIENT: Duration = Duration::from_millis(2);
/// Without transfers of others for so long it is alone; longer each time that this was too early.
const PATIENCE: Duration = Duration::from_millis(250);
const LONGEST_PATIENCE: Duration = Duration::from_secs(8);
/// As few transfers of others as this are the filesystem's own, of what the copy did to it.
const OWN: u64 = 2;

thread_local! {
    /// The I/O class that this thread was given here.
    static CLASS: Cell<i32> = const { Cell::new(0) };
}

/// The gate that transfers pass.
pub struct IdleGate {
    /// None until [`IdleGate::watch`]: the gate is open.
    disks: OnceLock<DiskStats>,
    state: Mutex<State>,
    changed: Condvar,
    /// The I/O class and priority that the caller had before; None: it cannot be changed.
    class: Option<i32>,
}

struct State {
    alone: bool,
    /// Transfers under way; while yielding also the pause after one.
    inside: usize,
    /// When it looked last, or while yielding: since when it counts.
    looked: Instant,
    /// Transfers of others, counted while yielding.
    seen: u64,
    /// Transfers of others in the looks of the last second, the older the less, in parts of [`SCALE`].
    recent: u64,
    patience: Duration,
    /// When the mode changed last.
    since: Instant,
    /// What to tell the user.
    messages: Vec<String>,
}

impl IdleGate {
    /// Puts the calling thread, and the threads it starts, into the idle I/O class. The gate stays open until
    /// [`IdleGate::watch`].
    pub fn new() -> Self {
        let now = Instant::now();
        let state = State {
            alone: true,
            inside: 0,
            looked: now,
            seen: 0,
            patience: PATIENCE,
            recent: 0,
            since: now.checked_sub(2 * LONGEST_PATIENCE).unwrap_or(now),
            messages: Vec::new(),
        };
        // A container's filter may refuse this; the pauses then have to do without.
        let class = sys::io_priority().ok().filter(|_| sys::set_io_priority(sys::IO_CLASS_IDLE).is_ok());
        CLASS.set(if class.is_some() { sys::IO_CLASS_IDLE } else { 0 });
        Self { disks: OnceLock::new(), state: Mutex::new(state), changed: Condvar::new(), class }
    }

    /// Watches the disks under these files or devices from now on. Only the first call counts.
    pub fn watch(&self, files: &[&File]) {
        let mut state = self.lock();
        let disks = self.disks.get_or_init(|| DiskStats::of(files));
        let now = Instant::now();
        state.alone = disks.tell();
        state.looked = now.checked_sub(EVERY).unwrap_or(now);
        state.messages.push(format!("--idle: {}", disks.describe()));
    }

    /// Waits until a transfer may begin. It ends when the [`Permit`] is dropped. `usual`: see [`TransferTime`].
    pub fn enter<'a>(&'a self, usual: &'a TransferTime) -> Permit<'a> {
        let mut state = self.lock();
        loop {
            let due = state.alone && self.disks.get().is_some() && state.looked.elapsed() >= EVERY;
            if due && state.inside == 0 {
                self.look(&mut state);
                continue;
            }
            if state.inside == 0 || state.alone && !due {
                break;
            }
            state = match state.alone {
                true => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                false => self.changed.wait_timeout(state, PATIENT).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        state.inside += 1;
        let yielding = !state.alone;
        drop(state);
        self.belong(yielding);
        Permit { idle: self, usual, yielding, began: Instant::now() }
    }

    /// Puts the calling thread into the I/O class of the mode.
    fn belong(&self, yielding: bool) {
        // Never above what the caller had.
        let yielding = yielding && self.class.is_some_and(|class| class >> 13 != sys::IO_CLASS_IDLE >> 13);
        let wanted = if yielding { sys::IO_CLASS_LAST } else { sys::IO_CLASS_IDLE };
        if self.class.is_some() && CLASS.get() != wanted && sys::set_io_priority(wanted).is_ok() {
            CLASS.set(wanted);
        }
    }

    /// Is somebody else there? None of our own transfers is under way.
    fn look(&self, state: &mut State) {
        let Some(disks) = self.disks.get() else { return };
        let mut seen = disks.during(LOOK);
        if seen == 1 {
            seen += disks.during(LONGER); // it may be the filesystem's own
        }
        // Who comes rarely is seen now and then: the looks of about a second count together.
        state.recent = state.recent * 9 / 10 + seen * SCALE;
        state.looked = Instant::now();
        self.changed.notify_all(); // those who waited for this
        if state.recent >= OWN * SCALE * 9 / 10 {
            state.recent = 0;
            let soon = state.since.elapsed() < 2 * LONGEST_PATIENCE;
            state.patience = if soon { (state.patience * 2).min(LONGEST_PATIENCE) } else { PATIENCE };
            self.turn(state, false, &format!("others use {}: yielding", disks.describe_briefly()));
        }
    }

    /// While yielding: so many transfers of others in the pause that ends.
    fn count(&self, state: &mut State, seen: u64) {
        state.seen += seen;
        if state.looked.elapsed() < state.patience {
            return;
        }
        if state.seen <= OWN && self.disks.get().is_some_and(DiskStats::tell) {
            let quiet = state.patience.as_secs_f64();
            self.turn(state, true, &format!("nobody else for {quiet} s: alone"));
        }
        (state.seen, state.looked) = (0, Instant::now());
    }

    fn turn(&self, state: &mut State, alone: bool, what: &str) {
        (state.alone, state.seen, state.since) = (alone, 0, Instant::now());
        state.messages.push(format!("--idle: {what}"));
    }

    /// What it saw since it was last asked.
    pub fn take_messages(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().messages)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for IdleGate {
    fn drop(&mut self) {
        // The thread may be a caller's. The class was its own, so it is not refused.
        let _ = self.class.map(sys::set_io_priority);
    }
}

/// What a transfer of one file takes while it yields, in nanoseconds, less what is out of the ordinary.
#[derive(Default)]
pub struct TransferTime(AtomicU64);

impl TransferTime {
    /// How long to leave the disk alone after a transfer that took so long.
    fn pause(&self, took: Duration) -> Duration {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let usual = match self.0.load(Ordering::Relaxed) {
            0 => took,
            usual => usual,
        };
        // A disk that hangs for a moment is no busy one.
        let took = took.min(2 * usual);
        let usual = if took < usual { took } else { usual + (took - usual) / 32 };
        self.0.store(usual, Ordering::Relaxed);
        Duration::from_nanos(took).mul_f64(PAUSE)
    }
}

/// One transfer.
pub struct Permit<'a> {
    idle: &'a IdleGate,
    usual: &'a TransferTime,
    yielding: bool,
    began: Instant,
}

impl Permit<'_> {
    /// The most bytes that it should move.
    pub fn most(&self) -> usize {
        if self.yielding { SMALL } else { usize::MAX }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let idle = self.idle;
        // Nobody else is inside, and nobody comes in.
        let pause = || self.usual.pause(self.began.elapsed());
        let seen = idle.disks.get().filter(|_| self.yielding).map(|disks| disks.during(pause()));
        let mut state = idle.lock();
        if let Some(seen) = seen {
            idle.count(&mut state, seen);
        }
        state.inside -= 1;
        let wake = state.alone;
        drop(state);
        if wake {
            idle.changed.notify_all();
        }
    }
}
