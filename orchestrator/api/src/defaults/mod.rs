//! Defaults.
use serde_json::Value;
pub(crate) fn nothing(_: &mut Value) {}
pub(crate) fn namespace(_: &mut Value) {}
pub(crate) fn pod(_: &mut Value) {}
pub(crate) fn secret(_: &mut Value) {}
pub(crate) fn service(_: &mut Value) {}
pub(crate) fn deployment(_: &mut Value) {}
pub(crate) fn replica_set(_: &mut Value) {}
pub(crate) fn endpoint_slice(_: &mut Value) {}
