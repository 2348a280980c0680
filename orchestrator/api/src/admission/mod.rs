//! What a namespace asks of the objects that come into it: limit ranges, quotas, Pod Security; and what
//! webhooks are asked. Pure: whoever admits brings the namespace's objects along.

mod amounts;
pub mod condition;
pub mod limit_range;
pub mod pod_security;
pub mod quota;
pub mod webhook;

pub use amounts::Amount;
