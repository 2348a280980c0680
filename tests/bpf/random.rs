//! Random clusters, policies and packets for the comparison with the reference. The same seed makes the same ones.

use std::collections::BTreeSet;
use std::net::IpAddr;

use waggle_model::network::{
    Cidr, Identity, IpBlock, NamedPort, NetworkState, Peers, Policy, PolicyPort, PolicyRule,
    PortMatch, Protocol,
};
use waggle_model::{IdentityId, PolicyId, TenantId};

use crate::reference::{Kind, Packet};
use crate::state::{BILLING, HOST, OTHER_HOST, SHOP, With, ip, nodes};

/// Pods of the node that is tested.
pub(crate) const HERE: [&str; 4] = ["10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5"];
const FAR: [&str; 4] = ["10.244.2.2", "10.244.2.3", "10.244.2.130", "10.244.2.5"];
const OUTSIDE: [&str; 4] = ["192.0.2.1", "192.0.2.129", "198.51.100.7", OTHER_HOST];
const RANGES: [&str; 8] = [
    "0.0.0.0/0",
    "192.0.2.0/24",
    "192.0.2.128/25",
    "192.0.2.129/32",
    "10.244.0.0/16",
    "10.244.2.0/25",
    "172.30.0.0/16",
    "198.51.0.0/16",
];
const PORTS: [u16; 9] = [1, 53, 80, 1023, 1024, 8080, 32_767, 40_000, 65_535];
const NAMES: [&str; 3] = ["http", "dns", "none"];
const IDENTITIES: std::ops::Range<u32> = 10..15;

/// xorshift64*: enough to be different each time.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("small")
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn some<T>(&mut self, up_to: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(up_to + 1)).map(|_| make(self)).collect()
    }

    /// Pods with identities, a service that may be exported, policies.
    pub(crate) fn cluster(&mut self) -> NetworkState {
        let mut state = nodes();
        for id in IDENTITIES {
            let identity = self.identity(id);
            state.identities.insert(identity.id, identity);
        }
        for address in HERE.into_iter().chain(FAR) {
            let id = IdentityId(self.of(&[10, 11, 12, 13, 14]));
            let tenant = state.identities[&id].tenant;
            state = state.pod(address, tenant.0);
            let endpoint = state.endpoints.get_mut(&ip(address)).expect("just made");
            endpoint.identity = id;
        }
        let export: &[u32] = if self.one_in(2) { &[BILLING] } else { &[] };
        state = state.service("10.96.0.5", SHOP, &[HERE[0], FAR[0], HERE[1]], export);
        self.govern(&mut state);
        state
    }

    /// Other policies over the same pods.
    pub(crate) fn govern(&mut self, state: &mut NetworkState) {
        if self.one_in(3) {
            // A pod with other labels, or another pod at the same address.
            let address = ip(self.of(&[HERE[2], HERE[3], FAR[2], FAR[3]]));
            let id = IdentityId(self.of(&[10, 11, 12, 13, 14]));
            let tenant = state.identities[&id].tenant;
            if let Some(endpoint) = state.endpoints.get_mut(&address) {
                (endpoint.identity, endpoint.tenant) = (id, tenant);
            }
        }
        let policies = self.some(4, Self::policy);
        state.policies = (1..)
            .zip(policies)
            .map(|(id, policy)| {
                let id = PolicyId(id);
                (id, Policy { id, ..policy })
            })
            .collect();
    }

    fn identity(&mut self, id: u32) -> Identity {
        let mut ports: Vec<NamedPort> = Vec::new();
        for name in ["dns", "http"] {
            if self.one_in(2) {
                ports.push(NamedPort {
                    name: name.to_owned(),
                    protocol: self.protocol(),
                    port: self.of(&PORTS),
                });
            }
        }
        Identity {
            id: IdentityId(id),
            tenant: TenantId(if id == 14 { BILLING } else { SHOP }),
            namespace: "test".to_owned(),
            ports,
            ..Identity::default()
        }
    }

    fn protocol(&mut self) -> Protocol {
        self.of(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
    }

    fn policy(&mut self) -> Policy {
        let direction = |random: &mut Self| (!random.one_in(3)).then(|| random.some(3, Self::rule));
        Policy {
            subjects: self.identities(),
            ingress: direction(self),
            egress: direction(self),
            ..Policy::default()
        }
    }

    fn identities(&mut self) -> BTreeSet<IdentityId> {
        IDENTITIES
            .filter(|_| self.one_in(2))
            .map(IdentityId)
            .collect()
    }

    fn rule(&mut self) -> PolicyRule {
        let peers = if self.one_in(4) {
            Peers::Everyone
        } else {
            let identities = if self.one_in(3) {
                BTreeSet::new()
            } else {
                self.identities()
            };
            Peers::Of {
                identities,
                blocks: self.some(2, Self::block),
            }
        };
        PolicyRule {
            peers,
            ports: self.some(2, Self::port),
        }
    }

    fn block(&mut self) -> IpBlock {
        let range: Cidr = self.of(&RANGES).parse().expect("a range");
        let inside = |hole: &Cidr| hole.prefix() > range.prefix() && range.contains(hole.address());
        let holes = self.some(2, |random| random.of(&RANGES).parse().expect("a range"));
        IpBlock {
            range,
            except: holes.into_iter().filter(inside).collect(),
        }
    }

    fn port(&mut self) -> PolicyPort {
        let port = match self.below(4) {
            0 => PortMatch::Every,
            1 => PortMatch::Named(self.of(&NAMES).to_owned()),
            2 => {
                let port = self.of(&PORTS);
                PortMatch::Range(port, port)
            }
            _ => {
                let (a, b) = (self.of(&PORTS), self.of(&PORTS));
                PortMatch::Range(a.min(b), a.max(b))
            }
        };
        PolicyPort {
            protocol: self.protocol(),
            port,
        }
    }

    /// A packet that one of this node's hooks sees; often one of a flow that was there before.
    pub(crate) fn packet(&mut self, before: &[Packet]) -> Packet {
        if !before.is_empty() && !self.one_in(3) {
            let last = before[before
                .len()
                .saturating_sub(1 + self.below(before.len().min(12)))];
            return self.related(last);
        }
        let here = ip(self.of(&HERE));
        let other = match self.below(8) {
            0..=2 => ip(self.of(&HERE)),
            3..=5 => ip(self.of(&FAR)),
            6 => ip(self.of(&OUTSIDE)),
            _ => ip(self.of(&[HOST, OUTSIDE[0], OUTSIDE[1]])),
        };
        let kind = self.kind();
        let ports = (self.of(&PORTS), self.of(&[80, 8080, 53, 40_000]));
        let (src, dst) = if self.one_in(2) {
            (here, other)
        } else {
            (other, here)
        };
        let dst = if src == dst { ip(OUTSIDE[0]) } else { dst };
        of_kind(kind, (src, ports.0), (dst, ports.1))
    }

    fn related(&mut self, last: Packet) -> Packet {
        let (src, dst) = if self.one_in(3) {
            (last.src, last.dst)
        } else {
            (last.dst, last.src)
        };
        let kind = match last.kind.protocol() {
            6 => self.of(&[Kind::Syn, Kind::SynAck, Kind::Ack, Kind::Ack, Kind::Ack]),
            1 if src == last.src => last.kind,
            1 if last.kind == Kind::EchoRequest => Kind::EchoReply,
            1 => Kind::EchoRequest,
            132 => Kind::Sctp,
            _ => Kind::Udp,
        };
        Packet { kind, src, dst }
    }

    fn kind(&mut self) -> Kind {
        self.of(&[
            Kind::Syn,
            Kind::Syn,
            Kind::Ack,
            Kind::SynAck,
            Kind::Udp,
            Kind::Udp,
            Kind::Sctp,
            Kind::EchoRequest,
            Kind::EchoReply,
            Kind::LaterFragment,
        ])
    }
}

/// An echo has one number, at the end that asks.
fn of_kind(kind: Kind, src: (IpAddr, u16), dst: (IpAddr, u16)) -> Packet {
    const ECHO: u16 = 8;
    let (src, dst) = match kind {
        Kind::EchoRequest => (src, (dst.0, ECHO)),
        Kind::EchoReply => ((src.0, ECHO), dst),
        _ => (src, dst),
    };
    Packet { kind, src, dst }
}
