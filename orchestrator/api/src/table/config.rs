//! Table columns.
use super::{Cell, Column, age, name};
use serde_json::Value;
/// Columns.
pub const CONFIG_MAP: &[Column] = &[Column::NAME, Column::AGE];
/// Cells.
pub fn config_map(object: &Value, now: i64) -> Vec<Cell> {
    vec![name(object), age(object, now)]
}
/// Columns.
pub const SECRET: &[Column] = &[Column::NAME, Column::AGE];
/// Cells.
pub fn secret(object: &Value, now: i64) -> Vec<Cell> {
    vec![name(object), age(object, now)]
}
/// Columns.
pub const SERVICE_ACCOUNT: &[Column] = &[Column::NAME, Column::AGE];
/// Cells.
pub fn service_account(object: &Value, now: i64) -> Vec<Cell> {
    vec![name(object), age(object, now)]
}
