//! One node with a datapath, its pods, and another node behind its uplink, all in namespaces that end with the test.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use tokio::runtime::Runtime;
use waggle_datapath::{
    Attachment, Capacity, Config, Datapath, DatapathError, FlowEvent, FlowEvents, PodLink, Reason,
};
use waggle_model::network::{NetworkState, PerFamily, TunnelMode, XdpMode};
use waggle_model::{IdentityId, TenantId};

use crate::cgroup;
use crate::clsact::hooks;
use crate::room::Room;
use crate::state::{HOST, OTHER_HOST, ip};

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A pod that is connected.
pub(crate) struct Pod {
    pub(crate) room: Room,
    pub(crate) address: IpAddr,
    pub(crate) uid: String,
    pub(crate) attachment: Attachment,
}

/// The node and what surrounds it.
pub(crate) struct World {
    pub(crate) host: Room,
    pub(crate) other: Room,
    pub(crate) config: Config,
    runtime: Arc<Runtime>,
    datapath: Option<Arc<Datapath>>,
    pods_made: Cell<u32>,
    _folder: tempfile::TempDir,
}

impl World {
    /// A node without pods that knows nothing yet.
    pub(crate) fn new() -> Self {
        Self::with_capacity(small())
    }

    pub(crate) fn with_capacity(capacity: Capacity) -> Self {
        let (host, other) = (Room::new(), Room::new());
        wire(&host, &other);
        Self::of(
            host,
            other,
            "node1",
            PerFamily::single(ip(HOST)),
            capacity,
            TunnelMode::Auto,
        )
    }

    /// The node that `host` is, at addresses that it has; who is in `other` is up to the caller.
    pub(crate) fn of(
        host: Room,
        other: Room,
        node: &str,
        addresses: PerFamily<IpAddr>,
        capacity: Capacity,
        tunnel: TunnelMode,
    ) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("wgt-bpf-")
            .tempdir()
            .expect("a folder");
        let config = Config {
            bpf_dir: folder.path().join("bpf"),
            cgroup: cgroup::folder().to_owned(),
            node: node.into(),
            addresses,
            mtu: None,
            tunnel,
            xdp: XdpMode::Never,
            hooks: hooks(),
            capacity,
            abi: waggle_abi::ABI_HASH,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let mut world = Self {
            host,
            other,
            config,
            runtime: Arc::new(runtime),
            datapath: None,
            pods_made: Cell::new(0),
            _folder: folder,
        };
        world.open();
        world
    }

    /// Opens the datapath anew, as the next agent would; the old one is dropped before.
    pub(crate) fn open(&mut self) {
        self.close();
        let (runtime, config) = (self.runtime.clone(), self.config.clone());
        let opened = self
            .host
            .run(move || runtime.block_on(Datapath::open(config)));
        self.datapath = Some(Arc::new(opened.expect("the datapath opens")));
    }

    /// Drops the datapath, as an agent that dies does.
    pub(crate) fn close(&mut self) {
        self.datapath = None;
    }

    /// Does `work` with the datapath in the node's namespace.
    pub(crate) fn with<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: AsyncFnOnce(&Datapath) -> T + Send + 'static,
    {
        let (runtime, datapath) = (self.runtime.clone(), self.datapath.clone().expect("open"));
        self.host.run(move || runtime.block_on(work(&datapath)))
    }

    pub(crate) fn apply(&self, state: &NetworkState) {
        self.try_apply(state).expect("the state applies");
    }

    pub(crate) fn try_apply(
        &self,
        state: &NetworkState,
    ) -> Result<waggle_datapath::Applied, DatapathError> {
        let state = state.clone();
        self.with(async move |datapath| datapath.apply(&state).await)
    }

    /// A connected pod.
    pub(crate) fn pod(&self, address: &str, tenant: u32) -> Pod {
        self.pod_at(PerFamily::single(ip(address)), tenant)
    }

    /// A connected pod with these addresses.
    pub(crate) fn pod_at(&self, addresses: PerFamily<IpAddr>, tenant: u32) -> Pod {
        let room = Room::new();
        let number = self.pods_made.replace(self.pods_made.get() + 1);
        let address = addresses.primary();
        let uid = format!("pod-{number}-{address}");
        let attachment = self
            .attach_at(&uid, room.path(), addresses, tenant)
            .expect("the pod is connected");
        Pod {
            room,
            address,
            uid,
            attachment,
        }
    }

    pub(crate) fn attach(
        &self,
        uid: &str,
        netns: PathBuf,
        address: IpAddr,
        tenant: u32,
    ) -> Result<Attachment, DatapathError> {
        self.attach_at(uid, netns, PerFamily::single(address), tenant)
    }

    fn attach_at(
        &self,
        uid: &str,
        netns: PathBuf,
        addresses: PerFamily<IpAddr>,
        tenant: u32,
    ) -> Result<Attachment, DatapathError> {
        let link = PodLink {
            uid: uid.into(),
            netns,
            addresses,
            identity: IdentityId(tenant * 10),
            tenant: TenantId(tenant),
        };
        self.with(async move |datapath| datapath.attach_pod(&link).await)
    }

    /// Packets or calls so far, by verdict.
    pub(crate) fn counts(&self) -> BTreeMap<Reason, u64> {
        let tallies = self
            .with(async |datapath| datapath.counters())
            .expect("counters are readable");
        tallies
            .into_iter()
            .map(|tally| (tally.reason, tally.packets))
            .collect()
    }

    /// How often `reason` was counted while `work` ran.
    pub(crate) fn counted(&self, reason: Reason, work: impl FnOnce()) -> u64 {
        let before = self.counts()[&reason];
        work();
        self.counts()[&reason] - before
    }

    /// Waits until `reason` was counted more than `before` times.
    pub(crate) fn await_count(&self, reason: Reason, before: u64) {
        eventually(&format!("{reason:?} is counted"), || {
            self.counts()[&reason] > before
        });
    }

    /// Every drop that was reported and not yet read.
    pub(crate) fn drops(&self) -> Vec<FlowEvent> {
        self.with(async |datapath| {
            let mut drops: FlowEvents = datapath.events().expect("events are readable");
            std::iter::from_fn(|| drops.take()).collect()
        })
    }

    /// Where a program or map is pinned.
    pub(crate) fn pin(&self, kind: &str, name: &str) -> PathBuf {
        self.config
            .bpf_dir
            .join(format!("{:016x}", self.config.abi))
            .join(kind)
            .join(name)
    }

    /// Where a map of connection state is pinned.
    pub(crate) fn state_pin(&self, name: &str) -> PathBuf {
        let state = waggle_abi::STATE.iter().find(|(state, _)| *state == name);
        let (name, layout) = state.expect("connection state");
        let folder = self.config.bpf_dir.join("state");
        folder.join(format!("{name}-{layout:016x}"))
    }
}

/// The context of a test run of a packet program, over a frame of `length` bytes that came by interface `ifindex`.
pub(crate) fn run_context(program: &str, ifindex: u32, length: usize) -> Vec<u8> {
    if program == "edge" {
        // struct xdp_md: start, end and metadata of the frame, the interface that it came by, queue, the one it leaves by.
        let length = u32::try_from(length).expect("short");
        return [0, length, 0, ifindex, 0, 0].map(u32::to_ne_bytes).concat();
    }
    // struct __sk_buff: ifindex is its eleventh word.
    let mut context = vec![0; 192];
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    context
}

/// Tables for a few pods.
pub(crate) fn small() -> Capacity {
    Capacity {
        flows: 1024,
        sock_vip: 1024,
        nat: 4096,
        maglev: 65_536,
        slots: 4096,
        ..Capacity::default()
    }
}

impl std::ops::Drop for World {
    fn drop(&mut self) {
        self.close();
        // Or the folder below could not be removed.
        if let Err(error) = umount2(&self.config.bpf_dir, MntFlags::MNT_DETACH) {
            eprintln!("unmount {}: {error}", self.config.bpf_dir.display());
        }
    }
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The host's uplink, and behind it the other node, which has pods' addresses on its loopback.
fn wire(host: &Room, other: &Room) {
    host.ip("link add eth0 type veth peer name far");
    host.ip(&format!("link set far netns {}", other.number()));
    host.ip(&format!("address add {HOST}/24 dev eth0"));
    host.ip("link set eth0 up");
    other.ip("link set far up");
    other.ip(&format!("address add {OTHER_HOST}/24 dev far"));
    other.ip(&format!("route add 10.244.1.0/24 via {HOST}"));
    host.run(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding is switched on")
    });
}
