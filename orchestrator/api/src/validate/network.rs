//! EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::{meta, names, one_of, port_number};
use crate::Fault;
use crate::walk::{has, list, text};

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
