//! Telling neighbours on the link that an address is here from now on (gratuitous ARP, RFC 5944 section 4.6), so that
//! nobody goes on sending to the node that had it before. Questions are answered by `from_uplink`.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

use waggle_policy::Uplink;

use crate::sys;

const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_ARP: u16 = 0x0806;
const FRAME: usize = 42;

/// Tells it for each IPv4 address.
///
/// # Errors
/// The kernel's, for the first that was not sent.
pub(crate) fn announce(uplink: Uplink, addresses: &[IpAddr]) -> io::Result<()> {
    if uplink.ifindex == 0 {
        return Ok(());
    }
    let mut socket = None;
    for address in addresses {
        let IpAddr::V4(address) = address else {
            continue;
        };
        let socket = match &socket {
            Some(open) => open,
            None => socket.insert(sys::packet_socket()?),
        };
        let frame = frame(uplink.mac, *address);
        sys::send_frame(socket.as_fd(), uplink.ifindex, &frame)?;
    }
    Ok(())
}

/// A question for the address by the address itself.
fn frame(mac: [u8; 6], address: Ipv4Addr) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let parts: [&[u8]; 11] = [
        &BROADCAST,
        &mac,
        &ETHERTYPE_ARP.to_be_bytes(),
        // Ethernet and IPv4, with the lengths of their addresses.
        &1u16.to_be_bytes(),
        &0x0800u16.to_be_bytes(),
        &[6, 4],
        &1u16.to_be_bytes(),
        &mac,
        &address.octets(),
        &[0; 6],
        &address.octets(),
    ];
    let bytes = parts.into_iter().flatten();
    for (byte, value) in frame.iter_mut().zip(bytes) {
        *byte = *value;
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sender_and_target_are_the_address() {
        let mac = [2, 0, 0, 0, 0, 9];
        let frame = frame(mac, Ipv4Addr::new(172, 30, 0, 200));
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
}
