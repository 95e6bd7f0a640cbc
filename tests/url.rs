//! Downloads from a real server: nginx, over http and https, compared with curl and wget.
#![cfg(feature = "url")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;

use common::web::{self, Nginx, Server, certificate, head, nothing};
use common::*;

/// Runs `dio-cp --json` with `args` and requires success. Returns the report and standard error.
#[track_caller]
fn report(args: &[&str]) -> (serde_json::Value, String) {
    let output = run(args.iter().copied().chain(["--json"]));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    (serde_json::from_slice(&output.stdout).unwrap(), stderr)
}

#[test]
fn http_and_https_downloads_equal_those_of_curl_and_wget_and_are_written_direct() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let dst_str = dst.to_str().unwrap();
    for len in [0, 1, 4096, (9 << 20) + 77] {
        let bytes = content(len);
        write(&nginx.file("f"), &bytes);
        for url in [nginx.url("/f"), nginx.tls_url("/f")] {
            let (json, _) = report(&[&url, dst_str, "--cacert", &nginx.certificate(), "--direct", "always"]);
            same(&dst, &bytes);
            assert_eq!(json["bytes"], len);
            assert_eq!(json["written"]["direct"], len);
            assert_eq!(json["cached_pages"], 0);
        }
        for (tool_name, args) in [("curl", ["-sfo"]), ("wget", ["-qO"])] {
            if !has_tool(tool_name) {
                return skip(&format!("needs the tool {tool_name}"));
            }
            let reference = scratch.path(tool_name);
            tool(tool_name, args.into_iter().chain([reference.to_str().unwrap(), &nginx.url("/f")]));
            same(&reference, &bytes);
        }
    }
}

#[test]
fn no_page_of_a_download_enters_the_page_cache() {
    let Some(nginx) = Nginx::new() else { return };
    let Some(trace) = Trace::new() else { return };
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    nginx_file(&nginx, "f", (40 << 20) + 1);
    for connections in ["1", "4"] {
        let args = [&nginx.url("/f"), dst.to_str().unwrap(), "--connections", connections];
        let (_, inserted) = trace.during(|| copies(args));
        // At most the last page, if the file ends within it.
        assert!(inserted.of(&dst) <= 1, "{} pages with {connections} connections", inserted.of(&dst));
        assert_eq!(cached_pages(&dst), 0);
    }
}

/// Creates a file that nginx serves, and returns its content.
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
    let stderr = fails(1, [&nginx.url("/missing"), scratch.path("new").to_str().unwrap()]);
    assert!(stderr.contains("404 Not Found") && stderr.contains(&nginx.url("/missing")), "{stderr}");
    fails(1, [&nginx.url("/missing"), old.to_str().unwrap()]);
    same(&old, &content(1000));
    assert_eq!(scratch.names(), ["old"]);
}

#[test]
fn an_unreachable_server_is_an_error_without_retries() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let start = std::time::Instant::now();
    let stderr = fails(1, ["http://127.0.0.1:1/x", dst.to_str().unwrap()]);
    assert!(stderr.contains("Connection refused") && !stderr.contains("attempt"), "{stderr}");
    let stderr = fails(1, ["http://no-such-host.invalid/x", dst.to_str().unwrap()]);
    assert!(!stderr.contains("attempt"), "{stderr}");
    for invalid in ["http://", "http://h:99999/", "https://[::1/x", "http://a b/"] {
        let stderr = fails(2, [invalid, dst.to_str().unwrap()]);
        assert!(stderr.contains("is not a valid URL"), "{stderr}");
    }
    assert!(start.elapsed().as_secs() < 20);
    assert!(scratch.names().is_empty());
}

#[test]
fn redirects_are_followed_up_to_a_limit_and_only_to_http_and_https() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let dst_str = dst.to_str().unwrap();
    let bytes = nginx_file(&nginx, "f", 100_001);
    copies([&nginx.url("/moved/f"), dst_str]);
    same(&dst, &bytes);
    let stderr = copies([&nginx.tls_url("/down/f"), dst_str, "--cacert", &nginx.certificate()]);
    assert!(stderr.contains("from https to http"), "{stderr}");
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
    let stderr = fails(1, [&server.url("/loop"), dst_str]);
    assert!(stderr.contains("redirects more than 20 times"), "{stderr}");
    let stderr = fails(1, [&server.url("/file"), dst_str]);
    assert!(stderr.contains("redirects to a file URL"), "{stderr}");
    let stderr = fails(1, [&server.url("/nonsense"), dst_str]);
    assert!(stderr.contains("not a valid URL"), "{stderr}");
    fs::remove_file(&dst).unwrap();
    copies([&server.url("/relative/x"), dst_str]);
    same(&dst, &bytes);
}

#[test]
fn in_a_directory_the_name_is_the_urls_or_the_servers_and_never_a_path_out_of_it() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("dir")).unwrap();
    let dir = scratch.path("dir");
    let dir_str = dir.to_str().unwrap();
    let server = Server::new(|_, request, stream| {
        let name = request.line.split(['=', ' ']).nth(2).unwrap_or("");
        let disposition = format!("attachment; filename=\"{name}\"");
        let headers = [("Content-Length", "3"), ("Content-Disposition", &disposition)];
        head(stream, "200 OK", if request.line.contains("?") { &headers } else { &headers[..1] })
            && std::io::Write::write_all(stream, b"abc").is_ok()
    });
    copies([&server.url("/a%20b.iso"), dir_str]);
    copies([&server.url("/x?name=../../evil"), dir_str]);
    copies([&server.url("/y?name=/etc/cron.d/root"), dir_str]);
    copies([&server.url("/z?name=..\\up.exe"), dir_str]);
    assert_eq!(names(&dir), ["a b.iso", "evil", "root", "up.exe"]);
    assert_eq!(scratch.names(), ["dir"]);
    // A name that the server chose never replaces a file. A name that the user typed does.
    let stderr = fails(1, [&server.url("/x?name=evil"), dir_str]);
    assert!(stderr.contains("chosen by the server"), "{stderr}");
    fails(1, [&server.url("/x?name=evil"), dir_str, "--in-place"]);
    copies([&server.url("/x?name=.bashrc"), dir_str]);
    assert!(!dir.join(".bashrc").exists());
    copies([&server.url("/a%20b.iso"), dir_str]);
    let stderr = fails(2, [&server.url("/"), dir_str]);
    assert!(stderr.contains("has no file name"), "{stderr}");
}

#[test]
fn skip_count_and_seek_copy_a_part_of_a_url_to_a_part_of_a_file() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let bytes = nginx_file(&nginx, "f", 10_000_000);
    for path in ["/f", "/whole/f"] {
        for connections in ["1", "3"] {
            let dst = scratch.file("dst", 6_000_000);
            let dst_str = dst.to_str().unwrap();
            let url = nginx.url(path);
            let args = ["--skip", "1234567", "--count", "3000001", "--seek", "777", "-b", "64K"];
            copies([url.as_str(), dst_str, "--connections", connections].into_iter().chain(args));
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
            let stderr = fails(2, [&url, rest.to_str().unwrap(), "--skip", "10000001", "--connections", connections]);
            assert!(stderr.contains("past the end"), "{stderr}");
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
    let stderr = fails(2, [&url, disk.name()]);
    assert!(stderr.contains("-f"), "{stderr}");
    copies([&url, disk.name(), "-f", "--verify", "--connections", "2"]);
    assert!(fs::read(&disk.device).unwrap()[..bytes.len()] == bytes);
}

#[test]
fn the_digest_is_of_the_served_bytes_and_a_wrong_one_publishes_nothing() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    nginx_file(&nginx, "f", (20 << 20) + 5);
    let dst = scratch.path("dst");
    let dst_str = dst.to_str().unwrap();
    let expected = tool("sha256sum", [nginx.file("f").to_str().unwrap()])[..64].to_string();
    for connections in ["1", "4"] {
        for algorithm in ["sha256", "blake3"] {
            let args = [&nginx.url("/f"), dst_str, "--checksum", algorithm, "--verify", "--connections", connections];
            let (json, _) = report(&args);
            assert_eq!(json["verified"], true);
            assert_eq!(json["digest"]["hex"].as_str().unwrap().len(), 64);
            assert!(algorithm != "sha256" || json["digest"]["hex"] == expected.as_str());
        }
    }
    fs::remove_file(&dst).unwrap();
    let wrong = format!("sha256:{}", "0".repeat(64));
    fails(3, [&nginx.url("/f"), dst_str, "--checksum", &wrong]);
    fails(3, [&nginx.url("/f"), dst_str, "--checksum", &wrong, "--resume"]);
    assert!(scratch.names().is_empty());
    let list = scratch.path("SHA256SUMS");
    fs::write(&list, format!("{expected}  f\n")).unwrap();
    copies([&nginx.url("/f"), dst_str, "--checksum-file", list.to_str().unwrap()]);
}

#[test]
fn untrusted_certificates_are_rejected() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let dst_str = dst.to_str().unwrap();
    let bytes = nginx_file(&nginx, "f", 12345);
    let url = nginx.tls_url("/f");
    let stderr = fails(1, [&url, dst_str]);
    assert!(
        stderr.contains("certificate was rejected") && stderr.contains("--cacert") && !stderr.contains("attempt"),
        "{stderr}"
    );
    certificate(&scratch, "other", "localhost", &[]);
    let other = scratch.path("other.pem");
    let stderr = fails(1, [&url, dst_str, "--cacert", other.to_str().unwrap()]);
    assert!(stderr.contains("certificate was rejected"), "{stderr}");
    let other_host = format!("https://127.0.0.1:{}/f", nginx.tls_port);
    let stderr = fails(1, [&other_host, dst_str, "--cacert", &nginx.certificate()]);
    assert!(stderr.contains("certificate was rejected: it is for"), "{stderr}");
    let stderr = fails(1, [&url, dst_str, "--cacert", scratch.path("missing").to_str().unwrap()]);
    assert!(stderr.contains("No such file"), "{stderr}");
    let stderr = fails(1, [&url, dst_str, "--cacert", nginx.file("f").to_str().unwrap()]);
    assert!(stderr.contains("no usable certificate") || stderr.contains("not PEM"), "{stderr}");
    let output = dio_cp().args([&url, dst_str]).env("SSL_CERT_FILE", nginx.certificate()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    same(&dst, &bytes);
}

#[test]
fn a_self_signed_certificate_with_only_a_common_name_is_accepted_if_it_is_the_trusted_one() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let (dst, bytes) = (scratch.path("dst"), nginx_file(&nginx, "f", 777));
    let dst_str = dst.to_str().unwrap();
    let (key, pem) = (nginx.scratch.path("own.key"), nginx.certificate());
    let replace_certificate = |subject: &str, extensions: &[&str]| {
        let args = ["req", "-x509", "-key", key.to_str().unwrap(), "-days", "2", "-out", &pem, "-subj", subject];
        tool("openssl", args.into_iter().chain(extensions.iter().copied()));
        tool("nginx", ["-e", "stderr", "-p", nginx.scratch.0.to_str().unwrap(), "-c", "conf", "-s", "reload"]);
        std::thread::sleep(std::time::Duration::from_millis(500));
    };
    for extensions in [&[][..], &["-addext", "basicConstraints=critical,CA:FALSE"]] {
        replace_certificate("/O=Devices/CN=localhost", extensions);
        copies([&nginx.tls_url("/f"), dst_str, "--cacert", &pem]);
        same(&dst, &bytes);
        fails(1, [&nginx.tls_url("/f"), dst_str]);
    }
    replace_certificate("/CN=elsewhere", &[]);
    let stderr = fails(1, [&nginx.tls_url("/f"), dst_str, "--cacert", &pem]);
    assert!(stderr.contains("names no host"), "{stderr}");
}

#[test]
fn an_expired_certificate_is_rejected_even_if_it_is_trusted() {
    let Some(nginx) = Nginx::new() else { return };
    if !has_tool("faketime") {
        return skip("needs the tool faketime");
    }
    let scratch = Scratch::new();
    nginx_file(&nginx, "f", 1);
    let old = scratch.path("old.pem");
    // Valid for two days, eight days ago.
    let args = ["-f", "-8d", "openssl", "req", "-x509", "-key", "KEY", "-days", "2", "-subj", "/CN=localhost", "-out"];
    let key = nginx.scratch.path("own.key");
    let args = args.map(|word| if word == "KEY" { key.to_str().unwrap() } else { word });
    let names = ["-addext", "subjectAltName=DNS:localhost"];
    tool("faketime", args.into_iter().chain([old.to_str().unwrap()]).chain(names));
    fs::copy(&old, nginx.scratch.path("own.pem")).unwrap();
    tool("nginx", ["-e", "stderr", "-p", nginx.scratch.0.to_str().unwrap(), "-c", "conf", "-s", "reload"]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    let dst = scratch.path("dst");
    let stderr = fails(1, [&nginx.tls_url("/f"), dst.to_str().unwrap(), "--cacert", old.to_str().unwrap()]);
    assert!(stderr.contains("has expired"), "{stderr}");
}

#[test]
fn credentials_come_from_the_url_a_header_or_netrc_and_are_never_printed() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let dst_str = dst.to_str().unwrap();
    nginx_file(&nginx, "f", 100);
    let port = nginx.port;
    let stderr = fails(1, [&nginx.url("/login/f"), dst_str]);
    assert!(stderr.contains("401") && stderr.contains("netrc"), "{stderr}");
    let url_with = |login: &str| format!("http://{login}@127.0.0.1:{port}/login/f");
    let (json, stderr) = report(&[&url_with("user:secret"), dst_str, "-v", "--progress", "json"]);
    assert!(!stderr.contains("secret") && !json.to_string().contains("secret"), "{stderr} {json}");
    let stderr = fails(1, [&url_with("user:not-secret"), dst_str, "-v", "--retry", "1"]);
    assert!(!stderr.contains("secret"), "{stderr}");
    copies([&nginx.url("/login/f"), dst_str, "--header", "Authorization: Basic dXNlcjpzZWNyZXQ="]);
    // Also after a redirect to the same server.
    copies([&url_with("user:secret").replace("/login/f", "/moved/login/f"), dst_str]);
    let netrc = scratch.path("netrc");
    fs::write(&netrc, "machine 127.0.0.1 login user password secret\n").unwrap();
    let with_netrc = |url: &str| dio_cp().args([url, dst_str]).env("NETRC", &netrc).output().unwrap();
    assert!(with_netrc(&nginx.url("/login/f")).status.success());
    assert!(with_netrc(&url_with("user")).status.success());
    assert!(!with_netrc(&url_with("other")).status.success());
    fs::rename(&netrc, scratch.path(".netrc")).unwrap();
    let with_home =
        dio_cp().args([&nginx.url("/login/f"), dst_str]).env_remove("NETRC").env("HOME", &scratch.0).output();
    assert!(with_home.unwrap().status.success());
}

#[test]
fn a_redirect_to_another_server_does_not_get_the_credentials() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let other = Server::of(b"abc".to_vec(), |_| None);
    let target = other.url("/x");
    let first = Server::new(move |_, _, stream| nothing(stream, "307 Moved", &[("Location", &target)]));
    let url = format!("http://user:secret@127.0.0.1:{}/", first.port);
    copies([&url, dst.to_str().unwrap(), "--header", "Cookie: secret", "--header", "X-Kept: yes"]);
    copies([&first.url("/"), dst.to_str().unwrap(), "--header", "authorization: secret"]);
    // The default entry of netrc is only for the server that the user named.
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
fn the_request_asks_for_no_encoding_and_headers_can_be_replaced() {
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
    // The user's header replaces the default one.
    copies([&server.url("/"), dst.to_str().unwrap(), "--header", "User-Agent: me"]);
    assert_eq!(server.requests()[1].header("user-agent"), Some("me"));
}

#[test]
fn connections_fetch_ranges_in_parallel_and_are_reused() {
    let scratch = Scratch::new();
    let bytes = content((40 << 20) + 11);
    for (checksum, order) in [(None, "any"), (Some("sha256"), "in order")] {
        let server = Server::of(bytes.clone(), |_| None);
        let dst = scratch.path("dst");
        let url = server.url("/f");
        let mut args = vec![url.as_str(), dst.to_str().unwrap(), "--connections", "4", "-b", "1M"];
        args.extend(checksum.iter().flat_map(|algorithm| ["--checksum", algorithm]));
        copies(args);
        same(&dst, &bytes);
        let requests = server.requests();
        let mut ranges: Vec<(usize, usize)> =
            requests.iter().map(|request| request.range().unwrap()).map(|(start, end)| (start, end.unwrap())).collect();
        ranges.sort_unstable();
        assert_eq!(
            ranges.iter().fold(0, |covered, (start, end)| if *start == covered { *end } else { 0 }),
            bytes.len(),
            "{order}"
        );
        let connections = requests.iter().map(|request| request.connection).max().unwrap() + 1;
        assert!((2..=4).contains(&connections), "{connections} connections {order}");
        assert!(requests.len() > 8, "{}", requests.len());
        assert!(requests[1..].iter().all(|request| request.header("if-range") == Some("\"v1\"")));
        // Unless the blocks are needed in order, a range is several blocks.
        let longest = ranges.iter().map(|(start, end)| end - start).max().unwrap();
        assert_eq!(longest > 1 << 20, checksum.is_none(), "{longest} bytes {order}");
    }
}

#[test]
fn without_ranges_or_a_version_one_connection_is_used_and_a_notice_says_why() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let dst_str = dst.to_str().unwrap();
    let bytes = nginx_file(&nginx, "f", 9_000_001);
    let stderr = copies([&nginx.url("/whole/f"), dst_str, "--connections", "4"]);
    assert!(stderr.contains("one connection") && stderr.contains("does not support ranges"), "{stderr}");
    same(&dst, &bytes);
    let body = bytes.clone();
    let unversioned = Server::new(move |_, request, stream| web::serve(request, stream, &body, None, None));
    let stderr = copies([&unversioned.url("/f"), dst_str, "--connections", "4"]);
    assert!(stderr.contains("one connection") && stderr.contains("version"), "{stderr}");
    same(&dst, &bytes);
}

#[test]
fn proxies_come_from_the_environment() {
    let Some(nginx) = Nginx::new() else { return };
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let dst_str = dst.to_str().unwrap();
    let bytes = nginx_file(&nginx, "f", 3_000_000);
    let (port, tls_port) = (nginx.port, nginx.tls_port);
    // This proxy connects to nginx whatever the request names.
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
        let (mut response, mut client) = (upstream.try_clone().unwrap(), stream.try_clone().unwrap());
        let downstream = std::thread::spawn(move || {
            let _ = std::io::copy(&mut response, &mut client);
            let _ = client.shutdown(std::net::Shutdown::Both);
        });
        let _ = std::io::copy(stream, &mut upstream);
        let _ = upstream.shutdown(std::net::Shutdown::Both);
        downstream.join().unwrap();
        false
    });
    let address = format!("http://someone:pass%20word@127.0.0.1:{}", proxy.port);
    let copy = |url: &str, variable: &str, no_proxy: &str| {
        let mut command = dio_cp();
        command
            .args([url, dst_str, "-v", "--cacert", &nginx.certificate()])
            .env(variable, &address)
            .env("no_proxy", no_proxy);
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        assert!(!stderr.contains("pass"), "{stderr}");
        same(&dst, &bytes);
        fs::remove_file(&dst).unwrap();
    };
    let authorization = "Basic c29tZW9uZTpwYXNzIHdvcmQ=";
    copy("http://server.example/f?x=y", "http_proxy", "");
    let request = proxy.requests()[0].clone();
    assert_eq!(request.line, "GET http://server.example/f?x=y HTTP/1.1");
    assert_eq!(request.header("host"), Some("server.example"));
    assert_eq!(request.header("proxy-authorization"), Some(authorization));
    copy(&nginx.tls_url("/f"), "HTTPS_PROXY", "elsewhere");
    let request = proxy.requests()[1].clone();
    assert_eq!(request.line, format!("CONNECT localhost:{tls_port} HTTP/1.1"));
    assert_eq!(request.header("proxy-authorization"), Some(authorization));
    copy("http://server.example/f", "all_proxy", "");
    assert_eq!(proxy.requests().len(), 3);
    copy(&nginx.url("/f"), "http_proxy", "localhost, 127.0.0.1");
    copy(&nginx.url("/f"), "https_proxy", "");
    assert_eq!(proxy.requests().len(), 3);
    // An https proxy never gets an unencrypted request.
    let output = dio_cp()
        .args(["http://server.example/f", dst_str, "--retry", "0", "--cacert", &nginx.certificate()])
        .env("http_proxy", format!("https://someone:secret@localhost:{tls_port}"))
        .output()
        .unwrap();
    assert!(!output.status.success() && !String::from_utf8_lossy(&output.stderr).contains("secret"));
    // nginx writes its log after the response.
    wait_until("nginx has logged the request", || {
        let log = fs::read_to_string(nginx.scratch.path("access")).unwrap();
        log.lines().any(|line| line.starts_with("CONNECT server.example:80") && line.ends_with("TLS=on"))
    });
    assert_eq!(proxy.requests().len(), 3);
    let output = dio_cp().args([&nginx.url("/f"), dst_str]).env("http_proxy", "::secret::").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("http_proxy") && !stderr.contains("secret"), "{stderr}");
}

#[test]
fn options_for_urls_are_refused_for_other_sources_and_a_url_cannot_be_the_destination() {
    let scratch = Scratch::new();
    let src = scratch.file("src", 10);
    let stderr = fails(2, [src.to_str().unwrap(), "http://127.0.0.1:1/x"]);
    assert!(stderr.contains("reads from URLs"), "{stderr}");
    let stderr = fails(2, [src.to_str().unwrap(), scratch.path("dst").to_str().unwrap(), "--connections", "2"]);
    assert!(stderr.contains("SRC is not a URL"), "{stderr}");
    assert!(Path::new(&src).exists());
}
