//! How the HTTP client connects: TCP, proxies and TLS. A monitor on each connection notices what the client does not
//! report: a connection that ends too early, and bytes after the end of a response.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, SocksConnector, TcpConnector, Transport,
};
use ureq::{Agent, Error, Timeout};

use super::resolver::LimitedResolver;
use super::tls::TlsConnector;

/// How long to wait for the server to close the connection after the response, if it was asked to.
const CLOSE_GRACE: Duration = Duration::from_millis(50);

/// The most bytes that a server may send without a byte of the body among them, such as headers and trailers. More than
/// what all connections together receive ahead.
const MAX_WITHOUT_BODY: u64 = 16 << 20;

/// What happened on a connection. Most of it is only of use if no other connection has the same monitor.
#[derive(Debug, Default)]
pub struct ConnectionMonitor {
    /// The response has been read: more bytes are surplus.
    complete: AtomicBool,
    /// The server sent more bytes after the end of the response.
    surplus: AtomicBool,
    /// The connection ended before the response was complete.
    ended: AtomicBool,
    /// The connection ended with an error.
    failed: AtomicBool,
    /// Bytes received since the last byte of the body.
    without_body: AtomicU64,
}

impl ConnectionMonitor {
    /// Prepares for the next response.
    pub fn reset(&self) {
        for flag in [&self.complete, &self.surplus, &self.ended, &self.failed] {
            flag.store(false, Ordering::Release);
        }
        self.body_received();
    }

    /// The response goes on with bytes of the body.
    pub fn body_received(&self) {
        self.without_body.store(0, Ordering::Release);
    }

    /// Counts bytes from the connection. Fails if the body does not go on: a server could send trailers forever.
    fn received(&self, bytes: u64) -> Result<(), Error> {
        if self.without_body.fetch_add(bytes, Ordering::AcqRel) + bytes <= MAX_WITHOUT_BODY {
            return Ok(());
        }
        let why = "the server sends headers or trailers without an end";
        Err(Error::Io(io::Error::new(io::ErrorKind::InvalidData, why)))
    }

    /// Runs `close`, which closes the connection. Also returns whether the server sent more than it announced.
    pub fn detect_surplus<T>(&self, close: impl FnOnce() -> T) -> (T, bool) {
        self.complete.store(true, Ordering::Release);
        let result = close();
        (result, self.surplus.load(Ordering::Acquire))
    }

    /// The connection ended with an error. A body that lasts until the connection closes may then be truncated.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// The connection ended, with or without an error. A chunked body may then be truncated.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// An agent whose connections report to `monitor`. `forward`: a proxy that gets the requests and forwards them.
pub fn agent(
    config: Config,
    tls: Option<Arc<ClientConfig>>,
    forward: Option<ForwardProxy>,
    monitor: Arc<ConnectionMonitor>,
) -> Agent {
    let monitored = MonitorConnector { forward: forward.clone(), monitor };
    let tcp =
        ().chain(SocksConnector::default()).chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
    let resolver = LimitedResolver { proxy: forward.map(|forward| forward.address) };
    match tls {
        Some(tls) => Agent::with_parts(config, tcp.chain(TlsConnector(tls)).chain(monitored), resolver),
        None => Agent::with_parts(config, tcp.chain(monitored), resolver),
    }
}

/// An http proxy that gets requests for http servers with the whole URL in the request line (RFC 9112, 3.2.2). Many
/// proxies allow nothing else for http.
#[derive(Clone, Debug)]
pub struct ForwardProxy {
    pub address: Uri,
    /// The value of Proxy-Authorization.
    pub authorization: Option<String>,
}

/// The last link in the chain of connectors.
#[derive(Debug)]
struct MonitorConnector {
    forward: Option<ForwardProxy>,
    monitor: Arc<ConnectionMonitor>,
}

impl<In: Transport> Connector<In> for MonitorConnector {
    type Out = MonitoredTransport<In>;

    fn connect(&self, details: &ConnectionDetails, inner: Option<In>) -> Result<Option<Self::Out>, Error> {
        let rewrite = self.forward.as_ref().zip(details.uri.authority()).map(|(forward, authority)| {
            let header = forward.authorization.as_ref().map(|value| format!("Proxy-Authorization: {value}\r\n"));
            ProxyRewrite { server: format!("http://{authority}"), header: header.unwrap_or_default() }
        });
        let monitor = self.monitor.clone();
        Ok(inner.map(|inner| MonitoredTransport { inner, rewrite, monitor }))
    }
}

/// What turns a request to a server into one to a forwarding proxy.
#[derive(Debug)]
struct ProxyRewrite {
    /// Inserted before the path: `http://host:port`.
    server: String,
    /// Inserted after the request line: a header, or nothing.
    header: String,
}

/// A connection with a monitor.
#[derive(Debug)]
struct MonitoredTransport<T: Transport> {
    inner: T,
    rewrite: Option<ProxyRewrite>,
    monitor: Arc<ConnectionMonitor>,
}

impl<T: Transport> Transport for MonitoredTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let output = &self.inner.buffers().output()[..amount];
        let line_end = output.windows(2).position(|pair| pair == b"\r\n");
        let Some((rewrite, line_end)) = self.rewrite.as_ref().zip(line_end).filter(|_| output.starts_with(b"GET /"))
        else {
            return self.inner.transmit_output(amount, timeout);
        };
        let (method, rest) = output.split_at("GET ".len());
        let (path, headers) = rest.split_at(line_end + "\r\n".len() - method.len());
        let request = [method, rewrite.server.as_bytes(), path, rewrite.header.as_bytes(), headers].concat();
        for part in request.chunks(amount.max(1)) {
            self.inner.buffers().output()[..part.len()].copy_from_slice(part);
            self.inner.transmit_output(part.len(), timeout)?;
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let before = self.inner.buffers().input().len();
        let result = self.inner.await_input(timeout);
        let received = self.inner.buffers().input().len().saturating_sub(before) as u64;
        let result = self.monitor.received(received).and(result);
        self.monitor.failed.fetch_or(matches!(result, Err(Error::Io(_))), Ordering::AcqRel);
        self.monitor.ended.fetch_or(!matches!(result, Ok(true)), Ordering::AcqRel);
        result
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

impl<T: Transport> Drop for MonitoredTransport<T> {
    fn drop(&mut self) {
        if !self.monitor.complete.load(Ordering::Acquire) {
            return;
        }
        // The connection carried one response, and that has been read. Anything that still arrives is surplus.
        let wait = NextTimeout { after: CLOSE_GRACE.into(), reason: Timeout::PerRead, ..NextTimeout::default() };
        let more = !self.inner.buffers().input().is_empty() || matches!(self.inner.await_input(wait), Ok(true));
        self.monitor.surplus.fetch_or(more, Ordering::AcqRel);
    }
}
