//! Every decision, as a plain function from a snapshot to a plan. Time and randomness are arguments; nothing here does
//! I/O. Replanning on unchanged input is empty.
#![forbid(unsafe_code)]

mod write;

pub use write::{Plan, Write};
