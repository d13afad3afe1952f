//! What survives a power cut: the log and the vote ([`wal`]) over a [`disk`], the state and its
//! snapshots ([`state`], [`snapshot`]) over a [`byte_store`].
//!
//! Nothing here knows Raft's library or what a record means. [`real_disk`] and [`sled_store`] are
//! the only files that touch the operating system; [`simulated_disk`] and [`simulated_store`] stand
//! in for them where power cuts are made on purpose.

// Not published: its documentation is for those who work on it, with private items.
#![allow(rustdoc::private_intra_doc_links)]

pub mod byte_store;
mod codec;
pub mod disk;
#[cfg(test)]
mod disk_tests;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod log_id;
pub mod meters;
pub mod real_disk;
pub mod simulated_disk;
pub mod simulated_store;
pub mod sled_store;
pub mod snapshot;
pub mod state;
#[cfg(test)]
mod test_disk;
pub mod wal;
