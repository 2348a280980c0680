//! The Kubernetes API as data: one registry row a resource, defaults, validation, selectors, patches, table columns,
//! and the Status errors that clients parse. Pure: no sockets, files, clock or randomness.
#![forbid(unsafe_code)]
