//! What the programs share: maps, packet parsing, the tenant wall, policy, flows, translation and counting. A binary in
//! `bin/` is one hook; its entry functions only turn a [`Verdict`] into what the hook returns.
#![no_std]

pub mod announce;
pub mod count;
pub mod drops;
pub mod flow;
pub mod forward;
pub mod maps;
pub mod nat;
pub mod packet;
pub mod peer;
pub mod policy;
pub mod refuse;
pub mod rewrite;
pub mod service;
pub mod uplink;
pub mod wall;

use waggle_abi::Reason;

/// Let through, or why not.
pub type Verdict = Result<(), Reason>;
