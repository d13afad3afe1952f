//! The transport between nodes: who the peers are ([`peers`]), what this node asks of them
//! ([`network`] for Raft, [`ask`] for the rest) and what it answers ([`service`]).
//!
//! Only this module and `api` speak gRPC; `port` serves both. Every message names the cluster and the node that it is
//! meant for; one that is meant for another is refused before Raft sees it.

pub mod ask;
pub mod convert;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod hello;
pub mod network;
pub mod peers;
pub(crate) mod roster;
pub(crate) mod server;
pub mod service;
mod speaker;

/// Largest message between nodes, in bytes. An append carries at most
/// [`APPEND_BYTES_MAX`] or one entry, and an entry at most one request and its frame.
pub const PEER_MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

use crate::consensus::{APPEND_BYTES_MAX, SNAPSHOT_CHUNK_BYTES};

const _: () = assert!(APPEND_BYTES_MAX + SNAPSHOT_CHUNK_BYTES < PEER_MESSAGE_BYTES_MAX);
