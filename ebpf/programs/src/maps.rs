//! The maps, all shared between the hooks by pinning. Sizes here are defaults; user space sets those of its node.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use waggle_abi::{
    Addr, AffinityKey, AffinityRow, BlockKey, Config, Counter, EndpointRow, Flow, FlowKey,
    FragmentKey, FragmentRow, GrantKey, LinkRow, MaglevRow, NatRow, ObjectCount, ObjectKey,
    OwnerRow, PeerRow, RangeRow, Reason, RuleKey, ServiceCount, ServiceKey, ServiceRow, Slot,
    SocketKey, SourceKey, VipRow, limit,
};

/// What programs must know about their node.
#[map]
pub static CONFIG: Array<Config> = Array::pinned(1, 0);
/// Service ports.
#[map]
pub static SERVICES: HashMap<ServiceKey, ServiceRow> =
    HashMap::pinned(limit::SERVICES, BPF_F_NO_PREALLOC);
/// Backends. User space writes them through memory.
#[map]
pub static SLOTS: Array<Slot> = Array::pinned(limit::SLOTS, BPF_F_MMAPABLE);
/// What the cluster's addresses are.
#[map]
pub static ENDPOINTS: HashMap<Addr, EndpointRow> =
    HashMap::pinned(limit::ENDPOINTS, BPF_F_NO_PREALLOC);
/// Where pods' addresses lie.
#[map]
pub static RANGES: LpmTrie<Addr, RangeRow> = LpmTrie::pinned(limit::RANGES, 0);
/// Who is behind the host end of a veth.
#[map]
pub static LINKS: HashMap<u32, LinkRow> = HashMap::pinned(limit::LINKS, BPF_F_NO_PREALLOC);
/// Whose sockets are in a network namespace.
#[map]
pub static SOCKET_OWNERS: HashMap<u64, OwnerRow> = HashMap::pinned(limit::LINKS, BPF_F_NO_PREALLOC);
/// Exported backends.
#[map]
pub static GRANTS: HashMap<GrantKey, u32> = HashMap::pinned(limit::GRANTS, BPF_F_NO_PREALLOC);
/// What rulesets allow.
#[map]
pub static POLICY: LpmTrie<RuleKey, u32> = LpmTrie::pinned(limit::POLICY, 0);
/// Classes of addresses in rulesets.
#[map]
pub static BLOCKS: LpmTrie<BlockKey, u32> = LpmTrie::pinned(limit::BLOCKS, 0);
/// Flows between tenants and of pods that policies govern.
#[map]
pub static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::pinned(limit::FLOWS, 0);
/// Maglev tables. User space writes them through memory.
#[map]
pub static MAGLEV: Array<MaglevRow> = Array::pinned(limit::MAGLEV, BPF_F_MMAPABLE);
/// Translated flows, a row for each direction.
#[map]
pub static NAT: LruHashMap<FlowKey, NatRow> = LruHashMap::pinned(limit::NAT, 0);
/// Ports of packets that come in fragments.
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentRow> =
    LruHashMap::pinned(limit::FRAGMENTS, 0);
/// Who may call services that name their callers.
#[map]
pub static SOURCES: LpmTrie<SourceKey, u32> = LpmTrie::pinned(limit::SOURCES, 0);
/// What sockets think they talk to, by socket cookie. Its rows go with their sockets. Preallocated and no LRU: the
/// cheapest of all kinds to write, socket storage included.
#[map]
pub static SOCK_PEER: HashMap<u64, PeerRow> = HashMap::pinned(limit::SOCK_VIP, 0);
/// The same for datagrams to several peers.
#[map]
pub static SOCK_VIP: LruHashMap<SocketKey, VipRow> = LruHashMap::pinned(limit::SOCK_VIP, 0);
/// Backends that callers keep.
#[map]
pub static AFFINITY: LruHashMap<AffinityKey, AffinityRow> = LruHashMap::pinned(limit::AFFINITY, 0);
/// Verdicts by reason.
#[map]
pub static COUNTERS: PerCpuArray<Counter> = PerCpuArray::pinned(Reason::ALL.len() as u32, 0);
/// What was done for services and policies.
#[map]
pub static OBJECT_COUNTS: HashMap<ObjectKey, ObjectCount> =
    HashMap::pinned(limit::OBJECT_COUNTS, BPF_F_NO_PREALLOC);
/// What was done for services.
#[map]
pub static SERVICE_COUNTS: Array<ServiceCount> =
    Array::pinned(limit::SERVICE_COUNTS, BPF_F_MMAPABLE);
/// Drops and denials.
#[map]
pub static EVENTS: RingBuf = RingBuf::pinned(limit::EVENTS, 0);
