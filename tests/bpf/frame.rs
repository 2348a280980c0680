//! Ethernet frames, written down byte by byte.

use std::net::IpAddr;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
const SCTP: u8 = 132;
const ICMP_V6: u8 = 58;

/// A frame from `src` to `dst` that carries `payload` as `protocol`.
pub(crate) fn ip(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x0e, 0, 0, 0, 0, 1, 0x0a, 0, 0, 0, 0, 1];
    frame.extend(match src {
        IpAddr::V4(_) => [0x08, 0x00],
        IpAddr::V6(_) => [0x86, 0xdd],
    });
    frame.extend(packet(src, dst, protocol, payload));
    frame
}

fn packet(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("short").to_be_bytes();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = u16::try_from(20 + payload.len())
                .expect("short")
                .to_be_bytes();
            let head = [0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, protocol, 0, 0];
            [&head[..], &src.octets(), &dst.octets(), payload].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let head = [0x60, 0, 0, 0, length[0], length[1], protocol, 64];
            [&head[..], &src.octets(), &dst.octets(), payload].concat()
        }
        _ => panic!("{src} and {dst} are of different families"),
    }
}

/// A UDP frame.
pub(crate) fn udp(src: (IpAddr, u16), dst: (IpAddr, u16)) -> Vec<u8> {
    ip(src.0, dst.0, UDP, &udp_segment(src.1, dst.1))
}

fn udp_segment(src: u16, dst: u16) -> Vec<u8> {
    [
        &src.to_be_bytes()[..],
        &dst.to_be_bytes(),
        &[0, 12, 0, 0],
        b"ping",
    ]
    .concat()
}

/// An SCTP frame without chunks.
pub(crate) fn sctp(src: (IpAddr, u16), dst: (IpAddr, u16)) -> Vec<u8> {
    let ports = [src.1.to_be_bytes(), dst.1.to_be_bytes()].concat();
    ip(src.0, dst.0, SCTP, &[&ports[..], &[0; 8]].concat())
}

/// A TCP frame with these flags.
pub(crate) fn tcp(src: (IpAddr, u16), dst: (IpAddr, u16), flags: u8) -> Vec<u8> {
    let head = [
        &src.1.to_be_bytes()[..],
        &dst.1.to_be_bytes(),
        &[0; 8],
        &[0x50, flags],
        &[0; 6],
    ]
    .concat();
    ip(src.0, dst.0, TCP, &head)
}

/// An ICMP echo request of either family.
pub(crate) fn echo(src: IpAddr, dst: IpAddr) -> Vec<u8> {
    let (protocol, kind) = if src.is_ipv4() {
        (ICMP, 8)
    } else {
        (ICMP_V6, 128)
    };
    ip(src, dst, protocol, &[kind, 0, 0, 0, 0, 1, 0, 1])
}

/// "Port unreachable" from `src`, about a UDP packet that `dst` had sent to `about`.
pub(crate) fn unreachable(src: IpAddr, dst: (IpAddr, u16), about: (IpAddr, u16)) -> Vec<u8> {
    let (protocol, kind, code) = if src.is_ipv4() {
        (ICMP, 3, 3)
    } else {
        (ICMP_V6, 1, 4)
    };
    let quoted = packet(dst.0, about.0, UDP, &udp_segment(dst.1, about.1));
    ip(
        src,
        dst.0,
        protocol,
        &[&[kind, code, 0, 0, 0, 0, 0, 0][..], &quoted].concat(),
    )
}

/// Makes a later fragment of an IPv4 frame.
pub(crate) fn as_later_fragment(mut frame: Vec<u8>) -> Vec<u8> {
    (frame[20], frame[21]) = (0x00, 0x10);
    frame
}

/// The two pieces of a UDP packet with this number.
pub(crate) fn fragments(src: (IpAddr, u16), dst: (IpAddr, u16), id: u16) -> [Vec<u8>; 2] {
    let segment = [
        &src.1.to_be_bytes()[..],
        &dst.1.to_be_bytes(),
        &[0, 24, 0, 0],
    ]
    .concat();
    // Offsets count by 8 bytes; the last bit of IPv6's word, and the third of IPv4's, say that there is more.
    let piece = |later: bool, payload: &[u8]| {
        let offset = u8::from(later);
        if src.0.is_ipv4() {
            let mut frame = ip(src.0, dst.0, UDP, payload);
            frame[18..20].copy_from_slice(&id.to_be_bytes());
            (frame[20], frame[21]) = (if later { 0 } else { 0x20 }, offset);
            return frame;
        }
        let [high, low] = id.to_be_bytes();
        let head = [UDP, 0, 0, if later { 8 } else { 1 }, 0, 0, high, low];
        ip(src.0, dst.0, 44, &[&head[..], payload].concat())
    };
    [piece(false, &segment), piece(true, &[7; 16])]
}

/// An ARP request.
pub(crate) fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([0x0a, 0, 0, 0, 0, 1, 0x08, 0x06]);
    frame.extend([0; 28]);
    frame
}
