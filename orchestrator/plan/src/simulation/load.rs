//! Load that rises and falls: what pods really use, and what an autoscaler may make of it.

use serde_json::{Value, json};

use super::node::{Machine, Phase};
use super::workload::NAMESPACE;
use crate::autoscaler::{ContainerUsage, Usage};
use crate::world::World;
use crate::{Plan, Snapshot, Write};

/// The Deployment whose size follows the load.
pub(super) const SCALED: &str = "front";
/// Between which sizes.
const BOUNDS: (i64, i64) = (2, 6);
/// What each pod should use, thousandths of a core.
const TARGET: i64 = 100;
/// Seconds for which the largest proposal holds.
const CALM: i64 = 120;
/// Seconds in which no more than so many pods are added, and taken away.
const PERIOD: i64 = 30;
const RATES: (i64, i64) = (2, 1);

/// The load in the end, and the size that it asks for.
pub(super) const LAST_LOAD: i64 = 350;
pub(super) const LAST_SIZE: u64 = 4;

/// The autoscaler, and where the load is written down.
pub(super) fn put(world: &mut World) {
    let rule = |rate: i64, window: i64| {
        json!({"stabilizationWindowSeconds": window, "selectPolicy": "Max",
            "policies": [{"type": "Pods", "value": rate, "periodSeconds": PERIOD}]})
    };
    world.put(
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": SCALED, "namespace": NAMESPACE},
        "spec": {"minReplicas": BOUNDS.0, "maxReplicas": BOUNDS.1,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": SCALED},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "AverageValue", "averageValue": format!("{TARGET}m")}}}],
            "behavior": {"scaleUp": rule(RATES.0, 0), "scaleDown": rule(RATES.1, CALM)}}}),
    );
    set(world, 2 * TARGET);
}

/// So much is asked of all pods together from now on.
pub(super) fn set(world: &mut World, milli: i64) {
    world.put(json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "load", "namespace": NAMESPACE}, "data": {"milli": milli}}));
}

/// What the pods use that run: each its part of the load.
pub(super) fn usage(world: &World, machines: &[Machine]) -> Usage {
    let load = world.get("ConfigMap", NAMESPACE, "load");
    let load = load.and_then(|one| one["data"]["milli"].as_i64());
    let pods = machines.iter().flat_map(|one| one.pods.values());
    let running = pods.filter(|one| one.phase == Phase::Running);
    let names: Vec<&String> = running
        .map(|one| &one.name)
        .filter(|name| name.starts_with("front-"))
        .collect();
    let each = load.unwrap_or(0) / i64::try_from(names.len().max(1)).unwrap_or(1);
    let used = names.into_iter().map(|name| {
        let one = ContainerUsage {
            name: "main".to_owned(),
            cpu_milli: each,
            memory_bytes: 0,
        };
        ((NAMESPACE.to_owned(), name.clone()), vec![one])
    });
    used.collect()
}

/// What one server's autoscaler decided since it began, and since its clock was set last.
#[derive(Default)]
pub(super) struct Decisions {
    /// When, from which size and to which.
    made: Vec<(i64, i64, i64)>,
    /// When it first looked, by a clock that doesn't jump; unless its own clock jumped.
    since: Option<i64>,
    jumped: bool,
}

impl Decisions {
    /// The clock that they are made by was set: windows end sooner or later than they would.
    pub(super) fn jump(&mut self) {
        self.made.clear();
        self.jumped = true;
    }

    /// Takes note of a plan of the autoscaler, and says what it may not do.
    pub(super) fn judge(&mut self, view: &Snapshot, plan: &Plan, elapsed: i64) -> Vec<String> {
        let since = *self.since.get_or_insert(elapsed);
        let mut faults = Vec::new();
        for write in &plan.writes {
            let Write::Update(value) = write else {
                continue;
            };
            let Some((from, to)) = change(view, value) else {
                continue;
            };
            if !(BOUNDS.0..=BOUNDS.1).contains(&to) {
                faults.push(format!("{SCALED} is to have {to} pods"));
            }
            let lately = |seconds: i64| {
                let made = self.made.iter();
                made.filter(move |one| one.0 > elapsed - seconds)
            };
            let sizes = lately(PERIOD).map(|one| one.2 - one.1);
            let (up, down) = sizes.chain([to - from]).fold((0, 0), |(up, down), change| {
                (up + change.max(0), down + (-change).max(0))
            });
            if up > RATES.0 || down > RATES.1 {
                faults.push(format!("{SCALED} changes by {up} and {down} in {PERIOD} s"));
            }
            // What was asked for within the window still is; what was asked for before it began nobody knows.
            let unknown = !self.jumped && elapsed - since < CALM;
            if to < from && (unknown || lately(CALM).any(|one| one.2 > one.1 && one.2 > to)) {
                faults.push(format!("{SCALED} falls to {to} without {CALM} s of calm"));
            }
            self.made.push((elapsed, from, to));
        }
        faults
    }
}

/// From which size to which the Deployment is brought.
fn change(view: &Snapshot, value: &Value) -> Option<(i64, i64)> {
    let is_scaled = value["kind"] == "Deployment" && value["metadata"]["name"] == SCALED;
    let there = view.deployments.get(NAMESPACE, SCALED)?;
    let from = i64::from(there.spec.replicas.unwrap_or(1));
    let to = value["spec"]["replicas"].as_i64()?;
    (is_scaled && from != to).then_some((from, to))
}
