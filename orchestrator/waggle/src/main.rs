//! The one shipped binary: arguments, configuration, tracing, signals and wiring of the roles.
#![forbid(unsafe_code)]

fn main() {}
