//! What a datapath is told from outside, as plain data.

use std::net::IpAddr;
use std::path::PathBuf;

use waggle_abi::Capacity;
use waggle_model::network::{PerFamily, TunnelMode, XdpMode};
use waggle_model::{IdentityId, TenantId};
use waggle_policy::Refusal;

use crate::hooks::PacketHooks;

/// Where this node's datapath lives.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder for pins; a bpffs is mounted there unless it already is one.
    pub bpf_dir: PathBuf,
    /// Folder of the node in the unified cgroup hierarchy (`/sys/fs/cgroup/unified/<cgroup>`); the socket programs
    /// act on everything below it.
    pub cgroup: PathBuf,
    /// Name of this node, as endpoints spell it.
    pub node: String,
    /// Underlay addresses of this node; source of what the host sends to its pods.
    pub addresses: PerFamily<IpAddr>,
    /// MTU of the pods' links; `None` takes the one of the interface that carries the primary address, or the tunnel's once
    /// a node is behind it.
    pub mtu: Option<u32>,
    /// When pods of other nodes are reached through a tunnel.
    pub tunnel: TunnelMode,
    /// Whether the uplink has an XDP program.
    pub xdp: XdpMode,
    /// How packet programs are attached; `None` for the best that the kernel has.
    pub hooks: Option<PacketHooks>,
    /// Rows that each table may take.
    pub capacity: Capacity,
    /// Number of the ABI that maps and programs are pinned under: [`waggle_abi::ABI_HASH`], but for trying an upgrade.
    pub abi: u64,
}

/// A pod that is to be connected. Everything is decided; the datapath only does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLink {
    /// `metadata.uid`.
    pub uid: String,
    /// Its network namespace.
    pub netns: PathBuf,
    /// Its addresses.
    pub addresses: PerFamily<IpAddr>,
    /// What policy knows it by.
    pub identity: IdentityId,
    /// Its tenant.
    pub tenant: TenantId,
}

/// A pod that is connected: policy is in the kernel, the link is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Host end of its veth.
    pub interface: String,
    /// Index of it.
    pub ifindex: u32,
    /// Cookie of its network namespace.
    pub netns_cookie: u64,
    /// It was connected before, by this process or an earlier one.
    pub adopted: bool,
}

/// What one `apply` changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rows written or removed.
    pub rows: usize,
    /// Routes to other nodes added, changed or removed.
    pub routes: usize,
    /// Rows that found their table full. What they would have allowed is denied.
    pub refused: Vec<Refusal>,
}

/// How often one verdict was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Verdict.
    pub reason: waggle_abi::Reason,
    /// Packets, or calls for the socket hooks.
    pub packets: u64,
    /// Bytes from the Ethernet header on; 0 for calls.
    pub bytes: u64,
}
