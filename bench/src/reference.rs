//! A plain scheduler to compare placements with: one pod at a time, every node looked at, the emptiest one that fits.
//! And what is wrong with a placement, counted from the placement alone.

use crate::cases::{Case, Wish};

/// Milli-cores of a node, and the most pods that it takes.
const CPU: i64 = 4000;
const PODS: i64 = 110;

/// How full the nodes are.
pub(crate) struct Placement {
    /// Milli-cores asked for and number of pods on each node.
    nodes: Vec<(i64, i64)>,
    /// Measured pods on each node.
    own: Vec<i64>,
    zones: Vec<i64>,
}

impl Placement {
    pub(crate) fn new(case: &Case) -> Self {
        Self {
            nodes: vec![(0, 0); case.nodes],
            own: vec![0; case.nodes],
            zones: vec![0; case.zones()],
        }
    }

    /// Counts a pod; `own` says that it is of the measured kind.
    pub(crate) fn add(&mut self, node: usize, cpu: i64, own: bool) {
        self.nodes[node].0 += cpu;
        self.nodes[node].1 += 1;
        if own {
            self.own[node] += 1;
            let zone = node % self.zones.len();
            self.zones[zone] += 1;
        }
    }

    /// A pod leaves.
    pub(crate) fn remove(&mut self, node: usize, cpu: i64) {
        self.nodes[node].0 -= cpu;
        self.nodes[node].1 -= 1;
    }

    /// Whether a pod may be put there.
    pub(crate) fn admits(&self, wish: Wish, node: usize, cpu: i64) -> bool {
        let (used, pods) = self.nodes[node];
        let named = matches!(wish, Wish::Named(_));
        let room = used + cpu <= CPU && (named || pods < PODS);
        room && match wish {
            Wish::Room => true,
            Wish::Alone => self.own[node] == 0,
            Wish::Named(one) => one == node,
            Wish::Even(skew) => {
                let least = self.zones.iter().min().copied().unwrap_or(0);
                self.zones[node % self.zones.len()] + 1 - least <= skew
            }
        }
    }

    /// Puts a pod on the emptiest node that admits it. False when none does.
    pub(crate) fn place(&mut self, wish: Wish, cpu: i64) -> bool {
        let fitting = (0..self.nodes.len()).filter(|&node| self.admits(wish, node, cpu));
        let best = fitting.min_by_key(|&node| self.nodes[node]);
        if let Some(node) = best {
            self.add(node, cpu, true);
        }
        best.is_some()
    }

    /// Standard deviation of the share of CPU that is asked for, in percent.
    #[expect(clippy::cast_precision_loss, reason = "thousands of milli-cores")]
    pub(crate) fn unevenness(&self) -> f64 {
        let shares = self
            .nodes
            .iter()
            .map(|node| node.0 as f64 * 100.0 / CPU as f64);
        let shares: Vec<f64> = shares.collect();
        let count = shares.len() as f64;
        let mean = shares.iter().sum::<f64>() / count;
        let squares = shares.iter().map(|share| (share - mean).powi(2));
        (squares.sum::<f64>() / count).sqrt()
    }
}
