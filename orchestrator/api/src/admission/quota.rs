//! ResourceQuotas: what an object uses of one, whether a new object fits, and what is used in all.

use serde_json::Value;

use super::amounts::{Amount, Amounts, add, of_pod, read};
use crate::Resource;
use crate::walk::{at, has, list, text};

/// What of a quota's resources one object uses.
fn used_by(resource: &Resource, object: &Value) -> Amounts {
    let mut used = Amounts::new();
    let one = Amount::whole(1);
    used.insert(format!("count/{}", resource.qualified()), one);
    match (resource.group, resource.kind) {
        ("", "Pod") => {
            if is_over(object) {
                return used;
            }
            used.insert("pods".into(), one);
            for which in ["requests", "limits"] {
                for (name, amount) in of_pod(&object["spec"], which) {
                    if which == "requests" {
                        used.insert(name.clone(), amount);
                    }
                    used.insert(format!("{which}.{name}"), amount);
                }
            }
        }
        ("", "PersistentVolumeClaim") => {
            used.insert("persistentvolumeclaims".into(), one);
            let storage = text(object, &["spec", "resources", "requests", "storage"]);
            let storage = Amount::parse(storage).unwrap_or_default();
            used.insert("requests.storage".into(), storage);
            let class = text(object, &["spec", "storageClassName"]);
            if !class.is_empty() {
                let prefix = format!("{class}.storageclass.storage.k8s.io");
                used.insert(format!("{prefix}/requests.storage"), storage);
                used.insert(format!("{prefix}/persistentvolumeclaims"), one);
            }
        }
        ("", "Service") => {
            used.insert("services".into(), one);
            let ports = list(object, &["spec", "ports"]).len();
            let kind = text(object, &["spec", "type"]);
            let balanced = kind == "LoadBalancer";
            if balanced {
                used.insert("services.loadbalancers".into(), one);
            }
            let without = at(object, &["spec", "allocateLoadBalancerNodePorts"]) == false;
            if kind == "NodePort" || balanced && !without {
                used.insert("services.nodeports".into(), Amount::whole(ports));
            }
        }
        ("", "ReplicationController" | "ResourceQuota" | "Secret" | "ConfigMap") => {
            used.insert(resource.plural.into(), one);
        }
        _ => {}
    }
    used
}

/// Whether a change may need more of a quota than the object has now.
pub fn may_need_more(resource: &Resource, old: &Value, new: &Value) -> bool {
    let deadline = |value: &Value| at(value, &["spec", "activeDeadlineSeconds"]).clone();
    let had = used_by(resource, old);
    let more = |(name, amount): (&String, &Amount)| {
        amount.milli > had.get(name).map_or(0, |had| had.milli)
    };
    used_by(resource, new).iter().any(more) || deadline(old) != deadline(new)
}

/// A pod that has ended uses nothing.
fn is_over(pod: &Value) -> bool {
    matches!(text(pod, &["status", "phase"]), "Succeeded" | "Failed")
}

/// Whether a quota is about this object: its scopes all fit. Scopes are about pods only.
fn covers(quota: &Value, resource: &Resource, object: &Value) -> bool {
    let scopes = list(quota, &["spec", "scopes"])
        .iter()
        .filter_map(Value::as_str);
    let expressions = list(quota, &["spec", "scopeSelector", "matchExpressions"]);
    let is_pod = resource.kind == "Pod" && resource.group.is_empty();
    let mut any = false;
    for scope in scopes {
        any = true;
        if !is_pod || !fits(scope, "Exists", &[], object) {
            return false;
        }
    }
    for one in expressions {
        any = true;
        let (scope, operator) = (text(one, &["scopeName"]), text(one, &["operator"]));
        if !is_pod || !fits(scope, operator, list(one, &["values"]), object) {
            return false;
        }
    }
    any || expressions.is_empty()
}

fn fits(scope: &str, operator: &str, values: &[Value], pod: &Value) -> bool {
    let spec = &pod["spec"];
    let ends = spec["activeDeadlineSeconds"]
        .as_i64()
        .is_some_and(|seconds| seconds >= 0);
    let asks = || {
        let all = ["initContainers", "containers"];
        let mut all = all.iter().flat_map(|field| list(spec, &[field]));
        all.any(|one| {
            let resources = &one["resources"];
            let of = |which: &str| read(&resources[which]);
            of("requests")
                .into_iter()
                .chain(of("limits"))
                .any(|(name, amount)| {
                    matches!(name.as_str(), "cpu" | "memory") && amount.milli != 0
                })
        })
    };
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => !asks(),
        "NotBestEffort" => asks(),
        "PriorityClass" => {
            let class = text(spec, &["priorityClassName"]);
            let named = values.iter().any(|value| value == class);
            match operator {
                "In" => named,
                "NotIn" => !named,
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        "CrossNamespacePodAffinity" => crosses(spec),
        _ => false,
    }
}

/// Whether the pod's affinity looks into other namespaces.
fn crosses(spec: &Value) -> bool {
    let reaches =
        |term: &Value| !list(term, &["namespaces"]).is_empty() || has(term, &["namespaceSelector"]);
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = at(spec, &["affinity", kind]);
        let hard = list(
            affinity,
            &["requiredDuringSchedulingIgnoredDuringExecution"],
        )
        .iter();
        let soft = list(
            affinity,
            &["preferredDuringSchedulingIgnoredDuringExecution"],
        )
        .iter();
        hard.chain(soft.map(|one| &one["podAffinityTerm"]))
            .any(reaches)
    })
}

/// What objects use of a quota's resources; every resource that the quota names is there.
pub fn used<'a>(
    quota: &Value,
    objects: impl IntoIterator<Item = (&'static Resource, &'a Value)>,
) -> Vec<(String, Amount)> {
    let mut all = Amounts::new();
    for (resource, object) in objects {
        if covers(quota, resource, object) {
            add(&mut all, &used_by(resource, object));
        }
    }
    let hard = read(at(quota, &["spec", "hard"])).into_keys();
    hard.map(|name| {
        let amount = all.get(&name).copied().unwrap_or_default();
        (name, amount)
    })
    .collect()
}

/// Whether a quota wants to know of objects of this kind.
pub fn concerns(quota: &Value, resource: &Resource) -> bool {
    let name = format!("count/{}", resource.qualified());
    let hard = read(at(quota, &["spec", "hard"]));
    hard.contains_key(&name)
        || match (resource.group, resource.kind) {
            ("", "Pod") => hard.keys().any(|name| is_compute(name)),
            ("", "Service") => hard.keys().any(|name| name.starts_with("services")),
            ("", "PersistentVolumeClaim") => hard.keys().any(|name| {
                name.ends_with("requests.storage") || name.ends_with("persistentvolumeclaims")
            }),
            ("", "ReplicationController" | "ResourceQuota" | "Secret" | "ConfigMap") => {
                hard.contains_key(resource.plural)
            }
            _ => false,
        }
}

fn is_compute(name: &str) -> bool {
    let others = [
        "services",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
    ];
    !(name.starts_with("count/")
        || name.starts_with("services")
        || name.ends_with("requests.storage")
        || others.contains(&name)
        || name.ends_with("/persistentvolumeclaims"))
}

/// Why an object does not fit into a quota beside what is used of it; `None` when it does. `old` is what it is now,
/// counted in `used`, when it is no new one: only what it wants beyond that has to fit.
pub fn refusal(
    quota: &Value,
    used: &[(String, Amount)],
    resource: &Resource,
    object: &Value,
    old: Option<&Value>,
) -> Option<String> {
    if !covers(quota, resource, object) {
        return None;
    }
    let name = text(quota, &["metadata", "name"]);
    let hard = read(at(quota, &["spec", "hard"]));
    let mut wanted = used_by(resource, object);
    if let Some(old) = old.filter(|old| covers(quota, resource, old)) {
        for (name, had) in used_by(resource, old) {
            if let Some(own) = wanted.get_mut(&name) {
                *own = own.minus(had);
            }
        }
    }
    if old.is_none() && resource.kind == "Pod" && resource.group.is_empty() {
        let missing = unspecified(&hard, &object["spec"]);
        if !missing.is_empty() {
            return Some(format!(
                "failed quota: {name}: must specify {}",
                missing.join("; ")
            ));
        }
    }
    let (mut requested, mut taken, mut limited) = (Vec::new(), Vec::new(), Vec::new());
    for (what, used) in used {
        let (Some(most), Some(more)) = (hard.get(what), wanted.get(what)) else {
            continue;
        };
        if more.milli > 0 && used.plus(*more).milli > most.milli {
            requested.push(format!("{what}={more}"));
            taken.push(format!("{what}={used}"));
            limited.push(format!("{what}={most}"));
        }
    }
    if requested.is_empty() {
        return None;
    }
    Some(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        requested.join(","),
        taken.join(","),
        limited.join(",")
    ))
}

/// CPU and memory that a quota bounds must be said by every container: `limits.cpu for: web`.
fn unspecified(hard: &Amounts, spec: &Value) -> Vec<String> {
    let mut missing = Vec::new();
    for name in hard.keys() {
        let (which, resource) = match name.as_str() {
            "cpu" | "memory" => ("requests", name.as_str()),
            _ => match name.split_once('.') {
                Some((which @ ("requests" | "limits"), resource @ ("cpu" | "memory"))) => {
                    (which, resource)
                }
                _ => continue,
            },
        };
        let says = |one: &Value| {
            let resources = &one["resources"];
            has(resources, &[which, resource])
                || which == "requests" && has(resources, &["limits", resource])
        };
        let containers = ["initContainers", "containers"];
        let names: Vec<&str> = containers
            .iter()
            .flat_map(|field| list(spec, &[field]))
            .filter(|one| !says(one))
            .map(|one| text(one, &["name"]))
            .collect();
        if !names.is_empty() {
            missing.push(format!("{name} for: {}", names.join(",")));
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup_name;
    use serde_json::json;

    fn quota(hard: Value, more: Value) -> Value {
        let mut quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
        for (field, value) in more.as_object().into_iter().flatten() {
            quota["spec"][field.as_str()] = value.clone();
        }
        quota
    }

    fn pod(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    fn check(quota: &Value, there: &[(&str, Value)], new: (&str, Value), expect: Option<&str>) {
        let row = |kind: &str| lookup_name(kind).unwrap();
        let used = used(quota, there.iter().map(|(kind, value)| (row(kind), value)));
        let found = refusal(quota, &used, row(new.0), &new.1, None);
        assert_eq!(found.as_deref(), expect);
        assert!(concerns(quota, row(new.0)));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_all_three_figures() {
        let two = quota(json!({"pods": "2", "requests.cpu": "1"}), json!({}));
        check(&two, &[("pod", pod("500m"))], ("pod", pod("500m")), None);
        check(
            &two,
            &[("pod", pod("500m"))],
            ("pod", pod("600m")),
            Some(
                "exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=500m, limited: requests.cpu=1",
            ),
        );
        let mut over = pod("1");
        over["status"] = json!({"phase": "Succeeded"});
        check(&two, &[("pod", over)], ("pod", pod("1")), None);
        check(
            &two,
            &[],
            ("pod", json!({"spec": {"containers": [{"name": "c"}]}})),
            Some("failed quota: q: must specify requests.cpu for: c"),
        );
        let few = quota(json!({"count/deployments.apps": "0"}), json!({}));
        check(
            &few,
            &[],
            ("deploy", json!({})),
            Some(
                "exceeded quota: q, requested: count/deployments.apps=1, used: count/deployments.apps=0, limited: count/deployments.apps=0",
            ),
        );
        let ports = quota(json!({"services.nodeports": "1"}), json!({}));
        let service = json!({"spec": {"type": "NodePort", "ports": [{}, {}]}});
        check(
            &ports,
            &[],
            ("svc", service),
            Some(
                "exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1",
            ),
        );
        let storage = quota(json!({"requests.storage": "10Gi"}), json!({}));
        let claim = json!({"spec": {"resources": {"requests": {"storage": "6Gi"}}}});
        check(
            &storage,
            &[("pvc", claim.clone())],
            ("pvc", claim),
            Some(
                "exceeded quota: q, requested: requests.storage=6Gi, used: requests.storage=6Gi, limited: requests.storage=10Gi",
            ),
        );
    }

    #[test]
    fn a_change_needs_room_for_what_it_adds() {
        let check = |hard: Value, kind: &str, old: Value, new: Value, expect: Option<&str>| {
            let (quota, row) = (quota(hard, json!({})), lookup_name(kind).unwrap());
            let used = used(&quota, [(row, &old)]);
            let found = refusal(&quota, &used, row, &new, Some(&old));
            assert_eq!(found.as_deref(), expect);
        };
        let cpu = json!({"requests.cpu": "1", "pods": "1"});
        check(cpu.clone(), "pod", pod("500m"), pod("1"), None);
        check(cpu.clone(), "pod", pod("2"), pod("1500m"), None);
        let why = "exceeded quota: q, requested: requests.cpu=700m, used: requests.cpu=500m, limited: requests.cpu=1";
        check(cpu, "pod", pod("500m"), pod("1200m"), Some(why));
        let service = |kind: &str| json!({"spec": {"type": kind, "ports": [{}, {}]}});
        let why = "exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1";
        let ports = json!({"services.nodeports": "1", "services": "1"});
        check(
            ports,
            "svc",
            service("ClusterIP"),
            service("NodePort"),
            Some(why),
        );
    }

    #[test]
    fn scopes_choose_pods() {
        let short = quota(json!({"pods": "0"}), json!({"scopes": ["Terminating"]}));
        check(&short, &[], ("pod", pod("1")), None);
        let mut job = pod("1");
        job["spec"]["activeDeadlineSeconds"] = json!(5);
        check(
            &short,
            &[],
            ("pod", job),
            Some("exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0"),
        );
        let best = quota(json!({"pods": "0"}), json!({"scopes": ["BestEffort"]}));
        check(&best, &[], ("pod", pod("1")), None);
        let high = quota(
            json!({"pods": "0"}),
            json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}}),
        );
        check(&high, &[], ("pod", pod("1")), None);
        let mut important = pod("1");
        important["spec"]["priorityClassName"] = json!("high");
        check(
            &high,
            &[],
            ("pod", important),
            Some("exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0"),
        );
    }
}
