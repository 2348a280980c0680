//! What programs tell user space through the `EVENTS` ring buffer.

use crate::Addr;
use crate::layout::rows;

rows! {
    /// One drop or denial.
    pub struct Event [72] {
        /// Nanoseconds of the monotonic clock.
        pub time: u64,
        /// Number of a [`crate::Reason`].
        pub reason: u32,
        /// One of [`hook`].
        pub hook: u32,
        /// Source; [`Addr::NONE`] when unknown.
        pub src: Addr,
        /// Destination; [`Addr::NONE`] when unknown.
        pub dst: Addr,
        /// Network byte order; 0 when unknown.
        pub src_port: u16,
        /// Network byte order; 0 when unknown.
        pub dst_port: u16,
        /// IANA number; 0 when unknown.
        pub protocol: u8,
        /// Zero.
        pub pad: [u8; 3],
        /// Tenant of the source; 0 when unknown.
        pub src_tenant: u32,
        /// Tenant of the destination; 0 when unknown.
        pub dst_tenant: u32,
        /// Interface; 0 for the socket hooks.
        pub ifindex: u32,
        /// Bytes from the Ethernet header on; 0 for the socket hooks.
        pub length: u32,
    }
}

/// What [`Event::hook`] says.
pub mod hook {
    /// connect().
    pub const CONNECT: u32 = 1;
    /// sendto() and sendmsg() of a datagram.
    pub const SENDMSG: u32 = 2;
    /// What a pod sends.
    pub const FROM_POD: u32 = 3;
    /// What the host delivers to a pod.
    pub const TO_POD: u32 = 4;
    /// What comes in by the uplink.
    pub const FROM_UPLINK: u32 = 5;
    /// What leaves by the uplink.
    pub const TO_UPLINK: u32 = 6;
    /// What other nodes send through the tunnel.
    pub const FROM_TUNNEL: u32 = 7;
    /// What the host sends to nodes behind the tunnel; nothing is dropped there.
    pub const TO_TUNNEL: u32 = 8;
    /// What comes in by the uplink, before it is a packet.
    pub const EDGE: u32 = 9;
}
