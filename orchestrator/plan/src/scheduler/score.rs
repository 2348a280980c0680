//! The comparison of nodes that fit: emptier, evenly used, fewer pods of the same kind, what the pod prefers. Each
//! score is 0 to 100; the weights are those of Kubernetes' default profile.

use k8s_openapi::api::core::v1::Pod;

use super::class::Class;
use super::cluster::{Cluster, NodeState};

const MAX: i64 = 100;
const WEIGHT_EMPTY: i64 = 1;
const WEIGHT_BALANCED: i64 = 1;
const WEIGHT_AFFINITY: i64 = 2;
const WEIGHT_TAINTS: i64 = 3;
const WEIGHT_SPREAD: i64 = 2;
const WEIGHT_PODS: i64 = 2;

/// The best of the nodes that fit, the first of several.
pub(super) fn best(cluster: &Cluster<'_>, class: &Class<'_>, fitting: &[usize]) -> Option<usize> {
    if let &[only] = fitting {
        return Some(only);
    }
    let mut scores: Vec<i64> = fitting
        .iter()
        .map(|&node| own(&cluster.nodes[node], class.usual))
        .collect();
    if !class.images.is_empty() {
        let parts = scores.iter_mut().zip(fitting);
        parts.for_each(|(score, &node)| *score += class.images[node]);
    }
    let siblings = &cluster.siblings[class.siblings];
    weigh(&mut scores, fitting, WEIGHT_SPREAD, true, |node| {
        i64::from(siblings[node])
    });
    for spread in class.spreads.iter().filter(|spread| !spread.hard) {
        weigh(&mut scores, fitting, WEIGHT_SPREAD, true, |node| {
            spread.crowd(node)
        });
    }
    if !class.preferred.is_empty() {
        weigh(&mut scores, fitting, WEIGHT_AFFINITY, false, |node| {
            class.preferred[node]
        });
    }
    if !class.unloved.is_empty() {
        weigh(&mut scores, fitting, WEIGHT_TAINTS, true, |node| {
            class.unloved[node]
        });
    }
    if !class.terms.is_empty() {
        weigh(&mut scores, fitting, WEIGHT_PODS, false, |node| {
            class.terms.liking(node)
        });
    }
    let ranked = fitting.iter().zip(scores);
    ranked
        .min_by_key(|&(&node, score)| (-score, cluster.nodes[node].used.pods))
        .map(|(&node, _)| node)
}

/// Bytes below which images on a node count nothing, and above which, for each container, they count fully.
const IMAGE_BYTES: (i64, i64) = (23 << 20, 1000 << 20);

/// How much of a pod's images each node has, 0 to 100; images that few nodes have count less, so that not all pods
/// gather there.
pub(super) fn images(pod: &Pod, cluster: &Cluster<'_>) -> Vec<i64> {
    if cluster.nodes.iter().all(|node| node.images.is_empty()) {
        return Vec::new();
    }
    let count = i64::try_from(cluster.nodes.len()).unwrap_or(i64::MAX);
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let wanted: Vec<&str> = containers.filter_map(|one| one.image.as_deref()).collect();
    let mut bytes = vec![0i64; cluster.nodes.len()];
    for name in &wanted {
        let there = cluster
            .nodes
            .iter()
            .filter(|node| node.images.contains_key(name));
        let spread = i64::try_from(there.count()).unwrap_or(0);
        for (sum, node) in bytes.iter_mut().zip(&cluster.nodes) {
            *sum += node
                .images
                .get(name)
                .map_or(0, |size| size / count * spread);
        }
    }
    let most = IMAGE_BYTES
        .1
        .saturating_mul(i64::try_from(wanted.len().max(1)).unwrap_or(1));
    let scaled =
        |sum: i64| MAX * (sum.clamp(IMAGE_BYTES.0, most) - IMAGE_BYTES.0) / (most - IMAGE_BYTES.0);
    bytes.into_iter().map(scaled).collect()
}

/// What the node alone is worth.
fn own(node: &NodeState<'_>, more: (i64, i64)) -> i64 {
    let free = |used: i64, asked: i64, whole: i64| {
        let left = whole.saturating_sub(used).saturating_sub(asked);
        if whole <= 0 || left <= 0 {
            0
        } else {
            i64::try_from(i128::from(left) * i128::from(MAX) / i128::from(whole)).unwrap_or(0)
        }
    };
    let cpu = free(node.usual.0, more.0, node.whole.cpu);
    let memory = free(node.usual.1, more.1, node.whole.memory);
    let balanced = MAX - (cpu - memory).abs() / 2;
    WEIGHT_EMPTY * (cpu + memory) / 2 + WEIGHT_BALANCED * balanced
}

/// Adds `weight` times each node's figure, stretched to 0..100 over the nodes that fit; `fewer` is better or more is.
fn weigh(
    scores: &mut [i64],
    fitting: &[usize],
    weight: i64,
    fewer: bool,
    figure: impl Fn(usize) -> i64,
) {
    let figures: Vec<i64> = fitting.iter().map(|&node| figure(node)).collect();
    let (Some(&least), Some(&most)) = (figures.iter().min(), figures.iter().max()) else {
        return;
    };
    if least == most {
        return;
    }
    for (score, figure) in scores.iter_mut().zip(figures) {
        let part = (figure - least) * MAX / (most - least);
        *score += weight * if fewer { MAX - part } else { part };
    }
}
