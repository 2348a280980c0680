//! Translated flows. Each has two rows, one a direction, whose key is a packet as it comes and whose value is the packet
//! as it goes on; a flow that has them never moves to another backend while its own is there.

use aya_ebpf::bindings::{
    BPF_ANY, BPF_F_CURRENT_NETNS, BPF_NOEXIST, bpf_sock_tuple,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as TupleV4,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as TupleV6,
};
use aya_ebpf::helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TcContext;
use waggle_abi::{Addr, FlowKey, NAT_PORT_FIRST, NatRow, Reason, SCTP, TCP, UDP};

use crate::Verdict;
use crate::maps::NAT;
use crate::packet::Quote;

const SECOND: u64 = 1_000_000_000;
/// Silence after which a TCP flow is forgotten, as nf_conntrack does: five days.
const TCP_IDLE: u64 = 432_000 * SECOND;
/// Silence after which any other flow is forgotten.
const OTHER_IDLE: u64 = 180 * SECOND;
/// A row's time is only written again after this long.
const REFRESH: u64 = SECOND;
/// Ports that are tried before a flow is refused one.
const ATTEMPTS: usize = 12;

/// The row of a packet; notes that the flow was seen.
#[inline(always)]
pub fn find(key: &FlowKey) -> Option<&'static NatRow> {
    let row = NAT.get_ptr_mut(key)?;
    // SAFETY: the map keeps the row alive; rows are replaced as a whole, but for the time, of which every value is right.
    unsafe {
        let now = bpf_ktime_get_ns();
        let idle = if key.protocol == TCP {
            TCP_IDLE
        } else {
            OTHER_IDLE
        };
        let silent = now.saturating_sub((*row).seen);
        if silent > idle {
            return None;
        }
        if silent > REFRESH {
            (*row).seen = now;
        }
        Some(&*row)
    }
}

/// What is at work on one packet: too much for a program's stack.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Work {
    /// The packet as it came.
    pub key: FlowKey,
    /// As it goes on.
    pub row: NatRow,
    /// What it quotes, if it is an ICMP error.
    pub quote: Quote,
    answer: FlowKey,
    answer_row: NatRow,
}

/// Each CPU's own; a packet's program is not interrupted by another's on the same CPU.
#[map]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's place to work.
#[inline(always)]
pub fn work() -> Result<&'static mut Work, Reason> {
    let work = WORK.get_ptr_mut(0).ok_or(Reason::Inconsistent)?;
    // SAFETY: the map keeps the row alive, and nothing else uses it while this program runs.
    Ok(unsafe { &mut *work })
}

impl Work {
    /// Makes the answer's rows from the packet's.
    #[inline(always)]
    fn fill_answer(&mut self) {
        self.answer.src = self.row.dst;
        self.answer.dst = self.row.src;
        self.answer.src_port = self.row.dst_port;
        self.answer.dst_port = self.row.src_port;
        self.answer.protocol = self.key.protocol;
        self.answer.pad = [0; 3];
        self.answer_row.src = self.key.dst;
        self.answer_row.dst = self.key.src;
        self.answer_row.src_port = self.key.dst_port;
        self.answer_row.dst_port = self.key.src_port;
        self.answer_row.service = self.row.service;
        self.answer_row.seen = self.row.seen;
    }

    /// A row that changes nothing but the destination.
    #[inline(always)]
    pub fn send_to(&mut self, addr: &Addr, port: u16, service: u32) {
        self.row.src = self.key.src;
        self.row.dst = *addr;
        self.row.src_port = self.key.src_port;
        self.row.dst_port = port;
        self.row.service = service;
        // SAFETY: the helper has no preconditions.
        self.row.seen = unsafe { bpf_ktime_get_ns() };
    }
}

/// Remembers a flow whose source keeps its address and port.
///
/// # Errors
/// [`Reason::Inconsistent`] when the table does not take it: the answer could not pass, so the packet does not either.
#[inline(never)]
pub fn remember(work: &mut Work) -> Verdict {
    work.fill_answer();
    NAT.insert(&work.answer, &work.answer_row, u64::from(BPF_ANY))
        .and_then(|()| NAT.insert(&work.key, &work.row, u64::from(BPF_ANY)))
        .map_err(|_| Reason::Inconsistent)
}

/// Remembers a flow whose source becomes `work.row.src`, at a port that neither another flow to the same peer nor a socket
/// of the host has. `work.row.src_port` is the port to try first, and the one that was taken afterwards.
///
/// # Errors
/// [`Reason::NoPort`] when none was found.
#[inline(never)]
pub fn remember_with_port(ctx: &TcContext, work: &mut Work) -> Verdict {
    let kept = work.key.protocol == SCTP;
    for attempt in 0..ATTEMPTS {
        let wanted = u32::from(u16::from_be(work.row.src_port));
        if !kept && (attempt > 0 || wanted < NAT_PORT_FIRST) {
            // SAFETY: the helper has no preconditions.
            let random = unsafe { bpf_get_prandom_u32() };
            let port = NAT_PORT_FIRST + random % (65_536 - NAT_PORT_FIRST);
            work.row.src_port = (port as u16).to_be();
        }
        work.fill_answer();
        if claimed(&work.answer) || host_has(ctx, &work.answer) {
            continue;
        }
        let taken = NAT.insert(&work.answer, &work.answer_row, u64::from(BPF_NOEXIST));
        if taken.is_err() {
            continue;
        }
        return NAT
            .insert(&work.key, &work.row, u64::from(BPF_ANY))
            .map_err(|_| Reason::Inconsistent);
    }
    Err(Reason::NoPort)
}

/// Whether a living flow has this answer; one that is silent for too long makes way.
#[inline(always)]
fn claimed(answer: &FlowKey) -> bool {
    if find(answer).is_some() {
        return true;
    }
    let _ = NAT.remove(answer);
    false
}

/// Whether another flow than the host's own uses the answer to the host's packet `work.key`.
#[inline(always)]
pub fn collides(work: &mut Work) -> bool {
    let key = work.key;
    work.send_to(&key.dst, key.dst_port, 0);
    work.fill_answer();
    find(&work.answer).is_some()
}

/// Whether a socket of the host would get the packet `answer`.
#[inline(always)]
fn host_has(ctx: &TcContext, answer: &FlowKey) -> bool {
    if !matches!(answer.protocol, TCP | UDP) {
        return false;
    }
    if answer.src.is_v4() {
        let mut tuple = TupleV4 {
            saddr: answer.src.words[3],
            daddr: answer.dst.words[3],
            sport: answer.src_port,
            dport: answer.dst_port,
        };
        lookup(
            ctx,
            answer.protocol,
            (&raw mut tuple).cast(),
            size_of::<TupleV4>(),
        )
    } else {
        let mut tuple = TupleV6 {
            saddr: answer.src.words,
            daddr: answer.dst.words,
            sport: answer.src_port,
            dport: answer.dst_port,
        };
        lookup(
            ctx,
            answer.protocol,
            (&raw mut tuple).cast(),
            size_of::<TupleV6>(),
        )
    }
}

#[inline(always)]
fn lookup(ctx: &TcContext, protocol: u8, tuple: *mut bpf_sock_tuple, size: usize) -> bool {
    let skb = ctx.skb.skb.cast();
    let netns = BPF_F_CURRENT_NETNS as i64 as u64;
    // SAFETY: the tuple has `size` bytes of this stack; a socket that is found is given back.
    unsafe {
        if protocol == TCP {
            let sock = bpf_skc_lookup_tcp(skb, tuple, size as u32, netns, 0);
            if !sock.is_null() {
                bpf_sk_release(sock.cast());
                return true;
            }
        } else {
            let sock = bpf_sk_lookup_udp(skb, tuple, size as u32, netns, 0);
            if !sock.is_null() {
                bpf_sk_release(sock.cast());
                return true;
            }
        }
    }
    false
}
