//! The network state that every node's datapath and DNS are made from.

use std::collections::BTreeMap;
use std::net::IpAddr;

use waggle_model::Generation;
use waggle_model::network::NetworkState;

use crate::Snapshot;
use crate::identity::Registry;

/// Addresses that were reserved for pods, by pod uid; they may not be in the pods' status yet.
pub type Reserved = BTreeMap<String, IpAddr>;

/// The network state of the cluster. Keep the old generation when the rest is equal to what was sent last.
pub fn network_state(
    _snapshot: &Snapshot,
    _registry: &Registry,
    _reserved: &Reserved,
    generation: Generation,
) -> NetworkState {
    NetworkState {
        generation,
        ..NetworkState::default()
    }
}
