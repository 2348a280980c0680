//! Where a port of a Service is served now, and connections there: to a pod through its node, to anything else directly.

use std::net::IpAddr;

use rand::seq::IndexedRandom as _;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use waggle_api::{Status, find};
use waggle_plan::endpoint_slice::SERVICE_NAME_LABEL;

use super::{Streams, tunnel};
use crate::objects::Objects;

/// Bytes both ways.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// A TCP connection.
///
/// # Errors
/// Why there is none.
pub(crate) async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("{host}:{port} can't be reached: {error}"))?;
    // Costs speed only.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// A ready endpoint of a Service's port.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Endpoint {
    Pod {
        namespace: String,
        name: String,
        port: u16,
    },
    Address(IpAddr, u16),
}

/// How a port of a Service is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Port<'a> {
    /// Its number.
    Number(u16),
    /// Its name; empty for the only one, or the one without a name.
    Name(&'a str),
}

/// Connects to one of these ends of a Service.
///
/// # Errors
/// There is none, or it can't be reached.
pub(crate) async fn connect(
    streams: &Streams,
    service: &Value,
    ends: &[Endpoint],
) -> Result<(Box<dyn Connection>, Endpoint), String> {
    let nobody = || format!("no endpoints available for service {service}");
    let chosen = ends.choose(&mut rand::rng()).ok_or_else(nobody)?;
    let stream: Box<dyn Connection> = match chosen {
        Endpoint::Pod {
            namespace,
            name,
            port,
        } => {
            let connected = tunnel::connect(streams, namespace, name, *port).await;
            Box::new(connected.map_err(|status| status.message)?)
        }
        Endpoint::Address(address, port) => Box::new(dial(&address.to_string(), *port).await?),
    };
    Ok((stream, chosen.clone()))
}

/// Where the Service's port leads now.
///
/// # Errors
/// 404 without the Service, 503 without such a port.
pub(crate) fn endpoints(
    objects: &Objects,
    namespace: &str,
    name: &str,
    port: Port<'_>,
) -> Result<Vec<Endpoint>, Status> {
    let services = find("", "v1", "services").ok_or_else(Status::unknown_path)?;
    let slices =
        find("discovery.k8s.io", "v1", "endpointslices").ok_or_else(Status::unknown_path)?;
    let found = objects
        .get(services, namespace, name)
        .ok_or_else(|| Status::not_found(services, name))?;
    let ports = found.value["spec"]["ports"].as_array();
    let ports: Vec<&Value> = ports.into_iter().flatten().collect();
    let wanted = match (port, ports.as_slice()) {
        (Port::Name(""), [only]) => Some(*only),
        (Port::Name(name), all) => {
            let named = |one: &&&Value| one["name"].as_str().unwrap_or_default() == name;
            all.iter().find(named).copied()
        }
        (Port::Number(number), all) => all.iter().find(|one| one["port"] == number).copied(),
    };
    let wanted = wanted.ok_or_else(|| {
        let port = match port {
            Port::Number(number) => number.to_string(),
            Port::Name(name) => format!("{name:?}"),
        };
        Status::unavailable(format!("service {namespace}/{name} has no port {port}"))
    })?;
    let port_name = wanted["name"].as_str().unwrap_or_default();
    let mut all = Vec::new();
    for slice in objects.list(slices, Some(namespace)).objects {
        if slice.value["metadata"]["labels"][SERVICE_NAME_LABEL] == name {
            all.extend(of_slice(&slice.value, port_name));
        }
    }
    Ok(all)
}

fn of_slice(slice: &Value, port_name: &str) -> Vec<Endpoint> {
    let list = |field: &str| slice[field].as_array().into_iter().flatten();
    let port = list("ports")
        .find(|one| one["name"].as_str().unwrap_or_default() == port_name)
        .and_then(|one| u16::try_from(one["port"].as_u64()?).ok());
    let Some(port) = port else {
        return Vec::new();
    };
    let ready = list("endpoints").filter(|one| one["conditions"]["ready"] != false);
    let endpoint = |one: &Value| {
        let target = &one["targetRef"];
        if target["kind"] == "Pod" {
            return Some(Endpoint::Pod {
                namespace: slice["metadata"]["namespace"].as_str()?.to_owned(),
                name: target["name"].as_str()?.to_owned(),
                port,
            });
        }
        let address = one["addresses"][0].as_str()?.parse().ok()?;
        Some(Endpoint::Address(address, port))
    };
    ready.filter_map(endpoint).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn endpoints_are_those_that_are_ready_at_the_named_port() {
        let slice = json!({"metadata": {"namespace": "shop"}, "ports": [{"name": "x", "port": 1}, {"port": 8443}],
        "endpoints": [
            {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "a"}},
            {"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "name": "b"}, "conditions": {"ready": false}},
            {"addresses": ["192.0.2.7"], "conditions": {"ready": true}},
        ]});
        let pod = Endpoint::Pod {
            namespace: "shop".into(),
            name: "a".into(),
            port: 8443,
        };
        let outside = Endpoint::Address([192, 0, 2, 7].into(), 8443);
        assert_eq!(of_slice(&slice, ""), [pod, outside]);
        assert_eq!(of_slice(&slice, "other"), []);
    }
}
