//! Many nodes' logs as one. What nodes have kept is merged by time while it is read, so that no more than a head of each
//! log is held; what comes after is held back for a moment, in which what is older may still come in. A node that can't
//! be reached costs one warning; when it is followed and comes back, it is read on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SelectAll, StreamExt as _};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use waggle_wire::v1;
use waggle_wire::v1::flow_item::Item;
use waggle_wire::v1::open_stream::Request;
use waggle_wire::v1::stream_frame::Frame;

use super::line::{Lines, note, skipped};
use crate::sessions::Sessions;

/// Items of one node that wait to be merged.
const QUEUE: usize = 64;
/// How long what comes is held back.
const HOLD: Duration = Duration::from_millis(200);
/// How often it looks for nodes that came (back).
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two attempts at a node that is there but does not tell.
const REST: u32 = 5;

/// One request for flows.
pub(super) struct Merge {
    pub(super) sessions: Sessions,
    pub(super) request: v1::FlowsRequest,
    /// Only the one node was asked for.
    pub(super) one: bool,
    /// Nodes to read.
    pub(super) nodes: BTreeSet<String>,
    pub(super) lines: Lines,
    pub(super) out: mpsc::Sender<Bytes>,
    /// How long a node may take.
    pub(super) patience: Duration,
}

/// What a node's log says.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "all but the last of a log are items"
)]
enum Said {
    Item(Item),
    /// It ended, and why, unless it was to.
    Ended(Option<String>),
}

type Source = ReceiverStream<(String, Said)>;
type Heads = BTreeMap<String, Item>;

/// Held back items in the order in which they are told: by time, and those of one time as they came.
#[derive(Default)]
struct Held {
    items: BTreeMap<(u64, u64), (String, Item)>,
    arrived: VecDeque<(Instant, (u64, u64))>,
    count: u64,
}

impl Held {
    fn add(&mut self, now: Instant, node: String, item: Item) {
        let key = (time(&item), self.count);
        self.count += 1;
        self.items.insert(key, (node, item));
        self.arrived.push_back((now, key));
    }

    /// When the next is told.
    fn due(&self) -> Option<Instant> {
        self.arrived.front().map(|(arrived, _)| *arrived + HOLD)
    }

    /// What is due, and what is older than that.
    fn take(&mut self, now: Instant) -> Vec<(String, Item)> {
        let mut last = None;
        while let Some((arrived, key)) = self.arrived.front()
            && *arrived + HOLD <= now
        {
            last = last.max(Some(*key));
            self.arrived.pop_front();
        }
        let Some((time, number)) = last else {
            return Vec::new();
        };
        let later = self.items.split_off(&(time, number + 1));
        std::mem::replace(&mut self.items, later)
            .into_values()
            .collect()
    }
}

fn time(item: &Item) -> u64 {
    match item {
        Item::Flow(flow) => flow.time_ns,
        Item::Skipped(skipped) => skipped.time_ns,
        Item::PastTold(_) => 0,
    }
}

impl Merge {
    /// Tells everything that was asked for, until the client goes away.
    pub(super) async fn run(mut self) {
        let out = self.out.clone();
        tokio::select! {
            () = out.closed() => {}
            _ = self.tell() => {}
        }
    }

    /// `None` when nobody listens any more.
    async fn tell(&mut self) -> Option<()> {
        let mut tasks = JoinSet::new();
        let connected: BTreeSet<String> = self.sessions.connected().into_iter().collect();
        let mut known = Known::default();
        let mut sources = Vec::new();
        for node in self.nodes.clone() {
            if connected.contains(&node) {
                sources.push((node.clone(), self.read(&mut tasks, &node, 0)));
                known.read.insert(node);
            } else {
                self.warn(&mut known, &node, "it is not connected to the server")
                    .await?;
            }
        }
        let started = now_ns(&self.sessions);
        let rest = self.tell_kept(sources, &mut known).await?;
        if self.request.follow {
            self.request.since_ns = started;
            self.follow(tasks, rest, known).await?;
        }
        Some(())
    }

    /// What the nodes have kept, oldest first. Gives back the logs that go on.
    async fn tell_kept(
        &mut self,
        sources: Vec<(String, Source)>,
        known: &mut Known,
    ) -> Option<SelectAll<Source>> {
        let until = Instant::now() + 2 * self.patience;
        let (mut rest, mut heads) = (SelectAll::new(), Heads::new());
        let mut telling: BTreeMap<String, Source> = sources.into_iter().collect();
        let mut waiting: Vec<String> = telling.keys().cloned().collect();
        loop {
            for node in std::mem::take(&mut waiting) {
                let Some(mut source) = telling.remove(&node) else {
                    continue;
                };
                let next = tokio::time::timeout_at(until, source.next()).await;
                match next {
                    Ok(Some((_, Said::Item(Item::PastTold(_))))) => rest.push(source),
                    Ok(Some((_, Said::Item(item)))) => {
                        heads.insert(node.clone(), item);
                        telling.insert(node, source);
                    }
                    Ok(Some((_, Said::Ended(why)))) => {
                        known.read.remove(&node);
                        if let Some(why) = why {
                            self.warn(known, &node, &why).await?;
                        }
                    }
                    Ok(None) => {}
                    // Slow, not silent: what it tells later is told later, to whoever follows.
                    Err(_) if self.request.follow => rest.push(source),
                    Err(_) => {
                        self.warn(known, &node, "it is too slow, and not all was told")
                            .await?;
                    }
                }
            }
            let oldest = heads.iter().min_by_key(|(_, item)| time(item));
            let Some(node) = oldest.map(|(node, _)| node.clone()) else {
                return Some(rest);
            };
            if let Some(item) = heads.remove(&node) {
                self.say(&node, &item).await?;
                waiting.push(node);
            }
        }
    }

    /// What comes.
    async fn follow(
        &mut self,
        mut tasks: JoinSet<()>,
        mut sources: SelectAll<Source>,
        mut known: Known,
    ) -> Option<()> {
        let mut held = Held::default();
        let mut look = tokio::time::interval(LOOK);
        loop {
            let due = async {
                match held.due() {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((node, said)) = sources.next(), if !sources.is_empty() => match said {
                    Said::Item(Item::PastTold(_)) => self.welcome(&mut known, &node).await?,
                    Said::Item(item) => {
                        self.welcome(&mut known, &node).await?;
                        known.after.insert(node.clone(), time(&item) + 1);
                        held.add(Instant::now(), node, item);
                    }
                    Said::Ended(why) => {
                        let why = why.unwrap_or_else(|| "its agent ended the log".to_owned());
                        known.read.remove(&node);
                        self.warn(&mut known, &node, &why).await?;
                    }
                },
                () = due => {
                    for (node, item) in held.take(Instant::now()) {
                        self.say(&node, &item).await?;
                    }
                }
                _ = look.tick() => {
                    while tasks.try_join_next().is_some() {}
                    for node in self.missing(&mut known) {
                        let after = known.after.get(&node).copied().unwrap_or(0);
                        sources.push(self.read(&mut tasks, &node, after));
                        known.read.insert(node);
                    }
                }
            }
        }
    }

    /// Nodes that could be read and are not.
    fn missing(&self, known: &mut Known) -> Vec<String> {
        let mut connected = self.sessions.connected();
        if self.one {
            connected.retain(|node| self.nodes.contains(node));
        }
        connected.retain(|node| !known.read.contains(node));
        connected.retain(|node| match known.warned.get_mut(node) {
            Some(rest) if *rest > 0 => {
                *rest -= 1;
                false
            }
            _ => true,
        });
        connected
    }

    /// One warning for each time that a node is lost.
    async fn warn(&mut self, known: &mut Known, node: &str, why: &str) -> Option<()> {
        if known.warned.insert(node.to_owned(), REST).is_some() {
            return Some(());
        }
        let message = format!("the flows of node {node} are missing: {why}");
        self.out.send(note("warning", node, &message)).await.ok()
    }

    async fn welcome(&mut self, known: &mut Known, node: &str) -> Option<()> {
        if known.warned.remove(node).is_none() {
            return Some(());
        }
        let message = format!("the flows of node {node} are told again");
        self.out.send(note("note", node, &message)).await.ok()
    }

    async fn say(&mut self, node: &str, item: &Item) -> Option<()> {
        let line = match item {
            Item::Flow(flow) => self.lines.flow(node, flow),
            Item::Skipped(count) => skipped(node, count),
            Item::PastTold(_) => return Some(()),
        };
        self.out.send(line).await.ok()
    }

    /// Opens a node's log and reads it in the background, what is not before `after` (nanoseconds since the epoch).
    fn read(&self, tasks: &mut JoinSet<()>, node: &str, after: u64) -> Source {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (sessions, mut request) = (self.sessions.clone(), self.request.clone());
        request.since_ns = request.since_ns.max(after);
        let (node, patience) = (node.to_owned(), self.patience);
        tasks.spawn(async move {
            let why = read(&sessions, &node, request, patience, &sender).await;
            drop(sender.send((node, Said::Ended(why))).await);
        });
        ReceiverStream::new(receiver)
    }
}

/// What is known of nodes.
#[derive(Default)]
struct Known {
    /// Being read.
    read: BTreeSet<String>,
    /// The reader was told that they are missing; looks until they are tried again.
    warned: BTreeMap<String, u32>,
    /// From when on a node that comes back has something to tell, nanoseconds since the epoch.
    after: BTreeMap<String, u64>,
}

/// Reads one node's log to its end; says why it ended early.
async fn read(
    sessions: &Sessions,
    node: &str,
    request: v1::FlowsRequest,
    patience: Duration,
    sender: &mpsc::Sender<(String, Said)>,
) -> Option<String> {
    let open = sessions.open(node, Request::Flows(request));
    let mut ends = match tokio::time::timeout(patience, open).await {
        Ok(Ok(ends)) => ends,
        Ok(Err(fault)) => return Some(fault.to_string()),
        Err(_) => {
            return Some(format!(
                "it did not answer within {} seconds",
                patience.as_secs()
            ));
        }
    };
    loop {
        match ends
            .from_agent
            .message()
            .await
            .map(|frame| frame.and_then(|one| one.frame))
        {
            Ok(Some(Frame::Stdout(bytes))) => {
                let items = match v1::FlowItems::decode(bytes) {
                    Ok(items) => items.items,
                    Err(error) => return Some(format!("its log can't be read: {error}")),
                };
                for item in items.into_iter().filter_map(|one| one.item) {
                    if sender
                        .send((node.to_owned(), Said::Item(item)))
                        .await
                        .is_err()
                    {
                        return None;
                    }
                }
            }
            Ok(Some(Frame::End(end))) => return (!end.fault.is_empty()).then_some(end.fault),
            Ok(Some(_)) => {}
            Ok(None) => return Some("its agent hung up".to_owned()),
            Err(status) => return Some(format!("its agent hung up: {}", status.message())),
        }
    }
}

fn now_ns(sessions: &Sessions) -> u64 {
    u64::try_from(sessions.now().as_nanosecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(time_ns: u64) -> Item {
        Item::Flow(v1::Flow {
            time_ns,
            ..v1::Flow::default()
        })
    }

    #[test]
    fn what_comes_is_told_by_its_time_not_by_its_arrival() {
        let (mut held, start) = (Held::default(), Instant::now());
        let after = |ms: u64| start + Duration::from_millis(ms);
        for (arrival, time) in [(0, 30), (50, 10), (100, 40), (150, 35)] {
            held.add(after(arrival), "n".into(), item(time));
        }
        let mut told = |at: u64| {
            let items = held.take(after(at));
            items.iter().map(|(_, item)| time(item)).collect::<Vec<_>>()
        };
        assert_eq!(told(199), [0u64; 0]);
        assert_eq!(told(200), [10, 30]);
        assert_eq!(told(290), [0u64; 0]);
        assert_eq!(told(300), [35, 40]);
        assert_eq!(held.items.len(), 0);
    }
}
