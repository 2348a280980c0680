//! Services and EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;
use waggle_model::{EXPORT_ANNOTATION, TenantName};

use super::{meta, names, one_of, port_number, probe};
use crate::Fault;
use crate::walk::{at, has, list, text};

/// Transports that the datapath translates.
const PROTOCOLS: [&str; 2] = ["TCP", "UDP"];

/// Faults of a Service.
pub(crate) fn service(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("Service", value, old, &mut out);
    if !has(value, &["spec"]) {
        out.push(Fault::required("spec", ""));
        return out;
    }
    one_of(
        at(value, &["spec", "type"]),
        &["ClusterIP"],
        "spec.type",
        &mut out,
    );
    one_of(
        at(value, &["spec", "sessionAffinity"]),
        &["None"],
        "spec.sessionAffinity",
        &mut out,
    );
    one_of(
        at(value, &["spec", "internalTrafficPolicy"]),
        &["Cluster"],
        "spec.internalTrafficPolicy",
        &mut out,
    );
    meta::labels(at(value, &["spec", "selector"]), "spec.selector", &mut out);
    ports(value, &mut out);
    addresses(value, old, &mut out);
    export(value, &mut out);
    out
}

fn ports(value: &Value, out: &mut Vec<Fault>) {
    let all = list(value, &["spec", "ports"]);
    if all.is_empty() && text(value, &["spec", "clusterIP"]) != "None" {
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
        one_of(
            &port["protocol"],
            &PROTOCOLS,
            &format!("{path}.protocol"),
            out,
        );
        probe::port(&port["targetPort"], &format!("{path}.targetPort"), out);
        let key = format!("{}/{}", port["port"], text(port, &["protocol"]));
        if !ports_seen.insert(key) {
            out.push(Fault::duplicate(
                path,
                serde_json::json!({ "port": port["port"], "protocol": port["protocol"] }),
            ));
        }
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
    if !list(value, &["spec", "externalIPs"]).is_empty() {
        out.push(Fault::forbidden(
            "spec.externalIPs",
            "this cluster doesn't serve external addresses yet",
        ));
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

/// Faults of an EndpointSlice.
pub(crate) fn endpoint_slice(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("EndpointSlice", value, old, &mut out);
    let family = text(value, &["addressType"]);
    if family.is_empty() {
        out.push(Fault::required("addressType", ""));
    } else {
        one_of(
            &value["addressType"],
            &["FQDN", "IPv4", "IPv6"],
            "addressType",
            &mut out,
        );
    }
    if let Some(old) = old {
        meta::immutable(value, old, &["addressType"], &mut out);
    }
    let endpoints = list(value, &["endpoints"]);
    if endpoints.len() > 1000 {
        out.push(Fault::too_many("endpoints", endpoints.len(), 1000));
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        endpoint_addresses(
            endpoint,
            family,
            &format!("endpoints[{index}].addresses"),
            &mut out,
        );
    }
    slice_ports(value, &mut out);
    out
}

fn endpoint_addresses(endpoint: &Value, family: &str, path: &str, out: &mut Vec<Fault>) {
    let all = list(endpoint, &["addresses"]);
    if all.is_empty() {
        out.push(Fault::required(path, "must contain at least 1 address"));
    }
    for (index, address) in all.iter().enumerate() {
        let text = address.as_str().unwrap_or_default();
        let parsed = text.parse::<IpAddr>().ok();
        let detail = match family {
            "IPv4" if !parsed.is_some_and(|address| address.is_ipv4()) => {
                "must be a valid IPv4 address"
            }
            "IPv6" if !parsed.is_some_and(|address| address.is_ipv6()) => {
                "must be a valid IPv6 address"
            }
            "FQDN" if names::subdomain(text).is_some() => "must be a fully qualified domain name",
            _ => continue,
        };
        out.push(Fault::invalid(format!("{path}[{index}]"), text, detail));
    }
}

fn slice_ports(value: &Value, out: &mut Vec<Fault>) {
    let mut seen = BTreeSet::new();
    for (index, port) in list(value, &["ports"]).iter().enumerate() {
        let path = format!("ports[{index}]");
        let name = text(port, &["name"]);
        if !seen.insert(name) {
            out.push(Fault::duplicate(format!("{path}.name"), name));
        }
        if let Some(rule) = (!name.is_empty()).then(|| names::label(name)).flatten() {
            out.push(Fault::invalid(format!("{path}.name"), name, rule));
        }
        one_of(
            &port["protocol"],
            &["TCP", "UDP", "SCTP"],
            &format!("{path}.protocol"),
            out,
        );
        if has(port, &["port"]) {
            port_number(&port["port"], &format!("{path}.port"), out);
        }
    }
}
