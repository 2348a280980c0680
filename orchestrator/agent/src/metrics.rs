//! The node's metrics, gathered when somebody asks: verdicts of the datapath, how full its tables are, what runs here and
//! what it uses. How they are written is the server's.

use std::sync::Arc;

use waggle_datapath::{Occupancy, Tallies, Tally, Verdict};
use waggle_model::network::NetworkState;
use waggle_wire::v1;

use crate::node::Node;
use crate::pods::table::Table;

type Labels<'a> = &'a [(&'a str, &'a str)];

/// One metric with its samples.
struct Family(v1::MetricFamily);

impl Family {
    fn new(name: &str, help: &str, counter: bool) -> Self {
        Self(v1::MetricFamily {
            name: name.to_owned(),
            help: help.to_owned(),
            counter,
            samples: Vec::new(),
        })
    }

    fn counter(name: &str, help: &str) -> Self {
        Self::new(name, help, true)
    }

    fn gauge(name: &str, help: &str) -> Self {
        Self::new(name, help, false)
    }

    fn add(&mut self, labels: Labels<'_>, value: f64) {
        let label = |(name, value): &(&str, &str)| v1::MetricLabel {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        };
        let labels = labels.iter().map(label).collect();
        self.0.samples.push(v1::MetricSample { labels, value });
    }

    fn with(mut self, labels: Labels<'_>, value: f64) -> Self {
        self.add(labels, value);
        self
    }
}

/// Exact up to 2^53, which nothing here reaches.
#[expect(
    clippy::cast_precision_loss,
    reason = "samples of this format are floating-point numbers"
)]
fn number(value: u64) -> f64 {
    value as f64
}

/// Everything there is to tell.
pub(crate) async fn gather(node: &Arc<Node>, table: &Table) -> v1::Metrics {
    let of_datapath = Arc::clone(node);
    let of_datapath = tokio::task::spawn_blocking(move || datapath_families(&of_datapath));
    let mut families = of_datapath.await.unwrap_or_default();
    families.extend(state_families(node));
    families.extend(usage_families(node, table).await);
    v1::Metrics {
        families: families.into_iter().map(|family| family.0).collect(),
    }
}

fn datapath_families(node: &Node) -> Vec<Family> {
    let datapath = &node.datapath;
    let tallies = datapath.counters().unwrap_or_else(|error| {
        tracing::warn!(%error, "the datapath's counters can't be read");
        Vec::new()
    });
    let mut tables = datapath.occupancy();
    match datapath.recent_occupancy() {
        Ok(recent) => tables.extend(recent),
        Err(error) => tracing::warn!(%error, "the datapath's flows can't be counted"),
    }
    let mut families = verdicts(&tallies);
    match datapath.tallies() {
        Ok(tallies) => families.extend(node.network.read(|state| objects(&tallies, state))),
        Err(error) => {
            tracing::warn!(%error, "what services and policies did can't be read");
        }
    }
    families.extend(pressure(&tables));
    families
}

fn verdicts(tallies: &[Tally]) -> Vec<Family> {
    let mut packets = Family::counter(
        "waggle_datapath_verdicts_total",
        "Packets and calls that were given a verdict, by its reason. Exact: counted in the kernel, by CPU.",
    );
    let mut bytes = Family::counter(
        "waggle_datapath_verdict_bytes_total",
        "Bytes of the packets that were given a verdict, from the Ethernet header on; calls have none.",
    );
    let mut lost = Family::counter(
        "waggle_datapath_events_lost_total",
        "Drops that were counted but found no room to be reported in the flow log.",
    );
    for tally in tallies {
        let Some(verdict) = Verdict::of(tally.reason) else {
            lost.add(&[], number(tally.packets));
            continue;
        };
        let labels = [("reason", tally.reason.key()), ("verdict", verdict.key())];
        packets.add(&labels, number(tally.packets));
        bytes.add(&labels, number(tally.bytes));
    }
    vec![packets, bytes, lost]
}

/// What services and policies did, by their names.
fn objects(tallies: &Tallies, state: &NetworkState) -> [Family; 4] {
    let mut calls = Family::counter(
        "waggle_service_calls_total",
        "Calls and datagrams to a service that were sent to one of its backends.",
    );
    let mut refused = Family::counter(
        "waggle_service_refused_total",
        "Calls to a service that found no backend, or came from outside of its source ranges.",
    );
    for (id, tally) in tallies.services() {
        let Some(service) = state.services.get(id) else {
            continue;
        };
        let labels = [
            ("namespace", service.namespace.as_str()),
            ("service", service.name.as_str()),
        ];
        calls.add(&labels, number(tally.calls));
        refused.add(&labels, number(tally.refused));
    }
    let mut allowed = Family::counter(
        "waggle_policy_allowed_total",
        "Flows that a rule of a NetworkPolicy let through.",
    );
    let mut denied = Family::counter(
        "waggle_policy_denied_total",
        "Packets and calls that no NetworkPolicy of a pod allowed, for each policy that selects it.",
    );
    for (id, tally) in tallies.policies() {
        let Some(policy) = state.policies.get(id) else {
            continue;
        };
        let labels = [
            ("namespace", policy.namespace.as_str()),
            ("policy", policy.name.as_str()),
        ];
        allowed.add(&labels, number(tally.allowed));
        for (direction, count) in [
            ("egress", tally.denied_egress),
            ("ingress", tally.denied_ingress),
        ] {
            denied.add(
                &[("direction", direction), labels[0], labels[1]],
                number(count),
            );
        }
    }
    [calls, refused, allowed, denied]
}

fn pressure(tables: &[Occupancy]) -> [Family; 3] {
    let mut rows = Family::gauge(
        "waggle_datapath_table_rows",
        "Rows in a table of the datapath.",
    );
    let mut limits = Family::gauge(
        "waggle_datapath_table_limit_rows",
        "Rows that a table of the datapath can hold.",
    );
    let mut shares = Family::gauge(
        "waggle_datapath_table_pressure",
        "How full a table of the datapath is, from 0 to 1.",
    );
    for table in tables {
        let labels = [("table", table.table.as_str())];
        let limit = f64::from(table.limit);
        let there = number(table.rows as u64);
        rows.add(&labels, there);
        limits.add(&labels, limit);
        shares.add(&labels, there / limit.max(1.0));
    }
    [rows, limits, shares]
}

fn state_families(node: &Node) -> Vec<Family> {
    let applied = node.applied.borrow().0;
    let (services, endpoints, policies) = node.network.read(|state| {
        let of = |length: usize| number(length as u64);
        (
            of(state.services.len()),
            of(state.endpoints.len()),
            of(state.policies.len()),
        )
    });
    let gauge = |name: &str, help: &str, value: f64| Family::gauge(name, help).with(&[], value);
    vec![
        gauge(
            "waggle_network_generation",
            "Generation of the network state that is in the kernel.",
            number(applied),
        ),
        gauge(
            "waggle_network_services",
            "Services that this node knows.",
            services,
        ),
        gauge(
            "waggle_network_endpoints",
            "Addresses of pods that this node knows.",
            endpoints,
        ),
        gauge(
            "waggle_network_policies",
            "NetworkPolicies that this node knows.",
            policies,
        ),
    ]
}

async fn usage_families(node: &Node, table: &Table) -> [Family; 4] {
    let mut cpu = Family::counter(
        "container_cpu_usage_seconds_total",
        "CPU time that a container has used since it was started, seconds.",
    );
    let mut memory = Family::gauge(
        "container_memory_working_set_bytes",
        "Memory that a container uses and that can't be reclaimed at once, bytes.",
    );
    let running = table.running();
    let client = node.containers.client().await;
    for (pod, container) in &running {
        let Ok(used) = client.usage(&pod.uid, container).await else {
            continue;
        };
        let labels = [
            ("container", container.as_str()),
            ("namespace", pod.namespace.as_str()),
            ("pod", pod.name.as_str()),
        ];
        cpu.add(&labels, number(used.cpu_ns) / 1e9);
        memory.add(&labels, number(used.memory_bytes));
    }
    let pods = number(table.count() as u64);
    let containers = number(running.len() as u64);
    [
        Family::gauge("kubelet_running_pods", "Pods on this node.").with(&[], pods),
        Family::gauge(
            "kubelet_running_containers",
            "Containers that run on this node.",
        )
        .with(&[("container_state", "running")], containers),
        cpu,
        memory,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use waggle_datapath::Reason;

    #[test]
    fn verdicts_keep_their_counts_and_lost_events_are_no_verdict() {
        let tally = |reason, packets| Tally {
            reason,
            packets,
            bytes: 10 * packets,
        };
        let families = verdicts(&[tally(Reason::TenantWall, 7), tally(Reason::EventLost, 3)]);
        let samples = |index: usize| families[index].0.samples.as_slice();
        let (packets, bytes, lost) = (samples(0), samples(1), samples(2));
        assert_eq!((packets.len(), packets[0].value), (1, 7.0));
        assert_eq!(packets[0].labels[0].value, "tenant_wall");
        assert_eq!(packets[0].labels[1].value, "drop");
        assert_eq!((bytes.len(), bytes[0].value), (1, 70.0));
        assert_eq!((lost.len(), lost[0].value), (1, 3.0));
    }

    #[test]
    fn pressure_is_the_share_of_rows_in_use() {
        let [rows, limits, shares] = pressure(&[Occupancy {
            table: "service".into(),
            rows: 3,
            limit: 12,
        }]);
        let value = |family: &Family| family.0.samples[0].value;
        assert_eq!(
            (value(&rows), value(&limits), value(&shares)),
            (3.0, 12.0, 0.25)
        );
    }
}
