//! What the programs share: maps, packet parsing, the tenant wall, policy, flows and counting. A binary in `bin/` is one hook;
//! its entry functions only turn a [`Verdict`] into what the hook returns.
#![no_std]

pub mod count;
pub mod flow;
pub mod maps;
pub mod packet;
pub mod peer;
pub mod policy;
pub mod service;
pub mod wall;

use waggle_abi::Reason;

/// Let through, or why not.
pub type Verdict = Result<(), Reason>;
