//! The messages of Tally on the wire: the public gRPC API ([`v1`]) and the transport between nodes
//! ([`peer`]). Nothing here decides anything; the meaning is in the comments of the `.proto` files.
//! Beside them, what both ends of a connection share.

pub mod gathered;
pub mod http2;
pub mod reason;
pub mod requests;
pub mod status;

pub use tally_seeded_bugs as seeded_bugs;

/// Package `tally.v1`, the public API.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("tally.v1");
}

/// The transport between nodes.
pub mod peer {
    /// Package `tally.peer.v1`, spoken between nodes only.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("tally.peer.v1");
    }
}

/// The compiled descriptors of the public API, for gRPC reflection.
pub const PUBLIC_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tally.v1.bin"));
