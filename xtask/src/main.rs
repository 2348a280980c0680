//! The automation door: setup, build, lint, test, bench, build-and-deploy, destroy.
#![forbid(unsafe_code)]

fn main() {}
