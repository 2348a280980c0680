//! Ingresses, their classes, and Endpoints.

use std::net::IpAddr;

use serde_json::Value;

use super::{meta, names, one_of, port_number};
use crate::Fault;
use crate::walk::{has, list, text};

/// Faults of an Ingress.
pub(crate) fn ingress(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("Ingress", value, old, &mut out);
    let spec = &value["spec"];
    let rules = list(spec, &["rules"]);
    if rules.is_empty() && !has(spec, &["defaultBackend"]) {
        let detail = "either `defaultBackend` or `rules` must be specified";
        out.push(Fault::invalid("spec", Value::Null, detail));
    }
    if has(spec, &["defaultBackend"]) {
        backend(&spec["defaultBackend"], "spec.defaultBackend", &mut out);
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        host(text(rule, &["host"]), &format!("{path}.host"), &mut out);
        if !has(rule, &["http"]) {
            continue;
        }
        let paths = list(rule, &["http", "paths"]);
        if paths.is_empty() {
            out.push(Fault::required(format!("{path}.http.paths"), ""));
        }
        for (index, one) in paths.iter().enumerate() {
            http_path(one, &format!("{path}.http.paths[{index}]"), &mut out);
        }
    }
    for (index, tls) in list(spec, &["tls"]).iter().enumerate() {
        for (number, name) in list(tls, &["hosts"]).iter().enumerate() {
            let path = format!("spec.tls[{index}].hosts[{number}]");
            host(name.as_str().unwrap_or_default(), &path, &mut out);
        }
    }
    let class = text(spec, &["ingressClassName"]);
    if let Some(rule) = (!class.is_empty())
        .then(|| names::subdomain(class))
        .flatten()
    {
        out.push(Fault::invalid("spec.ingressClassName", class, rule));
    }
    out
}

fn host(name: &str, path: &str, out: &mut Vec<Fault>) {
    if name.is_empty() {
        return;
    }
    if name.parse::<IpAddr>().is_ok() {
        out.push(Fault::invalid(
            path,
            name,
            "must be a DNS name, not an IP address",
        ));
    } else if let Some(rule) = names::subdomain(name.strip_prefix("*.").unwrap_or(name)) {
        out.push(Fault::invalid(path, name, rule));
    }
}

fn http_path(one: &Value, path: &str, out: &mut Vec<Fault>) {
    let given = text(one, &["path"]);
    match text(one, &["pathType"]) {
        "" => out.push(Fault::required(
            format!("{path}.pathType"),
            "pathType must be specified",
        )),
        "Exact" | "Prefix" if !given.starts_with('/') => out.push(Fault::invalid(
            format!("{path}.path"),
            given,
            "must be an absolute path",
        )),
        "Exact" | "Prefix" => {
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if given.contains(bad) {
                    let detail = format!("must not contain '{bad}'");
                    out.push(Fault::invalid(format!("{path}.path"), given, detail));
                }
            }
        }
        "ImplementationSpecific" if !given.is_empty() && !given.starts_with('/') => {
            let detail = "must be an absolute path";
            out.push(Fault::invalid(format!("{path}.path"), given, detail));
        }
        _ => one_of(
            &one["pathType"],
            &["Exact", "ImplementationSpecific", "Prefix"],
            &format!("{path}.pathType"),
            out,
        ),
    }
    backend(&one["backend"], &format!("{path}.backend"), out);
}

fn backend(backend: &Value, path: &str, out: &mut Vec<Fault>) {
    let (resource, service) = (has(backend, &["resource"]), has(backend, &["service"]));
    if resource && service {
        let detail = "cannot set both resource and service backends";
        out.push(Fault::invalid(path, Value::Null, detail));
    } else if !resource && !service {
        out.push(Fault::required(
            path,
            "resource or service backend is required",
        ));
    }
    if !service {
        return;
    }
    let name = text(backend, &["service", "name"]);
    if name.is_empty() {
        out.push(Fault::required(format!("{path}.service.name"), ""));
    } else if let Some(rule) = names::dns_1035(name) {
        out.push(Fault::invalid(format!("{path}.service.name"), name, rule));
    }
    let port = &backend["service"]["port"];
    let path = format!("{path}.service.port");
    match (text(port, &["name"]), port["number"].is_null()) {
        ("", true) => out.push(Fault::required(path, "port name or number is required")),
        ("", false) => port_number(&port["number"], &format!("{path}.number"), out),
        (name, true) => {
            if let Some(rule) = names::port_name(name) {
                out.push(Fault::invalid(format!("{path}.name"), name, rule));
            }
        }
        (_, false) => {
            let detail = "cannot set both port name & port number";
            out.push(Fault::invalid(path, Value::Null, detail));
        }
    }
}

/// Faults of an IngressClass.
pub(crate) fn ingress_class(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("IngressClass", value, old, &mut out);
    let controller = text(value, &["spec", "controller"]);
    if controller.is_empty() {
        out.push(Fault::required("spec.controller", ""));
    } else if !controller.contains('/') || controller.len() > 250 {
        let detail =
            "must be a domain-prefixed path (such as \"acme.io/foo\") of at most 250 bytes";
        out.push(Fault::invalid("spec.controller", controller, detail));
    }
    if let Some(old) = old {
        meta::immutable(value, old, &["spec", "controller"], &mut out);
    }
    out
}

/// Faults of Endpoints.
pub(crate) fn endpoints(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("Endpoints", value, old, &mut out);
    for (index, subset) in list(value, &["subsets"]).iter().enumerate() {
        let path = format!("subsets[{index}]");
        let (ready, not) = (
            list(subset, &["addresses"]),
            list(subset, &["notReadyAddresses"]),
        );
        if ready.is_empty() && not.is_empty() {
            let detail = "must specify `addresses` or `notReadyAddresses`";
            out.push(Fault::required(path.clone(), detail));
        }
        for (field, all) in [("addresses", ready), ("notReadyAddresses", not)] {
            for (index, one) in all.iter().enumerate() {
                let ip = text(one, &["ip"]);
                if ip.parse::<IpAddr>().is_err() {
                    let path = format!("{path}.{field}[{index}].ip");
                    let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
                    out.push(Fault::invalid(path, ip, detail));
                }
            }
        }
        let ports = list(subset, &["ports"]);
        for (index, port) in ports.iter().enumerate() {
            let path = format!("{path}.ports[{index}]");
            port_number(&port["port"], &format!("{path}.port"), &mut out);
            let known = ["SCTP", "TCP", "UDP"];
            one_of(
                &port["protocol"],
                &known,
                &format!("{path}.protocol"),
                &mut out,
            );
            if ports.len() > 1 && text(port, &["name"]).is_empty() {
                out.push(Fault::required(format!("{path}.name"), ""));
            }
        }
    }
    out
}
