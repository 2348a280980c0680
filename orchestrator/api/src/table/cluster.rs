//! Table columns.
use super::{Cell, Column, age, name};
use serde_json::Value;
/// Columns.
pub const EVENT: &[Column] = &[Column::NAME, Column::AGE];
/// Cells.
pub fn event(object: &Value, now: i64) -> Vec<Cell> {
    vec![name(object), age(object, now)]
}
/// Columns.
pub const NAMESPACE: &[Column] = &[Column::NAME, Column::AGE];
/// Cells.
pub fn namespace(object: &Value, now: i64) -> Vec<Cell> {
    vec![name(object), age(object, now)]
}
/// Columns.
pub const LEASE: &[Column] = &[Column::NAME, Column::AGE];
/// Cells.
pub fn lease(object: &Value, now: i64) -> Vec<Cell> {
    vec![name(object), age(object, now)]
}
/// Columns.
pub const TENANT: &[Column] = &[Column::NAME, Column::AGE];
/// Cells.
pub fn tenant(object: &Value, now: i64) -> Vec<Cell> {
    vec![name(object), age(object, now)]
}
