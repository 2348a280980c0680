//! Supervisor, libcontainer workers, image store and pulls, root filesystems, cgroups and logs of one node.
//!
//! The agent uses [`client::Client`], [`images::ImageStore`], [`logs`], [`cgroup`] and users; the binary hands its
//! `supervisor` and `worker` subcommands to [`supervisor::main`] and [`worker::main`]. What to run is decided elsewhere.

pub mod cgroup;
pub mod client;
pub mod error;
pub mod images;
pub mod logs;
pub mod mount_table;
pub mod spec;
pub mod supervisor;
pub mod users;
pub mod worker;

mod cri;
mod frame;
mod limits;
mod oci;
mod protocol;
mod seccomp;
mod sys;

pub use client::{Client, ExecSession};
pub use error::{FaultKind, RuntimeError};
