//! The client verbs and what they print; the cluster on one machine.
#![forbid(unsafe_code)]
