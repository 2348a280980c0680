//! Events for people: what planners, sessions and agents have to say about an object. The same thing said again counts
//! up; an object that has too much to say is cut short; what is an hour old goes.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use waggle_api::life::Preconditions;
use waggle_api::{DeleteOptions, Part, Resource, Status};
use waggle_plan::EventDraft;

use crate::objects::{Object, Objects, WriteOptions};

/// Events that wait to be written; more are dropped.
const QUEUE: usize = 1024;
/// Events an object may have written at once.
const BURST: f64 = 25.0;
/// Seconds after which it may have one more.
const REFILL_SECONDS: f64 = 10.0;
/// How long an event is kept after it was last seen, in seconds.
const KEPT_SECONDS: i64 = 3600;
/// Different things said that are known when they are said again.
const REMEMBERED: usize = 1 << 16;
/// How often old ones are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// Takes events; never blocks and never fails its caller.
#[derive(Debug, Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Said>,
}

/// Something said about an object.
#[derive(Debug, Clone)]
struct Said {
    involved: Value,
    namespace: String,
    warning: bool,
    reason: String,
    message: String,
    component: String,
    host: String,
}

impl Recorder {
    /// Starts the writer; it ends when the last recorder is dropped.
    pub fn start(objects: Arc<Objects>) -> Self {
        let (queue, said) = mpsc::channel(QUEUE);
        tokio::spawn(write(objects, said));
        Self { queue }
    }

    /// Records what a planner or the server itself says.
    pub fn record(&self, draft: EventDraft) {
        let object = draft.object;
        self.say(Said {
            involved: json!({
                "apiVersion": object.api_version, "kind": object.kind, "namespace": object.namespace,
                "name": object.name, "uid": object.uid,
            }),
            namespace: object.namespace,
            warning: draft.warning,
            reason: draft.reason.to_owned(),
            message: draft.message,
            component: draft.component.to_owned(),
            host: String::new(),
        });
    }

    /// Records what the agent of `node` says: a core/v1 Event as JSON, of which the server takes the object, type,
    /// reason and message. Names, counts and times are the server's.
    ///
    /// # Errors
    /// What is missing from it.
    pub fn record_agent(&self, node: &str, event: &Value) -> Result<(), &'static str> {
        let involved = event
            .get("involvedObject")
            .filter(|one| one["name"].is_string());
        let involved = involved
            .ok_or("an event without involvedObject.name")?
            .clone();
        let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
        if text("reason").is_empty() {
            return Err("an event without reason");
        }
        self.say(Said {
            namespace: involved["namespace"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            involved,
            warning: event["type"] == "Warning",
            reason: text("reason"),
            message: text("message"),
            component: event["source"]["component"]
                .as_str()
                .unwrap_or("waggle-agent")
                .to_owned(),
            host: node.to_owned(),
        });
        Ok(())
    }

    fn say(&self, said: Said) {
        if let Err(error) = self.queue.try_send(said) {
            tracing::debug!(%error, "an event was dropped");
        }
    }
}

impl Said {
    /// A cluster-scoped object's events live in the namespace `default`, as in Kubernetes.
    fn namespace(&self) -> &str {
        if self.namespace.is_empty() {
            "default"
        } else {
            &self.namespace
        }
    }

    /// The same for the same thing said about the same object by the same speaker.
    fn key(&self) -> u64 {
        let uid = self.involved["uid"].as_str().unwrap_or_default();
        let path = self.involved["fieldPath"].as_str().unwrap_or_default();
        let mut hash = DefaultHasher::new();
        let [reason, message] = [&self.reason, &self.message];
        (uid, path, reason, message, &self.component, &self.host).hash(&mut hash);
        hash.finish()
    }

    /// As Kubernetes names events: by when they were first said, so that lists, which are sorted by name, tell them in order.
    fn name(&self, first: u64) -> String {
        let object = self.involved["name"].as_str().unwrap_or_default();
        let object: String = object.chars().take(200).collect();
        format!("{object}.{first:016x}")
    }

    fn first(&self, name: &str, now: Timestamp) -> Value {
        let time = seconds(now);
        let source = if self.host.is_empty() {
            json!({"component": self.component})
        } else {
            json!({"component": self.component, "host": self.host})
        };
        json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"namespace": self.namespace(), "name": name},
            "involvedObject": self.involved,
            "type": if self.warning { "Warning" } else { "Normal" },
            "reason": self.reason, "message": self.message, "source": source,
            "reportingComponent": self.component, "reportingInstance": self.host,
            "firstTimestamp": time, "lastTimestamp": time, "count": 1,
        })
    }
}

/// A moment as `metav1.Time` prints it: whole seconds.
fn seconds(moment: Timestamp) -> String {
    Timestamp::from_second(moment.as_second())
        .unwrap_or(moment)
        .to_string()
}

async fn write(objects: Arc<Objects>, mut said: mpsc::Receiver<Said>) {
    let Some(kind) = waggle_api::by_kind("v1", "Event") else {
        return;
    };
    let (mut allowance, mut said_before) = (Allowance::default(), SaidBefore::default());
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            next = said.recv() => {
                let Some(next) = next else { return };
                let object = next.involved["uid"].as_str().unwrap_or_default().to_owned();
                if !allowance.take(object, Instant::now()) {
                    continue;
                }
                if let Err(status) = write_one(&objects, kind, &next, &mut said_before).await {
                    tracing::debug!(reason = next.reason, error = %status, "an event was not written");
                }
            }
            _ = sweep.tick() => {
                allowance.forget(Instant::now());
                expire(&objects, kind).await;
            }
        }
    }
}

async fn write_one(
    objects: &Objects,
    kind: &'static Resource,
    said: &Said,
    before: &mut SaidBefore,
) -> Result<(), Status> {
    let (namespace, key, now) = (said.namespace(), said.key(), objects.now());
    let known = before.first(key).map(|first| said.name(first));
    let known = known.filter(|name| objects.get(kind, namespace, name).is_some());
    let Some(name) = known else {
        let event = said.first(&said.name(before.note(key, now)), now);
        let options = WriteOptions::default();
        return objects.create(kind, event, &options).await.map(drop);
    };
    let again = |old: &Object| {
        let mut event = old.value.clone();
        event["count"] = json!(event["count"].as_i64().unwrap_or(1) + 1);
        event["lastTimestamp"] = json!(seconds(now));
        Ok(event)
    };
    objects
        .modify(
            kind,
            namespace,
            &name,
            Part::Main,
            &WriteOptions::default(),
            again,
        )
        .await
        .map(drop)
}

/// When what was said was first said, in nanoseconds since the epoch, by [`Said::key`]. Who forgets it begins to count anew.
#[derive(Debug, Default)]
struct SaidBefore {
    first: HashMap<u64, u64>,
    last: u64,
}

impl SaidBefore {
    fn first(&self, key: u64) -> Option<u64> {
        self.first.get(&key).copied()
    }

    /// It is said for the first time: a moment after everything else.
    fn note(&mut self, key: u64, now: Timestamp) -> u64 {
        let now = u64::try_from(now.as_nanosecond()).unwrap_or_default();
        self.last = now.max(self.last + 1);
        if self.first.len() >= REMEMBERED {
            self.first.clear();
        }
        self.first.insert(key, self.last);
        self.last
    }
}

async fn expire(objects: &Objects, kind: &'static Resource) {
    let oldest = objects.now().as_second() - KEPT_SECONDS;
    for event in objects.list(kind, None).objects {
        let mut seen = ["lastTimestamp", "firstTimestamp", "eventTime"].iter();
        let seen = seen.find_map(|field| event.value[*field].as_str()?.parse::<Timestamp>().ok());
        if seen.is_some_and(|seen| seen.as_second() < oldest) {
            let this_one = Preconditions {
                uid: Some(event.uid.clone()),
                resource_version: None,
            };
            let options = DeleteOptions {
                preconditions: Some(this_one),
                ..DeleteOptions::default()
            };
            if let Err(status) = objects
                .delete(kind, &event.namespace, &event.name, &options)
                .await
            {
                tracing::debug!(error = %status, "an old event was not removed");
            }
        }
    }
}

/// How much each object may still say.
#[derive(Debug, Default)]
struct Allowance {
    objects: HashMap<String, (f64, Instant)>,
}

impl Allowance {
    fn take(&mut self, object: String, now: Instant) -> bool {
        let (left, at) = self.objects.entry(object).or_insert((BURST, now));
        *left =
            (*left + now.saturating_duration_since(*at).as_secs_f64() / REFILL_SECONDS).min(BURST);
        *at = now;
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }

    /// Objects that may say all they want again need no row.
    fn forget(&mut self, now: Instant) {
        let whole = Duration::from_secs_f64(BURST * REFILL_SECONDS);
        self.objects
            .retain(|_, (_, at)| now.saturating_duration_since(*at) < whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_talkative_object_is_cut_short_and_recovers() {
        let (mut allowance, start) = (Allowance::default(), Instant::now());
        let allowed = (0..100)
            .filter(|_| allowance.take("a".into(), start))
            .count();
        assert_eq!(allowed, 25);
        assert!(allowance.take("b".into(), start), "others are not affected");
        assert!(!allowance.take("a".into(), start + Duration::from_secs(5)));
        assert!(allowance.take("a".into(), start + Duration::from_secs(11)));
        allowance.forget(start + Duration::from_secs(600));
        assert!(allowance.objects.is_empty());
    }

    #[test]
    fn the_same_thing_said_again_is_known_and_names_tell_the_order() {
        let said = Said {
            involved: json!({"name": "web-1", "uid": "u"}),
            namespace: "shop".into(),
            warning: true,
            reason: "BackOff".into(),
            message: "again".into(),
            component: "waggle-agent".into(),
            host: "node1".into(),
        };
        let other = Said {
            message: "else".into(),
            ..said.clone()
        };
        assert_eq!(said.key(), said.clone().key());
        assert_ne!(said.key(), other.key());
        let (mut before, now) = (SaidBefore::default(), Timestamp::UNIX_EPOCH);
        let names = [&said, &other].map(|one| one.name(before.note(one.key(), now)));
        assert!(
            names[0] < names[1] && names[0].starts_with("web-1."),
            "{names:?}"
        );
        assert_eq!(
            before.first(said.key()).map(|first| said.name(first)),
            Some(names[0].clone())
        );
        for key in 0..REMEMBERED as u64 {
            before.note(key, now);
        }
        assert!(before.first.len() <= REMEMBERED);
        let event = said.first("web-1.0", now);
        assert_eq!(event["lastTimestamp"], "1970-01-01T00:00:00Z");
    }
}
