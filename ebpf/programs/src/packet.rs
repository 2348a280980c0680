//! From an Ethernet frame to the tuple that decisions are made from. Reads through `bpf_skb_load_bytes`, so that paged
//! packets parse too.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TcContext;
use waggle_abi::{Addr, FlowKey, FragmentKey, Reason, SCTP, TCP, UDP};

use crate::rewrite::word;
use crate::{Verdict, fragment};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
const ETHERTYPE_V4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_V6: u16 = 0x86dd_u16.to_be();
/// IANA number of ICMP.
pub const ICMP: u8 = 1;
/// IANA number of ICMPv6.
pub const ICMP_V6: u8 = 58;
/// IPv6 extension headers that are walked before a packet counts as malformed.
const EXTENSIONS: usize = 6;
const TCP_FIN_OR_RST: u8 = 0x05;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;
/// Port that stands for the answering end of an echo; its number is the request's type.
const ECHO: u16 = 8_u16.to_be();

/// A parsed packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Packet {
    /// What tells its flow from others: addresses, ports and protocol, and in the place of ports an echo's number at the end
    /// that asked. Ports are 0 where the protocol or fragment has none.
    pub tuple: FlowKey,
    /// Where it was met: one of [`waggle_abi::hook`].
    pub hook: u32,
    /// Offset of the transport header from the frame's start.
    pub transport: usize,
    /// A fragment behind the first: has no transport header.
    pub later_fragment: bool,
    /// One whose first did not come before it: its ports are not known.
    pub unknown_ports: bool,
    /// A fragment, the first included.
    pub fragment: bool,
    /// An ICMP error, whose payload quotes the packet it is about.
    pub icmp_error: bool,
    /// A TCP segment with FIN or RST.
    pub closing: bool,
    /// A TCP segment with SYN and without ACK: the first of its connection.
    pub opening: bool,
    /// A TCP segment with SYN and ACK: the answer to the first.
    pub opening_reply: bool,
}

/// Each CPU's own.
#[map]
static PACKETS: PerCpuArray<Packet> = PerCpuArray::with_max_entries(1, 0);

/// What an ICMP error quotes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Quote {
    /// What tells the quoted packet's flow from others, as [`Packet::tuple`] does.
    pub flow: FlowKey,
    /// Offset of the quoted network header.
    pub network: usize,
    /// Offset of the quoted transport header.
    pub transport: usize,
    /// The quoted packet has a transport header: 1, else 0.
    pub has_ports: u64,
}

impl Quote {
    /// What [`quote`] fills in.
    pub const EMPTY: Self = Self {
        flow: Packet::EMPTY.tuple,
        network: 0,
        transport: 0,
        has_ports: 0,
    };
}

impl Packet {
    const EMPTY: Self = Self {
        hook: 0,
        tuple: FlowKey {
            src: Addr::NONE,
            dst: Addr::NONE,
            src_port: 0,
            dst_port: 0,
            protocol: 0,
            pad: [0; 3],
        },
        transport: 0,
        later_fragment: false,
        unknown_ports: false,
        fragment: false,
        icmp_error: false,
        closing: false,
        opening: false,
        opening_reply: false,
    };

    /// What [`parse`] fills in, at one of [`waggle_abi::hook`]: this CPU's own, because it would be a good part of a
    /// program's stack.
    #[inline(always)]
    pub fn at(hook: u32) -> Option<&'static mut Self> {
        let packet = PACKETS.get_ptr_mut(0)?;
        // SAFETY: the map keeps the row alive, and nothing else uses it while this program runs: a packet's program is
        // not interrupted by another's on the same CPU.
        let packet = unsafe { &mut *packet };
        *packet = Self {
            hook,
            ..Self::EMPTY
        };
        Some(packet)
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct V4 {
    version_and_length: u8,
    service: u8,
    total: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    src: u32,
    dst: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct V6 {
    version: u32,
    payload: u16,
    next: u8,
    hops: u8,
    src: [u32; 4],
    dst: [u32; 4],
}

struct Network {
    src: Addr,
    dst: Addr,
    protocol: u8,
    transport: usize,
    later_fragment: bool,
    fragment: bool,
    /// Number of the packet that a fragment is of, network byte order.
    id: u32,
    /// What follows the fragment header.
    cut_protocol: u8,
}

/// Parses a frame into `packet`.
#[inline(always)]
pub fn parse(ctx: &TcContext, packet: &mut Packet) -> Verdict {
    match parse_frame(ctx.skb.skb, packet) {
        DONE => Ok(()),
        NOT_IP => Err(Reason::NotIp),
        _ => Err(Reason::Malformed),
    }
}

const DONE: u32 = 0;
const NOT_IP: u32 = 1;
const MALFORMED: u32 = 2;

/// A function of its own to the verifier, which looks at it once instead of following each way through it into everything
/// that comes after. Returns [`DONE`] or why not.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn parse_frame(skb: *mut __sk_buff, out: *mut Packet) -> u32 {
    if out.is_null() {
        return MALFORMED;
    }
    match read_frame(&TcContext::new(skb)) {
        Ok(packet) => {
            // SAFETY: `parse` gives its own; the verifier knows its size.
            unsafe {
                let hook = (*out).hook;
                *out = packet;
                (*out).hook = hook;
            }
            DONE
        }
        Err(Reason::NotIp) => NOT_IP,
        Err(_) => MALFORMED,
    }
}

#[inline(always)]
fn read_frame(ctx: &TcContext) -> Result<Packet, Reason> {
    let ethertype: u16 = load(ctx, 12)?;
    let network = match ethertype {
        ETHERTYPE_V4 => parse_v4(ctx, ETHERNET)?,
        ETHERTYPE_V6 => parse_v6(ctx, ETHERNET)?,
        _ => return Err(Reason::NotIp),
    };
    let mut packet = Packet {
        tuple: tuple(&network),
        transport: network.transport,
        later_fragment: network.later_fragment,
        fragment: network.fragment,
        ..Packet::EMPTY
    };
    if !network.later_fragment {
        parse_transport(ctx, &mut packet)?;
    }
    if network.fragment {
        join(&network, &mut packet);
    }
    Ok(packet)
}

/// Gives later fragments the ports of the first, and remembers those of a first.
#[inline(always)]
fn join(network: &Network, packet: &mut Packet) {
    let key = FragmentKey {
        src: network.src,
        dst: network.dst,
        id: network.id,
        protocol: network.cut_protocol,
        pad: [0; 3],
    };
    if !network.later_fragment {
        // What an error is about is in none of its fragments but the first.
        if !packet.icmp_error {
            fragment::remember(&key, packet);
        }
        return;
    }
    let Some(row) = fragment::find(&key) else {
        packet.unknown_ports = true;
        return;
    };
    packet.tuple.protocol = row.protocol;
    (packet.tuple.src_port, packet.tuple.dst_port) = (row.src_port, row.dst_port);
}

/// Fills in what the ICMP error `packet` quotes.
#[inline(always)]
pub fn quote(ctx: &TcContext, packet: &Packet, out: &mut Quote) -> Verdict {
    let v4 = u32::from(packet.tuple.protocol == ICMP);
    match parse_quoted(ctx.skb.skb, packet.transport + 8, v4, out) {
        DONE => Ok(()),
        _ => Err(Reason::Malformed),
    }
}

/// As [`parse_frame`], of the packet at `offset`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn parse_quoted(skb: *mut __sk_buff, offset: usize, v4: u32, out: *mut Quote) -> u32 {
    if out.is_null() {
        return MALFORMED;
    }
    match read_quoted(&TcContext::new(skb), offset, v4 != 0) {
        Ok(quote) => {
            // SAFETY: `quote` gives its caller's; the verifier knows its size.
            unsafe { *out = quote };
            DONE
        }
        Err(_) => MALFORMED,
    }
}

#[inline(always)]
fn read_quoted(ctx: &TcContext, offset: usize, v4: bool) -> Result<Quote, Reason> {
    let network = if v4 {
        parse_v4(ctx, offset)?
    } else {
        parse_v6(ctx, offset)?
    };
    let mut flow = tuple(&network);
    if has_ports(flow.protocol) && !network.later_fragment {
        let ports: [u16; 2] = load(ctx, network.transport)?;
        (flow.src_port, flow.dst_port) = (ports[0], ports[1]);
    } else if matches!(flow.protocol, ICMP | ICMP_V6) && !network.later_fragment {
        let head: [u8; 6] = load(ctx, network.transport)?;
        [flow.src_port, flow.dst_port] = echo_ports(&head);
    }
    Ok(Quote {
        flow,
        network: offset,
        transport: network.transport,
        has_ports: u64::from(!network.later_fragment),
    })
}

/// Interface that the hook is attached to. Not inlined: merged with the load of another field, it would be one at an
/// offset that is not fixed, which the kernel does not permit.
#[inline(never)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel hands every classifier a valid context. Volatile, because it only permits words at fixed offsets.
    unsafe { (&raw const (*ctx.skb.skb).ifindex).read_volatile() }
}

#[inline(always)]
fn load<T>(ctx: &TcContext, offset: usize) -> Result<T, Reason> {
    ctx.load(offset).map_err(|_| Reason::Malformed)
}

/// Whether the protocol has ports where TCP has them.
#[inline(always)]
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

#[inline(always)]
fn tuple(network: &Network) -> FlowKey {
    FlowKey {
        src: network.src,
        dst: network.dst,
        src_port: 0,
        dst_port: 0,
        protocol: network.protocol,
        pad: [0; 3],
    }
}

#[inline(always)]
fn parse_v4(ctx: &TcContext, offset: usize) -> Result<Network, Reason> {
    let header: V4 = load(ctx, offset)?;
    let length = usize::from(header.version_and_length & 0xf) * 4;
    if header.version_and_length >> 4 != 4 || length < size_of::<V4>() {
        return Err(Reason::Malformed);
    }
    Ok(Network {
        src: Addr::v4(header.src),
        dst: Addr::v4(header.dst),
        protocol: header.protocol,
        transport: offset + length,
        later_fragment: u16::from_be(header.fragment) & 0x1fff != 0,
        // An offset, or "more fragments".
        fragment: u16::from_be(header.fragment) & 0x3fff != 0,
        id: u32::from(header.id),
        cut_protocol: header.protocol,
    })
}

#[inline(always)]
fn parse_v6(ctx: &TcContext, offset: usize) -> Result<Network, Reason> {
    let header: V6 = load(ctx, offset)?;
    let (src, dst) = (Addr { words: header.src }, Addr { words: header.dst });
    // IPv4 in IPv6's spelling is in no packet (RFC 4291, 2.5.5.2): here it would pass for IPv4.
    if u32::from_be(header.version) >> 28 != 6 || src.is_v4() || dst.is_v4() {
        return Err(Reason::Malformed);
    }
    let mut network = Network {
        src,
        dst,
        protocol: header.next,
        transport: offset + size_of::<V6>(),
        later_fragment: false,
        fragment: false,
        id: 0,
        cut_protocol: 0,
    };
    for _ in 0..EXTENSIONS {
        match network.protocol {
            // Hop-by-hop, routing and destination options: next header, length in 8 bytes less one.
            0 | 43 | 60 => {
                let head: [u8; 2] = load(ctx, network.transport)?;
                network.protocol = head[0];
                network.transport += (usize::from(head[1]) + 1) * 8;
            }
            // Fragment: next header, reserved, offset and flags, number.
            44 => {
                let head: [u16; 4] = load(ctx, network.transport)?;
                network.protocol = head[0].to_ne_bytes()[0];
                network.cut_protocol = network.protocol;
                network.id = word([head[2], head[3]]);
                network.transport += 8;
                network.fragment = u16::from_be(head[1]) & 0xfff9 != 0;
                if u16::from_be(head[1]) >> 3 != 0 {
                    network.later_fragment = true;
                    return Ok(network);
                }
            }
            _ => return Ok(network),
        }
    }
    Err(Reason::Malformed)
}

#[inline(always)]
fn parse_transport(ctx: &TcContext, packet: &mut Packet) -> Result<(), Reason> {
    let protocol = packet.tuple.protocol;
    if has_ports(protocol) {
        let ports: [u16; 2] = load(ctx, packet.transport)?;
        (packet.tuple.src_port, packet.tuple.dst_port) = (ports[0], ports[1]);
        if protocol == TCP {
            let flags: u8 = load(ctx, packet.transport + 13)?;
            packet.closing = flags & TCP_FIN_OR_RST != 0;
            packet.opening = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
            packet.opening_reply = flags & (TCP_SYN | TCP_ACK) == TCP_SYN | TCP_ACK;
        }
    } else if matches!(protocol, ICMP | ICMP_V6) {
        let head: [u8; 6] = load(ctx, packet.transport)?;
        packet.icmp_error = match protocol {
            ICMP => matches!(head[0], 3 | 11 | 12),
            _ => head[0] < 128,
        };
        [packet.tuple.src_port, packet.tuple.dst_port] = echo_ports(&head);
    }
    Ok(())
}

/// An echo's number at the end that asked; zeros for other ICMP.
#[inline(always)]
fn echo_ports(head: &[u8; 6]) -> [u16; 2] {
    let number = u16::from_ne_bytes([head[4], head[5]]);
    match head[0] {
        8 | 128 => [number, ECHO],
        0 | 129 => [ECHO, number],
        _ => [0; 2],
    }
}
