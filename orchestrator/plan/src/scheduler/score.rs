//! The comparison of nodes that fit: how full they are, evenly used, fewer pods of the same kind, what the pod prefers.
//! Each score is 0 to 100; what each counts for is the profile's.

use super::class::Class;
use super::cluster::{Cluster, NodeState};
use super::config::{Fit, FitKind};
use super::plugin::Plugin;
use crate::pod::Pod;

const MAX: i64 = 100;

/// The best of the nodes that fit, the first of several.
pub(super) fn best(cluster: &Cluster<'_>, class: &Class<'_>, fitting: &[usize]) -> Option<usize> {
    if let &[only] = fitting {
        return Some(only);
    }
    let mut sums = vec![0i64; fitting.len()];
    each(cluster, class, fitting, |_, weight, scores| {
        let rows = sums.iter_mut().zip(scores);
        rows.for_each(|(sum, score)| *sum += weight * score);
    });
    let ranked = fitting.iter().zip(sums);
    ranked
        .min_by_key(|&(&node, sum)| (-sum, cluster.nodes[node].used.pods))
        .map(|(&node, _)| node)
}

/// Tells every score of the nodes that fit, with what it counts for.
pub(super) fn each(
    cluster: &Cluster<'_>,
    class: &Class<'_>,
    fitting: &[usize],
    mut add: impl FnMut(Plugin, i64, &[i64]),
) {
    let mut scores = Vec::with_capacity(fitting.len());
    let mut say = |plugin, scores: &mut Vec<i64>, figures: &mut dyn Iterator<Item = i64>| {
        let weight = class.profile.weight(plugin);
        if weight > 0 {
            scores.clear();
            scores.extend(figures);
            add(plugin, weight, scores);
        }
    };
    let nodes = || fitting.iter().map(|&node| &cluster.nodes[node]);
    let mut full = nodes().map(|node| fullness(node, class));
    say(Plugin::NodeResourcesFit, &mut scores, &mut full);
    let mut even = nodes().map(|node| evenness(node, class.usual));
    say(
        Plugin::NodeResourcesBalancedAllocation,
        &mut scores,
        &mut even,
    );
    if !class.images.is_empty() {
        let mut there = fitting.iter().map(|&node| class.images[node]);
        say(Plugin::ImageLocality, &mut scores, &mut there);
    }
    let mut compare = |plugin, fewer, figure: &dyn Fn(usize) -> i64| {
        let figures: Vec<i64> = fitting.iter().map(|&node| figure(node)).collect();
        if let Some(stretch) = stretched(&figures, fewer) {
            say(
                plugin,
                &mut scores,
                &mut figures.iter().map(|&one| stretch(one)),
            );
        }
    };
    if class.spreads_siblings {
        let siblings = &cluster.siblings[class.siblings];
        compare(Plugin::PodTopologySpread, true, &|node| {
            i64::from(siblings[node])
        });
    }
    for spread in class.spreads.iter().filter(|spread| !spread.hard) {
        compare(Plugin::PodTopologySpread, true, &|node| spread.crowd(node));
    }
    if !class.preferred.is_empty() {
        compare(Plugin::NodeAffinity, false, &|node| class.preferred[node]);
    }
    if !class.unloved.is_empty() {
        compare(Plugin::TaintToleration, true, &|node| class.unloved[node]);
    }
    if class.terms.has_likings() {
        compare(Plugin::InterPodAffinity, false, &|node| {
            class.terms.liking(node)
        });
    }
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

/// Used, asked and whole of a resource on a node; processors and memory with the usual amounts of pods that ask for none.
fn amounts(resource: &str, node: &NodeState<'_>, class: &Class<'_>) -> (i64, i64, i64) {
    let (used, asked, whole) = (&node.used, &class.requests, &node.whole);
    match resource {
        "cpu" => (node.usual.0, class.usual.0, whole.cpu),
        "memory" => (node.usual.1, class.usual.1, whole.memory),
        "ephemeral-storage" => (used.ephemeral, asked.ephemeral, whole.ephemeral),
        name => {
            let of = |all: &crate::resources::Amounts| all.extended.get(name).copied().unwrap_or(0);
            (of(used), of(asked), of(whole))
        }
    }
}

/// `part` of `whole`, 0 to 100.
fn share(part: i64, whole: i64) -> i64 {
    if whole <= 0 || part <= 0 {
        return 0;
    }
    i64::try_from(i128::from(part) * i128::from(MAX) / i128::from(whole)).unwrap_or(MAX)
}

fn fullness(node: &NodeState<'_>, class: &Class<'_>) -> i64 {
    let Fit { kind, resources } = &class.fit;
    let (mut sum, mut weights) = (0, 0);
    for (resource, weight) in resources {
        let (used, asked, whole) = amounts(resource, node, class);
        if whole <= 0 && !matches!(resource.as_str(), "cpu" | "memory") {
            continue;
        }
        let used = used.saturating_add(asked);
        let score = match kind {
            FitKind::Emptiest => share(whole.saturating_sub(used), whole),
            FitKind::Fullest => share(used.min(whole), whole),
            FitKind::Shape(points) => {
                let used = if whole <= 0 {
                    MAX
                } else {
                    share(used.min(whole), whole)
                };
                match on_shape(points, used) {
                    0 => continue,
                    score => score,
                }
            }
        };
        sum += weight * score;
        weights += weight;
    }
    if weights == 0 { 0 } else { sum / weights }
}

/// What a share is worth by a line through these points.
fn on_shape(points: &[(i64, i64)], used: i64) -> i64 {
    let after = points.iter().position(|point| used <= point.0);
    match after {
        None => points.last().map_or(0, |last| last.1),
        Some(0) => points[0].1,
        Some(index) => {
            let ((left, low), (right, high)) = (points[index - 1], points[index]);
            low + (high - low) * (used - left) / (right - left)
        }
    }
}

fn evenness(node: &NodeState<'_>, more: (i64, i64)) -> i64 {
    let free = |used: i64, asked: i64, whole: i64| {
        share(whole.saturating_sub(used).saturating_sub(asked), whole)
    };
    let cpu = free(node.usual.0, more.0, node.whole.cpu);
    let memory = free(node.usual.1, more.1, node.whole.memory);
    MAX - (cpu - memory).abs() / 2
}

/// How figures become 0 to 100 over the nodes that fit, where `fewer` is better or more is; `None` when all are equal.
fn stretched(figures: &[i64], fewer: bool) -> Option<impl Fn(i64) -> i64 + use<>> {
    let (&least, &most) = (figures.iter().min()?, figures.iter().max()?);
    (least < most).then_some(move |figure: i64| {
        let part = (figure - least) * MAX / (most - least);
        if fewer { MAX - part } else { part }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_a_line_through_its_points() {
        let shape = [(0, 0), (50, 100), (100, 20)];
        let worth = [0, 25, 50, 75, 100].map(|used| on_shape(&shape, used));
        assert_eq!(worth, [0, 50, 100, 60, 20]);
        assert_eq!(on_shape(&[(40, 30), (60, 70)], 10), 30);
        assert_eq!(on_shape(&[(40, 30), (60, 70)], 90), 70);
    }
}
