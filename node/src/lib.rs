//! A Tally node: replicated counters and keys on Raft.
//!
//! Read `ARCHITECTURE.md` for the map. In short: [`node`] puts everything together; [`api`] is the
//! client port; [`consensus`] is the only way to change the state and to read it with a promise;
//! [`machine`] is what the state means; [`storage`] is what survives a power cut; [`peer`] is the
//! transport between nodes; `port` accepts and bounds the connections to both; [`env`] is everything that comes from outside.

pub mod api;
pub mod config;
pub mod consensus;
pub mod descriptors;
pub mod dev;
pub mod env;
pub mod health;
pub mod identity;
pub mod machine;
pub mod node;
pub mod peer;
mod port;
mod roster;
mod seeded;
pub mod serve;
pub mod storage;
pub mod storage_guard;
pub mod telemetry;

/// Exit code after a storage error, or a broken invariant: start again, the data is checked then.
pub const EXIT_FATAL: i32 = 70;

/// Exit code when the node must not run as it is configured: starting again does not help.
pub const EXIT_REFUSED: i32 = 78;
