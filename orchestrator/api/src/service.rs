//! Which fields a type of Service has, and what an update keeps of what was given to the Service before. Values
//! themselves are chosen elsewhere.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::walk::{at, carry, list, list_mut, number, remove, set, text};

/// Whether clients outside the cluster can come in: by node ports, a load balancer or external addresses.
pub fn externally_accessible(service: &Value) -> bool {
    match text(service, &["spec", "type"]) {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !list(service, &["spec", "externalIPs"]).is_empty(),
        _ => false,
    }
}

/// Whether a load balancer asks each node for backends of its own.
pub fn needs_health_check(service: &Value) -> bool {
    text(service, &["spec", "type"]) == "LoadBalancer"
        && text(service, &["spec", "externalTrafficPolicy"]) == "Local"
}

/// Whether its ports may have node ports.
pub fn has_node_ports(service: &Value) -> bool {
    matches!(
        text(service, &["spec", "type"]),
        "NodePort" | "LoadBalancer"
    )
}

/// Whether its ports get node ports that they don't name.
pub fn gets_node_ports(service: &Value) -> bool {
    has_node_ports(service)
        && (text(service, &["spec", "type"]) == "NodePort"
            || at(service, &["spec", "allocateLoadBalancerNodePorts"]) != false)
}

fn has_cluster_ip(service: &Value) -> bool {
    text(service, &["spec", "type"]) != "ExternalName"
}

fn balances(service: &Value) -> bool {
    text(service, &["spec", "type"]) == "LoadBalancer"
}

/// A Service that is replaced keeps what it was given where the new one does not say, and loses what its new type
/// does not have unless the writer set it anew.
pub(crate) fn carry_over(old: &Value, value: &mut Value) {
    // An absent type means the default.
    if text(value, &["spec", "type"]).is_empty() {
        set(value, &["spec"], "type", "ClusterIP");
    }
    if has_cluster_ip(old) && has_cluster_ip(value) {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if at(value, &["spec"])[key].is_null() {
                carry(old, value, &["spec"], key);
            }
        }
    }
    if has_node_ports(old) && has_node_ports(value) {
        keep_node_ports(old, value);
    }
    let without = number(value, &["spec", "healthCheckNodePort"]).unwrap_or(0) == 0;
    if needs_health_check(old) && needs_health_check(value) && without {
        carry(old, value, &["spec"], "healthCheckNodePort");
    }
    drop_foreign(old, value);
}

/// Node ports go on to the ports of the same name.
fn keep_node_ports(old: &Value, value: &mut Value) {
    let before = list(old, &["spec", "ports"]);
    let mut used: BTreeSet<i64> = list(value, &["spec", "ports"])
        .iter()
        .filter_map(node_port)
        .collect();
    for port in list_mut(value, &["spec", "ports"]) {
        if node_port(port).is_some() {
            continue;
        }
        let same = before
            .iter()
            .find(|one| text(one, &["name"]) == text(port, &["name"]));
        if let Some(number) = same.and_then(node_port)
            && used.insert(number)
        {
            set(port, &[], "nodePort", number);
        }
    }
}

fn node_port(port: &Value) -> Option<i64> {
    number(port, &["nodePort"]).filter(|number| *number != 0)
}

/// Which Services have some fields, and the fields.
type Rule = (fn(&Value) -> bool, &'static [&'static str]);

/// Takes away what only the old type had, where the writer left it as it was.
fn drop_foreign(old: &Value, value: &mut Value) {
    let same = |value: &Value, key: &str| old["spec"][key] == value["spec"][key];
    let rules: [Rule; 5] = [
        (|one| !has_cluster_ip(one), &["externalName"]),
        (
            has_cluster_ip,
            &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"],
        ),
        (needs_health_check, &["healthCheckNodePort"]),
        (
            balances,
            &["allocateLoadBalancerNodePorts", "loadBalancerClass"],
        ),
        (externally_accessible, &["externalTrafficPolicy"]),
    ];
    for (has, keys) in rules {
        if !has(old) || has(value) {
            continue;
        }
        for key in keys {
            if same(value, key) {
                remove(value, &["spec"], key);
            }
        }
    }
    if has_node_ports(old) && !has_node_ports(value) {
        let before: BTreeSet<i64> = list(old, &["spec", "ports"])
            .iter()
            .filter_map(node_port)
            .collect();
        for port in list_mut(value, &["spec", "ports"]) {
            if node_port(port).is_some_and(|number| before.contains(&number)) {
                remove(port, &[], "nodePort");
            }
        }
    }
    if balances(old) && !balances(value) {
        set(value, &["status"], "loadBalancer", json!({}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balancer() -> Value {
        json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "allocateLoadBalancerNodePorts": true,
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 30100,
            "ports": [{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30081}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}})
    }

    fn check(old: &Value, mut new: Value, expect: Value) {
        carry_over(old, &mut new);
        assert_eq!(new["spec"], expect);
    }

    #[test]
    fn what_was_given_stays() {
        let wanted = json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "ports": [{"name": "b", "port": 91}, {"name": "new", "port": 92, "nodePort": 30080}, {"name": "a", "port": 90}]}});
        check(
            &balancer(),
            wanted,
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "clusterIP": "10.96.0.9",
                "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "healthCheckNodePort": 30100, "ports": [{"name": "b", "port": 91, "nodePort": 30081},
                {"name": "new", "port": 92, "nodePort": 30080}, {"name": "a", "port": 90}]}),
        );
    }

    #[test]
    fn what_the_new_type_lacks_goes_unless_it_was_set() {
        let mut internal = balancer();
        internal["spec"]["type"] = json!("ClusterIP");
        check(
            &balancer(),
            internal.clone(),
            json!({"type": "ClusterIP", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}),
        );
        carry_over(&balancer(), &mut internal);
        assert_eq!(internal["status"]["loadBalancer"], json!({}));
        let mut alias = balancer();
        alias["spec"]["type"] = json!("ExternalName");
        alias["spec"]["externalName"] = json!("db.example.com");
        alias["spec"]["ports"][0]["nodePort"] = json!(30099);
        check(
            &balancer(),
            alias,
            json!({"type": "ExternalName", "externalName": "db.example.com",
                "ports": [{"name": "a", "port": 80, "nodePort": 30099}, {"name": "b", "port": 81}]}),
        );
    }
}
