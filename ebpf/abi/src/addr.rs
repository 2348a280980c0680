//! An address of either family in 16 bytes, IPv4 as v4-mapped (RFC 4291, 2.5.5.2).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::layout::rows;

rows! {
    /// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d`.
    pub struct Addr [16] {
        /// As in a packet: each word in network byte order.
        pub words: [u32; 4],
    }
}

/// Bits before the IPv4 address in its 16-byte form.
pub const V4_MAPPED_BITS: u32 = 96;

/// Third word of a v4-mapped address.
const MARK: u32 = 0xffff_u32.to_be();

impl Addr {
    /// The unspecified IPv6 address; stands for "none".
    pub const NONE: Self = Self { words: [0; 4] };

    /// From an IPv4 address whose word is in network byte order.
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self {
            words: [0, 0, MARK, word],
        }
    }

    /// The unspecified address of a family; in tables "every address that a node has".
    #[inline(always)]
    pub const fn any(v4: bool) -> Self {
        if v4 { Self::v4(0) } else { Self::NONE }
    }

    /// Holds an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MARK
    }

    /// Whether it is in the range that begins at `first`, of addresses that have the bits of `mask` in common.
    #[inline(always)]
    pub const fn is_in(&self, first: &Self, mask: &Self) -> bool {
        let (own, first, mask) = (&self.words, &first.words, &mask.words);
        (own[0] & mask[0]) == first[0]
            && (own[1] & mask[1]) == first[1]
            && (own[2] & mask[2]) == first[2]
            && (own[3] & mask[3]) == first[3]
    }

    /// The caller's own machine: 127.0.0.0/8 and ::1.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            u32::from_be(self.words[3]) >> 24 == 127
        } else {
            (self.words[0] | self.words[1] | self.words[2]) == 0 && self.words[3] == 1_u32.to_be()
        }
    }

    /// Multicast, broadcast, unspecified, or IPv6 link-local: nothing that a router forwards.
    #[inline(always)]
    pub const fn is_link_scope(&self) -> bool {
        if self.is_v4() {
            let word = u32::from_be(self.words[3]);
            word >> 28 == 0xe || word == u32::MAX || word == 0
        } else {
            let first = u32::from_be(self.words[0]);
            first >> 24 == 0xff
                || first >> 22 == 0x3fa
                || (self.words[0] | self.words[1] | self.words[2] | self.words[3]) == 0
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(address: IpAddr) -> Self {
        let octets = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Self { words }
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        if addr.is_v4() {
            return Self::V4(Ipv4Addr::from(u32::from_be(addr.words[3])));
        }
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(addr.words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Self::V6(Ipv6Addr::from(octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_come_back_as_they_went_in() {
        for text in [
            "10.96.0.10",
            "0.0.0.0",
            "255.255.255.255",
            "fd00::1",
            "2001:db8::ffff:1:2",
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Addr::from(address)), address, "{text}");
            assert_eq!(Addr::from(address).is_v4(), address.is_ipv4(), "{text}");
        }
        let v4: Ipv4Addr = "10.1.2.3".parse().unwrap();
        assert_eq!(
            Addr::v4(u32::from_ne_bytes(v4.octets())),
            Addr::from(IpAddr::V4(v4))
        );
    }

    #[test]
    fn a_range_is_a_first_address_and_the_bits_in_common() {
        let addr = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
        let (v4, v4_mask) = (
            addr("10.96.0.0"),
            addr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:0"),
        );
        let (v6, v6_mask) = (
            addr("fd00:10:96::"),
            addr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:0"),
        );
        for (text, expected) in [
            ("10.96.0.1", [true, false]),
            ("10.96.255.255", [true, false]),
            ("10.97.0.1", [false, false]),
            ("fd00:10:96::1", [false, true]),
            ("fd00:10:96::1:1", [false, false]),
            ("fd00:10:97::1", [false, false]),
        ] {
            let found = [
                addr(text).is_in(&v4, &v4_mask),
                addr(text).is_in(&v6, &v6_mask),
            ];
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn loopback_is_the_callers_own() {
        for (text, expected) in [
            ("127.0.0.1", true),
            ("127.255.0.9", true),
            ("128.0.0.1", false),
            ("::1", true),
            ("::2", false),
            ("::", false),
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(Addr::from(address).is_loopback(), expected, "{text}");
        }
    }

    #[test]
    fn link_scope_is_what_routers_do_not_forward() {
        for (text, expected) in [
            ("224.0.0.1", true),
            ("239.255.255.255", true),
            ("255.255.255.255", true),
            ("0.0.0.0", true),
            ("10.0.0.1", false),
            ("240.0.0.1", false),
            ("ff02::1", true),
            ("fe80::1", true),
            ("febf::1", true),
            ("fec0::1", false),
            ("fd00::1", false),
            ("::", true),
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(Addr::from(address).is_link_scope(), expected, "{text}");
        }
    }
}
