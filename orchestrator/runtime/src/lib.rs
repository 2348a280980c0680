//! Supervisor, libcontainer workers, image store and pulls, root filesystems, volumes, cgroups and logs of one node.
pub mod spec;
