//! The credentials of a request: those in the URL, or those that ~/.netrc has for its host.

use std::path::PathBuf;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use netrc::{Authenticator, Netrc};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::error::quoted;

/// The user's netrc file.
#[derive(Default)]
pub struct Credentials(Netrc);

impl Credentials {
    /// Reads the file that `NETRC` names, or `~/.netrc`. The error is one line.
    pub fn read() -> Result<Self, String> {
        let named = std::env::var_os("NETRC").map(PathBuf::from);
        let in_home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".netrc"));
        let Some(path) = named.or_else(in_home) else { return Ok(Self::default()) };
        let fail = |why: &dyn std::fmt::Display| format!("{} was not read: {why}", quoted(&path));
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map_err(|why| fail(&why)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(fail(&e)),
        }
    }

    /// The error is only the line: the parser's own text repeats a word of it, which may be a part of a password.
    fn parse(text: &str) -> Result<Self, String> {
        Netrc::from_str(text).map(Self).map_err(|e| {
            let text = e.to_string();
            let line = text.rsplit_once("(line ").and_then(|(_, line)| line.strip_suffix(')')).unwrap_or("?");
            format!("line {line} is not valid; put a password with spaces in double quotes")
        })
    }

    /// The value of an Authorization header for `url`: from the URL, or from the netrc entry of its host, or from the
    /// default entry. None without credentials.
    pub fn authorization(&self, url: &Url) -> Option<String> {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = Some(decoded(url.username())).filter(|user| !user.is_empty());
        if let Some(password) = url.password() {
            return Some(basic(&user.unwrap_or_default(), &decoded(password)));
        }
        let entry = self.for_host(url).or_else(|| self.0.hosts.get("default"));
        match (user, entry) {
            (Some(user), Some(entry)) if user == entry.login => Some(basic(&user, &entry.password)),
            (Some(user), _) => Some(basic(&user, "")),
            (None, Some(entry)) => Some(basic(&entry.login, &entry.password)),
            (None, None) => None,
        }
    }

    /// Like [`Credentials::authorization`], for the target of a redirect to another server: only from the netrc entry
    /// of its host.
    pub fn for_other_host(&self, url: &Url) -> Option<String> {
        self.for_host(url).map(|entry| basic(&entry.login, &entry.password))
    }

    fn for_host(&self, url: &Url) -> Option<&Authenticator> {
        url.host_str().filter(|host| *host != "default").and_then(|host| self.0.hosts.get(host))
    }
}

/// Credentials for the Basic authentication scheme (RFC 7617).
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_url_comes_first_then_the_entry_of_its_host_then_the_default_entry() {
        let file = "machine a.example login u password p\n# a comment\nmachine b.example login v password \"q r\"\n\
                    default login w password s";
        let credentials = Credentials(Netrc::from_str(file).unwrap_or_default());
        for (url, login) in [
            ("http://x:y%40z@a.example/", Some(("x", "y@z"))),
            ("http://a.example:8080/", Some(("u", "p"))),
            ("http://u@a.example/", Some(("u", "p"))),
            ("http://other@a.example/", Some(("other", ""))),
            ("http://b.example/", Some(("v", "q r"))),
            ("http://c.example/", Some(("w", "s"))),
        ] {
            let actual = Url::parse(url).ok().and_then(|url| credentials.authorization(&url));
            assert_eq!(actual, login.map(|(user, password)| basic(user, password)), "{url}");
        }
        let invalid = Credentials::parse("machine a.example\nlogin u password correct horse\n");
        assert!(invalid.is_err_and(|why| why.contains("line ") && !why.contains("horse")));
        let without_file =
            Url::parse("http://c.example/").ok().and_then(|url| Credentials::default().authorization(&url));
        assert_eq!(without_file, None);
    }

    const WORDS: [&str; 12] =
        ["machine", "default", "macdef", "login", "password", "account", "s3cret", "#", "\"", "\\", "\n", "h"];

    proptest! {
        #![proptest_config(crate::cases::cases(5000))]

        #[test]
        fn any_netrc_file_is_read_or_refused_without_its_words(
            words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..30),
            separator in prop::sample::select(vec![" ", "\n", ""]),
            noise in "(?s).{0,40}",
        ) {
            for text in [words.join(separator), noise] {
                if let Err(why) = Credentials::parse(&text) {
                    prop_assert!(!why.contains("s3cret"), "{}", why);
                }
            }
        }

        #[test]
        fn a_quoted_password_is_read_back(password in "[^\r\n]{1,30}") {
            let quoted = password.replace('\\', "\\\\").replace('"', "\\\"");
            let credentials = Credentials::parse(&format!("machine h login u password \"{quoted}\"\n")).unwrap();
            let authorization = credentials.authorization(&Url::parse("http://h/").unwrap());
            prop_assert_eq!(authorization, Some(basic("u", &password)));
        }
    }
}
