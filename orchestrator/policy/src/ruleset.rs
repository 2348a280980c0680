//! NetworkPolicies to rulesets: what the kernel is told of the policies of one pod, one ruleset for each direction.
//!
//! A ruleset is the union of everything that the policies of an identity allow. It has no number here: numbers are
//! given by content, in `enforce`.

use std::collections::{BTreeMap, BTreeSet};

use waggle_abi::{Addr, BlockKey, CLASS_FIRST, PEER_ANY, RuleKey, rule_bits};
use waggle_model::network::{
    Cidr, Identity, IpBlock, NetworkState, Peers, Policy, PolicyPort, PolicyRule, PortMatch,
    Protocol,
};
use waggle_model::{IdentityId, PolicyId};

use crate::range_of;

/// Which way a packet goes, seen from the pod whose policies are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

/// Ports of one rule: prefix bits of a [`RuleKey`], protocol, first port in host byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Ports {
    bits: u32,
    protocol: u8,
    port: u16,
}

impl Ports {
    const ALL: Self = Self {
        bits: rule_bits::PEER,
        protocol: 0,
        port: 0,
    };

    fn hold(self, protocol: u8, port: u16) -> bool {
        match self.bits {
            rule_bits::PEER => true,
            bits => {
                let free = rule_bits::PORT - bits;
                self.protocol == protocol && u32::from(self.port ^ port) >> free == 0
            }
        }
    }
}

/// What one direction of one pod allows. Everything else is denied.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ruleset {
    /// By peer (identity, class or anybody) and ports, the policy that allows it.
    rules: BTreeMap<(u32, Ports), PolicyId>,
    /// Prefix in 128 bits and first address, to class; 0 for none.
    blocks: BTreeMap<(u32, Addr), u32>,
}

impl Ruleset {
    /// Rows of `POLICY` under `number`, with the bits of their prefixes.
    pub fn rule_rows(&self, number: u32) -> impl Iterator<Item = (u32, RuleKey, u32)> {
        self.rules.iter().map(move |((peer, ports), policy)| {
            let key = RuleKey {
                ruleset: number,
                peer: *peer,
                protocol: ports.protocol,
                pad: 0,
                port: ports.port.to_be(),
            };
            (ports.bits, key, policy.0)
        })
    }

    /// Rows of `BLOCKS` under `number`, with the bits of their prefixes.
    pub fn block_rows(&self, number: u32) -> impl Iterator<Item = (u32, BlockKey, u32)> {
        self.blocks.iter().map(move |((bits, addr), class)| {
            let key = BlockKey {
                ruleset: number,
                addr: *addr,
            };
            (rule_bits::RULESET + bits, key, *class)
        })
    }

    /// Takes in a row of `POLICY` as found in the kernel.
    pub fn adopt_rule(&mut self, bits: u32, key: RuleKey, policy: u32) {
        let ports = Ports {
            bits,
            protocol: key.protocol,
            port: u16::from_be(key.port),
        };
        self.rules.insert((key.peer, ports), PolicyId(policy));
    }

    /// Takes in a row of `BLOCKS` as found in the kernel.
    pub fn adopt_block(&mut self, bits: u32, key: BlockKey, class: u32) {
        let bits = bits.saturating_sub(rule_bits::RULESET);
        self.blocks.insert((bits, key.addr), class);
    }

    /// Rows of `POLICY` and of `BLOCKS`.
    pub fn len(&self) -> (usize, usize) {
        (self.rules.len(), self.blocks.len())
    }

    /// Allows nothing.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The policy that allows `protocol` at the receiver's `port` (host byte order) from or to this peer, as the
    /// programs look it up.
    pub fn allows(
        &self,
        identity: IdentityId,
        addr: Addr,
        protocol: u8,
        port: u16,
    ) -> Option<PolicyId> {
        let peers = [identity.0, PEER_ANY, self.class(addr)];
        let find = |peer: u32| {
            let rows = self.rules.range((peer, Ports::ALL)..);
            rows.take_while(move |((other, _), _)| *other == peer)
                .find(|((_, ports), _)| ports.hold(protocol, port))
                .map(|(_, policy)| *policy)
        };
        peers.into_iter().find_map(find)
    }

    fn class(&self, addr: Addr) -> u32 {
        let holding = self
            .blocks
            .iter()
            .filter(|((bits, first), _)| masked(addr, *bits) == *first);
        holding
            .max_by_key(|((bits, _), _)| *bits)
            .map_or(PEER_ANY, |(_, class)| *class)
    }
}

/// Keeps the first `bits` of an address.
fn masked(addr: Addr, bits: u32) -> Addr {
    let mut words = addr.words;
    for (index, word) in (0u32..).zip(&mut words) {
        let kept = bits.saturating_sub(index * 32).min(32);
        let mask = u32::MAX.checked_shl(32 - kept).unwrap_or(0);
        *word &= mask.to_be();
    }
    Addr { words }
}

/// The ruleset of an identity's direction; `None` when no policy governs it.
pub fn compile(
    state: &NetworkState,
    identity: IdentityId,
    direction: Direction,
) -> Option<Ruleset> {
    let mut compiler: Option<Compiler<'_>> = None;
    for policy in state.policies.values() {
        let Some(rules) = rules_of(policy, direction) else {
            continue;
        };
        if !policy.subjects.contains(&identity) {
            continue;
        }
        let compiler = compiler.get_or_insert_with(|| Compiler::new(state, identity, direction));
        for rule in rules {
            compiler.add(policy.id, rule);
        }
    }
    compiler.map(Compiler::finish)
}

/// What one rule alone allows.
pub(crate) fn compile_rule(
    state: &NetworkState,
    identity: IdentityId,
    direction: Direction,
    rule: &PolicyRule,
) -> Ruleset {
    let mut compiler = Compiler::new(state, identity, direction);
    compiler.add(PolicyId(0), rule);
    compiler.finish()
}

/// What a policy allows in one direction; `None` when it does not govern it.
pub(crate) fn rules_of(policy: &Policy, direction: Direction) -> Option<&[PolicyRule]> {
    match direction {
        Direction::Ingress => policy.ingress.as_deref(),
        Direction::Egress => policy.egress.as_deref(),
    }
}

struct Compiler<'a> {
    state: &'a NetworkState,
    subject: Option<&'a Identity>,
    direction: Direction,
    rules: BTreeMap<(u32, Ports), PolicyId>,
    /// Ranges, each with what it allows.
    blocks: Vec<(IpBlock, BTreeMap<Ports, PolicyId>)>,
}

impl<'a> Compiler<'a> {
    fn new(state: &'a NetworkState, identity: IdentityId, direction: Direction) -> Self {
        Self {
            state,
            subject: state.identities.get(&identity),
            direction,
            rules: BTreeMap::new(),
            blocks: Vec::new(),
        }
    }

    fn add(&mut self, policy: PolicyId, rule: &PolicyRule) {
        let fixed = self.fixed_ports(rule);
        let ports = fixed.iter().map(|ports| (*ports, policy)).collect();
        match &rule.peers {
            Peers::Everyone => {
                self.allow(PEER_ANY, &fixed, policy);
                for peer in self.state.identities.values() {
                    self.add_named(policy, rule, peer);
                }
            }
            Peers::Of { identities, blocks } => {
                for id in identities {
                    self.allow(id.0, &fixed, policy);
                    if let Some(peer) = self.state.identities.get(id) {
                        self.add_named(policy, rule, peer);
                    }
                }
                self.blocks.extend(
                    blocks
                        .iter()
                        .map(|block| (block.clone(), BTreeMap::clone(&ports))),
                );
            }
        }
    }

    /// Ports that don't depend on the peer: numbers, and for what comes in the subject's own names.
    fn fixed_ports(&self, rule: &PolicyRule) -> BTreeSet<Ports> {
        if rule.ports.is_empty() {
            return [Ports::ALL].into();
        }
        let mut ports = BTreeSet::new();
        for port in &rule.ports {
            match &port.port {
                PortMatch::Every => drop(ports.insert(Ports {
                    bits: rule_bits::PROTOCOL,
                    protocol: port.protocol.number(),
                    port: 0,
                })),
                PortMatch::Range(first, last) => {
                    ports.extend(prefixes(port.protocol, *first, *last));
                }
                PortMatch::Named(_) if self.direction == Direction::Ingress => {
                    ports.extend(self.subject.and_then(|subject| named(subject, port)));
                }
                PortMatch::Named(_) => {}
            }
        }
        ports
    }

    /// Names of what goes out are the receiver's, so they can only be known of pods.
    fn add_named(&mut self, policy: PolicyId, rule: &PolicyRule, peer: &Identity) {
        if self.direction == Direction::Egress {
            let ports: BTreeSet<_> = rule
                .ports
                .iter()
                .filter_map(|port| named(peer, port))
                .collect();
            self.allow(peer.id.0, &ports, policy);
        }
    }

    fn allow(&mut self, peer: u32, ports: &BTreeSet<Ports>, policy: PolicyId) {
        for ports in ports {
            self.rules.entry((peer, *ports)).or_insert(policy);
        }
    }

    fn finish(mut self) -> Ruleset {
        let blocks = self.classes();
        Ruleset {
            rules: self.rules,
            blocks,
        }
    }

    /// Cuts all ranges along each other: every prefix that any of them mentions, with the class that stands for what
    /// the ranges around it allow together. The longest prefix that holds an address then says it all.
    fn classes(&mut self) -> BTreeMap<(u32, Addr), u32> {
        let mut numbers: BTreeMap<BTreeMap<Ports, PolicyId>, u32> = BTreeMap::new();
        let mut blocks = BTreeMap::new();
        let mut around = Around::default();
        // In this order a range comes before the ranges inside it.
        for (cut, edges) in self.cuts() {
            around.enter(cut, edges);
            let mut allowed: BTreeMap<Ports, PolicyId> = BTreeMap::new();
            for index in around.allowing() {
                for (port, policy) in &self.blocks[index].1 {
                    allowed.entry(*port).or_insert(*policy);
                }
            }
            let class = if allowed.is_empty() {
                PEER_ANY
            } else {
                let next = CLASS_FIRST + u32::try_from(numbers.len()).unwrap_or(0);
                *numbers.entry(allowed).or_insert(next)
            };
            blocks.insert(range_of(cut), class);
        }
        for (allowed, class) in numbers {
            for (ports, policy) in allowed {
                self.rules.entry((class, ports)).or_insert(policy);
            }
        }
        blocks
    }

    /// Every prefix that matters, with the blocks whose range or hole it is.
    fn cuts(&self) -> BTreeMap<Cidr, Vec<Edge>> {
        let mut cuts: BTreeMap<Cidr, Vec<Edge>> = BTreeMap::new();
        for (index, (block, _)) in self.blocks.iter().enumerate() {
            cuts.entry(block.range)
                .or_default()
                .push(Edge::Range(index));
            for hole in block
                .except
                .iter()
                .filter(|hole| covers(block.range, **hole))
            {
                cuts.entry(*hole).or_default().push(Edge::Hole(index));
            }
        }
        cuts
    }
}

/// What begins at a prefix: the range of a block, or one of its holes.
enum Edge {
    Range(usize),
    Hole(usize),
}

/// The prefixes around the one that is looked at, outermost first, and how many holes each open block is in.
#[derive(Default)]
struct Around {
    open: Vec<(Cidr, Vec<Edge>)>,
    holes: BTreeMap<usize, usize>,
}

impl Around {
    fn enter(&mut self, cut: Cidr, edges: Vec<Edge>) {
        while let Some((_, left)) = self.open.pop_if(|(outer, _)| !covers(*outer, cut)) {
            for edge in left {
                match edge {
                    Edge::Range(index) => drop(self.holes.remove(&index)),
                    Edge::Hole(index) => {
                        self.holes
                            .entry(index)
                            .and_modify(|holes| *holes = holes.saturating_sub(1));
                    }
                }
            }
        }
        for edge in &edges {
            if let Edge::Range(index) = edge {
                self.holes.insert(*index, 0);
            }
        }
        for edge in &edges {
            if let Edge::Hole(index) = edge {
                self.holes.entry(*index).and_modify(|holes| *holes += 1);
            }
        }
        self.open.push((cut, edges));
    }

    fn allowing(&self) -> impl Iterator<Item = usize> {
        let free = self.holes.iter().filter(|(_, holes)| **holes == 0);
        free.map(|(index, _)| *index)
    }
}

/// Whether all of `inner` lies in `outer`.
fn covers(outer: Cidr, inner: Cidr) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.address())
}

fn named(identity: &Identity, port: &PolicyPort) -> Option<Ports> {
    let PortMatch::Named(name) = &port.port else {
        return None;
    };
    let mut ports = identity.ports.iter();
    let found = ports.find(|one| one.name == *name && one.protocol == port.protocol)?;
    Some(Ports {
        bits: rule_bits::PORT,
        protocol: port.protocol.number(),
        port: found.port,
    })
}

/// The fewest prefixes that hold the ports from `first` to `last`.
fn prefixes(protocol: Protocol, first: u16, last: u16) -> Vec<Ports> {
    let (mut from, last) = (u32::from(first), u32::from(last));
    let mut found = Vec::new();
    while from <= last {
        let aligned = if from == 0 {
            16
        } else {
            from.trailing_zeros().min(16)
        };
        let fitting = (last - from + 1).ilog2();
        let free = aligned.min(fitting);
        found.push(Ports {
            bits: rule_bits::PORT - free,
            protocol: protocol.number(),
            port: u16::try_from(from).unwrap_or(u16::MAX),
        });
        from += 1 << free;
    }
    found
}

#[cfg(test)]
mod tests;
