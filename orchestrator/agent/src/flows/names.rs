//! Who has an address, as the network state tells.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use waggle_model::network::NetworkState;
use waggle_model::{Generation, ServiceId, TenantId};
use waggle_wire::v1;
use waggle_wire::v1::FlowEndKind as Kind;

/// The index is made anew at most this often: with many Services that is work.
const REST: Duration = Duration::from_millis(250);

/// Addresses of Services and nodes. An entry is believed only when the state still says so.
#[derive(Debug, Default)]
pub(super) struct Names {
    services: HashMap<IpAddr, ServiceId>,
    nodes: HashMap<IpAddr, String>,
    made: Option<(Generation, Instant)>,
}

impl Names {
    /// One end of a flow with its name. `tenant` is what the datapath says, 0 for nothing.
    pub(super) fn end(
        &mut self,
        end: SocketAddr,
        tenant: TenantId,
        state: &NetworkState,
        now: Instant,
    ) -> Option<v1::FlowEnd> {
        let (kind, namespace, name, owner) = self.of(end.ip(), state, now);
        Some(v1::FlowEnd {
            address: end.ip().to_string(),
            port: end.port().into(),
            tenant: if tenant.0 == 0 { owner.0 } else { tenant.0 },
            kind: kind.into(),
            namespace,
            name,
        })
    }

    fn of(
        &mut self,
        address: IpAddr,
        state: &NetworkState,
        now: Instant,
    ) -> (Kind, String, String, TenantId) {
        if let Some(pod) = state.endpoints.get(&address) {
            return (
                Kind::Pod,
                pod.namespace.clone(),
                pod.pod.clone(),
                pod.tenant,
            );
        }
        let found = self.known(address, state);
        found
            .or_else(|| {
                self.make(state, now)
                    .then(|| self.known(address, state))
                    .flatten()
            })
            .unwrap_or((Kind::Outside, String::new(), String::new(), TenantId(0)))
    }

    fn known(
        &self,
        address: IpAddr,
        state: &NetworkState,
    ) -> Option<(Kind, String, String, TenantId)> {
        if let Some(node) = self.nodes.get(&address)
            && let Some(network) = state.nodes.get(node)
            && network.addresses.contains(&address)
        {
            return Some((Kind::Node, String::new(), node.clone(), TenantId::SYSTEM));
        }
        let service = state.services.get(self.services.get(&address)?)?;
        let its = service.vips.contains(&address)
            || service.external.iter().any(|one| one.address == address);
        let (namespace, name) = (service.namespace.clone(), service.name.clone());
        its.then_some((Kind::Service, namespace, name, service.tenant))
    }

    /// Makes the index from the state; false when it is new enough.
    fn make(&mut self, state: &NetworkState, now: Instant) -> bool {
        if let Some((generation, made)) = self.made
            && (generation == state.generation || now.saturating_duration_since(made) < REST)
        {
            return false;
        }
        self.made = Some((state.generation, now));
        let of_node = |(name, node): (&String, &waggle_model::network::NodeNetwork)| {
            let name = name.clone();
            let addresses = node.addresses.clone().into_iter();
            addresses.map(move |address| (address, name.clone()))
        };
        self.nodes = state.nodes.iter().flat_map(of_node).collect();
        self.services.clear();
        for (id, service) in &state.services {
            let external = service.external.iter().map(|one| one.address);
            for address in service.vips.iter().copied().chain(external) {
                self.services.entry(address).or_insert(*id);
            }
        }
        true
    }
}
