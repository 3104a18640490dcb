//! The connections to one provider.
//!
//! Where a server offers HTTP/2, a client of the HTTP library holds one connection to it and lets calls wait when the server
//! takes no more on it at once (<https://github.com/hyperium/hyper/issues/3623>). Calls that stream last long, so they would
//! wait for each other: therefore several clients stand side by side, and the next is used when those before are busy.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::redirect;
use runtime::upstream::Policy;

/// Calls at once on one client: what servers take on a connection of HTTP/2 at least (RFC 9113 §6.5.2 recommends no less).
const CALLS_MAX: usize = 100;
/// Clients of one provider. The last one takes what the others do not.
const CLIENTS_MAX: usize = 32;
/// Idle connections are closed before the usual servers and proxies do.
const IDLE: Duration = Duration::from_secs(55);
/// A connection whose other end is gone must not take in the next calls.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_WITHIN: Duration = Duration::from_secs(5);

/// Pooled clients for all models of one provider.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    connect: Duration,
    policy: Option<Policy>,
    first: reqwest::Client,
    lanes: Arc<[Lane]>,
}

#[derive(Debug, Default)]
struct Lane {
    calls: AtomicUsize,
    /// Made when it is needed first; it costs some milliseconds.
    client: OnceLock<reqwest::Client>,
}

/// A call's place among the connections, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    lanes: Arc<[Lane]>,
    index: usize,
}

impl Connections {
    /// Clients that give a connection up after `connect`, and make none to where `policy`, if there is one, does not let
    /// names lead. Addresses in URLs are for the caller to check.
    ///
    /// # Errors
    /// When the TLS backend cannot be set up.
    pub(crate) fn new(connect: Duration, policy: Option<Policy>) -> Result<Self, reqwest::Error> {
        Ok(Self {
            first: client(connect, policy.as_ref())?,
            connect,
            policy,
            lanes: (0..CLIENTS_MAX).map(|_| Lane::default()).collect(),
        })
    }

    /// A client with room for one more call, which lasts as long as the place.
    pub(super) fn enter(&self) -> (reqwest::Client, Place) {
        let last = self.lanes.len() - 1;
        let has_room = |(index, lane): (usize, &Lane)| {
            let calls = lane.calls.fetch_add(1, Ordering::Relaxed);
            let enters = calls < CALLS_MAX || index == last;
            if !enters {
                lane.calls.fetch_sub(1, Ordering::Relaxed);
            }
            enters
        };
        let index = self.lanes.iter().enumerate().position(has_room);
        let index = index.unwrap_or(last);
        let client = if index == 0 {
            &self.first
        } else {
            // The first one could be made, so this will be; if not, it takes one call more.
            let make = || {
                let next = client(self.connect, self.policy.as_ref());
                next.unwrap_or_else(|_| self.first.clone())
            };
            self.lanes[index].client.get_or_init(make)
        };
        let lanes = Arc::clone(&self.lanes);
        (client.clone(), Place { lanes, index })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lanes[self.index].calls.fetch_sub(1, Ordering::Relaxed);
    }
}

fn client(connect: Duration, policy: Option<&Policy>) -> Result<reqwest::Client, reqwest::Error> {
    let client = reqwest::Client::builder()
        .connect_timeout(connect)
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .tcp_nodelay(true)
        .pool_idle_timeout(IDLE)
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PONG_WITHIN)
        .user_agent(concat!("lockgate/", env!("CARGO_PKG_VERSION")));
    match policy {
        None => client,
        Some(policy) => policy.guard(client),
    }
    .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_client_is_used_while_those_before_are_busy() {
        let connections = Connections::new(Duration::from_secs(1), None).unwrap();
        let calls = |index: usize| connections.lanes[index].calls.load(Ordering::Relaxed);
        let mut places: Vec<Place> = (0..=CALLS_MAX).map(|_| connections.enter().1).collect();
        assert_eq!((calls(0), calls(1), calls(2)), (CALLS_MAX, 1, 0));
        assert!(connections.lanes[2].client.get().is_none(), "not yet");
        places.remove(0);
        let again = connections.enter().1;
        assert_eq!(again.index, 0, "the first one has room again");
        drop(places);
        drop(again);
        assert_eq!((calls(0), calls(1)), (0, 0));
    }

    #[test]
    fn the_last_client_takes_what_the_others_do_not() {
        let mut connections = Connections::new(Duration::from_secs(1), None).unwrap();
        connections.lanes = (0..2).map(|_| Lane::default()).collect();
        let places: Vec<Place> = (0..3 * CALLS_MAX).map(|_| connections.enter().1).collect();
        let on_last = places.iter().filter(|place| place.index == 1).count();
        assert_eq!(on_last, 2 * CALLS_MAX);
    }
}
