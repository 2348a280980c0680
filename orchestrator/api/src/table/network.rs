//! Columns of Services and EndpointSlices.

use serde_json::Value;

use super::{Cell, Column, age, name};
use crate::selector::LabelSelector;
use crate::walk::{at, list, number, text};

/// Columns of a Service.
pub const SERVICE: &[Column] = &[
    Column::NAME,
    Column::text("Type", "How it is reached."),
    Column::text("Cluster-IP", "Its virtual address."),
    Column::text("External-IP", "Its addresses outside the cluster."),
    Column::text("Port(s)", "Its ports."),
    Column::AGE,
    Column::text("Selector", "Which pods serve it.").wide(),
];

/// Cells of a Service.
pub fn service(object: &Value, now: i64) -> Vec<Cell> {
    let selector = LabelSelector::from_map(at(object, &["spec", "selector"]));
    vec![
        name(object),
        text(object, &["spec", "type"]).into(),
        Cell::or_none(text(object, &["spec", "clusterIP"])),
        external(object),
        Cell::or_none(&ports(object)),
        age(object, now),
        Cell::or_none(&selector.to_string()),
    ]
}

fn external(object: &Value) -> Cell {
    let given: Vec<&str> = list(object, &["spec", "externalIPs"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    match text(object, &["spec", "type"]) {
        "ExternalName" => Cell::or_none(text(object, &["spec", "externalName"])),
        "LoadBalancer" => {
            let mut all: Vec<&str> = list(object, &["status", "loadBalancer", "ingress"])
                .iter()
                .map(|one| {
                    if text(one, &["ip"]).is_empty() {
                        text(one, &["hostname"])
                    } else {
                        text(one, &["ip"])
                    }
                })
                .collect();
            all.extend(given);
            if all.is_empty() {
                "<pending>".into()
            } else {
                all.join(",").into()
            }
        }
        _ => Cell::or_none(&given.join(",")),
    }
}

fn ports(object: &Value) -> String {
    let one = |port: &Value| {
        let (number, protocol) = (
            number(port, &["port"]).unwrap_or(0),
            text(port, &["protocol"]),
        );
        match crate::walk::number(port, &["nodePort"]).filter(|node_port| *node_port > 0) {
            Some(node_port) => format!("{number}:{node_port}/{protocol}"),
            None => format!("{number}/{protocol}"),
        }
    };
    list(object, &["spec", "ports"])
        .iter()
        .map(one)
        .collect::<Vec<_>>()
        .join(",")
}

/// Columns of an EndpointSlice.
pub const ENDPOINT_SLICE: &[Column] = &[
    Column::NAME,
    Column::text("AddressType", "Family of its addresses."),
    Column::text("Ports", "Ports of every endpoint."),
    Column::text("Endpoints", "Addresses of the endpoints."),
    Column::AGE,
];

/// Cells of an EndpointSlice.
pub fn endpoint_slice(object: &Value, now: i64) -> Vec<Cell> {
    let ports = list(object, &["ports"]).iter();
    let ports = ports.map(|port| {
        number(port, &["port"]).map_or_else(|| "*".to_owned(), |port| port.to_string())
    });
    let addresses = list(object, &["endpoints"])
        .iter()
        .flat_map(|one| list(one, &["addresses"]));
    vec![
        name(object),
        text(object, &["addressType"]).into(),
        first_three(ports.collect()),
        first_three(
            addresses
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        ),
        age(object, now),
    ]
}

fn first_three(all: Vec<String>) -> Cell {
    if all.is_empty() {
        return "<unset>".into();
    }
    let shown = all.iter().take(3).cloned().collect::<Vec<_>>().join(",");
    if all.len() > 3 {
        format!("{shown} + {} more...", all.len() - 3).into()
    } else {
        shown.into()
    }
}

/// Columns of a NetworkPolicy.
pub const NETWORK_POLICY: &[Column] = &[
    Column::NAME,
    Column::text("Pod-Selector", "Pods that it is about."),
    Column::AGE,
];

/// Cells of a NetworkPolicy.
pub fn network_policy(object: &Value, now: i64) -> Vec<Cell> {
    vec![
        name(object),
        super::selector(crate::walk::at(object, &["spec", "podSelector"])),
        age(object, now),
    ]
}

/// Columns of Endpoints.
pub const ENDPOINTS: &[Column] = &[
    Column::NAME,
    Column::text("Endpoints", "Addresses and ports."),
    Column::AGE,
];

/// Cells of Endpoints.
pub fn endpoints(object: &Value, now: i64) -> Vec<Cell> {
    let mut all = Vec::new();
    for subset in list(object, &["subsets"]) {
        let ports: Vec<Option<i64>> = match list(subset, &["ports"]) {
            [] => vec![None],
            ports => ports.iter().map(|port| number(port, &["port"])).collect(),
        };
        for port in ports {
            for address in list(subset, &["addresses"]) {
                let ip = text(address, &["ip"]);
                all.push(port.map_or_else(|| ip.to_owned(), |port| format!("{ip}:{port}")));
            }
        }
    }
    let shown = if all.is_empty() {
        "<none>".into()
    } else {
        first_three(all)
    };
    vec![name(object), shown, age(object, now)]
}

/// Columns of an Ingress.
pub const INGRESS: &[Column] = &[
    Column::NAME,
    Column::text("Class", "Who serves it."),
    Column::text("Hosts", "Names that it answers to."),
    Column::text("Address", "Where it is served."),
    Column::text("Ports", "Ports of the load balancer."),
    Column::AGE,
];

/// Cells of an Ingress.
pub fn ingress(object: &Value, now: i64) -> Vec<Cell> {
    let hosts: Vec<&str> = list(object, &["spec", "rules"])
        .iter()
        .map(|rule| text(rule, &["host"]))
        .filter(|host| !host.is_empty())
        .collect();
    let hosts = match hosts.as_slice() {
        [] => "*".to_owned(),
        all if all.len() > 3 => format!("{} + {} more...", all[..3].join(","), all.len() - 3),
        all => all.join(","),
    };
    let addresses: Vec<&str> = list(object, &["status", "loadBalancer", "ingress"])
        .iter()
        .map(|one| match text(one, &["ip"]) {
            "" => text(one, &["hostname"]),
            ip => ip,
        })
        .collect();
    let tls = !list(object, &["spec", "tls"]).is_empty();
    vec![
        name(object),
        Cell::or_none(text(object, &["spec", "ingressClassName"])),
        hosts.into(),
        addresses.join(",").into(),
        if tls { "80, 443" } else { "80" }.into(),
        age(object, now),
    ]
}

/// Columns of an IngressClass.
pub const INGRESS_CLASS: &[Column] = &[
    Column::NAME,
    Column::text("Controller", "Who serves Ingresses of this class."),
    Column::text("Parameters", "Where the controller is configured."),
    Column::AGE,
];

/// Cells of an IngressClass.
pub fn ingress_class(object: &Value, now: i64) -> Vec<Cell> {
    let parameters = &object["spec"]["parameters"];
    let shown = if parameters.is_null() {
        "<none>".to_owned()
    } else {
        let kind = match text(parameters, &["apiGroup"]) {
            "" => text(parameters, &["kind"]).to_owned(),
            group => format!("{}.{group}", text(parameters, &["kind"])),
        };
        format!("{kind}/{}", text(parameters, &["name"]))
    };
    vec![
        name(object),
        text(object, &["spec", "controller"]).into(),
        shown.into(),
        age(object, now),
    ]
}
