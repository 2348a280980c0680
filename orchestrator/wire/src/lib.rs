//! The node session protocol: messages and services generated from `proto/node.proto`, and `TryFrom` to and from
//! `waggle-model`. No I/O lives here; the server and the agent own their ends.
#![forbid(unsafe_code)]

mod codec;
mod network;
mod pieces;

pub use network::{Invalid, decode_delta, decode_snapshot, encode_delta, encode_snapshot};
pub use pieces::{Pieces, TooLarge, pieces};

/// Generated messages, clients and servers of `waggle.node.v1`.
#[expect(
    missing_docs,
    reason = "generated code; the documentation is in proto/node.proto"
)]
pub mod v1 {
    tonic::include_proto!("waggle.node.v1");
}
