//! Table columns.
use super::{Cell, Column, age, name};
use serde_json::Value;
/// Columns.
pub const POD: &[Column] = &[Column::NAME, Column::AGE];
/// Cells.
pub fn pod(object: &Value, now: i64) -> Vec<Cell> {
    vec![name(object), age(object, now)]
}
