//! Probes and lifecycle hooks.

use serde_json::Value;

use super::{at_least, names, one_of, port_number};
use crate::Fault;
use crate::walk::{has, list, text};

const HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
/// Linux' signals by name, those for real time left out.
const STOP_SIGNALS: [&str; 31] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGKILL",
    "SIGPIPE",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];
const HOOKS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "sleep"];

/// Faults of a container's probes. An init container that isn't restarted always may have none.
pub(super) fn probes(container: &Value, path: &str, out: &mut Vec<Fault>) {
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &container[field];
        if probe.is_null() {
            continue;
        }
        let path = format!("{path}.{field}");
        handler(probe, &HANDLERS, &path, out);
        for number in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            at_least(&probe[number], 0, &format!("{path}.{number}"), out);
        }
        if field != "readinessProbe"
            && probe["successThreshold"]
                .as_i64()
                .is_some_and(|count| count != 1)
        {
            let place = format!("{path}.successThreshold");
            out.push(Fault::invalid(
                place,
                probe["successThreshold"].clone(),
                "must be 1",
            ));
        }
        at_least(
            &probe["terminationGracePeriodSeconds"],
            1,
            &format!("{path}.terminationGracePeriodSeconds"),
            out,
        );
    }
}

/// Faults of a container's lifecycle hooks.
pub(super) fn lifecycle(container: &Value, path: &str, out: &mut Vec<Fault>) {
    one_of(
        &container["lifecycle"]["stopSignal"],
        &STOP_SIGNALS,
        &format!("{path}.lifecycle.stopSignal"),
        out,
    );
    for field in ["postStart", "preStop"] {
        let hook = &container["lifecycle"][field];
        if !hook.is_null() {
            handler(hook, &HOOKS, &format!("{path}.lifecycle.{field}"), out);
            if has(hook, &["tcpSocket"]) {
                let detail = "a hook can't be a connection: use exec, httpGet or sleep";
                let place = format!("{path}.lifecycle.{field}.tcpSocket");
                out.push(Fault::forbidden(place, detail));
            }
        }
    }
}

fn handler(value: &Value, kinds: &[&str], path: &str, out: &mut Vec<Fault>) {
    let given: Vec<&str> = kinds
        .iter()
        .copied()
        .filter(|kind| has(value, &[kind]))
        .collect();
    match given.as_slice() {
        [] => out.push(Fault::required(path, "must specify a handler type")),
        [_] => {}
        [_, more @ ..] => {
            for kind in more {
                out.push(Fault::forbidden(
                    format!("{path}.{kind}"),
                    "may not specify more than 1 handler type",
                ));
            }
        }
    }
    if has(value, &["exec"]) && list(value, &["exec", "command"]).is_empty() {
        out.push(Fault::required(format!("{path}.exec.command"), ""));
    }
    let web = &value["httpGet"];
    if !web.is_null() {
        let path = format!("{path}.httpGet");
        if text(web, &["path"]).is_empty() {
            out.push(Fault::required(format!("{path}.path"), ""));
        }
        port(&web["port"], &format!("{path}.port"), out);
        one_of(
            &web["scheme"],
            &["HTTP", "HTTPS"],
            &format!("{path}.scheme"),
            out,
        );
        for (index, header) in list(web, &["httpHeaders"]).iter().enumerate() {
            let name = text(header, &["name"]);
            if name.is_empty()
                || !name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            {
                let detail = "a valid HTTP header must consist of letters, digits, '-' or '_' (such as 'X-Header-Name')";
                out.push(Fault::invalid(
                    format!("{path}.httpHeaders[{index}].name"),
                    name,
                    detail,
                ));
            }
        }
    }
    if has(value, &["tcpSocket"]) {
        port(
            &value["tcpSocket"]["port"],
            &format!("{path}.tcpSocket.port"),
            out,
        );
    }
    if has(value, &["grpc"]) {
        port(&value["grpc"]["port"], &format!("{path}.grpc.port"), out);
    }
}

/// Faults of a port given by number or name.
pub(super) fn port(value: &Value, path: &str, out: &mut Vec<Fault>) {
    match value {
        Value::String(name) => {
            if let Some(rule) = names::port_name(name) {
                out.push(Fault::invalid(path, name.as_str(), rule));
            }
        }
        _ => port_number(value, path, out),
    }
}
