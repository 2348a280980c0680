//! Priority and fairness at work: a request takes seats before it is carried out, or waits for them, bounded. Who waits
//! for whom is `waggle_api::flow`'s to say; here are the waiting, the configuration as it changes, and the counts.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use http::HeaderValue;
use http::header::HeaderName;
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;
use waggle_api::access::{Action, User};
use waggle_api::flow::{Config, Entry, Flow, GROUP, Gate, Refusal, Ticket};
use waggle_api::{Resource, Status, find};

use crate::metrics::{Family, Kind, number};
use crate::objects::Objects;

/// How long a request waits for a seat.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a client may take to read an answer that is made as it reads, before its seat is given on.
const READING: Duration = Duration::from_secs(60);
/// Bytes of an answer that is taken at once, however slowly it is sent then.
const AT_ONCE: u64 = 64 << 10;
/// Seconds after which a client that was refused is told to come again.
const AGAIN: u32 = 1;
/// Seats for each processor; and the fewest and the most of a server that nobody told how many.
const SEATS: (u32, u32, u32) = (100, 200, 600);
/// Which schema took a request, and which level: their uids.
const HEADERS: (HeaderName, HeaderName) = (
    HeaderName::from_static("x-kubernetes-pf-flowschema-uid"),
    HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid"),
);

/// The seats of this server.
#[derive(Debug)]
pub struct FlowControl {
    seats: u32,
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    gate: Gate,
    config: Arc<Config>,
    /// Revision of the objects that `config` shows.
    revision: Option<u64>,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
    counts: BTreeMap<(String, String), Counts>,
}

/// What was counted of the requests of a schema at a level.
#[derive(Debug, Default)]
struct Counts {
    dispatched: u64,
    refused: BTreeMap<&'static str, u64>,
    waited: f64,
}

/// Seats that a request has. Dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Seat {
    control: Arc<FlowControl>,
    ticket: Ticket,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let now = self.control.now();
        let mut inner = self.control.lock();
        inner.waiting.remove(&self.ticket);
        inner.gate.leave(self.ticket, now);
        inner.wake();
    }
}

impl Inner {
    fn wake(&mut self) {
        for ticket in self.gate.called() {
            // Whoever does not listen any more leaves by itself.
            let _gone = self.waiting.remove(&ticket).map(|called| called.send(()));
        }
    }

    fn counts(&mut self, flow: &Flow) -> &mut Counts {
        let key = (flow.level.0.clone(), flow.schema.0.clone());
        self.counts.entry(key).or_default()
    }
}

impl FlowControl {
    /// With so many seats, or as many as suit this machine.
    pub fn new(seats: Option<u32>) -> Arc<Self> {
        let suits = || {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            let each = u32::try_from(processors)
                .unwrap_or(1)
                .saturating_mul(SEATS.0);
            each.clamp(SEATS.1, SEATS.2)
        };
        Arc::new(Self {
            seats: seats.unwrap_or_else(suits),
            began: Instant::now(),
            inner: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    /// The flow of a request, by the configuration as it is now.
    pub(crate) fn flow(&self, objects: &Objects, user: Option<&User>, action: &Action) -> Flow {
        let config = self.config(objects);
        match user {
            Some(user) => config.flow(user, action),
            None => config.flow(&User::anonymous(), action),
        }
    }

    fn config(&self, objects: &Objects) -> Arc<Config> {
        let kinds = ["flowschemas", "prioritylevelconfigurations"];
        let kinds = kinds.map(|plural| find(GROUP, "v1", plural));
        let [Some(schemas), Some(levels)] = kinds else {
            return Arc::default();
        };
        let mut inner = self.lock();
        let changed = |kind: &'static Resource, seen| objects.changed_since(kind, seen);
        let known = inner.revision;
        if known.is_none_or(|seen| changed(schemas, seen) || changed(levels, seen)) {
            let (schemas, levels) = (objects.list(schemas, None), objects.list(levels, None));
            let schema_values = schemas.objects.iter().map(|one| &*one.value);
            let level_values = levels.objects.iter().map(|one| &*one.value);
            inner.config = Arc::new(Config::read(schema_values, level_values));
            inner.revision = Some(schemas.revision.min(levels.revision));
            let config = Arc::clone(&inner.config);
            inner.gate.arrange(self.seats, &config, self.now());
            inner.wake();
        }
        Arc::clone(&inner.config)
    }

    /// Seats for a request of that width, once there are any.
    ///
    /// # Errors
    /// 429 when there is no room to wait, or the wait was too long.
    pub(crate) async fn enter(self: &Arc<Self>, flow: &Flow, width: u32) -> Result<Seat, Status> {
        let came = Instant::now();
        let (seat, called) = self
            .ask(flow, width)
            .map_err(|why| self.refuse(flow, why))?;
        if let Some(called) = called
            && tokio::time::timeout(PATIENCE, called).await.is_err()
        {
            return Err(self.refuse(flow, "time-out"));
        }
        let mut inner = self.lock();
        let counts = inner.counts(flow);
        counts.dispatched += 1;
        counts.waited += came.elapsed().as_secs_f64();
        drop(inner);
        Ok(seat)
    }

    fn ask(
        self: &Arc<Self>,
        flow: &Flow,
        width: u32,
    ) -> Result<(Seat, Option<oneshot::Receiver<()>>), &'static str> {
        let now = self.now();
        let mut inner = self.lock();
        let entry = inner.gate.enter(flow, width, now);
        let seat = |ticket| Seat {
            control: Arc::clone(self),
            ticket,
        };
        let asked = match entry {
            Entry::Goes(ticket) => Ok((seat(ticket), None)),
            Entry::Waits(ticket) => {
                let (call, called) = oneshot::channel();
                inner.waiting.insert(ticket, call);
                Ok((seat(ticket), Some(called)))
            }
            Entry::Refused(Refusal::Queue) => Err("queue-full"),
            Entry::Refused(Refusal::Seats) => Err("concurrency-limit"),
        };
        inner.wake();
        asked
    }

    fn refuse(&self, flow: &Flow, why: &'static str) -> Status {
        *self.lock().counts(flow).refused.entry(why).or_default() += 1;
        let message = format!(
            "too many requests at priority level {:?} ({why}), please try again later",
            flow.level.0
        );
        Status::too_many_requests(message, AGAIN)
    }

    /// What was counted, and how full the levels are.
    pub(crate) fn families(&self) -> Vec<Family> {
        let inner = self.lock();
        let family = |name, help, kind| Family::new(name, help, kind);
        let mut dispatched = family(
            "apiserver_flowcontrol_dispatched_requests_total",
            "Requests that were carried out.",
            Kind::Counter,
        );
        let mut refused = family(
            "apiserver_flowcontrol_rejected_requests_total",
            "Requests that were refused, by reason.",
            Kind::Counter,
        );
        let mut waited = family(
            "apiserver_flowcontrol_request_wait_seconds_total",
            "Time that requests waited before they were carried out, seconds.",
            Kind::Counter,
        );
        for ((level, schema), counts) in &inner.counts {
            let labels = [("priority_level", &**level), ("flow_schema", &**schema)];
            dispatched.add(&labels, number(counts.dispatched));
            waited.add(&labels, counts.waited);
            for (reason, count) in &counts.refused {
                let [level, schema] = labels;
                refused.add(&[level, schema, ("reason", *reason)], number(*count));
            }
        }
        let mut seats = family(
            "apiserver_flowcontrol_current_executing_seats",
            "Seats in use.",
            Kind::Gauge,
        );
        let mut executing = family(
            "apiserver_flowcontrol_current_executing_requests",
            "Requests that are being carried out.",
            Kind::Gauge,
        );
        let mut queued = family(
            "apiserver_flowcontrol_current_inqueue_requests",
            "Requests that wait.",
            Kind::Gauge,
        );
        let mut nominal = family(
            "apiserver_flowcontrol_nominal_limit_seats",
            "Seats of a level's own.",
            Kind::Gauge,
        );
        for load in inner.gate.loads() {
            let labels = [("priority_level", &*load.level)];
            seats.add(&labels, f64::from(load.seats));
            executing.add(&labels, number(load.running as u64));
            queued.add(&labels, number(load.waiting as u64));
            if let Some(own) = load.nominal {
                nominal.add(&labels, f64::from(own));
            }
        }
        vec![
            dispatched, refused, waited, seats, executing, queued, nominal,
        ]
    }
}

/// Tells a client which schema and level its request was of.
pub(crate) fn tell(response: &mut Response, flow: &Flow) {
    let uids = [(HEADERS.0, &flow.schema.1), (HEADERS.1, &flow.level.1)];
    for (name, uid) in uids {
        if let Some(uid) = HeaderValue::from_str(uid)
            .ok()
            .filter(|uid| !uid.is_empty())
        {
            response.headers_mut().insert(name, uid);
        }
    }
}

/// Keeps the seat for as long as the answer is being made. It is handed to [`release`] with the answer.
pub(crate) fn keep(response: &mut Response, seat: Seat) {
    response
        .extensions_mut()
        .insert(Arc::new(Mutex::new(Some(seat))));
}

type Kept = Arc<Mutex<Option<Seat>>>;

/// Gives the seat of an answer back when its body has been taken, or, where that is made as it is read, after a bound.
pub(crate) fn release(mut response: Response) -> Response {
    let Some(kept) = response.extensions_mut().remove::<Kept>() else {
        return response;
    };
    let (read, ended) = oneshot::channel();
    // What is larger is made while it is read.
    let length = response.body().size_hint().exact();
    if length.is_none_or(|length| length > AT_ONCE) {
        let kept = Arc::clone(&kept);
        tokio::spawn(async move {
            let _in_time = tokio::time::timeout(READING, ended).await;
            kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        });
    }
    response.map(|body| {
        Body::new(Seated {
            body,
            _kept: kept,
            _read: read,
        })
    })
}

/// A body that has a seat until it is dropped.
struct Seated {
    body: Body,
    _kept: Kept,
    _read: oneshot::Sender<()>,
}

impl HttpBody for Seated {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
