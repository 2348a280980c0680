//! Routes to other nodes' pods by way of their underlay addresses. Routes of other makers are never touched: ours carry
//! a protocol number of their own.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};
use waggle_model::network::{Cidr, NetworkState, PerFamily};
use waggle_policy::{LocalNode, Uplink, Way, way};

use crate::error::{DatapathError, link_error};
use crate::link::{invalid, mac_of, mtu_of, route_to};

/// Marks routes to other nodes (`ip route` shows it as `proto 119`).
const NODE_ROUTE: RouteProtocol = RouteProtocol::Other(119);

/// Where a pod range is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// Behind the node with this underlay address.
    Node(IpAddr),
    /// Behind the tunnel at this interface; the node itself sends from this address.
    Tunnel(u32, Option<IpAddr>),
    /// Here: what no pod's own route takes belongs to nobody.
    Nowhere,
}

/// Routes by range: first address and prefix length.
pub(crate) type Routes = BTreeMap<(IpAddr, u8), Via>;

/// The routes that the node `local` needs.
pub(crate) fn wanted(state: &NetworkState, local: &LocalNode) -> Routes {
    let mut routes = Routes::new();
    for node in state.nodes.values() {
        for range in &node.pod_cidrs {
            let ipv4 = range.address().is_ipv4();
            let via = if node.name == local.name {
                Via::Nowhere
            } else {
                match way(local, node, ipv4) {
                    Some(Way::Direct(address)) => Via::Node(address),
                    Some(Way::Tunnel(_)) => Via::Tunnel(local.tunnel, local.address(ipv4)),
                    Some(Way::Routed) | None => continue,
                }
            };
            routes.insert(key(*range), via);
        }
    }
    routes
}

/// Whether one of them leads through the tunnel.
pub(crate) fn uses_tunnel(routes: &Routes) -> bool {
    routes.values().any(|via| matches!(via, Via::Tunnel(..)))
}

fn key(cidr: Cidr) -> (IpAddr, u8) {
    (cidr.address(), cidr.prefix())
}

/// Adds, changes and removes routes until they are `wanted`; returns how many. Every range is tried before the first
/// failure is reported.
pub(crate) async fn synchronise(handle: &Handle, wanted: &Routes) -> Result<usize, DatapathError> {
    let present = present(handle).await?;
    let (mut changes, mut first_fault) = (0, None);
    for (range, via) in wanted {
        if present
            .get(range)
            .is_some_and(|(_, present)| present == via)
        {
            continue;
        }
        match put(handle, *range, *via).await {
            Ok(()) => changes += 1,
            Err(fault) => drop(first_fault.get_or_insert(fault)),
        }
    }
    for (range, (message, _)) in present
        .into_iter()
        .filter(|(range, _)| !wanted.contains_key(range))
    {
        let gone = handle.route().del(message).execute().await;
        match gone.map_err(link_error("remove route to", name_of(range))) {
            Ok(()) => changes += 1,
            Err(fault) => drop(first_fault.get_or_insert(fault)),
        }
    }
    first_fault.map_or(Ok(changes), Err)
}

fn name_of((address, prefix): (IpAddr, u8)) -> String {
    format!("{address}/{prefix}")
}

async fn put(handle: &Handle, range: (IpAddr, u8), via: Via) -> Result<(), DatapathError> {
    let name = name_of(range);
    let route = route_to(range.0, range.1, &name)?.protocol(NODE_ROUTE);
    let route = match via {
        Via::Node(address) => route
            .gateway(address)
            .map_err(|error| invalid(&name, &error))?,
        Via::Tunnel(ifindex, source) => through(route, ifindex, range.0, source)?,
        Via::Nowhere => route.kind(RouteType::Unreachable),
    };
    handle
        .route()
        .add(route.build())
        .replace()
        .execute()
        .await
        .map_err(link_error("add route to", name))
}

/// To addresses of the family of `range` that are right behind an interface.
fn through(
    route: RouteMessageBuilder<IpAddr>,
    ifindex: u32,
    range: IpAddr,
    source: Option<IpAddr>,
) -> Result<RouteMessageBuilder<IpAddr>, DatapathError> {
    let mut route = route.output_interface(ifindex);
    if range.is_ipv4() {
        route = route.scope(RouteScope::Link);
    }
    match source {
        Some(source) => route
            .pref_source(source)
            .map_err(|error| invalid(&range.to_string(), &error)),
        None => Ok(route),
    }
}

async fn present(
    handle: &Handle,
) -> Result<BTreeMap<(IpAddr, u8), (RouteMessage, Via)>, DatapathError> {
    let mut found = BTreeMap::new();
    for any in [
        RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    ] {
        let mut routes = handle.route().get(any).execute();
        while let Some(route) = routes
            .try_next()
            .await
            .map_err(link_error("list", "routes"))?
        {
            if route.header.protocol == NODE_ROUTE
                && let Some((range, via)) = read(&route)
            {
                found.insert(range, (route, via));
            }
        }
    }
    Ok(found)
}

fn read(route: &RouteMessage) -> Option<((IpAddr, u8), Via)> {
    let address = |wanted: fn(&RouteAttribute) -> Option<&RouteAddress>| {
        route
            .attributes
            .iter()
            .find_map(wanted)
            .and_then(|address| match address {
                RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
                RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
                _ => None,
            })
    };
    let destination = address(|attribute| match attribute {
        RouteAttribute::Destination(address) => Some(address),
        _ => None,
    })?;
    let gateway = address(|attribute| match attribute {
        RouteAttribute::Gateway(address) => Some(address),
        _ => None,
    });
    let source = address(|attribute| match attribute {
        RouteAttribute::PrefSource(address) => Some(address),
        _ => None,
    });
    let interface = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(ifindex) => Some(*ifindex),
            _ => None,
        });
    let via = match (gateway, interface) {
        (Some(gateway), _) => Via::Node(gateway),
        (None, Some(ifindex)) if route.header.kind == RouteType::Unicast => {
            Via::Tunnel(ifindex, source)
        }
        _ => Via::Nowhere,
    };
    Some(((destination, route.header.destination_prefix_length), via))
}

/// What leads out of this node.
pub(crate) struct Underlay {
    /// The interface that carries the primary address.
    pub(crate) uplink: Uplink,
    /// Its MTU.
    pub(crate) mtu: u32,
    /// Ranges that are reached without a gateway: those of the addresses' links.
    pub(crate) links: Vec<Cidr>,
}

/// Looks up the interfaces that carry the node's addresses.
pub(crate) async fn underlay(
    handle: &Handle,
    addresses: PerFamily<IpAddr>,
) -> Result<Underlay, DatapathError> {
    let primary = addresses.primary();
    let missing = || DatapathError::NoUplink { address: primary };
    let mut rows = handle.address().get().execute();
    let (mut ifindex, mut links) = (None, Vec::new());
    while let Some(row) = rows
        .try_next()
        .await
        .map_err(link_error("list", "addresses"))?
    {
        let own = row.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(found) | AddressAttribute::Local(found) => {
                addresses.iter().find(|address| address == found)
            }
            _ => None,
        });
        let Some(own) = own else { continue };
        let link = Cidr::masked(&format!("{own}/{}", row.header.prefix_len));
        links.extend(link.ok());
        if own == primary {
            ifindex = Some(row.header.index);
        }
    }
    let ifindex = ifindex.ok_or_else(missing)?;
    let link = handle
        .link()
        .get()
        .match_index(ifindex)
        .execute()
        .try_next()
        .await;
    let link = link
        .map_err(link_error("read interface", ifindex.to_string()))?
        .ok_or_else(missing)?;
    let mac = mac_of(&link).and_then(|mac| mac.try_into().ok());
    let uplink = Uplink {
        ifindex,
        mac: mac.unwrap_or_default(),
    };
    Ok(Underlay {
        uplink,
        mtu: mtu_of(&link).unwrap_or(1500),
        links,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use waggle_model::network::NodeNetwork;

    #[test]
    fn other_nodes_are_behind_their_address_and_the_own_range_ends_here() {
        let node = |name: &str, address: &str, cidr: &str| NodeNetwork {
            name: name.into(),
            addresses: vec![address.parse().unwrap()],
            pod_cidrs: vec![cidr.parse().unwrap()],
            zone: String::new(),
        };
        let nodes = [
            node("a", "172.30.0.11", "10.244.0.0/24"),
            node("b", "172.30.0.12", "10.244.1.0/24"),
        ];
        let state = NetworkState {
            nodes: nodes
                .into_iter()
                .map(|node| (node.name.clone(), node))
                .collect(),
            ..NetworkState::default()
        };
        let local = LocalNode {
            name: "a".into(),
            addresses: vec!["172.30.0.11".parse().unwrap()],
            links: vec!["172.30.0.0/24".parse().unwrap()],
            tunnel: 7,
            ..LocalNode::default()
        };
        let routes = wanted(&state, &local);
        assert!(!uses_tunnel(&routes));
        assert_eq!(routes[&("10.244.0.0".parse().unwrap(), 24)], Via::Nowhere);
        assert_eq!(
            routes[&("10.244.1.0".parse().unwrap(), 24)],
            Via::Node("172.30.0.12".parse().unwrap())
        );
        let apart = LocalNode {
            links: vec!["172.30.0.11/32".parse().unwrap()],
            ..local
        };
        let routes = wanted(&state, &apart);
        assert!(uses_tunnel(&routes));
        assert_eq!(
            routes[&("10.244.1.0".parse().unwrap(), 24)],
            Via::Tunnel(7, Some("172.30.0.11".parse().unwrap()))
        );
    }
}
