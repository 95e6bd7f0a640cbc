//! The name of a URL in messages: without its password.

use std::net::{Ipv4Addr, Ipv6Addr};

/// `https://user:secret@host/x` without `:secret`. Also hides what may be a password in an invalid URL: a password with
/// an unescaped slash makes the URL invalid, but it is still a password.
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once(':') else { return url.to_string() };
    let rest = rest.trim_start_matches(['/', '\\']);
    let authority = &rest[..rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len())];
    let server = authority.rsplit('@').next().unwrap_or_default();
    let at = if is_server(server) { authority.rfind('@') } else { rest.rfind('@') };
    let Some(at) = at else { return format!("{scheme}://{rest}") };
    let user = rest[..at].split(':').next().unwrap_or_default();
    format!("{scheme}://{user}{}", &rest[at..])
}

/// True for `host`, `host:80` and `[::1]:80`.
fn is_server(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).unwrap_or((text, ""));
    let valid_host = match host.strip_prefix('[').and_then(|address| address.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        // A name whose last part starts with a digit is hardly anything but an address.
        None if host.rsplit('.').next().is_some_and(|part| part.starts_with(|c: char| c.is_ascii_digit())) => {
            host.parse::<Ipv4Addr>().is_ok()
        }
        None => !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | '_')),
    };
    let digits = port.chars().all(|c| c.is_ascii_digit());
    valid_host && digits && (port.is_empty() || port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "url")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_url_is_named_without_its_password() {
        for (url, name) in [
            ("https://example.org/a:b@c", "https://example.org/a:b@c"),
            ("https://u:secret@example.org/a", "https://u@example.org/a"),
            ("HTTP://u:se@cret@example.org?x@y", "HTTP://u@example.org?x@y"),
            ("http://u@example.org", "http://u@example.org"),
            ("http://:secret@example.org", "http://@example.org"),
            ("http:///u:secret@example.org/", "http://u@example.org/"),
            ("http://\\u:secret@example.org/", "http://u@example.org/"),
            ("http://u:sec/ret@example.org/", "http://u@example.org/"),
            ("http://u:sec?ret@example.org/", "http://u@example.org/"),
            ("http://u:sec#ret@example.org/", "http://u@example.org/"),
            ("http://u:@/secret@example.org/", "http://u@example.org/"),
            ("http://u:secret]/@example.org/", "http://u@example.org/"),
            ("http://u:+80/secret@example.org/", "http://u@example.org/"),
            ("http://u:@08/secret@example.org/", "http://u@example.org/"),
            ("http://127.0.0.1:80/a@b", "http://127.0.0.1:80/a@b"),
            ("http://u:@[]/secret@example.org/", "http://u@example.org/"),
            ("http://u::#secret@example.org/", "http://u@example.org/"),
            ("http://:/secret@example.org/", "http://@example.org/"),
            ("http://u:99999/secret@example.org/", "http://u@example.org/"),
            ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
            ("http://[::1]/a@b", "http://[::1]/a@b"),
            ("http://h:8080/a@b", "http://h:8080/a@b"),
        ] {
            assert_eq!(without_password(url), name);
        }
    }

    #[cfg(feature = "url")]
    proptest! {
        #![proptest_config(crate::cases::cases(20_000))]

        #[test]
        fn the_name_of_a_url_never_has_a_password(
            scheme in prop::sample::select(vec!["http://", "https://", "HTTP:///", "http:/\\/"]),
            user in "[a-z@]{0,4}",
            password in "[a-z0-9@:/?#%\\\\ \\[\\]]{0,4}SECRET[a-z0-9@:/?#%\\\\ \\[\\]]{0,4}",
            rest in "[a-z.:/?#@0-9]{0,12}",
        ) {
            let url = format!("{scheme}{user}:{password}@h{rest}");
            let parsed = ::url::Url::parse(&url);
            // In the path or the query of a valid URL, it is no password.
            let secret = parsed.map_or(true, |parsed| parsed.password().is_some_and(|p| p.contains("SECRET")));
            let name = without_password(&url);
            prop_assert!(!secret || !name.contains("SECRET"), "{} {}", url, name);
        }
    }
}
