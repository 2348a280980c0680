//! Loads, attaches, pins and feeds the eBPF programs (aya); links, addresses and routes (rtnetlink).
//!
//! No decisions: which rows belong into the tables and in which order they change is `waggle-policy`'s.

mod config;

pub use config::{Applied, Attachment, Config, PodLink};
pub use waggle_abi::Capacity;
