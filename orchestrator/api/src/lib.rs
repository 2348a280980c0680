//! The Kubernetes API as data: one registry row a resource, defaults, validation, selectors, patches, table columns,
//! discovery and OpenAPI documents, and the Status errors that clients parse. Pure: no sockets, files, clock or
//! randomness.
//!
//! How a request passes through: the body becomes a [`serde_json::Value`] ([`body::parse`]), [`Resource::read`] checks
//! it against the kind's type and drops what the kind doesn't have, [`life`] turns it into the object to be stored
//! (defaults, metadata, validation of the whole), and [`table`] or the object itself is the answer. A patch is applied
//! ([`patch::Patch::apply`]) to the stored object, then read and updated like any other body.
#![forbid(unsafe_code)]

pub mod body;
mod decode;
mod defaults;
pub mod discovery;
mod fault;
pub mod life;
pub mod openapi;
pub mod patch;
mod registry;
mod resource;
pub mod scale;
pub mod selector;
mod status;
pub mod table;
pub mod tenant;
mod validate;
mod walk;

pub use decode::{Decoded, FieldValidation, Read};
pub use fault::{Fault, FaultKind};
pub use life::{
    CreateContext, DeleteOptions, Deletion, Part, Propagation, prepare_create, prepare_delete,
    prepare_update,
};
pub use registry::{RESOURCES, by_kind, find, lookup_name};
pub use resource::Resource;
pub use status::{Cause, Details, ListMeta, Status};
pub use table::{Cell, Column};
