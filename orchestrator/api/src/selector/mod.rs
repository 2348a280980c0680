//! Label and field selectors: the query grammar, the objects, and whether an object matches.

mod field;
mod label;

pub use field::FieldSelector;
pub use label::{LabelSelector, Operator, Requirement};
