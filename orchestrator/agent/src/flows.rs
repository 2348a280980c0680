//! The flow log of a node: reads what its datapath reports, puts names to it, and keeps the last of it for whoever asks.
//! A flood is counted, not told: what is left out is said with its number. What is asked for across nodes is the
//! server's to bring together.

mod names;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prost::Message as _;
use tokio::sync::watch;
use waggle_datapath::{DatapathError, FlowEvent, FlowEvents, Reason, Verdict, since_boot};
use waggle_model::TenantId;
use waggle_model::network::NetworkState;
use waggle_wire::v1;
use waggle_wire::v1::flow_item::Item;
use waggle_wire::v1::stream_frame::Frame;

use crate::clock;
use crate::node::Node;
use crate::streams::{Up, frame};
use names::Names;

/// Items kept.
const KEPT: usize = 4096;
/// Flows told in one [`WINDOW`]; what is more is counted only.
const MOST: u64 = 1000;
/// Time in which flows are counted together.
const WINDOW: Duration = Duration::from_secs(1);
/// Flows taken from the ring before other tasks have their turn.
const GULP: usize = 4096;
/// Items in one frame.
const FRAME: usize = 256;
/// After the ring could not be read.
const AGAIN: Duration = Duration::from_secs(5);

/// The flow log: numbered items, of which the last are kept.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    log: Mutex<Log>,
    /// Number of the next item.
    news: watch::Sender<u64>,
    /// Followers who want to hear of what is let through: programs only tell it while there are some.
    curious: Mutex<usize>,
}

#[derive(Debug, Default)]
struct Log {
    kept: VecDeque<Arc<Item>>,
    /// Number of the first that is kept.
    first: u64,
}

/// Where a follower is in the log.
#[derive(Debug)]
struct Cursor {
    next: u64,
    since_ns: u64,
    filter: v1::FlowFilter,
}

impl Flows {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, item: Item) {
        let mut log = self.lock();
        if log.kept.len() == KEPT {
            log.kept.pop_front();
            log.first += 1;
        }
        log.kept.push_back(Arc::new(item));
        let next = log.first + log.kept.len() as u64;
        drop(log);
        self.news.send_replace(next);
    }

    /// What is new behind the cursor, at most a frame of it; what went meanwhile is told as skipped. The flag says that
    /// there is nothing more for now.
    fn take(&self, cursor: &mut Cursor) -> (Vec<Item>, bool) {
        let log = self.lock();
        let mut items = Vec::new();
        if cursor.next < log.first {
            items.push(skipped(log.first - cursor.next, clock::now()));
            cursor.next = log.first;
        }
        let behind = usize::try_from(cursor.next - log.first).unwrap_or(usize::MAX);
        for item in log.kept.iter().skip(behind) {
            if items.len() >= FRAME {
                return (items, false);
            }
            cursor.next += 1;
            if wanted(item, cursor) {
                items.push(Item::clone(item));
            }
        }
        (items, true)
    }

    /// Tells what is asked for, until it is told or, when it is followed, until nobody listens.
    pub(crate) async fn tell(&self, request: v1::FlowsRequest, up: &Up) {
        let mut news = self.news.subscribe();
        let mut cursor = Cursor {
            next: self.lock().first,
            since_ns: request.since_ns,
            filter: request.filter.unwrap_or_default(),
        };
        let mut past = true;
        loop {
            news.borrow_and_update();
            let (mut items, all) = self.take(&mut cursor);
            if all && past {
                past = false;
                items.push(Item::PastTold(true));
            }
            if !items.is_empty() && up.send(encoded(items)).await.is_err() {
                return;
            }
            if !all {
                continue;
            }
            if !request.follow || news.changed().await.is_err() {
                return;
            }
        }
    }
}

/// A follower, for as long as this lives.
pub(crate) struct Following(Option<Arc<Node>>);

impl Following {
    /// Has the datapath tell what this one wants to hear of.
    pub(crate) fn begin(node: &Arc<Node>, request: &v1::FlowsRequest) -> Self {
        let verdict = request
            .filter
            .as_ref()
            .map_or(v1::FlowVerdict::Unspecified, v1::FlowFilter::verdict);
        if !request.follow || verdict == v1::FlowVerdict::Drop {
            return Self(None);
        }
        change_curious(Arc::clone(node), |curious| curious + 1);
        Self(Some(Arc::clone(node)))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(node) = self.0.take() {
            change_curious(node, |curious| curious - 1);
        }
    }
}

fn change_curious(node: Arc<Node>, change: fn(usize) -> usize) {
    tokio::task::spawn_blocking(move || {
        let mut curious = node
            .flows
            .curious
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *curious = change(*curious);
        if let Err(error) = node.datapath.tell_new(*curious > 0) {
            tracing::warn!(%error, "the flow log may lack what was let through");
        }
    });
}

fn encoded(items: Vec<Item>) -> v1::StreamFrame {
    let items = items
        .into_iter()
        .map(|item| v1::FlowItem { item: Some(item) });
    let items = v1::FlowItems {
        items: items.collect(),
    };
    frame(Frame::Stdout(items.encode_to_vec().into()))
}

fn skipped(count: u64, now: i64) -> Item {
    Item::Skipped(v1::FlowsSkipped {
        time_ns: now.unsigned_abs(),
        count,
    })
}

/// Whether a follower asked for it. Nobody knows what was skipped, so everybody is told.
fn wanted(item: &Item, cursor: &Cursor) -> bool {
    let flow = match item {
        Item::Flow(flow) => flow,
        Item::Skipped(skipped) => return skipped.time_ns >= cursor.since_ns,
        Item::PastTold(_) => return false,
    };
    let filter = &cursor.filter;
    let either = |holds: &dyn Fn(&v1::FlowEnd) -> bool| {
        flow.source.iter().chain(&flow.destination).any(holds)
    };
    let of_pod = |end: &v1::FlowEnd| {
        end.kind() == v1::FlowEndKind::Pod
            && end.namespace == filter.namespace
            && end.name == filter.pod
    };
    let place = match (filter.namespace.as_str(), filter.pod.as_str()) {
        ("", _) => true,
        (namespace, "") => either(&|end| end.namespace == namespace),
        _ => either(&of_pod),
    };
    place
        && flow.time_ns >= cursor.since_ns
        && (filter.tenant == 0 || either(&|end| end.tenant == filter.tenant))
        && (filter.port == 0 || either(&|end| end.port == filter.port))
        && (filter.verdict() == v1::FlowVerdict::Unspecified || flow.verdict == filter.verdict)
        && (filter.reason.is_empty() || flow.reason == filter.reason)
        && (filter.protocol == 0 || flow.protocol == filter.protocol)
}

/// Counts flows in windows of a second.
#[derive(Debug)]
struct Rate {
    /// When the window began; `None` before its first flow.
    since: Option<Instant>,
    /// Drops, and what was let through: a flood of one leaves room for the other.
    told: [u64; 2],
    skipped: u64,
}

impl Rate {
    const QUIET: Self = Self {
        since: None,
        told: [0; 2],
        skipped: 0,
    };

    /// Whether this one is told.
    fn allows(&mut self, verdict: Verdict, now: Instant) -> bool {
        self.since.get_or_insert(now);
        let told = &mut self.told[usize::from(verdict != Verdict::Drop)];
        let allowed = *told < MOST;
        *(if allowed { told } else { &mut self.skipped }) += 1;
        allowed
    }

    /// When the window ends.
    fn ends(&self) -> Option<Instant> {
        self.since.map(|since| since + WINDOW)
    }
}

/// Reads what the programs report, for as long as it runs.
pub(crate) async fn read(node: Arc<Node>) {
    loop {
        let error = match node.datapath.events() {
            Ok(events) => read_on(&node, events).await,
            Err(error) => error,
        };
        tracing::warn!(%error, "what the datapath reports can't be read; trying again");
        tokio::time::sleep(AGAIN).await;
    }
}

async fn read_on(node: &Node, mut events: FlowEvents) -> DatapathError {
    let (mut rate, mut names) = (Rate::QUIET, Names::default());
    let mut lost = events_lost(node);
    loop {
        let window_ends = async {
            match rate.ends() {
                Some(end) => tokio::time::sleep_until(end.into()).await,
                None => std::future::pending().await,
            }
        };
        let first = tokio::select! {
            () = window_ends => {
                let before = std::mem::replace(&mut lost, events_lost(node));
                let missing = rate.skipped + lost.saturating_sub(before);
                if missing > 0 {
                    node.flows.add(skipped(missing, clock::now()));
                }
                rate = Rate::QUIET;
                continue;
            }
            next = events.next() => match next {
                Ok(first) => first,
                Err(error) => return error,
            },
        };
        let now = Instant::now();
        let boot = (since_boot(), clock::now());
        let more = std::iter::from_fn(|| events.take()).take(GULP);
        for event in std::iter::once(first).chain(more) {
            let Some(verdict) = Verdict::of(event.reason) else {
                continue;
            };
            if rate.allows(verdict, now) {
                let flow = node
                    .network
                    .read(|state| described(&event, boot, state, &mut names, now));
                flow.into_iter().for_each(|flow| node.flows.add(flow));
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Reports that found the ring full, since the counters were made.
fn events_lost(node: &Node) -> u64 {
    let counters = node.datapath.counters().unwrap_or_default();
    let lost = counters
        .iter()
        .find(|tally| tally.reason == Reason::EventLost);
    lost.map_or(0, |tally| tally.packets)
}

fn described(
    event: &FlowEvent,
    (boot, wall): (Duration, i64),
    state: &NetworkState,
    names: &mut Names,
    now: Instant,
) -> Option<Item> {
    let age = boot.saturating_sub(event.time).as_nanos();
    let age = i64::try_from(age).unwrap_or(i64::MAX);
    let verdict = match Verdict::of(event.reason)? {
        Verdict::Drop => v1::FlowVerdict::Drop,
        Verdict::Forward => v1::FlowVerdict::Forward,
        Verdict::Translate => v1::FlowVerdict::Translate,
    };
    let mut end = |end: Option<SocketAddr>, tenant: TenantId| names.end(end?, tenant, state, now);
    Some(Item::Flow(v1::Flow {
        time_ns: wall.saturating_sub(age).unsigned_abs(),
        verdict: verdict.into(),
        reason: event.reason.key().to_owned(),
        message: event.reason.text().to_owned(),
        hook: event.hook.to_owned(),
        protocol: event.protocol.into(),
        source: end(event.source, event.source_tenant),
        destination: end(event.destination, event.destination_tenant),
    }))
}
