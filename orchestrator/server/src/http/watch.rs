//! Watching: one JSON line an event, in the form that was asked for, from a revision or from all there is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt as _;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use rand::Rng as _;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use waggle_api::table::{self, IncludeObject};
use waggle_api::{Resource, Status};

use super::accept::{Form, form};
use super::answer::table_of;
use super::collection::Selection;
use super::query::Query;
use super::read::revision;
use super::target::Target;
use crate::objects::{EventKind, Events, Object, ObjectEvent, Objects, ready_now};
use crate::run::ServerState;

/// How often a quiet watch is told where it is.
const BOOKMARKS: Duration = if cfg!(test) {
    Duration::from_millis(3)
} else {
    Duration::from_secs(60)
};
/// How long a watch lasts, in seconds, when its client says nothing about it.
const LASTS: std::ops::Range<u64> = 1800..3600;
/// Annotation of the bookmark that ends the initial events.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// GET with `watch`.
pub(super) async fn watch(
    state: &ServerState,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response, Status> {
    let form = form(headers)?;
    let selection = Selection::new(target, query)?;
    check(query)?;
    let mut lines = Lines {
        resource: target.resource,
        form,
        include: query.include_object.parse()?,
        headings: true,
        now: state.objects.now().as_second(),
    };
    let mut ready = VecDeque::new();
    let events = start(state, target, query, &selection, &mut lines, &mut ready).await?;
    let lasts = query.timeout_seconds.filter(|&seconds| seconds > 0);
    let lasts = Duration::from_secs(lasts.unwrap_or_else(|| rand::rng().random_range(LASTS)));
    let mut bookmarks = tokio::time::interval_at(Instant::now() + BOOKMARKS, BOOKMARKS);
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watcher = Watcher {
        objects: Arc::clone(&state.objects),
        selection,
        lines,
        ready,
        events,
        bookmarks: query.bookmarks.then_some(bookmarks),
        end: Box::pin(tokio::time::sleep(lasts)),
        stop: Box::pin(state.stop.clone().cancelled_owned()),
    };
    let stream = futures::stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), watcher))
    });
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    let kind = if form == Form::Plain {
        "application/json"
    } else {
        "application/json;stream=watch"
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

fn check(query: &Query) -> Result<(), Status> {
    let forbidden = |message: &str| {
        Err(Status::failure(
            422,
            "Invalid",
            format!("ListOptions is invalid: {message}"),
        ))
    };
    match (
        query.send_initial_events,
        query.resource_version_match.as_str(),
    ) {
        (None, "") | (Some(_), "NotOlderThan") => Ok(()),
        (None, _) => forbidden(
            "resourceVersionMatch: Forbidden: it is forbidden for watch unless sendInitialEvents is provided",
        ),
        (Some(_), _) => forbidden(
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
    }
}

/// Where the watch starts; what is to be said before the first live event goes into `ready`.
async fn start(
    state: &ServerState,
    target: &Target,
    query: &Query,
    selection: &Selection,
    lines: &mut Lines,
    ready: &mut VecDeque<Bytes>,
) -> Result<Option<Events>, Status> {
    let asked = revision(&query.resource_version)?;
    let initial = query.begins_with_all();
    let after = match (initial, asked) {
        (false, Some(revision)) => revision,
        (false, None) => *state.objects.changed().borrow(),
        (true, asked) => {
            if let Some(revision) = asked {
                state.objects.seen(revision).await?;
            }
            let listing = state.objects.list(target.resource, target.in_namespace());
            let wanted = listing.objects.into_iter();
            let mut wanted: Vec<Arc<Object>> =
                wanted.filter(|object| selection.takes(object)).collect();
            if target.resource.converter().is_some() {
                wanted = state.objects.converted(wanted, target.resource).await?;
            }
            ready.extend(wanted.iter().map(|object| lines.event("ADDED", object)));
            if query.send_initial_events == Some(true) && query.bookmarks {
                ready.push_back(lines.bookmark(listing.revision, true));
            }
            listing.revision
        }
    };
    let events = match selection.only() {
        Some((namespace, name)) => {
            let objects = &state.objects;
            objects.watch_one(target.resource, namespace, name, after)
        }
        None => state.objects.watch(target.resource, after),
    };
    match events {
        Ok(events) => Ok(Some(events)),
        // As an event, not as an answer: that is how clients expect to be told.
        Err(status) => {
            ready.push_back(lines.error(&status));
            Ok(None)
        }
    }
}

struct Watcher {
    objects: Arc<Objects>,
    selection: Selection,
    lines: Lines,
    /// What is to be sent before anything else.
    ready: VecDeque<Bytes>,
    /// `None` once it has failed.
    events: Option<Events>,
    bookmarks: Option<Interval>,
    end: std::pin::Pin<Box<Sleep>>,
    stop: std::pin::Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Watcher {
    /// The next piece of the body; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.ready.is_empty() {
            return Some(self.take_ready());
        }
        loop {
            let events = self.events.as_mut()?;
            let bookmark = async {
                match &mut self.bookmarks {
                    Some(interval) => drop(interval.tick().await),
                    None => futures::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut self.stop => return None,
                event = events.next() => self.say(event).await,
                () = bookmark => self.bookmark().await,
                () = &mut self.end => return None,
            }
            if !self.ready.is_empty() {
                return Some(self.take_ready());
            }
            self.events.as_ref()?;
        }
    }

    /// Everything that waits, in one piece.
    fn take_ready(&mut self) -> Bytes {
        if self.ready.len() == 1 {
            return self.ready.pop_front().unwrap_or_default();
        }
        let whole: Vec<u8> = self.ready.drain(..).flatten().collect();
        Bytes::from(whole)
    }

    /// Says an event, and whatever else is there already.
    async fn say(&mut self, event: Option<Result<ObjectEvent, Status>>) {
        let mut next = event;
        loop {
            let event = match next {
                Some(Ok(event)) => {
                    let objects = Arc::clone(&self.objects);
                    fitted(&objects, self.lines.resource, event).await
                }
                Some(Err(status)) => Err(status),
                None => {
                    self.events = None;
                    return;
                }
            };
            match event {
                Ok(event) => {
                    self.lines.now = self.objects.now().as_second();
                    self.take(&event);
                }
                Err(status) => {
                    let line = self.lines.error(&status);
                    self.ready.push_back(line);
                    self.events = None;
                    return;
                }
            }
            match self.events.as_mut().and_then(ready_now) {
                Some(more) => next = more,
                None => return,
            }
        }
    }

    /// An event as it looks through the selection.
    fn take(&mut self, event: &ObjectEvent) {
        let before = event
            .previous
            .as_ref()
            .filter(|object| self.selection.takes(object));
        let after = event.kind != EventKind::Deleted && self.selection.takes(&event.object);
        let line = match (before, after) {
            (None, false) => return,
            (None, true) => self.lines.event("ADDED", &event.object),
            (Some(_), true) => self.lines.event("MODIFIED", &event.object),
            (Some(_), false) if event.kind == EventKind::Deleted => {
                self.lines.event("DELETED", &event.object)
            }
            (Some(before), false) => self.lines.event(
                "DELETED",
                &Arc::new(before.at_revision(event.object.revision)),
            ),
        };
        self.ready.push_back(line);
    }

    /// Tells where the watch is. Only a revision whose events have all been taken may be told.
    async fn bookmark(&mut self) {
        let revision = *self.objects.changed().borrow();
        match self.events.as_mut().and_then(ready_now) {
            Some(event) => self.say(event).await,
            None => {
                let line = self.lines.bookmark(revision, false);
                self.ready.push_back(line);
            }
        }
    }
}

/// The event with its objects in the watch's version, where a webhook has to convert them.
async fn fitted(
    objects: &Objects,
    resource: &'static Resource,
    event: ObjectEvent,
) -> Result<ObjectEvent, Status> {
    if resource.converter().is_none() {
        return Ok(event);
    }
    let object = objects.converted_one(&event.object, resource).await?;
    let previous = match &event.previous {
        Some(previous) => Some(objects.converted_one(previous, resource).await?),
        None => None,
    };
    Ok(ObjectEvent {
        object,
        previous,
        ..event
    })
}

/// Makes the lines of one watch.
struct Lines {
    resource: &'static Resource,
    form: Form,
    include: IncludeObject,
    /// The next Table is the first, which has the columns.
    headings: bool,
    now: i64,
}

impl Lines {
    fn event(&mut self, kind: &str, object: &Arc<Object>) -> Bytes {
        let object = object.shown(self.resource);
        match self.form {
            Form::Plain => line(kind, &object.bytes),
            _ => self.formed(kind, &object.value),
        }
    }

    fn formed(&mut self, kind: &str, value: &Value) -> Bytes {
        let formed = match self.form {
            Form::Plain => value.clone(),
            Form::Metadata => table::partial(value),
            Form::Table => {
                let headings = std::mem::take(&mut self.headings);
                table_of(self.resource, value, self.include, self.now, headings)
            }
        };
        line(kind, formed.to_string().as_bytes())
    }

    fn bookmark(&mut self, revision: u64, ends_initial: bool) -> Bytes {
        let mut metadata =
            json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({INITIAL_END: "true"});
        }
        let (kind, api_version) = (self.resource.kind, self.resource.api_version());
        let value = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        self.formed("BOOKMARK", &value)
    }

    fn error(&self, status: &Status) -> Bytes {
        line("ERROR", status.to_value().to_string().as_bytes())
    }
}

fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut text = Vec::with_capacity(object.len() + 40);
    text.extend_from_slice(b"{\"type\":\"");
    text.extend_from_slice(kind.as_bytes());
    text.extend_from_slice(b"\",\"object\":");
    text.extend_from_slice(object);
    text.extend_from_slice(b"}\n");
    Bytes::from(text)
}
