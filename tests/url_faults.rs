//! Faulty servers and networks: a download ends with the complete file, or with none.
#![cfg(feature = "url")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::web::{Request, Server, certificate, head, nothing, read_request, serve};
use common::*;

const LEN: usize = (10 << 20) + 13;

/// Downloads `url` to `dst` with additional arguments and requires the exit status. Afterwards, nothing but `dst` may
/// exist, and only after success. Returns standard error.
#[track_caller]
fn copy(scratch: &Scratch, url: &str, status: i32, args: &[&str]) -> String {
    let dst = scratch.path("dst");
    let output = run([url, dst.to_str().unwrap()].into_iter().chain(args.iter().copied()));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    let expected: &[&str] = if status == 0 { &["dst"] } else { &[] };
    assert_eq!(scratch.names(), expected, "{stderr}");
    stderr
}

/// The start of the range of each request.
fn range_starts(server: &Server) -> Vec<Option<usize>> {
    server.requests().iter().map(|request| request.range().map(|(start, _)| start)).collect()
}

#[test]
fn a_download_resumes_at_the_byte_where_the_connection_was_lost() {
    let scratch = Scratch::new();
    let bytes = content(LEN);
    let server = Server::of(bytes.clone(), |number| (number < 2).then_some(3_000_000));
    let stderr = copy(&scratch, &server.url("/f"), 0, &["--checksum", "sha256"]);
    same(&scratch.path("dst"), &bytes);
    assert_eq!(range_starts(&server), [None, Some(3_000_000), Some(6_000_000)]);
    assert_eq!(server.requests()[1].header("if-range"), Some("\"v1\""));
    assert!(stderr.contains("attempt 2 of 6 in 0.5 s") && stderr.contains("attempt 3 of 6 in 1 s"), "{stderr}");
    assert!(stderr.contains("at 2.9 MiB: the connection was lost"), "{stderr}");
}

#[test]
fn the_download_fails_when_the_retries_are_used_up() {
    let scratch = Scratch::new();
    let server = Server::of(content(LEN), |_| Some(1000));
    let start = Instant::now();
    let stderr = copy(&scratch, &server.url("/f"), 1, &["--retry", "2"]);
    assert!(stderr.contains("gave up after 3 attempts") && stderr.contains("was not created"), "{stderr}");
    assert_eq!(range_starts(&server), [None, Some(1000), Some(2000)]);
    assert!(start.elapsed() >= Duration::from_millis(1500));
    let server = Server::of(content(LEN), |_| Some(1000));
    let stderr = copy(&scratch, &server.url("/f"), 1, &["--retry", "0"]);
    assert!(!stderr.contains("attempt"), "{stderr}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn after_enough_progress_the_count_of_failures_starts_again() {
    let scratch = Scratch::new();
    let bytes = content(70 << 20);
    let server = Server::of(bytes.clone(), |_| Some(17 << 20));
    copy(&scratch, &server.url("/f"), 0, &["--retry", "1"]);
    same(&scratch.path("dst"), &bytes);
    assert_eq!(server.requests().len(), 5);
}

#[test]
fn a_busy_server_is_retried_after_the_delay_it_asks_for() {
    let scratch = Scratch::new();
    let bytes = content(100_000);
    for status in ["408 Request Timeout", "429 Too Many Requests", "500 Internal Server Error", "503 Unavailable"] {
        let body = bytes.clone();
        let server = Server::new(move |number, request, stream| match number {
            0 => nothing(stream, status, &[("Retry-After", "1")]),
            _ => serve(request, stream, &body, None, None),
        });
        let start = Instant::now();
        let stderr = copy(&scratch, &server.url("/f"), 0, &[]);
        assert!(start.elapsed() >= Duration::from_secs(1));
        assert!(stderr.contains(&status[..3]) && stderr.contains("in 1 s"), "{stderr}");
        std::fs::remove_file(scratch.path("dst")).unwrap();
    }
    for status in ["403 Forbidden", "404 Not Found", "410 Gone", "204 No Content", "304 Not Modified", "300 Many"] {
        let server = Server::new(move |_, _, stream| nothing(stream, status, &[]));
        let stderr = copy(&scratch, &server.url("/f"), 1, &[]);
        assert!(stderr.contains(&status[..3]), "{stderr}");
        assert_eq!(server.requests().len(), 1, "{status}");
    }
}

/// A server whose file changes after the first request.
fn changing(
    old: Vec<u8>,
    new: Vec<u8>,
    respond: impl Fn(usize, &Request, &mut TcpStream, &[u8]) -> bool + Send + Sync + 'static,
) -> Server {
    Server::new(move |number, request, stream| respond(number, request, stream, if number == 0 { &old } else { &new }))
}

/// Cuts off the first response after 4 MB.
fn cut(number: usize) -> Option<usize> {
    (number == 0).then_some(4_000_000)
}

/// The version that a request sees.
fn etag(number: usize) -> &'static str {
    if number == 0 { "\"v1\"" } else { "\"v2\"" }
}

/// The request without `header`: what a server sees that ignores the header.
fn without(request: &Request, header: &str) -> Request {
    let mut request = request.clone();
    request.headers.retain(|(name, _)| !name.eq_ignore_ascii_case(header));
    request
}

#[test]
fn two_versions_are_never_mixed() {
    let (old, mut new) = (content(LEN), content(LEN));
    new.iter_mut().for_each(|byte| *byte = !*byte);
    type Respond = fn(usize, &Request, &mut TcpStream, &[u8]) -> bool;
    let cases: [(&str, Respond, &str); 8] = [
        (
            "a new ETag, and the server supports If-Range",
            |n, r, s, b| serve(r, s, b, Some(etag(n)), cut(n)),
            "length has changed|version has changed|sent the whole file",
        ),
        (
            "a new ETag, and the server ignores If-Range",
            |n, r, s, b| serve(&without(r, "if-range"), s, b, Some(etag(n)), cut(n)),
            "version has changed",
        ),
        (
            "a new weak ETag in the response to a range request",
            |n, r, s, b| serve(&without(r, "if-range"), s, b, Some(if n == 0 { etag(n) } else { "W/\"v2\"" }), cut(n)),
            "version has changed",
        ),
        (
            "no ETag in the response to a range request",
            |n, r, s, b| serve(&without(r, "if-range"), s, b, if n == 0 { Some(etag(n)) } else { None }, cut(n)),
            "version has changed",
        ),
        (
            "Last-Modified without a Date to compare it with",
            |n, r, s, b| {
                let headers =
                    [("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"), ("Content-Length", &b.len().to_string())];
                let sent = &b[..cut(n).unwrap_or(b.len())];
                assert!(r.range().is_none());
                head(s, "200 OK", &headers) && s.write_all(sent).is_ok() && cut(n).is_none()
            },
            "does not identify the file's version",
        ),
        (
            "no ETag and no Last-Modified",
            |n, r, s, b| serve(r, s, b, None, cut(n)),
            "does not identify the file's version|connection was lost",
        ),
        (
            "only a weak ETag",
            |n, r, s, b| serve(r, s, b, Some("W/\"v\""), cut(n)),
            "does not identify the file's version|connection was lost",
        ),
        (
            "the whole file instead of a range",
            |n, r, s, b| serve(&without(r, "range"), s, b, Some(etag(n)), cut(n)),
            "version has changed|sent the whole file",
        ),
    ];
    for (case, respond, expected) in cases {
        let scratch = Scratch::new();
        let server = changing(old.clone(), new.clone(), respond);
        let stderr = copy(&scratch, &server.url("/f"), 0, &["--checksum", "sha256", "--verify"]);
        assert!(expected.split('|').any(|text| stderr.contains(text)), "{case}: {stderr}");
        assert!(stderr.contains("starting over"), "{case}: {stderr}");
        same(&scratch.path("dst"), &new);
    }
}

#[test]
fn a_new_length_starts_over_and_the_file_has_the_new_length() {
    for new_len in [LEN - 5_000_000, LEN + 5_000_000, 1000] {
        let scratch = Scratch::new();
        let new = content(new_len);
        let server = changing(content(LEN), new.clone(), |number, request, stream, body| {
            // A server that sends the same ETag for both versions.
            serve(request, stream, body, Some("\"same\""), (number == 0).then_some(4_000_000))
        });
        let stderr = copy(&scratch, &server.url("/f"), 0, &[]);
        assert!(stderr.contains("starting over"), "{stderr}");
        same(&scratch.path("dst"), &new);
    }
}

#[test]
fn a_stream_and_in_place_cannot_start_over_and_fail() {
    let server = changing(content(LEN), content(LEN), |number, request, stream, body| {
        serve(request, stream, body, None, (number == 0).then_some(9_000_000))
    });
    let output = run([&server.url("/f"), "-"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(!stderr.contains("starting over"), "{stderr}");
    assert!(output.stdout.len() <= 9_000_000);
    // The same with --in-place: the new version may be shorter than what was written.
    let scratch = Scratch::new();
    let dst = scratch.file("dst", 100);
    let server = changing(content(LEN), content(5_000_000), |number, request, stream, body| {
        serve(request, stream, body, None, (number == 0).then_some(9_000_000))
    });
    let stderr = fails(1, [&server.url("/f"), dst.to_str().unwrap(), "--in-place"]);
    assert!(stderr.contains("may be partly overwritten"), "{stderr}");
}

#[test]
fn without_ranges_the_same_version_is_read_again_from_the_start() {
    let scratch = Scratch::new();
    let bytes = content(LEN);
    let body = bytes.clone();
    let server = Server::new(move |number, request, stream| {
        serve(&without(request, "range"), stream, &body, Some("\"v1\""), (number == 0).then_some(9_000_000))
    });
    let output = run([&server.url("/f"), "-"]);
    assert!(output.status.success() && output.stdout == bytes, "{}", String::from_utf8_lossy(&output.stderr));
    copy(&scratch, &server.url("/f"), 0, &[]);
    same(&scratch.path("dst"), &bytes);
}

#[test]
fn on_a_device_the_copy_starts_over() {
    needs_root_and!("losetup");
    let scratch = Scratch::new();
    let disk = Loop::new(&scratch, 16 << 20, 512);
    let new = content(5_000_001);
    let server = changing(content(LEN), new.clone(), |number, request, stream, body| {
        serve(request, stream, body, None, (number == 0).then_some(9_000_000))
    });
    copies([&server.url("/f"), disk.name(), "-f"]);
    assert!(std::fs::read(&disk.device).unwrap()[..new.len()] == new);
}

#[test]
fn responses_that_break_the_protocol_publish_nothing() {
    let scratch = Scratch::new();
    type Respond = fn(&mut TcpStream) -> bool;
    let cases: [(&str, Respond, &str); 15] = [
        (
            "a body that is too short",
            |s| head(s, "200 OK", &[("Content-Length", "100")]) && s.write_all(&[7; 99]).is_err(),
            "lost",
        ),
        (
            "a body that is too long",
            |s| head(s, "200 OK", &[("Content-Length", "100")]) && s.write_all(&[7; 101]).is_err(),
            "more bytes than",
        ),
        (
            "a body that is too long, with a late last byte",
            |s| {
                let sent = head(s, "200 OK", &[("Content-Length", "100")]) && s.write_all(&[7; 100]).is_ok();
                std::thread::sleep(Duration::from_millis(20));
                sent && s.write_all(&[7; 1]).is_err()
            },
            "more bytes than",
        ),
        (
            "a chunked body that ends within a chunk",
            |s| head(s, "200 OK", &[("Transfer-Encoding", "chunked")]) && s.write_all(b"10\r\nabc").is_err(),
            "lost",
        ),
        (
            "a chunked body that ends between chunks",
            |s| head(s, "200 OK", &[("Transfer-Encoding", "chunked")]) && s.write_all(b"3\r\nabc\r\n").is_err(),
            "lost",
        ),
        (
            "an invalid chunk length",
            |s| head(s, "200 OK", &[("Transfer-Encoding", "chunked")]) && s.write_all(b"xyz\r\nabc\r\n").is_err(),
            "",
        ),
        (
            "a chunked body without the end of its last chunk",
            |s| head(s, "200 OK", &[("Transfer-Encoding", "chunked")]) && s.write_all(b"3\r\nabc\r\n0\r\n").is_err(),
            "lost",
        ),
        (
            "a transfer encoding that was not requested",
            |s| head(s, "200 OK", &[("Transfer-Encoding", "gzip, chunked")]) && s.write_all(b"0\r\n\r\n").is_err(),
            "not requested",
        ),
        (
            "an unknown transfer encoding, and no length",
            |s| head(s, "200 OK", &[("Transfer-Encoding", "identity")]) && s.write_all(b"abc").is_err(),
            "not requested",
        ),
        ("two lengths", |s| head(s, "200 OK", &[("Content-Length", "3, 3")]) && s.write_all(b"abcabc").is_err(), ""),
        (
            "a length that is too large",
            |s| head(s, "200 OK", &[("Content-Length", "9223372036854775808")]) && s.write_all(b"abc").is_err(),
            "invalid Content-Length",
        ),
        (
            "a huge Retry-After",
            |s| nothing(s, "503 Unavailable", &[("Retry-After", "18446744073709551615")]),
            "asked to retry after",
        ),
        ("a response that is not HTTP", |s| s.write_all(b"220 ftp.example.org ready\r\n").is_err(), ""),
        ("no response", |_| false, ""),
        (
            "a negative length",
            |s| head(s, "200 OK", &[("Content-Length", "-5")]) && s.write_all(&[7; 100]).is_err(),
            "",
        ),
    ];
    for (case, respond, expected) in cases {
        let server = Server::new(move |_, _, stream| respond(stream));
        let stderr = copy(&scratch, &server.url("/f"), 1, &["--retry", "1"]);
        let with_connections = copy(&scratch, &server.url("/f"), 1, &["--retry", "0", "--connections", "3"]);
        assert!(with_connections.contains(expected), "{case}, with connections: {with_connections}");
        assert!(stderr.contains(expected) && stderr.contains(&server.url("/f")), "{case}: {stderr}");
    }
}

#[test]
fn a_body_without_a_length_is_complete_only_if_the_connection_ends_without_an_error() {
    let scratch = Scratch::new();
    let server = Server::new(|_, _, stream| head(stream, "200 OK", &[]) && stream.write_all(&[7; 1000]).is_err());
    copy(&scratch, &server.url("/f"), 0, &[]);
    same(&scratch.path("dst"), &[7; 1000]);
    std::fs::remove_file(scratch.path("dst")).unwrap();
    // The kernel resets a connection that is closed before the request was read.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/f", listener.local_addr().unwrap());
    let resetting_server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0]).unwrap();
        assert!(head(&mut stream, "200 OK", &[]) && stream.write_all(&[7; 1000]).is_ok());
        std::thread::sleep(Duration::from_millis(300));
    });
    copy(&scratch, &url, 1, &["--retry", "0"]);
    resetting_server.join().unwrap();
}

#[test]
fn a_range_that_was_not_requested_is_rejected() {
    let bytes = content(LEN);
    for args in [&["--skip", "100"][..], &["--skip", "100", "--count", "1000"], &["--connections", "2"]] {
        let scratch = Scratch::new();
        let body = bytes.clone();
        let server = Server::new(move |_, request, stream| {
            let (start, end) = request.range().unwrap();
            let (start, end) = (start + 500, end.map_or(body.len(), |end| end + 500));
            let range = format!("bytes {start}-{}/{}", end - 1, body.len());
            let length = (end - start).to_string();
            let headers = [("ETag", "\"v1\""), ("Content-Range", &range), ("Content-Length", &length)];
            head(stream, "206 Partial Content", &headers) && stream.write_all(&body[start..end]).is_ok()
        });
        let stderr = copy(&scratch, &server.url("/f"), 1, args);
        assert!(stderr.contains("a different range"), "{stderr}");
    }
    // If the length of the file is unknown, the end of a range is not the end of the file.
    let scratch = Scratch::new();
    let body = bytes.clone();
    let server = Server::new(move |_, request, stream| match request.range() {
        Some((start, _)) => {
            let headers = [("Content-Range", &*format!("bytes {start}-{}/*", start + 99)), ("Content-Length", "100")];
            head(stream, "206 Partial Content", &headers) && stream.write_all(&body[start..start + 100]).is_ok()
        }
        None => serve(request, stream, &body, None, None),
    });
    copy(&scratch, &server.url("/f"), 0, &["--skip", "100"]);
    same(&scratch.path("dst"), &bytes[100..]);
}

#[test]
fn short_ranges_are_continued_and_a_server_without_progress_is_given_up() {
    let bytes = content(LEN);
    for (longest, args, status) in [
        (300 << 10, &["--skip", "1"][..], 0),
        (300 << 10, &["--connections", "3"], 0),
        (1, &["--connections", "3", "--retry", "2"], 1),
        (0, &["--connections", "3", "--retry", "2"], 1),
    ] {
        let scratch = Scratch::new();
        let body = bytes.clone();
        let server = Server::new(move |number, request, stream| {
            let (start, end) = request.range().unwrap();
            let end = end.unwrap_or(body.len()).min(body.len());
            let end = if number == 0 { end } else { end.min(start + longest) };
            let range = format!("bytes {start}-{}/{}", end.max(start + 1) - 1, body.len());
            let length = (end - start).to_string();
            let headers = [("ETag", "\"v1\""), ("Content-Range", &range), ("Content-Length", &length)];
            let cut = if number == 0 && args[0] == "--skip" { 1_000_000 } else { end - start };
            head(stream, "206 Partial Content", &headers)
                && stream.write_all(&body[start..start + cut]).is_ok()
                && cut == end - start
        });
        let stderr = copy(&scratch, &server.url("/f"), status, args);
        assert!(server.requests().len() < 60, "{} requests: {stderr}", server.requests().len());
        if status == 0 {
            let skipped = if args[0] == "--skip" { 1 } else { 0 };
            same(&scratch.path("dst"), &bytes[skipped..]);
        }
    }
}

#[test]
fn an_idle_connection_that_the_server_has_closed_is_not_a_failure() {
    let scratch = Scratch::new();
    let bytes = content(LEN);
    let body = bytes.clone();
    let server = Server::new(move |_, request, stream| {
        let sent = serve(request, stream, &body, Some("\"v1\""), None);
        std::thread::sleep(Duration::from_millis(20));
        !sent // closes the connection without announcing it
    });
    let stderr = copy(&scratch, &server.url("/f"), 0, &["--connections", "3", "-b", "1M", "--retry", "0"]);
    assert!(!stderr.contains("attempt"), "{stderr}");
    same(&scratch.path("dst"), &bytes);
}

#[test]
fn a_download_does_not_wait_for_bytes_past_count() {
    let scratch = Scratch::new();
    for header in [("Transfer-Encoding", "chunked"), ("Content-Length", "1000")] {
        let server = Server::new(move |_, _, stream| {
            let sent = head(stream, "200 OK", &[header]) && stream.write_all(b"a\r\n0123456789").is_ok();
            std::thread::sleep(Duration::from_secs(20));
            sent
        });
        let start = Instant::now();
        copy(&scratch, &server.url("/f"), 0, &["--count", "10"]);
        assert!(start.elapsed() < Duration::from_secs(5));
        std::fs::remove_file(scratch.path("dst")).unwrap();
    }
}

#[test]
fn several_connections_work_with_an_unaligned_seek_and_a_digest() {
    let scratch = Scratch::new();
    let bytes = content(LEN);
    let server = Server::of(bytes.clone(), |_| None);
    for algorithm in ["sha256", "blake3"] {
        let dst = scratch.file("dst", 5000);
        let args = ["--connections", "3", "--seek", "1000", "-b", "1M", "--checksum", algorithm];
        copy_over(&scratch, &server.url("/f"), 0, &args);
        same(&dst, &[&content(5000)[..1000], &bytes].concat());
    }
}

#[test]
fn a_chunked_body_is_complete_after_its_last_chunk() {
    let scratch = Scratch::new();
    let bytes = content(3_000_001);
    let body = bytes.clone();
    let server = Server::new(move |_, _, stream| {
        let mut sent = head(stream, "200 OK", &[("Transfer-Encoding", "chunked")]);
        for part in body.chunks(70_001) {
            sent &= stream.write_all(format!("{:x};ext=1\r\n", part.len()).as_bytes()).is_ok();
            sent &= stream.write_all(part).is_ok() && stream.write_all(b"\r\n").is_ok();
        }
        sent && stream.write_all(b"0\r\nTrailer: x\r\n\r\n").is_err()
    });
    let stderr = copy(&scratch, &server.url("/f"), 0, &["--checksum", "sha256", "--verify"]);
    same(&scratch.path("dst"), &bytes);
    assert!(stderr.contains("3000001 bytes"), "{stderr}");
    let stderr = copy_over(&scratch, &server.url("/f"), 3, &["--size", "3000000"]);
    assert!(stderr.contains("--size"), "{stderr}");
    copy_over(&scratch, &server.url("/f"), 0, &["--size", "3000001"]);
    copy_over(&scratch, &server.url("/f"), 0, &["--count", "100"]);
    same(&scratch.path("dst"), &bytes[..100]);
    // --count is a maximum: a shorter file is complete, and is not requested again.
    let before = server.requests().len();
    copy_over(&scratch, &server.url("/f"), 0, &["--count", "1G"]);
    same(&scratch.path("dst"), &bytes);
    assert_eq!(server.requests().len(), before + 1);
}

/// Like [`copy`], but `dst` exists before and afterwards.
#[track_caller]
fn copy_over(scratch: &Scratch, url: &str, status: i32, args: &[&str]) -> String {
    let dst = scratch.path("dst");
    let output = run([url, dst.to_str().unwrap()].into_iter().chain(args.iter().copied()));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert_eq!(scratch.names(), ["dst"]);
    stderr
}

#[test]
fn endless_headers_end_the_download() {
    let scratch = Scratch::new();
    let server = Server::new(|_, _, stream| {
        let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\n").is_ok();
        while sent {
            sent = stream.write_all(b"X-More: and more and more and more and more\r\n").is_ok();
        }
        false
    });
    let start = Instant::now();
    copy(&scratch, &server.url("/f"), 1, &["--retry", "0"]);
    let slow = Server::new(|_, _, stream| {
        let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\n").is_ok();
        while sent {
            sent = stream.write_all(b"X: y\r\n").is_ok();
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    });
    let stderr = copy(&scratch, &slow.url("/f"), 1, &["--retry", "0", "--timeout", "1"]);
    assert!(stderr.contains("timed out"), "{stderr}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_silent_server_is_retried_after_the_timeout() {
    if !has_tool("openssl") {
        return skip("needs the tool openssl");
    }
    let (scratch, certificates) = (Scratch::new(), Scratch::new());
    let bytes = content(LEN);
    let body = bytes.clone();
    let server = Server::new(move |number, request, stream| {
        let sent = serve(request, stream, &body, Some("\"v1\""), (number == 0).then_some(2_000_000));
        if number == 0 {
            std::thread::sleep(Duration::from_secs(30));
        }
        sent
    });
    let start = Instant::now();
    let stderr = copy(&scratch, &server.url("/f"), 0, &["--timeout", "1"]);
    assert!(stderr.contains("the server sent nothing for 1 s"), "{stderr}");
    assert!(start.elapsed() < Duration::from_secs(15));
    same(&scratch.path("dst"), &bytes);
    let silent = Server::new(|_, _, _| {
        std::thread::sleep(Duration::from_secs(30));
        false
    });
    std::fs::remove_file(scratch.path("dst")).unwrap();
    let stderr = copy(&scratch, &silent.url("/f"), 1, &["--timeout", "0.5", "--retry", "1"]);
    assert!(stderr.contains("gave up after 2 attempts") && stderr.contains("--retry"), "{stderr}");
    // A TLS handshake without a response counts as connecting.
    let url = silent.url("/f").replace("http:", "https:");
    let args = ["--connect-timeout", "0.5", "--retry", "0", "--cacert"];
    certificate(&certificates, "own", "localhost", &[]);
    let pem = certificates.path("own.pem");
    let stderr = copy(&scratch, &url, 1, &[&args[..], &[pem.to_str().unwrap()]].concat());
    assert!(stderr.contains("no connection within 0.5 s"), "{stderr}");
}

#[test]
fn a_slow_reader_does_not_cause_a_timeout() {
    let server = Server::of(content(LEN), |_| None);
    let line = format!("{} {} - --timeout 1 | (sleep 3; cat) | wc -c", binary(), server.url("/f"));
    assert_eq!(tool("sh", ["-c", &line]).trim(), LEN.to_string());
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_full_disk_ends_a_download_that_is_waiting_for_its_server() {
    needs_root_and!("mkfs.ext4", "losetup");
    let scratch = Scratch::new();
    let mount = Mount::filesystem(&scratch, "ext4", 32 << 20, 512);
    // Without a length, the space cannot be reserved. The server then sends nothing more.
    let server = Server::new(|_, _, stream| {
        let sent = head(stream, "200 OK", &[]) && stream.write_all(&vec![1; 36 << 20]).is_ok();
        std::thread::sleep(Duration::from_secs(40));
        !sent
    });
    let start = Instant::now();
    let stderr = fails(1, [&server.url("/f"), mount.path("dst").to_str().unwrap()]);
    assert!(stderr.contains("No space left") && !stderr.contains("attempt"), "{stderr}");
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(names(&mount.at), ["lost+found"]);
    // With a length, the copy fails before it downloads anything.
    let server = Server::of(content(60 << 20), |_| None);
    let stderr = fails(1, [&server.url("/f"), mount.path("dst").to_str().unwrap()]);
    assert!(stderr.contains("reserving"), "{stderr}");
}

#[test]
fn parallel_connections_resume_and_never_mix_versions() {
    let bytes = content(LEN * 3);
    for (case, etag) in [("the same version", "\"v1\""), ("a new version", "\"v2\"")] {
        let scratch = Scratch::new();
        let mut inverted = bytes.clone();
        inverted.iter_mut().for_each(|byte| *byte = !*byte);
        let changed = Arc::new(AtomicBool::new(false));
        let (old, new, server_changed) = (bytes.clone(), inverted.clone(), changed.clone());
        let server = Server::new(move |number, request, stream| {
            if number == 5 && etag == "\"v2\"" {
                server_changed.store(true, Ordering::SeqCst);
            }
            let (body, tag) = if server_changed.load(Ordering::SeqCst) { (&new, etag) } else { (&old, "\"v1\"") };
            serve(request, stream, body, Some(tag), (number % 4 == 3).then_some(100_000))
        });
        let stderr = copy(&scratch, &server.url("/f"), 0, &["--connections", "3", "-b", "1M", "--retry", "20"]);
        assert!(stderr.contains("the connection was lost"), "{case}: {stderr}");
        same(&scratch.path("dst"), if etag == "\"v2\"" { &inverted } else { &bytes });
        assert_eq!(stderr.contains("starting over"), etag == "\"v2\"", "{case}: {stderr}");
    }
}

#[test]
fn an_expired_redirect_is_requested_again() {
    let scratch = Scratch::new();
    let bytes = content(LEN);
    let body = bytes.clone();
    let server = Server::new(move |number, request, stream| match request.line.split(' ').nth(1).unwrap() {
        "/f" => {
            let location = format!("/signed-{number}");
            nothing(stream, "302 Found", &[("Location", &location)])
        }
        // Each target works once.
        path if path == format!("/signed-{}", number - 1) => {
            serve(request, stream, &body, Some("\"v1\""), (number == 1).then_some(5_000_000))
        }
        _ => nothing(stream, "403 Forbidden", &[]),
    });
    copy(&scratch, &server.url("/f"), 0, &[]);
    same(&scratch.path("dst"), &bytes);
}

#[test]
fn a_redirect_is_requested_again_when_its_target_is_gone() {
    let scratch = Scratch::new();
    let bytes = content(LEN);
    let healthy = Server::of(bytes.clone(), |_| None);
    // Serves one request, in part, and stops listening.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (stopped, body) = (listener.local_addr().unwrap().port(), bytes.clone());
    let mirror = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        let request = read_request(&mut stream, 0).unwrap();
        serve(&request, &mut stream, &body, Some("\"v1\""), Some(4_000_000));
    });
    let ports = [stopped, healthy.port];
    let origin = Server::new(move |number, _, stream| {
        nothing(stream, "302 Found", &[("Location", &format!("http://127.0.0.1:{}/x", ports[number.min(1)]))])
    });
    let stderr = copy(&scratch, &origin.url("/f"), 0, &["--retry", "3"]);
    mirror.join().unwrap();
    same(&scratch.path("dst"), &bytes);
    assert_eq!(range_starts(&healthy), [Some(4_000_000)], "{stderr}");
}

#[test]
fn a_server_that_restarts_after_the_copy_started_over_is_retried() {
    let scratch = Scratch::new();
    let bytes = content(LEN);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let body = bytes.clone();
    let server = std::thread::spawn(move || {
        for (etag, cut) in [("\"v0\"", Some(5_000_000)), ("\"v1\"", Some(0))] {
            let (mut stream, _) = listener.accept().unwrap();
            let request = read_request(&mut stream, 0).unwrap();
            serve(&request, &mut stream, &body, Some(etag), cut);
        }
        drop(listener);
        // Long enough for a retry to find no server, even on a busy machine.
        std::thread::sleep(Duration::from_secs(4));
        let listener = TcpListener::bind(address).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let request = read_request(&mut stream, 0).unwrap();
        serve(&request, &mut stream, &body, Some("\"v1\""), None);
    });
    let stderr = copy(&scratch, &format!("http://{address}/f"), 0, &[]);
    server.join().unwrap();
    assert!(stderr.contains("starting over") && stderr.contains("Connection refused"), "{stderr}");
    same(&scratch.path("dst"), &bytes);
}

#[test]
fn a_signal_ends_a_waiting_download_which_leaves_nothing() {
    let scratch = Scratch::new();
    let server = Server::new(|_, _, stream| {
        let sent = head(stream, "200 OK", &[("Content-Length", "1000")]) && stream.write_all(&[1; 10]).is_ok();
        std::thread::sleep(Duration::from_secs(30));
        sent
    });
    let mut child = dio_cp().args([server.url("/f").as_str()]).arg(scratch.path("dst")).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    tool("kill", ["-INT", &child.id().to_string()]);
    let status = child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(2));
    assert!(scratch.names().is_empty());
    assert!(!Path::new(&scratch.path("dst")).exists());
}

#[test]
fn after_a_lost_connection_a_count_near_the_largest_number_is_still_a_range() {
    let scratch = Scratch::new();
    let bytes = content(1000);
    let body = bytes.clone();
    let server = Server::new(move |number, _, stream| {
        let chunk = [b"3e8\r\n", &bytes[..], b"\r\n0\r\n\r\n"].concat();
        let sent = if number == 0 { 3 } else { chunk.len() };
        let _ = head(stream, "200 OK", &[("Transfer-Encoding", "chunked")]) && stream.write_all(&chunk[..sent]).is_ok();
        false
    });
    copy(&scratch, &server.url("/f"), 0, &["--skip", "5", "--count", "18446744073709551614"]);
    same(&scratch.path("dst"), &body[5..]);
    assert_eq!(server.requests()[1].header("range"), Some("bytes=5-18446744073709551614"));
}
