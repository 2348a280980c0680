//! Defaults of Services. Addresses are chosen elsewhere.

use serde_json::Value;

use crate::service::externally_accessible;
use crate::walk::{default, has, list_mut, remove, set, text};

pub(crate) fn service(value: &mut Value) {
    default(value, &["spec"], "type", "ClusterIP");
    default(value, &["spec"], "sessionAffinity", "None");
    match text(value, &["spec", "sessionAffinity"]) {
        "ClientIP" => default(
            value,
            &["spec", "sessionAffinityConfig", "clientIP"],
            "timeoutSeconds",
            10_800,
        ),
        "None" => drop(remove(value, &["spec"], "sessionAffinityConfig")),
        _ => {}
    }
    let kind = text(value, &["spec", "type"]).to_owned();
    if kind != "ExternalName" {
        default(value, &["spec"], "internalTrafficPolicy", "Cluster");
    }
    if externally_accessible(value) {
        default(value, &["spec"], "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default(value, &["spec"], "allocateLoadBalancerNodePorts", true);
    }
    for port in list_mut(value, &["spec", "ports"]) {
        default(port, &[], "protocol", "TCP");
        let number = port["port"].clone();
        if !has(port, &["targetPort"]) || port["targetPort"] == 0 || port["targetPort"] == "" {
            set(port, &[], "targetPort", number);
        }
    }
    default(value, &["status"], "loadBalancer", serde_json::json!({}));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_is_completed_as_kubernetes_completes_it() {
        let mut value = json!({"spec": {"ports": [{"port": 80}, {"port": 53, "protocol": "UDP", "targetPort": "dns"}]}});
        service(&mut value);
        assert_eq!(value["spec"]["type"], "ClusterIP");
        assert_eq!(value["spec"]["sessionAffinity"], "None");
        assert_eq!(
            value["spec"]["ports"][0],
            json!({"port": 80, "protocol": "TCP", "targetPort": 80})
        );
        assert_eq!(
            value["spec"]["ports"][1],
            json!({"port": 53, "protocol": "UDP", "targetPort": "dns"})
        );
        let once = value.clone();
        service(&mut value);
        assert_eq!(value, once);
    }

    #[test]
    fn each_type_gets_what_it_has() {
        let of = |spec: Value| {
            let mut value = json!({ "spec": spec });
            service(&mut value);
            value["spec"].clone()
        };
        let inside = of(json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}));
        assert!(
            inside["externalTrafficPolicy"].is_null() && inside["sessionAffinityConfig"].is_null()
        );
        assert_eq!(inside["internalTrafficPolicy"], "Cluster");
        let routed = of(json!({"externalIPs": ["192.0.2.1"], "sessionAffinity": "ClientIP"}));
        assert_eq!(routed["externalTrafficPolicy"], "Cluster");
        assert_eq!(
            routed["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"],
            10_800
        );
        let balanced = of(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}));
        assert_eq!(balanced["externalTrafficPolicy"], "Local");
        assert_eq!(balanced["allocateLoadBalancerNodePorts"], true);
        let alias = of(json!({"type": "ExternalName", "externalName": "a.b"}));
        assert!(alias["internalTrafficPolicy"].is_null());
    }
}
