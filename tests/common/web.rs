//! Servers for the tests: nginx from the distribution, and one of our own for what a good server never
//! does.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Scratch, has_tool, is_root, tool};

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET /path HTTP/1.1`
    pub line: String,
    pub headers: Vec<(String, String)>,
    /// The how-many-eth connection it came by.
    pub connection: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// First byte and one past the last one of its Range.
    pub fn range(&self) -> Option<(usize, Option<usize>)> {
        let (from, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse().unwrap(), last.parse::<usize>().ok().map(|last| last + 1)))
    }
}

/// Answers what a closure says. Ends with the test.
pub struct Server {
    pub port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// `answer` gets the number of the request and the request, and writes to the connection. False:
    /// close it.
    pub fn new(answer: impl Fn(usize, &Request, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (log, answer) = (requests.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let (log, answer) = (log.clone(), answer.clone());
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    while let Some(request) = read_request(&mut stream, connection) {
                        let number = {
                            let mut log = log.lock().unwrap();
                            log.push(request.clone());
                            log.len() - 1
                        };
                        if !answer(number, &request, &mut stream) {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, requests }
    }

    /// Serves `body` well: ranges, `If-Range`, an ETag. `cut` says after how many bytes of its body the
    /// answer to a request is cut off.
    pub fn of(body: Vec<u8>, cut: impl Fn(usize) -> Option<usize> + Send + Sync + 'static) -> Self {
        Self::new(move |number, request, stream| serve(request, stream, &body, Some("\"v1\""), cut(number)))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

/// None: the connection was closed.
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

/// A status line and headers.
pub fn head(stream: &mut TcpStream, status: &str, headers: &[(&str, &str)]) -> bool {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    stream.write_all(format!("HTTP/1.1 {status}\r\n{lines}\r\n").as_bytes()).is_ok()
}

/// A whole answer without a body.
pub fn nothing(stream: &mut TcpStream, status: &str, headers: &[(&str, &str)]) -> bool {
    head(stream, status, &[headers, &[("Content-Length", "0")]].concat())
}

/// A good server's answer, perhaps cut off.
pub fn serve(request: &Request, stream: &mut TcpStream, body: &[u8], etag: Option<&str>, cut: Option<usize>) -> bool {
    let same = request.header("if-range").is_none_or(|wanted| Some(wanted) == etag);
    let mut headers = Vec::new();
    headers.extend(etag.map(|etag| ("ETag", etag)));
    let total = body.len();
    let (part, status, range) = match request.range().filter(|_| same) {
        Some((from, _)) if from >= total => {
            return nothing(stream, "416 Range Not Satisfiable", &[("Content-Range", &format!("bytes */{total}"))]);
        }
        Some((from, end)) => {
            let end = end.unwrap_or(total).min(total);
            (&body[from..end], "206 Partial Content", Some(format!("bytes {from}-{}/{total}", end - 1)))
        }
        None => (body, "200 OK", None),
    };
    headers.extend(range.as_ref().map(|range| ("Content-Range", range.as_str())));
    let length = part.len().to_string();
    headers.push(("Content-Length", &length));
    let sent = &part[..cut.unwrap_or(usize::MAX).min(part.len())];
    head(stream, status, &headers) && stream.write_all(sent).is_ok() && cut.is_none()
}

/// nginx on two loopback ports, plain and TLS, in a directory of its own.
pub struct Nginx {
    pub scratch: Scratch,
    pub port: u16,
    pub tls_port: u16,
    child: Child,
}

impl Nginx {
    /// None, with a word, where it is not installed. `/slow/` sends 2 MB/s a connection, `/paced/` 50;
    /// `/whole/` knows no ranges; `/moved/x` redirects to `/x`, `/down/x` from TLS to plain; `/login/` wants
    /// user and secret.
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
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (port, tls_port) = (free(), free());
        let at = scratch.0.display();
        let user = if is_root() { "user root;" } else { "" };
        let dirs: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {at}/tmp-{name};"))
            .concat();
        let places = format!(
            "root {at}/root;
             location /slow/ {{ alias {at}/root/; limit_rate 2m; }}
             location /paced/ {{ alias {at}/root/; limit_rate 50m; }}
             location /whole/ {{ alias {at}/root/; max_ranges 0; }}
             location /moved/ {{ rewrite ^/moved/(.*)$ /$1 redirect; }}
             location /down/ {{ rewrite ^/down/(.*)$ http://127.0.0.1:{port}/$1 redirect; }}
             location /login/ {{ alias {at}/root/; auth_basic x; auth_basic_user_file {at}/users; }}"
        );
        let text = format!(
            "daemon off; {user} pid {at}/pid; error_log {at}/log; worker_processes 1;
             events {{ worker_connections 256; }}
             http {{ log_format by '$request TLS=$https';
               access_log {at}/access by; sendfile on; {dirs}
               server {{ listen 127.0.0.1:{port}; {places} }}
               server {{ listen 127.0.0.1:{tls_port} ssl; ssl_certificate {at}/own.pem;
                         ssl_certificate_key {at}/own.key; {places} }}
             }}"
        );
        fs::write(scratch.path("conf"), text).unwrap();
        let child = Command::new("nginx")
            .args(["-e", "stderr", "-p"])
            .arg(&scratch.0)
            .arg("-c")
            .arg(scratch.path("conf"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Self { scratch, port, tls_port, child };
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", tls_port)).is_err() {
            assert!(Instant::now() < until, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(nginx)
    }

    /// Where a file must be to be served as `name`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.path("root").join(name)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn tls_url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.tls_port)
    }

    /// The certificate of the TLS port, self-signed.
    pub fn certificate(&self) -> String {
        self.scratch.path("own.pem").to_str().unwrap().to_string()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its master ends its workers.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// A self-signed certificate for `name`, as `openssl req -x509` makes it: an authority by its own words.
pub fn certificate(scratch: &Scratch, file: &str, name: &str, more: &[&str]) {
    let at = |ending: &str| scratch.path(&format!("{file}.{ending}")).to_str().unwrap().to_string();
    let (key, pem) = (at("key"), at("pem"));
    let (subject, names) = (format!("/CN={name}"), format!("subjectAltName=DNS:{name}"));
    let words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let words = words.into_iter().chain(["-subj", &subject, "-addext", &names, "-keyout", &key, "-out", &pem]);
    tool("openssl", words.chain(more.iter().copied()));
}

/// Nothing of the user's own surroundings: proxies, logins, certificates.
pub fn alone(command: &mut Command) -> &mut Command {
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR").env("NETRC", Path::new("/dev/null"))
}
