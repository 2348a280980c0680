//! Pods and pod templates.

use serde_json::Value;

use super::{at_least, container, meta, names, one_of, placement, volume};
use crate::Fault;
use crate::walk::{has, list, remove, set, text};

/// Faults of a pod.
pub(crate) fn pod(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("Pod", value, old, &mut out);
    if old.is_some() && has(value, &["spec", "ephemeralContainers"]) {
        // Checked when they were added; `changes` sees to it that they stay.
        let mut rest = value["spec"].clone();
        remove(&mut rest, &[], "ephemeralContainers");
        spec(&rest, "spec", &mut out);
    } else {
        spec(&value["spec"], "spec", &mut out);
    }
    if let Some(old) = old {
        changes(value, old, &mut out);
    }
    out
}

/// Faults of a pod's or template's `spec` at `path`.
pub(super) fn spec(spec: &Value, path: &str, out: &mut Vec<Fault>) {
    if spec.is_null() {
        out.push(Fault::required(path, ""));
        return;
    }
    volume::check(spec, path, out);
    container::all(spec, path, out);
    one_of(
        &spec["restartPolicy"],
        &["Always", "OnFailure", "Never"],
        &format!("{path}.restartPolicy"),
        out,
    );
    dns(spec, path, out);
    at_least(
        &spec["terminationGracePeriodSeconds"],
        0,
        &format!("{path}.terminationGracePeriodSeconds"),
        out,
    );
    at_least(
        &spec["activeDeadlineSeconds"],
        1,
        &format!("{path}.activeDeadlineSeconds"),
        out,
    );
    container::security(
        &spec["securityContext"],
        &format!("{path}.securityContext"),
        out,
    );
    for (field, rule) in [
        ("hostname", names::label as fn(&str) -> Option<&'static str>),
        ("subdomain", names::label),
        ("nodeName", names::subdomain),
        ("serviceAccountName", names::subdomain),
        ("priorityClassName", names::subdomain),
        ("schedulerName", names::qualified_name),
    ] {
        let given = text(spec, &[field]);
        if let Some(rule) = (!given.is_empty()).then(|| rule(given)).flatten() {
            out.push(Fault::invalid(format!("{path}.{field}"), given, rule));
        }
    }
    host_aliases(spec, path, out);
    sysctls(spec, path, out);
    placement::check(spec, path, out);
    unsupported(spec, path, out);
}

fn dns(spec: &Value, path: &str, out: &mut Vec<Fault>) {
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(
        &spec["dnsPolicy"],
        &policies,
        &format!("{path}.dnsPolicy"),
        out,
    );
    let servers = list(spec, &["dnsConfig", "nameservers"]);
    let place = format!("{path}.dnsConfig.nameservers");
    if spec["dnsPolicy"] == "None" && servers.is_empty() {
        out.push(Fault::required(
            place.clone(),
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        ));
    }
    for (index, server) in servers.iter().enumerate() {
        let server = server.as_str().unwrap_or_default();
        if server.parse::<std::net::IpAddr>().is_err() {
            out.push(Fault::invalid(
                format!("{place}[{index}]"),
                server,
                "must be a valid IP address",
            ));
        }
    }
    if servers.len() > 3 {
        out.push(Fault::too_many(place, servers.len(), 3));
    }
}

fn host_aliases(spec: &Value, path: &str, out: &mut Vec<Fault>) {
    for (index, alias) in list(spec, &["hostAliases"]).iter().enumerate() {
        let path = format!("{path}.hostAliases[{index}]");
        let address = text(alias, &["ip"]);
        if address.parse::<std::net::IpAddr>().is_err() {
            out.push(Fault::invalid(
                format!("{path}.ip"),
                address,
                "must be a valid IP address",
            ));
        }
        for (index, name) in list(alias, &["hostnames"]).iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            if let Some(rule) = names::subdomain(name) {
                out.push(Fault::invalid(
                    format!("{path}.hostnames[{index}]"),
                    name,
                    rule,
                ));
            }
        }
    }
}

/// Those that Kubernetes calls safe: of the pod's own namespaces, and no burden on other pods.
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

fn sysctls(spec: &Value, path: &str, out: &mut Vec<Fault>) {
    let mut seen = std::collections::BTreeSet::new();
    let all = list(spec, &["securityContext", "sysctls"]);
    for (index, one) in all.iter().enumerate() {
        let name = text(one, &["name"]).replace('/', ".");
        let place = format!("{path}.securityContext.sysctls[{index}].name");
        if name.is_empty() {
            out.push(Fault::required(place, ""));
        } else if !SYSCTLS.contains(&name.as_str()) {
            out.push(Fault::not_supported(place, name.as_str(), &SYSCTLS));
        } else if spec["hostNetwork"] == true && name.starts_with("net.") {
            let why = "may not be specified when 'hostNetwork' is true";
            out.push(Fault::invalid(place, name, why));
        } else if spec["hostIPC"] == true && name.starts_with("kernel.shm") {
            let why = "may not be specified when 'hostIPC' is true";
            out.push(Fault::invalid(place, name, why));
        } else if !seen.insert(name.clone()) {
            out.push(Fault::duplicate(place, name.as_str()));
        }
    }
}

/// What would change the meaning of the pod if it were passed over, and can't be done yet.
fn unsupported(spec: &Value, path: &str, out: &mut Vec<Fault>) {
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let place = format!("{path}.shareProcessNamespace");
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        out.push(Fault::invalid(place, true, why));
    }
    if spec["hostUsers"] == false {
        let why = "this cluster doesn't give pods a user namespace of their own";
        out.push(Fault::forbidden(format!("{path}.hostUsers"), why));
    }
    let fields = [
        (
            "runtimeClassName",
            "this cluster has one container runtime and no runtime classes",
        ),
        (
            "resourceClaims",
            "this cluster has no dynamic resource allocation",
        ),
        (
            "resources",
            "this cluster limits containers, not whole pods",
        ),
        (
            "hostnameOverride",
            "this cluster has no hostname override; use hostname",
        ),
        (
            "overhead",
            "only a runtime class sets it, and this cluster has none",
        ),
        (
            "evictionResponders",
            "this cluster asks nobody before it evicts; use a PodDisruptionBudget",
        ),
    ];
    for (field, why) in fields {
        if has(spec, &[field]) {
            out.push(Fault::forbidden(format!("{path}.{field}"), why));
        }
    }
    if has(spec, &["os", "name"]) {
        one_of(
            &spec["os"]["name"],
            &["linux"],
            &format!("{path}.os.name"),
            out,
        );
    }
}

/// What an update may change of a pod's spec: images, a nearer deadline, more tolerations, fewer gates.
fn changes(value: &Value, old: &Value, out: &mut Vec<Fault>) {
    deadline(
        &value["spec"]["activeDeadlineSeconds"],
        &old["spec"]["activeDeadlineSeconds"],
        out,
    );
    let kept = list(old, &["spec", "tolerations"]);
    let now = list(value, &["spec", "tolerations"]);
    if !kept.iter().all(|one| now.contains(one)) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        let same = |a: &Value, b: &Value| {
            ["key", "operator", "value", "effect"]
                .iter()
                .all(|field| a[*field] == b[*field])
        };
        if !kept
            .iter()
            .all(|one| now.iter().any(|other| same(one, other)))
        {
            out.push(Fault::forbidden("spec.tolerations", detail));
        }
    }
    let gates = list(old, &["spec", "schedulingGates"]);
    if list(value, &["spec", "schedulingGates"])
        .iter()
        .any(|one| !gates.contains(one))
    {
        out.push(Fault::forbidden(
            "spec.schedulingGates",
            "only deletion is allowed",
        ));
    }
    if unchangeable(value) != unchangeable(old) {
        let detail = "pod updates may not change fields other than `spec.containers[*].image`, \
                      `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions \
                      to existing tolerations), `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it \
                      was previously negative)";
        let changed = differing(&unchangeable(value), &unchangeable(old));
        out.push(Fault::forbidden(
            "spec",
            format!("{detail}; changed: {changed}"),
        ));
    }
}

fn deadline(new: &Value, old: &Value, out: &mut Vec<Fault>) {
    let path = "spec.activeDeadlineSeconds";
    match (new.as_i64(), old.as_i64()) {
        (Some(new), Some(old)) if new > old => {
            let detail = format!("must be less than or equal to previous value of {old}");
            out.push(Fault::invalid(path, new, detail));
        }
        (None, Some(_)) => out.push(Fault::invalid(
            path,
            Value::Null,
            "must not update from a positive integer to nil value",
        )),
        _ => {}
    }
}

/// The spec without what an update may change.
fn unchangeable(pod: &Value) -> Value {
    let mut pod = pod.clone();
    for group in ["containers", "initContainers"] {
        for one in crate::walk::list_mut(&mut pod, &["spec", group]) {
            set(one, &[], "image", "");
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        remove(&mut pod, &["spec"], field);
    }
    crate::walk::at_mut(&mut pod, &["spec"])
        .map(Value::take)
        .unwrap_or_default()
}

/// Names of the members in which two objects differ.
fn differing(new: &Value, old: &Value) -> String {
    let keys = |value: &Value| {
        value
            .as_object()
            .map(|map| map.keys().cloned().collect())
            .unwrap_or_default()
    };
    let mut all: std::collections::BTreeSet<String> = keys(new);
    all.extend::<std::collections::BTreeSet<String>>(keys(old));
    all.retain(|key| new[key] != old[key]);
    all.into_iter()
        .map(|key| format!("spec.{key}"))
        .collect::<Vec<_>>()
        .join(", ")
}
