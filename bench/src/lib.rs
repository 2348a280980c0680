//! What measurements of a whole server share: its process and clients that speak to it.
#![forbid(unsafe_code)]

pub mod server;
