//! Connections to webhooks that are open and that nobody uses just now. One is used again only for what it was opened for:
//! the same host, port and authorities, and a pod that still serves.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use serde_json::Value;

use super::Place;
use crate::streams::backends::Endpoint;

pub(super) type Sender = http1::SendRequest<Full<Bytes>>;

/// How long one stays open unused.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many stay open for one webhook.
const MOST: usize = 8;

/// What a connection was opened for. Nobody shows a certificate of their own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    host: String,
    port: u16,
    /// `caBundle`, empty for the machine's authorities.
    authorities: String,
    /// Whether it leads to a Service's endpoint.
    service: bool,
}

impl Key {
    pub(super) fn of(place: &Place, config: &Value) -> Self {
        Self {
            host: place.host.clone(),
            port: place.port,
            authorities: config["caBundle"].as_str().unwrap_or_default().to_owned(),
            service: config["url"].is_null(),
        }
    }
}

struct Open {
    sender: Sender,
    end: Option<Endpoint>,
    since: Instant,
}

/// All of them.
#[derive(Default)]
pub(super) struct Idle(Mutex<HashMap<Key, Vec<Open>>>);

impl Idle {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<Open>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that was used last, and where it leads. Those that lead to none of `ends`, where a Service's endpoints
    /// are, are closed.
    pub(super) fn take(
        &self,
        key: &Key,
        ends: &[Endpoint],
        now: Instant,
    ) -> Option<(Sender, Option<Endpoint>)> {
        let mut all = self.lock();
        let open = all.get_mut(key)?;
        open.retain(|one| {
            let serves = one.end.as_ref().is_none_or(|end| ends.contains(end));
            serves && is_good(one, now)
        });
        let found = open.pop();
        if open.is_empty() {
            all.remove(key);
        }
        found.map(|one| (one.sender, one.end))
    }

    pub(super) fn keep(&self, key: Key, sender: Sender, end: Option<Endpoint>, now: Instant) {
        let mut all = self.lock();
        let open = all.entry(key).or_default();
        if open.len() < MOST {
            open.push(Open {
                sender,
                end,
                since: now,
            });
        }
    }

    /// Closes those that nobody has used for long.
    pub(super) fn sweep(&self, now: Instant) {
        self.lock().retain(|_, open| {
            open.retain(|one| is_good(one, now));
            !open.is_empty()
        });
    }
}

fn is_good(one: &Open, now: Instant) -> bool {
    !one.sender.is_closed() && now.duration_since(one.since) < PATIENCE
}
