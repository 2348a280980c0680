//! Containers: names, images, ports, environment, mounts, security.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{at_least, names, one_of, port_number, probe, resources, volume};
use crate::Fault;
use crate::walk::{has, list, text};

const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// Faults of a pod's containers of all sorts.
pub(super) fn all(spec: &Value, path: &str, out: &mut Vec<Fault>) {
    if list(spec, &["containers"]).is_empty() {
        out.push(Fault::required(format!("{path}.containers"), ""));
    }
    let mut seen = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    for group in ["initContainers", "containers"] {
        for (index, one) in list(spec, &[group]).iter().enumerate() {
            let path = format!("{path}.{group}[{index}]");
            let name = text(one, &["name"]);
            if !name.is_empty() && !seen.insert(name) {
                out.push(Fault::duplicate(format!("{path}.name"), name));
            }
            check(spec, one, &path, out);
            role(one, group == "initContainers", &path, out);
            ports(one, &path, &mut host_ports, out);
        }
    }
    if !list(spec, &["ephemeralContainers"]).is_empty() {
        let detail = "cannot be set here: they are added to a pod that runs (subresource ephemeralcontainers, `kubectl debug`)";
        out.push(Fault::forbidden(
            format!("{path}.ephemeralContainers"),
            detail,
        ));
    }
}

/// Faults of one container, of whichever sort.
pub(super) fn check(spec: &Value, one: &Value, path: &str, out: &mut Vec<Fault>) {
    let name = text(one, &["name"]);
    if name.is_empty() {
        out.push(Fault::required(format!("{path}.name"), ""));
    } else if let Some(rule) = names::label(name) {
        out.push(Fault::invalid(format!("{path}.name"), name, rule));
    }
    image(text(one, &["image"]), &format!("{path}.image"), out);
    one_of(
        &one["imagePullPolicy"],
        &PULL_POLICIES,
        &format!("{path}.imagePullPolicy"),
        out,
    );
    let messages = ["File", "FallbackToLogsOnError"];
    one_of(
        &one["terminationMessagePolicy"],
        &messages,
        &format!("{path}.terminationMessagePolicy"),
        out,
    );
    environment(one, path, out);
    mounts(spec, one, path, out);
    probe::probes(one, path, out);
    probe::lifecycle(one, path, out);
    resources::check(&one["resources"], &format!("{path}.resources"), out);
    security(
        &one["securityContext"],
        &format!("{path}.securityContext"),
        out,
    );
}

/// What only one of the two sorts may have.
fn role(one: &Value, init: bool, path: &str, out: &mut Vec<Fault>) {
    if has(one, &["restartPolicyRules"]) {
        let detail = "this cluster restarts containers by the pod's restartPolicy alone";
        out.push(Fault::forbidden(
            format!("{path}.restartPolicyRules"),
            detail,
        ));
    }
    let restart = &one["restartPolicy"];
    let sidecar = init && restart == "Always";
    if init && !restart.is_null() {
        one_of(restart, &["Always"], &format!("{path}.restartPolicy"), out);
    } else if !restart.is_null() {
        out.push(Fault::forbidden(
            format!("{path}.restartPolicy"),
            "may not be set for non-init containers",
        ));
    }
    if init && !sidecar {
        for field in [
            "lifecycle",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
        ] {
            if has(one, &[field]) {
                let detail = "may not be set for init containers without restartPolicy=Always";
                out.push(Fault::forbidden(format!("{path}.{field}"), detail));
            }
        }
    }
}

/// Faults of an image reference.
pub(super) fn image(image: &str, path: &str, out: &mut Vec<Fault>) {
    if image.is_empty() {
        out.push(Fault::required(path, ""));
    } else if image.trim() != image {
        out.push(Fault::invalid(
            path,
            image,
            "must not have leading or trailing whitespace",
        ));
    } else if image.contains(char::is_whitespace)
        || image.starts_with(['/', ':', '@'])
        || image.ends_with(['/', ':', '@'])
    {
        let detail = "must be an image reference such as registry.example.com/app:1.0";
        out.push(Fault::invalid(path, image, detail));
    }
}

fn ports(one: &Value, path: &str, host_ports: &mut BTreeSet<String>, out: &mut Vec<Fault>) {
    let mut seen = BTreeSet::new();
    for (index, port) in list(one, &["ports"]).iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        let name = text(port, &["name"]);
        if let Some(rule) = (!name.is_empty()).then(|| names::port_name(name)).flatten() {
            out.push(Fault::invalid(format!("{path}.name"), name, rule));
        } else if !name.is_empty() && !seen.insert(name) {
            out.push(Fault::duplicate(format!("{path}.name"), name));
        }
        if port["containerPort"].is_null() || port["containerPort"] == 0 {
            out.push(Fault::required(format!("{path}.containerPort"), ""));
        } else {
            port_number(
                &port["containerPort"],
                &format!("{path}.containerPort"),
                out,
            );
        }
        let host = &port["hostPort"];
        if !host.is_null() && *host != 0 {
            port_number(host, &format!("{path}.hostPort"), out);
            let (protocol, ip) = (text(port, &["protocol"]), text(port, &["hostIP"]));
            if !host_ports.insert(format!("{protocol}/{ip}/{host}")) {
                out.push(Fault::duplicate(format!("{path}.hostPort"), host.clone()));
            }
        }
        one_of(
            &port["protocol"],
            &PROTOCOLS,
            &format!("{path}.protocol"),
            out,
        );
    }
}

fn environment(one: &Value, path: &str, out: &mut Vec<Fault>) {
    for (index, variable) in list(one, &["env"]).iter().enumerate() {
        let path = format!("{path}.env[{index}]");
        let name = text(variable, &["name"]);
        if name.is_empty() {
            out.push(Fault::required(format!("{path}.name"), ""));
        } else if let Some(rule) = names::variable(name) {
            out.push(Fault::invalid(format!("{path}.name"), name, rule));
        }
        if has(variable, &["valueFrom"]) {
            value_from(variable, &path, out);
        }
    }
    for (index, source) in list(one, &["envFrom"]).iter().enumerate() {
        let path = format!("{path}.envFrom[{index}]");
        let given = ["configMapRef", "secretRef"]
            .into_iter()
            .filter(|kind| has(source, &[kind]))
            .collect::<Vec<_>>();
        match given.as_slice() {
            [kind] if text(source, &[kind, "name"]).is_empty() => {
                out.push(Fault::required(format!("{path}.{kind}.name"), ""));
            }
            [_] => {}
            [] => out.push(Fault::invalid(
                path,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            _ => out.push(Fault::invalid(
                path,
                "",
                "may not have more than one field specified at a time",
            )),
        }
    }
}

const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn value_from(variable: &Value, path: &str, out: &mut Vec<Fault>) {
    let from = &variable["valueFrom"];
    let path = format!("{path}.valueFrom");
    if !text(variable, &["value"]).is_empty() {
        out.push(Fault::invalid(
            path.clone(),
            "",
            "may not be specified when `value` is not empty",
        ));
    }
    let kinds = [
        "fieldRef",
        "resourceFieldRef",
        "configMapKeyRef",
        "secretKeyRef",
    ];
    let given: Vec<&str> = kinds
        .into_iter()
        .filter(|kind| has(from, &[kind]))
        .collect();
    if has(from, &["fileKeyRef"]) {
        let detail = "this cluster reads no variables from files of volumes";
        out.push(Fault::forbidden(format!("{path}.fileKeyRef"), detail));
    } else if given.len() != 1 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        out.push(Fault::invalid(path.clone(), "", detail));
    }
    for kind in ["configMapKeyRef", "secretKeyRef"]
        .into_iter()
        .filter(|kind| has(from, &[kind]))
    {
        for field in ["name", "key"] {
            if text(from, &[kind, field]).is_empty() {
                out.push(Fault::required(format!("{path}.{kind}.{field}"), ""));
            }
        }
    }
    if has(from, &["fieldRef"]) {
        let field = text(from, &["fieldRef", "fieldPath"]);
        let subscripted = ["metadata.labels['", "metadata.annotations['"]
            .iter()
            .any(|start| field.starts_with(start));
        let known = FIELDS.contains(&field) || (subscripted && field.ends_with("']"));
        if !known {
            out.push(Fault::not_supported(
                format!("{path}.fieldRef.fieldPath"),
                field,
                &FIELDS,
            ));
        }
    }
    if has(from, &["resourceFieldRef"]) && text(from, &["resourceFieldRef", "resource"]).is_empty()
    {
        out.push(Fault::required(
            format!("{path}.resourceFieldRef.resource"),
            "",
        ));
    }
}

fn mounts(spec: &Value, one: &Value, path: &str, out: &mut Vec<Fault>) {
    let mut seen = BTreeSet::new();
    for (index, mount) in list(one, &["volumeMounts"]).iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let (name, target) = (text(mount, &["name"]), text(mount, &["mountPath"]));
        if name.is_empty() {
            out.push(Fault::required(format!("{path}.name"), ""));
        } else if !list(spec, &["volumes"])
            .iter()
            .any(|volume| volume["name"] == name)
        {
            out.push(Fault::not_found(format!("{path}.name"), name));
        }
        if target.is_empty() {
            out.push(Fault::required(format!("{path}.mountPath"), ""));
        } else if !seen.insert(target) {
            out.push(Fault::invalid(
                format!("{path}.mountPath"),
                target,
                "must be unique",
            ));
        } else if target.contains(':') {
            out.push(Fault::invalid(
                format!("{path}.mountPath"),
                target,
                "must not contain ':'",
            ));
        }
        for field in ["subPath", "subPathExpr"] {
            if !text(mount, &[field]).is_empty() {
                volume::local_path(&mount[field], &format!("{path}.{field}"), out);
            }
        }
        propagation(one, mount, &path, out);
        if has(mount, &["bindMountOptions"]) {
            let detail = "this cluster takes no options of bind mounts";
            out.push(Fault::forbidden(format!("{path}.bindMountOptions"), detail));
        }
    }
    if !list(one, &["volumeDevices"]).is_empty() {
        out.push(Fault::forbidden(
            format!("{path}.volumeDevices"),
            "this cluster has no block volumes",
        ));
    }
}

/// Which mounts cross between node and container, and whether those below a mount are read-only too.
fn propagation(container: &Value, mount: &Value, path: &str, out: &mut Vec<Fault>) {
    let propagation = text(mount, &["mountPropagation"]);
    let field = format!("{path}.mountPropagation");
    match propagation {
        "" | "None" | "HostToContainer" => {}
        "Bidirectional" => {
            if container["securityContext"]["privileged"] != true {
                let detail =
                    "Bidirectional mount propagation is available only to privileged containers";
                out.push(Fault::forbidden(field, detail));
            }
        }
        other => out.push(Fault::not_supported(
            field,
            other,
            &["Bidirectional", "HostToContainer", "None"],
        )),
    }
    let recursive = text(mount, &["recursiveReadOnly"]);
    let field = format!("{path}.recursiveReadOnly");
    match recursive {
        "" | "Disabled" => return,
        "Enabled" | "IfPossible" => {}
        other => {
            let known = ["Disabled", "Enabled", "IfPossible"];
            return out.push(Fault::not_supported(field, other, &known));
        }
    }
    let mut forbid = |detail| out.push(Fault::forbidden(field.clone(), detail));
    if mount["readOnly"] != true {
        forbid("may only be specified when readOnly is true");
    }
    if !matches!(propagation, "" | "None") {
        forbid("may only be specified when mountPropagation is None or not specified");
    }
}

/// Faults of a container's or pod's security context.
pub(super) fn security(context: &Value, path: &str, out: &mut Vec<Fault>) {
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        at_least(&context[field], 0, &format!("{path}.{field}"), out);
    }
    for (field, known) in [
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
        ("seLinuxChangePolicy", ["MountOption", "Recursive"]),
    ] {
        one_of(&context[field], &known, &format!("{path}.{field}"), out);
    }
    if context["privileged"] == true && context["allowPrivilegeEscalation"] == false {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        out.push(Fault::invalid(path, context.clone(), detail));
    }
    if context["runAsNonRoot"] == true && context["runAsUser"] == 0 {
        let detail = "must not be 0 when `runAsNonRoot` is true";
        out.push(Fault::invalid(format!("{path}.runAsUser"), 0, detail));
    }
    for profile in ["seccompProfile", "appArmorProfile"] {
        let kind = &context[profile]["type"];
        let place = format!("{path}.{profile}.type");
        if kind == "Localhost" && profile == "seccompProfile" {
            let place = format!("{path}.{profile}.localhostProfile");
            volume::local_path(&context[profile]["localhostProfile"], &place, out);
        } else if kind == "Localhost" {
            out.push(Fault::forbidden(
                place,
                "this cluster has no AppArmor profiles of a node's own",
            ));
        } else {
            one_of(kind, &["RuntimeDefault", "Unconfined"], &place, out);
        }
    }
    if context["procMount"] == "Unmasked" {
        out.push(Fault::forbidden(
            format!("{path}.procMount"),
            "this cluster always masks /proc",
        ));
    }
    if has(context, &["windowsOptions"]) {
        out.push(Fault::forbidden(
            format!("{path}.windowsOptions"),
            "this cluster runs Linux containers",
        ));
    }
}
