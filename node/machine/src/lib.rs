//! The pure state machine: what a committed log entry does to counters, keys and promises.
//!
//! [`apply`] takes the state as of one log index (a [`view::View`]) and an entry, and leaves the
//! replies and the writes behind. It is infallible and a function of its arguments alone: no clock,
//! no randomness, no I/O, no hash-map order. Every replica that applies the same entries holds the
//! same bytes, which [`query::state_hash`] compares.
//!
//! What it promises:
//! - each command is atomic, later commands see earlier ones, and how commands are grouped into
//!   entries changes no answer (but for the ids of sessions, which are log indexes);
//! - each change takes the next revision, a command that changes nothing takes none;
//! - a command under a session number or an idempotency key is executed at most once, and its
//!   answer, refusals too, is remembered as long as promised;
//! - arithmetic never wraps and a stored bound holds for every writer.
//!
//! What it leaves out: checking the form of requests and everything about overload (the api, before
//! a command is proposed), stamping time (the leader), durability (storage).
//!
//! The way through: [`apply`] opens a [`work::Work`] over the overlay and runs each command
//! through the exactly-once rules of `apply.rs`, which call the operations in `operation/`
//! and `transaction.rs` and keep their answers through `session.rs` and `idempotency.rs`;
//! `housekeeping.rs` then removes a bounded number of items that nobody can see any more. Reads go
//! through [`query`].

// Not published: its documentation is for those who work on it, with private items.
#![allow(rustdoc::private_intra_doc_links)]

pub mod auth;
#[cfg(feature = "seeded-bugs")]
pub mod bugs;
pub mod changes;
pub mod codec;
pub mod command;
pub mod fingerprint;
pub mod gate;
pub mod given_ids;
pub mod item;
pub mod keys;
pub mod limits;
pub mod memory;
pub mod node_ids;
pub mod operation;
pub mod owner;
pub mod query;
pub mod quota;
pub mod quotas;
pub mod records;
pub mod reply;
pub mod restore;
mod restore_work;
pub mod rights;
pub mod users;
pub mod version;
pub mod view;

mod apply;
mod auth_change;
mod canonical;
mod display;
mod dry_run;
mod housekeeping;
mod idempotency;
mod needs;
mod quota_work;
mod redact;
mod session;
mod transaction;
mod versioned;
mod work;

pub use self::{apply::apply, dry_run::dry_run, idempotency::idempotency_entry_bytes};

#[cfg(test)]
mod auth_tests;
#[cfg(test)]
mod model;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod quota_tests;
#[cfg(test)]
mod testscript;
