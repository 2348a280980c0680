//! What NetworkPolicy and the tenant wall say, written down plainly from their documents: no tables, no rulesets, no
//! shared code with what is tested. Slow on purpose.

use std::collections::BTreeMap;
use std::net::IpAddr;

use waggle_model::IdentityId;
use waggle_model::network::{
    Endpoint, Export, NetworkState, Peers, Policy, PolicyPort, PolicyRule, PortMatch,
};

use crate::state::HOST;

pub(crate) const TCP: u8 = 6;
pub(crate) const ICMP: u8 = 1;

/// What sort of packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// TCP with SYN only.
    Syn,
    /// TCP with SYN and ACK.
    SynAck,
    /// Any other TCP.
    Ack,
    Udp,
    Sctp,
    /// With its number in `src_port`.
    EchoRequest,
    /// With its number in `dst_port`.
    EchoReply,
    /// UDP without its ports.
    LaterFragment,
}

impl Kind {
    pub(crate) fn protocol(self) -> u8 {
        match self {
            Self::Syn | Self::SynAck | Self::Ack => TCP,
            Self::Udp | Self::LaterFragment => 17,
            Self::Sctp => 132,
            Self::EchoRequest | Self::EchoReply => ICMP,
        }
    }
}

/// One packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) kind: Kind,
    pub(crate) src: (IpAddr, u16),
    pub(crate) dst: (IpAddr, u16),
}

/// Two ends and a protocol, the opener first.
type Flow = ((IpAddr, u16), (IpAddr, u16), u8);

/// One node's view: the state, which node it is, and the flows that it let through.
pub(crate) struct Reference {
    pub(crate) state: NetworkState,
    pub(crate) node: &'static str,
    flows: BTreeMap<Flow, ()>,
}

impl Reference {
    pub(crate) fn new(state: NetworkState, node: &'static str) -> Self {
        Self {
            state,
            node,
            flows: BTreeMap::new(),
        }
    }

    /// Whether the packet passes.
    pub(crate) fn passes(&mut self, packet: &Packet) -> bool {
        let own_node: IpAddr = HOST.parse().expect("an address");
        // 1: a pod and its own node.
        if packet.src.0 == own_node || packet.dst.0 == own_node {
            return true;
        }
        if packet.kind == Kind::LaterFragment {
            return self.same_wall(packet.src.0, packet.dst.0)
                && self.policies_allow(&(packet.src, packet.dst, 17), None);
        }
        let protocol = packet.kind.protocol();
        let forth: Flow = (packet.src, packet.dst, protocol);
        let back: Flow = (packet.dst, packet.src, protocol);
        // Nothing is remembered of ends that nothing governs.
        if self.same_wall(packet.src.0, packet.dst.0)
            && !self.is_governed(packet.src.0)
            && !self.is_governed(packet.dst.0)
        {
            return true;
        }
        let is_reply = if packet.kind == Kind::Syn || self.flows.contains_key(&forth) {
            false
        } else if self.flows.contains_key(&back) {
            true
        } else {
            looks_like_a_reply(packet) && self.same_wall(packet.src.0, packet.dst.0)
        };
        // 2: a reply passes while its flow does.
        if is_reply {
            if self.allows(&back) {
                self.remember(back, forth);
                return true;
            }
            if protocol == TCP {
                return false;
            }
        }
        if self.allows(&forth) {
            self.remember(forth, back);
            return true;
        }
        false
    }

    fn remember(&mut self, flow: Flow, reverse: Flow) {
        self.flows.remove(&reverse);
        self.flows.insert(flow, ());
    }

    /// 3 and 4.
    fn allows(&self, flow: &Flow) -> bool {
        let (opener, answerer, protocol) = *flow;
        let walled = !self.same_wall(opener.0, answerer.0);
        if walled && !self.is_exported(opener.0, answerer, protocol) {
            return false;
        }
        self.policies_allow(flow, Some(answerer.1))
    }

    fn endpoint(&self, address: IpAddr) -> Option<&Endpoint> {
        self.state.endpoints.get(&address)
    }

    /// Both of one tenant, or one of them of none.
    fn same_wall(&self, a: IpAddr, b: IpAddr) -> bool {
        match (self.endpoint(a), self.endpoint(b)) {
            (Some(a), Some(b)) => a.tenant == b.tenant,
            _ => true,
        }
    }

    fn is_exported(&self, from: IpAddr, to: (IpAddr, u16), protocol: u8) -> bool {
        let (Some(from), Some(target)) = (self.endpoint(from), self.endpoint(to.0)) else {
            return false;
        };
        self.state.services.values().any(|service| {
            let open = match &service.export {
                Export::Everyone => true,
                Export::To(tenants) => tenants.contains(&from.tenant),
            };
            let serves = service.ports.iter().any(|port| {
                let mut backends = port.backends.iter();
                port.protocol.number() == protocol
                    && backends.any(|backend| (backend.address, backend.port) == to)
            });
            open && serves && service.tenant == target.tenant
        })
    }

    /// Identity of a pod that is on this node.
    fn local(&self, address: IpAddr) -> Option<IdentityId> {
        let endpoint = self.endpoint(address)?;
        (endpoint.node == self.node).then_some(endpoint.identity)
    }

    fn is_governed(&self, address: IpAddr) -> bool {
        self.local(address).is_some_and(|identity| {
            let mut policies = self.state.policies.values();
            policies.any(|policy| {
                policy.subjects.contains(&identity)
                    && (policy.ingress.is_some() || policy.egress.is_some())
            })
        })
    }

    /// `port` is the answerer's; `None` when the packet does not say it.
    fn policies_allow(&self, flow: &Flow, port: Option<u16>) -> bool {
        let (opener, answerer, protocol) = *flow;
        let asked = (protocol, port);
        let sends = self.local(opener.0).is_none_or(|subject| {
            let rules = |policy: &Policy| policy.egress.clone();
            let names = |peer: Option<IdentityId>| peer;
            self.one_allows(subject, rules, answerer.0, asked, names)
        });
        let receives = self.local(answerer.0).is_none_or(|subject| {
            let rules = |policy: &Policy| policy.ingress.clone();
            let names = |_: Option<IdentityId>| Some(subject);
            self.one_allows(subject, rules, opener.0, asked, names)
        });
        sends && receives
    }

    /// Not selected by any policy of this direction, or allowed by a rule of one that selects it. `names` says whose
    /// port names count: of a peer that is a pod, or of a range of addresses, which has none of its own.
    fn one_allows(
        &self,
        subject: IdentityId,
        rules: impl Fn(&Policy) -> Option<Vec<PolicyRule>>,
        peer: IpAddr,
        asked: (u8, Option<u16>),
        names: impl Fn(Option<IdentityId>) -> Option<IdentityId>,
    ) -> bool {
        let mut isolated = false;
        let pod = self.endpoint(peer).map(|one| one.identity);
        for policy in self.state.policies.values() {
            let Some(rules) = rules(policy).filter(|_| policy.subjects.contains(&subject)) else {
                continue;
            };
            isolated = true;
            for rule in &rules {
                let (as_pod, as_address) = match &rule.peers {
                    Peers::Everyone => (true, false),
                    Peers::Of { identities, blocks } => (
                        pod.is_some_and(|pod| identities.contains(&pod)),
                        blocks.iter().any(|block| {
                            block.range.contains(peer)
                                && !block.except.iter().any(|hole| hole.contains(peer))
                        }),
                    ),
                };
                if as_pod && self.ports_match(rule, asked, names(pod))
                    || as_address && self.ports_match(rule, asked, names(None))
                {
                    return true;
                }
            }
        }
        !isolated
    }

    fn ports_match(
        &self,
        rule: &PolicyRule,
        (protocol, port): (u8, Option<u16>),
        named: Option<IdentityId>,
    ) -> bool {
        rule.ports.is_empty()
            || rule
                .ports
                .iter()
                .any(|one| one.protocol.number() == protocol && self.port_matches(one, port, named))
    }

    fn port_matches(
        &self,
        wanted: &PolicyPort,
        port: Option<u16>,
        named: Option<IdentityId>,
    ) -> bool {
        match (&wanted.port, port) {
            (PortMatch::Every, _) => true,
            (_, None) => false,
            (PortMatch::Range(first, last), Some(port)) => (*first..=*last).contains(&port),
            (PortMatch::Named(name), Some(port)) => {
                let identity = named.and_then(|id| self.state.identities.get(&id));
                identity.is_some_and(|identity| {
                    identity.ports.iter().any(|one| {
                        one.name == *name && one.protocol == wanted.protocol && one.port == port
                    })
                })
            }
        }
    }
}

/// Of a flow that nobody remembers.
fn looks_like_a_reply(packet: &Packet) -> bool {
    let calls = |port: u16| port >= 32_768;
    match packet.kind {
        Kind::SynAck => true,
        Kind::Ack => !calls(packet.src.1) && calls(packet.dst.1),
        _ => false,
    }
}
