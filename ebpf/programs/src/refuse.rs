//! Refusing at once: a packet to a service without backends becomes an ICMP "port unreachable" (RFC 792, RFC 4443) back
//! to its sender.

use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_skb_change_tail, bpf_skb_load_bytes};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TcContext;
use waggle_abi::{Addr, FlowKey, Reason, TCP, UDP};

use crate::packet::{ETHERNET, ICMP, ICMP_V6, Packet};

/// Bytes of a network header and the first 8 behind it, which an error quotes.
const QUOTE_V4: usize = 28;
const QUOTE_V6: usize = 48;
const HOPS: u8 = 64;

#[repr(C)]
#[derive(Clone, Copy)]
struct AnswerV4 {
    macs: [u8; 12],
    ethertype: u16,
    head: [u16; 10],
    icmp: [u16; 4],
    quote: [u8; QUOTE_V4],
}

#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct AnswerV6 {
    macs: [u8; 12],
    ethertype: u16,
    head: [u8; 8],
    addresses: [Addr; 2],
    icmp: [u16; 4],
    quote: [u8; QUOTE_V6],
}

/// Too much for a program's stack.
#[repr(C)]
#[derive(Clone, Copy)]
struct Answers {
    v4: AnswerV4,
    v6: AnswerV6,
}

/// Each CPU's own.
#[map]
static ANSWERS: PerCpuArray<Answers> = PerCpuArray::with_max_entries(1, 0);

/// Makes the packet the refusal of itself, addressed to who sent it, on the link that it came by.
///
/// # Errors
/// [`Reason::NoBackend`] for a packet that is not answered: no TCP or UDP, a fragment, options in its header.
#[inline(never)]
pub fn refuse(ctx: &TcContext, packet: &Packet) -> Result<(), Reason> {
    let key = &packet.tuple;
    if !matches!(key.protocol, TCP | UDP) || packet.fragment {
        return Err(Reason::NoBackend);
    }
    if key.src.is_v4() {
        refuse_v4(ctx, packet.transport, key)
    } else {
        refuse_v6(ctx, packet.transport, key)
    }
}

#[inline(always)]
fn refuse_v4(ctx: &TcContext, transport: usize, key: &FlowKey) -> Result<(), Reason> {
    if transport != ETHERNET + 20 {
        return Err(Reason::NoBackend);
    }
    let words = key.dst.words[3].to_ne_bytes();
    let back = key.src.words[3].to_ne_bytes();
    let pair = |a: u8, b: u8| u16::from_ne_bytes([a, b]);
    let answer = &mut answers()?.v4;
    answer.macs = swapped(ctx)?;
    answer.ethertype = 0x0800_u16.to_be();
    answer.head = [
        0x4500_u16.to_be(),
        (20 + 8 + QUOTE_V4 as u16).to_be(),
        0,
        0,
        (u16::from(HOPS) << 8 | u16::from(ICMP)).to_be(),
        0,
        pair(words[0], words[1]),
        pair(words[2], words[3]),
        pair(back[0], back[1]),
        pair(back[2], back[3]),
    ];
    answer.icmp = [0x0303_u16.to_be(), 0, 0, 0];
    fetch(ctx, &mut answer.quote)?;
    answer.head[5] = sum(0, (&raw mut answer.head).cast(), 20);
    answer.icmp[1] = sum(0, (&raw mut answer.icmp).cast(), 8 + QUOTE_V4 as u32);
    replace(ctx, answer)
}

#[inline(always)]
fn refuse_v6(ctx: &TcContext, transport: usize, key: &FlowKey) -> Result<(), Reason> {
    if transport != ETHERNET + 40 {
        return Err(Reason::NoBackend);
    }
    let length = 8 + QUOTE_V6 as u32;
    let answer = &mut answers()?.v6;
    answer.macs = swapped(ctx)?;
    answer.ethertype = 0x86dd_u16.to_be();
    answer.head = [0; 8];
    answer.head[0] = 0x60;
    answer.head[5] = length as u8;
    answer.head[6] = ICMP_V6;
    answer.head[7] = HOPS;
    answer.addresses = [key.dst, key.src];
    answer.icmp = [0x0104_u16.to_be(), 0, 0, 0];
    fetch(ctx, &mut answer.quote)?;
    let (addresses, message) = (&raw mut answer.addresses, &raw mut answer.icmp);
    answer.icmp[1] = icmp_v6_sum(addresses.cast(), message.cast(), length);
    replace(ctx, answer)
}

/// The packet's network header and what follows, as far as it is quoted.
#[inline(always)]
fn fetch<const N: usize>(ctx: &TcContext, out: &mut [u8; N]) -> Result<(), Reason> {
    // SAFETY: the context is the kernel's; the buffer has N bytes.
    let result = unsafe {
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            ETHERNET as u32,
            out.as_mut_ptr().cast(),
            N as u32,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(Reason::NoBackend)
    }
}

#[inline(always)]
fn answers() -> Result<&'static mut Answers, Reason> {
    let answers = ANSWERS.get_ptr_mut(0).ok_or(Reason::Inconsistent)?;
    // SAFETY: the map keeps the row alive, and nothing else uses it while this program runs.
    Ok(unsafe { &mut *answers })
}

#[inline(always)]
fn load<T>(ctx: &TcContext, offset: usize) -> Result<T, Reason> {
    ctx.load(offset).map_err(|_| Reason::NoBackend)
}

/// The frame's hardware addresses, the other way round.
#[inline(always)]
fn swapped(ctx: &TcContext) -> Result<[u8; 12], Reason> {
    let macs: [[u8; 6]; 2] = load(ctx, 0)?;
    let mut out = [0; 12];
    out[..6].copy_from_slice(&macs[1]);
    out[6..].copy_from_slice(&macs[0]);
    Ok(out)
}

/// Checksum of an ICMPv6 message, as it is written: over source and destination, which lie one after the other, length,
/// protocol, and the message of `length` bytes.
#[inline(always)]
pub(crate) fn icmp_v6_sum(addresses: *mut u32, message: *mut u32, length: u32) -> u16 {
    let mut rest = [length.to_be(), u32::from(ICMP_V6).to_be()];
    let pseudo = partial(0, (&raw mut rest).cast(), 8);
    let pseudo = partial(pseudo, addresses, 32);
    sum(pseudo, message, length)
}

/// Sum of `length` bytes, a multiple of 4, in memory of this program.
#[inline(always)]
fn partial(seed: u32, data: *mut u32, length: u32) -> u32 {
    // SAFETY: the callers hand over whole buffers with their length.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, data, length, seed) as u32 }
}

/// Checksum of those bytes, as it is written.
#[inline(always)]
fn sum(seed: u32, data: *mut u32, length: u32) -> u16 {
    let sum = partial(seed, data, length);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// Makes `answer` the whole packet.
#[inline(always)]
fn replace<T>(ctx: &TcContext, answer: &T) -> Result<(), Reason> {
    // SAFETY: the context is the kernel's.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb.cast(), size_of::<T>() as u32, 0) } != 0 {
        return Err(Reason::NotRewritten);
    }
    ctx.store(0, answer, 0).map_err(|_| Reason::NotRewritten)
}
