//! Tests that need root: eBPF programs, whole clusters, kubectl.
#![forbid(unsafe_code)]
