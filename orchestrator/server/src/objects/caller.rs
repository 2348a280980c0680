//! On whose behalf a write is made, and what is noted on the way for them and for the audit log.

use std::sync::{Mutex, MutexGuard, PoisonError};

use waggle_api::access::{AUTHENTICATED, User};

/// Longest warning, and all warnings of a request together, bytes.
const LONGEST_WARNING: usize = 1024;
const ALL_WARNINGS: usize = 16 << 10;

/// Who is behind a request. Shared by everything that carries it out.
#[derive(Debug, Default)]
pub struct Caller {
    user: Option<User>,
    /// Who sent the request, when that is somebody else: they stand in for `user`.
    sender: Option<User>,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    warnings: Vec<String>,
    annotations: Vec<(String, String)>,
}

impl Caller {
    /// A request of somebody known, or of nobody in particular.
    pub fn new(user: Option<User>) -> Self {
        Self {
            user,
            ..Self::default()
        }
    }

    /// A request of `sender`, who stands in for `user`.
    pub fn standing_in(user: Option<User>, sender: Option<User>) -> Self {
        Self {
            user,
            sender,
            ..Self::default()
        }
    }

    /// Who sent the request, whomever they stand in for.
    pub fn sender(&self) -> Option<&User> {
        self.sender.as_ref().or(self.user.as_ref())
    }

    /// Whom the sender stands in for.
    pub fn impersonated(&self) -> Option<&User> {
        self.user.as_ref().filter(|_| self.sender.is_some())
    }

    /// Who asks.
    pub fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// Something to tell the client beside the answer. Of much there is to tell, the first is told, as Kubernetes does:
    /// it goes into headers.
    pub fn warn(&self, mut text: String) {
        text.truncate(text.floor_char_boundary(LONGEST_WARNING));
        let mut notes = self.notes();
        let told: usize = notes.warnings.iter().map(String::len).sum();
        if told + text.len() <= ALL_WARNINGS && !notes.warnings.contains(&text) {
            notes.warnings.push(text);
        }
    }

    /// [`Caller::warn`] of each.
    pub fn warn_all(&self, texts: impl IntoIterator<Item = String>) {
        texts.into_iter().for_each(|text| self.warn(text));
    }

    /// Something for the audit log. A key is written once: the first value stays.
    pub fn annotate(&self, key: String, value: String) {
        let mut notes = self.notes();
        if notes.annotations.iter().all(|(known, _)| *known != key) {
            notes.annotations.push((key, value));
        }
    }

    /// What to tell the client, so far.
    pub fn warnings(&self) -> Vec<String> {
        self.notes().warnings.clone()
    }

    /// What the audit log is to have, so far.
    pub fn annotations(&self) -> Vec<(String, String)> {
        self.notes().annotations.clone()
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom webhooks see behind the writes of controllers and node sessions.
pub(super) fn server() -> User {
    User {
        name: "system:waggle-server".into(),
        groups: vec!["system:masters".into(), AUTHENTICATED.into()],
        ..User::default()
    }
}
