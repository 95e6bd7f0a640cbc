//! Name lookups with a time limit.

use std::sync::mpsc::sync_channel;
use std::thread;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{NextTimeout, time};
use ureq::{Error, Timeout};

/// Without a time limit, [`DefaultResolver`] starts no thread.
fn no_limit() -> NextTimeout {
    NextTimeout { after: time::Duration::NotHappening, reason: Timeout::Resolve, ..NextTimeout::default() }
}

/// Looks names up in another thread, so that a lookup can be given up. Where no thread can be started, it waits as long as
/// the system's resolver does. ([`DefaultResolver`] panics there.)
#[derive(Debug)]
pub struct LimitedResolver {
    /// A proxy whose name is looked up instead of the server's.
    pub proxy: Option<Uri>,
}

impl Resolver for LimitedResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let uri = self.proxy.as_ref().unwrap_or(uri);
        let (found, addresses) = sync_channel(1);
        let (thread_uri, thread_config) = (uri.clone(), config.clone());
        let look_up = move || {
            // Fails if the lookup has been given up.
            let _ = found.send(DefaultResolver::default().resolve(&thread_uri, &thread_config, no_limit()));
        };
        match thread::Builder::new().spawn(look_up) {
            Ok(_) => addresses.recv_timeout(*timeout.after).unwrap_or(Err(Error::Timeout(timeout.reason))),
            Err(_) => DefaultResolver::default().resolve(uri, config, no_limit()),
        }
    }
}
