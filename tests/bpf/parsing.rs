//! The packet parser against a plain one: random headers, options, extensions and fragments, some cut off or with bytes
//! changed, through the program as it is pinned. What it read is in the report of the drop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use waggle_datapath::Reason;

use crate::Case;
use crate::frame::{TCP, UDP};
use crate::random::Random;
use crate::world::{World, run_context};

pub(crate) const CASES: &[Case] = &[
    ("the_parser_agrees_with_a_plain_one", agreement),
    ("no_program_fails_at_random_frames", every_program),
];

const FRAMES: usize = 20_000;
/// As many reports as the ring holds for certain.
const GULP: usize = 1_000;
/// An interface that belongs to no pod: whatever can be read is dropped for that.
const LOOPBACK: u32 = 1;
const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
/// Hop-by-hop options, routing, destination options.
const OPTIONS: [u8; 3] = [0, 43, 60];
const FRAGMENT: u8 = 44;
/// Extension headers that are followed.
const MOST_EXTENSIONS: usize = 5;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    reason: Reason,
    src: Option<SocketAddr>,
    dst: Option<SocketAddr>,
    protocol: u8,
    /// A fragment behind the first: protocol and ports are those of whatever was the first, here at random.
    later: bool,
}

impl Said {
    /// As it compares with what was said of a later fragment.
    fn by_addresses(self) -> Self {
        let end = |end: Option<SocketAddr>| end.map(|end| SocketAddr::new(end.ip(), 0));
        Self {
            src: end(self.src),
            dst: end(self.dst),
            protocol: 0,
            later: true,
            ..self
        }
    }

    fn nothing(reason: Reason) -> Self {
        Self {
            reason,
            src: None,
            dst: None,
            protocol: 0,
            later: false,
        }
    }
}

fn read(frame: &[u8]) -> Said {
    let read = match frame[12..14] {
        [0x08, 0x00] => read_v4(&frame[14..]),
        [0x86, 0xdd] => read_v6(&frame[14..]),
        _ => return Said::nothing(Reason::NotIp),
    };
    read.unwrap_or(Said::nothing(Reason::Malformed))
}

fn read_v4(packet: &[u8]) -> Option<Said> {
    let head = packet.get(..20)?;
    let length = usize::from(head[0] & 15) * 4;
    if head[0] >> 4 != 4 || length < 20 {
        return None;
    }
    let address = |at: usize| {
        let octets: [u8; 4] = head[at..at + 4].try_into().expect("four");
        IpAddr::from(Ipv4Addr::from(octets))
    };
    let later = u16::from_be_bytes([head[6], head[7]]) & 0x1fff != 0;
    read_ends(
        address(12),
        address(16),
        head[9],
        packet.get(length..),
        later,
    )
}

fn read_v6(packet: &[u8]) -> Option<Said> {
    let head = packet.get(..40)?;
    let address = |at: usize| {
        let octets: [u8; 16] = head[at..at + 16].try_into().expect("sixteen");
        Ipv6Addr::from(octets)
    };
    let (src, dst) = (address(8), address(24));
    // No packet may have these (RFC 4291, 2.5.5.2): they would pass for IPv4.
    let mapped = src.to_ipv4_mapped().or(dst.to_ipv4_mapped());
    if head[0] >> 4 != 6 || mapped.is_some() {
        return None;
    }
    let (mut next, mut at, mut later) = (head[6], 40, false);
    let mut extensions = 0;
    while OPTIONS.contains(&next) || next == FRAGMENT && !later {
        extensions += 1;
        let extension = packet.get(at..)?;
        if next == FRAGMENT {
            let head = extension.get(..8)?;
            later = u16::from_be_bytes([head[2], head[3]]) >> 3 != 0;
            (next, at) = (head[0], at + 8);
            if later {
                break;
            }
        } else {
            let head = extension.get(..2)?;
            (next, at) = (head[0], at + 8 + 8 * usize::from(head[1]));
        }
        if extensions > MOST_EXTENSIONS {
            return None;
        }
    }
    read_ends(src.into(), dst.into(), next, packet.get(at..), later)
}

fn read_ends(
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    transport: Option<&[u8]>,
    later: bool,
) -> Option<Said> {
    let transport = transport.unwrap_or_default();
    let needed = match protocol {
        _ if later => 0,
        TCP => 14,
        UDP | SCTP => 4,
        ICMP | ICMP_V6 => 6,
        _ => 0,
    };
    let head = transport.get(..needed)?;
    let port = |at: usize| match protocol {
        TCP | UDP | SCTP if !later => u16::from_be_bytes([head[at], head[at + 1]]),
        _ => 0,
    };
    let end = |address: IpAddr, port| {
        (address != IpAddr::V6(Ipv6Addr::UNSPECIFIED)).then_some(SocketAddr::new(address, port))
    };
    Some(Said {
        reason: Reason::UnknownLink,
        src: end(src, port(0)),
        dst: end(dst, port(2)),
        protocol,
        later,
    })
}

/// A frame that nearly makes sense.
fn frame(random: &mut Random) -> Vec<u8> {
    let mut frame = vec![0x0e, 0, 0, 0, 0, 1, 0x0a, 0, 0, 0, 0, 1];
    let protocol = [TCP, UDP, SCTP, ICMP, ICMP_V6, 47, 50][random.below(7)];
    if random.one_in(2) {
        frame.extend([0x08, 0x00]);
        let words = 5 + random.below(11);
        let fragment = [0, 0, 0x20, 0x40, 0x1f][random.below(5)];
        frame.extend([
            0x40 | words as u8,
            0,
            0,
            60,
            0,
            1,
            fragment,
            0,
            64,
            protocol,
            0,
            0,
        ]);
        frame.extend([198, 51, 100, 7, 203, 0, 113, 9]);
        frame.resize(14 + 4 * words, 1);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 60]);
        let kinds: Vec<u8> = (0..random.below(8))
            .map(|_| [0, 43, 60, FRAGMENT][random.below(4)])
            .collect();
        let after = |index: usize| kinds.get(index).copied().unwrap_or(protocol);
        frame.extend([after(0), 64]);
        for last in [7, 9] {
            frame.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).octets());
        }
        if random.one_in(8) {
            let start = frame.len() - 16;
            frame[start..].copy_from_slice(&Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets());
        }
        for (index, kind) in kinds.iter().enumerate() {
            let next = after(index + 1);
            if *kind == FRAGMENT {
                let offset = [0, 0, 0, 1, 0x40][random.below(5)];
                frame.extend([next, 0, 0, offset << 3 | 1, 0, 0, 0, 9]);
            } else {
                let more = random.below(3);
                frame.extend([next, more as u8]);
                frame.resize(frame.len() + 6 + 8 * more, 1);
            }
        }
    }
    frame.extend([
        0x9c, 0x40, 0, 53, 0, 12, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0,
    ]);
    match random.below(3) {
        0 => frame.truncate(15 + random.below(frame.len() - 14)),
        1 => {
            for _ in 0..=random.below(3) {
                let at = 12 + random.below(frame.len() - 12);
                frame[at] = random.below(256) as u8;
            }
        }
        _ => {}
    }
    frame
}

fn frames(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    std::iter::repeat_with(|| frame(&mut random))
        .filter(|frame| is_run(frame))
        .take(count)
        .collect()
}

/// The kernel runs no program on a packet without a whole network header.
fn is_run(frame: &[u8]) -> bool {
    let head = match frame[12..14] {
        [0x08, 0x00] => 20,
        [0x86, 0xdd] => 40,
        _ => 1,
    };
    frame.len() >= 14 + head
}

/// What a program says of frames that come by the node's loopback interface.
pub(crate) fn run(world: &World, program: &str, frames: Vec<Vec<u8>>) -> Vec<u32> {
    let (pin, name) = (world.pin("programs", program), program.to_owned());
    world.host.run(move || {
        let program = SchedClassifier::from_pin(pin).expect("pinned");
        let verdict = |frame: Vec<u8>| {
            let context = run_context(&name, LOOPBACK, frame.len());
            let options = TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(&context),
                repeat: 1,
                ..TestRunOptions::default()
            };
            program
                .test_run(options)
                .expect("the kernel runs it")
                .return_value
        };
        frames.into_iter().map(verdict).collect()
    })
}

fn agreement() {
    let world = World::new();
    let (mut malformed, mut with_ports) = (0, 0);
    for (seed, _) in (1..).zip((0..FRAMES).step_by(GULP)) {
        let frames = frames(seed, GULP);
        world.drops();
        run(&world, "from_pod", frames.clone());
        let told = world.drops().into_iter();
        let told: Vec<Said> = told
            .filter(|event| event.ifindex == LOOPBACK)
            .map(|event| Said {
                reason: event.reason,
                src: event.source,
                dst: event.destination,
                protocol: event.protocol,
                later: false,
            })
            .collect();
        assert_eq!(told.len(), frames.len(), "each is dropped and told");
        for (frame, told) in frames.iter().zip(told) {
            let said = read(frame);
            let (told, said) = if said.later {
                (told.by_addresses(), said.by_addresses())
            } else {
                (told, said)
            };
            assert_eq!(told, said, "seed {seed}: {frame:02x?}");
            malformed += usize::from(said.reason == Reason::Malformed);
            with_ports += usize::from(said.dst.is_some_and(|end| end.port() != 0));
        }
    }
    println!("parsing: {FRAMES} frames, {malformed} malformed, {with_ports} with ports");
    assert!(
        malformed > FRAMES / 10 && with_ports > FRAMES / 10,
        "both ways are asked"
    );
}

fn every_program() {
    let world = World::new();
    for (program, verdicts) in [
        // On, redirected, dropped.
        ("to_pod", [u32::MAX, u32::MAX, 2]),
        ("from_uplink", [u32::MAX, 7, 2]),
        ("to_uplink", [u32::MAX, 7, 2]),
        // On, back, dropped.
        ("edge", [2, 3, 1]),
        ("from_tunnel", [u32::MAX, 7, 2]),
        ("to_tunnel", [u32::MAX, 7, 2]),
    ] {
        for verdict in run(&world, program, frames(99, GULP)) {
            assert!(verdicts.contains(&verdict), "{program}: {verdict}");
        }
    }
}
