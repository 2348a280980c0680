//! Validation.
use crate::Fault;
use serde_json::Value;
pub(crate) fn name(_kind: &str, _name: &str) -> Vec<Fault> {
    Vec::new()
}
pub(crate) fn config_map(_: &Value, _: Option<&Value>) -> Vec<Fault> {
    Vec::new()
}
pub(crate) fn event(_: &Value, _: Option<&Value>) -> Vec<Fault> {
    Vec::new()
}
pub(crate) fn namespace(_: &Value, _: Option<&Value>) -> Vec<Fault> {
    Vec::new()
}
pub(crate) fn node(_: &Value, _: Option<&Value>) -> Vec<Fault> {
    Vec::new()
}
pub(crate) fn pod(_: &Value, _: Option<&Value>) -> Vec<Fault> {
    Vec::new()
}
pub(crate) fn secret(_: &Value, _: Option<&Value>) -> Vec<Fault> {
    Vec::new()
}
pub(crate) fn service_account(_: &Value, _: Option<&Value>) -> Vec<Fault> {
    Vec::new()
}
pub(crate) fn service(_: &Value, _: Option<&Value>) -> Vec<Fault> {
    Vec::new()
}
pub(crate) fn deployment(_: &Value, _: Option<&Value>) -> Vec<Fault> {
    Vec::new()
}
pub(crate) fn replica_set(_: &Value, _: Option<&Value>) -> Vec<Fault> {
    Vec::new()
}
pub(crate) fn lease(_: &Value, _: Option<&Value>) -> Vec<Fault> {
    Vec::new()
}
pub(crate) fn endpoint_slice(_: &Value, _: Option<&Value>) -> Vec<Fault> {
    Vec::new()
}
pub(crate) fn tenant(_: &Value, _: Option<&Value>) -> Vec<Fault> {
    Vec::new()
}
pub(crate) fn qualified_name(_key: &str) -> Option<&'static str> {
    None
}
pub(crate) fn label_value(_value: &str) -> Option<&'static str> {
    None
}
