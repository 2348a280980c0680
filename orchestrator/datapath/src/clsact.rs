//! Packet hooks of kernels that have no tcx, which came with 6.6: the same programs as filters of an interface's clsact
//! queueing discipline. What is attached stays with its interface whoever ends, and is replaced in its place: priority and
//! handle are the same for every agent. Works in the calling thread's network namespace.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage,
    TcOption,
};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

/// Of our filters among those of others, who like to be the first.
const PRIORITY: u32 = 120;
/// The only filter that we have at that priority.
const HANDLE: TcHandle = TcHandle { major: 0, minor: 1 };
/// Packets of every protocol, as `struct tcmsg` has it.
const ETH_P_ALL: u16 = 3;

/// A direction of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

/// Has `program` decide about what passes the interface at `ifindex`, in the place of the one before it.
pub(crate) fn attach(
    ifindex: u32,
    direction: Direction,
    (name, program): (&str, BorrowedFd<'_>),
) -> io::Result<()> {
    match ask(
        RouteNetlinkMessage::NewQueueDiscipline(discipline(ifindex)?),
        NLM_F_CREATE | NLM_F_EXCL,
    ) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        other => other?,
    }
    let mut filter = filter(ifindex, direction)?;
    let options = [
        TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned()),
        TcFilterBpfOption::ProgName(name.to_owned()),
        // What it returns is the verdict.
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    let options = options.into_iter().map(TcOption::Bpf).collect();
    filter.attributes.push(TcAttribute::Options(options));
    ask(RouteNetlinkMessage::NewTrafficFilter(filter), NLM_F_CREATE)
}

/// Takes ours off an interface, if both are there.
pub(crate) fn detach(ifindex: u32, direction: Direction) -> io::Result<()> {
    let gone = [libc::ENODEV, libc::ENOENT, libc::EINVAL];
    match ask(
        RouteNetlinkMessage::DelTrafficFilter(filter(ifindex, direction)?),
        0,
    ) {
        Err(error) if error.raw_os_error().is_some_and(|n| gone.contains(&n)) => Ok(()),
        other => other,
    }
}

fn discipline(ifindex: u32) -> io::Result<TcMessage> {
    let header = TcHeader {
        index: i32::try_from(ifindex).map_err(io::Error::other)?,
        handle: TcHandle {
            major: u16::MAX,
            minor: 0,
        },
        parent: TcHandle::CLSACT,
        ..TcHeader::default()
    };
    let kind = TcAttribute::Kind("clsact".to_owned());
    Ok(TcMessage::from_parts(header, vec![kind]))
}

fn filter(ifindex: u32, direction: Direction) -> io::Result<TcMessage> {
    let minor = match direction {
        Direction::Ingress => TcHandle::MIN_INGRESS,
        Direction::Egress => TcHandle::MIN_EGRESS,
    };
    let header = TcHeader {
        index: i32::try_from(ifindex).map_err(io::Error::other)?,
        handle: HANDLE,
        parent: TcHandle {
            major: u16::MAX,
            minor,
        },
        info: PRIORITY << 16 | u32::from(ETH_P_ALL.to_be()),
        ..TcHeader::default()
    };
    let kind = TcAttribute::Kind(TcFilterBpf::KIND.to_owned());
    Ok(TcMessage::from_parts(header, vec![kind]))
}

/// Has the kernel do it, and waits until it is done.
fn ask(request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer);
    match answer.map_err(io::Error::other)?.payload {
        NetlinkPayload::Error(verdict) => match verdict.code {
            None => Ok(()),
            Some(_) => Err(verdict.to_io()),
        },
        _ => Err(io::Error::other("the kernel answers with something else")),
    }
}
