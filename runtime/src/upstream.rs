//! Where base URLs may lead that did not come from the configuration file.
//!
//! Whoever writes the file owns the machine and is trusted. A URL that comes through the API or a configuration centre
//! must not make Lockgate speak to what only Lockgate can reach: itself, its neighbours, the cloud's metadata. It can be
//! checked when it is set ([`Policy::check`]), it is when a routing document with it is taken on
//! ([`Policy::check_text`]), and again for each connection ([`Policy::guard`]), since what a name resolves to may change
//! in between (DNS rebinding).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect;
use tracing::warn;
use url::{Host, Url};

mod ranges;
#[cfg(test)]
mod tests;

/// Longest wait for a name to be resolved when a URL is checked.
const RESOLVE_MAX: Duration = Duration::from_secs(5);

/// A host or network that URLs may lead to all the same: one of `server.allow_upstreams`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exception {
    /// This host by name, whatever it resolves to.
    Host(String),
    /// Addresses in this network, whatever the name.
    Net(IpNet),
}

/// A text that is neither a host nor a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is neither a host name, nor an address, nor a network as 10.1.0.0/16")]
pub struct BadException;

impl FromStr for Exception {
    type Err = BadException;

    fn from_str(text: &str) -> Result<Self, BadException> {
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::Net(net.trunc()));
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(text).parse::<IpAddr>() {
            return Ok(Self::Net(IpNet::from(address)));
        }
        // What a URL's parser takes for one name, so that both are written alike.
        match Host::parse(text) {
            Ok(Host::Domain(name)) if !text.contains('*') => Ok(Self::Host(plain(&name))),
            _ => Err(BadException),
        }
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => f.write_str(name),
            Self::Net(net) => write!(f, "{net}"),
        }
    }
}

/// Why a URL is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is not HTTP.
    #[error("a base URL begins with https:// or http://")]
    Scheme,
    /// Keys belong to `keys`, where they are kept secret.
    #[error("a base URL carries no user name and no password")]
    Credentials,
    /// It leads into a range that is not for everybody.
    #[error(
        "{host} leads to {address}, which is {range}: if that is meant, add it to server.allow_upstreams"
    )]
    Internal {
        /// The host of the URL.
        host: String,
        /// The address that it is or resolves to.
        address: IpAddr,
        /// What addresses of that kind are.
        range: &'static str,
    },
    /// The name does not resolve, so nobody knows where it leads.
    #[error("{host} does not resolve to an address")]
    Unresolved {
        /// The host of the URL.
        host: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// What URLs from outside the file may lead to: anything public, and the exceptions. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    exceptions: Arc<[Exception]>,
}

impl Policy {
    /// With these exceptions, `server.allow_upstreams`.
    #[must_use]
    pub fn new(exceptions: &[Exception]) -> Self {
        Self {
            exceptions: exceptions.into(),
        }
    }

    /// What can be told without resolving the host: the scheme, credentials, a literal address. Pure.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check_text(&self, url: &Url) -> Result<(), Refused> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refused::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Credentials);
        }
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(&address.to_string(), address.into()),
            Some(Host::Ipv6(address)) => self.check_address(&address.to_string(), address.into()),
            Some(Host::Domain(_)) => Ok(()),
            // Of these schemes, every URL that can be parsed has a host.
            None => Err(Refused::Scheme),
        }
    }

    /// Whether `host` may be at `address`. Pure.
    ///
    /// # Errors
    /// [`Refused::Internal`].
    pub fn check_address(&self, host: &str, address: IpAddr) -> Result<(), Refused> {
        let Some(range) = ranges::internal(address) else {
            return Ok(());
        };
        let plain_address = ranges::unwrapped(address);
        let plain_host = plain(host);
        let is_meant = self.exceptions.iter().any(|exception| match exception {
            Exception::Host(name) => *name == plain_host,
            Exception::Net(net) => net.contains(&address) || net.contains(&plain_address),
        });
        if is_meant {
            return Ok(());
        }
        Err(Refused::Internal {
            host: host.to_owned(),
            address,
            range,
        })
    }

    /// Checks the text of `url` and every address that its host resolves to now. Waits at most 5 s.
    ///
    /// # Errors
    /// [`Refused`].
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn check(&self, url: &Url) -> Result<(), Refused> {
        self.check_text(url)?;
        let Some(Host::Domain(host)) = url.host() else {
            return Ok(());
        };
        let port = url.port_or_known_default().unwrap_or_default();
        tokio::time::timeout(RESOLVE_MAX, self.resolve(host, port))
            .await
            .unwrap_or_else(|_| Err(unresolved(host, std::io::ErrorKind::TimedOut.into())))?;
        Ok(())
    }

    /// Makes the client refuse connections to internal addresses at the moment when it connects. It follows no
    /// redirect and takes no proxy, which would resolve names out of our sight.
    ///
    /// The client does not resolve literal addresses: check every URL with [`Policy::check_text`] before it is called.
    pub fn guard(&self, client: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
        client
            .no_proxy()
            .redirect(redirect::Policy::none())
            .dns_resolver(Arc::new(Guard(self.clone())))
    }

    /// One internal address among public ones refuses the name: which of them is connected to is chance.
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Refused> {
        let found = tokio::net::lookup_host((host, port))
            .await
            .map_err(|source| unresolved(host, source))?;
        let addresses: Vec<SocketAddr> = found.collect();
        if addresses.is_empty() {
            return Err(unresolved(host, std::io::ErrorKind::NotFound.into()));
        }
        for address in &addresses {
            self.check_address(host, address.ip())?;
        }
        Ok(addresses)
    }
}

/// Resolves names for a client, and refuses those that lead inside.
struct Guard(Policy);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            // Port 0: the client puts the URL's in.
            let addresses = policy
                .resolve(name.as_str(), 0)
                .await
                .inspect_err(|refused| {
                    // Whoever called is told only that the provider cannot be reached.
                    if let Refused::Internal { .. } = refused {
                        warn!(error = %refused, "a connection to a provider is refused");
                    }
                })?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

fn unresolved(host: &str, source: std::io::Error) -> Refused {
    Refused::Unresolved {
        host: host.to_owned(),
        source,
    }
}

/// A name without the dot of the root, in lower case.
fn plain(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}
