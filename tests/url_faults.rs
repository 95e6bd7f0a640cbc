//! What a good server never does, and what networks do: each ends in the whole file, or in none.
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

/// Copies with these words more, and requires this exit status; gives standard error. Nothing but
/// `dst` may be there after.
#[track_caller]
fn copy(scratch: &Scratch, url: &str, status: i32, words: &[&str]) -> String {
    let to = scratch.path("dst");
    let output = run([url, to.to_str().unwrap()].into_iter().chain(words.iter().copied()));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{said}");
    let left: &[&str] = if status == 0 { &["dst"] } else { &[] };
    assert_eq!(scratch.names(), left, "{said}");
    said
}

fn ranges(server: &Server) -> Vec<Option<usize>> {
    server.requests().iter().map(|request| request.range().map(|(from, _)| from)).collect()
}

#[test]
fn a_lost_connection_is_gone_on_with_from_the_byte_reached() {
    let scratch = Scratch::new();
    let bytes = content(LEN);
    let server = Server::of(bytes.clone(), |number| (number < 2).then_some(3_000_000));
    let said = copy(&scratch, &server.url("/f"), 0, &["--checksum", "sha256"]);
    same(&scratch.path("dst"), &bytes);
    assert_eq!(ranges(&server), [None, Some(3_000_000), Some(6_000_000)]);
    assert_eq!(server.requests()[1].header("if-range"), Some("\"v1\""));
    assert!(said.contains("attempt 2 of 6 in 0.5 s") && said.contains("attempt 3 of 6 in 1 s"), "{said}");
    assert!(said.contains("at 2.9 MiB: the connection was lost"), "{said}");
}

#[test]
fn attempts_are_counted_and_then_it_is_over() {
    let scratch = Scratch::new();
    let server = Server::of(content(LEN), |_| Some(1000));
    let began = Instant::now();
    let said = copy(&scratch, &server.url("/f"), 1, &["--retry", "2"]);
    assert!(said.contains("given up after 3 attempts") && said.contains("was not created"), "{said}");
    assert_eq!(ranges(&server), [None, Some(1000), Some(2000)]);
    assert!(began.elapsed() >= Duration::from_millis(1500));
    let once = Server::of(content(LEN), |_| Some(1000));
    let said = copy(&scratch, &once.url("/f"), 1, &["--retry", "0"]);
    assert!(!said.contains("attempt"), "{said}");
    assert_eq!(once.requests().len(), 1);
}

#[test]
fn an_attempt_that_brought_much_starts_the_count_anew() {
    let scratch = Scratch::new();
    let bytes = content(70 << 20);
    let server = Server::of(bytes.clone(), |_| Some(17 << 20));
    copy(&scratch, &server.url("/f"), 0, &["--retry", "1"]);
    same(&scratch.path("dst"), &bytes);
    assert_eq!(server.requests().len(), 5);
}

#[test]
fn a_busy_server_is_asked_again_when_it_says() {
    let scratch = Scratch::new();
    let bytes = content(100_000);
    for status in ["408 Request Timeout", "429 Too Many Requests", "500 Internal Server Error", "503 Unavailable"] {
        let body = bytes.clone();
        let server = Server::new(move |number, request, stream| match number {
            0 => nothing(stream, status, &[("Retry-After", "1")]),
            _ => serve(request, stream, &body, None, None),
        });
        let began = Instant::now();
        let said = copy(&scratch, &server.url("/f"), 0, &[]);
        assert!(began.elapsed() >= Duration::from_secs(1));
        assert!(said.contains(&status[..3]) && said.contains("in 1 s"), "{said}");
        std::fs::remove_file(scratch.path("dst")).unwrap();
    }
    for status in ["403 Forbidden", "404 Not Found", "410 Gone", "204 No Content", "304 Not Modified", "300 Many"] {
        let server = Server::new(move |_, _, stream| nothing(stream, status, &[]));
        let said = copy(&scratch, &server.url("/f"), 1, &[]);
        assert!(said.contains(&status[..3]), "{said}");
        assert_eq!(server.requests().len(), 1, "{status}");
    }
}

/// Two versions of a file, the second one from the second request on.
fn changing(
    first: Vec<u8>,
    second: Vec<u8>,
    answer: impl Fn(usize, &Request, &mut TcpStream, &[u8]) -> bool + Send + Sync + 'static,
) -> Server {
    Server::new(move |number, request, stream| {
        answer(number, request, stream, if number == 0 { &first } else { &second })
    })
}

/// The first answer is cut off.
fn cut(number: usize) -> Option<usize> {
    (number == 0).then_some(4_000_000)
}

fn etag(number: usize) -> &'static str {
    if number == 0 { "\"v1\"" } else { "\"v2\"" }
}

/// As a server takes a request that does not know this header.
fn without(request: &Request, header: &str) -> Request {
    let mut other = request.clone();
    other.headers.retain(|(name, _)| !name.eq_ignore_ascii_case(header));
    other
}

#[test]
fn two_versions_are_never_spliced() {
    let (old, mut new) = (content(LEN), content(LEN));
    new.iter_mut().for_each(|byte| *byte = !*byte);
    type Answer = fn(usize, &Request, &mut TcpStream, &[u8]) -> bool;
    let cases: [(&str, Answer, &str); 8] = [
        (
            "another ETag, and If-Range is honoured",
            |n, r, s, b| serve(r, s, b, Some(etag(n)), cut(n)),
            "length now|version now|from the start",
        ),
        (
            "another ETag in an answer to If-Range that was not honoured",
            |n, r, s, b| serve(&without(r, "if-range"), s, b, Some(etag(n)), cut(n)),
            "version now",
        ),
        (
            "another ETag, a weak one, to a range",
            |n, r, s, b| serve(&without(r, "if-range"), s, b, Some(if n == 0 { etag(n) } else { "W/\"v2\"" }), cut(n)),
            "version now",
        ),
        (
            "no ETag in the answer to a range",
            |n, r, s, b| serve(&without(r, "if-range"), s, b, if n == 0 { Some(etag(n)) } else { None }, cut(n)),
            "version now",
        ),
        (
            "a modification time without a date to hold it against",
            |n, r, s, b| {
                let mark =
                    [("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"), ("Content-Length", &b.len().to_string())];
                let sent = &b[..cut(n).unwrap_or(b.len())];
                assert!(r.range().is_none());
                head(s, "200 OK", &mark) && s.write_all(sent).is_ok() && cut(n).is_none()
            },
            "does not name the version",
        ),
        (
            "no validator at all",
            |n, r, s, b| serve(r, s, b, None, cut(n)),
            "does not name the version|connection was lost",
        ),
        (
            "only a weak one",
            |n, r, s, b| serve(r, s, b, Some("W/\"v\""), cut(n)),
            "does not name the version|connection was lost",
        ),
        (
            "the whole instead of a range",
            |n, r, s, b| serve(&without(r, "range"), s, b, Some(etag(n)), cut(n)),
            "version now|from the start",
        ),
    ];
    for (what, answer, expected) in cases {
        let scratch = Scratch::new();
        let server = changing(old.clone(), new.clone(), answer);
        let said = copy(&scratch, &server.url("/f"), 0, &["--checksum", "sha256", "--verify"]);
        assert!(expected.split('|').any(|words| said.contains(words)), "{what}: {said}");
        assert!(said.contains("starting over"), "{what}: {said}");
        same(&scratch.path("dst"), &new);
    }
}

#[test]
fn another_length_starts_over_and_the_file_has_the_new_one() {
    for new_len in [LEN - 5_000_000, LEN + 5_000_000, 1000] {
        let scratch = Scratch::new();
        let new = content(new_len);
        let server = changing(content(LEN), new.clone(), |number, request, stream, body| {
            // The same ETag for both: this server lies.
            serve(request, stream, body, Some("\"same\""), (number == 0).then_some(4_000_000))
        });
        let said = copy(&scratch, &server.url("/f"), 0, &[]);
        assert!(said.contains("starting over"), "{said}");
        same(&scratch.path("dst"), &new);
    }
}

#[test]
fn a_stream_cannot_start_over_and_says_so() {
    let server = changing(content(LEN), content(LEN), |number, request, stream, body| {
        serve(request, stream, body, None, (number == 0).then_some(9_000_000))
    });
    let output = run([&server.url("/f"), "-"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("starting over"), "{said}");
    assert!(output.stdout.len() <= 9_000_000);
    // In place, too: what was written may be longer than the new version.
    let scratch = Scratch::new();
    let dst = scratch.file("dst", 100);
    let server = changing(content(LEN), content(5_000_000), |number, request, stream, body| {
        serve(request, stream, body, None, (number == 0).then_some(9_000_000))
    });
    let said = fails(1, [&server.url("/f"), dst.to_str().unwrap(), "--in-place"]);
    assert!(said.contains("may be partly overwritten"), "{said}");
}

#[test]
fn a_server_without_ranges_that_names_its_version_is_read_again_from_the_start() {
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
fn a_device_is_written_again_from_the_start() {
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
fn bodies_that_are_not_as_announced_publish_nothing() {
    let scratch = Scratch::new();
    type Answer = fn(&mut TcpStream) -> bool;
    let cases: [(&str, Answer, &str); 15] = [
        ("shorter", |s| head(s, "200 OK", &[("Content-Length", "100")]) && s.write_all(&[7; 99]).is_err(), "lost"),
        ("longer", |s| head(s, "200 OK", &[("Content-Length", "100")]) && s.write_all(&[7; 101]).is_err(), "more than"),
        (
            "longer, and late",
            |s| {
                let sent = head(s, "200 OK", &[("Content-Length", "100")]) && s.write_all(&[7; 100]).is_ok();
                std::thread::sleep(Duration::from_millis(20));
                sent && s.write_all(&[7; 1]).is_err()
            },
            "more than",
        ),
        (
            "a chunked body cut in a chunk",
            |s| head(s, "200 OK", &[("Transfer-Encoding", "chunked")]) && s.write_all(b"10\r\nabc").is_err(),
            "lost",
        ),
        (
            "a chunked body cut between chunks",
            |s| head(s, "200 OK", &[("Transfer-Encoding", "chunked")]) && s.write_all(b"3\r\nabc\r\n").is_err(),
            "lost",
        ),
        (
            "nonsense for a chunk",
            |s| head(s, "200 OK", &[("Transfer-Encoding", "chunked")]) && s.write_all(b"xyz\r\nabc\r\n").is_err(),
            "",
        ),
        (
            "a chunked body without the end of its last chunk",
            |s| head(s, "200 OK", &[("Transfer-Encoding", "chunked")]) && s.write_all(b"3\r\nabc\r\n0\r\n").is_err(),
            "lost",
        ),
        (
            "an encoding that nobody asked for",
            |s| head(s, "200 OK", &[("Transfer-Encoding", "gzip, chunked")]) && s.write_all(b"0\r\n\r\n").is_err(),
            "not asked for",
        ),
        (
            "an encoding that is none, and no length",
            |s| head(s, "200 OK", &[("Transfer-Encoding", "identity")]) && s.write_all(b"abc").is_err(),
            "not asked for",
        ),
        ("two lengths", |s| head(s, "200 OK", &[("Content-Length", "3, 3")]) && s.write_all(b"abcabc").is_err(), ""),
        (
            "a length that no file has",
            |s| head(s, "200 OK", &[("Content-Length", "9223372036854775808")]) && s.write_all(b"abc").is_err(),
            "a length that is none",
        ),
        (
            "a year's pause",
            |s| nothing(s, "503 Unavailable", &[("Retry-After", "18446744073709551615")]),
            "asks to come back",
        ),
        ("no HTTP", |s| s.write_all(b"220 ftp.example.org ready\r\n").is_err(), ""),
        ("nothing", |_| false, ""),
        (
            "a length that is none",
            |s| head(s, "200 OK", &[("Content-Length", "-5")]) && s.write_all(&[7; 100]).is_err(),
            "",
        ),
    ];
    for (what, answer, expected) in cases {
        let server = Server::new(move |_, _, stream| answer(stream));
        let said = copy(&scratch, &server.url("/f"), 1, &["--retry", "1"]);
        let also = copy(&scratch, &server.url("/f"), 1, &["--retry", "0", "--connections", "3"]);
        assert!(also.contains(expected), "{what}, with connections: {also}");
        assert!(said.contains(expected) && said.contains(&server.url("/f")), "{what}: {said}");
    }
}

#[test]
fn a_body_that_ends_with_the_connection_is_whole_only_if_that_was_closed_in_order() {
    let scratch = Scratch::new();
    let server = Server::new(|_, _, stream| head(stream, "200 OK", &[]) && stream.write_all(&[7; 1000]).is_err());
    copy(&scratch, &server.url("/f"), 0, &[]);
    same(&scratch.path("dst"), &[7; 1000]);
    std::fs::remove_file(scratch.path("dst")).unwrap();
    // A connection that is closed before the request was read is reset.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/f", listener.local_addr().unwrap());
    let torn = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0]).unwrap();
        assert!(head(&mut stream, "200 OK", &[]) && stream.write_all(&[7; 1000]).is_ok());
        std::thread::sleep(Duration::from_millis(300));
    });
    copy(&scratch, &url, 1, &["--retry", "0"]);
    torn.join().unwrap();
}

#[test]
fn ranges_that_are_not_those_that_were_asked_for_are_not_taken() {
    let bytes = content(LEN);
    for words in [&["--skip", "100"][..], &["--skip", "100", "--count", "1000"], &["--connections", "2"]] {
        let scratch = Scratch::new();
        let body = bytes.clone();
        let server = Server::new(move |_, request, stream| {
            let (from, end) = request.range().unwrap();
            let (from, end) = (from + 500, end.map_or(body.len(), |end| end + 500));
            let range = format!("bytes {from}-{}/{}", end - 1, body.len());
            let length = (end - from).to_string();
            let headers = [("ETag", "\"v1\""), ("Content-Range", &range), ("Content-Length", &length)];
            head(stream, "206 Partial Content", &headers) && stream.write_all(&body[from..end]).is_ok()
        });
        let said = copy(&scratch, &server.url("/f"), 1, words);
        assert!(said.contains("another range"), "{said}");
    }
    // Where nobody knows how long it is, the end of a range is not the end.
    let scratch = Scratch::new();
    let body = bytes.clone();
    let server = Server::new(move |_, request, stream| match request.range() {
        Some((from, _)) => {
            let headers = [("Content-Range", &*format!("bytes {from}-{}/*", from + 99)), ("Content-Length", "100")];
            head(stream, "206 Partial Content", &headers) && stream.write_all(&body[from..from + 100]).is_ok()
        }
        None => serve(request, stream, &body, None, None),
    });
    copy(&scratch, &server.url("/f"), 0, &["--skip", "100"]);
    same(&scratch.path("dst"), &bytes[100..]);
}

#[test]
fn a_server_that_sends_short_ranges_is_asked_on_and_one_that_sends_nothing_is_given_up() {
    let bytes = content(LEN);
    for (longest, words, status) in [
        (300 << 10, &["--skip", "1"][..], 0),
        (300 << 10, &["--connections", "3"], 0),
        (1, &["--connections", "3", "--retry", "2"], 1),
        (0, &["--connections", "3", "--retry", "2"], 1),
    ] {
        let scratch = Scratch::new();
        let body = bytes.clone();
        let server = Server::new(move |number, request, stream| {
            let (from, end) = request.range().unwrap();
            let end = end.unwrap_or(body.len()).min(body.len());
            let end = if number == 0 { end } else { end.min(from + longest) };
            let range = format!("bytes {from}-{}/{}", end.max(from + 1) - 1, body.len());
            let length = (end - from).to_string();
            let headers = [("ETag", "\"v1\""), ("Content-Range", &range), ("Content-Length", &length)];
            let cut = if number == 0 && words[0] == "--skip" { 1_000_000 } else { end - from };
            head(stream, "206 Partial Content", &headers)
                && stream.write_all(&body[from..from + cut]).is_ok()
                && cut == end - from
        });
        let said = copy(&scratch, &server.url("/f"), status, words);
        assert!(server.requests().len() < 60, "{} requests: {said}", server.requests().len());
        if status == 0 {
            let skipped = if words[0] == "--skip" { 1 } else { 0 };
            same(&scratch.path("dst"), &bytes[skipped..]);
        }
    }
}

#[test]
fn a_kept_connection_that_was_closed_meanwhile_is_no_failure() {
    let scratch = Scratch::new();
    let bytes = content(LEN);
    let body = bytes.clone();
    let server = Server::new(move |_, request, stream| {
        let sent = serve(request, stream, &body, Some("\"v1\""), None);
        std::thread::sleep(Duration::from_millis(20));
        !sent // closes, without having said so
    });
    let said = copy(&scratch, &server.url("/f"), 0, &["--connections", "3", "-b", "1M", "--retry", "0"]);
    assert!(!said.contains("attempt"), "{said}");
    same(&scratch.path("dst"), &bytes);
}

#[test]
fn nothing_is_waited_for_that_is_not_wanted() {
    let scratch = Scratch::new();
    for header in [("Transfer-Encoding", "chunked"), ("Content-Length", "1000")] {
        let server = Server::new(move |_, _, stream| {
            let sent = head(stream, "200 OK", &[header]) && stream.write_all(b"a\r\n0123456789").is_ok();
            std::thread::sleep(Duration::from_secs(20));
            sent
        });
        let began = Instant::now();
        copy(&scratch, &server.url("/f"), 0, &["--count", "10"]);
        assert!(began.elapsed() < Duration::from_secs(5));
        std::fs::remove_file(scratch.path("dst")).unwrap();
    }
}

#[test]
fn connections_and_an_odd_seek_and_a_digest_go_together() {
    let scratch = Scratch::new();
    let bytes = content(LEN);
    let server = Server::of(bytes.clone(), |_| None);
    for algorithm in ["sha256", "blake3"] {
        let dst = scratch.file("dst", 5000);
        let words = ["--connections", "3", "--seek", "1000", "-b", "1M", "--checksum", algorithm];
        copy_over(&scratch, &server.url("/f"), 0, &words);
        same(&dst, &[&content(5000)[..1000], &bytes].concat());
    }
}

#[test]
fn chunked_bodies_are_whole_with_their_last_chunk() {
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
    let said = copy(&scratch, &server.url("/f"), 0, &["--checksum", "sha256", "--verify"]);
    same(&scratch.path("dst"), &bytes);
    assert!(said.contains("3000001 bytes"), "{said}");
    let said = copy_over(&scratch, &server.url("/f"), 3, &["--size", "3000000"]);
    assert!(said.contains("--size"), "{said}");
    copy_over(&scratch, &server.url("/f"), 0, &["--size", "3000001"]);
    copy_over(&scratch, &server.url("/f"), 0, &["--count", "100"]);
    same(&scratch.path("dst"), &bytes[..100]);
    // The most, and no more than there is.
    let before = server.requests().len();
    copy_over(&scratch, &server.url("/f"), 0, &["--count", "1G"]);
    same(&scratch.path("dst"), &bytes);
    assert_eq!(server.requests().len(), before + 1);
}

/// As [`copy`], where `dst` is there before and stays there.
#[track_caller]
fn copy_over(scratch: &Scratch, url: &str, status: i32, words: &[&str]) -> String {
    let to = scratch.path("dst");
    let output = run([url, to.to_str().unwrap()].into_iter().chain(words.iter().copied()));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert_eq!(scratch.names(), ["dst"]);
    said
}

#[test]
fn headers_without_end_are_not_waited_for() {
    let scratch = Scratch::new();
    let server = Server::new(|_, _, stream| {
        let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\n").is_ok();
        while sent {
            sent = stream.write_all(b"X-More: and more and more and more and more\r\n").is_ok();
        }
        false
    });
    let began = Instant::now();
    copy(&scratch, &server.url("/f"), 1, &["--retry", "0"]);
    let drip = Server::new(|_, _, stream| {
        let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\n").is_ok();
        while sent {
            sent = stream.write_all(b"X: y\r\n").is_ok();
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    });
    let said = copy(&scratch, &drip.url("/f"), 1, &["--retry", "0", "--timeout", "1"]);
    assert!(said.contains("timed out"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn silence_is_a_lost_connection_after_a_while() {
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
    let began = Instant::now();
    let said = copy(&scratch, &server.url("/f"), 0, &["--timeout", "1"]);
    assert!(said.contains("nothing came for 1 s"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(15));
    same(&scratch.path("dst"), &bytes);
    let silent = Server::new(|_, _, _| {
        std::thread::sleep(Duration::from_secs(30));
        false
    });
    std::fs::remove_file(scratch.path("dst")).unwrap();
    let said = copy(&scratch, &silent.url("/f"), 1, &["--timeout", "0.5", "--retry", "1"]);
    assert!(said.contains("given up after 2 attempts") && said.contains("--retry"), "{said}");
    // A handshake that is never answered is no connection.
    let url = silent.url("/f").replace("http:", "https:");
    let words = ["--connect-timeout", "0.5", "--retry", "0", "--cacert"];
    certificate(&certificates, "own", "localhost", &[]);
    let own = certificates.path("own.pem");
    let said = copy(&scratch, &url, 1, &[&words[..], &[own.to_str().unwrap()]].concat());
    assert!(said.contains("no connection within 0.5 s"), "{said}");
}

#[test]
fn a_slow_reader_is_not_taken_for_a_silent_server() {
    let server = Server::of(content(LEN), |_| None);
    let line = format!("{} {} - --timeout 1 | (sleep 3; cat) | wc -c", env!("CARGO_BIN_EXE_dio-cp"), server.url("/f"));
    assert_eq!(tool("sh", ["-c", &line]).trim(), LEN.to_string());
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_full_disk_ends_a_download_that_is_waiting_for_its_server() {
    needs_root_and!("mkfs.ext4", "losetup");
    let scratch = Scratch::new();
    let mount = Mount::filesystem(&scratch, "ext4", 32 << 20, 512);
    // No length: the space cannot be reserved. Then the server falls silent.
    let server = Server::new(|_, _, stream| {
        let sent = head(stream, "200 OK", &[]) && stream.write_all(&vec![1; 36 << 20]).is_ok();
        std::thread::sleep(Duration::from_secs(40));
        !sent
    });
    let began = Instant::now();
    let said = fails(1, [&server.url("/f"), mount.path("dst").to_str().unwrap()]);
    assert!(said.contains("No space left") && !said.contains("attempt"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(names(&mount.at), ["lost+found"]);
    // With a length it is known before.
    let server = Server::of(content(60 << 20), |_| None);
    let said = fails(1, [&server.url("/f"), mount.path("dst").to_str().unwrap()]);
    assert!(said.contains("reserving"), "{said}");
}

#[test]
fn parallel_connections_go_on_too_and_never_splice() {
    let bytes = content(LEN * 3);
    for (what, etag) in [("the same version", "\"v1\""), ("another version", "\"v2\"")] {
        let scratch = Scratch::new();
        let mut other = bytes.clone();
        other.iter_mut().for_each(|byte| *byte = !*byte);
        let changed = Arc::new(AtomicBool::new(false));
        let (old, new, is_new) = (bytes.clone(), other.clone(), changed.clone());
        let server = Server::new(move |number, request, stream| {
            if number == 5 && etag == "\"v2\"" {
                is_new.store(true, Ordering::SeqCst);
            }
            let (body, tag) = if is_new.load(Ordering::SeqCst) { (&new, etag) } else { (&old, "\"v1\"") };
            serve(request, stream, body, Some(tag), (number % 4 == 3).then_some(100_000))
        });
        let said = copy(&scratch, &server.url("/f"), 0, &["--connections", "3", "-b", "1M", "--retry", "20"]);
        assert!(said.contains("the connection was lost"), "{what}: {said}");
        same(&scratch.path("dst"), if etag == "\"v2\"" { &other } else { &bytes });
        assert_eq!(said.contains("starting over"), etag == "\"v2\"", "{what}: {said}");
    }
}

#[test]
fn a_redirect_that_expires_is_asked_for_again() {
    let scratch = Scratch::new();
    let bytes = content(LEN);
    let body = bytes.clone();
    let server = Server::new(move |number, request, stream| match request.line.split(' ').nth(1).unwrap() {
        "/f" => {
            let location = format!("/signed-{number}");
            nothing(stream, "302 Found", &[("Location", &location)])
        }
        // Good once.
        path if path == format!("/signed-{}", number - 1) => {
            serve(request, stream, &body, Some("\"v1\""), (number == 1).then_some(5_000_000))
        }
        _ => nothing(stream, "403 Forbidden", &[]),
    });
    copy(&scratch, &server.url("/f"), 0, &[]);
    same(&scratch.path("dst"), &bytes);
}

#[test]
fn a_redirect_whose_target_dies_is_asked_for_again() {
    let scratch = Scratch::new();
    let bytes = content(LEN);
    let healthy = Server::of(bytes.clone(), |_| None);
    // Serves once, in part, and is gone.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (dying, body) = (listener.local_addr().unwrap().port(), bytes.clone());
    let mirror = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        let request = read_request(&mut stream, 0).unwrap();
        serve(&request, &mut stream, &body, Some("\"v1\""), Some(4_000_000));
    });
    let ports = [dying, healthy.port];
    let origin = Server::new(move |number, _, stream| {
        nothing(stream, "302 Found", &[("Location", &format!("http://127.0.0.1:{}/x", ports[number.min(1)]))])
    });
    let said = copy(&scratch, &origin.url("/f"), 0, &["--retry", "3"]);
    mirror.join().unwrap();
    same(&scratch.path("dst"), &bytes);
    assert_eq!(ranges(&healthy), [Some(4_000_000)], "{said}");
}

#[test]
fn a_server_that_starts_anew_after_the_copy_did_is_waited_for() {
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
        // Long enough for a busy machine to find it gone.
        std::thread::sleep(Duration::from_secs(4));
        let listener = TcpListener::bind(address).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let request = read_request(&mut stream, 0).unwrap();
        serve(&request, &mut stream, &body, Some("\"v1\""), None);
    });
    let said = copy(&scratch, &format!("http://{address}/f"), 0, &[]);
    server.join().unwrap();
    assert!(said.contains("starting over") && said.contains("Connection refused"), "{said}");
    same(&scratch.path("dst"), &bytes);
}

#[test]
fn a_signal_ends_a_waiting_download_and_leaves_nothing() {
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
