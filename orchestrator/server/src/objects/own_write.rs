//! What this server is committing: the cache, which sees it come back from the store, need not read its text again. A store
//! that hands back other bytes than it was given (etcd, a sealed one) is read as ever.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::Value;

/// Values on their way through the store, by where their text is in memory.
#[derive(Debug, Default)]
pub(super) struct OnItsWay {
    values: Mutex<HashMap<Place, Value>>,
}

/// Address and length.
type Place = (usize, usize);

fn place(text: &Bytes) -> Place {
    (text.as_ptr().addr(), text.len())
}

impl OnItsWay {
    fn values(&self) -> MutexGuard<'_, HashMap<Place, Value>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `value` is about to be committed as `text`; forgotten with the answer.
    pub(super) fn expect(&self, text: &Bytes, value: Value) -> Expected<'_> {
        self.values().insert(place(text), value);
        Expected {
            text: text.clone(),
            from: self,
        }
    }

    /// The value of this very text, if it is on its way.
    pub(super) fn take(&self, text: &Bytes) -> Option<Value> {
        self.values().remove(&place(text))
    }
}

/// Holds a text, so that no other can be where it is.
#[derive(Debug)]
pub(super) struct Expected<'a> {
    text: Bytes,
    from: &'a OnItsWay,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        // Taken already, unless the commit failed or the store gave it back in other bytes.
        drop(self.from.take(&self.text));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_had_once_by_its_own_text_and_not_after_the_write() {
        let on_its_way = OnItsWay::default();
        let (text, equal) = (Bytes::from(b"{}".to_vec()), Bytes::from(b"{}".to_vec()));
        let expected = on_its_way.expect(&text, json!({}));
        assert_eq!(on_its_way.take(&equal), None);
        assert_eq!(on_its_way.take(&text.clone()), Some(json!({})));
        assert_eq!(on_its_way.take(&text), None);
        drop(expected);
        drop(on_its_way.expect(&text, json!({})));
        assert_eq!(on_its_way.take(&text), None);
    }
}
