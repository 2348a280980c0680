//! NetworkPolicies.

use std::net::IpAddr;

use serde_json::Value;

use super::{meta, one_of, port_number, probe};
use crate::Fault;
use crate::walk::{at, has, list, text};

/// Faults of a NetworkPolicy.
pub(crate) fn network_policy(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("NetworkPolicy", value, old, &mut out);
    meta::selector(
        at(value, &["spec", "podSelector"]),
        "spec.podSelector",
        &mut out,
    );
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in list(value, &["spec", direction]).iter().enumerate() {
            let path = format!("spec.{direction}[{index}]");
            for (index, one) in list(rule, &["ports"]).iter().enumerate() {
                port(one, &format!("{path}.ports[{index}]"), &mut out);
            }
            for (index, one) in list(rule, &[peers]).iter().enumerate() {
                peer(one, &format!("{path}.{peers}[{index}]"), &mut out);
            }
        }
    }
    let types = list(value, &["spec", "policyTypes"]);
    if types.len() > 2 {
        let detail = "may not specify more than two policyTypes";
        out.push(Fault::invalid(
            "spec.policyTypes",
            Value::from(types),
            detail,
        ));
        return out;
    }
    for (index, one) in types.iter().enumerate() {
        let path = format!("spec.policyTypes[{index}]");
        one_of(one, &["Egress", "Ingress"], &path, &mut out);
    }
    out
}

fn port(port: &Value, path: &str, out: &mut Vec<Fault>) {
    one_of(
        &port["protocol"],
        &["SCTP", "TCP", "UDP"],
        &format!("{path}.protocol"),
        out,
    );
    if has(port, &["port"]) {
        probe::port(&port["port"], &format!("{path}.port"), out);
    }
    let end = &port["endPort"];
    if end.is_null() {
        return;
    }
    let path = format!("{path}.endPort");
    match &port["port"] {
        Value::Null => out.push(Fault::invalid(
            path,
            end.clone(),
            "may not be specified when `port` is not specified",
        )),
        Value::String(_) => out.push(Fault::invalid(
            path,
            end.clone(),
            "may not be specified when `port` is non-numeric",
        )),
        first if end.as_i64() < first.as_i64() => out.push(Fault::invalid(
            path,
            end.clone(),
            "must be greater than or equal to `port`",
        )),
        _ => port_number(end, &path, out),
    }
}

fn peer(peer: &Value, path: &str, out: &mut Vec<Fault>) {
    let selects = has(peer, &["podSelector"]) || has(peer, &["namespaceSelector"]);
    for field in ["podSelector", "namespaceSelector"] {
        meta::selector(&peer[field], &format!("{path}.{field}"), out);
    }
    match (has(peer, &["ipBlock"]), selects) {
        (true, true) => out.push(Fault::forbidden(
            path,
            "may not specify both ipBlock and another peer",
        )),
        (false, false) => out.push(Fault::required(path, "must specify a peer")),
        (true, false) => block(&peer["ipBlock"], &format!("{path}.ipBlock"), out),
        (false, true) => {}
    }
}

fn block(block: &Value, path: &str, out: &mut Vec<Fault>) {
    let given = text(block, &["cidr"]);
    if given.is_empty() {
        out.push(Fault::required(format!("{path}.cidr"), ""));
        return;
    }
    let Some(whole) = Range::parse(given) else {
        out.push(Fault::invalid(format!("{path}.cidr"), given, NO_RANGE));
        return;
    };
    for (index, except) in list(block, &["except"]).iter().enumerate() {
        let path = format!("{path}.except[{index}]");
        let given = except.as_str().unwrap_or_default();
        match Range::parse(given) {
            None => out.push(Fault::invalid(path, given, NO_RANGE)),
            Some(part) if !whole.holds(part) => out.push(Fault::invalid(
                path,
                given,
                "must be a strict subset of `cidr`",
            )),
            Some(_) => {}
        }
    }
}

const NO_RANGE: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address range; bits after the prefix may be set, and mean nothing.
#[derive(Clone, Copy)]
struct Range {
    /// In the upper bits.
    bits: u128,
    v4: bool,
    prefix: u32,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let prefix: u32 = prefix.parse().ok()?;
        let (bits, width, v4) = match address.parse().ok()? {
            IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32, true),
            IpAddr::V6(address) => (u128::from(address), 128, false),
        };
        (prefix <= width).then_some(Self { bits, v4, prefix })
    }

    /// Whether `other` is a smaller range inside.
    fn holds(self, other: Self) -> bool {
        let shift = 128 - self.prefix;
        let network = |bits: u128| bits.checked_shr(shift).unwrap_or(0);
        self.v4 == other.v4
            && self.prefix < other.prefix
            && network(self.bits) == network(other.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn faults(spec: &Value) -> Vec<String> {
        let value = json!({"metadata": {"name": "p"}, "spec": spec});
        network_policy(&value, None)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn what_kubernetes_takes_is_taken() {
        let spec = json!({
            "podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{}, {"from": [{"podSelector": {}}, {"namespaceSelector": {}, "podSelector": {}},
                {"ipBlock": {"cidr": "10.0.0.1/8", "except": ["10.1.0.0/16"]}}],
                "ports": [{"port": 80, "endPort": 90, "protocol": "TCP"}, {"port": "dns", "protocol": "UDP"}, {}]}],
            "egress": [{"to": [{"ipBlock": {"cidr": "fd00::/8", "except": ["fd00:1::/32"]}}]}],
        });
        assert_eq!(faults(&spec), Vec::<String>::new());
    }

    #[test]
    fn every_fault_is_named() {
        for (spec, path) in [
            (json!({"policyTypes": ["Both"]}), "spec.policyTypes[0]"),
            (
                json!({"ingress": [{"from": [{}]}]}),
                "spec.ingress[0].from[0]",
            ),
            (
                json!({"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0"}}]}]}),
                "spec.egress[0].to[0].ipBlock.cidr",
            ),
            (
                json!({"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}),
                "spec.egress[0].to[0].ipBlock.except[0]",
            ),
            (
                json!({"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]}]}),
                "spec.egress[0].to[0].ipBlock.except[0]",
            ),
            (
                json!({"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]}),
                "spec.egress[0].to[0]",
            ),
            (
                json!({"ingress": [{"ports": [{"port": 80, "endPort": 79}]}]}),
                "spec.ingress[0].ports[0].endPort",
            ),
            (
                json!({"ingress": [{"ports": [{"port": "web", "endPort": 79}]}]}),
                "spec.ingress[0].ports[0].endPort",
            ),
            (
                json!({"ingress": [{"ports": [{"port": 70000}]}]}),
                "spec.ingress[0].ports[0].port",
            ),
            (
                json!({"podSelector": {"matchLabels": {"-": "x"}}}),
                "spec.podSelector.matchLabels",
            ),
        ] {
            let found = faults(&spec);
            assert!(
                found.len() == 1 && found[0].starts_with(&format!("{path}: ")),
                "{path}: {found:?}"
            );
        }
    }
}
