//! The control plane: HTTP API, watch cache, authentication, controller loops, node sessions.
#![forbid(unsafe_code)]
