//! The proxy that the environment names for a URL: `http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`. The name in
//! lower case takes precedence over the one in upper case.

use std::path::Path;

use ureq::http::Uri;
use ureq::{Proxy, ProxyProtocol};
use url::Url;

use crate::error::{Error, Result, quoted};

/// An environment variable that is set and not empty.
struct Variable {
    name: String,
    value: String,
}

/// Looks up `name`, then `name` in upper case.
fn variable(name: &str) -> Option<Variable> {
    [name.to_string(), name.to_uppercase()].into_iter().find_map(|name| {
        let value = std::env::var(&name).ok().filter(|value| !value.is_empty())?;
        Some(Variable { name, value })
    })
}

/// The proxy for `url`; None for a direct connection.
pub fn proxy_for(url: &Url) -> Result<Option<Proxy>> {
    let for_scheme = variable(&format!("{}_proxy", url.scheme()));
    let Some(Variable { name, value }) = for_scheme.or_else(|| variable("all_proxy")) else { return Ok(None) };
    let no_proxy = variable("no_proxy").map(|variable| variable.value).unwrap_or_default();
    if is_excluded(url.host_str().unwrap_or_default(), &no_proxy) {
        return Ok(None);
    }
    // The value may contain a password, so the message does not show it.
    let invalid = || Error::failed("using the proxy in", Path::new(&name), "it is not a valid proxy URL");
    Proxy::new(&value).map(Some).map_err(|_| invalid().hint(format!("{name}=http://proxy.example:3128")))
}

/// True if `no_proxy` is `*`, or a list with the host or one of its parent domains.
fn is_excluded(host: &str, no_proxy: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    no_proxy.split([',', ' ']).map(|entry| entry.trim().to_ascii_lowercase()).any(|entry| {
        let domain = entry.trim_start_matches('*').trim_start_matches('.');
        let is_subdomain = || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
        entry == "*" || !domain.is_empty() && (host == domain || is_subdomain())
    })
}

/// True if requests for `url` are forwarded by the proxy: an http URL and an http proxy. Otherwise the connection is a
/// tunnel through the proxy.
pub fn forwards(proxy: &Proxy, url: &Url) -> bool {
    url.scheme() == "http" && proxy.protocol() == ProxyProtocol::Http
}

/// The address of a forwarding proxy.
pub fn address(proxy: &Proxy) -> Result<Uri> {
    let address = format!("http://{}:{}", proxy.host(), proxy.port());
    address.parse().map_err(|_| Error::failed("using the proxy", Path::new(&address), "the address is not valid"))
}

/// The proxy for verbose output, without its password.
pub fn describe(proxy: &Proxy) -> String {
    format!("using the proxy {}", quoted(Path::new(&format!("{}:{}", proxy.host(), proxy.port()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_names_hosts_and_their_subdomains() {
        for (host, no_proxy, expected) in [
            ("example.org", "example.org", true),
            ("a.example.org", "x, example.org", true),
            ("a.example.org", ".example.org", true),
            ("a.Example.org", "*.example.ORG", true),
            ("badexample.org", "example.org", false),
            ("example.org.evil", "example.org", false),
            ("anything", "*", true),
            ("example.org", "", false),
            ("127.0.0.1", "localhost,127.0.0.1", true),
            ("[::1]", "::1", true),
        ] {
            assert_eq!(is_excluded(host, no_proxy), expected, "{host} {no_proxy}");
        }
    }
}
