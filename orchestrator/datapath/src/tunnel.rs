//! This node's end of the tunnels to nodes that share no link with it: one VXLAN interface, whose peers are named packet by
//! packet. What travels in it and who may send is the programs' business.

use std::net::IpAddr;

use netlink_packet_route::link::InfoVxlan;
use rtnetlink::{Handle, LinkUnspec, LinkVxlan};
use waggle_abi::{TUNNEL_MAC, TUNNEL_PORT};
use waggle_model::network::PerFamily;

use crate::error::{DatapathError, link_error};
use crate::link::{bring_up, delete, find, mac_of, mtu_of, silence};

/// Name of the interface.
const NAME: &str = "waggle-vxlan";
/// Bytes that a packet gets in front of it over IPv4: Ethernet, VXLAN, UDP and IP headers.
const OVERHEAD_V4: u32 = 14 + 8 + 8 + 20;
/// The same over IPv6.
const OVERHEAD_V6: u32 = 14 + 8 + 8 + 40;

/// The interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tunnel {
    pub(crate) ifindex: u32,
    /// What fits through it.
    pub(crate) mtu: u32,
}

/// What fits through a tunnel over links that take packets of `underlay` bytes.
fn inner_mtu(underlay: u32, addresses: PerFamily<IpAddr>) -> u32 {
    let overhead = if addresses.iter().all(|address| address.is_ipv4()) {
        OVERHEAD_V4
    } else {
        OVERHEAD_V6
    };
    underlay.saturating_sub(overhead)
}

/// Makes the interface, or goes on with the one that is there, and brings it up.
pub(crate) async fn provide(
    handle: &Handle,
    underlay_mtu: u32,
    addresses: PerFamily<IpAddr>,
) -> Result<Tunnel, DatapathError> {
    let mtu = inner_mtu(underlay_mtu, addresses);
    if find(handle, NAME).await?.is_none() {
        let interface = LinkVxlan::new(NAME, 0)
            .port(TUNNEL_PORT)
            .learning(false)
            .append_info_data(InfoVxlan::CollectMetadata(true))
            .address(TUNNEL_MAC.to_vec())
            .mtu(mtu)
            .build();
        let made = handle.link().add(interface).execute().await;
        made.map_err(link_error("create tunnel", NAME))?;
    }
    let absent = || refusal("find interface", "absent");
    let link = find(handle, NAME).await?.ok_or_else(absent)?;
    if mac_of(&link) != Some(&TUNNEL_MAC) {
        return Err(refusal("take over interface", "another program made it"));
    }
    let ifindex = link.header.index;
    silence(handle, ifindex).await;
    // Whoever is asked for, the frame goes to the one address that all tunnels have.
    let mut settings = LinkUnspec::new_with_index(ifindex).arp(false);
    if mtu_of(&link) != Some(mtu) {
        settings = settings.mtu(mtu);
    }
    let set = handle.link().set(settings.build()).execute().await;
    set.map_err(link_error("configure interface", NAME))?;
    bring_up(handle, NAME, None).await?;
    Ok(Tunnel { ifindex, mtu })
}

/// Removes what [`provide`] made.
pub(crate) async fn remove(handle: &Handle) -> Result<(), DatapathError> {
    match find(handle, NAME).await? {
        Some(link) if mac_of(&link) == Some(&TUNNEL_MAC) => {
            delete(handle, link.header.index, NAME).await
        }
        _ => Ok(()),
    }
}

fn refusal(action: &'static str, reason: &str) -> DatapathError {
    DatapathError::Link {
        action,
        object: NAME.into(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_in_front_are_taken_off() {
        let addresses = |text: &str| text.parse().unwrap();
        assert_eq!(inner_mtu(1500, addresses("172.30.0.11")), 1450);
        assert_eq!(inner_mtu(1500, addresses("172.30.0.11,fd00::11")), 1430);
        assert_eq!(inner_mtu(9000, addresses("fd00::11")), 8930);
    }
}
