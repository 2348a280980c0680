//! The datapath of one node: opened once by each agent, adopting what the last one left.

mod limits;
mod pressure;

pub use pressure::Occupancy;

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rtnetlink::Handle;
use waggle_abi::{Addr, LinkRow, Reason};
use waggle_model::Generation;
use waggle_model::network::{Cidr, GenerationGap, NetworkDelta, NetworkState, TunnelMode};
use waggle_policy::{
    CapacityFault, Claimant, DnsRedirect, Governed, LocalNode, LocalPod, Table, Tallies, Uplink,
};

use crate::announce::announce;
use crate::config::{Applied, Attachment, Config, PodLink, Tally};
use crate::error::{DatapathError, file_error};
use crate::event::{FlowEvents, forward_logs};
use crate::link::{self, PodPort};
use crate::maps;
use crate::pin::Pins;
use crate::program::Programs;
use crate::route::{self, Routes, Underlay};
use crate::stale::StaleSockets;
use crate::tables::Tables;
use crate::tunnel::{self, Tunnel};
use crate::{netns_cookie_here, program};

/// One node's datapath. Dropping it leaves everything in the kernel as it is.
pub struct Datapath {
    config: Config,
    pins: Pins,
    programs: Programs,
    handle: Handle,
    uplink: Uplink,
    mtu: u32,
    /// Its end of the tunnels to nodes behind a gateway; `None` for none.
    tunnel: Option<Tunnel>,
    tables: Mutex<Tables>,
    /// The uplink's driver took no XDP program though one was asked for.
    edge_refused: AtomicBool,
    /// Programs of another ABI run until the new tables are filled.
    takeover_pending: AtomicBool,
    loggers: Mutex<Vec<program::Logger>>,
    routes: tokio::sync::Mutex<Option<Routes>>,
    stale: StaleSockets,
}

impl Datapath {
    /// Loads the programs, adopts maps and links that fit, and takes over from an earlier agent's programs: at once
    /// when their tables go on, else with the first [`apply`](Self::apply). Must run in the node's network namespace,
    /// on a tokio runtime.
    ///
    /// # Errors
    /// When the host is not prepared (no forwarding, no bpffs, no cgroup) or the kernel refuses programs or maps.
    pub async fn open(config: Config) -> Result<Self, DatapathError> {
        for address in config.addresses.iter() {
            check_forwarding(address)?;
        }
        let handle = link::netlink()?;
        let Underlay { uplink, mtu, links } = route::underlay(&handle, config.addresses).await?;
        let tunnel = open_tunnel(&handle, &config, mtu).await?;
        let host_netns = netns_cookie_here()?;
        let pins = Pins::open(&config.bpf_dir, config.abi)?;
        // An agent that was killed before it had filled its tables left some that only look complete.
        let kept = maps::keep_fitting(&pins, &config.capacity)? && pins.in_charge();
        if !kept {
            pins.set_in_charge(false)?;
        }
        let mut programs = Programs::load(&pins, &config.capacity, config.hooks)?;
        let local = LocalNode {
            name: config.node.clone(),
            addresses: config.addresses.iter().collect(),
            host_netns,
            uplink,
            links,
            tunnel_mode: tunnel.map_or(TunnelMode::Never, |_| config.tunnel),
            tunnel: tunnel.map_or(0, |tunnel| tunnel.ifindex),
        };
        let mut tables = Tables::adopt(&pins, local, config.capacity)?;
        for (ifindex, link) in tables.links() {
            tables.put_pod(local_pod(ifindex, link));
        }
        let takeover_pending = !kept && Programs::are_attached_to_sockets(&pins);
        let loggers = Mutex::new(std::mem::take(&mut programs.loggers));
        let stale = StaleSockets::start(&pins, host_netns)?;
        let datapath = Self {
            config,
            pins,
            programs,
            handle,
            uplink,
            mtu,
            tunnel,
            tables: Mutex::new(tables),
            edge_refused: AtomicBool::new(false),
            takeover_pending: AtomicBool::new(takeover_pending),
            loggers,
            routes: tokio::sync::Mutex::new(None),
            stale,
        };
        if !takeover_pending {
            // The rows that a node needs before it knows any network state: itself.
            datapath.lock().program()?;
            datapath.take_over()?;
        }
        Ok(datapath)
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // Nothing is left half done in there: a row is written, then noted.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that a pod may send at once. A pod that was connected before a node came that is behind the tunnel learns it from
    /// the path.
    fn pod_mtu(&self) -> u32 {
        let tunnelled = self.tunnel.filter(|_| {
            self.config.tunnel == TunnelMode::Always
                || route::uses_tunnel(&self.lock().wanted_routes())
        });
        let found = tunnelled.map_or(self.mtu, |tunnel| tunnel.mtu);
        self.config.mtu.unwrap_or(found)
    }

    /// Puts this build's programs into every link, the socket hooks first, the uplink last.
    fn take_over(&self) -> Result<(), DatapathError> {
        self.programs
            .attach_to_sockets(&self.pins, &self.config.cgroup)?;
        for (ifindex, row) in self.lock().links() {
            let interface = PodPort { number: row.pod }.interface();
            if let Err(error) = self.programs.attach_to_pod(&self.pins, &interface, ifindex) {
                // Its interface went while nobody looked; the agent's sweep removes the rest.
                tracing::warn!(interface, %error, "pod link not taken over");
            }
        }
        let tunnel = self.tunnel.map(|tunnel| tunnel.ifindex);
        self.programs.attach_to_tunnel(&self.pins, tunnel)?;
        self.programs
            .attach_to_uplink(&self.pins, self.uplink.ifindex)?;
        let taken =
            self.programs
                .attach_to_edge(&self.pins, self.uplink.ifindex, self.config.xdp)?;
        self.edge_refused.store(!taken, Ordering::Relaxed);
        if !taken {
            tracing::warn!(
                "the uplink's driver takes no XDP program: the packet hooks do its work"
            );
        }
        self.pins.set_in_charge(true)?;
        self.pins.retire_others()
    }

    /// Sends the DNS VIP to `listener`'s address from the next [`carry_out`](Self::carry_out) on, whatever its Service says.
    pub fn set_dns(&self, dns: Option<DnsRedirect>) {
        self.lock().set_dns(dns);
    }

    /// Says where services' addresses are from, a range a family, from the next [`apply`](Self::apply) on: a call to one that
    /// no service has is refused at once.
    pub fn set_service_ranges(&self, ranges: Vec<Cidr>) {
        self.lock().set_service_ranges(ranges);
    }

    /// Generation of the network state that it was last told.
    pub fn generation(&self) -> Generation {
        self.lock().state().generation
    }

    /// Brings tables and routes to `state`, writing only what differs. When it returns, every call and packet from then
    /// on is decided by `state`, but for rows that found their table full.
    ///
    /// # Errors
    /// Some of the rows may be left behind, every one right, and the next call goes on from there.
    pub async fn apply(&self, state: &NetworkState) -> Result<Applied, DatapathError> {
        self.set_state(state);
        self.carry_out().await
    }

    /// What tables and routes should follow from the next [`carry_out`](Self::carry_out) on.
    pub fn set_state(&self, state: &NetworkState) {
        self.lock().set_state(state);
    }

    /// As [`set_state`](Self::set_state) of the state that `delta` leads to; costs as much as the delta touches.
    ///
    /// # Errors
    /// [`GenerationGap`] when the delta starts at another generation; nothing is done then.
    pub fn advance(&self, delta: NetworkDelta) -> Result<(), GenerationGap> {
        self.lock().advance(delta)
    }

    /// Writes what was touched since the last time, and what is left of it.
    ///
    /// # Errors
    /// As for [`apply`](Self::apply).
    pub async fn carry_out(&self) -> Result<Applied, DatapathError> {
        let (programmed, wanted) = {
            let mut tables = self.lock();
            tables.compare_everything_once();
            let programmed = tables.program()?;
            let moved = tables.take_moved_services();
            self.stale.note(tables.state(), moved);
            (programmed, tables.wanted_routes())
        };
        if self.takeover_pending.load(Ordering::Acquire) {
            self.take_over()?;
            self.takeover_pending.store(false, Ordering::Release);
        }
        if let Err(error) = announce(self.uplink, &programmed.announced) {
            tracing::warn!(%error, "neighbours were not told of new addresses");
        }
        self.stale.close_soon();
        let mut applied = Applied {
            rows: programmed.rows,
            routes: 0,
            refused: programmed.refused,
        };
        let mut routes = self.routes.lock().await;
        if routes.as_ref() != Some(&wanted) {
            *routes = None;
            applied.routes = route::synchronise(&self.handle, &wanted).await?;
            *routes = Some(wanted);
        }
        Ok(applied)
    }

    /// Connects a pod, or adopts its link. When it returns, its address, identity and policy are in the kernel and its
    /// link is up: its first process may start. After a change of ABI, pods that live on must be attached again before
    /// the first [`apply`](Self::apply).
    ///
    /// # Errors
    /// When tables are full or the kernel refuses the link; what was made is then removed by
    /// [`detach_pod`](Self::detach_pod) or found by the next call.
    pub async fn attach_pod(&self, pod: &PodLink) -> Result<Attachment, DatapathError> {
        let port = PodPort::of_uid(&pod.uid);
        let interface = port.interface();
        self.check_room(port)?;
        let mut host = link::find(&self.handle, &interface).await?;
        if let Some(present) = &host
            && !link::is_connected(&pod.netns, port).await?
        {
            // Its other end is in a namespace that the pod no longer has.
            link::delete(&self.handle, present.header.index, &interface).await?;
            self.forget(port)?;
            host = None;
        }
        let adopted = host.is_some();
        if !adopted {
            link::create_pair(&self.handle, port, &pod.netns, self.pod_mtu()).await?;
            host = link::find(&self.handle, &interface).await?;
        }
        let missing = || DatapathError::Link {
            action: "find interface",
            object: interface.clone(),
            reason: "absent".into(),
        };
        let ifindex = host.ok_or_else(missing)?.header.index;
        let netns_cookie = link::configure_inside(&pod.netns, port, pod.addresses).await?;
        self.stale.know(netns_cookie, &pod.netns, adopted);
        self.write_pod(pod, port, ifindex, netns_cookie)?;
        // One that lives on keeps the programs that it has until their successors' tables are filled.
        let pending = self.takeover_pending.load(Ordering::Acquire);
        if !pending || !Programs::are_attached_to_pod(&self.pins, &interface) {
            let attachment = self
                .programs
                .attachment_to_pod(&self.pins, &interface, ifindex)?;
            let attached = tokio::task::spawn_blocking(attachment).await;
            attached.map_err(|gone| DatapathError::Link {
                action: "attach programs to",
                object: interface.clone(),
                reason: gone.to_string(),
            })??;
        }
        link::connect_host(
            &self.handle,
            port,
            ifindex,
            pod.addresses,
            self.config.addresses,
        )
        .await?;
        link::await_carrier(&pod.netns).await?;
        Ok(Attachment {
            interface,
            ifindex,
            netns_cookie,
            adopted,
        })
    }

    fn check_room(&self, port: PodPort) -> Result<(), DatapathError> {
        let links = self.lock().links();
        let known = links.iter().any(|(_, row)| row.pod == port.number);
        let limit = self.config.capacity.links;
        let needed = links.len() + usize::from(!known);
        if needed > limit as usize {
            return Err(CapacityFault {
                table: Table::Link,
                needed,
                limit,
            }
            .into());
        }
        Ok(())
    }

    /// The pod's rows: who it is, before anything of it moves.
    fn write_pod(
        &self,
        pod: &PodLink,
        port: PodPort,
        ifindex: u32,
        netns: u64,
    ) -> Result<(), DatapathError> {
        let other = pod.addresses.iter().nth(1);
        let link = LinkRow {
            addr: Addr::from(pod.addresses.primary()),
            addr_other: other.map_or(Addr::NONE, Addr::from),
            identity: pod.identity.0,
            tenant: pod.tenant.0,
            netns,
            pod: port.number,
            ..LinkRow::default()
        };
        let mut tables = self.lock();
        // Until a state that knows its identity is applied it is locked, but a link that is adopted stays under what
        // governs it.
        let links = tables.links().into_iter().map(|(_, row)| row);
        let before = links
            .filter(|row| row.pod == port.number && row.identity == pod.identity.0)
            .map(|row| (row.ingress, row.egress))
            .next();
        let locked = (Governed::LOCKED.ingress, Governed::LOCKED.egress);
        let (ingress, egress) = before.unwrap_or(locked);
        let link = LinkRow {
            ingress,
            egress,
            ..link
        };
        tables.put_pod(local_pod(ifindex, link));
        let programmed = tables.program()?;
        let claimant = Claimant::Pod(ifindex);
        let mut refused = programmed.refused.into_iter();
        match refused.find(|refusal| refusal.claimant == claimant) {
            Some(refusal) => Err(refusal.fault.into()),
            None => Ok(()),
        }
    }

    /// Disconnects a pod: link, programs and rows. Nothing there is fine.
    ///
    /// # Errors
    /// The first of what went wrong; everything is tried.
    pub async fn detach_pod(&self, uid: &str) -> Result<(), DatapathError> {
        self.detach_port(PodPort::of_uid(uid)).await
    }

    async fn detach_port(&self, port: PodPort) -> Result<(), DatapathError> {
        let interface = port.interface();
        let deleted = match link::find(&self.handle, &interface).await {
            Ok(Some(found)) => link::delete(&self.handle, found.header.index, &interface).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        deleted.and(self.forget(port))
    }

    /// Removes the pins and rows of a link that is gone.
    fn forget(&self, port: PodPort) -> Result<(), DatapathError> {
        let unpinned = Programs::detach_from_pod(&self.pins, &port.interface());
        let mut tables = self.lock();
        for (ifindex, row) in tables.links() {
            if row.pod == port.number {
                self.stale.forget(row.netns);
                tables.remove_pod(ifindex);
            }
        }
        unpinned.and(tables.program().map(drop))
    }

    /// Disconnects every pod but those with a UID in `live`; returns how many there were. For an agent that starts.
    ///
    /// # Errors
    /// The first of what went wrong; everything is tried.
    pub async fn sweep(&self, live: &BTreeSet<String>) -> Result<usize, DatapathError> {
        let live: BTreeSet<u64> = live.iter().map(|uid| PodPort::of_uid(uid).number).collect();
        let mut found: BTreeSet<u64> = link::ports(&self.handle)
            .await?
            .into_iter()
            .map(|port| port.number)
            .collect();
        found.extend(self.lock().links().iter().map(|(_, row)| row.pod));
        let (mut swept, mut result) = (0, Ok(()));
        for number in found.difference(&live) {
            result = result.and(self.detach_port(PodPort { number: *number }).await);
            swept += 1;
        }
        result.map(|()| swept)
    }

    /// Has writing of tables fail after this many rows, until told otherwise: for tests of what breaks off.
    #[doc(hidden)]
    pub fn fail_after(&self, rows: Option<usize>) {
        self.lock().fail_after(rows);
    }

    /// How often each verdict was given since the counters were made; they outlive agents.
    ///
    /// # Errors
    /// When the kernel can't be read.
    pub fn counters(&self) -> Result<Vec<Tally>, DatapathError> {
        let counters = self.lock().counters()?;
        let tally = |(reason, counter): (Reason, waggle_abi::Counter)| Tally {
            reason,
            packets: counter.packets,
            bytes: counter.bytes,
        };
        Ok(counters.into_iter().map(tally).collect())
    }

    /// What services and policies did: of services since the counters were made, of policies since this was opened.
    ///
    /// # Errors
    /// When the kernel can't be read.
    pub fn tallies(&self) -> Result<Tallies, DatapathError> {
        self.lock().tallies().cloned()
    }

    /// Has programs report new calls and flows too, or not any more.
    ///
    /// # Errors
    /// When the kernel can't be written.
    pub fn tell_new(&self, tell: bool) -> Result<(), DatapathError> {
        let mut tables = self.lock();
        tables.tell_new(tell);
        tables.program().map(drop)
    }

    /// A reader of what programs report.
    ///
    /// # Errors
    /// When the kernel can't be read.
    pub fn events(&self) -> Result<FlowEvents, DatapathError> {
        FlowEvents::new(maps::events(&self.pins)?)
    }

    /// Puts back the routes to other nodes whenever the uplink or the tunnel comes up: the kernel drops them when it goes down. Runs until
    /// the kernel's messages end.
    ///
    /// # Errors
    /// They can't be listened to.
    pub async fn keep_routes(&self) -> Result<(), DatapathError> {
        let tunnel = self.tunnel.map(|tunnel| tunnel.ifindex);
        let links = [self.uplink.ifindex].into_iter().chain(tunnel).collect();
        let mut changes = link::changes_of(links)?;
        let mut last = None;
        while changes.next().await {
            let mut routes = self.routes.lock().await;
            last = routes.take().or(last);
            // Nothing is known yet: what an earlier agent left stays.
            let Some(wanted) = &last else { continue };
            match route::synchronise(&self.handle, wanted).await {
                Ok(restored) => {
                    if restored > 0 {
                        tracing::info!(restored, "routes to other nodes are back");
                    }
                    *routes = Some(wanted.clone());
                }
                // It is down; it will tell when it is up.
                Err(error) => tracing::warn!(%error, "routes to other nodes are missing"),
            }
        }
        Ok(())
    }

    /// Hands what the programs log to the `log` facade (and so to tracing) until reading fails. Call it once; later
    /// calls have nothing to read and wait for ever.
    pub async fn forward_logs(&self) -> DatapathError {
        let loggers =
            std::mem::take(&mut *self.loggers.lock().unwrap_or_else(PoisonError::into_inner));
        if loggers.is_empty() {
            std::future::pending::<()>().await;
        }
        forward_logs(loggers).await
    }
}

fn local_pod(ifindex: u32, link: LinkRow) -> LocalPod {
    let port = PodPort { number: link.pod };
    LocalPod {
        ifindex,
        link,
        mac: port.mac(),
        gateway_mac: port.gateway_mac(),
    }
}

/// This node's end of the tunnels, unless it is to have none. Where other software of the host has VXLAN's port, nodes
/// behind a gateway are sent to as if the network between them knew the pods, and a node that must have tunnels does not start.
async fn open_tunnel(
    handle: &Handle,
    config: &Config,
    mtu: u32,
) -> Result<Option<Tunnel>, DatapathError> {
    if config.tunnel == TunnelMode::Never {
        tunnel::remove(handle).await?;
        return Ok(None);
    }
    match tunnel::provide(handle, mtu, config.addresses).await {
        Ok(tunnel) => Ok(Some(tunnel)),
        Err(error) if config.tunnel == TunnelMode::Auto => {
            tracing::warn!(%error, "no tunnel to nodes behind a gateway");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn check_forwarding(address: IpAddr) -> Result<(), DatapathError> {
    let (setting, path) = match address {
        IpAddr::V4(_) => ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
        IpAddr::V6(_) => (
            "net.ipv6.conf.all.forwarding",
            "/proc/sys/net/ipv6/conf/all/forwarding",
        ),
    };
    let value = fs::read_to_string(path).map_err(file_error("read", path))?;
    if value.trim() == "0" {
        Err(DatapathError::Forwarding { setting })
    } else {
        Ok(())
    }
}
