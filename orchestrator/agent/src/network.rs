//! From the network state to the kernel and the DNS zone: carries each change on and acknowledges what is in the kernel.
//! Which rows that are is `waggle-policy`'s and `waggle-datapath`'s business.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use waggle_datapath::{DatapathError, DnsRedirect};
use waggle_dns::{Zone, ZoneOptions};
use waggle_model::Generation;
use waggle_model::network::{GenerationGap, NetworkDelta, NetworkState};
use waggle_wire::v1;

use crate::node::{Cluster, Node};
use crate::refused;

/// After a state that could not be applied.
const RETRY: Duration = Duration::from_secs(2);
/// Deltas that wait to be carried on; beyond that the whole state is looked at.
const WAITING: usize = 4096;

/// The newest network state, and what is new in it to whoever carries it on. A change costs what it touches: the state
/// is never copied.
#[derive(Debug)]
pub(crate) struct Network {
    told: Mutex<Told>,
    news: watch::Sender<Generation>,
}

#[derive(Debug)]
struct Told {
    state: NetworkState,
    /// A delta was missed: nothing more is taken before the next whole state.
    lost: bool,
    news: News,
}

#[derive(Debug)]
enum News {
    Everything,
    Deltas(Vec<NetworkDelta>),
}

impl Network {
    /// What was known when the node last ran.
    pub(crate) fn new(state: NetworkState) -> Self {
        Self {
            news: watch::Sender::new(state.generation),
            told: Mutex::new(Told {
                state,
                lost: false,
                news: News::Everything,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The generation that the next delta has to start from; 0 asks for the whole state.
    pub(crate) fn generation(&self) -> Generation {
        let told = self.lock();
        if told.lost {
            Generation(0)
        } else {
            told.state.generation
        }
    }

    /// Looks at the state.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&NetworkState) -> T) -> T {
        look(&self.lock().state)
    }

    /// Takes a whole state.
    pub(crate) fn replace(&self, state: NetworkState) {
        let generation = state.generation;
        let mut told = self.lock();
        told.state = state;
        told.lost = false;
        told.news = News::Everything;
        drop(told);
        self.news.send_replace(generation);
    }

    /// Moves along a delta.
    ///
    /// # Errors
    /// [`GenerationGap`]; the next hello asks for the whole state, and what is in the kernel stays until that is here.
    pub(crate) fn advance(&self, delta: NetworkDelta) -> Result<(), GenerationGap> {
        let mut told = self.lock();
        let to = delta.to;
        let Told { state, news, lost } = &mut *told;
        let kept = match news {
            News::Deltas(waiting) if waiting.len() < WAITING => Some(delta.clone()),
            _ => None,
        };
        if let Err(gap) = state.apply(delta) {
            *lost = true;
            return Err(gap);
        }
        match (news, kept) {
            (News::Deltas(waiting), Some(delta)) => waiting.push(delta),
            (news, _) => *news = News::Everything,
        }
        drop(told);
        self.news.send_replace(to);
        Ok(())
    }

    /// Has the whole state carried on next time.
    fn look_again(&self) {
        self.lock().news = News::Everything;
    }

    /// Tells of each new generation.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Generation> {
        self.news.subscribe()
    }

    /// Carries on what is new since the last time.
    fn carry_on(&self, mut carrier: impl Carrier) {
        let mut told = self.lock();
        let news = std::mem::replace(&mut told.news, News::Deltas(Vec::new()));
        let carried = match news {
            News::Everything => false,
            News::Deltas(deltas) => deltas.into_iter().all(|delta| carrier.advance(delta)),
        };
        if !carried {
            carrier.replace(&told.state);
        }
    }
}

/// Who carries the network state on.
trait Carrier {
    /// Moves along a delta; false when the whole state is needed.
    fn advance(&mut self, delta: NetworkDelta) -> bool;
    /// Takes the whole state.
    fn replace(&mut self, state: &NetworkState);
}

/// Follows the network state for as long as it runs. `listener` is where the node's DNS answers.
pub(crate) async fn follow(
    node: Arc<Node>,
    listener: SocketAddr,
    zone: watch::Sender<Option<Zone>>,
) {
    let mut states = node.network.subscribe();
    let mut clusters = node.cluster.subscribe();
    loop {
        let generation = *states.borrow_and_update();
        let cluster_changed = clusters.has_changed().unwrap_or(false);
        let cluster = clusters.borrow_and_update().clone();
        let mut again = None;
        // Generation 0 is "nothing known": the kernel keeps what an earlier agent wrote.
        if generation.0 > 0 {
            if cluster_changed {
                // Names may have changed.
                node.network.look_again();
            }
            let vip = cluster.dns_vip;
            node.datapath
                .set_dns(vip.map(|vip| DnsRedirect { vip, listener }));
            node.datapath
                .set_service_ranges(ranges(&cluster.service_cidr).collect());
            node.network.carry_on(Follower {
                node: &node,
                zone: &zone,
                options: zone_options(&cluster),
            });
            again = carry_out(&node).await.err().map(|_| RETRY);
        }
        let pause = async {
            match again {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            changed = clusters.changed() => if changed.is_err() { return },
            () = pause => {}
        }
    }
}

struct Follower<'a> {
    node: &'a Node,
    zone: &'a watch::Sender<Option<Zone>>,
    options: ZoneOptions,
}

impl Follower<'_> {
    fn build(&self, state: &NetworkState) {
        match Zone::build(state, &self.options) {
            Ok(built) => drop(self.zone.send_replace(Some(built))),
            Err(error) => {
                tracing::error!(%error, domain = self.options.domain, "no DNS zone");
            }
        }
    }
}

impl Carrier for Follower<'_> {
    fn advance(&mut self, delta: NetworkDelta) -> bool {
        if self.zone.borrow().is_none() {
            return false;
        }
        self.zone.send_modify(|zone| {
            if let Some(zone) = zone {
                zone.apply(&delta);
            }
        });
        self.node.datapath.advance(delta).is_ok()
    }

    fn replace(&mut self, state: &NetworkState) {
        self.node.datapath.set_state(state);
        self.build(state);
    }
}

async fn carry_out(node: &Node) -> Result<(), DatapathError> {
    let started = std::time::Instant::now();
    let generation = node.datapath.generation();
    let applied = node.datapath.carry_out().await.inspect_err(|error| {
        tracing::error!(%generation, %error, "network state not applied");
        node.outbox.ack(|ack| ack.network_fault = error.to_string());
    })?;
    tracing::debug!(
        %generation,
        rows = applied.rows,
        routes = applied.routes,
        refused = applied.refused.len(),
        micros = started.elapsed().as_micros(),
        "network state applied"
    );
    node.applied.send_replace(generation);
    node.outbox.ack(|ack| {
        ack.network_generation = generation.0;
        ack.network_fault.clear();
    });
    let refused = node
        .network
        .read(|state| refused::left_out(&applied.refused, state));
    tell_refused(node, refused);
    Ok(())
}

/// Says what has no room, once until it changes; the first time that everything has.
fn tell_refused(node: &Node, refused: v1::Refusals) {
    let first = !node.refused_told.swap(true, Ordering::Relaxed);
    let news = node.refused.send_if_modified(|told| {
        let changed = *told != refused;
        if changed {
            told.clone_from(&refused);
        }
        changed
    });
    if let (true, Some(full)) = (news, refused::condition(&refused)) {
        tracing::error!(full, "the datapath's tables have no room");
    }
    if news || first {
        node.outbox.refusals(refused);
    }
}

fn zone_options(cluster: &Cluster) -> ZoneOptions {
    let both = ranges(&cluster.service_cidr).chain(ranges(&cluster.pod_cidr));
    ZoneOptions {
        domain: cluster.domain().to_owned(),
        ranges: both.collect(),
        dns_vip: cluster.dns_vip,
    }
}

/// Ranges that a cluster tells of, a comma between them.
fn ranges<T: FromStr>(text: &str) -> impl Iterator<Item = T> {
    text.split(',').filter_map(|range| range.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Vec<u64>);

    impl Carrier for &mut Heard {
        fn advance(&mut self, delta: NetworkDelta) -> bool {
            self.0.push(delta.to.0);
            delta.to.0 != 13
        }
        fn replace(&mut self, state: &NetworkState) {
            self.0.push(state.generation.0 + 1000);
        }
    }

    fn state(generation: u64) -> NetworkState {
        NetworkState {
            generation: Generation(generation),
            ..NetworkState::default()
        }
    }

    fn heard(network: &Network) -> Vec<u64> {
        let mut heard = Heard::default();
        network.carry_on(&mut heard);
        heard.0
    }

    #[test]
    fn deltas_are_carried_on_one_by_one_and_the_whole_state_when_they_do_not_lead_there() {
        let network = Network::new(state(9));
        assert_eq!(heard(&network), [1009], "first of all everything");
        let step = |from: u64| network.advance(state(from).delta_to(&state(from + 1)));
        step(9).unwrap();
        step(10).unwrap();
        assert_eq!(heard(&network), [10, 11]);
        assert_eq!(heard(&network), [0u64; 0]);
        step(11).unwrap();
        step(12).unwrap();
        step(13).unwrap();
        assert_eq!(heard(&network), [12, 13, 1014], "the carrier lost its way");
        step(20).unwrap_err();
        assert_eq!(network.generation(), Generation(0), "asks for everything");
        network.replace(state(30));
        assert_eq!(network.generation(), Generation(30));
        assert_eq!(heard(&network), [1030]);
        network.look_again();
        assert_eq!(heard(&network), [1030]);
    }
}
