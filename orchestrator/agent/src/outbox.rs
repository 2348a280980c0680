//! What waits to be told to a server. Level-triggered: of a pod's or node's status only the newest is kept, and after
//! a new connection all of it is told again. Events are a bounded queue, the oldest dropped first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use waggle_wire::v1;
use waggle_wire::v1::from_agent::Message;

/// Events kept while no server listens.
const EVENTS: usize = 512;

/// The mailbox of one node.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// By pod uid.
    statuses: BTreeMap<String, Telling>,
    gone: BTreeMap<String, (v1::PodGone, bool)>,
    node: Option<(v1::NodeStatus, bool)>,
    ack: Option<(v1::Ack, bool)>,
    refusals: Option<(v1::Refusals, bool)>,
    usage: Option<v1::Usage>,
    events: VecDeque<v1::Event>,
}

/// The newest status of a pod.
#[derive(Debug)]
struct Telling {
    status: v1::PodStatus,
    /// This connection has been told.
    told: bool,
    /// When it is to be told.
    due: Instant,
}

/// How long a status waits for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hurry {
    /// Somebody may wait for it.
    Now,
    /// A step on the way to a status that somebody waits for: it is told if that takes long.
    Soon,
}

/// What [`Hurry::Soon`] is. A pod with its image here has come to run by then, and its steps were never written.
const SOON: Duration = Duration::from_millis(200);

impl Outbox {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Waiting) -> T) -> T {
        let result = change(&mut self.lock());
        self.news.notify_one();
        result
    }

    /// The newest status of a pod.
    pub(crate) fn pod_status(&self, status: v1::PodStatus, hurry: Hurry) {
        let now = Instant::now();
        let due = match hurry {
            Hurry::Now => now,
            Hurry::Soon => now + SOON,
        };
        self.change(|w| {
            // One that waits already waits no longer because of this one.
            let waits = w.statuses.get(&status.uid).filter(|before| !before.told);
            let due = waits.map_or(due, |before| before.due.min(due));
            let telling = Telling {
                due,
                told: false,
                status,
            };
            w.statuses.insert(telling.status.uid.clone(), telling)
        });
    }

    /// The status that was last said of a pod, as JSON.
    pub(crate) fn status_of(&self, uid: &str) -> Option<bytes::Bytes> {
        let waiting = self.lock();
        Some(waiting.statuses.get(uid)?.status.status_json.clone())
    }

    /// A pod is gone; told on every connection until it is [forgotten](Self::forget).
    pub(crate) fn pod_gone(&self, gone: v1::PodGone) {
        self.change(|w| {
            w.statuses.remove(&gone.uid);
            w.gone.insert(gone.uid.clone(), (gone, false))
        });
    }

    /// The server no longer asks about this pod.
    pub(crate) fn forget(&self, uid: &str) {
        self.change(|w| {
            w.statuses.remove(uid);
            w.gone.remove(uid);
        });
    }

    /// The newest status of the node; told again each time, being the heartbeat.
    pub(crate) fn node_status(&self, status: v1::NodeStatus) {
        self.change(|w| w.node = Some((status, false)));
    }

    /// What has been applied.
    pub(crate) fn ack(&self, change: impl FnOnce(&mut v1::Ack)) {
        self.change(|w| {
            let mut ack = w.ack.take().map(|(ack, _)| ack).unwrap_or_default();
            change(&mut ack);
            w.ack = Some((ack, false));
        });
    }

    /// What the datapath has no room for, now.
    pub(crate) fn refusals(&self, refusals: v1::Refusals) {
        self.change(|w| w.refusals = Some((refusals, false)));
    }

    /// The newest figures. They go with what is told next, which is a heartbeat at the latest.
    pub(crate) fn usage(&self, usage: v1::Usage) {
        self.lock().usage = Some(usage);
    }

    /// One event.
    pub(crate) fn event(&self, event: v1::Event) {
        self.change(|w| {
            if w.events.len() == EVENTS {
                w.events.pop_front();
            }
            w.events.push_back(event);
        });
    }

    /// A new connection: everything but events and figures is to be told again.
    pub(crate) fn restart(&self) {
        self.change(|w| {
            w.statuses.values_mut().for_each(|one| one.told = false);
            w.gone.values_mut().for_each(|(_, told)| *told = false);
            for told in [
                w.node.as_mut().map(|n| &mut n.1),
                w.ack.as_mut().map(|a| &mut a.1),
                w.refusals.as_mut().map(|r| &mut r.1),
            ] {
                told.into_iter().for_each(|told| *told = false);
            }
        });
    }

    /// Waits for news and takes all of it, in an order that makes sense to the reader.
    pub(crate) async fn take(&self) -> Vec<v1::FromAgent> {
        loop {
            let (messages, next) = self.take_now(Instant::now());
            if !messages.is_empty() {
                return messages;
            }
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.news.notified() => {}
                () = due => {}
            }
        }
    }

    /// What is to be told by now, and when there will be more if nothing else is heard.
    fn take_now(&self, now: Instant) -> (Vec<v1::FromAgent>, Option<Instant>) {
        let mut waiting = self.lock();
        let mut messages = Vec::new();
        if let Some((node, told @ false)) = &mut waiting.node {
            *told = true;
            messages.push(Message::NodeStatus(node.clone()));
        }
        if let Some((ack, told @ false)) = &mut waiting.ack {
            *told = true;
            messages.push(Message::Ack(ack.clone()));
        }
        if let Some((refusals, told @ false)) = &mut waiting.refusals {
            *told = true;
            messages.push(Message::Refusals(refusals.clone()));
        }
        let mut next: Option<Instant> = None;
        for one in waiting.statuses.values_mut().filter(|one| !one.told) {
            if one.due <= now {
                one.told = true;
                messages.push(Message::PodStatus(one.status.clone()));
            } else {
                next = Some(next.map_or(one.due, |next| next.min(one.due)));
            }
        }
        messages.extend(waiting.events.drain(..).map(Message::Event));
        for (gone, told) in waiting.gone.values_mut().filter(|(_, told)| !told) {
            *told = true;
            messages.push(Message::PodGone(gone.clone()));
        }
        messages.extend(waiting.usage.take().map(Message::Usage));
        let wrapped = messages.into_iter().map(|message| v1::FromAgent {
            message: Some(message),
        });
        (wrapped.collect(), next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(uid: &str, json: &'static str) -> v1::PodStatus {
        v1::PodStatus {
            uid: uid.into(),
            status_json: json.into(),
            ..Default::default()
        }
    }

    fn told(messages: &[v1::FromAgent]) -> Vec<String> {
        let one = |message: &v1::FromAgent| match message.message.as_ref().unwrap() {
            Message::PodStatus(s) => {
                format!("{}={}", s.uid, String::from_utf8_lossy(&s.status_json))
            }
            Message::PodGone(g) => format!("{} gone", g.uid),
            Message::Ack(a) => format!("ack {}/{}", a.pods_generation, a.network_generation),
            Message::Event(e) => String::from_utf8_lossy(&e.event_json).into_owned(),
            other => format!("{other:?}"),
        };
        messages.iter().map(one).collect()
    }

    #[tokio::test]
    async fn only_the_newest_is_told_and_all_again_after_a_new_connection() {
        let outbox = Outbox::default();
        outbox.pod_status(status("a", "1"), Hurry::Now);
        outbox.pod_status(status("a", "2"), Hurry::Now);
        outbox.pod_status(status("b", "1"), Hurry::Now);
        outbox.event(v1::Event {
            event_json: "e".into(),
        });
        outbox.ack(|ack| ack.network_generation = 7);
        outbox.ack(|ack| ack.pods_generation = 3);
        assert_eq!(told(&outbox.take().await), ["ack 3/7", "a=2", "b=1", "e"]);
        outbox.pod_gone(v1::PodGone {
            uid: "b".into(),
            ..Default::default()
        });
        assert_eq!(told(&outbox.take().await), ["b gone"]);
        outbox.restart();
        assert_eq!(told(&outbox.take().await), ["ack 3/7", "a=2", "b gone"]);
        outbox.forget("b");
        outbox.restart();
        assert_eq!(told(&outbox.take().await), ["ack 3/7", "a=2"]);
        assert!(outbox.take_now(Instant::now()).0.is_empty());
    }

    #[tokio::test]
    async fn a_step_on_the_way_is_told_when_the_way_is_long() {
        let outbox = Outbox::default();
        let begun = Instant::now();
        outbox.pod_status(status("a", "pending"), Hurry::Soon);
        outbox.event(v1::Event {
            event_json: "e".into(),
        });
        assert_eq!(told(&outbox.take().await), ["e"]);
        outbox.pod_status(status("a", "running"), Hurry::Now);
        assert_eq!(told(&outbox.take().await), ["a=running"]);
        outbox.pod_status(status("b", "pending"), Hurry::Soon);
        outbox.pod_status(status("b", "addressed"), Hurry::Soon);
        assert_eq!(told(&outbox.take().await), ["b=addressed"]);
        let waited = begun.elapsed();
        assert!(waited >= SOON && waited < 10 * SOON, "{waited:?}");
        assert_eq!(outbox.status_of("b").unwrap(), "addressed");
    }

    #[tokio::test]
    async fn the_oldest_events_are_dropped() {
        let outbox = Outbox::default();
        for number in 0..EVENTS + 2 {
            outbox.event(v1::Event {
                event_json: number.to_string().into(),
            });
        }
        assert_eq!(told(&outbox.take().await)[0], "2");
    }
}
