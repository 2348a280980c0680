//! `waggle policy`: why something may reach something else or not. The cluster's objects are read, and then the same
//! code decides that makes the nodes' tables.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use waggle_model::Generation;
use waggle_model::network::NetworkState;
use waggle_plan::identity::{Registry, Wanted, assign};
use waggle_plan::network::network_state;
use waggle_plan::{Snapshot, pod};
use waggle_policy::{Question, why};

use crate::connect::{Api, Globals};
use crate::get::put;
use crate::tab;

/// Arguments of `policy`.
#[derive(Debug, clap::Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Say whether a first packet passes, and which rule decides
    #[command(
        long_about = "Say whether a first packet passes, and which rule decides: the tenant wall, or a NetworkPolicy \
                      by name and rule. Exits with 1 when it does not pass."
    )]
    Why {
        /// Who sends: a pod (NAME or NAMESPACE/NAME) or an address
        #[arg(value_name = "FROM")]
        from: String,
        /// To whom: a pod, an address, or a Service's virtual address
        #[arg(value_name = "TO")]
        to: String,
        /// Port of the receiver, and tcp, udp or sctp [default: tcp]; without it only what allows every port counts
        #[arg(value_name = "PORT[/PROTOCOL]")]
        port: Option<String>,
    },
}

/// What the network state is made from.
const KINDS: [(&str, &str, &str); 7] = [
    ("v1", "Namespace", "/api/v1/namespaces"),
    ("v1", "Node", "/api/v1/nodes"),
    ("v1", "Pod", "/api/v1/pods"),
    ("v1", "Service", "/api/v1/services"),
    (
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "/apis/discovery.k8s.io/v1/endpointslices",
    ),
    (
        "networking.k8s.io/v1",
        "NetworkPolicy",
        "/apis/networking.k8s.io/v1/networkpolicies",
    ),
    ("waggle.dev/v1", "Tenant", "/apis/waggle.dev/v1/tenants"),
];

/// Runs it.
pub(crate) async fn run(args: PolicyArgs, globals: &Globals) -> Result<ExitCode> {
    let What::Why { from, to, port } = args.what;
    let (port, protocol) = port.as_deref().map_or(Ok((0, TCP)), parse_port)?;
    let api = Api::connect(globals).await?;
    let snapshot = read(&api).await?;
    let mut registry = Registry::default();
    registry.apply(assign(&registry, &Wanted::of(&snapshot)));
    let state = network_state(&snapshot, &registry, &|_| None, Generation(1));
    let from = place(&snapshot, &api.namespace, &from)?;
    let to = place(&snapshot, &api.namespace, &to)?;
    let (text, allowed) = answer(&state, &from, &to, port, protocol)?;
    put(&tab::align(&text, 6, 3))?;
    Ok(if allowed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

const TCP: u8 = 6;

/// `80`, `53/udp`.
fn parse_port(text: &str) -> Result<(u16, u8)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let port: u16 = number
        .parse()
        .ok()
        .filter(|port| *port != 0)
        .with_context(|| {
            format!("port {text:?}: write a number from 1 to 65535, such as 80 or 53/udp")
        })?;
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => TCP,
        "udp" => 17,
        "sctp" => 132,
        other => bail!("protocol {other:?} of port {text:?}: write tcp, udp or sctp"),
    };
    Ok((port, protocol))
}

async fn read(api: &Api) -> Result<Snapshot> {
    let mut snapshot = Snapshot::default();
    for (version, kind, path) in KINDS {
        let list = api.list(path).await?;
        for item in list["items"].as_array().into_iter().flatten() {
            let mut item = item.clone();
            item["apiVersion"] = Value::from(version);
            item["kind"] = Value::from(kind);
            snapshot.upsert(&item)?;
        }
    }
    Ok(snapshot)
}

/// One end: what it is called, and its address.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    name: String,
    address: IpAddr,
}

fn place(snapshot: &Snapshot, namespace: &str, text: &str) -> Result<Place> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Place {
            name: address.to_string(),
            address,
        });
    }
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    let found = snapshot.pods.get(namespace, name);
    let object = found.with_context(|| {
        format!("no pod {name:?} in namespace {namespace:?}: write a pod's NAME or NAMESPACE/NAME, or an address")
    })?;
    let on_host = object
        .spec
        .as_ref()
        .is_some_and(|spec| spec.host_network == Some(true));
    let status = object.status.as_ref();
    let address = status
        .and_then(|status| status.pod_ip.as_deref())
        .and_then(|text| text.parse().ok())
        .filter(|_| !pod::is_terminated(object))
        .with_context(|| format!("pod {namespace}/{name} has no address: it is not running"))?;
    let kind = if on_host { " on the host network" } else { "" };
    Ok(Place {
        name: format!("{namespace}/{name} ({address}{kind})"),
        address,
    })
}

/// The text, and whether everything that may be meant is allowed: behind a virtual address any backend may answer.
fn answer(
    state: &NetworkState,
    from: &Place,
    to: &Place,
    port: u16,
    protocol: u8,
) -> Result<(String, bool)> {
    let service = state
        .services
        .values()
        .find(|service| service.vips.contains(&to.address));
    let Some(service) = service else {
        return Ok(explain(state, from, to, port, protocol));
    };
    let title = format!("{}/{}", service.namespace, service.name);
    let mut ports = service.ports.iter();
    let found = ports.find(|one| one.port == port && one.protocol.number() == protocol);
    let found = found.with_context(|| {
        format!(
            "Service {title} ({}) does not serve that port; name one of its ports",
            to.address
        )
    })?;
    let (mut text, mut allowed) = (String::new(), true);
    for backend in found.usable() {
        let name = state.endpoints.get(&backend.address);
        let name = name.map_or_else(
            || backend.address.to_string(),
            |pod| format!("{}/{} ({})", pod.namespace, pod.pod, backend.address),
        );
        let target = Place {
            name: format!("Service {title}, backend {name}"),
            address: backend.address,
        };
        let (part, passes) = explain(state, from, &target, backend.port, protocol);
        text.push_str(&part);
        allowed &= passes;
    }
    if text.is_empty() {
        bail!("Service {title} has no backend that is ready at that port");
    }
    Ok((text, allowed))
}

fn explain(
    state: &NetworkState,
    from: &Place,
    to: &Place,
    port: u16,
    protocol: u8,
) -> (String, bool) {
    let question = Question {
        from: from.address,
        to: to.address,
        protocol,
        port,
    };
    let answer = why(state, &question);
    let verdict = if answer.allowed { "allowed" } else { "denied" };
    let place = match (port, protocol) {
        (0, _) => "every port".to_owned(),
        (port, TCP) => format!("{port}/tcp"),
        (port, 17) => format!("{port}/udp"),
        (port, _) => format!("{port}/sctp"),
    };
    let mut text = format!("{verdict}: {} -> {}, {place}\n", from.name, to.name);
    for step in &answer.steps {
        // Writing to a text does not fail.
        let _ = writeln!(text, "  {step}");
    }
    (text, answer.allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cluster() -> Snapshot {
        let mut snapshot = Snapshot::default();
        let pod = |name: &str, address: &str| {
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"app": name}},
                "spec": {"nodeName": "node1", "containers": []},
                "status": {"phase": "Running", "podIP": address}})
        };
        for object in [
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
            pod("web", "10.244.1.2"),
            pod("cart", "10.244.1.3"),
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": "web-in", "namespace": "shop", "uid": "p"},
                "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"],
                    "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "cart"}}}], "ports": [{"port": 80}]}]}}),
        ] {
            snapshot.upsert(&object).unwrap();
        }
        snapshot
    }

    fn asked(to: &str, port: u16) -> (String, bool) {
        let snapshot = cluster();
        let mut registry = Registry::default();
        registry.apply(assign(&registry, &Wanted::of(&snapshot)));
        let state = network_state(&snapshot, &registry, &|_| None, Generation(1));
        let from = place(&snapshot, "shop", "cart").unwrap();
        let to = place(&snapshot, "shop", to).unwrap();
        answer(&state, &from, &to, port, TCP).unwrap()
    }

    #[test]
    fn the_answer_names_the_deciding_rule() {
        let (text, allowed) = asked("shop/web", 80);
        assert!(allowed, "{text}");
        assert!(
            text.starts_with("allowed: shop/cart (10.244.1.3) -> shop/web (10.244.1.2), 80/tcp\n"),
            "{text}"
        );
        assert!(
            text.contains("NetworkPolicy shop/web-in, ingress rule 1"),
            "{text}"
        );
        let (text, allowed) = asked("10.244.1.2", 81);
        assert!(!allowed);
        assert!(text.contains("governed by shop/web-in"), "{text}");
    }

    #[test]
    fn a_bad_argument_is_named() {
        for (text, expect) in [
            ("0", "write a number"),
            ("http", "write a number"),
            ("80/icmp", "write tcp, udp or sctp"),
        ] {
            let error = parse_port(text).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        }
        assert_eq!(parse_port("53/UDP").unwrap(), (53, 17));
        let error = place(&cluster(), "default", "web").unwrap_err().to_string();
        assert!(
            error.contains("no pod \"web\" in namespace \"default\""),
            "{error}"
        );
    }
}
