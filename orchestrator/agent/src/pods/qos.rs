//! Resources of a pod's containers: QoS class, cgroup limits and how ready the kernel is to kill it for memory.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use waggle_model::{Bytes, MilliCpu};
use waggle_runtime::spec::ResourceSpec;

use super::desired::{Desired, is_sidecar};

/// Processes that one container may have unless the node says otherwise.
pub(super) const PIDS: u64 = 4096;

fn amount(list: Option<&BTreeMap<String, Text>>, name: &str) -> Option<Text> {
    list?.get(name).cloned()
}

fn cpu(text: &Text) -> Option<MilliCpu> {
    text.0.parse().ok().filter(|cpu: &MilliCpu| cpu.0 > 0)
}

fn bytes(text: &Text) -> Option<Bytes> {
    text.0.parse().ok().filter(|bytes: &Bytes| bytes.0 > 0)
}

/// Requests and limits of one container; a missing request is its limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) cpu_request: Option<MilliCpu>,
    pub(crate) cpu_limit: Option<MilliCpu>,
    pub(crate) memory_request: Option<Bytes>,
    pub(crate) memory_limit: Option<Bytes>,
}

/// What `container` asks for.
pub(crate) fn asked(container: &Container) -> Asked {
    let Some(resources) = &container.resources else {
        return Asked::default();
    };
    let (requests, limits) = (resources.requests.as_ref(), resources.limits.as_ref());
    let cpu_limit = amount(limits, "cpu").as_ref().and_then(cpu);
    let memory_limit = amount(limits, "memory").as_ref().and_then(bytes);
    Asked {
        cpu_request: amount(requests, "cpu").as_ref().and_then(cpu).or(cpu_limit),
        cpu_limit,
        memory_request: amount(requests, "memory")
            .as_ref()
            .and_then(bytes)
            .or(memory_limit),
        memory_limit,
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(crate) fn qos_class(pod: &Desired) -> &'static str {
    let all: Vec<Asked> = pod.own_containers().map(asked).collect();
    if all.iter().all(|a| *a == Asked::default()) {
        "BestEffort"
    } else if all.iter().all(|a| {
        a.cpu_limit.is_some()
            && a.memory_limit.is_some()
            && a.cpu_request == a.cpu_limit
            && a.memory_request == a.memory_limit
    }) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// What the pod asks for of something that is counted in bytes: its main containers and sidecars together, or its
/// largest init container if that is more.
pub(crate) fn requested(pod: &Desired, name: &str) -> u64 {
    requested_as(pod, name, |text| bytes(text).map(|b| b.0.unsigned_abs()))
}

/// The same of the processor, milli-cores.
pub(crate) fn requested_cpu(pod: &Desired) -> u64 {
    requested_as(pod, "cpu", |text| cpu(text).map(|c| c.0.unsigned_abs()))
}

fn requested_as(pod: &Desired, name: &str, read: fn(&Text) -> Option<u64>) -> u64 {
    let of = |container: &Container| {
        let resources = container.resources.as_ref();
        let list = |which: fn(&ResourceRequirements) -> Option<&BTreeMap<String, Text>>| {
            amount(resources.and_then(which), name)
                .as_ref()
                .and_then(read)
        };
        list(|r| r.requests.as_ref())
            .or_else(|| list(|r| r.limits.as_ref()))
            .unwrap_or(0)
    };
    let (sidecars, before): (Vec<_>, Vec<_>) =
        pod.init_containers().iter().partition(|c| is_sidecar(c));
    let running = pod.containers().iter().chain(sidecars).map(of).sum();
    before
        .into_iter()
        .map(of)
        .max()
        .map_or(running, |one| running.max(one))
}

/// The container's cgroup limits.
pub(crate) fn limits(container: &Container) -> ResourceSpec {
    let asked = asked(container);
    ResourceSpec {
        cpu_request_milli: asked.cpu_request.map(|cpu| cpu.0.unsigned_abs()),
        cpu_limit_milli: asked.cpu_limit.map(|cpu| cpu.0.unsigned_abs()),
        memory_limit: asked.memory_limit.map(|bytes| bytes.0.unsigned_abs()),
        pids_limit: Some(PIDS),
    }
}

/// Kubernetes' rule: guaranteed pods last, best-effort ones first, the others by the share of memory they asked for.
pub(crate) fn oom_score(pod: &Desired, container: &Container, node_memory: u64) -> i32 {
    match qos_class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let request = asked(container)
                .memory_request
                .map_or(0, |bytes| bytes.0.unsigned_abs());
            let share = request
                .saturating_mul(1000)
                .checked_div(node_memory)
                .unwrap_or(0);
            (1000 - i32::try_from(share.min(1000)).unwrap_or(1000)).clamp(2, 999)
        }
    }
}
