//! Certificates: what one says ([`Facts`]), the names that nodes carry in theirs, and a CA for development with
//! what it signs ([`Authority`]).
//!
//! Promises: names are made and read by the same code, and a private key is never in a file that others can read.
//! Leaves out: TLS itself, and whether a certificate is to be trusted. The CA signs for tests, for development and
//! for small clusters: it knows no revocation, and its key is a file.

mod facts;
mod files;
mod make;
mod names;

pub use facts::{Facts, NotACertificate, date, now_ms};
pub use files::{Paths, write_pair, write_public};
pub use make::{Authority, Lifetime, MakeError, Pair};
pub use names::{is_cluster_name, node_name, node_of};
