//! Table columns.
use super::{Cell, Column, age, name};
use serde_json::Value;
/// Columns.
pub const DEPLOYMENT: &[Column] = &[Column::NAME, Column::AGE];
/// Cells.
pub fn deployment(object: &Value, now: i64) -> Vec<Cell> {
    vec![name(object), age(object, now)]
}
/// Columns.
pub const REPLICA_SET: &[Column] = &[Column::NAME, Column::AGE];
/// Cells.
pub fn replica_set(object: &Value, now: i64) -> Vec<Cell> {
    vec![name(object), age(object, now)]
}
