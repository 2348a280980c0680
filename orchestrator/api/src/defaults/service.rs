//! Defaults of Services. Addresses are chosen elsewhere.

use serde_json::Value;

use crate::walk::{default, has, list_mut, set, text};

pub(crate) fn service(value: &mut Value) {
    default(value, &["spec"], "type", "ClusterIP");
    default(value, &["spec"], "sessionAffinity", "None");
    if text(value, &["spec", "sessionAffinity"]) == "ClientIP" {
        default(
            value,
            &["spec", "sessionAffinityConfig", "clientIP"],
            "timeoutSeconds",
            10_800,
        );
    }
    let kind = text(value, &["spec", "type"]).to_owned();
    if kind != "ExternalName" {
        default(value, &["spec"], "internalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
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
}
