//! The messages of Tally on the wire: the public gRPC API ([`v1`]) and, with the feature `peer`, the
//! transport between nodes. Nothing here decides anything; the meaning is in the comments of the
//! `.proto` files. Beside them, what both ends of a connection share.
//!
//! The stubs that call are there with the feature `client`, those that serve with `server`, and the
//! messages alone without either. They are made from the `.proto` files by
//! `proto/generate`, and committed.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "backup")]
pub mod backup;
#[cfg(any(feature = "client", feature = "server"))]
#[doc(hidden)]
pub mod codec;
#[cfg(any(feature = "client", feature = "server"))]
pub mod gathered;
pub mod http2;
pub mod reason;
pub mod requests;
pub mod status;

pub use tally_seeded_bugs as seeded_bugs;

/// Package `tally.v1`, the public API.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    include!("generated/tally.v1.rs");
}

/// The transport between nodes. Not for others: it may change with any release.
#[cfg(feature = "peer")]
pub mod peer {
    /// Package `tally.peer.v1`, spoken between nodes only.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        include!("generated/tally.peer.v1.rs");
    }
}

/// The compiled descriptors of the public API, for gRPC reflection.
#[cfg(feature = "server")]
pub const PUBLIC_DESCRIPTORS: &[u8] = include_bytes!("generated/tally.v1.bin");

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
