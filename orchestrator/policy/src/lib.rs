//! Network state to desired datapath tables, and the diff to apply. Pure.
#![forbid(unsafe_code)]
