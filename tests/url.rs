//! http and https URLs from a real server: nginx, with curl and wget as the reference.
#![cfg(feature = "url")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;

use common::web::{self, Nginx, Server, certificate, head, nothing};
use common::*;

/// Runs `dio-cp --json` with these words; the report, and standard error.
#[track_caller]
fn report(words: &[&str]) -> (serde_json::Value, String) {
    let output = run(words.iter().copied().chain(["--json"]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

#[test]
fn http_and_https_give_the_bytes_that_curl_and_wget_give_and_write_them_direct() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let to = dst.to_str().unwrap();
    for len in [0, 1, 4096, (9 << 20) + 77] {
        let bytes = content(len);
        write(&nginx.file("f"), &bytes);
        for url in [nginx.url("/f"), nginx.tls_url("/f")] {
            let (found, _) = report(&[&url, to, "--cacert", &nginx.certificate(), "--direct", "always"]);
            same(&dst, &bytes);
            assert_eq!(found["bytes"], len);
            assert_eq!(found["written"]["direct"], len);
            assert_eq!(found["cached_pages"], 0);
        }
        for (peer, words) in [("curl", ["-sfo"]), ("wget", ["-qO"])] {
            if !has_tool(peer) {
                return skip(&format!("needs the tool {peer}"));
            }
            let by_peer = scratch.path(peer);
            tool(peer, words.into_iter().chain([by_peer.to_str().unwrap(), &nginx.url("/f")]));
            same(&by_peer, &bytes);
        }
    }
}

#[test]
fn no_page_of_a_download_enters_the_cache() {
    let Some(nginx) = Nginx::new() else { return };
    let Some(trace) = Trace::new() else { return };
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    nginx_file(&nginx, "f", (40 << 20) + 1);
    for connections in ["1", "4"] {
        let words = [&nginx.url("/f"), dst.to_str().unwrap(), "--connections", connections];
        let (_, inserted) = trace.during(|| copies(words));
        // The page that the end cuts, at most.
        assert!(inserted.of(&dst) <= 1, "{} pages with {connections} connections", inserted.of(&dst));
        assert_eq!(cached_pages(&dst), 0);
    }
}

fn nginx_file(nginx: &Nginx, name: &str, len: usize) -> Vec<u8> {
    let bytes = content(len);
    write(&nginx.file(name), &bytes);
    bytes
}

#[test]
fn an_error_status_creates_nothing_and_replaces_nothing() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let old = scratch.file("old", 1000);
    let said = fails(1, [&nginx.url("/missing"), scratch.path("new").to_str().unwrap()]);
    assert!(said.contains("404 Not Found") && said.contains(&nginx.url("/missing")), "{said}");
    fails(1, [&nginx.url("/missing"), old.to_str().unwrap()]);
    same(&old, &content(1000));
    assert_eq!(scratch.names(), ["old"]);
}

#[test]
fn a_server_that_is_not_there_is_an_error_at_once() {
    let scratch = Scratch::new();
    let to = scratch.path("dst");
    let began = std::time::Instant::now();
    let said = fails(1, ["http://127.0.0.1:1/x", to.to_str().unwrap()]);
    assert!(said.contains("Connection refused") && !said.contains("attempt"), "{said}");
    let said = fails(1, ["http://no-such-host.invalid/x", to.to_str().unwrap()]);
    assert!(!said.contains("attempt"), "{said}");
    for wrong in ["http://", "http://h:99999/", "https://[::1/x", "http://a b/"] {
        let said = fails(2, [wrong, to.to_str().unwrap()]);
        assert!(said.contains("is no URL"), "{said}");
    }
    assert!(began.elapsed().as_secs() < 20);
    assert!(scratch.names().is_empty());
}

#[test]
fn redirects_are_followed_within_reason() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let to = dst.to_str().unwrap();
    let bytes = nginx_file(&nginx, "f", 100_001);
    copies([&nginx.url("/moved/f"), to]);
    same(&dst, &bytes);
    let said = copies([&nginx.tls_url("/down/f"), to, "--cacert", &nginx.certificate()]);
    assert!(said.contains("from https to http"), "{said}");
    let port = nginx.port;
    let server = Server::new(move |_, request, stream| {
        let location = match request.line.split(' ').nth(1).unwrap() {
            "/loop" => "/loop".to_string(),
            "/file" => "file:///etc/passwd".to_string(),
            "/relative/x" => "../relative-too?a=b#c".to_string(),
            "/relative-too?a=b" => format!("//127.0.0.1:{port}/f"),
            _ => "http://".to_string(),
        };
        nothing(stream, "302 Found", &[("Location", &location)])
    });
    let said = fails(1, [&server.url("/loop"), to]);
    assert!(said.contains("redirects more than 20 times"), "{said}");
    let said = fails(1, [&server.url("/file"), to]);
    assert!(said.contains("redirects to a file URL"), "{said}");
    let said = fails(1, [&server.url("/nonsense"), to]);
    assert!(said.contains("not a URL"), "{said}");
    fs::remove_file(&dst).unwrap();
    copies([&server.url("/relative/x"), to]);
    same(&dst, &bytes);
}

#[test]
fn a_directory_gets_the_name_that_the_url_or_the_server_has_and_nothing_leaves_it() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("dir")).unwrap();
    let dir = scratch.path("dir");
    let into = dir.to_str().unwrap();
    let server = Server::new(|_, request, stream| {
        let name = request.line.split(['=', ' ']).nth(2).unwrap_or("");
        let proposal = format!("attachment; filename=\"{name}\"");
        let headers = [("Content-Length", "3"), ("Content-Disposition", &proposal)];
        head(stream, "200 OK", if request.line.contains("?") { &headers } else { &headers[..1] })
            && std::io::Write::write_all(stream, b"abc").is_ok()
    });
    copies([&server.url("/a%20b.iso"), into]);
    copies([&server.url("/x?name=../../evil"), into]);
    copies([&server.url("/y?name=/etc/cron.d/root"), into]);
    copies([&server.url("/z?name=..\\up.exe"), into]);
    assert_eq!(names(&dir), ["a b.iso", "evil", "root", "up.exe"]);
    assert_eq!(scratch.names(), ["dir"]);
    // A name that the user never saw replaces nothing; one that he typed does.
    let said = fails(1, [&server.url("/x?name=evil"), into]);
    assert!(said.contains("chosen by the server"), "{said}");
    fails(1, [&server.url("/x?name=evil"), into, "--in-place"]);
    copies([&server.url("/x?name=.bashrc"), into]);
    assert!(!dir.join(".bashrc").exists());
    copies([&server.url("/a%20b.iso"), into]);
    let said = fails(2, [&server.url("/"), into]);
    assert!(said.contains("has no file name"), "{said}");
}

#[test]
fn parts_of_a_url_go_to_parts_of_a_file() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let bytes = nginx_file(&nginx, "f", 10_000_000);
    for place in ["/f", "/whole/f"] {
        for connections in ["1", "3"] {
            let dst = scratch.file("dst", 6_000_000);
            let to = dst.to_str().unwrap();
            let url = nginx.url(place);
            let words = ["--skip", "1234567", "--count", "3000001", "--seek", "777", "-b", "64K"];
            copies([url.as_str(), to, "--connections", connections].into_iter().chain(words));
            let mut expected = content(6_000_000);
            expected[777..777 + 3_000_001].copy_from_slice(&bytes[1_234_567..4_234_568]);
            same(&dst, &expected);
            let rest = scratch.path("rest");
            copies([&url, rest.to_str().unwrap(), "--skip", "9999990", "--connections", connections]);
            same(&rest, &bytes[9_999_990..]);
            copies([&url, rest.to_str().unwrap(), "--skip", "10000000", "--connections", connections]);
            same(&rest, &[]);
            copies([&url, rest.to_str().unwrap(), "--count", "0", "--connections", connections]);
            same(&rest, &[]);
            let said = fails(2, [&url, rest.to_str().unwrap(), "--skip", "10000001", "--connections", connections]);
            assert!(said.contains("behind the end"), "{said}");
        }
    }
    let url = nginx.url("/f");
    copies([&url, scratch.path("sized").to_str().unwrap(), "--size", "10000000"]);
    fails(3, [&url, scratch.path("other").to_str().unwrap(), "--size", "10000001"]);
    assert!(!scratch.names().contains(&"other".to_string()));
}

#[test]
fn a_url_goes_to_standard_output_a_fifo_and_a_device() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let bytes = nginx_file(&nginx, "f", (5 << 20) + 3);
    let url = nginx.url("/f");
    for connections in ["1", "4"] {
        let output = run([&url, "-", "--connections", connections, "-b", "256K"]);
        assert!(output.status.success() && output.stdout == bytes);
    }
    let fifo = scratch.path("fifo");
    tool("mkfifo", [fifo.to_str().unwrap()]);
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::read(fifo).unwrap()
    });
    copies([&url, fifo.to_str().unwrap()]);
    assert!(reader.join().unwrap() == bytes);
    needs_root_and!("losetup");
    let disk = Loop::new(&scratch, 8 << 20, 4096);
    let said = fails(2, [&url, disk.name()]);
    assert!(said.contains("-f"), "{said}");
    copies([&url, disk.name(), "-f", "--verify", "--connections", "2"]);
    assert!(fs::read(&disk.device).unwrap()[..bytes.len()] == bytes);
}

#[test]
fn a_digest_is_of_what_was_served_and_a_wrong_one_publishes_nothing() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    nginx_file(&nginx, "f", (20 << 20) + 5);
    let dst = scratch.path("dst");
    let to = dst.to_str().unwrap();
    let expected = tool("sha256sum", [nginx.file("f").to_str().unwrap()])[..64].to_string();
    for connections in ["1", "4"] {
        for algorithm in ["sha256", "blake3"] {
            let words = [&nginx.url("/f"), to, "--checksum", algorithm, "--verify", "--connections", connections];
            let (found, _) = report(&words);
            assert_eq!(found["verified"], true);
            assert_eq!(found["digest"]["hex"].as_str().unwrap().len(), 64);
            assert!(algorithm != "sha256" || found["digest"]["hex"] == expected.as_str());
        }
    }
    fs::remove_file(&dst).unwrap();
    let wrong = format!("sha256:{}", "0".repeat(64));
    fails(3, [&nginx.url("/f"), to, "--checksum", &wrong]);
    fails(3, [&nginx.url("/f"), to, "--checksum", &wrong, "--resume"]);
    assert!(scratch.names().is_empty());
    let list = scratch.path("SHA256SUMS");
    fs::write(&list, format!("{expected}  f\n")).unwrap();
    copies([&nginx.url("/f"), to, "--checksum-file", list.to_str().unwrap()]);
}

#[test]
fn only_certificates_that_are_trusted_are_trusted() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let to = dst.to_str().unwrap();
    let bytes = nginx_file(&nginx, "f", 12345);
    let url = nginx.tls_url("/f");
    let said = fails(1, [&url, to]);
    assert!(
        said.contains("certificate is refused") && said.contains("--cacert") && !said.contains("attempt"),
        "{said}"
    );
    certificate(&scratch, "other", "localhost", &[]);
    let other = scratch.path("other.pem");
    let said = fails(1, [&url, to, "--cacert", other.to_str().unwrap()]);
    assert!(said.contains("certificate is refused"), "{said}");
    let elsewhere = format!("https://127.0.0.1:{}/f", nginx.tls_port);
    let said = fails(1, [&elsewhere, to, "--cacert", &nginx.certificate()]);
    assert!(said.contains("certificate is refused: it is for"), "{said}");
    let said = fails(1, [&url, to, "--cacert", scratch.path("missing").to_str().unwrap()]);
    assert!(said.contains("No such file"), "{said}");
    let said = fails(1, [&url, to, "--cacert", nginx.file("f").to_str().unwrap()]);
    assert!(said.contains("there is none") || said.contains("not PEM"), "{said}");
    let output = dio_cp().args([&url, to]).env("SSL_CERT_FILE", nginx.certificate()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    same(&dst, &bytes);
}

#[test]
fn an_old_devices_certificate_is_trusted_by_its_common_name_if_it_is_the_one_that_is_named() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let (dst, bytes) = (scratch.path("dst"), nginx_file(&nginx, "f", 777));
    let to = dst.to_str().unwrap();
    let (key, own) = (nginx.scratch.path("own.key"), nginx.certificate());
    let make = |name: &str, more: &[&str]| {
        let words = ["req", "-x509", "-key", key.to_str().unwrap(), "-days", "2", "-out", &own, "-subj", name];
        tool("openssl", words.into_iter().chain(more.iter().copied()));
        tool("nginx", ["-e", "stderr", "-p", nginx.scratch.0.to_str().unwrap(), "-c", "conf", "-s", "reload"]);
        std::thread::sleep(std::time::Duration::from_millis(500));
    };
    for more in [&[][..], &["-addext", "basicConstraints=critical,CA:FALSE"]] {
        make("/O=Devices/CN=localhost", more);
        copies([&nginx.tls_url("/f"), to, "--cacert", &own]);
        same(&dst, &bytes);
        fails(1, [&nginx.tls_url("/f"), to]);
    }
    make("/CN=elsewhere", &[]);
    let said = fails(1, [&nginx.tls_url("/f"), to, "--cacert", &own]);
    assert!(said.contains("names no host"), "{said}");
}

#[test]
fn an_expired_certificate_is_refused_even_if_it_is_trusted() {
    let Some(nginx) = Nginx::new() else { return };
    if !has_tool("faketime") {
        return skip("needs the tool faketime");
    }
    let scratch = Scratch::new();
    nginx_file(&nginx, "f", 1);
    let old = scratch.path("old.pem");
    // Made eight days ago, for two days.
    let words = ["-f", "-8d", "openssl", "req", "-x509", "-key", "KEY", "-days", "2", "-subj", "/CN=localhost", "-out"];
    let key = nginx.scratch.path("own.key");
    let words = words.map(|word| if word == "KEY" { key.to_str().unwrap() } else { word });
    let names = ["-addext", "subjectAltName=DNS:localhost"];
    tool("faketime", words.into_iter().chain([old.to_str().unwrap()]).chain(names));
    fs::copy(&old, nginx.scratch.path("own.pem")).unwrap();
    tool("nginx", ["-e", "stderr", "-p", nginx.scratch.0.to_str().unwrap(), "-c", "conf", "-s", "reload"]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    let dst = scratch.path("dst");
    let said = fails(1, [&nginx.tls_url("/f"), dst.to_str().unwrap(), "--cacert", old.to_str().unwrap()]);
    assert!(said.contains("has expired"), "{said}");
}

#[test]
fn logins_come_from_the_url_a_header_or_netrc_and_are_never_shown() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let to = dst.to_str().unwrap();
    nginx_file(&nginx, "f", 100);
    let port = nginx.port;
    let said = fails(1, [&nginx.url("/login/f"), to]);
    assert!(said.contains("401") && said.contains("netrc"), "{said}");
    let with = |login: &str| format!("http://{login}@127.0.0.1:{port}/login/f");
    let (found, said) = report(&[&with("user:secret"), to, "-v", "--progress", "json"]);
    assert!(!said.contains("secret") && !found.to_string().contains("secret"), "{said} {found}");
    let said = fails(1, [&with("user:not-secret"), to, "-v", "--retry", "1"]);
    assert!(!said.contains("secret"), "{said}");
    copies([&nginx.url("/login/f"), to, "--header", "Authorization: Basic dXNlcjpzZWNyZXQ="]);
    // Where the server sends one on, in its own name.
    copies([&with("user:secret").replace("/login/f", "/moved/login/f"), to]);
    let netrc = scratch.path("netrc");
    fs::write(&netrc, "machine 127.0.0.1 login user password secret\n").unwrap();
    let by_netrc = |url: &str| dio_cp().args([url, to]).env("NETRC", &netrc).output().unwrap();
    assert!(by_netrc(&nginx.url("/login/f")).status.success());
    assert!(by_netrc(&with("user")).status.success());
    assert!(!by_netrc(&with("other")).status.success());
    fs::rename(&netrc, scratch.path(".netrc")).unwrap();
    let by_home = dio_cp().args([&nginx.url("/login/f"), to]).env_remove("NETRC").env("HOME", &scratch.0).output();
    assert!(by_home.unwrap().status.success());
}

#[test]
fn a_redirect_to_another_server_takes_no_login_along() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let other = Server::of(b"abc".to_vec(), |_| None);
    let target = other.url("/x");
    let first = Server::new(move |_, _, stream| nothing(stream, "307 Moved", &[("Location", &target)]));
    let url = format!("http://user:secret@127.0.0.1:{}/", first.port);
    copies([&url, dst.to_str().unwrap(), "--header", "Cookie: secret", "--header", "X-Kept: yes"]);
    copies([&first.url("/"), dst.to_str().unwrap(), "--header", "authorization: secret"]);
    // What is written down for everybody is for whoever the user asks.
    let netrc = scratch.path("netrc");
    fs::write(&netrc, "default login user password secret\n").unwrap();
    let output = dio_cp().args([&first.url("/"), dst.to_str().unwrap()]).env("NETRC", &netrc).output().unwrap();
    assert!(output.status.success());
    for request in first.requests() {
        assert!(request.header("authorization").is_some());
    }
    for request in other.requests() {
        assert!(request.header("authorization").is_none() && request.header("cookie").is_none(), "{request:?}");
    }
    assert_eq!(other.requests()[0].header("x-kept"), Some("yes"));
}

#[test]
fn the_request_asks_for_the_bytes_as_they_are() {
    let scratch = Scratch::new();
    let server = Server::new(|_, _, stream| {
        head(stream, "200 OK", &[("Content-Length", "5"), ("Content-Encoding", "gzip")])
            && std::io::Write::write_all(stream, b"\x1f\x8bxyz").is_ok()
    });
    let dst = scratch.path("dst");
    copies([&server.url("/a b?c=d#e"), dst.to_str().unwrap(), "--header", "Accept: a/b", "--header", "X-Empty:"]);
    same(&dst, b"\x1f\x8bxyz");
    let request = &server.requests()[0];
    assert_eq!(request.line, "GET /a%20b?c=d HTTP/1.1");
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert_eq!(request.header("accept"), Some("a/b"));
    assert_eq!(request.header("x-empty"), Some(""));
    assert_eq!(request.header("range"), None);
    assert!(request.header("user-agent").unwrap().starts_with("dio-cp/"));
    // A header of one's own takes the place of the usual one.
    copies([&server.url("/"), dst.to_str().unwrap(), "--header", "User-Agent: me"]);
    assert_eq!(server.requests()[1].header("user-agent"), Some("me"));
}

#[test]
fn connections_fetch_ranges_side_by_side_and_are_kept() {
    let scratch = Scratch::new();
    let bytes = content((40 << 20) + 11);
    for (more, order) in [(None, "any"), (Some("sha256"), "in order")] {
        let server = Server::of(bytes.clone(), |_| None);
        let dst = scratch.path("dst");
        let url = server.url("/f");
        let mut words = vec![url.as_str(), dst.to_str().unwrap(), "--connections", "4", "-b", "1M"];
        words.extend(more.iter().flat_map(|algorithm| ["--checksum", algorithm]));
        copies(words);
        same(&dst, &bytes);
        let requests = server.requests();
        let mut ranges: Vec<(usize, usize)> =
            requests.iter().map(|request| request.range().unwrap()).map(|(from, end)| (from, end.unwrap())).collect();
        ranges.sort_unstable();
        assert_eq!(ranges.iter().fold(0, |at, (from, end)| if *from == at { *end } else { 0 }), bytes.len(), "{order}");
        let connections = requests.iter().map(|request| request.connection).max().unwrap() + 1;
        assert!((2..=4).contains(&connections), "{connections} connections {order}");
        assert!(requests.len() > 8, "{}", requests.len());
        assert!(requests[1..].iter().all(|request| request.header("if-range") == Some("\"v1\"")));
        // Where nobody waits for the order, a range is many blocks.
        let longest = ranges.iter().map(|(from, end)| end - from).max().unwrap();
        assert_eq!(longest > 1 << 20, more.is_none(), "{longest} bytes {order}");
    }
}

#[test]
fn a_server_that_cannot_serve_ranges_is_read_by_one_connection_which_is_said() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let to = dst.to_str().unwrap();
    let bytes = nginx_file(&nginx, "f", 9_000_001);
    let said = copies([&nginx.url("/whole/f"), to, "--connections", "4"]);
    assert!(said.contains("one connection") && said.contains("does not serve ranges"), "{said}");
    same(&dst, &bytes);
    let body = bytes.clone();
    let nameless = Server::new(move |_, request, stream| web::serve(request, stream, &body, None, None));
    let said = copies([&nameless.url("/f"), to, "--connections", "4"]);
    assert!(said.contains("one connection") && said.contains("version"), "{said}");
    same(&dst, &bytes);
}

#[test]
fn proxies_come_from_the_environment() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let to = dst.to_str().unwrap();
    let bytes = nginx_file(&nginx, "f", 3_000_000);
    let (port, tls_port) = (nginx.port, nginx.tls_port);
    // It knows one server: nginx, whatever it is asked for.
    let proxy = Server::new(move |_, request, stream| {
        use std::io::Write;
        let tunnel = request.line.starts_with("CONNECT");
        let target = if tunnel { tls_port } else { port };
        let mut upstream = std::net::TcpStream::connect(("127.0.0.1", target)).unwrap();
        if tunnel {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        } else {
            upstream.write_all(b"GET /f HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        }
        let (mut from, mut to) = (upstream.try_clone().unwrap(), stream.try_clone().unwrap());
        let back = std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
        let _ = std::io::copy(stream, &mut upstream);
        let _ = upstream.shutdown(std::net::Shutdown::Both);
        back.join().unwrap();
        false
    });
    let address = format!("http://someone:pass%20word@127.0.0.1:{}", proxy.port);
    let copy = |url: &str, variable: &str, no_proxy: &str| {
        let mut command = dio_cp();
        command
            .args([url, to, "-v", "--cacert", &nginx.certificate()])
            .env(variable, &address)
            .env("no_proxy", no_proxy);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(!said.contains("pass"), "{said}");
        same(&dst, &bytes);
        fs::remove_file(&dst).unwrap();
    };
    let login = "Basic c29tZW9uZTpwYXNzIHdvcmQ=";
    copy("http://server.example/f?x=y", "http_proxy", "");
    let request = proxy.requests()[0].clone();
    assert_eq!(request.line, "GET http://server.example/f?x=y HTTP/1.1");
    assert_eq!(request.header("host"), Some("server.example"));
    assert_eq!(request.header("proxy-authorization"), Some(login));
    copy(&nginx.tls_url("/f"), "HTTPS_PROXY", "elsewhere");
    let request = proxy.requests()[1].clone();
    assert_eq!(request.line, format!("CONNECT localhost:{tls_port} HTTP/1.1"));
    assert_eq!(request.header("proxy-authorization"), Some(login));
    copy("http://server.example/f", "all_proxy", "");
    assert_eq!(proxy.requests().len(), 3);
    copy(&nginx.url("/f"), "http_proxy", "localhost, 127.0.0.1");
    copy(&nginx.url("/f"), "https_proxy", "");
    assert_eq!(proxy.requests().len(), 3);
    // A proxy by TLS is never asked in the clear.
    let output = dio_cp()
        .args(["http://server.example/f", to, "--retry", "0", "--cacert", &nginx.certificate()])
        .env("http_proxy", format!("https://someone:secret@localhost:{tls_port}"))
        .output()
        .unwrap();
    assert!(!output.status.success() && !String::from_utf8_lossy(&output.stderr).contains("secret"));
    // nginx writes its log when it has answered.
    wait_until("nginx has logged the request", || {
        let log = fs::read_to_string(nginx.scratch.path("access")).unwrap();
        log.lines().any(|line| line.starts_with("CONNECT server.example:80") && line.ends_with("TLS=on"))
    });
    assert_eq!(proxy.requests().len(), 3);
    let output = dio_cp().args([&nginx.url("/f"), to]).env("http_proxy", "::secret::").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("http_proxy") && !said.contains("secret"), "{said}");
}

#[test]
fn what_is_only_for_urls_is_refused_elsewhere_and_a_url_is_no_destination() {
    let scratch = Scratch::new();
    let src = scratch.file("src", 10);
    let said = fails(2, [src.to_str().unwrap(), "http://127.0.0.1:1/x"]);
    assert!(said.contains("reads from URLs"), "{said}");
    let said = fails(2, [src.to_str().unwrap(), scratch.path("dst").to_str().unwrap(), "--connections", "2"]);
    assert!(said.contains("SRC is no URL"), "{said}");
    assert!(Path::new(&src).exists());
}
