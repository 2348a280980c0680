//! Who of several servers leads, as the rest of this server sees it. Only the leader writes, runs controllers and speaks
//! with nodes; what it alone has is here. Over the embedded store the one server always leads.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use crate::forward::Forwarder;
use crate::sessions::Sessions;

/// The leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leader {
    /// None is known.
    Nobody,
    /// This server.
    Us,
    /// Another; where servers reach its API, `ADDRESS:PORT`.
    Other(String),
}

/// Cloning shares it.
#[derive(Debug, Clone)]
pub struct Leading {
    leader: Arc<watch::Sender<Leader>>,
    sessions: Arc<OnceLock<Sessions>>,
    forwarder: Option<Arc<Forwarder>>,
}

impl Leading {
    /// This server leads from the start, for good.
    pub fn alone(sessions: Sessions) -> Self {
        let leading = Self::elected(None);
        leading.begin(sessions);
        leading
    }

    /// Nobody is known to lead yet; requests for the leader go through `forwarder`.
    pub(crate) fn elected(forwarder: Option<Arc<Forwarder>>) -> Self {
        Self {
            leader: Arc::new(watch::Sender::new(Leader::Nobody)),
            sessions: Arc::new(OnceLock::new()),
            forwarder,
        }
    }

    /// This server leads, until it ends.
    pub(crate) fn begin(&self, sessions: Sessions) {
        let _ = self.sessions.set(sessions);
        self.leader.send_replace(Leader::Us);
    }

    /// Somebody else leads, or nobody.
    pub(crate) fn hear(&self, leader: Leader) {
        self.leader.send_if_modified(|known| {
            let news = *known != leader;
            if news {
                tracing::info!(?leader, "who leads");
                *known = leader;
            }
            news
        });
    }

    /// The node sessions, while this server leads.
    pub fn sessions(&self) -> Option<&Sessions> {
        self.sessions.get()
    }

    /// Whether this server leads.
    pub fn is_us(&self) -> bool {
        *self.leader.borrow() == Leader::Us
    }

    /// Follows who leads.
    pub(crate) fn watch(&self) -> watch::Receiver<Leader> {
        self.leader.subscribe()
    }

    /// The way to the leader, on a server that may follow.
    pub(crate) fn forwarder(&self) -> Option<&Forwarder> {
        self.forwarder.as_deref()
    }
}
