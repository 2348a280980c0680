//! Identities and policies, to and from their messages.

use waggle_model::network::{
    Identity, IpBlock, NamedPort, Peers, Policy, PolicyPort, PolicyRule, PortMatch,
};
use waggle_model::{IdentityId, PolicyId, TenantId};

use super::{Invalid, all, field, optional_port, port, protocol, protocol_message, range};
use crate::v1;

impl From<&Identity> for v1::Identity {
    fn from(one: &Identity) -> Self {
        Self {
            id: one.id.0,
            tenant: one.tenant.0,
            namespace: one.namespace.clone(),
            labels: one.labels.clone().into_iter().collect(),
            ports: one.ports.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Identity> for Identity {
    type Error = Invalid;
    fn try_from(message: v1::Identity) -> Result<Self, Invalid> {
        Ok(Self {
            id: IdentityId(message.id),
            tenant: TenantId(message.tenant),
            namespace: message.namespace,
            labels: message.labels.into_iter().collect(),
            ports: all(message.ports)?,
        })
    }
}

impl From<&NamedPort> for v1::NamedPort {
    fn from(one: &NamedPort) -> Self {
        Self {
            name: one.name.clone(),
            protocol: protocol_message(one.protocol),
            port: one.port.into(),
        }
    }
}

impl TryFrom<v1::NamedPort> for NamedPort {
    type Error = Invalid;
    fn try_from(message: v1::NamedPort) -> Result<Self, Invalid> {
        Ok(Self {
            name: message.name,
            protocol: protocol("NamedPort", message.protocol)?,
            port: port("NamedPort", "port", message.port)?,
        })
    }
}

impl From<&Policy> for v1::Policy {
    fn from(one: &Policy) -> Self {
        let rules = |rules: &Vec<PolicyRule>| v1::PolicyRules {
            rules: rules.iter().map(Into::into).collect(),
        };
        Self {
            id: one.id.0,
            namespace: one.namespace.clone(),
            name: one.name.clone(),
            subjects: one.subjects.iter().map(|id| id.0).collect(),
            ingress: one.ingress.as_ref().map(rules),
            egress: one.egress.as_ref().map(rules),
        }
    }
}

impl TryFrom<v1::Policy> for Policy {
    type Error = Invalid;
    fn try_from(message: v1::Policy) -> Result<Self, Invalid> {
        let rules = |message: Option<v1::PolicyRules>| message.map(|m| all(m.rules)).transpose();
        Ok(Self {
            id: PolicyId(message.id),
            namespace: message.namespace,
            name: message.name,
            subjects: message.subjects.into_iter().map(IdentityId).collect(),
            ingress: rules(message.ingress)?,
            egress: rules(message.egress)?,
        })
    }
}

impl From<&PolicyRule> for v1::PolicyRule {
    fn from(one: &PolicyRule) -> Self {
        let ports = one.ports.iter().map(Into::into).collect();
        match &one.peers {
            Peers::Everyone => Self {
                everyone: true,
                ports,
                ..Self::default()
            },
            Peers::Of { identities, blocks } => Self {
                everyone: false,
                identities: identities.iter().map(|id| id.0).collect(),
                blocks: blocks.iter().map(Into::into).collect(),
                ports,
            },
        }
    }
}

impl TryFrom<v1::PolicyRule> for PolicyRule {
    type Error = Invalid;
    fn try_from(message: v1::PolicyRule) -> Result<Self, Invalid> {
        let peers = if message.everyone {
            Peers::Everyone
        } else {
            Peers::Of {
                identities: message.identities.into_iter().map(IdentityId).collect(),
                blocks: all(message.blocks)?,
            }
        };
        Ok(Self {
            peers,
            ports: all(message.ports)?,
        })
    }
}

impl From<&IpBlock> for v1::IpBlock {
    fn from(one: &IpBlock) -> Self {
        Self {
            range: one.range.to_string(),
            except: one.except.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<v1::IpBlock> for IpBlock {
    type Error = Invalid;
    fn try_from(message: v1::IpBlock) -> Result<Self, Invalid> {
        let holes = message.except.iter();
        Ok(Self {
            range: range("IpBlock", "range", &message.range)?,
            except: holes
                .map(|text| range("IpBlock", "except", text))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<&PolicyPort> for v1::PolicyPort {
    fn from(one: &PolicyPort) -> Self {
        let (name, first, last) = match &one.port {
            PortMatch::Every => (String::new(), 0, 0),
            PortMatch::Range(first, last) => (String::new(), (*first).into(), (*last).into()),
            PortMatch::Named(name) => (name.clone(), 0, 0),
        };
        Self {
            protocol: protocol_message(one.protocol),
            name,
            first,
            last,
        }
    }
}

impl TryFrom<v1::PolicyPort> for PolicyPort {
    type Error = Invalid;
    fn try_from(message: v1::PolicyPort) -> Result<Self, Invalid> {
        let first = optional_port("PolicyPort", "first", message.first)?;
        let last = optional_port("PolicyPort", "last", message.last)?;
        let port = match (message.name, first, last) {
            (name, None, None) if name.is_empty() => PortMatch::Every,
            (name, None, None) => PortMatch::Named(name),
            (name, Some(first), Some(last)) if name.is_empty() && first <= last => {
                PortMatch::Range(first, last)
            }
            (_, _, _) => {
                let value = format!("{}-{}", message.first, message.last);
                return Err(field("PolicyPort", "first", &value, "range of ports"));
            }
        };
        Ok(Self {
            protocol: protocol("PolicyPort", message.protocol)?,
            port,
        })
    }
}
