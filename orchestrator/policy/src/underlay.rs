//! How a node reaches the pods of another: by a route where both share a link, else through the tunnel between them.

use std::net::IpAddr;

use waggle_model::network::{NodeNetwork, TunnelMode};

use crate::facts::LocalNode;

/// How packets get to another node, with its underlay address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As they are, over a common link.
    Direct(IpAddr),
    /// As they are, by the node's other routes: the network in between knows pods' addresses.
    Routed,
    /// Inside a packet to that address.
    Tunnel(IpAddr),
}

/// The way from `local` to `node` for packets of a family; `None` when there is none. Both nodes come to the same. Tunnels run
/// over IPv4 where both nodes have it, whatever they carry: routers cut what is too big there, and of IPv6 they only tell.
pub fn way(local: &LocalNode, node: &NodeNetwork, ipv4: bool) -> Option<Way> {
    let common = |ipv4: bool| {
        let own = local.address(ipv4)?;
        node.address_like(own)
    };
    let same = common(ipv4);
    let on_link = same.filter(|address| local.links.iter().any(|link| link.contains(*address)));
    match (local.tunnel_mode, on_link) {
        (TunnelMode::Auto | TunnelMode::Never, Some(address)) => Some(Way::Direct(address)),
        (TunnelMode::Never, None) => same.map(|_| Way::Routed),
        _ => common(true).or_else(|| common(false)).map(Way::Tunnel),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(mode: TunnelMode, own: &[&str], peer: &[&str], ipv4: bool) -> Option<Way> {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let local = LocalNode {
            addresses: parse(own),
            links: vec![
                "172.30.0.0/24".parse().unwrap(),
                "fd00:172:30::/64".parse().unwrap(),
            ],
            tunnel_mode: mode,
            ..LocalNode::default()
        };
        let node = NodeNetwork {
            addresses: parse(peer),
            ..NodeNetwork::default()
        };
        way(&local, &node, ipv4)
    }

    #[test]
    fn nodes_that_share_a_link_need_no_tunnel() {
        use TunnelMode::{Always, Auto, Never};
        let own = ["172.30.0.11", "fd00:172:30::11"];
        let direct = |text: &str| Some(Way::Direct(text.parse().unwrap()));
        let tunnel = |text: &str| Some(Way::Tunnel(text.parse().unwrap()));
        let near = ["172.30.0.12", "fd00:172:30::12"];
        let far = ["172.31.0.12", "fd00:172:31::12"];
        assert_eq!(ways(Auto, &own, &near, true), direct(near[0]));
        assert_eq!(ways(Auto, &own, &near, false), direct(near[1]));
        assert_eq!(ways(Auto, &own, &far, true), tunnel(far[0]));
        assert_eq!(ways(Auto, &own, &far, false), tunnel(far[0]));
        assert_eq!(ways(Auto, &own[1..], &far, false), tunnel(far[1]));
        assert_eq!(ways(Auto, &own[1..], &far, true), tunnel(far[1]));
        assert_eq!(ways(Always, &own, &near, true), tunnel(near[0]));
        assert_eq!(ways(Never, &own, &near, true), direct(near[0]));
        assert_eq!(ways(Never, &own, &far, true), Some(Way::Routed));
    }

    #[test]
    fn a_family_that_the_underlay_lacks_is_carried_by_the_other() {
        use TunnelMode::{Auto, Never};
        let tunnel = Some(Way::Tunnel("172.30.0.12".parse().unwrap()));
        assert_eq!(
            ways(Auto, &["172.30.0.11"], &["172.30.0.12"], false),
            tunnel
        );
        assert_eq!(ways(Never, &["172.30.0.11"], &["172.30.0.12"], false), None);
        let dual = ["172.30.0.12", "fd00:172:30::12"];
        assert_eq!(ways(Auto, &["172.30.0.11"], &dual, false), tunnel);
        assert_eq!(
            ways(Auto, &["fd00:172:30::11"], &["172.30.0.12"], true),
            None
        );
    }
}
