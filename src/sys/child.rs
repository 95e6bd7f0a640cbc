//! A child process that leads a process group of its own, so that it can be ended with everything it started.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::terminal::Terminal;
use super::{check, retry};

/// How often [`ChildGroup::end`] checks whether the group is gone.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long the thread that watches for signals has to act on one.
const SIGNAL_DELAY: Duration = Duration::from_millis(100);
/// How long [`ChildGroup::end`] waits after SIGKILL. Only a process in uninterruptible sleep takes longer.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// A running child process and its process group.
pub struct ChildGroup {
    /// The process ID of the leader, and the ID of the group.
    id: libc::pid_t,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Set when the leader has been reaped. Until then its ID cannot belong to another process.
    status: Option<ExitStatus>,
    /// The group is the foreground group of the terminal.
    has_terminal: bool,
}

impl ChildGroup {
    /// Starts `command`. SIGXFSZ has its default action in the child, even if this process ignores it. If this process is
    /// killed, the child gets SIGTERM (PR_SET_PDEATHSIG(2const)); the calling thread must therefore outlive the child.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        if super::signal_ignored(libc::SIGCHLD) {
            // Otherwise the kernel would discard the exit status (wait(2), NOTES).
            // SAFETY: SIG_DFL installs no code of ours.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        }
        let prepare = || {
            // SAFETY: SIG_DFL installs no code of ours; prctl takes integers here.
            unsafe {
                libc::signal(libc::SIGXFSZ, libc::SIG_DFL);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM); // optional
            }
            Ok(())
        };
        // SAFETY: `prepare` runs in the child between fork and exec and makes two system calls; it allocates nothing and
        // takes no lock.
        let child = unsafe { command.process_group(0).pre_exec(prepare) }.spawn()?;
        let id = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
        Ok(Self { id, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the leader has exited, and returns its status. While it waits, lends the terminal to the group if a
    /// process of the group needs it.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            // WNOWAIT: the leader is reaped below, with the lock held.
            if let Some(signal) = self.wait_event(libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT)? {
                self.wait_event(libc::WSTOPPED | libc::WNOHANG)?; // consumes the event
                self.stopped(signal);
                continue;
            }
            let mut state = self.state();
            if let Some(status) = reap(self.id, &mut state, 0)? {
                self.leader_ended(&mut state, status);
                return Ok(status);
            }
        }
    }

    /// The leader has ended: takes the terminal back. If the terminal ended it, for example by Ctrl-C, this process, which
    /// did not get that signal, gets it now.
    fn leader_ended(&self, state: &mut State, status: ExitStatus) {
        let had_terminal = state.has_terminal;
        self.return_terminal(state);
        if let Some(signal @ (libc::SIGINT | libc::SIGQUIT | libc::SIGHUP)) = status.signal().filter(|_| had_terminal) {
            // SAFETY: integers only.
            unsafe { libc::kill(libc::getpid(), signal) };
            std::thread::sleep(SIGNAL_DELAY);
        }
    }

    /// True if the leader has failed: it has exited with another status than 0, or a signal has ended it.
    pub fn has_failed(&self) -> bool {
        if let Some(status) = self.state().status {
            return !status.success();
        }
        // SAFETY: siginfo_t is a struct of integers and pointers, for which zero is a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        let Ok(id) = libc::id_t::try_from(self.id) else { return false };
        // SAFETY: `info` outlives the call.
        let result = unsafe { libc::waitid(libc::P_PID, id, &mut info, options) };
        // SAFETY: waitid has set the status for every event it reports.
        let status = || unsafe { info.si_status() };
        match info.si_code {
            libc::CLD_EXITED => result == 0 && status() != 0,
            libc::CLD_KILLED | libc::CLD_DUMPED => result == 0,
            _ => false,
        }
    }

    /// Like [`ChildGroup::wait`], but returns None if the leader is still running after `timeout`.
    pub fn wait_timeout(&self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        loop {
            let mut state = self.state();
            let status = reap(self.id, &mut state, libc::WNOHANG)?;
            status.iter().for_each(|status| self.leader_ended(&mut state, *status));
            drop(state);
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Lends the terminal to the group if the leader has stopped because a process of the group needs it. Does not block.
    pub fn lend_terminal_if_needed(&self) {
        if let Ok(Some(signal)) = self.wait_event(libc::WSTOPPED | libc::WNOHANG) {
            self.stopped(signal);
        }
    }

    /// Waits for a change of the leader's state (waitid(2)). Returns the signal that stopped it; None for anything else.
    fn wait_event(&self, options: libc::c_int) -> io::Result<Option<libc::c_int>> {
        if self.state().status.is_some() {
            return Ok(None);
        }
        // SAFETY: siginfo_t is a struct of integers and pointers, for which zero is a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let id = libc::id_t::try_from(self.id).map_err(io::Error::other)?;
        // SAFETY: `info` outlives the call.
        let result = retry(|| check(unsafe { libc::waitid(libc::P_PID, id, &mut info, options) }));
        match result {
            // Another thread has reaped it.
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) && self.state().status.is_some() => return Ok(None),
            other => other?,
        };
        // SAFETY: waitid has set the status for every event it reports; without an event si_code is 0.
        Ok((info.si_code == libc::CLD_STOPPED).then(|| unsafe { info.si_status() }))
    }

    /// The leader was stopped by `signal`: by Ctrl-Z, or because the group used the terminal without being its foreground
    /// group. Stops this process as well if its shell should take over, and otherwise lends the terminal.
    fn stopped(&self, signal: libc::c_int) {
        let needs_terminal = signal == libc::SIGTTIN || signal == libc::SIGTTOU;
        let suspended = signal == libc::SIGTSTP && self.state().has_terminal;
        let Some(terminal) = Terminal::controlling().filter(|_| needs_terminal || suspended) else { return };
        if suspended {
            self.return_terminal(&mut self.state());
            super::stop_by_default(libc::SIGTSTP);
        }
        // In the background, stop like any process that needs the terminal. The shell's fg continues this process.
        while !terminal.lend_to(self.id) {
            super::stop_own_group(if suspended { libc::SIGTTIN } else { signal });
            std::thread::sleep(POLL_INTERVAL); // the kernel does not stop an orphaned process group
        }
        self.state().has_terminal = true;
        self.signal(libc::SIGCONT);
    }

    fn return_terminal(&self, state: &mut State) {
        if std::mem::take(&mut state.has_terminal)
            && let Some(terminal) = Terminal::controlling()
        {
            terminal.take_back_from(self.id);
        }
    }

    /// Sends `signal` to the group. Nothing happens if the group is gone.
    pub fn signal(&self, signal: libc::c_int) {
        // The state is locked so that the leader is not reaped meanwhile. As long as the group has a member, its ID is not
        // given to another process.
        let _state = self.state();
        // SAFETY: integers only.
        unsafe { libc::killpg(self.id, signal) };
    }

    /// Ends the group: sends `signal`, and SIGKILL to what is left after `grace`. Reaps the leader.
    pub fn end(&self, signal: libc::c_int, grace: Duration) {
        self.signal(signal);
        self.signal(libc::SIGCONT); // a stopped process would not see the first signal
        self.wait_until_gone(grace);
        self.signal(libc::SIGKILL);
        self.wait_until_gone(KILL_TIMEOUT);
        self.return_terminal(&mut self.state());
    }

    /// Waits until the leader is reaped and no other process is in the group.
    fn wait_until_gone(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        loop {
            let mut state = self.state();
            let reaped = !matches!(reap(self.id, &mut state, libc::WNOHANG), Ok(None));
            // SAFETY: integers only; signal 0 only checks whether the group exists.
            let gone = reaped && unsafe { libc::killpg(self.id, 0) } < 0;
            drop(state);
            if gone || Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// True if the leader has succeeded. What it left in the background is then not terminated.
    pub fn is_finished(&self) -> bool {
        self.state().status.is_some_and(|status| status.success())
    }
}

/// Reaps the leader. None: it is still running, and `options` has WNOHANG.
fn reap(id: libc::pid_t, state: &mut State, options: libc::c_int) -> io::Result<Option<ExitStatus>> {
    if state.status.is_none() {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let reaped = retry(|| check(unsafe { libc::waitpid(id, &mut status, options) }))?;
        state.status = (reaped == id).then(|| ExitStatus::from_raw(status));
    }
    Ok(state.status)
}
