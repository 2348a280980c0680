//! The programs: loaded onto the pinned maps, attached by pinned links, and replaced in those links without a gap.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use aya_log::EbpfLogger;
use waggle_abi::{Capacity, program};
use waggle_model::network::XdpMode;

use crate::error::{DatapathError, file_error};
use crate::hooks::{Hook, PacketHooks, pin_on};
use crate::maps;
use crate::pin::{Pins, unpin};
use crate::sys::{self, AttachType};

static OBJECTS: [(&str, &[u8]); 8] = [
    (
        "socket_lb",
        include_bytes_aligned!(concat!(env!("OUT_DIR"), "/socket_lb")),
    ),
    (
        "from_pod",
        include_bytes_aligned!(concat!(env!("OUT_DIR"), "/from_pod")),
    ),
    (
        "to_pod",
        include_bytes_aligned!(concat!(env!("OUT_DIR"), "/to_pod")),
    ),
    (
        "from_uplink",
        include_bytes_aligned!(concat!(env!("OUT_DIR"), "/from_uplink")),
    ),
    (
        "to_uplink",
        include_bytes_aligned!(concat!(env!("OUT_DIR"), "/to_uplink")),
    ),
    (
        "edge",
        include_bytes_aligned!(concat!(env!("OUT_DIR"), "/edge")),
    ),
    (
        "from_tunnel",
        include_bytes_aligned!(concat!(env!("OUT_DIR"), "/from_tunnel")),
    ),
    (
        "to_tunnel",
        include_bytes_aligned!(concat!(env!("OUT_DIR"), "/to_tunnel")),
    ),
];

/// Hooks of the node's cgroup.
const SOCKET_HOOKS: [Hook; 9] = [
    (program::CONNECT4, AttachType::Connect4, 0),
    (program::CONNECT6, AttachType::Connect6, 0),
    (program::SENDMSG4, AttachType::Sendmsg4, 0),
    (program::SENDMSG6, AttachType::Sendmsg6, 0),
    (program::RECVMSG4, AttachType::Recvmsg4, 0),
    (program::RECVMSG6, AttachType::Recvmsg6, 0),
    (program::GETPEERNAME4, AttachType::Getpeername4, 0),
    (program::GETPEERNAME6, AttachType::Getpeername6, 0),
    (program::SOCK_RELEASE, AttachType::SockRelease, 0),
];

/// Hooks of the host end of a pod's veth.
const POD_HOOKS: [Hook; 2] = [
    (program::FROM_POD, AttachType::TcxIngress, 0),
    (program::TO_POD, AttachType::TcxEgress, 0),
];

/// Hooks of the uplink.
const UPLINK_HOOKS: [Hook; 2] = [
    (program::FROM_UPLINK, AttachType::TcxIngress, 0),
    (program::TO_UPLINK, AttachType::TcxEgress, 0),
];

/// Hooks of the tunnel.
const TUNNEL_HOOKS: [Hook; 2] = [
    (program::FROM_TUNNEL, AttachType::TcxIngress, 0),
    (program::TO_TUNNEL, AttachType::TcxEgress, 0),
];

/// `XDP_FLAGS_SKB_MODE`.
const XDP_GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`.
const XDP_DRIVER: u32 = 1 << 2;

/// What programs write through aya-log, one reader for each object that writes any.
pub(crate) type Logger = EbpfLogger<&'static dyn log::Log>;

/// Programs that are in the kernel.
pub(crate) struct Programs {
    loaded: BTreeMap<&'static str, OwnedFd>,
    pub(crate) hooks: PacketHooks,
    pub(crate) loggers: Vec<Logger>,
}

impl Programs {
    /// Loads every program onto the maps below `pins`, making those that are missing. They are attached by `hooks`, or by the
    /// best that the kernel has.
    pub(crate) fn load(
        pins: &Pins,
        capacity: &Capacity,
        hooks: Option<PacketHooks>,
    ) -> Result<Self, DatapathError> {
        let mut programs = Self {
            loaded: BTreeMap::new(),
            hooks: PacketHooks::default(),
            loggers: Vec::new(),
        };
        for (object, bytes) in OBJECTS {
            let fault = |reason: String| DatapathError::Load {
                program: object.to_owned(),
                reason,
            };
            let mut loader = EbpfLoader::new();
            // Nothing here is relocated by the kernel's types, and reading them takes a tenth of a second.
            loader.btf(None);
            loader.default_map_pin_directory(pins.maps());
            for (name, entries) in maps::entries(capacity) {
                loader.map_max_entries(name, entries);
            }
            for (name, path) in maps::states(pins) {
                loader.map_pin_path(name, path);
            }
            let mut ebpf = loader
                .load(bytes)
                .map_err(|error| fault(error.to_string()))?;
            programs.load_object(&mut ebpf, pins)?;
            match EbpfLogger::init(&mut ebpf) {
                Ok(logger) => programs.loggers.push(logger),
                // The object logs nothing.
                Err(aya_log::Error::MapNotFound) => {}
                Err(error) => return Err(fault(error.to_string())),
            }
        }
        let asked = programs.get(program::FROM_POD)?;
        programs.hooks = hooks.unwrap_or_else(|| PacketHooks::of_kernel(asked));
        Ok(programs)
    }

    fn load_object(&mut self, ebpf: &mut Ebpf, pins: &Pins) -> Result<(), DatapathError> {
        for (name, program) in ebpf.programs_mut() {
            let fault = |error: ProgramError| DatapathError::Load {
                program: name.to_owned(),
                reason: chain(&error),
            };
            match program {
                Program::CgroupSockAddr(program) => program.load(),
                Program::CgroupSock(program) => program.load(),
                Program::SchedClassifier(program) => program.load(),
                Program::Xdp(program) => program.load(),
                _ => Err(ProgramError::UnexpectedProgramType),
            }
            .map_err(fault)?;
            let fd = program.fd().map_err(fault)?.as_fd().try_clone_to_owned();
            let path = pins.program(name);
            let fd = fd.map_err(file_error("keep", &path))?;
            // For people and tests; the links keep the programs alive.
            unpin(&path)?;
            sys::pin(fd.as_fd(), &path).map_err(file_error("pin", &path))?;
            if let Some(known) = program::ALL.iter().find(|known| **known == name) {
                self.loaded.insert(known, fd);
            }
        }
        Ok(())
    }

    fn get(&self, name: &'static str) -> Result<BorrowedFd<'_>, DatapathError> {
        let missing = || DatapathError::Load {
            program: name.to_owned(),
            reason: "it is in no object".into(),
        };
        self.loaded.get(name).map(AsFd::as_fd).ok_or_else(missing)
    }

    /// Whether the node's cgroup already has socket programs, of whatever build.
    pub(crate) fn are_attached_to_sockets(pins: &Pins) -> bool {
        SOCKET_HOOKS
            .iter()
            .any(|(name, ..)| pins.link(name).exists())
    }

    /// Whether an interface already has all of its programs, of whatever build.
    pub(crate) fn are_attached_to_pod(pins: &Pins, interface: &str) -> bool {
        POD_HOOKS
            .iter()
            .all(|(name, ..)| pins.link(&pod_pin(interface, name)).exists())
    }

    /// Attaches the socket programs to everything below `cgroup`, or takes over the links that are there.
    pub(crate) fn attach_to_sockets(
        &self,
        pins: &Pins,
        cgroup: &Path,
    ) -> Result<(), DatapathError> {
        let folder = File::open(cgroup).map_err(file_error("open cgroup", cgroup))?;
        for (name, kind, flags) in SOCKET_HOOKS {
            let target = sys::target_of(folder.as_fd());
            let program = (name, self.get(name)?);
            let placed = self
                .hooks
                .place(&pins.link(name), program, target, (kind, flags));
            placed.map_err(|source| DatapathError::Attach {
                program: name,
                target: cgroup.display().to_string(),
                source,
            })?;
        }
        Ok(())
    }

    /// Attaches the pod programs to `interface`, or takes over the links that are there.
    pub(crate) fn attach_to_pod(
        &self,
        pins: &Pins,
        interface: &str,
        ifindex: u32,
    ) -> Result<(), DatapathError> {
        self.attachment_to_pod(pins, interface, ifindex)?()
    }

    /// The same, to be done on another thread: for each program the kernel waits some milliseconds until nobody runs what was
    /// there before.
    pub(crate) fn attachment_to_pod(
        &self,
        pins: &Pins,
        interface: &str,
        ifindex: u32,
    ) -> Result<impl FnOnce() -> Result<(), DatapathError> + Send + use<>, DatapathError> {
        let fault = |program: &'static str, target: &str, source| DatapathError::Attach {
            program,
            target: target.to_owned(),
            source,
        };
        let mut places = Vec::new();
        for (name, kind, flags) in POD_HOOKS {
            let own = self.get(name)?.try_clone_to_owned();
            let own = own.map_err(|source| fault(name, interface, source))?;
            let pin = pins.link(&pod_pin(interface, name));
            places.push((name, pin, own, (kind, flags)));
        }
        let (target, hooks) = (interface.to_owned(), self.hooks);
        Ok(move || {
            places.into_iter().try_for_each(|(name, pin, own, kind)| {
                hooks
                    .place(&pin, (name, own.as_fd()), ifindex, kind)
                    .map_err(|source| fault(name, &target, source))
            })
        })
    }

    /// Attaches the uplink programs to the interface at `ifindex`, or takes over the links that are there; those on an
    /// interface that was the uplink before go.
    pub(crate) fn attach_to_uplink(&self, pins: &Pins, ifindex: u32) -> Result<(), DatapathError> {
        self.attach_to_only(pins, UPLINK_PIN, &UPLINK_HOOKS, Some(ifindex))
    }

    /// Has the program before all others on the uplink, or none there; says whether the driver takes it.
    pub(crate) fn attach_to_edge(
        &self,
        pins: &Pins,
        ifindex: u32,
        mode: XdpMode,
    ) -> Result<bool, DatapathError> {
        let hook = match mode {
            XdpMode::Never => {
                self.attach_to_only(pins, EDGE_PIN, &[], None)?;
                return Ok(true);
            }
            XdpMode::Native => (program::EDGE, AttachType::Xdp, XDP_DRIVER),
            XdpMode::Generic => (program::EDGE, AttachType::Xdp, XDP_GENERIC),
        };
        match self.attach_to_only(pins, EDGE_PIN, &[hook], Some(ifindex)) {
            Err(DatapathError::Attach { source, .. })
                if source.raw_os_error() == Some(libc::EOPNOTSUPP) =>
            {
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }

    /// Attaches the tunnel's programs to the interface at `ifindex`, as to the uplink; forgets them without one.
    pub(crate) fn attach_to_tunnel(
        &self,
        pins: &Pins,
        ifindex: Option<u32>,
    ) -> Result<(), DatapathError> {
        self.attach_to_only(pins, TUNNEL_PIN, &TUNNEL_HOOKS, ifindex)
    }

    fn attach_to_only(
        &self,
        pins: &Pins,
        start: &str,
        hooks: &[Hook],
        ifindex: Option<u32>,
    ) -> Result<(), DatapathError> {
        let wanted: Vec<String> = ifindex
            .iter()
            .flat_map(|ifindex| hooks.iter().map(|(name, ..)| pin_on(start, *ifindex, name)))
            .collect();
        for stale in pins.links_like(start)? {
            if !wanted.contains(&stale) {
                self.hooks.withdraw(pins, (start, &stale), hooks)?;
            }
        }
        let Some(ifindex) = ifindex else {
            return Ok(());
        };
        for &(name, kind, flags) in hooks {
            let pin = pins.link(&pin_on(start, ifindex, name));
            let program = (name, self.get(name)?);
            let placed = self.hooks.place(&pin, program, ifindex, (kind, flags));
            placed.map_err(|source| DatapathError::Attach {
                program: name,
                target: format!("interface {ifindex}"),
                source,
            })?;
        }
        Ok(())
    }

    /// Forgets the links of an interface that is gone or about to go.
    pub(crate) fn detach_from_pod(pins: &Pins, interface: &str) -> Result<(), DatapathError> {
        POD_HOOKS
            .iter()
            .try_for_each(|(name, ..)| unpin(&pins.link(&pod_pin(interface, name))))
    }
}

fn pod_pin(interface: &str, program: &str) -> String {
    format!("{interface}-{program}")
}

/// How the names of pins on uplinks begin.
const UPLINK_PIN: &str = "uplink-";
/// The same for the program before all others there.
const EDGE_PIN: &str = "edge-";
/// The same for tunnels.
const TUNNEL_PIN: &str = "tunnel-";

/// An error with everything below it: the verifier's words are at the bottom.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
