//! Telling neighbours on the link that an address is here from now on (gratuitous ARP, RFC 5944 section 4.6; unsolicited
//! advertisements, RFC 4861 section 7.2.6), so that nobody goes on sending to the node that had it before. Questions are
//! answered by `from_uplink`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use waggle_policy::Uplink;

use crate::sys;

const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_ARP: u16 = 0x0806;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Hardware address of that group.
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ETHERTYPE_V6: u16 = 0x86dd;
const ICMP_V6: u8 = 58;

/// Tells it for each address.
///
/// # Errors
/// The kernel's, for the first that was not sent.
pub(crate) fn announce(uplink: Uplink, addresses: &[IpAddr]) -> io::Result<()> {
    if uplink.ifindex == 0 || addresses.is_empty() {
        return Ok(());
    }
    let socket = sys::packet_socket()?;
    for address in addresses {
        let frame = match address {
            IpAddr::V4(address) => arp(uplink.mac, *address),
            IpAddr::V6(address) => advertisement(uplink.mac, *address),
        };
        sys::send_frame(socket.as_fd(), uplink.ifindex, &frame)?;
    }
    Ok(())
}

/// A question for the address by the address itself.
fn arp(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    [
        &BROADCAST[..],
        &mac,
        &ETHERTYPE_ARP.to_be_bytes(),
        // Ethernet and IPv4, with the lengths of their addresses; a question.
        &[0, 1, 8, 0, 6, 4, 0, 1],
        &mac,
        &address.octets(),
        &[0; 6],
        &address.octets(),
    ]
    .concat()
}

/// To all nodes on the link, to be believed over what they knew.
fn advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let addresses = [address.octets(), ALL_NODES.octets()].concat();
    let mut message = [
        &[136, 0, 0, 0, 0x20, 0, 0, 0],
        &address.octets()[..],
        &[2, 1],
        &mac,
    ]
    .concat();
    let length = u8::try_from(message.len()).unwrap_or(u8::MAX);
    let pseudo = [&addresses[..], &[0, 0, 0, length, 0, 0, 0, ICMP_V6]].concat();
    let sum = checksum(&[pseudo, message.clone()].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    [
        &ALL_NODES_MAC[..],
        &mac,
        &ETHERTYPE_V6.to_be_bytes(),
        &[0x60, 0, 0, 0, 0, length, ICMP_V6, 255],
        &addresses,
        &message,
    ]
    .concat()
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    });
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sender_and_target_are_the_address() {
        let mac = [2, 0, 0, 0, 0, 9];
        let frame = arp(mac, Ipv4Addr::new(172, 30, 0, 200));
        assert_eq!(frame[..6], BROADCAST);
        assert_eq!(frame[6..12], mac);
        assert_eq!(
            frame[12..22],
            [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1],
            "an ARP request for IPv4 over Ethernet"
        );
        assert_eq!(frame[22..28], mac);
        assert_eq!(frame[28..32], [172, 30, 0, 200]);
        assert_eq!(frame[32..38], [0; 6]);
        assert_eq!(frame[38..], [172, 30, 0, 200]);
    }

    #[test]
    fn an_advertisement_sums_up() {
        let frame = advertisement([2, 0, 0, 0, 0, 9], "fd00:172:30::220".parse().unwrap());
        assert_eq!(frame.len(), 86);
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
        assert_eq!(checksum(&[&pseudo[..], &frame[54..]].concat()), 0);
    }
}
