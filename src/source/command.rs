//! What a command prints, as a source. Its exit status is part of the result: if the command fails, so does the copy.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::stream::StreamSource;
use super::{CommandEnd, OpenSource, ReadPlan, ReadReport, Source};
use crate::block::Block;
use crate::cleanup::{Cleanup, END_TIMEOUT};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::pace::Pace;
use crate::sequencer::Sequencer;
use crate::source_info::SourceInfo;
use crate::sys::ChildGroup;

struct CommandSource<'a> {
    /// The program, as the user gave it.
    name: PathBuf,
    command: &'a [OsString],
    /// The end of the pipe that the command writes to, until it is started.
    stdout: Mutex<Option<OwnedFd>>,
    stream: StreamSource,
    child: OnceLock<Arc<ChildGroup>>,
    cleanup: &'a Cleanup,
}

/// Prepares the command. It is started when the destination is open, so that it does not run for nothing.
pub fn open<'a>(
    job: &'a Job,
    command: &'a [OsString],
    pace: &Arc<Pace>,
    cleanup: &'a Cleanup,
) -> Result<OpenSource<'a>> {
    let name = job.source.name();
    let (output, stdout) = io::pipe().map_err(|e| Error::io("creating a pipe for", &name, e))?;
    let stream = StreamSource::new(job, &name, File::from(OwnedFd::from(output)), false, pace.clone());
    let length = stream.expected_length();
    let info = SourceInfo { name: name.clone(), suggested_name: None, file: None, length, identity: None };
    let description = match length {
        Some(length) => format!("the output of a command, {length} bytes"),
        None => "the output of a command, of unknown length".to_string(),
    };
    let stdout = Mutex::new(Some(OwnedFd::from(stdout)));
    let source = CommandSource { name, command, stdout, stream, child: OnceLock::new(), cleanup };
    Ok(OpenSource { info, alignment: 1, min_workers: 1, extents: None, description, source: Box::new(source) })
}

impl CommandSource<'_> {
    fn start(&self) -> Result<Arc<ChildGroup>> {
        let stdout = self.stdout.lock().unwrap_or_else(PoisonError::into_inner).take();
        let spawn = || {
            let (program, arguments) = self.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
            let stdout = stdout.map_or(Stdio::null(), Stdio::from);
            ChildGroup::spawn(Command::new(program).args(arguments).stdout(stdout)).map(Arc::new)
        };
        self.cleanup.start_command(spawn).map_err(|e| {
            let error = Error::command(&self.name, format!("it cannot be started: {}", crate::error::plain(&e)));
            match e.kind() {
                io::ErrorKind::NotFound => error.hint("check the name of the command, or give its full path"),
                _ => error,
            }
        })
    }

    /// Fails if the command failed.
    fn require_success(&self, status: ExitStatus) -> Result<()> {
        if status.success() {
            return Ok(());
        }
        // Processes that it has started may still be running.
        self.child.get().iter().for_each(|child| child.end(libc::SIGTERM, END_TIMEOUT));
        let bytes = self.stream.bytes_read();
        Err(Error::command(&self.name, format!("it {} after printing {bytes} bytes", ending(status))))
    }

    fn waiting(&self, error: io::Error) -> Error {
        Error::io("waiting for", &self.name, error)
    }
}

/// How a command ended, as the end of a sentence.
fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => match signal_hook::low_level::signal_name(signal) {
            Some(name) => format!("was ended by {name}"),
            None => format!("was ended by signal {signal}"),
        },
        (None, None) => "ended".to_string(),
    }
}

impl Source for CommandSource<'_> {
    fn begin(&mut self, plan: ReadPlan) -> Result<()> {
        self.stream.begin(plan)?;
        let child = self.start()?;
        self.stream.set_producer(child.clone());
        let _ = self.child.set(child); // it is started once
        Ok(())
    }

    fn next(&self, block: &mut Block, sequencer: &Sequencer) -> Result<bool> {
        let result = self.stream.next(block, sequencer);
        let Some(child) = self.child.get().filter(|_| result.is_err() && self.stream.reached_end()) else {
            return result;
        };
        // The output may be too short because the command failed, which is then the reason to report.
        match child.wait_timeout(END_TIMEOUT).map_err(|e| self.waiting(e))? {
            Some(status) => self.require_success(status).and(result),
            None => result,
        }
    }

    fn finish(&self) -> Result<ReadReport> {
        let report = self.stream.finish()?;
        let Some(child) = self.child.get() else { return Ok(report) };
        let command = if self.stream.has_more(END_TIMEOUT)? {
            // --count ends the copy here. What the command does about that does not matter.
            child.end(libc::SIGTERM, END_TIMEOUT);
            CommandEnd::EndedByCount
        } else {
            self.require_success(child.wait().map_err(|e| self.waiting(e))?)?;
            CommandEnd::Succeeded
        };
        Ok(ReadReport { command: Some(command), ..report })
    }
}

impl Drop for CommandSource<'_> {
    /// The copy has failed: the command is no longer needed.
    fn drop(&mut self) {
        if let Some(child) = self.child.get().filter(|child| !child.is_finished()) {
            child.end(libc::SIGTERM, END_TIMEOUT);
        }
    }
}
