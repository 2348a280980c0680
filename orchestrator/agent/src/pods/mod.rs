//! The pods of this node. Decisions (`next`, `status`, `env`, `files`, `qos`) are plain functions; what carries
//! them out lives beside them.

pub(crate) mod compose;
pub(crate) mod desired;
pub(crate) mod env;
pub(crate) mod exec;
pub(crate) mod files;
pub(crate) mod hooks;
pub(crate) mod message;
pub(crate) mod meter;
pub(crate) mod next;
pub(crate) mod observed;
pub(crate) mod qos;
pub(crate) mod resize;
pub(crate) mod sandbox;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod table;
pub(crate) mod tokens;
pub(crate) mod volumes;
pub(crate) mod worker;

#[cfg(test)]
pub(crate) mod fixture;
