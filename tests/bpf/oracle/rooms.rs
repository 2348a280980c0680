//! The same node twice: once with Waggle's programs, once with kube-proxy's rules. Each with pods, another node behind the
//! uplink, and an outside; every backend tells who it is and who called it.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use waggle_model::network::{PerFamily, TunnelMode};

use super::rules;
use super::services::{FAR, HERE, HOSTS, OTHER_HOSTS, Spec, TARGET_PORT, WORLD, state};
use crate::room::Room;
use crate::state::{SHOP, ip};
use crate::world::{Pod, World, small};

/// Longest wait for an answer: what comes, comes within a millisecond or two.
const SILENCE: Duration = Duration::from_millis(600);
/// But an ICMPv6 error that a veth link brings while connect() still has the socket is not heard before the next SYN, a
/// second later.
const SILENCE_OF_TCP_V6: Duration = Duration::from_millis(1_500);

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// By whom, and whom it took for its caller.
    Answer(String, IpAddr),
    /// At once.
    Refused,
    /// Nothing.
    Silence,
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Client {
    /// A pod that no service has.
    Pod,
    /// The backend `a`, which may reach itself.
    Backend,
    Host,
    Outside,
}

impl Client {
    pub(crate) const ALL: [Self; 4] = [Self::Pod, Self::Backend, Self::Host, Self::Outside];

    pub(crate) fn is_pod(self) -> bool {
        matches!(self, Self::Pod | Self::Backend)
    }

    /// Its own address in a family.
    pub(crate) fn address(self, family: usize) -> IpAddr {
        ip(match self {
            Self::Pod => HERE[2].1[family],
            Self::Backend => HERE[0].1[family],
            Self::Host => HOSTS[family],
            Self::Outside => WORLD[family],
        })
    }
}

/// The node under one of the two.
pub(crate) struct Side {
    pub(crate) clients: Clients,
    _kept: Kept,
}

/// Their namespaces.
pub(crate) struct Clients([PathBuf; 4]);

/// What goes when it does.
#[expect(dead_code, reason = "only held")]
enum Kept {
    Waggle(Box<World>, Vec<Pod>),
    KubeProxy(Vec<Room>),
}

/// A namespace whose addresses are there at once.
fn room() -> Room {
    let room = Room::new();
    room.run(|| set("ipv6/conf/default/accept_dad", "0"));
    room
}

/// Host and other node, joined.
fn wire() -> (Room, Room) {
    let (host, other) = (room(), room());
    host.ip("link add eth0 type veth peer name far");
    host.ip(&format!("link set far netns {}", other.number()));
    for (room, link, [v4, v6]) in [(&host, "eth0", HOSTS), (&other, "far", OTHER_HOSTS)] {
        room.ip(&format!("address add {v4}/24 dev {link}"));
        room.ip(&format!("address add {v6}/64 dev {link} nodad"));
        room.ip(&format!("link set {link} up"));
    }
    other.ip(&format!("address add {}/32 dev far", WORLD[0]));
    other.ip(&format!("address add {}/128 dev far nodad", WORLD[1]));
    other.ip(&format!("address add {}/32 dev lo", FAR.1[0]));
    other.ip(&format!("address add {}/128 dev lo nodad", FAR.1[1]));
    other.ip(&format!("route add 10.244.1.0/24 via {}", HOSTS[0]));
    other.ip(&format!("-6 route add fd00:244:1::/64 via {}", HOSTS[1]));
    // Whoever calls the cluster from there does it from outside.
    other.ip(&format!(
        "route add {}/32 dev far src {}",
        HOSTS[0], WORLD[0]
    ));
    other.ip(&format!(
        "-6 route add {}/128 dev far src {}",
        HOSTS[1], WORLD[1]
    ));
    for range in ["172.31.0.0/16", "10.96.0.0/16"] {
        other.ip(&format!(
            "route add {range} via {} src {}",
            HOSTS[0], WORLD[0]
        ));
    }
    for range in ["fd00:172:31::/48", "fd00:96::/32"] {
        other.ip(&format!(
            "-6 route add {range} via {} src {}",
            HOSTS[1], WORLD[1]
        ));
    }
    host.ip(&format!("route add default via {}", OTHER_HOSTS[0]));
    host.ip(&format!("-6 route add default via {}", OTHER_HOSTS[1]));
    host.run(|| {
        set("ipv4/ip_forward", "1");
        set("ipv6/conf/all/forwarding", "1");
        // Many refusals a second are what is wanted.
        set("ipv4/icmp_ratemask", "0");
        set("ipv6/icmp/ratelimit", "0");
    });
    (host, other)
}

/// A switch of this namespace.
fn set(name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

impl Side {
    /// With Waggle's programs.
    pub(crate) fn waggle(specs: &[Spec]) -> Self {
        let (host, other) = wire();
        let addresses = PerFamily::of(HOSTS.map(ip)).expect("one of each");
        let world = World::of(host, other, "node1", addresses, small(), TunnelMode::Auto);
        let pod = |(_, addresses): (_, [&str; 2])| {
            let addresses = PerFamily::of(addresses.map(ip)).expect("one of each");
            world.pod_at(addresses, SHOP)
        };
        let pods: Vec<Pod> = HERE.into_iter().map(pod).collect();
        let applied = world.try_apply(&state(specs)).expect("it applies");
        assert!(applied.refused.is_empty(), "{:?}", applied.refused);
        let rooms: Vec<&Room> = pods.iter().map(|pod| &pod.room).collect();
        let clients = serve(&rooms, &world.host, &world.other);
        let _kept = Kept::Waggle(Box::new(world), pods);
        Self { clients, _kept }
    }

    /// With kube-proxy's rules.
    pub(crate) fn kube_proxy(specs: &[Spec]) -> Self {
        let (host, other) = wire();
        let pods: Vec<Room> = (0..HERE.len())
            .map(|index| plain_pod(&host, index))
            .collect();
        for family in 0..2 {
            let text = rules::table(specs, family);
            host.run(move || load(&text));
        }
        let clients = serve(&pods.iter().collect::<Vec<_>>(), &host, &other);
        let rooms = pods.into_iter().chain([host, other]);
        let _kept = Kept::KubeProxy(rooms.collect());
        Self { clients, _kept }
    }
}

impl Clients {
    /// Takes this thread into a client's namespace, for good.
    pub(crate) fn enter(&self, client: Client) {
        let path = &self.0[client as usize];
        let file = std::fs::File::open(path).expect("the namespace is there");
        setns(file, CloneFlags::CLONE_NEWNET).expect("entered");
    }
}

/// A pod as plugins that route make it: the host answers for whatever its pods ask for.
fn plain_pod(host: &Room, index: usize) -> Room {
    let room = room();
    let (link, [v4, v6]) = (format!("pod{index}"), HERE[index].1);
    host.ip(&format!("link add {link} type veth peer name peer{index}"));
    host.ip(&format!("link set peer{index} netns {}", room.number()));
    room.ip(&format!("link set peer{index} name eth0"));
    host.ip(&format!("address add fe80::1/64 dev {link} nodad"));
    room.ip(&format!("address add {v4}/32 dev eth0"));
    room.ip(&format!("address add {v6}/128 dev eth0 nodad"));
    host.ip(&format!("link set {link} up"));
    room.ip("link set eth0 up");
    host.ip(&format!("route add {v4}/32 dev {link}"));
    host.ip(&format!("-6 route add {v6}/128 dev {link}"));
    host.run(move || {
        set(&format!("ipv4/conf/{link}/proxy_arp"), "1");
        set(&format!("ipv4/neigh/{link}/proxy_delay"), "0");
    });
    room.ip("route add 169.254.1.1 dev eth0");
    room.ip("route add default via 169.254.1.1");
    room.ip("-6 route add default via fe80::1 dev eth0");
    room
}

fn load(text: &str) {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nftables is installed");
    let mut stdin = nft.stdin.take().expect("piped");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    let output = nft.wait_with_output().expect("it ends");
    let fault: String = String::from_utf8_lossy(&output.stderr)
        .chars()
        .take(2_000)
        .collect();
    assert!(output.status.success(), "nft: {fault}");
}

/// Backends of this node and of the other; returns where the clients are.
fn serve(pods: &[&Room], host: &Room, other: &Room) -> Clients {
    for ((name, addresses), room) in HERE.iter().zip(pods) {
        backend(name, *addresses, room);
    }
    backend(FAR.0, FAR.1, other);
    Clients([pods[2], pods[0], host, other].map(Room::path))
}

/// Says its name and its caller's address, to every connection and datagram.
fn backend(name: &'static str, addresses: [&'static str; 2], room: &Room) {
    for address in addresses {
        let at = SocketAddr::new(ip(address), TARGET_PORT);
        let (listener, socket) = room.run(move || {
            let listener = TcpListener::bind(at).expect("the listener binds");
            (listener, UdpSocket::bind(at).expect("the socket binds"))
        });
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if let Ok(peer) = stream.peer_addr() {
                    // A caller that went is none of its business.
                    let _ = stream.write_all(format!("{name} {}", peer.ip()).as_bytes());
                }
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
            }
        });
    }
}

/// One call from the namespace that this thread is in.
pub(crate) fn call(protocol: &str, to: SocketAddr) -> Heard {
    let answer = match protocol {
        "tcp" => call_tcp(to),
        _ => call_udp(to),
    };
    match answer {
        Ok(text) => {
            let (name, caller) = text.split_once(' ').expect("a name and an address");
            Heard::Answer(name.into(), ip(caller))
        }
        Err(error) => match (error.kind(), error.raw_os_error()) {
            (ErrorKind::ConnectionRefused, _) => Heard::Refused,
            (ErrorKind::TimedOut | ErrorKind::WouldBlock, _) => Heard::Silence,
            // What netfilter drops on its way out of a socket, send() says so of.
            (_, Some(number)) if number == Errno::EPERM as i32 => Heard::Silence,
            _ => panic!("{protocol} {to}: {error}"),
        },
    }
}

fn call_tcp(to: SocketAddr) -> std::io::Result<String> {
    let patience = if to.is_ipv4() {
        SILENCE
    } else {
        SILENCE_OF_TCP_V6
    };
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(SILENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn call_udp(to: SocketAddr) -> std::io::Result<String> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(SILENCE))?;
    socket.connect(to)?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
