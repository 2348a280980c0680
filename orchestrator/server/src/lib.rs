//! The control plane: HTTP API, watch cache, authentication, controller loops, node sessions. [`run`] starts it all.
#![forbid(unsafe_code)]

pub mod audit;
pub mod auth;
pub mod controllers;
pub mod encryption;
pub mod flow;
mod forward;
pub mod http;
mod keys;
pub mod leading;
pub mod listen;
pub mod metrics;
pub mod objects;
mod options;
pub mod pki;
mod run;
pub mod sessions;
pub mod streams;
pub mod usage;
mod webhook;

pub use options::{EncryptionOptions, NodeLifecycle, ServerOptions, StoreOptions};
pub use run::{ServerError, ServerState, run};
