//! Services. Which node ports and addresses are free is not known here.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};
use waggle_model::network::Cidr;
use waggle_model::{EXPORT_ANNOTATION, LOAD_BALANCER_IPS_ANNOTATION, TenantName};

use super::{meta, names, one_of, port_number, probe};
use crate::Fault;
use crate::service::{externally_accessible, needs_health_check};
use crate::walk::{at, has, list, number, text};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameNode", "PreferSameZone"];
/// Transports that the datapath translates.
const PROTOCOLS: [&str; 2] = ["TCP", "UDP"];
/// Seconds; Kubernetes' MaxClientIPServiceAffinitySeconds, one day.
const LONGEST_AFFINITY: i64 = 86_400;
const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const FOR_BALANCERS: &str = "may only be used when `type` is 'LoadBalancer'";

/// Faults of a Service.
pub(crate) fn service(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("Service", value, old, &mut out);
    if !has(value, &["spec"]) {
        out.push(Fault::required("spec", ""));
        return out;
    }
    let kind = text(value, &["spec", "type"]);
    one_of(&value["spec"]["type"], &TYPES, "spec.type", &mut out);
    match kind {
        "ExternalName" => alias(value, &mut out),
        "NodePort" | "LoadBalancer" if is_headless(value) => out.push(Fault::invalid(
            "spec.clusterIPs[0]",
            "None",
            format!("may not be set to 'None' for {kind} services"),
        )),
        _ => {}
    }
    meta::labels(at(value, &["spec", "selector"]), "spec.selector", &mut out);
    ports(value, &mut out);
    node_ports(value, &mut out);
    affinity(value, &mut out);
    if kind != "ExternalName" {
        addresses(value, old, &mut out);
    }
    external_addresses(value, &mut out);
    policies(value, old, &mut out);
    load_balancer(value, old, &mut out);
    export(value, &mut out);
    out
}

fn is_headless(value: &Value) -> bool {
    text(value, &["spec", "clusterIP"]) == "None"
}

/// A Service that is another name for something outside.
fn alias(value: &Value, out: &mut Vec<Fault>) {
    let given = text(value, &["spec", "externalName"]);
    let name = given.strip_suffix('.').unwrap_or(given);
    if name.is_empty() {
        out.push(Fault::required("spec.externalName", ""));
    } else if let Some(rule) = names::subdomain(name) {
        out.push(Fault::invalid("spec.externalName", name, rule));
    }
    let addressed = !text(value, &["spec", "clusterIP"]).is_empty()
        || !list(value, &["spec", "clusterIPs"]).is_empty();
    for (field, set) in [
        ("clusterIPs", addressed),
        (
            "ipFamilies",
            !list(value, &["spec", "ipFamilies"]).is_empty(),
        ),
        ("ipFamilyPolicy", has(value, &["spec", "ipFamilyPolicy"])),
    ] {
        if set {
            out.push(Fault::forbidden(
                format!("spec.{field}"),
                "may not be set for ExternalName services",
            ));
        }
    }
}

fn ports(value: &Value, out: &mut Vec<Fault>) {
    let all = list(value, &["spec", "ports"]);
    let kind = text(value, &["spec", "type"]);
    if all.is_empty() && !is_headless(value) && kind != "ExternalName" {
        out.push(Fault::required("spec.ports", ""));
    }
    let (mut names_seen, mut ports_seen) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in all.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = text(port, &["name"]);
        if name.is_empty() && all.len() > 1 {
            out.push(Fault::required(format!("{path}.name"), ""));
        } else if !name.is_empty() {
            if let Some(rule) = names::label(name) {
                out.push(Fault::invalid(format!("{path}.name"), name, rule));
            }
            if !names_seen.insert(name) {
                out.push(Fault::duplicate(format!("{path}.name"), name));
            }
        }
        port_number(&port["port"], &format!("{path}.port"), out);
        protocol(&port["protocol"], &format!("{path}.protocol"), out);
        probe::port(&port["targetPort"], &format!("{path}.targetPort"), out);
        let application = text(port, &["appProtocol"]);
        if let Some(rule) = Some(application)
            .filter(|text| !text.is_empty())
            .and_then(names::qualified_name)
        {
            out.push(Fault::invalid(
                format!("{path}.appProtocol"),
                application,
                rule,
            ));
        }
        let key = format!("{}/{}", port["port"], text(port, &["protocol"]));
        if !ports_seen.insert(key) {
            out.push(Fault::duplicate(
                path,
                json!({ "port": port["port"], "protocol": port["protocol"] }),
            ));
        }
    }
}

fn protocol(value: &Value, path: &str, out: &mut Vec<Fault>) {
    if value == "SCTP" {
        let detail = "Services carry TCP and UDP only: reach SCTP servers by their pods' addresses, where \
                      NetworkPolicies govern it";
        out.push(Fault::invalid(path, value.clone(), detail));
    } else {
        one_of(value, &PROTOCOLS, path, out);
    }
}

/// Only types that have node ports name them, each once a protocol.
fn node_ports(value: &Value, out: &mut Vec<Fault>) {
    let kind = text(value, &["spec", "type"]);
    let mut seen = BTreeSet::new();
    for (index, port) in list(value, &["spec", "ports"]).iter().enumerate() {
        let Some(given) = number(port, &["nodePort"]).filter(|number| *number != 0) else {
            continue;
        };
        let path = format!("spec.ports[{index}].nodePort");
        if matches!(kind, "ClusterIP" | "ExternalName") {
            let detail = format!("may not be used when `type` is '{kind}'");
            out.push(Fault::forbidden(path, detail));
        } else if !(1..=65_535).contains(&given) {
            port_number(&port["nodePort"], &path, out);
        } else if !seen.insert((text(port, &["protocol"]), given)) {
            out.push(Fault::duplicate(path, given));
        }
    }
}

fn affinity(value: &Value, out: &mut Vec<Fault>) {
    one_of(
        &value["spec"]["sessionAffinity"],
        &["ClientIP", "None"],
        "spec.sessionAffinity",
        out,
    );
    let kind = text(value, &["spec", "sessionAffinity"]);
    let config = &value["spec"]["sessionAffinityConfig"];
    if kind != "ClientIP" {
        if !config.is_null() && kind == "None" {
            let detail = "must not be set when session affinity is None";
            out.push(Fault::forbidden("spec.sessionAffinityConfig", detail));
        }
        return;
    }
    let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    match number(config, &["clientIP", "timeoutSeconds"]) {
        None => out.push(Fault::required(
            path,
            "when session affinity type is ClientIP",
        )),
        Some(seconds) if !(1..=LONGEST_AFFINITY).contains(&seconds) => {
            let detail = format!("must be greater than 0 and less than {LONGEST_AFFINITY}");
            out.push(Fault::invalid(path, seconds, detail));
        }
        Some(_) => {}
    }
}

fn addresses(value: &Value, old: Option<&Value>, out: &mut Vec<Fault>) {
    let given = text(value, &["spec", "clusterIP"]);
    if !given.is_empty() && given != "None" && given.parse::<IpAddr>().is_err() {
        out.push(Fault::invalid(
            "spec.clusterIPs[0]",
            given,
            "must be empty, 'None', or a valid IP address",
        ));
    }
    let all = list(value, &["spec", "clusterIPs"]);
    if all.first().is_some_and(|first| first != given) {
        let detail = "first value must match `clusterIP`";
        out.push(Fault::invalid("spec.clusterIPs", Value::from(all), detail));
    }
    if let Some(old) = old
        && !text(old, &["spec", "clusterIP"]).is_empty()
        && text(old, &["spec", "type"]) != "ExternalName"
    {
        let before = text(old, &["spec", "clusterIP"]);
        if given != before {
            out.push(Fault::invalid(
                "spec.clusterIPs[0]",
                given,
                "may not change once set",
            ));
        }
    }
    for (index, one) in all.iter().enumerate().skip(1) {
        let valid = one
            .as_str()
            .is_some_and(|text| text.parse::<IpAddr>().is_ok());
        if !valid || index > 1 {
            let detail = "must be a valid IP address, at most one of each family";
            out.push(Fault::invalid(
                format!("spec.clusterIPs[{index}]"),
                one.clone(),
                detail,
            ));
        }
    }
    let families = list(value, &["spec", "ipFamilies"]);
    for (index, family) in families.iter().enumerate() {
        let path = format!("spec.ipFamilies[{index}]");
        if family != "IPv4" && family != "IPv6" {
            out.push(Fault::not_supported(
                path,
                family.clone(),
                &["IPv4", "IPv6"],
            ));
        } else if families[..index].contains(family) {
            out.push(Fault::duplicate(path, family.clone()));
        }
    }
    let policy = text(value, &["spec", "ipFamilyPolicy"]);
    let policies = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    if !policy.is_empty() && !policies.contains(&policy) {
        out.push(Fault::not_supported(
            "spec.ipFamilyPolicy",
            policy,
            &policies,
        ));
    }
}

/// Addresses that something else leads to the nodes: any that a client outside can use.
fn external_addresses(value: &Value, out: &mut Vec<Fault>) {
    for (index, one) in list(value, &["spec", "externalIPs"]).iter().enumerate() {
        let address = one.as_str().and_then(|text| text.parse::<IpAddr>().ok());
        let detail = match address {
            None => Some(NO_ADDRESS),
            Some(address) => special(address),
        };
        if let Some(detail) = detail {
            let path = format!("spec.externalIPs[{index}]");
            out.push(Fault::invalid(path, one.clone(), detail));
        }
    }
}

/// Why an address can't be a Service's outside; `None` when it can.
fn special(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let local_group = match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] == 0xff02,
    };
    if address.is_unspecified() {
        Some("may not be unspecified (0.0.0.0 or ::)")
    } else if address.is_loopback() {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)")
    } else if link_local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    } else if local_group {
        Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
    } else if address.is_multicast() {
        Some("may not be a multicast address (224.0.0.0/4, ff00::/8)")
    } else {
        None
    }
}

/// Whose backends are chosen, for callers inside and outside.
fn policies(value: &Value, old: Option<&Value>, out: &mut Vec<Fault>) {
    let spec = &value["spec"];
    let inner = "spec.internalTrafficPolicy";
    one_of(&spec["internalTrafficPolicy"], &POLICIES, inner, out);
    let (outer, given) = ("spec.externalTrafficPolicy", &spec["externalTrafficPolicy"]);
    if !text(spec, &["externalTrafficPolicy"]).is_empty() && !externally_accessible(value) {
        let detail = "may only be set for externally-accessible services";
        out.push(Fault::invalid(outer, given.clone(), detail));
    } else {
        one_of(given, &POLICIES, outer, out);
    }
    let distribution = &spec["trafficDistribution"];
    one_of(
        distribution,
        &DISTRIBUTIONS,
        "spec.trafficDistribution",
        out,
    );
    health_check(value, old, out);
}

fn health_check(value: &Value, old: Option<&Value>, out: &mut Vec<Fault>) {
    let path = "spec.healthCheckNodePort";
    let port = |value: &Value| number(value, &["spec", "healthCheckNodePort"]).unwrap_or(0);
    let given = port(value);
    if !needs_health_check(value) {
        if given != 0 {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            out.push(Fault::invalid(path, given, detail));
        }
        return;
    }
    if given != 0 {
        port_number(&value["spec"]["healthCheckNodePort"], path, out);
    }
    if old.is_some_and(|old| needs_health_check(old) && port(old) != 0 && port(old) != given) {
        out.push(Fault::forbidden(path, "field is immutable"));
    }
}

fn load_balancer(value: &Value, old: Option<&Value>, out: &mut Vec<Fault>) {
    let spec = &value["spec"];
    let balances = |value: &Value| text(value, &["spec", "type"]) == "LoadBalancer";
    for field in [
        "allocateLoadBalancerNodePorts",
        "loadBalancerClass",
        "loadBalancerSourceRanges",
    ] {
        let set = !spec[field].is_null() && spec[field] != json!([]);
        if set && !balances(value) {
            out.push(Fault::forbidden(format!("spec.{field}"), FOR_BALANCERS));
        }
    }
    let class = &spec["loadBalancerClass"];
    if let Some(rule) = class.as_str().and_then(names::qualified_name) {
        out.push(Fault::invalid(
            "spec.loadBalancerClass",
            class.clone(),
            rule,
        ));
    }
    let both = old.filter(|old| balances(old) && balances(value));
    if both.is_some_and(|old| old["spec"]["loadBalancerClass"] != *class) {
        let detail = "may not change once set";
        out.push(Fault::invalid(
            "spec.loadBalancerClass",
            class.clone(),
            detail,
        ));
    }
    let ranges = list(spec, &["loadBalancerSourceRanges"]);
    for (index, range) in ranges.iter().enumerate() {
        let given = range.as_str().unwrap_or_default().trim();
        if Cidr::masked(given).is_err() {
            let path = format!("spec.loadBalancerSourceRanges[{index}]");
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            out.push(Fault::invalid(path, range.clone(), detail));
        }
    }
    let wish = text(spec, &["loadBalancerIP"]);
    if !wish.is_empty() && wish.parse::<IpAddr>().is_err() {
        out.push(Fault::invalid("spec.loadBalancerIP", wish, NO_ADDRESS));
    }
    let listed = text(
        value,
        &["metadata", "annotations", LOAD_BALANCER_IPS_ANNOTATION],
    );
    let is_address = |text: &str| text.trim().parse::<IpAddr>().is_ok();
    if !listed.is_empty() && !listed.split(',').all(is_address) {
        let path = format!("metadata.annotations[{LOAD_BALANCER_IPS_ANNOTATION}]");
        let detail = "must be IP addresses of the load balancer pool, separated by commas";
        out.push(Fault::invalid(path, listed, detail));
    }
}

/// `waggle.dev/export-to: "billing,search"` or `"*"`.
fn export(value: &Value, out: &mut Vec<Fault>) {
    let given = text(value, &["metadata", "annotations", EXPORT_ANNOTATION]);
    let path = format!("metadata.annotations[{EXPORT_ANNOTATION}]");
    let list: Vec<&str> = given
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    for name in &list {
        if *name == "*" && list.len() > 1 {
            out.push(Fault::invalid(
                path.clone(),
                given,
                "'*' means every tenant: write it alone",
            ));
        } else if *name != "*" && TenantName::try_from(*name).is_err() {
            let detail = format!(
                "{name:?} is no tenant name: write tenant names separated by commas, or '*'"
            );
            out.push(Fault::invalid(path.clone(), given, detail));
        }
    }
}
