//! What can go wrong, always with the operation and the object.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use waggle_policy::CapacityFault;

/// Why the datapath did not do something.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// A file or folder.
    #[error("{action} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The host does not route between its pods and other nodes.
    #[error(
        "IP forwarding is off ({setting} is 0), so pods could not reach other nodes; set it to 1"
    )]
    Forwarding {
        /// The setting.
        setting: &'static str,
    },
    /// No interface carries the node's address.
    #[error("no interface of this node carries its address {address}")]
    NoUplink {
        /// The address.
        address: IpAddr,
    },
    /// A program was not loaded.
    #[error("load program {program}: {reason}")]
    Load {
        /// Its name.
        program: String,
        /// Cause, with the verifier's last words.
        reason: String,
    },
    /// A map could not be opened, read or written.
    #[error("{action} map {map}: {source}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// Its name.
        map: &'static str,
        /// Cause.
        source: aya::maps::MapError,
    },
    /// Rows could not be written.
    #[error("{action} map {map}: {source}")]
    Table {
        /// What was tried.
        action: &'static str,
        /// Its name.
        map: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// A program was not attached.
    #[error("attach {program} to {target}: {source}")]
    Attach {
        /// Its name.
        program: &'static str,
        /// Interface or cgroup.
        target: String,
        /// Cause.
        source: io::Error,
    },
    /// The kernel refused a change of links, addresses, neighbours or routes.
    #[error("{action} {object}: {reason}")]
    Link {
        /// What was tried.
        action: &'static str,
        /// On what.
        object: String,
        /// Cause.
        reason: String,
    },
    /// A network namespace could not be entered or asked.
    #[error("network namespace {path}: {source}", path = path.display())]
    Namespace {
        /// Where it is.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Something else already uses the name of a pod's interface.
    #[error("interface eth0 in {path} is not ours", path = path.display())]
    ForeignInterface {
        /// The namespace.
        path: PathBuf,
    },
    /// Rows don't fit. Nothing was written.
    #[error(transparent)]
    Capacity(#[from] CapacityFault),
    /// Program logs could not be read.
    #[error("read program logs: {reason}")]
    Logs {
        /// Cause.
        reason: String,
    },
}

/// Makes a [`DatapathError::Link`] of whatever rtnetlink says.
pub(crate) fn link_error(
    action: &'static str,
    object: impl Into<String>,
) -> impl FnOnce(rtnetlink::Error) -> DatapathError {
    let object = object.into();
    move |error| {
        let reason = match &error {
            rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
            other => other.to_string(),
        };
        DatapathError::Link {
            action,
            object,
            reason,
        }
    }
}

/// Makes a [`DatapathError::File`].
pub(crate) fn file_error(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> DatapathError {
    let path = path.into();
    move |source| DatapathError::File {
        action,
        path,
        source,
    }
}

/// Makes a [`DatapathError::Map`].
pub(crate) fn map_error(
    action: &'static str,
    map: &'static str,
) -> impl FnOnce(aya::maps::MapError) -> DatapathError {
    move |source| DatapathError::Map {
        action,
        map,
        source,
    }
}

/// Makes a [`DatapathError::Table`].
pub(crate) fn table_error(
    action: &'static str,
    map: &'static str,
) -> impl FnOnce(io::Error) -> DatapathError {
    move |source| DatapathError::Table {
        action,
        map,
        source,
    }
}
