//! LimitRanges: what containers get that ask for nothing, and how much containers, pods and claims may ask for.

use serde_json::Value;

use super::amounts::{Amounts, of_pod, read};
use crate::walk::{at, default, list, list_mut, members, text};

/// Fills in the requests and limits of a new pod's containers.
pub fn fill_in(ranges: &[&Value], pod: &mut Value) {
    let items: Vec<&Value> = items(ranges, "Container").collect();
    for field in ["initContainers", "containers"] {
        for container in list_mut(pod, &["spec", field]) {
            for item in &items {
                fill_in_container(item, container);
            }
        }
    }
}

fn fill_in_container(item: &Value, container: &mut Value) {
    for (name, amount) in members(item, &["defaultRequest"]) {
        // A limit without a request is the request.
        let limit = at(container, &["resources", "limits"])[name.as_str()].clone();
        let amount = if limit.is_null() {
            amount.clone()
        } else {
            limit
        };
        default(container, &["resources", "requests"], name, amount);
    }
    for (name, amount) in members(item, &["default"]) {
        default(container, &["resources", "limits"], name, amount.clone());
    }
}

fn items<'a>(ranges: &[&'a Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    let all: Vec<&'a Value> = ranges
        .iter()
        .flat_map(|range| list(range, &["spec", "limits"]))
        .collect();
    all.into_iter()
        .filter(move |item| text(item, &["type"]) == kind)
}

/// Why an object is not admitted: one text a limit that it breaks.
pub fn faults(ranges: &[&Value], kind: &str, object: &Value) -> Vec<String> {
    let mut out = Vec::new();
    match kind {
        "Pod" => {
            let spec = &object["spec"];
            for item in items(ranges, "Container") {
                for field in ["initContainers", "containers"] {
                    for container in list(spec, &[field]) {
                        let part = |which: &str| read(at(container, &["resources", which]));
                        compare(
                            item,
                            "Container",
                            &part("requests"),
                            &part("limits"),
                            &mut out,
                        );
                    }
                }
            }
            for item in items(ranges, "Pod") {
                let (requests, limits) = (of_pod(spec, "requests"), of_pod(spec, "limits"));
                compare(item, "Pod", &requests, &limits, &mut out);
            }
        }
        "PersistentVolumeClaim" => {
            let requests = read(at(object, &["spec", "resources", "requests"]));
            for item in items(ranges, "PersistentVolumeClaim") {
                bounds_of_claim(item, &requests, &mut out);
            }
        }
        _ => {}
    }
    out.dedup();
    out
}

fn compare(item: &Value, kind: &str, requests: &Amounts, limits: &Amounts, out: &mut Vec<String>) {
    for (name, least) in read(&item["min"]) {
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => out.push(format!(
                "minimum {name} usage per {kind} is {least}.  No request is specified"
            )),
            (Some(asked), _) if asked.milli < least.milli => {
                out.push(format!(
                    "minimum {name} usage per {kind} is {least}, but request is {asked}"
                ));
            }
            (_, Some(limit)) if limit.milli < least.milli => {
                out.push(format!(
                    "minimum {name} usage per {kind} is {least}, but limit is {limit}"
                ));
            }
            _ => {}
        }
    }
    for (name, most) in read(&item["max"]) {
        match (requests.get(&name), limits.get(&name)) {
            (_, None) => out.push(format!(
                "maximum {name} usage per {kind} is {most}.  No limit is specified"
            )),
            (_, Some(limit)) if limit.milli > most.milli => {
                out.push(format!(
                    "maximum {name} usage per {kind} is {most}, but limit is {limit}"
                ));
            }
            (Some(asked), _) if asked.milli > most.milli => {
                out.push(format!(
                    "maximum {name} usage per {kind} is {most}, but request is {asked}"
                ));
            }
            _ => {}
        }
    }
    for (name, ratio) in read(&item["maxLimitRequestRatio"]) {
        let (Some(asked), Some(limit)) = (requests.get(&name), limits.get(&name)) else {
            out.push(format!("{name} max limit to request ratio per {kind} is {ratio}, but no request or limit is specified"));
            continue;
        };
        if limit.milli.saturating_mul(1000) > ratio.milli.saturating_mul(asked.milli) {
            out.push(format!(
                "{name} max limit to request ratio per {kind} is {ratio}, but provided ratio is {}.{:06}",
                limit.milli / asked.milli.max(1),
                (limit.milli % asked.milli.max(1)).saturating_mul(1_000_000) / asked.milli.max(1)
            ));
        }
    }
}

fn bounds_of_claim(item: &Value, requests: &Amounts, out: &mut Vec<String>) {
    let kind = "PersistentVolumeClaim";
    for (name, least) in read(&item["min"]) {
        match requests.get(&name) {
            Some(asked) if asked.milli >= least.milli => {}
            Some(asked) => out.push(format!(
                "minimum {name} usage per {kind} is {least}, but request is {asked}"
            )),
            None => out.push(format!(
                "minimum {name} usage per {kind} is {least}.  No request is specified"
            )),
        }
    }
    for (name, most) in read(&item["max"]) {
        if let Some(asked) = requests.get(&name).filter(|asked| asked.milli > most.milli) {
            out.push(format!(
                "maximum {name} usage per {kind} is {most}, but request is {asked}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn range() -> Value {
        json!({"spec": {"limits": [{"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"},
            "min": {"cpu": "50m"}, "max": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "5"}},
            {"type": "PersistentVolumeClaim", "max": {"storage": "10Gi"}}]}})
    }

    fn pod(resources: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn containers_get_what_they_did_not_ask_for() {
        let range = range();
        for (given, expect) in [
            (
                json!({}),
                json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m"}}),
            ),
            (
                json!({"limits": {"cpu": "1"}}),
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}),
            ),
            (
                json!({"requests": {"cpu": "200m"}}),
                json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "500m"}}),
            ),
        ] {
            let mut pod = pod(given);
            fill_in(&[&range], &mut pod);
            assert_eq!(pod["spec"]["containers"][0]["resources"], expect);
            assert_eq!(faults(&[&range], "Pod", &pod), Vec::<String>::new());
        }
    }

    #[test]
    fn every_bound_is_kept() {
        let range = range();
        let check = |resources: Value, expect: &[&str]| {
            assert_eq!(faults(&[&range], "Pod", &pod(resources)), expect);
        };
        check(
            json!({"requests": {"cpu": "10m"}, "limits": {"cpu": "2"}}),
            &[
                "minimum cpu usage per Container is 50m, but request is 10m",
                "maximum cpu usage per Container is 1, but limit is 2",
                "cpu max limit to request ratio per Container is 5, but provided ratio is 200.000000",
            ],
        );
        let claim = json!({"spec": {"resources": {"requests": {"storage": "11Gi"}}}});
        assert_eq!(
            faults(&[&range], "PersistentVolumeClaim", &claim),
            ["maximum storage usage per PersistentVolumeClaim is 10Gi, but request is 11Gi"]
        );
    }
}
