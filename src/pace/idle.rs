//! `--idle`: use the disks only when nobody else does.
//!
//! Every transfer to or from a disk passes through [`IdleGate::enter`]. The gate has two modes:
//!
//! - **Alone**: full speed, in the idle I/O class. Ten times a second the gate lets the transfers in flight finish, and
//!   samples the disks while the copy does nothing. If they are busy, another process is using them.
//! - **Yielding**: one small transfer at a time, and after each a pause of 0.7 times its duration or more. Others have the
//!   disk for at least two fifths of the time and never wait for more than one small transfer, and a disk that slows down
//!   gets less to do. All activity in the pauses comes from others. When there has been none for a while, the mode is "alone" again.
//!
//! This needs no help from the I/O scheduler. Schedulers that know the idle class (mq-deadline, BFQ) improve on it for
//! large transfers. Small transfers are not in the idle class, because they would wait until nobody else has a request
//! queued: next to a random reader under mq-deadline that gave 165 MB/s instead of 215, and delays of 28 ms.

mod disks;

use std::cell::Cell;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use disks::DiskStats;

use crate::sys;

/// Time between two samples while alone.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// Length of a sample: long enough for a dozen transfers of a random reader on flash. On a spinning disk, the request in
/// flight is seen.
const SAMPLE: Duration = Duration::from_millis(2);
/// Length of a second sample, taken if the first one saw a single transfer.
const SECOND_SAMPLE: Duration = Duration::from_millis(10);
/// Samples are weighted in fractions of this.
const SCALE: u64 = 1000;
/// Bytes of a transfer while yielding. Of sizes from 64 to 384 KiB with pauses of 0.5 to 3 times the duration, this one
/// with [`PAUSE`] is the fastest that leaves a random reader's p50 well below 1.3 times, and its p99 below 2 times, what it
/// has alone (measured on the virtual flash disk of benches/RESULTS.md).
const SMALL_TRANSFER: usize = 96 << 10;
/// The pause after a transfer while yielding, as a multiple of its duration.
const PAUSE: f64 = 0.7;
/// The shortest time between the starts of two transfers while yielding. On a fast disk it makes the pauses longer: the copy
/// runs at 250 MB/s at most (one transfer reads and one writes), and most requests of others meet none of its transfers.
const MIN_INTERVAL: Duration = Duration::from_micros(200);
/// While yielding, waiting threads look at the gate this often. Waking them after each of thousands of transfers would
/// cost more.
const RETRY_INTERVAL: Duration = Duration::from_millis(2);
/// After this long without transfers of others, the mode is "alone" again. It doubles each time that was too early.
const MIN_PATIENCE: Duration = Duration::from_millis(250);
const MAX_PATIENCE: Duration = Duration::from_secs(8);
/// Up to this many unexplained transfers are taken to be the filesystem's own, caused by the copy.
const OWN_TRANSFERS: u64 = 2;

thread_local! {
    /// The I/O priority that the gate gave this thread.
    static IO_PRIORITY: Cell<i32> = const { Cell::new(0) };
}

/// Decides when a transfer may start.
pub struct IdleGate {
    /// Empty until [`IdleGate::watch`]; the gate is open until then.
    disks: OnceLock<DiskStats>,
    state: Mutex<State>,
    changed: Condvar,
    /// The caller's I/O priority, which is restored at the end. None if it cannot be changed.
    caller_priority: Option<i32>,
}

struct State {
    alone: bool,
    /// Transfers in flight. While yielding, the pause after a transfer counts as part of it.
    in_flight: usize,
    /// Alone: the time of the last sample. Yielding: the start of the current observation.
    last_sample: Instant,
    /// Transfers of others in the current observation, while yielding.
    others: u64,
    /// Transfers of others in the samples of about the last second, older ones with less weight, times [`SCALE`].
    recent_others: u64,
    patience: Duration,
    last_change: Instant,
    messages: Vec<String>,
}

impl IdleGate {
    /// Puts the calling thread, and the threads it starts, into the idle I/O class. The gate stays open until
    /// [`IdleGate::watch`].
    pub fn new() -> Self {
        let now = Instant::now();
        let state = State {
            alone: true,
            in_flight: 0,
            last_sample: now,
            others: 0,
            patience: MIN_PATIENCE,
            recent_others: 0,
            last_change: now.checked_sub(2 * MAX_PATIENCE).unwrap_or(now),
            messages: Vec::new(),
        };
        // A container's seccomp filter may refuse this. The pauses then have to suffice.
        let caller_priority = sys::io_priority().ok().filter(|_| sys::set_io_priority(sys::IO_CLASS_IDLE).is_ok());
        IO_PRIORITY.set(if caller_priority.is_some() { sys::IO_CLASS_IDLE } else { 0 });
        Self { disks: OnceLock::new(), state: Mutex::new(state), changed: Condvar::new(), caller_priority }
    }

    /// Watches the disks under these files or devices from now on. Only the first call has an effect.
    pub fn watch(&self, files: &[&File]) {
        let mut state = self.lock();
        let disks = self.disks.get_or_init(|| DiskStats::of(files));
        let now = Instant::now();
        state.alone = disks.reliable();
        state.last_sample = now.checked_sub(SAMPLE_INTERVAL).unwrap_or(now);
        state.messages.push(format!("--idle: {}", disks.describe()));
    }

    /// Waits until a transfer may start. The transfer ends when the [`Permit`] is dropped.
    pub fn enter<'a>(&'a self, typical: &'a TransferTime) -> Permit<'a> {
        let mut state = self.lock();
        loop {
            let sample_due =
                state.alone && self.disks.get().is_some() && state.last_sample.elapsed() >= SAMPLE_INTERVAL;
            if sample_due && state.in_flight == 0 {
                self.sample(&mut state);
                continue;
            }
            if state.in_flight == 0 || state.alone && !sample_due {
                break;
            }
            state = if state.alone {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.changed.wait_timeout(state, RETRY_INTERVAL).unwrap_or_else(PoisonError::into_inner).0
            };
        }
        state.in_flight += 1;
        let yielding = !state.alone;
        drop(state);
        self.set_priority(yielding);
        Permit { gate: self, typical, yielding, start: Instant::now() }
    }

    /// Gives the calling thread the I/O priority of the mode.
    fn set_priority(&self, yielding: bool) {
        let Some(caller_priority) = self.caller_priority else { return };
        // A caller that is in the idle class itself stays there.
        let caller_idle = caller_priority >> 13 == sys::IO_CLASS_IDLE >> 13;
        let priority = if yielding && !caller_idle { sys::IO_CLASS_LAST } else { sys::IO_CLASS_IDLE };
        if IO_PRIORITY.get() != priority && sys::set_io_priority(priority).is_ok() {
            IO_PRIORITY.set(priority);
        }
    }

    /// Looks for transfers of others while none of the copy's own is in flight.
    fn sample(&self, state: &mut State) {
        let Some(disks) = self.disks.get() else { return };
        let mut others = disks.transfers_during(SAMPLE);
        if others == 1 {
            others += disks.transfers_during(SECOND_SAMPLE); // a single one may be the filesystem's own
        }
        // A process that uses the disk rarely appears in few samples, so the samples of about a second are added up.
        state.recent_others = state.recent_others * 9 / 10 + others * SCALE;
        state.last_sample = Instant::now();
        self.changed.notify_all(); // wakes the threads that waited for the sample
        if state.recent_others >= OWN_TRANSFERS * SCALE * 9 / 10 {
            state.recent_others = 0;
            let soon = state.last_change.elapsed() < 2 * MAX_PATIENCE;
            state.patience = if soon { (state.patience * 2).min(MAX_PATIENCE) } else { MIN_PATIENCE };
            self.change_mode(state, false, &format!("other processes use {}: yielding", disks.names()));
        }
    }

    /// Counts transfers of others in a pause. Stops yielding if there were none for long enough.
    fn observe_pause(&self, state: &mut State, others: u64) {
        state.others += others;
        if state.last_sample.elapsed() < state.patience {
            return;
        }
        if state.others <= OWN_TRANSFERS && self.disks.get().is_some_and(DiskStats::reliable) {
            let quiet = state.patience.as_secs_f64();
            self.change_mode(state, true, &format!("nobody else used the disk for {quiet} s: at full speed again"));
        }
        (state.others, state.last_sample) = (0, Instant::now());
    }

    fn change_mode(&self, state: &mut State, alone: bool, message: &str) {
        (state.alone, state.others, state.last_change) = (alone, 0, Instant::now());
        state.messages.push(format!("--idle: {message}"));
    }

    /// What was observed since the last call.
    pub fn take_messages(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().messages)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for IdleGate {
    fn drop(&mut self) {
        // The thread may belong to a user of the library. Going back to its own priority is always allowed.
        let _ = self.caller_priority.map(sys::set_io_priority);
    }
}

/// The typical duration of a small transfer of one file, in nanoseconds. Outliers hardly change it.
#[derive(Default)]
pub struct TransferTime(AtomicU64);

impl TransferTime {
    /// Records a duration, and returns how long to leave the disk alone after it.
    fn pause_after(&self, duration: Duration) -> Duration {
        let duration = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let recorded = self.0.load(Ordering::Relaxed);
        let typical = if recorded == 0 { duration } else { recorded };
        // A disk that hangs for a moment is not a busy disk.
        let duration = duration.min(2 * typical);
        let typical = if duration < typical { duration } else { typical + (duration - typical) / 32 };
        self.0.store(typical, Ordering::Relaxed);
        let duration = Duration::from_nanos(duration);
        duration.mul_f64(PAUSE).max(MIN_INTERVAL.saturating_sub(duration))
    }
}

/// The right to do one transfer.
pub struct Permit<'a> {
    gate: &'a IdleGate,
    typical: &'a TransferTime,
    yielding: bool,
    start: Instant,
}

impl Permit<'_> {
    /// The most bytes that the transfer should move.
    pub fn max_len(&self) -> usize {
        if self.yielding { SMALL_TRANSFER } else { usize::MAX }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let gate = self.gate;
        // While yielding, this is the only transfer, and nothing starts until the pause is over.
        let disks = gate.disks.get().filter(|_| self.yielding);
        let others = disks.map(|disks| disks.transfers_during(self.typical.pause_after(self.start.elapsed())));
        let mut state = gate.lock();
        if let Some(others) = others {
            gate.observe_pause(&mut state, others);
        }
        state.in_flight -= 1;
        let wake = state.alone;
        drop(state);
        if wake {
            gate.changed.notify_all();
        }
    }
}
