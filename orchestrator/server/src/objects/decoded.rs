//! An object's JSON as a value. It is made when somebody looks at it, and given up when nobody has for a while: decoded,
//! an object takes ten times the memory of its text.

use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde_json::Value;

/// The value that some bytes are.
#[derive(Debug)]
pub struct Decoded {
    bytes: Bytes,
    value: OnceLock<Value>,
    /// Since [`Decoded::is_idle`] was asked last.
    looked_at: AtomicBool,
}

impl Decoded {
    /// `value`, of which `bytes` is the text.
    pub(super) fn new(value: Value, bytes: Bytes) -> Self {
        Self {
            bytes,
            value: OnceLock::from(value),
            looked_at: AtomicBool::new(true),
        }
    }

    /// What `bytes` say, when it is asked for.
    pub(super) fn later(bytes: Bytes) -> Self {
        Self {
            bytes,
            value: OnceLock::new(),
            looked_at: AtomicBool::new(false),
        }
    }

    /// Whether there is a value that nobody has looked at since this was asked last.
    pub(super) fn is_idle(&self) -> bool {
        self.value.get().is_some() && !self.looked_at.swap(false, Ordering::Relaxed)
    }

    /// Whether the value is in memory.
    #[cfg(test)]
    pub(super) fn is_there(&self) -> bool {
        self.value.get().is_some()
    }

    /// Looks at the value without leaving it in memory: for whoever looks at everything.
    pub(crate) fn glance<T>(&self, look: impl FnOnce(&Value) -> T) -> T {
        match self.value.get() {
            Some(value) => look(value),
            None => look(&self.decode()),
        }
    }

    fn decode(&self) -> Value {
        // They were made from a value.
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }
}

impl Deref for Decoded {
    type Target = Value;

    fn deref(&self) -> &Value {
        if !self.looked_at.load(Ordering::Relaxed) {
            self.looked_at.store(true, Ordering::Relaxed);
        }
        self.value.get_or_init(|| self.decode())
    }
}

impl PartialEq<Value> for Decoded {
    fn eq(&self, other: &Value) -> bool {
        **self == *other
    }
}

impl PartialEq<Decoded> for Value {
    fn eq(&self, other: &Decoded) -> bool {
        *self == **other
    }
}
