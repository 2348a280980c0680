//! The network state and its deltas, to and from their messages. What a message may hold but a model type can't (an
//! address that is none, port 70000, a protocol nobody knows) is refused with the field that holds it.

use std::net::IpAddr;

use bytes::Bytes;
use prost::Message;
use waggle_model::network::{
    Backend, Cidr, Endpoint, Export, NetworkDelta, NetworkState, NodeNetwork, Protocol, Service,
    ServicePort,
};
use waggle_model::{Generation, IdentityId, ServiceId, TenantId};

use crate::v1;

/// A message that holds no valid model value: which message, which field, what it held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A field's value is out of its range.
    #[error("{message}.{field} holds {value:?}, which is no {expected}")]
    Field {
        /// Message of `node.proto`.
        message: &'static str,
        /// Its field.
        field: &'static str,
        /// What was found.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The bytes are no such message at all.
    #[error("undecodable {message}: {cause}")]
    Encoding {
        /// Message of `node.proto`.
        message: &'static str,
        /// The decoder's words.
        cause: String,
    },
}

/// The bytes of `FromServer.network_snapshot`: encoded once, sent to every node that needs it.
pub fn encode_snapshot(state: &NetworkState) -> Bytes {
    v1::NetworkSnapshot::from(state).encode_to_vec().into()
}

/// The bytes of `FromServer.network_delta`: encoded once, sent to every node.
pub fn encode_delta(delta: &NetworkDelta) -> Bytes {
    v1::NetworkDelta::from(delta).encode_to_vec().into()
}

/// Reads `FromServer.network_snapshot`.
///
/// # Errors
/// [`Invalid`] with the first field that holds no valid value.
pub fn decode_snapshot(bytes: Bytes) -> Result<NetworkState, Invalid> {
    let message = v1::NetworkSnapshot::decode(bytes).map_err(|error| Invalid::Encoding {
        message: "NetworkSnapshot",
        cause: error.to_string(),
    })?;
    message.try_into()
}

/// Reads `FromServer.network_delta`.
///
/// # Errors
/// [`Invalid`] with the first field that holds no valid value.
pub fn decode_delta(bytes: Bytes) -> Result<NetworkDelta, Invalid> {
    let message = v1::NetworkDelta::decode(bytes).map_err(|error| Invalid::Encoding {
        message: "NetworkDelta",
        cause: error.to_string(),
    })?;
    message.try_into()
}

impl From<&NetworkState> for v1::NetworkSnapshot {
    fn from(state: &NetworkState) -> Self {
        Self {
            generation: state.generation.0,
            services: state.services.values().map(Into::into).collect(),
            endpoints: state.endpoints.values().map(Into::into).collect(),
            nodes: state.nodes.values().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::NetworkSnapshot> for NetworkState {
    type Error = Invalid;
    fn try_from(message: v1::NetworkSnapshot) -> Result<Self, Invalid> {
        let services: Vec<Service> = all(message.services)?;
        let endpoints: Vec<Endpoint> = all(message.endpoints)?;
        let nodes: Vec<NodeNetwork> = all(message.nodes)?;
        Ok(Self {
            generation: Generation(message.generation),
            services: services
                .into_iter()
                .map(|service| (service.id, service))
                .collect(),
            endpoints: endpoints
                .into_iter()
                .map(|endpoint| (endpoint.address, endpoint))
                .collect(),
            nodes: nodes
                .into_iter()
                .map(|node| (node.name.clone(), node))
                .collect(),
        })
    }
}

impl From<&NetworkDelta> for v1::NetworkDelta {
    fn from(delta: &NetworkDelta) -> Self {
        Self {
            from_generation: delta.from.0,
            generation: delta.to.0,
            service_upserts: delta.service_upserts.iter().map(Into::into).collect(),
            service_removals: delta.service_removals.iter().map(|id| id.0).collect(),
            endpoint_upserts: delta.endpoint_upserts.iter().map(Into::into).collect(),
            endpoint_removals: delta
                .endpoint_removals
                .iter()
                .map(ToString::to_string)
                .collect(),
            node_upserts: delta.node_upserts.iter().map(Into::into).collect(),
            node_removals: delta.node_removals.clone(),
        }
    }
}

impl TryFrom<v1::NetworkDelta> for NetworkDelta {
    type Error = Invalid;
    fn try_from(message: v1::NetworkDelta) -> Result<Self, Invalid> {
        let removals = message.endpoint_removals.iter();
        Ok(Self {
            from: Generation(message.from_generation),
            to: Generation(message.generation),
            service_upserts: all(message.service_upserts)?,
            service_removals: message
                .service_removals
                .into_iter()
                .map(ServiceId)
                .collect(),
            endpoint_upserts: all(message.endpoint_upserts)?,
            endpoint_removals: removals
                .map(|text| address("NetworkDelta", "endpoint_removals", text))
                .collect::<Result<_, _>>()?,
            node_upserts: all(message.node_upserts)?,
            node_removals: message.node_removals,
        })
    }
}

impl From<&Service> for v1::Service {
    fn from(service: &Service) -> Self {
        let (exported_to, exported_to_all) = match &service.export {
            Export::To(tenants) => (tenants.iter().map(|tenant| tenant.0).collect(), false),
            Export::Everyone => (Vec::new(), true),
        };
        Self {
            id: service.id.0,
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            tenant: service.tenant.0,
            vips: service.vips.iter().map(ToString::to_string).collect(),
            ports: service.ports.iter().map(Into::into).collect(),
            exported_to,
            exported_to_all,
            shared: service.tenant == TenantId::SYSTEM,
        }
    }
}

impl TryFrom<v1::Service> for Service {
    type Error = Invalid;
    fn try_from(message: v1::Service) -> Result<Self, Invalid> {
        if message.id == 0 {
            return Err(field("Service", "id", &0, "service number (1 or more)"));
        }
        let export = if message.exported_to_all {
            Export::Everyone
        } else {
            Export::To(message.exported_to.into_iter().map(TenantId).collect())
        };
        Ok(Self {
            id: ServiceId(message.id),
            namespace: message.namespace,
            name: message.name,
            tenant: TenantId(message.tenant),
            vips: message
                .vips
                .iter()
                .map(|text| address("Service", "vips", text))
                .collect::<Result<_, _>>()?,
            ports: all(message.ports)?,
            export,
        })
    }
}

impl From<&ServicePort> for v1::ServicePort {
    fn from(port: &ServicePort) -> Self {
        let protocol = match port.protocol {
            Protocol::Tcp => v1::Protocol::Tcp,
            Protocol::Udp => v1::Protocol::Udp,
        };
        Self {
            name: port.name.clone(),
            protocol: protocol.into(),
            port: port.port.into(),
            backends: port.backends.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::ServicePort> for ServicePort {
    type Error = Invalid;
    fn try_from(message: v1::ServicePort) -> Result<Self, Invalid> {
        let protocol = match v1::Protocol::try_from(message.protocol) {
            Ok(v1::Protocol::Tcp) => Protocol::Tcp,
            Ok(v1::Protocol::Udp) => Protocol::Udp,
            _ => {
                return Err(field(
                    "ServicePort",
                    "protocol",
                    &message.protocol,
                    "protocol (6 or 17)",
                ));
            }
        };
        Ok(Self {
            name: message.name,
            protocol,
            port: port("ServicePort", message.port)?,
            backends: all(message.backends)?,
        })
    }
}

impl From<&Backend> for v1::Backend {
    fn from(backend: &Backend) -> Self {
        Self {
            address: backend.address.to_string(),
            port: backend.port.into(),
            node: backend.node.clone(),
            hostname: backend.hostname.clone(),
        }
    }
}

impl TryFrom<v1::Backend> for Backend {
    type Error = Invalid;
    fn try_from(message: v1::Backend) -> Result<Self, Invalid> {
        Ok(Self {
            address: address("Backend", "address", &message.address)?,
            port: port("Backend", message.port)?,
            node: message.node,
            hostname: message.hostname,
        })
    }
}

impl From<&Endpoint> for v1::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            address: endpoint.address.to_string(),
            identity: endpoint.identity.0,
            tenant: endpoint.tenant.0,
            node: endpoint.node.clone(),
            namespace: endpoint.namespace.clone(),
            pod: endpoint.pod.clone(),
        }
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = Invalid;
    fn try_from(message: v1::Endpoint) -> Result<Self, Invalid> {
        Ok(Self {
            address: address("Endpoint", "address", &message.address)?,
            identity: IdentityId(message.identity),
            tenant: TenantId(message.tenant),
            node: message.node,
            namespace: message.namespace,
            pod: message.pod,
        })
    }
}

impl From<&NodeNetwork> for v1::NodeNetwork {
    fn from(node: &NodeNetwork) -> Self {
        Self {
            name: node.name.clone(),
            address: node.address.to_string(),
            pod_cidr: node.pod_cidr.to_string(),
        }
    }
}

impl TryFrom<v1::NodeNetwork> for NodeNetwork {
    type Error = Invalid;
    fn try_from(message: v1::NodeNetwork) -> Result<Self, Invalid> {
        let pod_cidr: Cidr = message.pod_cidr.parse().map_err(|_| {
            field(
                "NodeNetwork",
                "pod_cidr",
                &message.pod_cidr,
                "address range",
            )
        })?;
        Ok(Self {
            address: address("NodeNetwork", "address", &message.address)?,
            name: message.name,
            pod_cidr,
        })
    }
}

fn all<M, T: TryFrom<M, Error = Invalid>>(messages: Vec<M>) -> Result<Vec<T>, Invalid> {
    messages.into_iter().map(T::try_from).collect()
}

fn address(message: &'static str, name: &'static str, text: &str) -> Result<IpAddr, Invalid> {
    text.parse()
        .map_err(|_| field(message, name, &text, "IP address"))
}

fn port(message: &'static str, number: u32) -> Result<u16, Invalid> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| field(message, "port", &number, "port (1 to 65535)"))
}

fn field(
    message: &'static str,
    field: &'static str,
    value: &dyn std::fmt::Display,
    expected: &'static str,
) -> Invalid {
    Invalid::Field {
        message,
        field,
        value: value.to_string(),
        expected,
    }
}

#[cfg(test)]
mod tests;
