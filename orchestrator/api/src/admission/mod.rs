//! What a namespace asks of the objects that come into it: limit ranges, quotas, Pod Security. Pure: whoever admits
//! brings the namespace's objects along.

mod amounts;
pub mod limit_range;
pub mod pod_security;
pub mod quota;

pub use amounts::Amount;
