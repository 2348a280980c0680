//! Generates the node session's messages and services from `proto/node.proto` with Debian's `protoc`.

fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=proto/node.proto");
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::codec::Sparing")
        .compile_protos(&["proto/node.proto"], &["proto"])
}
