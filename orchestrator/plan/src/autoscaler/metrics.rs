//! How many replicas each metric asks for, from the measured usage of the target's pods. Pods that are not ready or not
//! measured never make a change larger than it would be without them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HorizontalPodAutoscaler, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use waggle_model::Quantity;

use super::Target;
use crate::pod::{self, Pod};
use crate::{Snapshot, selector};

/// A change smaller than this part of what is wanted is none.
const TOLERANCE: f64 = 0.1;

/// Measured usage of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Its name.
    pub name: String,
    /// Thousandths of a core.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
}

/// Measured usage by pod (namespace, name).
pub type Usage = BTreeMap<(String, String), Vec<ContainerUsage>>;

/// What all metrics together ask for.
pub(super) struct Measured {
    /// The largest number; `None` when no metric could be measured.
    pub(super) replicas: Option<i32>,
    pub(super) statuses: Vec<MetricStatus>,
    /// Which metric asked for it, or why none did.
    pub(super) why: String,
}

/// A metric of the pods' resources.
struct Source<'a> {
    resource: &'a str,
    container: Option<&'a str>,
    target: &'a MetricTarget,
}

pub(super) fn measure(
    snapshot: &Snapshot,
    one: &HorizontalPodAutoscaler,
    target: &Target,
    _now: Timestamp,
    usage: &Usage,
) -> Measured {
    let exact = target.selector.match_labels.as_ref();
    let pods = snapshot.pods_labelled(&target.namespace, exact);
    let mine = |one: &&Arc<Pod>| selector::matches(&target.selector, one.metadata.labels.as_ref());
    let pods: Vec<&Arc<Pod>> = pods
        .filter(mine)
        .filter(|one| pod::is_active(one))
        .collect();
    let mut measured = Measured {
        replicas: None,
        statuses: Vec::new(),
        why: "no metrics are given".to_owned(),
    };
    for spec in one.spec.metrics.iter().flatten() {
        let Some(source) = source(spec) else {
            measured.why = format!(
                "metrics of type {} are not measured in this cluster",
                spec.type_
            );
            continue;
        };
        match ask(&source, &pods, target.replicas, usage) {
            Ok((replicas, value)) => {
                measured.statuses.push(status(spec, &source, value));
                if measured.replicas.is_none_or(|most| replicas > most) {
                    measured.replicas = Some(replicas);
                    measured.why = format!(
                        "the HPA was able to successfully calculate a replica count from {} resource",
                        source.resource
                    );
                }
            }
            Err(why) if measured.replicas.is_none() => measured.why = why,
            Err(_) => {}
        }
    }
    measured
}

fn source(spec: &MetricSpec) -> Option<Source<'_>> {
    if let Some(one) = &spec.resource {
        return Some(Source {
            resource: &one.name,
            container: None,
            target: &one.target,
        });
    }
    let one = spec.container_resource.as_ref()?;
    Some(Source {
        resource: &one.name,
        container: Some(&one.container),
        target: &one.target,
    })
}

/// Usage and request of a pod, in thousandths of a core or bytes; `None` when it is not measured.
fn of_pod(source: &Source<'_>, pod: &Pod, usage: &Usage) -> (Option<i64>, i64) {
    let counts = |name: &str| source.container.is_none_or(|wanted| wanted == name);
    let key = (
        pod.metadata.namespace.clone().unwrap_or_default(),
        pod.metadata.name.clone().unwrap_or_default(),
    );
    let used = usage.get(&key).map(|all| {
        let own = all.iter().filter(|one| counts(&one.name));
        own.map(|one| {
            if source.resource == "cpu" {
                one.cpu_milli
            } else {
                one.memory_bytes
            }
        })
        .sum()
    });
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let requests = containers
        .filter(|one| counts(&one.name))
        .filter_map(|one| {
            let text = one.resources.requests.get(source.resource)?;
            amount(source, text)
        });
    (used, requests.sum())
}

fn amount(source: &Source<'_>, text: &Text) -> Option<i64> {
    let quantity: Quantity = text.0.parse().ok()?;
    Some(if source.resource == "cpu" {
        i64::try_from(quantity.milli()).unwrap_or(i64::MAX)
    } else {
        quantity.value()
    })
}

/// Replicas that this metric asks for, and (average usage, percent of requests).
type Answer = (i32, (i64, Option<i32>));

fn ask(
    source: &Source<'_>,
    pods: &[&Arc<Pod>],
    current: i32,
    usage: &Usage,
) -> Result<Answer, String> {
    let (mut known, mut unready, mut missing) = (Vec::new(), 0, 0);
    let mut requests = Vec::new();
    for one in pods {
        let (used, request) = of_pod(source, one, usage);
        if source.target.average_utilization.is_some() && request == 0 {
            let name = one.metadata.name.as_deref().unwrap_or_default();
            return Err(format!(
                "missing request for {} in a container of Pod {name}",
                source.resource
            ));
        }
        match used {
            None => missing += 1,
            Some(_) if source.resource == "cpu" && !pod::is_ready(one) => unready += 1,
            Some(used) => known.push(used),
        }
        requests.push(request);
    }
    if known.is_empty() {
        return Err(format!(
            "no metrics returned for {} of its pods",
            source.resource
        ));
    }
    let count = |amount: usize| f64::from(i32::try_from(amount).unwrap_or(i32::MAX));
    #[expect(clippy::cast_precision_loss, reason = "usage far below 2^52")]
    let total = |all: &[i64]| all.iter().sum::<i64>() as f64;
    let mean_request = total(&requests) / count(requests.len());
    let wanted = wanted(source, mean_request)?;
    let average = total(&known) / count(known.len());
    let percent = (mean_request > 0.0).then(|| whole(average / mean_request * 100.0));
    let value = (i64::from(whole(average)), percent);
    let ratio = average / wanted;
    // Upwards, pods that are not ready count as idle and unmeasured ones too; downwards, unmeasured ones as busy.
    let (more, idle) = if ratio > 1.0 {
        (0.0, unready + missing)
    } else {
        (count(missing) * wanted, missing)
    };
    if unready + missing == 0 {
        let replicas = if (ratio - 1.0).abs() <= TOLERANCE {
            current
        } else {
            up(ratio * count(known.len()))
        };
        return Ok((replicas, value));
    }
    let all = count(known.len() + idle);
    let adjusted = (total(&known) + more) / all / wanted;
    let turned = (ratio > 1.0) != (adjusted > 1.0);
    if (adjusted - 1.0).abs() <= TOLERANCE || turned {
        return Ok((current, value));
    }
    let replicas = up(adjusted * all);
    let overshot = (adjusted < 1.0 && replicas > current) || (adjusted > 1.0 && replicas < current);
    Ok((if overshot { current } else { replicas }, value))
}

/// What each pod should use.
fn wanted(source: &Source<'_>, mean_request: f64) -> Result<f64, String> {
    let wanted = match (
        source.target.average_utilization,
        &source.target.average_value,
    ) {
        (Some(percent), _) => f64::from(percent) / 100.0 * mean_request,
        #[expect(clippy::cast_precision_loss, reason = "amounts far below 2^52")]
        (None, Some(text)) => amount(source, text).unwrap_or(0) as f64,
        (None, None) => 0.0,
    };
    if wanted > 0.0 {
        Ok(wanted)
    } else {
        Err(format!(
            "the target for {} is not positive",
            source.resource
        ))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "saturates, as wanted")]
fn up(number: f64) -> i32 {
    (number - 1e-9).ceil() as i32
}

#[expect(clippy::cast_possible_truncation, reason = "saturates, as wanted")]
fn whole(number: f64) -> i32 {
    number as i32
}

fn status(
    spec: &MetricSpec,
    source: &Source<'_>,
    (average, percent): (i64, Option<i32>),
) -> MetricStatus {
    let text = if source.resource == "cpu" {
        format!("{average}m")
    } else {
        average.to_string()
    };
    let current = MetricValueStatus {
        average_utilization: percent.filter(|_| source.target.average_utilization.is_some()),
        average_value: Some(Text(text)),
        value: None,
    };
    let mut status = MetricStatus {
        type_: spec.type_.clone(),
        ..MetricStatus::default()
    };
    let name = source.resource.to_owned();
    match source.container {
        None => status.resource = Some(ResourceMetricStatus { current, name }),
        Some(container) => {
            let container = container.to_owned();
            status.container_resource = Some(ContainerResourceMetricStatus {
                container,
                current,
                name,
            });
        }
    }
    status
}
