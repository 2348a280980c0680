//! The per-node agent: observe, diff and execute for the pods of one node; status, probes, node session.
#![forbid(unsafe_code)]
