//! Cluster DNS: the zone as data, and the hickory server that answers from it.
#![forbid(unsafe_code)]
