//! The fabric of a cluster: a bridge in a namespace of its own, and a veth from it to each node's `eth0`. Everything is made
//! inside the cluster's namespaces; the caller's links and routes are never touched. Everything can be done again.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, anyhow};
use futures::TryStreamExt;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use netlink_packet_route::route::RouteScope;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use super::layout::{
    BRIDGE, FABRIC_ADDRESS, FABRIC_ADDRESS_V6, FABRIC_PREFIX, FABRIC_PREFIX_V6, Layout, UPLINK,
    netns_path, node_address, node_address_v6,
};
use super::netns;

/// Makes the fabric's namespace with its bridge and address.
pub(crate) fn ensure_fabric(layout: &Layout) -> Result<()> {
    let (name, routed) = (layout.fabric(), layout.is_routed());
    netns::ensure(&name)?;
    netns::inside(&name, move || {
        netns::set_sysctl("net/ipv4/ip_forward", "1")?;
        if routed {
            netns::set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
            // Nodes must not learn that they do share a bridge.
            for scope in ["all", "default"] {
                netns::set_sysctl(&format!("net/ipv4/conf/{scope}/send_redirects"), "0")?;
            }
        }
        steady_addresses(&["all", "default"])?;
        with_netlink(async |handle| {
            up(&handle, "lo").await?;
            if find(&handle, BRIDGE).await?.is_none() {
                handle
                    .link()
                    .add(LinkBridge::new(BRIDGE).build())
                    .execute()
                    .await
                    .context("cannot add the bridge")?;
            }
            address(&handle, BRIDGE, FABRIC_ADDRESS.into(), FABRIC_PREFIX).await?;
            address(&handle, BRIDGE, FABRIC_ADDRESS_V6.into(), FABRIC_PREFIX_V6).await?;
            up(&handle, BRIDGE).await
        })
    })
    .with_context(|| format!("cannot set up the network namespace {name}"))
}

/// Makes a node's namespace and joins it to the fabric.
pub(crate) fn ensure_node(layout: &Layout, node: u16) -> Result<()> {
    let (name, fabric, routed) = (layout.netns(node), layout.fabric(), layout.is_routed());
    netns::ensure(&name)?;
    join_to_fabric(&fabric, &name, node)
        .with_context(|| format!("cannot join {name} to {fabric}"))?;
    netns::inside(&name, move || {
        for (key, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ] {
            netns::set_sysctl(key, value)?;
        }
        steady_addresses(&["all", "default", UPLINK])?;
        with_netlink(async |handle| {
            up(&handle, "lo").await?;
            let (v4, v6) = (node_address(node).into(), node_address_v6(node).into());
            if !routed {
                address(&handle, UPLINK, v4, FABRIC_PREFIX).await?;
                address(&handle, UPLINK, v6, FABRIC_PREFIX_V6).await?;
                return up(&handle, UPLINK).await;
            }
            address(&handle, UPLINK, v4, 32).await?;
            address(&handle, UPLINK, v6, 128).await?;
            up(&handle, UPLINK).await?;
            for (router, any, prefix) in [
                (FABRIC_ADDRESS.into(), IpAddr::V4(Ipv4Addr::UNSPECIFIED), 32),
                (
                    FABRIC_ADDRESS_V6.into(),
                    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                    128,
                ),
            ] {
                route(&handle, (router, prefix), None).await?;
                route(&handle, (any, 0), Some(router)).await?;
            }
            Ok(())
        })
    })
    .with_context(|| format!("cannot set up the network namespace {name}"))
}

/// IPv6 addresses are usable at once, because nobody else can have them here, and stay while a link is down, as those of
/// IPv4 do.
fn steady_addresses(scopes: &[&str]) -> Result<()> {
    for scope in scopes {
        netns::set_sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
        netns::set_sysctl(&format!("net/ipv6/conf/{scope}/keep_addr_on_down"), "1")?;
    }
    Ok(())
}

/// Name of a node's port on the bridge.
fn port_name(node: u16) -> String {
    format!("node{node}")
}

/// A veth whose one end is a port of the bridge and whose other end is the node's uplink. Its far end is born in the node's
/// namespace: there is both or neither.
fn join_to_fabric(fabric: &str, node_netns: &str, node: u16) -> Result<()> {
    let has_uplink = netns::inside(node_netns, || {
        with_netlink(async |handle| Ok(find(&handle, UPLINK).await?.is_some()))
    })?;
    let target = File::open(netns_path(node_netns))
        .with_context(|| format!("cannot open the namespace {node_netns}"))?;
    netns::inside(fabric, move || {
        with_netlink(async |handle| {
            let port = port_name(node);
            if !has_uplink {
                // A port whose other end is gone belongs to a namespace that was removed just now.
                if let Some(stale) = find(&handle, &port).await? {
                    handle
                        .link()
                        .del(stale.header.index)
                        .execute()
                        .await
                        .context("cannot remove a stale port")?;
                }
                let far = LinkUnspec::new_with_name(UPLINK)
                    .setns_by_fd(target.as_raw_fd())
                    .build();
                let veth = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
                    .name(&port)
                    .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
                    .build();
                handle
                    .link()
                    .add(veth)
                    .execute()
                    .await
                    .context("cannot add a veth")?;
            }
            let bridge = index(&handle, BRIDGE).await?;
            let member = LinkUnspec::new_with_index(index(&handle, &port).await?)
                .controller(bridge)
                .up()
                .build();
            handle
                .link()
                .set(member)
                .execute()
                .await
                .context("cannot make the veth a port of the bridge")
        })
    })
}

/// Routes from the fabric to the nodes' pod ranges, so that the API can answer pods.
pub(crate) fn ensure_pod_routes(
    layout: &Layout,
    ranges: &BTreeMap<u16, (Ipv4Addr, u8)>,
) -> Result<()> {
    let ranges = ranges.clone();
    netns::inside(&layout.fabric(), move || {
        with_netlink(async |handle| {
            for (node, (network, prefix)) in ranges {
                let route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(network, prefix)
                    .gateway(node_address(node))
                    .build();
                handle
                    .route()
                    .add(route)
                    .replace()
                    .execute()
                    .await
                    .with_context(|| format!("cannot add the route to the pods of node{node}"))?;
            }
            Ok(())
        })
    })
}

/// A route by the uplink of the namespace, to whom is right behind it or to a gateway that is.
async fn route(
    handle: &Handle,
    (address, prefix): (IpAddr, u8),
    gateway: Option<IpAddr>,
) -> Result<()> {
    let failed = || format!("cannot add the route to {address}/{prefix}");
    let mut route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, prefix)
        .with_context(failed)?
        .output_interface(index(handle, UPLINK).await?);
    if let Some(gateway) = gateway {
        route = route.gateway(gateway).with_context(failed)?;
    } else if address.is_ipv4() {
        route = route.scope(RouteScope::Link);
    }
    let adding = handle.route().add(route.build()).replace().execute();
    adding.await.with_context(failed)
}

/// Runs netlink work on the calling thread, in whatever namespace it is in.
fn with_netlink<T>(work: impl AsyncFnOnce(Handle) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("cannot open a netlink socket")?;
        let driver = tokio::spawn(connection);
        let done = work(handle).await;
        driver.abort();
        done
    })
}

async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>> {
    // All links are listed: asking for a name that is not there is an error that can't be told from others.
    let links: Vec<LinkMessage> = handle
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .context("cannot list links")?;
    Ok(links.into_iter().find(|link| {
        link.attributes
            .contains(&LinkAttribute::IfName(name.to_owned()))
    }))
}

async fn index(handle: &Handle, name: &str) -> Result<u32> {
    let link = find(handle, name)
        .await?
        .ok_or_else(|| anyhow!("there is no link {name}"))?;
    Ok(link.header.index)
}

async fn up(handle: &Handle, name: &str) -> Result<()> {
    let link = LinkUnspec::new_with_index(index(handle, name).await?)
        .up()
        .build();
    handle
        .link()
        .set(link)
        .execute()
        .await
        .with_context(|| format!("cannot bring {name} up"))
}

async fn address(handle: &Handle, name: &str, address: IpAddr, prefix: u8) -> Result<()> {
    let index = index(handle, name).await?;
    handle
        .address()
        .add(index, address, prefix)
        .replace()
        .execute()
        .await
        .with_context(|| format!("cannot give {name} the address {address}/{prefix}"))
}
