//! Where a program is put: into a pinned link, or, for packet hooks of a kernel without tcx, into a filter that its interface
//! keeps. Either way what is there outlives agents, is replaced without a gap, and is known by its pin.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use crate::clsact::{self, Direction};
use crate::error::DatapathError;
use crate::pin::{Pins, unpin};
use crate::sys::{self, AttachType};

/// How packet programs are attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PacketHooks {
    /// Links of tcx: Linux 6.6.
    #[default]
    Tcx,
    /// Filters of a clsact queueing discipline.
    Clsact,
}

/// A program, where it goes, and with which flags.
pub(crate) type Hook = (&'static str, AttachType, u32);

impl PacketHooks {
    /// The best that this kernel has. `program` is a packet program; nothing is attached.
    pub(crate) fn of_kernel(program: BorrowedFd<'_>) -> Self {
        // No interface has this index: a kernel that knows the hook looks for it, another refuses the hook.
        let nowhere = i32::MAX.cast_unsigned();
        match sys::create_link(program, nowhere, (AttachType::TcxIngress, 0)) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Self::Clsact,
            _ => Self::Tcx,
        }
    }

    /// Puts `program` into the hook on `target`, in the place of whatever an earlier agent has pinned at `path`.
    pub(crate) fn place(
        self,
        path: &Path,
        (name, program): (&str, BorrowedFd<'_>),
        target: u32,
        kind: (AttachType, u32),
    ) -> io::Result<()> {
        let Some(direction) = self.filtered(kind.0) else {
            return place_link(path, program, target, kind);
        };
        clsact::attach(target, direction, (name, program))?;
        // In the place of a link: it says that the hook is taken.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        sys::pin(program, path)
    }

    /// Takes off what is pinned as `pin`, which [`pin_on`] named.
    pub(crate) fn withdraw(
        self,
        pins: &Pins,
        (start, pin): (&str, &str),
        hooks: &[Hook],
    ) -> Result<(), DatapathError> {
        let on = pin.strip_prefix(start).and_then(|rest| {
            let (ifindex, name) = rest.split_once('-')?;
            let hook = hooks.iter().find(|(known, ..)| *known == name)?;
            Some((ifindex.parse().ok()?, hook))
        });
        if let Some((ifindex, &(name, kind, _))) = on
            && let Some(direction) = self.filtered(kind)
        {
            clsact::detach(ifindex, direction).map_err(|source| DatapathError::Attach {
                program: name,
                target: format!("interface {ifindex}"),
                source,
            })?;
        }
        unpin(&pins.link(pin))
    }

    /// The direction of the filter that a hook is; `None` for what is a link.
    fn filtered(self, kind: AttachType) -> Option<Direction> {
        match (self, kind) {
            (Self::Clsact, AttachType::TcxIngress) => Some(Direction::Ingress),
            (Self::Clsact, AttachType::TcxEgress) => Some(Direction::Egress),
            _ => None,
        }
    }
}

/// Name of the pin of a program on an interface that may be another one later.
pub(crate) fn pin_on(start: &str, ifindex: u32, program: &str) -> String {
    format!("{start}{ifindex}-{program}")
}

/// Takes over the link pinned at `path`; makes it when there is none, or when what it was attached to is gone.
fn place_link(
    path: &Path,
    program: BorrowedFd<'_>,
    target: u32,
    kind: (AttachType, u32),
) -> io::Result<()> {
    if let Ok(link) = sys::open_pin(path) {
        match sys::update_link(link.as_fd(), program) {
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
                std::fs::remove_file(path)?
            }
            other => return other,
        }
    }
    let link = sys::create_link(program, target, kind)?;
    sys::pin(link.as_fd(), path)
}
