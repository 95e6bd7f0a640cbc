//! One request, redirects followed.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;
use ureq::config::AutoHeaderValue;
use ureq::http::{Request, header};
use ureq::{Agent, ProxyProtocol};
use url::Url;

use super::credentials::{Credentials, basic};
use super::failure::{Recovery, RequestFailure};
use super::proxy;
use super::response::{Body, RangeRequest, Response, answer, framing};
use super::tls;
use super::transport::{self, ConnectionMonitor, Forward};
use crate::error::Result;
use crate::event::{Event, Observer};
use crate::job::HttpOptions;

/// Bytes that a connection takes from the network at once. Smaller is slower: 64 KiB took 1.7 times as
/// long from a server on the same machine.
const BUFFER: usize = 512 << 10;
const MAX_REDIRECTS: usize = 20;

/// Asks a server.
pub struct Client<'a> {
    pub web: &'a HttpOptions,
    requested_url: Url,
    observer: &'a dyn Observer,
    credentials: Credentials,
    tls: Mutex<Option<Arc<ClientConfig>>>,
    /// By scheme and proxy, and whether they keep connections.
    agents: Mutex<Vec<(String, Agent)>>,
    monitor: Arc<ConnectionMonitor>,
}

impl<'a> Client<'a> {
    pub fn new(web: &'a HttpOptions, requested_url: Url, observer: &'a dyn Observer) -> Self {
        let credentials = Credentials::read().unwrap_or_else(|why| {
            observer.event(Event::Notice(&why));
            Credentials::default()
        });
        let (tls, agents, monitor) = (Mutex::default(), Mutex::default(), Arc::default());
        Self { web, requested_url, observer, credentials, tls, agents, monitor }
    }

    /// Asks `url`, and whom it names instead, until one has an answer.
    pub fn get(&self, url: &Url, range_request: RangeRequest<'_>) -> std::result::Result<Response, RequestFailure> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let agent = self.agent(&url, range_request.fresh).map_err(|e| RequestFailure::fatal(&e))?;
            let request = self.request(&url, range_request)?;
            self.monitor.reset();
            let response = agent.run(request).map_err(|e| RequestFailure::of(&e, self.web))?;
            let (head, body) = response.into_parts();
            let status = head.status.as_u16();
            let location = head.headers.get(header::LOCATION).filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308));
            if let Some(location) = location {
                url = self.redirected(&url, location.as_bytes())?;
                continue;
            }
            let framing = framing(head.version, &head.headers)?;
            let reader = body.into_with_config().limit(u64::MAX).reader();
            let watched = (!range_request.more_follow).then(|| self.monitor.clone());
            return answer(status, &head.headers, range_request, url, Body::new(reader, framing, watched));
        }
        Err(RequestFailure::new(Recovery::GiveUp, format!("it redirects more than {MAX_REDIRECTS} times")))
    }

    /// Ends every request that is under way.
    pub fn stop(&self) {
        for (_, agent) in self.agents.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            agent.clone().shutdown();
        }
    }

    fn redirected(&self, from: &Url, location: &[u8]) -> std::result::Result<Url, RequestFailure> {
        let refused = |why: &str| RequestFailure::new(Recovery::GiveUp, format!("it redirects to {why}"));
        let text = std::str::from_utf8(location).map_err(|_| refused("what is not text"))?;
        let mut to = from.join(text).map_err(|_| refused("what is not a URL"))?;
        to.set_fragment(None);
        if !matches!(to.scheme(), "http" | "https") {
            return Err(refused(&format!("a {} URL", to.scheme())));
        }
        let name = crate::job::Endpoint::Url(to.to_string()).name();
        self.observer.event(Event::Detail(&format!("redirected to {}", crate::error::quoted(&name))));
        if (from.scheme(), to.scheme()) == ("https", "http") {
            self.observer
                .event(Event::Notice("redirected from https to http: from here on anybody may change the bytes"));
        }
        Ok(to)
    }

    fn request(&self, url: &Url, range_request: RangeRequest<'_>) -> std::result::Result<Request<()>, RequestFailure> {
        let mut bare = url.clone();
        // Cannot fail: an http URL has a host.
        let _ = bare.set_username("").and_then(|()| bare.set_password(None));
        let mut request = Request::get(bare.as_str());
        let same_server = url.origin() == self.requested_url.origin();
        let mut own_login = false;
        for (name, value) in &self.web.headers {
            let login = ["authorization", "cookie", "proxy-authorization"]
                .iter()
                .any(|secret| name.eq_ignore_ascii_case(secret));
            if same_server || !login {
                request = request.header(name, value);
                own_login |= name.eq_ignore_ascii_case("authorization");
            }
        }
        // The login in the URL is for all of its server; others only get what is written down for them, and
        // nothing in the clear that was asked for by https.
        let login = match (same_server, url.scheme() == "http" && self.requested_url.scheme() == "https") {
            (true, _) if url.username().is_empty() && url.password().is_none() => {
                self.credentials.authorization(&self.requested_url)
            }
            (true, _) => self.credentials.authorization(url),
            (false, true) => None,
            (false, false) => self.credentials.for_other_host(url),
        };
        if let Some(login) = login.filter(|_| !own_login) {
            request = request.header(header::AUTHORIZATION, login);
        }
        if let Some((from, to)) = range_request.range {
            let to = to.map(|to| (to - 1).to_string()).unwrap_or_default();
            request = request.header(header::RANGE, format!("bytes={from}-{to}"));
            if let Some(version) = range_request.version {
                request = request.header(header::IF_RANGE, version);
            }
        }
        if !range_request.more_follow {
            request = request.header(header::CONNECTION, "close");
        }
        request
            .body(())
            .map_err(|_| RequestFailure::new(Recovery::GiveUp, "no request can be made of this URL and these headers"))
    }

    /// The agent for a URL's scheme and proxy. It keeps its connections, unless it is for `fresh` ones.
    fn agent(&self, url: &Url, fresh: bool) -> Result<Agent> {
        let mut proxy = proxy::proxy_for(url)?;
        let key = format!("{} {proxy:?} {:?} {fresh}", url.scheme(), proxy.as_ref().map(|p| p.username()));
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, agent)) = agents.iter().find(|(known, _)| *known == key) {
            return Ok(agent.clone());
        }
        if let Some(proxy) = proxy.as_ref().filter(|_| !fresh) {
            self.observer.event(Event::Detail(&proxy::describe(proxy)));
        }
        let mut forward = None;
        if let Some(proxy) = proxy.take_if(|proxy| proxy::forwards(proxy, url)) {
            let login = proxy.username().map(|user| basic(user, proxy.password().unwrap_or_default()));
            forward = Some(Forward { proxy: proxy::address(&proxy)?, login });
        }
        let secret_proxy = proxy.as_ref().is_some_and(|proxy| proxy.protocol() == ProxyProtocol::Https);
        let tls = match url.scheme() == "https" || secret_proxy {
            true => Some(self.tls()?),
            false => None,
        };
        let kept = if fresh { 0 } else { self.web.connections };
        let (connect, silence) = (Some(self.web.connect_timeout), Some(self.web.timeout));
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .user_agent(concat!("dio-cp/", env!("CARGO_PKG_VERSION")))
            // The bytes as they are served: nothing is decoded, so nothing should be encoded.
            .accept_encoding(AutoHeaderValue::Provided(Arc::new("identity".to_string())))
            .timeout_resolve(connect)
            .timeout_connect(connect)
            .timeout_send_request(silence)
            .timeout_recv_response(silence)
            .timeout_per_read(silence)
            .input_buffer_size(BUFFER)
            .output_buffer_size(64 << 10)
            .max_idle_connections_per_host(kept)
            .max_idle_connections(kept)
            .build();
        let agent = transport::agent(config, tls, forward, self.monitor.clone());
        agents.push((key, agent.clone()));
        Ok(agent)
    }

    /// Read once, and only if there is an https server to ask.
    fn tls(&self) -> Result<Arc<ClientConfig>> {
        let mut known = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = &*known {
            return Ok(config.clone());
        }
        let config = tls::config(self.web.cacert.as_deref())?;
        Ok(known.insert(config).clone())
    }
}
