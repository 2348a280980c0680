//! Events about pods and the node: what a person reads in `describe`. Repetitions within a few minutes become a count.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use waggle_wire::v1;

use crate::outbox::Outbox;
use crate::pods::desired::Desired;
use crate::pods::observed::SECOND;

/// Repetitions within this time are one event.
const WINDOW: i64 = 600 * SECOND;
/// Events remembered for counting.
const REMEMBERED: usize = 1024;

/// Writes events to the outbox.
#[derive(Debug)]
pub(crate) struct Recorder {
    node: String,
    outbox: Arc<Outbox>,
    seen: Mutex<HashMap<(String, String, String), Seen>>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    first: i64,
    last: i64,
    count: i32,
}

impl Recorder {
    pub(crate) fn new(node: &str, outbox: Arc<Outbox>) -> Self {
        Self {
            node: node.to_owned(),
            outbox,
            seen: Mutex::default(),
        }
    }

    /// Something that went as it should. `container` is empty for the pod itself.
    pub(crate) fn normal(&self, pod: &Desired, container: &str, reason: &str, message: String) {
        self.record(
            pod,
            container,
            "Normal",
            reason,
            message,
            crate::clock::now(),
        );
    }

    /// Something a person may have to look at.
    pub(crate) fn warning(&self, pod: &Desired, container: &str, reason: &str, message: String) {
        self.record(
            pod,
            container,
            "Warning",
            reason,
            message,
            crate::clock::now(),
        );
    }

    fn record(
        &self,
        pod: &Desired,
        container: &str,
        kind: &str,
        reason: &str,
        message: String,
        now: i64,
    ) {
        let list = if pod.init_containers().iter().any(|c| c.name == container) {
            "initContainers"
        } else {
            "containers"
        };
        let pod = &pod.key;
        let seen = self.count(
            (
                format!("{}/{container}", pod.uid),
                reason.to_owned(),
                message.clone(),
            ),
            now,
        );
        let object = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            field_path: (!container.is_empty()).then(|| format!("spec.{list}{{{container}}}")),
            ..ObjectReference::default()
        };
        self.say(object, kind, reason, message, seen);
    }

    /// A warning about the node itself. Its events are in the namespace `default`, and name it where a uid would be, as
    /// kubelet's do.
    pub(crate) fn node(&self, reason: &str, message: String) {
        let key = (self.node.clone(), reason.to_owned(), message.clone());
        let seen = self.count(key, crate::clock::now());
        let object = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(self.node.clone()),
            uid: Some(self.node.clone()),
            ..ObjectReference::default()
        };
        self.say(object, "Warning", reason, message, seen);
    }

    fn say(&self, object: ObjectReference, kind: &str, reason: &str, message: String, seen: Seen) {
        let time = |ns: i64| {
            let at = jiff::Timestamp::from_second(ns / SECOND).unwrap_or_default();
            Some(Time(at))
        };
        let event = Event {
            metadata: ObjectMeta {
                namespace: object.namespace.clone(),
                generate_name: object.name.as_ref().map(|name| format!("{name}.")),
                ..ObjectMeta::default()
            },
            involved_object: object,
            type_: Some(kind.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            source: Some(EventSource {
                component: Some("waggle-agent".to_owned()),
                host: Some(self.node.clone()),
            }),
            reporting_component: Some("waggle-agent".to_owned()),
            reporting_instance: Some(self.node.clone()),
            first_timestamp: time(seen.first),
            last_timestamp: time(seen.last),
            count: Some(seen.count),
            ..Event::default()
        };
        match serde_json::to_vec(&event) {
            Ok(json) => self.outbox.event(v1::Event {
                event_json: json.into(),
            }),
            Err(error) => tracing::error!(%error, "an event can't be encoded"),
        }
    }

    fn count(&self, key: (String, String, String), now: i64) -> Seen {
        let mut all = self
            .seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if all.len() >= REMEMBERED {
            all.retain(|_, seen| now - seen.last < WINDOW);
            if all.len() >= REMEMBERED {
                all.clear();
            }
        }
        let fresh = Seen {
            first: now,
            last: now,
            count: 0,
        };
        let seen = all.entry(key).or_insert(fresh);
        if now - seen.last >= WINDOW {
            *seen = fresh;
        }
        seen.last = now;
        seen.count += 1;
        *seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_name_their_object_and_count_repetitions() {
        let outbox = Arc::new(Outbox::default());
        let recorder = Recorder::new("node1", Arc::clone(&outbox));
        let pod = crate::pods::fixture::pod("{}");
        for at in [0, 60, 60 + 601] {
            recorder.record(&pod, "main", "Warning", "BackOff", "x".into(), at * SECOND);
        }
        let events: Vec<Event> = outbox
            .take()
            .await
            .into_iter()
            .map(|message| match message.message {
                Some(v1::from_agent::Message::Event(event)) => {
                    serde_json::from_slice(&event.event_json).unwrap()
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            events.iter().map(|e| e.count.unwrap()).collect::<Vec<_>>(),
            [1, 2, 1]
        );
        let object = &events[0].involved_object;
        assert_eq!(object.field_path.as_deref(), Some("spec.containers{main}"));
        assert_eq!(
            (object.kind.as_deref(), object.uid.as_deref()),
            (Some("Pod"), Some("u1"))
        );
    }
}
