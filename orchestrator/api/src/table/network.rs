//! Table columns.
use super::{Cell, Column, age, name};
use serde_json::Value;
/// Columns.
pub const SERVICE: &[Column] = &[Column::NAME, Column::AGE];
/// Cells.
pub fn service(object: &Value, now: i64) -> Vec<Cell> {
    vec![name(object), age(object, now)]
}
/// Columns.
pub const ENDPOINT_SLICE: &[Column] = &[Column::NAME, Column::AGE];
/// Cells.
pub fn endpoint_slice(object: &Value, now: i64) -> Vec<Cell> {
    vec![name(object), age(object, now)]
}
