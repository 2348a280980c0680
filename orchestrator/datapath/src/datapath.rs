//! The datapath of one node: opened once by each agent, adopting what the last one left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rtnetlink::Handle;
use waggle_abi::{Addr, Capacity, EndpointRow, LinkRow, OwnerRow, Reason, endpoint_kind};
use waggle_model::IdentityId;
use waggle_model::network::NetworkState;
use waggle_policy::{
    CapacityFault, Current, DnsRedirect, Governed, LocalNode, LocalPod, Step, Table, diff, enforce,
    tables,
};

use crate::config::{Applied, Attachment, Config, PodLink, Tally};
use crate::error::{DatapathError, file_error};
use crate::event::{Drops, forward_logs};
use crate::link::{self, PodPort};
use crate::maps::{self, Maps};
use crate::pin::Pins;
use crate::program::Programs;
use crate::route::{self, Routes};
use crate::{netns_cookie_here, program};

/// One node's datapath. Dropping it leaves everything in the kernel as it is.
pub struct Datapath {
    config: Config,
    pins: Pins,
    programs: Programs,
    handle: Handle,
    host_netns: u64,
    mtu: u32,
    tables: Mutex<Tables>,
    loggers: Mutex<Vec<program::Logger>>,
    routes: tokio::sync::Mutex<Option<Routes>>,
}

/// The kernel's rows and their mirror.
struct Tables {
    maps: Maps,
    current: Current,
    dns: Option<DnsRedirect>,
    /// What was applied last; `None` before the first time.
    state: Option<Arc<NetworkState>>,
    /// Programs of another ABI run until the new tables are filled.
    takeover_pending: bool,
}

impl Tables {
    fn carry_out(&mut self, steps: &[Step]) -> Result<(), DatapathError> {
        for step in steps {
            self.maps.write(step)?;
            self.current.note(step);
        }
        Ok(())
    }

    /// Has the rulesets of `identities` in the kernel, before anything names them.
    fn provide_rulesets(
        &mut self,
        state: &NetworkState,
        identities: &BTreeSet<IdentityId>,
        capacity: &Capacity,
    ) -> Result<BTreeMap<IdentityId, Governed>, DatapathError> {
        let enforcement = enforce(state, identities, &mut self.current.rulesets, capacity)?;
        // Before their first row: no number may ever be given twice.
        let next_ruleset = self.current.rulesets.next();
        if self.current.config.next_ruleset != next_ruleset {
            let config = waggle_abi::Config {
                next_ruleset,
                ..self.current.config
            };
            self.carry_out(&[Step::PutConfig(config)])?;
        }
        for (number, ruleset) in enforcement.new {
            self.maps.write_ruleset(number, &ruleset)?;
            self.current.rulesets.adopt(number, ruleset);
        }
        Ok(enforcement.governed)
    }

    /// Removes the rulesets that no row names.
    fn sweep_rulesets(&mut self) -> Result<(), DatapathError> {
        let links = self.current.links.values();
        let used = links.flat_map(|link| [link.ingress, link.egress]).collect();
        for number in self.current.rulesets.unused(&used) {
            if let Some(ruleset) = self.current.rulesets.contents().get(&number) {
                self.maps.remove_ruleset(number, ruleset)?;
            }
            self.current.rulesets.forget(number);
        }
        Ok(())
    }
}

impl Datapath {
    /// Loads the programs, adopts maps and links that fit, and takes over from an earlier agent's programs: at once
    /// when their tables go on, else with the first [`apply`](Self::apply). Must run in the node's network namespace,
    /// on a tokio runtime.
    ///
    /// # Errors
    /// When the host is not prepared (no forwarding, no bpffs, no cgroup) or the kernel refuses programs or maps.
    pub async fn open(config: Config) -> Result<Self, DatapathError> {
        check_forwarding(config.address)?;
        let handle = link::netlink()?;
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => route::mtu_behind(&handle, config.address).await?,
        };
        let host_netns = netns_cookie_here()?;
        let pins = Pins::open(&config.bpf_dir)?;
        let kept = maps::keep_fitting(&pins, &config.capacity)?;
        let mut programs = Programs::load(&pins, &config.capacity)?;
        let maps = Maps::open(&pins)?;
        let current = maps.read()?;
        let takeover_pending = !kept && Programs::are_attached_to_sockets(&pins);
        let loggers = Mutex::new(std::mem::take(&mut programs.loggers));
        let tables = Tables {
            maps,
            current,
            dns: None,
            state: None,
            takeover_pending,
        };
        let datapath = Self {
            config,
            pins,
            programs,
            handle,
            host_netns,
            mtu,
            tables: Mutex::new(tables),
            loggers,
            routes: tokio::sync::Mutex::new(None),
        };
        if !takeover_pending {
            datapath.introduce_host()?;
            datapath.take_over()?;
        }
        Ok(datapath)
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // Nothing is left half done in there: a row is written, then noted.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows that a node needs before it knows any network state: itself.
    fn introduce_host(&self) -> Result<(), DatapathError> {
        let mut tables = self.lock();
        let mut steps = Vec::new();
        let config = waggle_abi::Config {
            host_netns: self.host_netns,
            next_ruleset: tables.current.config.next_ruleset,
            pad: 0,
        };
        if tables.current.config != config {
            steps.push(Step::PutConfig(config));
        }
        let row = EndpointRow {
            identity: waggle_abi::IDENTITY_HOST,
            tenant: waggle_abi::TENANT_SYSTEM,
            kind: endpoint_kind::HOST,
            ..EndpointRow::default()
        };
        let addr = Addr::from(self.config.address);
        if tables.current.endpoints.get(&addr) != Some(&row) {
            steps.push(Step::PutEndpoint(addr, row));
        }
        tables.carry_out(&steps)
    }

    /// Puts this build's programs into every link, the socket hooks first.
    fn take_over(&self) -> Result<(), DatapathError> {
        self.programs
            .attach_to_sockets(&self.pins, &self.config.cgroup)?;
        let links: Vec<_> = self
            .lock()
            .current
            .links
            .iter()
            .map(|(ifindex, row)| (*ifindex, row.pod))
            .collect();
        for (ifindex, number) in links {
            let interface = PodPort { number }.interface();
            if let Err(error) = self.programs.attach_to_pod(&self.pins, &interface, ifindex) {
                // Its interface went while nobody looked; the agent's sweep removes the rest.
                tracing::warn!(interface, %error, "pod link not taken over");
            }
        }
        self.pins.retire_others()
    }

    /// Sends the DNS VIP to `listener`'s address from the next [`apply`](Self::apply) on, whatever its Service says.
    pub fn set_dns(&self, dns: Option<DnsRedirect>) {
        self.lock().dns = dns;
    }

    /// Brings tables and routes to `state`, writing only what differs. When it returns, every call and packet from then
    /// on is decided by `state`.
    ///
    /// # Errors
    /// [`DatapathError::Capacity`] before anything is written; others may leave some of the rows behind, every one
    /// right, and the next call goes on from there.
    pub async fn apply(&self, state: &NetworkState) -> Result<Applied, DatapathError> {
        let rows = self.apply_tables(state)?;
        let pending = std::mem::take(&mut self.lock().takeover_pending);
        if pending && let Err(error) = self.take_over() {
            self.lock().takeover_pending = true;
            return Err(error);
        }
        let wanted = route::wanted(state, &self.config.node);
        let mut routes = self.routes.lock().await;
        if routes.as_ref() == Some(&wanted) {
            return Ok(Applied { rows, routes: 0 });
        }
        *routes = None;
        let changed = route::synchronise(&self.handle, &wanted).await?;
        *routes = Some(wanted);
        Ok(Applied {
            rows,
            routes: changed,
        })
    }

    fn apply_tables(&self, state: &NetworkState) -> Result<usize, DatapathError> {
        let capacity = &self.config.capacity;
        let mut tables = self.lock();
        let mut local = self.local_node(&tables);
        local.governed = tables.provide_rulesets(state, &local.identities(state), capacity)?;
        local.next_ruleset = tables.current.config.next_ruleset;
        let desired = self::tables(state, &local, capacity)?;
        let steps = diff(&tables.current, &desired, capacity)?;
        tables.carry_out(&steps)?;
        tables.sweep_rulesets()?;
        tables.state = Some(Arc::new(state.clone()));
        Ok(steps.len())
    }

    fn local_node(&self, tables: &Tables) -> LocalNode {
        let pod = |(ifindex, link): (&u32, &LinkRow)| {
            let port = PodPort { number: link.pod };
            LocalPod {
                ifindex: *ifindex,
                link: *link,
                mac: port.mac(),
                gateway_mac: port.gateway_mac(),
            }
        };
        LocalNode {
            name: self.config.node.clone(),
            address: Some(self.config.address),
            host_netns: self.host_netns,
            dns: tables.dns,
            pods: tables.current.links.iter().map(pod).collect(),
            ..LocalNode::default()
        }
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
            link::create_pair(&self.handle, port, &pod.netns, self.mtu).await?;
            host = link::find(&self.handle, &interface).await?;
        }
        let missing = || DatapathError::Link {
            action: "find interface",
            object: interface.clone(),
            reason: "absent".into(),
        };
        let ifindex = host.ok_or_else(missing)?.header.index;
        let netns_cookie = link::configure_inside(&pod.netns, port, pod.address).await?;
        self.write_pod(pod, port, ifindex, netns_cookie)?;
        self.programs
            .attach_to_pod(&self.pins, &interface, ifindex)?;
        link::connect_host(
            &self.handle,
            port,
            ifindex,
            pod.address,
            self.config.address,
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
        let tables = self.lock();
        let known = tables
            .current
            .links
            .values()
            .any(|row| row.pod == port.number);
        let limit = self.config.capacity.links;
        let needed = tables.current.links.len() + usize::from(!known);
        if needed > limit as usize {
            return Err(CapacityFault {
                table: Table::Links,
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
        let addr = Addr::from(pod.address);
        let (identity, tenant) = (pod.identity.0, pod.tenant.0);
        let mut tables = self.lock();
        let Governed { ingress, egress } = self.policy_of(&mut tables, pod, port)?;
        let endpoint = EndpointRow {
            identity,
            tenant,
            kind: endpoint_kind::POD,
            ifindex,
            mac: port.mac(),
            gateway_mac: port.gateway_mac(),
            ingress,
            egress,
            pad: 0,
        };
        let link = LinkRow {
            addr,
            addr_other: Addr::NONE,
            identity,
            tenant,
            netns,
            pod: port.number,
            ingress,
            egress,
        };
        let limit = self.config.capacity.endpoints;
        let needed = tables.current.endpoints.len()
            + usize::from(!tables.current.endpoints.contains_key(&addr));
        if needed > limit as usize {
            return Err(CapacityFault {
                table: Table::Endpoints,
                needed,
                limit,
            }
            .into());
        }
        tables.carry_out(&[
            Step::PutLink(ifindex, link),
            Step::PutEndpoint(addr, endpoint),
            Step::PutOwner(
                netns,
                OwnerRow {
                    identity,
                    tenant,
                    egress,
                    addr,
                },
            ),
        ])
    }

    /// Rulesets of a pod that is being connected, in the kernel. Until a state that knows its identity is applied it is
    /// locked, but a link that is adopted stays under what governs it.
    fn policy_of(
        &self,
        tables: &mut Tables,
        pod: &PodLink,
        port: PodPort,
    ) -> Result<Governed, DatapathError> {
        let Some(state) = tables.state.clone() else {
            let mut links = tables.current.links.values();
            let before = links.find(|row| row.pod == port.number && row.identity == pod.identity.0);
            return Ok(before.map_or(Governed::LOCKED, |row| Governed {
                ingress: row.ingress,
                egress: row.egress,
            }));
        };
        let identities = BTreeSet::from([pod.identity]);
        let governed = tables.provide_rulesets(&state, &identities, &self.config.capacity)?;
        Ok(governed
            .get(&pod.identity)
            .copied()
            .unwrap_or(Governed::LOCKED))
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
        let gone: Vec<_> = tables
            .current
            .links
            .iter()
            .filter(|(_, row)| row.pod == port.number)
            .collect();
        let mut steps = Vec::new();
        for (ifindex, row) in gone {
            let here = tables
                .current
                .endpoints
                .get(&row.addr)
                .is_some_and(|endpoint| endpoint.ifindex == *ifindex);
            if here {
                steps.push(Step::RemoveEndpoint(row.addr));
            }
            steps.push(Step::RemoveOwner(row.netns));
            steps.push(Step::RemoveLink(*ifindex));
        }
        unpinned.and(tables.carry_out(&steps))
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
        found.extend(self.lock().current.links.values().map(|row| row.pod));
        let (mut swept, mut result) = (0, Ok(()));
        for number in found.difference(&live) {
            result = result.and(self.detach_port(PodPort { number: *number }).await);
            swept += 1;
        }
        result.map(|()| swept)
    }

    /// How often each verdict was given since the counters were made; they outlive agents.
    ///
    /// # Errors
    /// When the kernel can't be read.
    pub fn counters(&self) -> Result<Vec<Tally>, DatapathError> {
        let counters = self.lock().maps.counters()?;
        let tally = |(reason, counter): (Reason, waggle_abi::Counter)| Tally {
            reason,
            packets: counter.packets,
            bytes: counter.bytes,
        };
        Ok(counters.into_iter().map(tally).collect())
    }

    /// A reader of drops and denials.
    ///
    /// # Errors
    /// When the kernel can't be read.
    pub fn drops(&self) -> Result<Drops, DatapathError> {
        Drops::new(maps::events(&self.pins)?)
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
