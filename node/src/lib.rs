//! A Tally node: replicated counters and keys on Raft.
//!
//! Read `ARCHITECTURE.md` for the map. In short: [`node`] puts everything together; [`api`] is the
//! client port; [`consensus`] is the only way to change the state and to read it with a promise;
//! [`machine`] is what the state means; [`storage`] is what survives a power cut; [`peer`] is the
//! transport between nodes; `port` accepts and bounds the connections to both; [`metrics`] is what a node counts of itself; [`mod@env`] is everything that comes from
//! outside.

pub mod api;
pub mod audit;
pub mod backup;
pub mod config;
pub mod consensus;
pub mod env;
pub mod metrics;
pub mod node;
pub mod peer;
pub mod port;
pub mod process;
pub mod status;
pub mod tls;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use self::port::fuzzing as port_fuzzing;
pub use tally_machine as machine;
pub use tally_storage as storage;
