//! Servers for the tests: nginx, and a scripted server that can misbehave.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Scratch, has_tool, is_root, tool};

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET /path HTTP/1.1`
    pub line: String,
    pub headers: Vec<(String, String)>,
    /// The number of its connection: 0, 1, 2, …
    pub connection: usize,
}

impl Request {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Start and end (exclusive) of the Range header.
    pub fn range(&self) -> Option<(usize, Option<usize>)> {
        let (start, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((start.parse().unwrap(), last.parse::<usize>().ok().map(|last| last + 1)))
    }
}

/// A server whose responses a closure writes. It runs until the test process ends.
pub struct Server {
    pub port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// `respond` gets the number of the request and the request, and writes the response. If it returns false, the
    /// connection is closed.
    pub fn new(respond: impl Fn(usize, &Request, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (log, respond) = (requests.clone(), Arc::new(respond));
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let (log, respond) = (log.clone(), respond.clone());
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    while let Some(request) = read_request(&mut stream, connection) {
                        let number = {
                            let mut log = log.lock().unwrap();
                            log.push(request.clone());
                            log.len() - 1
                        };
                        if !respond(number, &request, &mut stream) {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, requests }
    }

    /// Serves `body` correctly, with ranges, `If-Range` and an ETag. `cut` takes the number of the request and returns
    /// after how many bytes the body of its response is cut off.
    pub fn of(body: Vec<u8>, cut: impl Fn(usize) -> Option<usize> + Send + Sync + 'static) -> Self {
        Self::new(move |number, request, stream| serve(request, stream, &body, Some("\"v1\""), cut(number)))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

/// Reads the next request; None if the connection was closed.
pub fn read_request(stream: &mut TcpStream, connection: usize) -> Option<Request> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        text.push(byte[0]);
    }
    let text = String::from_utf8(text).unwrap();
    let mut lines = text.lines();
    let line = lines.next()?.to_string();
    let pair = |line: &str| line.split_once(':').map(|(name, value)| (name.to_string(), value.trim().to_string()));
    Some(Request { line, headers: lines.filter_map(pair).collect(), connection })
}

/// Writes a status line and headers. False if that fails.
pub fn head(stream: &mut TcpStream, status: &str, headers: &[(&str, &str)]) -> bool {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    stream.write_all(format!("HTTP/1.1 {status}\r\n{lines}\r\n").as_bytes()).is_ok()
}

/// Writes a complete response with an empty body. False if that fails.
pub fn nothing(stream: &mut TcpStream, status: &str, headers: &[(&str, &str)]) -> bool {
    head(stream, status, &[headers, &[("Content-Length", "0")]].concat())
}

/// Writes the response of a correct server, whose body may be cut off. False: close the connection.
pub fn serve(request: &Request, stream: &mut TcpStream, body: &[u8], etag: Option<&str>, cut: Option<usize>) -> bool {
    let same_version = request.header("if-range").is_none_or(|version| Some(version) == etag);
    let mut headers = Vec::new();
    headers.extend(etag.map(|etag| ("ETag", etag)));
    let total = body.len();
    let (part, status, range) = match request.range().filter(|_| same_version) {
        Some((start, _)) if start >= total => {
            return nothing(stream, "416 Range Not Satisfiable", &[("Content-Range", &format!("bytes */{total}"))]);
        }
        Some((start, end)) => {
            let end = end.unwrap_or(total).min(total);
            (&body[start..end], "206 Partial Content", Some(format!("bytes {start}-{}/{total}", end - 1)))
        }
        None => (body, "200 OK", None),
    };
    headers.extend(range.as_ref().map(|range| ("Content-Range", range.as_str())));
    let length = part.len().to_string();
    headers.push(("Content-Length", &length));
    let sent = &part[..cut.unwrap_or(usize::MAX).min(part.len())];
    head(stream, status, &headers) && stream.write_all(sent).is_ok() && cut.is_none()
}

/// nginx on two loopback ports, http and https, in its own directory.
pub struct Nginx {
    pub scratch: Scratch,
    pub port: u16,
    pub tls_port: u16,
    child: Child,
}

impl Nginx {
    /// None if it is not installed; the test then reports that it is skipped.
    ///
    /// - `/slow/` is limited to 2 MB/s per connection, `/paced/` to 50 MB/s.
    /// - `/whole/` does not support ranges.
    /// - `/moved/x` redirects to `/x`, and `/down/x` to `/x` over http.
    /// - `/login/` requires the user `user` with the password `secret`.
    pub fn new() -> Option<Self> {
        for name in ["nginx", "openssl"] {
            if !has_tool(name) {
                super::skip(&format!("needs the tool {name}"));
                return None;
            }
        }
        let scratch = Scratch::new();
        fs::create_dir_all(scratch.path("root")).unwrap();
        certificate(&scratch, "own", "localhost", &[]);
        let secret = tool("openssl", ["passwd", "-apr1", "secret"]);
        fs::write(scratch.path("users"), format!("user:{secret}")).unwrap();
        let free_port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (port, tls_port) = (free_port(), free_port());
        let dir = scratch.0.display();
        let user = if is_root() { "user root;" } else { "" };
        let dirs: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {dir}/tmp-{name};"))
            .concat();
        let locations = format!(
            "root {dir}/root;
             location /slow/ {{ alias {dir}/root/; limit_rate 2m; }}
             location /paced/ {{ alias {dir}/root/; limit_rate 50m; }}
             location /whole/ {{ alias {dir}/root/; max_ranges 0; }}
             location /moved/ {{ rewrite ^/moved/(.*)$ /$1 redirect; }}
             location /down/ {{ rewrite ^/down/(.*)$ http://127.0.0.1:{port}/$1 redirect; }}
             location /login/ {{ alias {dir}/root/; auth_basic x; auth_basic_user_file {dir}/users; }}"
        );
        let config = format!(
            "daemon off; {user} pid {dir}/pid; error_log {dir}/log; worker_processes 1;
             events {{ worker_connections 256; }}
             http {{ log_format tests '$request TLS=$https';
               access_log {dir}/access tests; sendfile on; {dirs}
               server {{ listen 127.0.0.1:{port}; {locations} }}
               server {{ listen 127.0.0.1:{tls_port} ssl; ssl_certificate {dir}/own.pem;
                         ssl_certificate_key {dir}/own.key; {locations} }}
             }}"
        );
        fs::write(scratch.path("conf"), config).unwrap();
        let child = Command::new("nginx")
            .args(["-e", "stderr", "-p"])
            .arg(&scratch.0)
            .arg("-c")
            .arg(scratch.path("conf"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Self { scratch, port, tls_port, child };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", tls_port)).is_err() {
            assert!(Instant::now() < deadline, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(nginx)
    }

    /// The path of the file that is served as `/name`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.path("root").join(name)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The URL of `path` over https.
    pub fn tls_url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.tls_port)
    }

    /// The path of the self-signed certificate of the https port.
    pub fn certificate(&self) -> String {
        self.scratch.path("own.pem").to_str().unwrap().to_string()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM to the master process also ends the workers.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// Creates a self-signed certificate for `name` in `file`.pem, as `openssl req -x509` makes it: marked as a certificate
/// authority.
pub fn certificate(scratch: &Scratch, file: &str, name: &str, more: &[&str]) {
    let path = |extension: &str| scratch.path(&format!("{file}.{extension}")).to_str().unwrap().to_string();
    let (key, pem) = (path("key"), path("pem"));
    let (subject, alt_name) = (format!("/CN={name}"), format!("subjectAltName=DNS:{name}"));
    let args = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let args = args.into_iter().chain(["-subj", &subject, "-addext", &alt_name, "-keyout", &key, "-out", &pem]);
    tool("openssl", args.chain(more.iter().copied()));
}

/// Hides the proxies, credentials and certificates of the user who runs the tests.
pub fn alone(command: &mut Command) -> &mut Command {
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR").env("NETRC", Path::new("/dev/null"))
}
