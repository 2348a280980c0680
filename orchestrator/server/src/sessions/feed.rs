//! The network state as nodes receive it: each state is encoded once, each step between two is encoded once, and a
//! node that was away is brought up to date by the steps it missed, or by a snapshot when those are no longer kept.

use std::collections::VecDeque;
use std::sync::OnceLock;

use bytes::Bytes;
use waggle_model::Generation;
use waggle_model::network::{NetworkDelta, NetworkState};

/// Steps kept for nodes that lag or come back.
const KEPT_STEPS: usize = 1024;
/// Bytes of steps kept; beyond that a snapshot is cheaper.
const KEPT_BYTES: usize = 16 << 20;

/// One published state.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// The state.
    pub(crate) state: NetworkState,
    snapshot: OnceLock<Bytes>,
}

impl Published {
    /// The state's message, encoded when first asked for.
    pub(crate) fn snapshot(&self) -> Bytes {
        self.snapshot
            .get_or_init(|| waggle_wire::encode_snapshot(&self.state))
            .clone()
    }
}

#[derive(Debug)]
struct Step {
    from: Generation,
    bytes: Bytes,
}

/// What brings a node to the newest state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Catchup {
    /// It is there.
    Nothing,
    /// These steps, in order.
    Steps(Vec<Bytes>),
    /// The whole state.
    Snapshot(Bytes),
}

/// The newest network state and the steps that led to it.
#[derive(Debug)]
pub(crate) struct Feed {
    current: Published,
    steps: VecDeque<Step>,
    bytes: usize,
}

impl Feed {
    /// Nothing published. The first state gets the generation after `before`, so that a server that starts with a
    /// number it has never used keeps the order across its own restarts.
    pub(crate) fn new(before: Generation) -> Self {
        let state = NetworkState {
            generation: before,
            ..NetworkState::default()
        };
        Self {
            current: Published {
                state,
                snapshot: OnceLock::new(),
            },
            steps: VecDeque::new(),
            bytes: 0,
        }
    }

    /// The newest state.
    pub(crate) fn current(&self) -> &Published {
        &self.current
    }

    /// Publishes what `delta` leads to from the newest state; one that changes nothing is not published. True when it was.
    pub(crate) fn publish(&mut self, delta: NetworkDelta, first: bool) -> bool {
        if delta.is_empty() && !first {
            return false;
        }
        let from = self.current.state.generation;
        let bytes = waggle_wire::encode_delta(&delta);
        if let Err(gap) = self.current.state.apply(delta) {
            tracing::error!(%gap, "a change of the network state starts elsewhere");
            return false;
        }
        self.current.snapshot = OnceLock::new();
        if !first {
            self.bytes += bytes.len();
            self.steps.push_back(Step { from, bytes });
        }
        while self.steps.len() > KEPT_STEPS || self.bytes > KEPT_BYTES {
            self.bytes -= self.steps.pop_front().map_or(0, |step| step.bytes.len());
        }
        true
    }

    /// What a node at generation `at` of this server's history needs.
    pub(crate) fn since(&self, at: Generation) -> Catchup {
        if at == self.current.state.generation {
            return Catchup::Nothing;
        }
        // Every node asks, and most ask for the last.
        let first = self.steps.partition_point(|step| step.from < at);
        match self.steps.get(first).filter(|step| step.from == at) {
            Some(_) => Catchup::Steps(
                self.steps
                    .range(first..)
                    .map(|step| step.bytes.clone())
                    .collect(),
            ),
            None => Catchup::Snapshot(self.current.snapshot()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waggle_model::network::NodeNetwork;

    fn state(nodes: u8) -> NetworkState {
        let node = |index: u8| NodeNetwork {
            name: format!("node{index}"),
            addresses: vec![[172, 30, 0, index].into()],
            pod_cidrs: vec!["10.244.0.0/24".parse().unwrap()],
            zone: String::new(),
        };
        let nodes = (0..nodes)
            .map(|index| (format!("node{index}"), node(index)))
            .collect();
        NetworkState {
            nodes,
            ..NetworkState::default()
        }
    }

    /// Publishes a state.
    fn publish(feed: &mut Feed, next: NetworkState, first: bool) -> bool {
        let before = &feed.current().state;
        let delta = before.delta_to(&NetworkState {
            generation: before.generation.next(),
            ..next
        });
        feed.publish(delta, first)
    }

    #[test]
    fn any_kept_generation_is_led_to_the_newest() {
        let mut feed = Feed::new(Generation(100));
        assert!(publish(&mut feed, state(1), true));
        assert!(
            !publish(&mut feed, state(1), false),
            "an equal state is no news"
        );
        let mut nodes: Vec<NetworkState> = vec![feed.current().state.clone()];
        for count in [2, 3, 1, 5] {
            assert!(publish(&mut feed, state(count), false));
            nodes.push(feed.current().state.clone());
        }
        for mut node in nodes {
            match feed.since(node.generation) {
                Catchup::Nothing => {}
                Catchup::Steps(steps) => {
                    for step in steps {
                        node.apply(waggle_wire::decode_delta(step).unwrap())
                            .unwrap();
                    }
                }
                Catchup::Snapshot(_) => panic!("generation {} is kept", node.generation),
            }
            assert_eq!(node, feed.current().state);
        }
    }

    #[test]
    fn an_unknown_generation_gets_the_same_snapshot() {
        let mut feed = Feed::new(Generation(100));
        publish(&mut feed, state(1), true);
        let (Catchup::Snapshot(one), Catchup::Snapshot(two)) =
            (feed.since(Generation(0)), feed.since(Generation(100)))
        else {
            panic!("generations 0 and 100 were never published")
        };
        assert_eq!(one.as_ptr(), two.as_ptr(), "encoded once");
        assert_eq!(
            waggle_wire::decode_snapshot(one).unwrap(),
            feed.current().state
        );
    }

    #[test]
    fn steps_are_bounded() {
        let mut feed = Feed::new(Generation(0));
        publish(&mut feed, state(1), true);
        for round in 0..KEPT_STEPS + 10 {
            publish(&mut feed, state(if round % 2 == 0 { 2 } else { 1 }), false);
        }
        assert!(matches!(feed.since(Generation(1)), Catchup::Snapshot(_)));
        let newest = feed.current().state.generation;
        assert!(
            matches!(feed.since(Generation(newest.0 - 1)), Catchup::Steps(steps) if steps.len() == 1)
        );
    }
}
