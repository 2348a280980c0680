//! OpenAPI documents, made from the types of the registry's kinds.

pub(crate) mod schema;
