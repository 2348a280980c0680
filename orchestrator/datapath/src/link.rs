//! The link of one pod: a veth pair, addresses, the gateway's permanent neighbour, routes. Idempotent: what is there
//! stays.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, TryStreamExt};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressHeaderFlags;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute, LinkFlags,
    LinkMessage, State,
};
use netlink_packet_route::route::{RouteProtocol, RouteScope};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, MulticastGroup, RouteMessageBuilder};
use waggle_model::network::PerFamily;

use crate::error::{DatapathError, file_error, link_error};
use crate::{netns, sys};

/// Changes of an interface that come within this time are one.
const SETTLING: Duration = Duration::from_millis(20);
/// Name of a pod's interface inside its namespace.
const INSIDE: &str = "eth0";
/// Gateway of every pod; no interface has this address, the pods know its hardware address.
const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The same for IPv6.
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
/// Marks routes to this node's pods (`ip route` shows it as `proto 120`).
const POD_ROUTE: RouteProtocol = RouteProtocol::Other(120);

/// Names and hardware addresses of a pod's link, all made from its UID, so that every agent comes to the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PodPort {
    /// 48 bits.
    pub(crate) number: u64,
}

impl PodPort {
    /// Of the pod with this UID.
    pub(crate) fn of_uid(uid: &str) -> Self {
        let hash = uid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self {
            number: (hash ^ (hash >> 48)) & 0xffff_ffff_ffff,
        }
    }

    /// Name of the host end.
    pub(crate) fn interface(self) -> String {
        format!("wg{:012x}", self.number)
    }

    /// Whether an interface of this name is one that this module makes.
    pub(crate) fn of_interface(name: &str) -> Option<Self> {
        let digits = name
            .strip_prefix("wg")
            .filter(|digits| digits.len() == 12)?;
        u64::from_str_radix(digits, 16)
            .ok()
            .map(|number| Self { number })
    }

    /// Hardware address of the pod's end: locally administered.
    pub(crate) fn mac(self) -> [u8; 6] {
        self.address(0x0a)
    }

    /// Hardware address of the host's end.
    pub(crate) fn gateway_mac(self) -> [u8; 6] {
        self.address(0x0e)
    }

    fn address(self, first: u8) -> [u8; 6] {
        let bytes = self.number.to_be_bytes();
        [first, bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]
    }
}

/// Opens a route socket in the calling thread's namespace and serves it on the current runtime.
pub(crate) fn netlink() -> Result<Handle, DatapathError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| DatapathError::Link {
            action: "open",
            object: "route socket".into(),
            reason: error.to_string(),
        })?;
    tokio::spawn(connection);
    Ok(handle)
}

/// What the kernel tells about some interfaces.
pub(crate) struct Changes {
    ifindexes: Vec<u32>,
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
}

impl Changes {
    /// Waits for the next change; false when there will be none. Those that come close together are one.
    pub(crate) async fn next(&mut self) -> bool {
        while let Some((message, _)) = self.messages.next().await {
            if self.is_of_it(&message) {
                tokio::time::sleep(SETTLING).await;
                while self.messages.try_recv().is_ok() {}
                return true;
            }
        }
        false
    }

    fn is_of_it(&self, message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
        matches!(
            &message.payload,
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link))
                if self.ifindexes.contains(&link.header.index)
        )
    }
}

/// Listens to what becomes of interfaces.
pub(crate) fn changes_of(ifindexes: Vec<u32>) -> Result<Changes, DatapathError> {
    let opened = rtnetlink::new_multicast_connection(&[MulticastGroup::Link]);
    let (connection, _, messages) = opened.map_err(|error| DatapathError::Link {
        action: "listen to",
        object: "interfaces".into(),
        reason: error.to_string(),
    })?;
    tokio::spawn(connection);
    Ok(Changes {
        ifindexes,
        messages,
    })
}

/// The interface called `name`.
pub(crate) async fn find(
    handle: &Handle,
    name: &str,
) -> Result<Option<LinkMessage>, DatapathError> {
    let answer = handle
        .link()
        .get()
        .match_name(name)
        .execute()
        .try_next()
        .await;
    match answer {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
        other => other.map_err(link_error("find interface", name)),
    }
}

/// Every interface that this module has made here.
pub(crate) async fn ports(handle: &Handle) -> Result<Vec<PodPort>, DatapathError> {
    let mut links = handle.link().get().execute();
    let mut found = Vec::new();
    while let Some(link) = links
        .try_next()
        .await
        .map_err(link_error("list", "interfaces"))?
    {
        found.extend(name_of(&link).and_then(PodPort::of_interface));
    }
    Ok(found)
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.as_str()),
            _ => None,
        })
}

/// Hardware address of `link`.
pub(crate) fn mac_of(link: &LinkMessage) -> Option<&[u8]> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Address(mac) => Some(mac.as_slice()),
            _ => None,
        })
}

/// MTU of `link`.
pub(crate) fn mtu_of(link: &LinkMessage) -> Option<u32> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        })
}

/// Removes the interface at `ifindex`; its other end goes with it.
pub(crate) async fn delete(handle: &Handle, ifindex: u32, name: &str) -> Result<(), DatapathError> {
    handle
        .link()
        .del(ifindex)
        .execute()
        .await
        .map_err(link_error("remove interface", name))
}

/// Makes the pair, the pod's end inside `netns`, both down.
pub(crate) async fn create_pair(
    handle: &Handle,
    port: PodPort,
    netns: &Path,
    mtu: u32,
) -> Result<(), DatapathError> {
    let name = port.interface();
    let namespace = File::open(netns).map_err(file_error("open", netns))?;
    let mut peer = LinkUnspec::new_with_name(INSIDE)
        .address(port.mac().to_vec())
        .mtu(mtu)
        .build();
    peer.attributes
        .push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
    let pair = LinkVeth::new(&name, INSIDE)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .address(port.gateway_mac().to_vec())
        .mtu(mtu)
        .build();
    handle
        .link()
        .add(pair)
        .execute()
        .await
        .map_err(link_error("create veth", name))
}

/// Whether the namespace at `netns` has the pod's end of the pair.
pub(crate) async fn is_connected(netns: &Path, port: PodPort) -> Result<bool, DatapathError> {
    let path = netns.to_owned();
    netns::inside(netns, move || {
        block_on(&path, async {
            let handle = netlink()?;
            match find(&handle, INSIDE).await? {
                None => Ok(false),
                Some(link) if mac_of(&link) == Some(&port.mac()) => Ok(true),
                Some(_) => Err(DatapathError::ForeignInterface { path: path.clone() }),
            }
        })
    })
    .await
}

/// Gives the pod's end its addresses, gateways and default routes, and brings it and loopback up; returns the namespace's
/// cookie. Nothing moves before the host's end is up too.
pub(crate) async fn configure_inside(
    netns: &Path,
    port: PodPort,
    addresses: PerFamily<IpAddr>,
) -> Result<u64, DatapathError> {
    let path = netns.to_owned();
    netns::inside(netns, move || {
        let cookie = sys::netns_cookie().map_err(|source| DatapathError::Namespace {
            path: path.clone(),
            source,
        })?;
        block_on(&path, async {
            let handle = netlink()?;
            bring_up(&handle, "lo", None).await?;
            let ifindex = bring_up(&handle, INSIDE, Some(addresses)).await?;
            for address in addresses.iter() {
                add_default_route(&handle, ifindex, port, address).await?;
            }
            Ok(cookie)
        })
    })
    .await
}

fn block_on<T>(
    path: &Path,
    work: impl Future<Output = Result<T, DatapathError>>,
) -> Result<T, DatapathError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let fault = |source| DatapathError::Namespace {
        path: PathBuf::from(path),
        source,
    };
    runtime.map_err(fault)?.block_on(work)
}

/// No address made up from the hardware address: it would only multicast to nobody.
fn quiet(ifindex: u32) -> LinkMessage {
    let mut message = LinkUnspec::new_with_index(ifindex).build();
    let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    message
        .attributes
        .push(LinkAttribute::AfSpecUnspec(vec![mode]));
    message
}

/// Silences IPv6 autoconfiguration; a kernel without IPv6 has none.
pub(crate) async fn silence(handle: &Handle, ifindex: u32) {
    if let Err(error) = handle.link().set(quiet(ifindex)).execute().await {
        tracing::debug!(ifindex, %error, "no IPv6 autoconfiguration to silence");
    }
}

pub(crate) async fn bring_up(
    handle: &Handle,
    name: &str,
    addresses: Option<PerFamily<IpAddr>>,
) -> Result<u32, DatapathError> {
    let missing = || DatapathError::Link {
        action: "find interface",
        object: name.into(),
        reason: "absent".into(),
    };
    let link = find(handle, name).await?.ok_or_else(missing)?;
    let ifindex = link.header.index;
    if addresses.is_some() {
        silence(handle, ifindex).await;
    }
    for address in addresses.iter().flat_map(PerFamily::iter) {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let mut request = handle.address().add(ifindex, address, prefix).replace();
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request
            .execute()
            .await
            .map_err(link_error("add address", address.to_string()))?;
    }
    if !link.header.flags.contains(LinkFlags::Up) {
        let up = LinkUnspec::new_with_index(ifindex).up().build();
        handle
            .link()
            .set(up)
            .execute()
            .await
            .map_err(link_error("bring up", name))?;
    }
    Ok(ifindex)
}

async fn add_default_route(
    handle: &Handle,
    ifindex: u32,
    port: PodPort,
    address: IpAddr,
) -> Result<(), DatapathError> {
    let gateway = if address.is_ipv4() {
        GATEWAY_V4
    } else {
        GATEWAY_V6
    };
    let neighbour = handle
        .neighbours()
        .add(ifindex, gateway)
        .link_layer_address(&port.gateway_mac())
        .replace();
    neighbour
        .execute()
        .await
        .map_err(link_error("add neighbour", gateway.to_string()))?;
    let unspecified = if address.is_ipv4() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let route = route_to(unspecified, 0, "default route")?
        .output_interface(ifindex)
        .onlink();
    let route = route
        .gateway(gateway)
        .map_err(|error| invalid("default route", &error))?
        .build();
    handle
        .route()
        .add(route)
        .replace()
        .execute()
        .await
        .map_err(link_error("add", "default route"))
}

/// Brings the host's end up, with the pod's permanent neighbours and the routes to it, sent from `sources`. The programs
/// are attached before.
pub(crate) async fn connect_host(
    handle: &Handle,
    port: PodPort,
    ifindex: u32,
    addresses: PerFamily<IpAddr>,
    sources: PerFamily<IpAddr>,
) -> Result<(), DatapathError> {
    silence(handle, ifindex).await;
    bring_up(handle, &port.interface(), None).await?;
    for address in addresses.iter() {
        let source = sources.family(address.is_ipv4());
        connect_address(handle, port, ifindex, address, source).await?;
    }
    Ok(())
}

async fn connect_address(
    handle: &Handle,
    port: PodPort,
    ifindex: u32,
    address: IpAddr,
    source: Option<IpAddr>,
) -> Result<(), DatapathError> {
    let neighbour = handle
        .neighbours()
        .add(ifindex, address)
        .link_layer_address(&port.mac())
        .replace();
    neighbour
        .execute()
        .await
        .map_err(link_error("add neighbour", address.to_string()))?;
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    let name = address.to_string();
    let mut route = route_to(address, prefix, &name)?
        .output_interface(ifindex)
        .protocol(POD_ROUTE);
    if address.is_ipv4() {
        route = route.scope(RouteScope::Link);
    }
    if let Some(source) = source {
        route = route
            .pref_source(source)
            .map_err(|error| invalid(&name, &error))?;
    }
    handle
        .route()
        .add(route.build())
        .replace()
        .execute()
        .await
        .map_err(link_error("add route to", name))
}

/// Longest wait for a pod's interface to carry packets.
const CARRIER_WAIT: Duration = Duration::from_secs(5);

/// Waits until the pod's end sends. The end that is brought up first is only activated by the kernel's deferred link
/// watch; what it sends before is lost, and the first packet of most programs is a DNS query that waits five seconds.
pub(crate) async fn await_carrier(netns: &Path) -> Result<(), DatapathError> {
    let path = netns.to_owned();
    netns::inside(netns, move || {
        block_on(&path, async {
            let handle = netlink()?;
            let started = std::time::Instant::now();
            while !find(&handle, INSIDE)
                .await?
                .is_some_and(|link| is_operational(&link))
            {
                if started.elapsed() > CARRIER_WAIT {
                    let reason = format!("it has no carrier after {CARRIER_WAIT:?}");
                    return Err(DatapathError::Link {
                        action: "bring up",
                        object: INSIDE.into(),
                        reason,
                    });
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        })
    })
    .await
}

fn is_operational(link: &LinkMessage) -> bool {
    link.attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::OperState(State::Up)))
}

/// A route builder for `address`/`prefix`.
pub(crate) fn route_to(
    address: IpAddr,
    prefix: u8,
    name: &str,
) -> Result<RouteMessageBuilder<IpAddr>, DatapathError> {
    RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, prefix)
        .map_err(|error| invalid(name, &error))
}

/// A route that can't be written down.
pub(crate) fn invalid(name: &str, error: &dyn std::fmt::Display) -> DatapathError {
    DatapathError::Link {
        action: "describe route to",
        object: name.into(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_made_from_the_uid_alone_and_found_again_by_name() {
        let port = PodPort::of_uid("5f0c6a0e-1d7a-4f0e-9a51-6f4c2b7f9f10");
        assert_eq!(
            port,
            PodPort::of_uid("5f0c6a0e-1d7a-4f0e-9a51-6f4c2b7f9f10")
        );
        assert_ne!(
            port,
            PodPort::of_uid("5f0c6a0e-1d7a-4f0e-9a51-6f4c2b7f9f11")
        );
        let name = port.interface();
        assert!(name.len() <= 15, "{name} is longer than the kernel permits");
        assert_eq!(PodPort::of_interface(&name), Some(port));
        for other in ["eth0", "wg0", "wgzzzzzzzzzzzz", "wg0123456789abc"] {
            assert_eq!(PodPort::of_interface(other), None, "{other}");
        }
        for mac in [port.mac(), port.gateway_mac()] {
            assert_eq!(mac[0] & 3, 2, "locally administered and unicast");
        }
    }
}
