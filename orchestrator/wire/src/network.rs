//! The network state and its deltas, to and from their messages. What a message may hold but a model type can't (an
//! address that is none, port 70000, a protocol nobody knows) is refused with the field that holds it.

use std::net::IpAddr;

use bytes::Bytes;
use prost::Message;
use waggle_model::network::{
    Cidr, Endpoint, HostPort, Identity, NetworkDelta, NetworkState, NodeNetwork, Policy, Protocol,
    Service,
};
use waggle_model::{Generation, IdentityId, PolicyId, ServiceId, TenantId};

use crate::v1;

mod policy;
mod service;

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
            identities: state.identities.values().map(Into::into).collect(),
            policies: state.policies.values().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::NetworkSnapshot> for NetworkState {
    type Error = Invalid;
    fn try_from(message: v1::NetworkSnapshot) -> Result<Self, Invalid> {
        let services: Vec<Service> = all(message.services)?;
        let endpoints: Vec<Endpoint> = all(message.endpoints)?;
        let nodes: Vec<NodeNetwork> = all(message.nodes)?;
        let identities: Vec<Identity> = all(message.identities)?;
        let policies: Vec<Policy> = all(message.policies)?;
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
            identities: identities.into_iter().map(|one| (one.id, one)).collect(),
            policies: policies.into_iter().map(|one| (one.id, one)).collect(),
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
            identity_upserts: delta.identity_upserts.iter().map(Into::into).collect(),
            identity_removals: delta.identity_removals.iter().map(|id| id.0).collect(),
            policy_upserts: delta.policy_upserts.iter().map(Into::into).collect(),
            policy_removals: delta.policy_removals.iter().map(|id| id.0).collect(),
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
            identity_upserts: all(message.identity_upserts)?,
            identity_removals: message
                .identity_removals
                .into_iter()
                .map(IdentityId)
                .collect(),
            policy_upserts: all(message.policy_upserts)?,
            policy_removals: message.policy_removals.into_iter().map(PolicyId).collect(),
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
            host_ports: endpoint.host_ports.iter().map(Into::into).collect(),
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
            host_ports: all(message.host_ports)?,
        })
    }
}

impl From<&HostPort> for v1::HostPort {
    fn from(one: &HostPort) -> Self {
        Self {
            protocol: protocol_message(one.protocol),
            address: one.address.map(|a| a.to_string()).unwrap_or_default(),
            port: one.port.into(),
            pod_port: one.pod_port.into(),
        }
    }
}

impl TryFrom<v1::HostPort> for HostPort {
    type Error = Invalid;
    fn try_from(message: v1::HostPort) -> Result<Self, Invalid> {
        let text = message.address.as_str();
        Ok(Self {
            protocol: protocol("HostPort", message.protocol)?,
            address: match text {
                "" => None,
                text => Some(address("HostPort", "address", text)?),
            },
            port: port("HostPort", "port", message.port)?,
            pod_port: port("HostPort", "pod_port", message.pod_port)?,
        })
    }
}

impl From<&NodeNetwork> for v1::NodeNetwork {
    fn from(node: &NodeNetwork) -> Self {
        Self {
            name: node.name.clone(),
            addresses: node.addresses.iter().map(ToString::to_string).collect(),
            pod_cidrs: node.pod_cidrs.iter().map(ToString::to_string).collect(),
            zone: node.zone.clone(),
        }
    }
}

impl TryFrom<v1::NodeNetwork> for NodeNetwork {
    type Error = Invalid;
    fn try_from(message: v1::NodeNetwork) -> Result<Self, Invalid> {
        let addresses = message.addresses.iter();
        let ranges = message.pod_cidrs.iter();
        if message.addresses.is_empty() {
            return Err(field("NodeNetwork", "addresses", &"", "address"));
        }
        if message.pod_cidrs.is_empty() {
            return Err(field("NodeNetwork", "pod_cidrs", &"", "address range"));
        }
        Ok(Self {
            addresses: addresses
                .map(|text| address("NodeNetwork", "addresses", text))
                .collect::<Result<_, _>>()?,
            pod_cidrs: ranges
                .map(|text| range("NodeNetwork", "pod_cidrs", text))
                .collect::<Result<_, _>>()?,
            name: message.name,
            zone: message.zone,
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

fn range(message: &'static str, name: &'static str, text: &str) -> Result<Cidr, Invalid> {
    text.parse()
        .map_err(|_| field(message, name, &text, "address range"))
}

fn port(message: &'static str, name: &'static str, number: u32) -> Result<u16, Invalid> {
    optional_port(message, name, number)?
        .ok_or_else(|| field(message, name, &number, "port (1 to 65535)"))
}

/// A port; `None` for 0.
fn optional_port(
    message: &'static str,
    name: &'static str,
    number: u32,
) -> Result<Option<u16>, Invalid> {
    match u16::try_from(number) {
        Ok(port) => Ok((port != 0).then_some(port)),
        Err(_) => Err(field(message, name, &number, "port (1 to 65535)")),
    }
}

fn protocol_message(protocol: Protocol) -> i32 {
    i32::from(protocol.number())
}

fn protocol(message: &'static str, number: i32) -> Result<Protocol, Invalid> {
    match v1::Protocol::try_from(number) {
        Ok(v1::Protocol::Tcp) => Ok(Protocol::Tcp),
        Ok(v1::Protocol::Udp) => Ok(Protocol::Udp),
        Ok(v1::Protocol::Sctp) => Ok(Protocol::Sctp),
        _ => Err(field(
            message,
            "protocol",
            &number,
            "protocol (6, 17 or 132)",
        )),
    }
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
