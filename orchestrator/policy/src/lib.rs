//! Network state to desired datapath tables, and the steps that lead there. Pure: nothing here opens a map.
//!
//! [`Desired`] keeps what the tables should hold as the facts change; [`round`] makes steps for the rows that a change
//! touched. Rules that hold for every list of steps (property tests below `steps`):
//! - a service resolves to its old set of backends or to its new one at every moment, never to a mixture;
//! - adds run ranges -> endpoints -> grants -> slots -> service, removals the other way;
//! - a row that would overflow its table is refused with the exact count, and everything else goes on.
//!
//! Another table: a line in `table`, makers of its rows in `rows`, and a map in `waggle-datapath`. Another claimant: a
//! variant in `claim`, an arm of `rows::make`, and in `facts::changed` the delta that touches it.
#![forbid(unsafe_code)]

mod capacity;
mod claim;
mod current;
mod desired;
mod enforce;
mod facts;
mod maglev;
mod outside;
mod rows;
mod ruleset;
mod serving;
mod slab;
mod steps;
mod table;
mod tally;
mod underlay;
mod why;

pub use capacity::{CapacityFault, Refusal};
pub use claim::Claimant;
pub use current::{Current, Placed};
pub use desired::Desired;
pub use enforce::{Enforcement, Governed, Rulesets, enforce};
pub use facts::{DnsRedirect, LocalNode, LocalPod, Uplink};
pub use rows::range_of;
pub use ruleset::{Direction, Ruleset, compile};
pub use serving::Serving;
pub use slab::Slabs;
pub use steps::{Round, round};
pub use table::{Backends, Held, Key, Row, ServicePlan, Step, Table};
pub use tally::{PolicyTally, ServiceTally, Tallies};
pub use underlay::{Way, way};
pub use why::{Question, Reasoning, Why, why};
