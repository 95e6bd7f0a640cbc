//! One request, with its redirects.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;
use ureq::config::{AutoHeaderValue, Config};
use ureq::http::{HeaderMap, Request, header};
use ureq::{Agent, Proxy, ProxyProtocol};
use url::Url;

use super::body::{Body, framing};
use super::certificates;
use super::credentials::{Credentials, basic};
use super::failure::{Recovery, RequestFailure};
use super::proxy;
use super::response::{self, RangeRequest, Response};
use super::transport::{self, ConnectionMonitor, ForwardProxy};
use crate::error::{Result, quoted};
use crate::event::{Event, Observer};
use crate::job::{Endpoint, HttpOptions};

/// Bytes that a connection reads from the network at once. Smaller is slower: with 64 KiB, a download from a server on
/// the same machine took 1.7 times as long.
const INPUT_BUFFER: usize = 512 << 10;
const OUTPUT_BUFFER: usize = 64 << 10;
const MAX_REDIRECTS: usize = 20;
/// Headers of the user that only the requested server gets.
const SECRET_HEADERS: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// Sends requests to servers.
pub struct Client<'a> {
    pub options: &'a HttpOptions,
    requested_url: Url,
    observer: &'a dyn Observer,
    credentials: Credentials,
    /// Loaded for the first https server.
    tls: Mutex<Option<Arc<ClientConfig>>>,
    agents: Mutex<Vec<(AgentKey, Agent)>>,
    monitor: Arc<ConnectionMonitor>,
}

/// What distinguishes the agents of a client.
#[derive(PartialEq, Eq)]
struct AgentKey {
    scheme: String,
    /// The proxy as it is printed, without its user and password.
    proxy: String,
    proxy_user: Option<String>,
    /// The agent never reuses a connection.
    new_connections: bool,
}

impl<'a> Client<'a> {
    pub fn new(options: &'a HttpOptions, requested_url: Url, observer: &'a dyn Observer) -> Self {
        let credentials = Credentials::read().unwrap_or_else(|why| {
            observer.event(Event::Notice(&why));
            Credentials::default()
        });
        let (tls, agents, monitor) = (Mutex::default(), Mutex::default(), Arc::default());
        Self { options, requested_url, observer, credentials, tls, agents, monitor }
    }

    /// Requests `url` and follows redirects.
    pub fn get(&self, url: &Url, range_request: RangeRequest<'_>) -> std::result::Result<Response, RequestFailure> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let agent = self.agent(&url, range_request.new_connection).map_err(|e| RequestFailure::from_error(&e))?;
            let request = self.build_request(&url, range_request)?;
            self.monitor.reset();
            let response = agent.run(request).map_err(|e| RequestFailure::from_ureq(&e, self.options))?;
            let (head, body) = response.into_parts();
            let status = head.status.as_u16();
            if let Some(location) = redirect_location(status, &head.headers) {
                url = self.redirected(&url, location)?;
                continue;
            }
            let framing = framing(head.version, &head.headers)?;
            let reader = body.into_with_config().limit(u64::MAX).reader();
            let body = Body::new(reader, framing, self.monitor.clone(), !range_request.keep_alive);
            return response::parse(status, &head.headers, range_request, url, body);
        }
        Err(RequestFailure::new(Recovery::GiveUp, format!("it redirects more than {MAX_REDIRECTS} times")))
    }

    /// Interrupts all requests.
    pub fn shut_down(&self) {
        for (_, agent) in self.agents.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            agent.clone().shutdown();
        }
    }

    /// The target of a redirect. Fails unless it is an http or https URL.
    fn redirected(&self, from: &Url, location: &[u8]) -> std::result::Result<Url, RequestFailure> {
        let refused = |target: &str| RequestFailure::new(Recovery::GiveUp, format!("it redirects to {target}"));
        let text = std::str::from_utf8(location).map_err(|_| refused("a location that is not text"))?;
        let mut target = from.join(text).map_err(|_| refused("a location that is not a valid URL"))?;
        target.set_fragment(None);
        if !matches!(target.scheme(), "http" | "https") {
            return Err(refused(&format!("a {} URL", target.scheme())));
        }
        let name = Endpoint::Url(target.to_string()).name();
        self.observer.event(Event::Detail(&format!("redirected to {}", quoted(&name))));
        if from.scheme() == "https" && target.scheme() == "http" {
            let warning = "redirected from https to http: the rest of the transfer is not protected against tampering";
            self.observer.event(Event::Notice(warning));
        }
        Ok(target)
    }

    fn build_request(
        &self,
        url: &Url,
        range_request: RangeRequest<'_>,
    ) -> std::result::Result<Request<()>, RequestFailure> {
        let mut without_credentials = url.clone();
        // This cannot fail: an http URL has a host.
        let _ = without_credentials.set_username("").and_then(|()| without_credentials.set_password(None));
        let mut request = Request::get(without_credentials.as_str());
        let same_server = url.origin() == self.requested_url.origin();
        let mut has_authorization = false;
        for (name, value) in &self.options.headers {
            let secret = SECRET_HEADERS.iter().any(|secret| name.eq_ignore_ascii_case(secret));
            if same_server || !secret {
                request = request.header(name, value);
                has_authorization |= name.eq_ignore_ascii_case("authorization");
            }
        }
        if let Some(authorization) = self.authorization(url, same_server).filter(|_| !has_authorization) {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if let Some(range) = range_request.range {
            let last = range.end.map(|end| (end - 1).to_string()).unwrap_or_default();
            request = request.header(header::RANGE, format!("bytes={}-{last}", range.start));
            if let Some(version) = range_request.version {
                request = request.header(header::IF_RANGE, version);
            }
        }
        if !range_request.keep_alive {
            request = request.header(header::CONNECTION, "close");
        }
        let why = "the URL and the headers do not make a valid HTTP request";
        request.body(()).map_err(|_| RequestFailure::new(Recovery::GiveUp, why))
    }

    /// The Authorization header. The credentials in the requested URL are for all of its server. Another server gets
    /// only what the netrc file has for its host, and nothing over http if the user requested an https URL.
    fn authorization(&self, url: &Url, same_server: bool) -> Option<String> {
        let downgraded = url.scheme() == "http" && self.requested_url.scheme() == "https";
        if same_server {
            let has_credentials = !url.username().is_empty() || url.password().is_some();
            self.credentials.authorization(if has_credentials { url } else { &self.requested_url })
        } else if downgraded {
            None
        } else {
            self.credentials.for_other_host(url)
        }
    }

    /// The agent for a URL's scheme and proxy. It reuses its connections unless `new_connections` is set.
    fn agent(&self, url: &Url, new_connections: bool) -> Result<Agent> {
        let mut proxy = proxy::proxy_for(url)?;
        let key = AgentKey {
            scheme: url.scheme().to_string(),
            proxy: format!("{proxy:?}"),
            proxy_user: proxy.as_ref().and_then(|proxy| proxy.username()).map(str::to_string),
            new_connections,
        };
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, agent)) = agents.iter().find(|(known, _)| *known == key) {
            return Ok(agent.clone());
        }
        if let Some(proxy) = proxy.as_ref().filter(|_| !new_connections) {
            self.observer.event(Event::Detail(&proxy::describe(proxy)));
        }
        let mut forward = None;
        if let Some(proxy) = proxy.take_if(|proxy| proxy::forwards(proxy, url)) {
            let authorization = proxy.username().map(|user| basic(user, proxy.password().unwrap_or_default()));
            forward = Some(ForwardProxy { address: proxy::address(&proxy)?, authorization });
        }
        let https_proxy = proxy.as_ref().is_some_and(|proxy| proxy.protocol() == ProxyProtocol::Https);
        let tls = if url.scheme() == "https" || https_proxy { Some(self.tls()?) } else { None };
        let agent = transport::agent(self.config(proxy, new_connections), tls, forward, self.monitor.clone());
        agents.push((key, agent.clone()));
        Ok(agent)
    }

    fn config(&self, proxy: Option<Proxy>, new_connections: bool) -> Config {
        let idle_connections = if new_connections { 0 } else { self.options.connections };
        let (connect, silence) = (Some(self.options.connect_timeout), Some(self.options.timeout));
        Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .user_agent(concat!("dio-cp/", env!("CARGO_PKG_VERSION")))
            // The copy gets the bytes as they are sent, so the server must not encode them.
            .accept_encoding(AutoHeaderValue::Provided(Arc::new("identity".to_string())))
            .timeout_resolve(connect)
            .timeout_connect(connect)
            .timeout_send_request(silence)
            .timeout_recv_response(silence)
            .timeout_per_read(silence)
            .input_buffer_size(INPUT_BUFFER)
            .output_buffer_size(OUTPUT_BUFFER)
            .max_idle_connections_per_host(idle_connections)
            .max_idle_connections(idle_connections)
            .build()
    }

    /// Loads the trusted certificates, once.
    fn tls(&self) -> Result<Arc<ClientConfig>> {
        let mut loaded = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = &*loaded {
            return Ok(config.clone());
        }
        let config = certificates::tls_config(self.options.cacert.as_deref())?;
        Ok(loaded.insert(config).clone())
    }
}

/// The Location header, if the status is a redirect.
fn redirect_location(status: u16, headers: &HeaderMap) -> Option<&[u8]> {
    let redirects = matches!(status, 301 | 302 | 303 | 307 | 308);
    headers.get(header::LOCATION).filter(|_| redirects).map(|location| location.as_bytes())
}
