//! How a connection is made, and what is seen at its end that the HTTP client does not tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, SocksConnector, TcpConnector, Transport,
};
use ureq::{Agent, Error, Timeout};

use super::tls::TlsConnector;

/// How long a server that was asked to close the connection after its answer may take to do so.
const CLOSE_GRACE: Duration = Duration::from_millis(50);

/// What was seen of connections that are used for one answer each.
#[derive(Debug, Default)]
pub struct ConnectionMonitor {
    /// The answer is over: what comes now was not announced.
    over: AtomicBool,
    /// Something came behind the end of the answer.
    surplus: AtomicBool,
    /// The connection was closed by the server, or torn, before the answer was over.
    ended: AtomicBool,
    torn: AtomicBool,
}

impl ConnectionMonitor {
    /// A new answer begins.
    pub fn reset(&self) {
        [&self.over, &self.surplus, &self.ended, &self.torn]
            .iter()
            .for_each(|flag| flag.store(false, Ordering::Release));
    }

    /// Lets the connection end by `end`, and tells whether more came than was announced.
    pub fn surplus<T>(&self, end: impl FnOnce() -> T) -> (T, bool) {
        self.over.store(true, Ordering::Release);
        let result = end();
        (result, self.surplus.load(Ordering::Acquire))
    }

    /// The connection ended by an error: a body that ends with it may be a part.
    pub fn torn(&self) -> bool {
        self.torn.load(Ordering::Acquire)
    }

    /// The connection ended at all: a body that tells its own end may be a part.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// An agent whose connections tell `monitor`. `forward`: requests go to this http proxy whole.
pub fn agent(
    config: Config,
    tls: Option<Arc<ClientConfig>>,
    forward: Option<Forward>,
    monitor: Arc<ConnectionMonitor>,
) -> Agent {
    let watched = WatchConnector { forward: forward.clone(), monitor };
    let plain =
        ().chain(SocksConnector::default()).chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
    let resolver = ProxyResolver { proxy: forward.map(|forward| forward.proxy), inner: DefaultResolver::default() };
    match tls {
        Some(tls) => Agent::with_parts(config, plain.chain(TlsConnector(tls)).chain(watched), resolver),
        None => Agent::with_parts(config, plain.chain(watched), resolver),
    }
}

/// An http proxy that takes requests for http servers as they are, with the whole URL in them: for
/// these many proxies allow nothing else. (RFC 9112, 3.2.2)
#[derive(Clone, Debug)]
pub struct Forward {
    pub proxy: Uri,
    /// The value of Proxy-Authorization.
    pub login: Option<String>,
}

/// Looks up the proxy in place of the server.
#[derive(Debug)]
struct ProxyResolver {
    proxy: Option<Uri>,
    inner: DefaultResolver,
}

impl Resolver for ProxyResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        self.inner.resolve(self.proxy.as_ref().unwrap_or(uri), config, timeout)
    }
}

/// The last link of the chain of connectors.
#[derive(Debug)]
struct WatchConnector {
    forward: Option<Forward>,
    monitor: Arc<ConnectionMonitor>,
}

impl<In: Transport> Connector<In> for WatchConnector {
    type Out = Watched<In>;

    fn connect(&self, details: &ConnectionDetails, below: Option<In>) -> Result<Option<Self::Out>, Error> {
        let prefix = self.forward.as_ref().zip(details.uri.authority()).map(|(forward, authority)| {
            let login = forward.login.as_ref().map(|login| format!("Proxy-Authorization: {login}\r\n"));
            (format!("http://{authority}"), login.unwrap_or_default())
        });
        let monitor = self.monitor.clone();
        Ok(below.map(|below| Watched { below, prefix, monitor }))
    }
}

/// A connection under observation.
#[derive(Debug)]
struct Watched<T: Transport> {
    below: T,
    /// What makes a request one for a proxy: before the path, and behind the request line.
    prefix: Option<(String, String)>,
    monitor: Arc<ConnectionMonitor>,
}

impl<T: Transport> Transport for Watched<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.below.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let output = &self.below.buffers().output()[..amount];
        let line = output.windows(2).position(|pair| pair == b"\r\n");
        let Some(((server, login), line)) = self.prefix.as_ref().zip(line).filter(|_| output.starts_with(b"GET /"))
        else {
            return self.below.transmit_output(amount, timeout);
        };
        let (get, rest) = output.split_at(4);
        let (path, headers) = rest.split_at(line + 2 - get.len());
        let request = [get, server.as_bytes(), path, login.as_bytes(), headers].concat();
        for part in request.chunks(amount.max(1)) {
            self.below.buffers().output()[..part.len()].copy_from_slice(part);
            self.below.transmit_output(part.len(), timeout)?;
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let result = self.below.await_input(timeout);
        self.monitor.torn.fetch_or(matches!(result, Err(Error::Io(_))), Ordering::AcqRel);
        self.monitor.ended.fetch_or(!matches!(result, Ok(true)), Ordering::AcqRel);
        result
    }

    fn is_open(&mut self) -> bool {
        self.below.is_open()
    }

    fn is_tls(&self) -> bool {
        self.below.is_tls()
    }
}

impl<T: Transport> Drop for Watched<T> {
    fn drop(&mut self) {
        if !self.monitor.over.load(Ordering::Acquire) {
            return;
        }
        // Used for one answer only, and that has been read: what is still to come is too much.
        let wait = NextTimeout { after: CLOSE_GRACE.into(), reason: Timeout::PerRead, ..NextTimeout::default() };
        let more = !self.below.buffers().input().is_empty() || matches!(self.below.await_input(wait), Ok(true));
        self.monitor.surplus.fetch_or(more, Ordering::AcqRel);
    }
}
