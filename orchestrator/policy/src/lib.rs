//! Network state to desired datapath tables, and the steps that lead there. Pure: nothing here opens a map.
//!
//! Rules that hold for every list of steps (property tests below `diff`):
//! - a service resolves to its old set of backends or to its new one at every moment, never to a mixture;
//! - adds run ranges -> endpoints -> grants -> slots -> service, removals the other way;
//! - a table that would overflow, even in between, is refused with the exact count before the first step.
#![forbid(unsafe_code)]

mod capacity;
mod current;
mod diff;
mod enforce;
mod ruleset;
mod slab;
mod tables;
mod why;

pub use capacity::{CapacityFault, Table};
pub use current::Current;
pub use diff::{Step, diff};
pub use enforce::{Enforcement, Governed, Rulesets, enforce};
pub use ruleset::{Direction, Ruleset, compile};
pub use slab::Slabs;
pub use tables::{DnsRedirect, LocalNode, LocalPod, ServicePlan, Tables, range_of, tables};
pub use why::{Question, Reasoning, Why, why};
