//! Faults of Services by type.

use serde_json::{Value, json};

use crate::life::{Part, prepare_update};
use crate::lookup_name;

/// Faults of a new Service with this spec over one of port 80, its defaults filled in.
fn faults(spec: Value) -> Vec<String> {
    faults_of(with(spec), None)
}

fn with(spec: Value) -> Value {
    let mut value =
        json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"ports": [{"port": 80}]}});
    for (key, one) in spec.as_object().into_iter().flatten() {
        value["spec"][key] = one.clone();
    }
    value
}

fn faults_of(mut value: Value, old: Option<&Value>) -> Vec<String> {
    let row = lookup_name("svc").unwrap();
    (row.defaults)(&mut value);
    let found = (row.validate)(&value, old);
    found.iter().map(ToString::to_string).collect()
}

fn check(spec: Value, expect: &[&str]) {
    assert_eq!(faults(spec.clone()), expect, "{spec}");
}

#[test]
fn every_type_is_there() {
    for spec in [
        json!({}),
        json!({"type": "NodePort", "ports": [{"name": "t", "port": 80, "nodePort": 30080}, {"name": "u", "port": 80, "protocol": "UDP", "nodePort": 30080}]}),
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30100,
            "allocateLoadBalancerNodePorts": false, "loadBalancerClass": "waggle.dev/load-balancer",
            "loadBalancerSourceRanges": ["10.0.0.0/8", " 2001:db8::/32 "], "loadBalancerIP": "192.0.2.1"}),
        json!({"type": "ExternalName", "externalName": "db.example.com.", "ports": []}),
        json!({"externalIPs": ["192.0.2.1", "2001:db8::1"], "externalTrafficPolicy": "Local"}),
        json!({"sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local", "trafficDistribution": "PreferSameNode",
            "publishNotReadyAddresses": true}),
    ] {
        check(spec, &[]);
    }
}

#[test]
fn an_alias_needs_a_name_and_has_no_addresses() {
    check(
        json!({"type": "ExternalName", "ports": []}),
        &["spec.externalName: Required value"],
    );
    check(
        json!({"type": "ExternalName", "externalName": "a_b", "clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80, "nodePort": 30080}]}),
        &[
            "spec.externalName: Invalid value: \"a_b\": a lowercase RFC 1123 subdomain must consist of lower case letters, \
             digits, '-' or '.', and start and end with a letter or digit (such as 'example.com')",
            "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
            "spec.ipFamilies: Forbidden: may not be set for ExternalName services",
            "spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services",
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ExternalName'",
        ],
    );
}

#[test]
fn node_ports_belong_to_types_that_have_them_once() {
    check(
        json!({"ports": [{"port": 80, "nodePort": 30080}]}),
        &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
    );
    check(
        json!({"type": "NodePort", "clusterIP": "None", "ports": [{"name": "a", "port": 80, "nodePort": 30080},
            {"name": "b", "port": 81, "nodePort": 30080}, {"name": "c", "port": 82, "nodePort": 70000}]}),
        &[
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            "spec.ports[1].nodePort: Duplicate value: 30080",
            "spec.ports[2].nodePort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ],
    );
}

#[test]
fn affinity_lasts_at_most_a_day() {
    for (seconds, good) in [(0, false), (1, true), (86_400, true), (86_401, false)] {
        let spec = json!({"sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}});
        let expect = format!(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: {seconds}: must be greater than 0 and \
             less than 86400"
        );
        let expect: &[&str] = if good { &[] } else { &[&expect] };
        check(spec, expect);
    }
    check(
        json!({"sessionAffinity": "Cookie"}),
        &[
            "spec.sessionAffinity: Unsupported value: \"Cookie\": supported values: \"ClientIP\", \"None\"",
        ],
    );
}

#[test]
fn external_addresses_are_ones_that_clients_outside_can_use() {
    check(
        json!({"externalIPs": ["x", "127.0.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.5", "ff05::1", "fe80::1", "192.0.2.1"]}),
        &[
            "spec.externalIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "spec.externalIPs[1]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            "spec.externalIPs[2]: Invalid value: \"169.254.1.1\": may not be in the link-local range (169.254.0.0/16, \
             fe80::/10)",
            "spec.externalIPs[3]: Invalid value: \"0.0.0.0\": may not be unspecified (0.0.0.0 or ::)",
            "spec.externalIPs[4]: Invalid value: \"224.0.0.5\": may not be in the link-local multicast range \
             (224.0.0.0/24, ff02::/10)",
            "spec.externalIPs[5]: Invalid value: \"ff05::1\": may not be a multicast address (224.0.0.0/4, ff00::/8)",
            "spec.externalIPs[6]: Invalid value: \"fe80::1\": may not be in the link-local range (169.254.0.0/16, \
             fe80::/10)",
        ],
    );
}

#[test]
fn policies_and_load_balancer_fields_have_their_types() {
    check(
        json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 30100, "internalTrafficPolicy": "Node",
            "trafficDistribution": "Near", "allocateLoadBalancerNodePorts": true, "loadBalancerClass": "a b",
            "loadBalancerSourceRanges": ["10.0.0.0"], "loadBalancerIP": "x"}),
        &[
            "spec.internalTrafficPolicy: Unsupported value: \"Node\": supported values: \"Cluster\", \"Local\"",
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            "spec.trafficDistribution: Unsupported value: \"Near\": supported values: \"PreferClose\", \
             \"PreferSameNode\", \"PreferSameZone\"",
            "spec.healthCheckNodePort: Invalid value: 30100: may only be set when `type` is 'LoadBalancer' and \
             `externalTrafficPolicy` is 'Local'",
            "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
            "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
            "spec.loadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
            "spec.loadBalancerClass: Invalid value: \"a b\": name part must consist of letters, digits, '-', '_' or '.', \
             and start and end with a letter or digit (such as 'MyName' or 'my.name'), after an optional DNS subdomain \
             and '/' (such as 'example.com/MyName')",
            "spec.loadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. \
             10.9.8.0/24 or 2001:db8::/64)",
            "spec.loadBalancerIP: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ],
    );
}

#[test]
fn what_may_not_change_is_said() {
    let row = lookup_name("svc").unwrap();
    let mut old = with(
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30100,
        "loadBalancerClass": "example.com/a"}),
    );
    (row.defaults)(&mut old);
    let mut new = old.clone();
    new["spec"]["healthCheckNodePort"] = json!(30101);
    new["spec"]["loadBalancerClass"] = json!("example.com/b");
    assert_eq!(
        faults_of(new, Some(&old)),
        [
            "spec.healthCheckNodePort: Forbidden: field is immutable",
            "spec.loadBalancerClass: Invalid value: \"example.com/b\": may not change once set",
        ]
    );
    // A change of type takes along what only the old type has.
    for kind in ["ClusterIP", "NodePort"] {
        let mut new = old.clone();
        new["spec"]["type"] = json!(kind);
        let new = prepare_update(row, &old, new, Part::Main).unwrap();
        assert!(new["spec"]["loadBalancerClass"].is_null(), "{new}");
        assert!(new["spec"]["healthCheckNodePort"].is_null(), "{new}");
    }
}
