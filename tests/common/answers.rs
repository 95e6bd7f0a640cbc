//! A server with an answer of its own for each download, and downloads with limits.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::web::{Request, Server, alone, head, nothing, serve};
use super::{Scratch, binary, names};

/// Writes an answer: the number of the request for this path, the request, the connection.
pub type Respond = Box<dyn Fn(usize, &Request, &mut TcpStream) -> bool + Send + Sync>;

/// A server with an answer of its own for each path.
pub struct Answers {
    server: Server,
    scratch: Scratch,
    next: AtomicUsize,
    respond: Arc<Mutex<HashMap<String, Arc<Respond>>>>,
}

impl Answers {
    pub fn new() -> Self {
        let respond: Arc<Mutex<HashMap<String, Arc<Respond>>>> = Arc::default();
        let (table, counts) = (respond.clone(), Mutex::new(HashMap::<String, usize>::new()));
        let server = Server::new(move |_, request, stream| {
            let path = request.line.split(' ').nth(1).unwrap_or_default().to_string();
            let number = {
                let mut counts = counts.lock().unwrap();
                let count = counts.entry(path.clone()).or_default();
                *count += 1;
                *count - 1
            };
            let respond = table.lock().unwrap().get(&path).cloned();
            respond.is_some_and(|respond| respond(number, request, stream))
        });
        Self { server, scratch: Scratch::new(), next: AtomicUsize::new(0), respond }
    }

    /// Downloads to an existing file. Fails if that takes more than 20 seconds or 256 MiB, if anything but the file is
    /// left, or if a failed download changed it. Returns the content after success.
    pub fn download(&self, respond: Respond, args: &[&str]) -> Result<Option<Vec<u8>>, TestCaseError> {
        let path = format!("/{}", self.next.fetch_add(1, Ordering::Relaxed));
        self.respond.lock().unwrap().insert(path.clone(), Arc::new(respond));
        let directory: PathBuf = self.scratch.path(&path[1..]);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("dst"), b"old").unwrap();
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "20", "prlimit", "--data=268435456", binary()]).args(args);
        let output: Output = alone(&mut command)
            .args([self.server.url(&path).as_ref(), directory.join("dst").as_os_str()])
            .output()
            .unwrap();
        self.respond.lock().unwrap().remove(&path);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let content = fs::read(directory.join("dst")).unwrap();
        let left = names(&directory);
        fs::remove_dir_all(&directory).unwrap();
        prop_assert!(!stderr.contains("panicked"), "{}", stderr);
        prop_assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{:?} {}", output.status, stderr);
        prop_assert_eq!(left, ["dst"], "{}", stderr);
        if output.status.success() {
            return Ok(Some(content));
        }
        prop_assert_eq!(content, b"old", "{}", stderr);
        Ok(None)
    }

    /// Runs a check of each case, all at once.
    pub fn each<T: Sync>(
        &self,
        items: &[T],
        check: impl Fn(&T) -> Result<(), TestCaseError> + Sync,
    ) -> Result<(), TestCaseError> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = items.iter().map(|item| scope.spawn(|| check(item))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap())
        })
    }
}

/// An answer that is the same each time; the connection is closed after it.
pub fn bytes(answer: Vec<u8>) -> Respond {
    Box::new(move |_, _, stream| {
        let _ = stream.write_all(&answer);
        false
    })
}

/// What a server does wrong in one answer. It never gives bytes for those of another version or offset.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    None,
    Cut(usize),
    /// Sends a range that starts later or earlier than the requested one.
    Shifted(i64),
    /// Sends a range that ends early.
    Short(usize),
    /// Reports another length of the file.
    WrongTotal(i64),
    NoEtag,
    WeakEtag,
    WholeFile,
    Status(&'static str),
}

/// Answers `request` for `body`, with a fault.
pub fn faulty(request: &Request, stream: &mut TcpStream, body: &[u8], etag: &str, fault: Fault) -> bool {
    let etag = match fault {
        Fault::NoEtag => None,
        Fault::WeakEtag => Some(format!("W/{etag}")),
        _ => Some(etag.to_string()),
    };
    if let Fault::Status(status) = fault {
        return nothing(stream, status, &[("Retry-After", "0")]);
    }
    let mut request = request.clone();
    let is_range = |name: &str| name.eq_ignore_ascii_case("range");
    if matches!(fault, Fault::WholeFile) {
        request.headers.retain(|(name, _)| !is_range(name));
    }
    let total = body.len() as i64;
    let (shift, short, reported) = match fault {
        Fault::Shifted(by) => (by, 0, total),
        Fault::Short(by) => (0, by as i64, total),
        Fault::WrongTotal(by) => (0, 0, total + by),
        _ => (0, 0, total),
    };
    let Some((start, end)) = request.range().filter(|_| (shift, short, reported) != (0, 0, total)) else {
        let cut = if let Fault::Cut(after) = fault { Some(after) } else { None };
        return serve(&request, stream, body, etag.as_deref(), cut);
    };
    let start = (start as i64 + shift).clamp(0, total - 1);
    let end = (end.map_or(total, |end| end as i64).min(total).min(reported) - short).clamp(start + 1, total);
    let (range, length) = (format!("bytes {start}-{}/{reported}", end - 1), (end - start).to_string());
    let headers =
        [("ETag", etag.as_deref().unwrap_or_default()), ("Content-Range", &range), ("Content-Length", &length)];
    head(stream, "206 Partial Content", &headers) && stream.write_all(&body[start as usize..end as usize]).is_ok()
}
