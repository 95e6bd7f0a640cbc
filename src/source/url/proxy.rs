//! The proxy that the environment names for a URL: `http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`,
//! each in lower case first and then in upper case.

use std::path::Path;

use ureq::http::Uri;
use ureq::{Proxy, ProxyProtocol};
use url::Url;

use crate::error::{Error, Result, quoted};

fn variable(name: &str) -> Option<(String, String)> {
    [name.to_string(), name.to_uppercase()]
        .into_iter()
        .find_map(|name| std::env::var(&name).ok().filter(|value| !value.is_empty()).map(|value| (name, value)))
}

/// The proxy for `url`; None: it is asked directly.
pub fn proxy_for(url: &Url) -> Result<Option<Proxy>> {
    let Some((name, value)) = variable(&format!("{}_proxy", url.scheme())).or_else(|| variable("all_proxy")) else {
        return Ok(None);
    };
    let excluded = variable("no_proxy").map(|(_, list)| list).unwrap_or_default();
    if is_excluded(url.host_str().unwrap_or_default(), &excluded) {
        return Ok(None);
    }
    // The value may hold a password: it is not repeated.
    let broken = || Error::failed("using the proxy in", Path::new(&name), "it is not a proxy's URL");
    Proxy::new(&value).map(Some).map_err(|_| broken().hint(format!("{name}=http://proxy.example:3128")))
}

/// `*`, or a list of names, each of which stands for the names below it too.
fn is_excluded(host: &str, list: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    list.split([',', ' ']).map(|entry| entry.trim().to_ascii_lowercase()).any(|entry| {
        let name = entry.trim_start_matches('*').trim_start_matches('.');
        let below = || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
        entry == "*" || !name.is_empty() && (host == name || below())
    })
}

/// True if the proxy takes requests for http servers whole.
pub fn forwards(proxy: &Proxy, url: &Url) -> bool {
    url.scheme() == "http" && proxy.protocol() == ProxyProtocol::Http
}

/// Where such a proxy is.
pub fn address(proxy: &Proxy) -> Result<Uri> {
    let address = format!("http://{}:{}", proxy.host(), proxy.port());
    address.parse().map_err(|_| Error::failed("using the proxy", Path::new(&address), "it has no address"))
}

/// As -v names it, without its password.
pub fn describe(proxy: &Proxy) -> String {
    format!("by the proxy {}", quoted(Path::new(&format!("{}:{}", proxy.host(), proxy.port()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_names_hosts_and_what_is_below_them() {
        for (host, list, expected) in [
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
            assert_eq!(is_excluded(host, list), expected, "{host} {list}");
        }
    }
}
