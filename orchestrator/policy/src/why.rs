//! Why something may reach something else or not: the precedence of the programs, walked step by step over the same
//! compiled rules, with the names of what decides.

use std::fmt;
use std::net::IpAddr;

use waggle_abi::{TENANT_ANY, TENANT_SYSTEM};
use waggle_model::network::{Endpoint, Export, NetworkState, Policy};
use waggle_model::{IdentityId, TenantId};

use crate::rows::may_export;
use crate::ruleset::{Direction, compile, compile_rule, rules_of};

/// What is asked: a first packet of `from` to `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Who sends it.
    pub from: IpAddr,
    /// To whom; an address of a pod, a node or the outside, no virtual one.
    pub to: IpAddr,
    /// IANA number.
    pub protocol: u8,
    /// Port of the receiver, host byte order; 0 asks for what allows every port.
    pub port: u16,
}

/// The verdict, and what each rule of precedence has to say. Those below the deciding one are not asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// Let through.
    pub allowed: bool,
    /// In order of precedence; the last one decides.
    pub steps: Vec<Reasoning>,
}

/// What one rule of precedence says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reasoning {
    /// 1: one end is the node that the other is on.
    OwnNode {
        /// Its name.
        node: String,
    },
    /// The address is in the pods' range, but nobody has it.
    UnknownPod {
        /// The address.
        address: IpAddr,
    },
    /// 3: no wall is between them.
    NoWall {
        /// Tenant that both are of; `None` when one is the system's, a node, or outside.
        tenant: Option<TenantId>,
    },
    /// 3: an export opens the wall.
    Exported {
        /// Namespace and name of the Service.
        service: String,
    },
    /// 3: the wall stands.
    Wall {
        /// Tenant of the sender.
        from: TenantId,
        /// Tenant of the receiver.
        to: TenantId,
    },
    /// 4: no policy governs this direction of this pod.
    Free(Direction, String),
    /// 4: a rule allows it.
    Allowed {
        /// Direction.
        direction: Direction,
        /// Namespace and name of the NetworkPolicy.
        policy: String,
        /// Which of its rules of that direction, from 1 on.
        rule: usize,
    },
    /// 4: policies govern the direction, and none of their rules allows it.
    Denied {
        /// Direction.
        direction: Direction,
        /// The pod whose policies they are.
        pod: String,
        /// Namespaces and names of the NetworkPolicies.
        policies: Vec<String>,
    },
}

impl fmt::Display for Reasoning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnNode { node } => {
                write!(
                    f,
                    "node\tallowed: a pod and its own node ({node}) always reach each other"
                )
            }
            Self::UnknownPod { address } => {
                write!(
                    f,
                    "address\tdenied: {address} is in the pods' range, but no pod has it"
                )
            }
            Self::NoWall { tenant: Some(_) } => {
                write!(f, "tenant wall\tnot in the way: both are of one tenant")
            }
            Self::NoWall { tenant: None } => {
                write!(
                    f,
                    "tenant wall\tnot in the way: one end is the system's, a node, or outside the cluster"
                )
            }
            Self::Exported { service } => {
                write!(f, "tenant wall\topened by the export of Service {service}")
            }
            Self::Wall { from, to } => write!(
                f,
                "tenant wall\tdenied: tenants {from} and {to} are separate and no Service is exported there"
            ),
            Self::Free(direction, pod) => {
                write!(
                    f,
                    "{direction}\tallowed: no NetworkPolicy governs the {direction} of {pod}"
                )
            }
            Self::Allowed {
                direction,
                policy,
                rule,
            } => write!(
                f,
                "{direction}\tallowed by NetworkPolicy {policy}, {direction} rule {rule}"
            ),
            Self::Denied {
                direction,
                pod,
                policies,
            } => write!(
                f,
                "{direction}\tdenied: the {direction} of {pod} is governed by {}, and no rule allows it",
                policies.join(", ")
            ),
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// Walks the precedence.
pub fn why(state: &NetworkState, question: &Question) -> Why {
    let (from, to) = (
        state.endpoints.get(&question.from),
        state.endpoints.get(&question.to),
    );
    let mut steps = Vec::new();
    let allowed = decide(state, question, (from, to), &mut steps);
    Why { allowed, steps }
}

type Ends<'a> = (Option<&'a Endpoint>, Option<&'a Endpoint>);

fn decide(
    state: &NetworkState,
    question: &Question,
    (from, to): Ends<'_>,
    steps: &mut Vec<Reasoning>,
) -> bool {
    // 1
    let own = |pod: Option<&Endpoint>, other: IpAddr| {
        let node = state.nodes.get(&pod?.node)?;
        node.addresses.contains(&other).then(|| node.name.clone())
    };
    if let Some(node) = own(from, question.to).or_else(|| own(to, question.from)) {
        steps.push(Reasoning::OwnNode { node });
        return true;
    }
    let lost = |address: IpAddr, found: Option<&Endpoint>| {
        found.is_none() && state.nodes.values().any(|node| node.has_pod(address))
    };
    for (address, found) in [(question.from, from), (question.to, to)] {
        if lost(address, found) {
            steps.push(Reasoning::UnknownPod { address });
            return false;
        }
    }
    // 3
    let wall = wall(state, question, (from, to));
    let stands = matches!(wall, Reasoning::Wall { .. });
    steps.push(wall);
    if stands {
        return false;
    }
    // 4
    for (direction, subject, peer) in [
        (Direction::Egress, from, (to, question.to)),
        (Direction::Ingress, to, (from, question.from)),
    ] {
        let Some(subject) = subject else { continue };
        let said = governed(state, question, direction, subject, peer);
        let denied = matches!(said, Reasoning::Denied { .. });
        steps.push(said);
        if denied {
            return false;
        }
    }
    // 5
    true
}

fn wall(state: &NetworkState, question: &Question, (from, to): Ends<'_>) -> Reasoning {
    let (Some(from), Some(to)) = (from, to) else {
        return Reasoning::NoWall { tenant: None };
    };
    if from.tenant == to.tenant {
        return Reasoning::NoWall {
            tenant: Some(from.tenant),
        };
    }
    if from.tenant.0 == TENANT_SYSTEM || to.tenant.0 == TENANT_SYSTEM {
        return Reasoning::NoWall { tenant: None };
    }
    let export = state.services.values().find(|service| {
        let open = match &service.export {
            Export::Everyone => true,
            Export::To(tenants) => from.tenant.0 != TENANT_ANY && tenants.contains(&from.tenant),
        };
        let serves = service.ports.iter().any(|port| {
            port.protocol.number() == question.protocol
                && port
                    .backends
                    .iter()
                    .any(|backend| (backend.address, backend.port) == (question.to, question.port))
        });
        open && serves && may_export(state, service, question.to)
    });
    match export {
        Some(service) => Reasoning::Exported {
            service: format!("{}/{}", service.namespace, service.name),
        },
        None => Reasoning::Wall {
            from: from.tenant,
            to: to.tenant,
        },
    }
}

fn governed(
    state: &NetworkState,
    question: &Question,
    direction: Direction,
    subject: &Endpoint,
    (peer, address): (Option<&Endpoint>, IpAddr),
) -> Reasoning {
    let pod = format!("{}/{}", subject.namespace, subject.pod);
    let Some(ruleset) = compile(state, subject.identity, direction) else {
        return Reasoning::Free(direction, pod);
    };
    let identity = peer.map_or(IdentityId(0), |peer| peer.identity);
    let (protocol, port) = (question.protocol, question.port);
    let name = |policy: &Policy| format!("{}/{}", policy.namespace, policy.name);
    let allows = ruleset.allows(identity, address.into(), protocol, port);
    if let Some(policy) = allows.and_then(|id| state.policies.get(&id)) {
        let rules = rules_of(policy, direction).unwrap_or_default();
        let rule = rules.iter().position(|rule| {
            let alone = compile_rule(state, subject.identity, direction, rule);
            let allowed = alone.allows(identity, address.into(), protocol, port);
            allowed.is_some()
        });
        return Reasoning::Allowed {
            direction,
            policy: name(policy),
            rule: rule.map_or(0, |index| index + 1),
        };
    }
    let governing = state.policies.values().filter(|policy| {
        policy.subjects.contains(&subject.identity) && rules_of(policy, direction).is_some()
    });
    Reasoning::Denied {
        direction,
        pod,
        policies: governing.map(name).collect(),
    }
}

#[cfg(test)]
mod tests;
