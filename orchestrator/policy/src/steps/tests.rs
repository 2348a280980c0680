use super::*;
use crate::{DnsRedirect, Enforcement, Held, LocalNode, LocalPod, Row, range_of};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::IpAddr;
use waggle_abi::{Addr, LinkRow, MaglevRow, RangeRow, TCP, scope};
use waggle_model::network::{
    Backend, Endpoint, Export, NetworkState, NodeNetwork, Protocol, Service, ServicePort,
};
use waggle_model::{Generation, IdentityId, ServiceId, TenantId};

/// What the kernel would hold, told by steps alone.
#[derive(Debug, Clone, Default)]
struct Kernel {
    held: Held,
    services: BTreeMap<ServiceKey, ServiceRow>,
    slots: BTreeMap<u32, Slot>,
    maglev: BTreeMap<u32, MaglevRow>,
}

type Seen = Option<(u32, Vec<(Addr, u16)>)>;

impl Kernel {
    fn carry_out(&mut self, step: &Step) {
        match *step {
            Step::Put(row) => self.held.put(row),
            Step::PutSlot(index, slot) => {
                let points = |row: &ServiceRow| (row.base..row.base + row.count).contains(&index);
                assert!(
                    !self.services.values().any(points),
                    "slot {index} is in use"
                );
                self.slots.insert(index, slot);
            }
            Step::PutMaglev(index, entries) => {
                let points = |row: &ServiceRow| {
                    (row.maglev..row.maglev + row.maglev_size.div_ceil(4)).contains(&index)
                };
                assert!(!self.services.values().any(points), "row {index} is in use");
                self.maglev.insert(index, entries);
            }
            Step::PutService(key, row) => drop(self.services.insert(key, row)),
            Step::Remove(Key::Service(key)) => drop(self.services.remove(&key)),
            Step::Remove(key) => self.held.remove(key),
        }
    }

    /// What a program would see: backends by way of the row, `None` without a row. A slot of another service, or
    /// none, is an error.
    fn seen(&self, key: &ServiceKey) -> Seen {
        let row = self.services.get(key)?;
        let slots = (row.base..row.base + row.count).map(|index| self.slots[&index]);
        let slots: Vec<Slot> = slots.collect();
        assert!(slots.iter().all(|slot| slot.service == row.service));
        let backends = slots.iter().map(|slot| (slot.addr, slot.port));
        Some((row.service, backends.collect()))
    }

    /// The Maglev table that a row points at is the one of its backends.
    fn assert_table(&self, key: &ServiceKey) {
        let (Some(row), Some((_, backends))) = (self.services.get(key), self.seen(key)) else {
            return;
        };
        if row.maglev_size > 0 {
            let rows = row.maglev..row.maglev + row.maglev_size.div_ceil(4);
            let rows: Vec<_> = rows.map(|index| self.maglev[&index]).collect();
            assert!(rows == maglev_rows(&backends), "{key:?}");
        }
    }

    /// What the next agent reads.
    fn adopted(&self) -> Current {
        let mut current = Current::adopt(self.held.clone());
        for (key, row) in &self.services {
            let slots = (row.base..row.base + row.count)
                .map(|index| self.slots.get(&index).copied().unwrap_or_default());
            current.adopt_service(*key, *row, slots);
        }
        current
    }
}

fn wanted(desired: &Desired, key: &ServiceKey) -> Seen {
    let (_, plan) = desired.claims.services.winner(*key)?;
    Some((plan.service, plan.backends.to_vec()))
}

fn key(number: u8) -> ServiceKey {
    ServiceKey {
        vip: vip(number).into(),
        port: 80u16.to_be(),
        protocol: TCP,
        scope: 0,
    }
}

/// Virtual addresses and node ports of every service.
fn keys() -> impl Iterator<Item = ServiceKey> {
    (0u8..8).flat_map(|number| {
        let port = node_port(number).unwrap_or_default();
        let at_nodes = |scope| ServiceKey {
            vip: Addr::any(true),
            port: port.to_be(),
            protocol: TCP,
            scope,
        };
        [
            key(number),
            at_nodes(scope::INSIDE),
            at_nodes(scope::OUTSIDE),
        ]
    })
}

/// Half of the services have one.
fn node_port(number: u8) -> Option<u16> {
    (number > 3).then(|| 30_000 + u16::from(number))
}

fn vip(number: u8) -> IpAddr {
    IpAddr::from([10, 96, 0, number])
}

fn pod(number: u8) -> IpAddr {
    IpAddr::from([10, 244, 0, number])
}

/// A Service of a test: number of its VIP, tenant, exported, backends.
type Drawn = (u8, u32, bool, BTreeSet<u8>);
type World = (BTreeMap<u32, Drawn>, BTreeMap<u8, u32>, u8);

fn state((services, endpoints, nodes): &World, generation: u64) -> NetworkState {
    let service = |(id, (number, tenant, exported, backends)): (&u32, &Drawn)| Service {
        id: ServiceId(*id),
        tenant: TenantId(*tenant),
        vips: vec![vip(*number)],
        ports: vec![ServicePort {
            protocol: Protocol::Tcp,
            port: 80,
            node_port: node_port(*number),
            backends: backends.iter().map(|b| Backend::at(pod(*b), 80)).collect(),
            ..ServicePort::default()
        }],
        export: if *exported {
            Export::To([TenantId(9)].into())
        } else {
            Export::default()
        },
        ..Service::default()
    };
    let endpoint = |(number, tenant): (&u8, &u32)| Endpoint {
        address: pod(*number),
        identity: IdentityId(*tenant),
        tenant: TenantId(*tenant),
        node: format!("node{}", number % 2),
        namespace: String::new(),
        pod: String::new(),
        host_ports: Vec::new(),
    };
    let node = |number: u8| NodeNetwork {
        name: format!("node{number}"),
        addresses: vec![[10, 244, 0, 4 * number].into()],
        pod_cidrs: vec![format!("10.244.0.{}/29", 8 * number).parse().unwrap()],
        zone: String::new(),
    };
    NetworkState {
        generation: Generation(generation),
        services: services.iter().map(service).map(|s| (s.id, s)).collect(),
        endpoints: endpoints
            .iter()
            .map(endpoint)
            .map(|e| (e.address, e))
            .collect(),
        nodes: (0..*nodes).map(node).map(|n| (n.name.clone(), n)).collect(),
        ..NetworkState::default()
    }
}

fn world() -> impl Strategy<Value = World> {
    let backends = proptest::collection::btree_set(0u8..12, 0..6);
    let service = (0u8..8, 1u32..4, any::<bool>(), backends);
    (
        proptest::collection::btree_map(1u32..9, service, 0..8),
        proptest::collection::btree_map(0u8..16, 1u32..4, 0..10),
        0u8..3,
    )
}

fn local(number: u8) -> LocalPod {
    LocalPod {
        ifindex: u32::from(number) + 100,
        link: LinkRow {
            addr: pod(number).into(),
            identity: 7,
            tenant: 7,
            netns: u64::from(number),
            ..LinkRow::default()
        },
        mac: [2; 6],
        gateway_mac: [4; 6],
    }
}

fn node0() -> Desired {
    Desired::new(LocalNode {
        name: "node0".into(),
        addresses: vec![[172, 30, 0, 10].into()],
        host_netns: 1,
        ..LocalNode::default()
    })
}

/// One thing that happens to a node.
#[derive(Debug, Clone)]
enum Change {
    State(World),
    PutPod(u8),
    RemovePod(u8),
    Dns(Option<u8>),
    /// The agent starts anew.
    Restart,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => world().prop_map(Change::State),
        1 => (0u8..16).prop_map(Change::PutPod),
        1 => (0u8..16).prop_map(Change::RemovePod),
        1 => proptest::option::of(0u8..8).prop_map(Change::Dns),
        1 => Just(Change::Restart),
    ]
}

/// A node with its kernel.
struct Node {
    kernel: Kernel,
    current: Current,
    desired: Desired,
    capacity: Capacity,
}

impl Node {
    fn new(capacity: Capacity) -> Self {
        Self {
            kernel: Kernel::default(),
            current: Current::default(),
            desired: node0(),
            capacity,
        }
    }

    fn happen(&mut self, change: &Change, generation: u64) {
        match change {
            Change::State(world) => self.desired.set_state(&state(world, generation)),
            Change::PutPod(number) => self.desired.put_pod(local(*number)),
            Change::RemovePod(number) => self.desired.remove_pod(local(*number).ifindex),
            Change::Dns(number) => self.desired.set_dns(number.map(|number| DnsRedirect {
                vip: vip(number),
                listener: ([172, 30, 0, 10], 5353).into(),
            })),
            Change::Restart => self.restart(),
        }
    }

    /// The facts made anew, one by one, as an agent that starts does; the kernel is read.
    fn restart(&mut self) {
        self.current = self.kernel.adopted();
        self.desired = self.made_anew();
        self.desired.touch_all(&self.current);
    }

    fn made_anew(&self) -> Desired {
        let mut fresh = node0();
        for pod in self.desired.pods().values() {
            fresh.put_pod(*pod);
        }
        fresh.set_dns(self.desired.dns());
        fresh.set_state(self.desired.state());
        fresh
    }

    /// Carries out at most `budget` steps, looking at every service after each; true when everything was done.
    fn program(&mut self, mut budget: usize) -> (bool, Vec<Refusal>) {
        let before = self.kernel.clone();
        loop {
            let round = round(&self.desired, &mut self.current, &self.capacity);
            for step in &round.steps {
                if budget == 0 {
                    return (false, Vec::new());
                }
                budget -= 1;
                self.kernel.carry_out(step);
                self.current.note(step);
                if matches!(step, Step::PutMaglev(..)) {
                    continue;
                }
                for key in keys() {
                    let now = self.kernel.seen(&key);
                    assert!(now == before.seen(&key) || now == wanted(&self.desired, &key));
                }
                assert!(self.kernel.held.endpoints.len() <= self.capacity.endpoints as usize);
                assert!(self.kernel.held.grants.len() <= self.capacity.grants as usize);
                assert!(self.kernel.services.len() <= self.capacity.services as usize);
                assert!(
                    self.kernel
                        .slots
                        .keys()
                        .all(|index| *index < self.capacity.slots)
                );
            }
            self.desired
                .settle(round.refused.iter().map(|(key, _)| *key));
            if round.refused.is_empty() || !round.frees {
                let refused = round.refused.into_iter();
                return (true, refused.map(|(_, refusal)| refusal).collect());
            }
        }
    }

    /// The kernel holds what is wanted, all of it and nothing else.
    fn assert_right(&self) {
        for key in keys() {
            assert_eq!(self.kernel.seen(&key), wanted(&self.desired, &key));
            self.kernel.assert_table(&key);
        }
        let claims = &self.desired.claims;
        assert_eq!(self.kernel.services.len(), claims.services.count());
        let rows = |held: &BTreeMap<Addr, _>| held.clone().into_iter().collect::<Vec<_>>();
        let endpoints: Vec<_> = claims.endpoints.rows().map(|(k, v)| (k, *v)).collect();
        assert_eq!(rows(&self.kernel.held.endpoints), endpoints);
        let grants: Vec<_> = claims.grants.rows().map(|(k, v)| (k, *v)).collect();
        let held: Vec<_> = self.kernel.held.grants.clone().into_iter().collect();
        assert_eq!(held, grants);
        let ranges: Vec<_> = claims.ranges.rows().map(|(k, _)| k).collect();
        assert!(self.kernel.held.ranges.keys().eq(&ranges));
        let links: Vec<_> = claims.links.rows().map(|(k, v)| (k, *v)).collect();
        let held: Vec<_> = self.kernel.held.links.clone().into_iter().collect();
        assert_eq!(held, links);
        let slots: usize = claims
            .services
            .rows()
            .map(|(_, plan)| plan.backends.len())
            .sum();
        assert_eq!(self.current.slabs().slots(), slots);
    }
}

fn tight() -> impl Strategy<Value = Capacity> {
    (1u32..10, 1u32..40, 1u32..30, 1u32..20).prop_map(|(services, slots, endpoints, grants)| {
        Capacity {
            services,
            slots,
            endpoints,
            grants,
            ..Capacity::default()
        }
    })
}

proptest! {
    #[test]
    fn incremental_is_from_scratch_and_every_prefix_shows_each_service_old_or_new(
        changes in proptest::collection::vec(change(), 1..8),
    ) {
        let mut node = Node::new(Capacity { slots: 512, ..Capacity::default() });
        for (index, change) in changes.iter().enumerate() {
            node.happen(change, index as u64 + 1);
            let mut fresh = node.made_anew();
            let mut kept = node.desired.clone();
            for one in [&mut kept, &mut fresh] {
                one.settle([]);
                one.take_moved_services();
                one.govern(Enforcement::default());
            }
            prop_assert_eq!(kept, fresh);
            let (done, refused) = node.program(usize::MAX);
            prop_assert!(done);
            prop_assert_eq!(refused, vec![]);
            node.assert_right();
            prop_assert_eq!(round(&node.desired, &mut node.current, &node.capacity), Round::default());
        }
    }

    #[test]
    fn whatever_breaks_off_is_gone_on_with_or_repaired_by_the_next_start(
        changes in proptest::collection::vec((change(), 0usize..12, any::<bool>()), 1..8),
    ) {
        let mut node = Node::new(Capacity { slots: 512, ..Capacity::default() });
        for (index, (change, budget, restarts)) in changes.iter().enumerate() {
            node.happen(change, index as u64 + 1);
            node.program(*budget);
            if *restarts {
                node.restart();
            }
        }
        let (done, refused) = node.program(usize::MAX);
        prop_assert!(done);
        prop_assert_eq!(refused, vec![]);
        node.assert_right();
    }

    #[test]
    fn what_does_not_fit_is_refused_and_comes_when_there_is_room(
        changes in proptest::collection::vec(change(), 1..6), capacity in tight(),
    ) {
        let mut node = Node::new(capacity);
        for (index, change) in changes.iter().enumerate() {
            node.happen(change, index as u64 + 1);
            let (done, refused) = node.program(usize::MAX);
            prop_assert!(done);
            for refusal in &refused {
                prop_assert!(refusal.fault.needed > refusal.fault.limit as usize || refusal.fault.table == Table::Slot);
            }
            // What is there is right: a full table leaves rows out, or a service at its old set, and never mixes.
            for (addr, row) in &node.kernel.held.endpoints {
                prop_assert_eq!(node.desired.claims.endpoints.winner(*addr).unwrap().1, row);
            }
            for (grant, service) in &node.kernel.held.grants {
                prop_assert_eq!(node.desired.claims.grants.winner(*grant).unwrap().1, service);
            }
            let absent = node.desired.claims.endpoints.count() - node.kernel.held.endpoints.len();
            let of_endpoints = refused.iter().filter(|one| one.fault.table == Table::Endpoint);
            prop_assert_eq!(absent, of_endpoints.count());
        }
        node.capacity = Capacity { slots: 512, ..Capacity::default() };
        let (_, refused) = node.program(usize::MAX);
        prop_assert_eq!(refused, vec![]);
        node.assert_right();
    }
}

fn only(services: &[(u32, &[u8])]) -> World {
    let drawn = |(id, backends): &(u32, &[u8])| {
        let number = u8::try_from(*id).unwrap();
        (*id, (number, 2, false, backends.iter().copied().collect()))
    };
    (services.iter().map(drawn).collect(), BTreeMap::new(), 0)
}

#[test]
fn order_is_adds_upwards_and_removals_downwards() {
    let mut node = Node::new(Capacity::default());
    let mut all = only(&[(1, &[1])]);
    all.0.get_mut(&1).unwrap().2 = true;
    all.1.insert(1, 2);
    all.2 = 1;
    node.desired.settle([]);
    node.desired.set_state(&state(&all, 1));
    let rank = |step: &Step| match step {
        Step::Put(Row::Config(..)) => 0,
        Step::Put(Row::Range(..)) => 1,
        Step::Put(Row::Endpoint(..)) => 2,
        Step::Put(Row::Link(..)) => 3,
        Step::Put(Row::Owner(..)) => 4,
        Step::Put(Row::Grant(..)) => 5,
        Step::Put(Row::Source(..)) => 6,
        Step::PutSlot(..) => 7,
        Step::PutMaglev(..) => 8,
        Step::PutService(..) => 9,
        Step::Remove(Key::Service(_)) => 10,
        Step::Remove(Key::Source(_)) => 11,
        Step::Remove(Key::Grant(_)) => 12,
        Step::Remove(Key::Owner(_)) => 13,
        Step::Remove(Key::Link(_)) => 14,
        Step::Remove(Key::Endpoint(_)) => 15,
        Step::Remove(Key::Range(_) | Key::Config(())) => 16,
    };
    let steps = round(&node.desired, &mut node.current, &node.capacity).steps;
    // A range, addresses of node, pod and VIP, a grant, a slot, the service.
    assert_eq!(steps.len(), 7);
    assert!(steps.is_sorted_by_key(rank));
    let (range, addr) = range_of("10.244.0.0/29".parse().unwrap());
    assert_eq!(
        steps[0],
        Step::Put(Row::Range((range, addr), RangeRow::default()))
    );
    node.program(usize::MAX);
    node.desired.set_state(&NetworkState::default());
    let steps = round(&node.desired, &mut node.current, &node.capacity).steps;
    assert_eq!(steps.len(), 6);
    assert!(steps.is_sorted_by_key(rank));
}

#[test]
fn a_change_of_the_owner_alone_keeps_the_slab() {
    let mut node = Node::new(Capacity::default());
    let mut services = only(&[(1, &[1, 2])]);
    node.desired.set_state(&state(&services, 1));
    node.program(usize::MAX);
    services.0.get_mut(&1).unwrap().1 = 3;
    node.desired.set_state(&state(&services, 2));
    let steps = round(&node.desired, &mut node.current, &node.capacity).steps;
    let of_service = |step: &&Step| matches!(step, Step::PutSlot(..) | Step::PutService(..));
    let found: Vec<_> = steps.iter().filter(of_service).collect();
    let [Step::PutService(_, row)] = found[..] else {
        panic!("{steps:?}")
    };
    assert_eq!((row.base, row.count, row.tenant), (0, 2, 3));
    node.program(usize::MAX);
    assert_eq!(node.current.slabs().slots(), 2);
}

#[test]
fn old_and_new_sets_must_fit_side_by_side_and_the_old_one_stays_until_they_do() {
    let mut node = Node::new(Capacity {
        slots: 5,
        ..Capacity::default()
    });
    node.desired.set_state(&state(&only(&[(1, &[1, 2, 3])]), 1));
    node.program(usize::MAX);
    let old = node.kernel.seen(&key(1));
    node.desired.set_state(&state(&only(&[(1, &[4, 5, 6])]), 2));
    let (_, refused) = node.program(usize::MAX);
    let [refusal] = &refused[..] else {
        panic!("{refused:?}")
    };
    assert_eq!(refusal.claimant, Claimant::Service(ServiceId(1)));
    assert_eq!(
        refusal.fault.to_string(),
        "6 backend slots are needed but this node's datapath has room for 5"
    );
    assert_eq!(node.kernel.seen(&key(1)), old);
    node.desired.set_state(&state(&only(&[(1, &[4, 5])]), 3));
    let (_, refused) = node.program(usize::MAX);
    assert_eq!(refused, vec![]);
    node.assert_right();
}

#[test]
fn a_row_that_goes_makes_room_for_one_that_comes() {
    let mut node = Node::new(Capacity {
        services: 1,
        slots: 3,
        ..Capacity::default()
    });
    node.desired.set_state(&state(&only(&[(1, &[1, 2])]), 1));
    node.program(usize::MAX);
    node.desired.set_state(&state(&only(&[(2, &[3, 4])]), 2));
    let (_, refused) = node.program(usize::MAX);
    assert_eq!(refused, vec![]);
    node.assert_right();
    node.desired
        .set_state(&state(&only(&[(2, &[3]), (3, &[4])]), 3));
    let (_, refused) = node.program(usize::MAX);
    let [refusal] = &refused[..] else {
        panic!("{refused:?}")
    };
    assert_eq!(
        refusal.fault,
        CapacityFault {
            table: Table::Service,
            needed: 2,
            limit: 1
        }
    );
    assert_eq!(node.kernel.seen(&key(2)), wanted(&node.desired, &key(2)));
}
