//! How a node and the pods on it are laid out. Pure.

use jiff::Timestamp;
use serde_json::Value;
use waggle_model::{Bytes, MilliCpu, Quantity};

use super::fields::{head, list, pairs, show, time};
use crate::age;

/// Requests of a pod: thousandths of a core, bytes.
fn requests(pod: &Value) -> (MilliCpu, Bytes) {
    let mut sum = (MilliCpu(0), Bytes(0));
    for container in list(&pod["spec"]["containers"]) {
        let amount = |name: &str| {
            container["resources"]["requests"][name]
                .as_str()
                .and_then(|text| text.parse::<Quantity>().ok())
        };
        sum.0 = sum
            .0
            .saturating_add(amount("cpu").map(MilliCpu::from).unwrap_or_default());
        sum.1 = sum
            .1
            .saturating_add(amount("memory").map(Bytes::from).unwrap_or_default());
    }
    sum
}

/// A node and the pods on it.
pub(super) fn node(node: &Value, pods: &[Value], now: Timestamp) -> String {
    let (metadata, spec, status) = (&node["metadata"], &node["spec"], &node["status"]);
    let mut text = head(node, false);
    text.push_str(&pairs("Labels", "", &metadata["labels"], "="));
    text.push_str(&pairs("Annotations", "", &metadata["annotations"], ": "));
    text.push_str(&format!(
        "CreationTimestamp:\t{}\n",
        show(&metadata["creationTimestamp"])
    ));
    let taints: Vec<String> = list(&spec["taints"])
        .iter()
        .map(|taint| {
            let value = taint["value"]
                .as_str()
                .map(|value| format!("={value}"))
                .unwrap_or_default();
            format!("{}{value}:{}", show(&taint["key"]), show(&taint["effect"]))
        })
        .collect();
    text.push_str(&format!(
        "Taints:\t{}\n",
        if taints.is_empty() {
            "<none>".to_owned()
        } else {
            taints.join("\n\t")
        }
    ));
    text.push_str(&format!(
        "Unschedulable:\t{}\n",
        spec["unschedulable"] == true
    ));
    text.push_str("Conditions:\n  Type\tStatus\tLastHeartbeatTime\tReason\tMessage\n  ----\t------\t-----------------\t------\t-------\n");
    for condition in list(&status["conditions"]) {
        let message = condition["message"].as_str().unwrap_or_default();
        text.push_str(&format!(
            "  {}\t{}\t{}\t{}\t{message}\n",
            show(&condition["type"]),
            show(&condition["status"]),
            time(&condition["lastHeartbeatTime"], now),
            show(&condition["reason"])
        ));
    }
    text.push_str("Addresses:\n");
    for address in list(&status["addresses"]) {
        text.push_str(&format!(
            "  {}:\t{}\n",
            show(&address["type"]),
            show(&address["address"])
        ));
    }
    for (title, field) in [
        ("Capacity", "capacity"),
        ("Allocatable", "allocatable"),
        ("System Info", "nodeInfo"),
    ] {
        text.push_str(&format!("{title}:\n"));
        for (key, value) in status[field].as_object().into_iter().flatten() {
            text.push_str(&format!("  {key}:\t{}\n", show(value)));
        }
    }
    text.push_str(&format!("PodCIDR:\t{}\n", show(&spec["podCIDR"])));
    text.push_str(&node_pods(pods, now));
    text.push_str(&allocated(status, pods));
    text
}

fn running(pods: &[Value]) -> impl Iterator<Item = &Value> {
    pods.iter().filter(|pod| {
        !matches!(
            pod["status"]["phase"].as_str(),
            Some("Succeeded" | "Failed")
        )
    })
}

fn node_pods(pods: &[Value], now: Timestamp) -> String {
    let mut text = format!(
        "Non-terminated Pods:\t({} in total)\n",
        running(pods).count()
    );
    text.push_str("  Namespace\tName\tCPU Requests\tMemory Requests\tAge\n  ---------\t----\t------------\t---------------\t---\n");
    for pod in running(pods) {
        let (cpu, memory) = requests(pod);
        let age = age::since(
            pod["metadata"]["creationTimestamp"]
                .as_str()
                .unwrap_or_default(),
            now,
        );
        let name = |field: &str| show(&pod["metadata"][field]);
        text.push_str(&format!(
            "  {}\t{}\t{cpu}\t{memory}\t{age}\n",
            name("namespace"),
            name("name")
        ));
    }
    text
}

fn allocated(status: &Value, pods: &[Value]) -> String {
    let (cpu, memory) = running(pods)
        .map(requests)
        .fold((MilliCpu(0), Bytes(0)), |sum, one| {
            (sum.0.saturating_add(one.0), sum.1.saturating_add(one.1))
        });
    let room = |name: &str| {
        status["allocatable"][name]
            .as_str()
            .and_then(|text| text.parse::<Quantity>().ok())
    };
    let percent = |part: i64, whole: Option<i64>| match whole {
        Some(whole) if whole > 0 => format!(" ({}%)", part.saturating_mul(100) / whole),
        _ => String::new(),
    };
    let cpu_share = percent(
        cpu.0,
        room("cpu").map(|quantity| MilliCpu::from(quantity).0),
    );
    let memory_share = percent(
        memory.0,
        room("memory").map(|quantity| Bytes::from(quantity).0),
    );
    format!(
        "Allocated resources:\n  Resource\tRequests\n  --------\t--------\n  cpu\t{cpu}{cpu_share}\n  memory\t{memory}{memory_share}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    #[test]
    fn a_node_adds_up_requests() {
        let object = json!({"metadata": {"name": "node1"}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}});
        let of = |phase: &str| {
            json!({"metadata": {"name": "p", "namespace": "d", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"resources": {"requests": {"cpu": "500m", "memory": "256Mi"}}}]}, "status": {"phase": phase}})
        };
        let text = node(
            &object,
            &[of("Running"), of("Pending"), of("Failed")],
            now(),
        );
        assert!(
            text.contains("cpu\t1 (50%)\n") && text.contains("memory\t512Mi (50%)\n"),
            "{text}"
        );
        assert!(text.contains("(2 in total)"), "{text}");
    }
}
