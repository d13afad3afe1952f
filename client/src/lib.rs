//! The client library of Tally, a replicated counter and key-value store.
//!
//! ```no_run
//! use tally_client::{Client, ReadLevel};
//!
//! # async fn example() -> tally_client::Result<()> {
//! let client = Client::connect(["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"]).await?;
//!
//! // However often the network loses an answer, this counts once.
//! let change = client.counter("hits").add(1).await?;
//! println!("{} -> {}", change.value_before, change.value);
//!
//! // Stock that cannot oversell.
//! client.counter("stock").add(-1).floor(0).idempotency_key("order-4711").await?;
//!
//! // The promise of each read is yours to choose.
//! let hits = client.counter("hits").get().level(ReadLevel::Local).await?;
//! println!("{}, {}", hits.value, hits.header.consistency);
//! # Ok(()) }
//! ```
//!
//! A [`Client`] finds and follows the leader, retries with backoff until a deadline, and stamps
//! each write once with a number of its session, so that a retry can never count twice. Calls of
//! all tasks share one stream to a node and travel in packs; nothing waits for a timer.
//!
//! A write ends in one of two ways: applied, with the answer, or an [`Error`] whose
//! [`outcome`](Error::outcome) says [`Outcome::NotApplied`] or [`Outcome::Unknown`]. That verdict
//! speaks for all attempts: once one of them may have been executed, only a refusal which the
//! cluster decided under the same number can say otherwise. It speaks of this call: under an
//! idempotency key of your own an earlier call may have been applied
//! ([`Error::speaks_of_this_call_only`]). A future that is dropped before that tells neither, and the write may
//! happen all the same: [`call::Sending`] says what then.
//!
//! Lists and scans come as a page or as a stream of all ([`Pages`], [`Items`]).
//!
//! # Tracing
//! Each call is one span of the crate `tracing`: `tally.call`, of level DEBUG and target `tally_client::call`,
//! with the fields `operation`, `node` (that was asked last), `attempts` and `outcome` (`ok`, `NOT_APPLIED`,
//! `UNKNOWN`, `failed` of a read, `dropped`). They are told when it ends. Attempts that fail are events in it.
//! Neither has names or values that were stored. Where nobody listens to that level, a call pays the load of
//! one atomic for it.

#![deny(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod apply;
pub mod call;
pub mod counter;
#[cfg(feature = "history")]
pub mod history;
pub mod keys;

mod answer;
mod auth;
#[cfg(feature = "backup")]
mod backup;
mod cause;
mod client;
mod cluster;
mod connect;
mod consistency;
mod drive;
mod error;
mod exchange;
mod failure;
mod health;
mod held;
mod members;
mod node;
mod outcome;
mod paging;
mod plan;
mod quotas;
mod retry;
mod routing;
mod session;
mod shared;
mod silence;
#[cfg(feature = "tls")]
mod tls;
mod token;
mod traces;
mod wire;
mod words;

pub use answer::{
    Applied, Batch, Branch, CounterChange, CounterValue, Header, KeyChange, KeyValue,
    OperationResult, Page, WriteInfo,
};
#[cfg(feature = "backup")]
pub use backup::{BackupPart, BackupStream, RestorePhase, RestoreProgress};
pub use client::{Builder, Client};
pub use cluster::{AuditLogInfo, BackupInfo, Certificate, DedupTables, Limits, NodeInfo, Status};
pub use connect::connect;
pub use consistency::ReadLevel;
pub use error::{Code, Error, Outcome, Result};
pub use health::{Health, Verdict};
pub use held::{ListSessions, SessionInfo, SessionOwner, SessionPage};
pub use node::{Transport, Trouble};
pub use paging::{Items, Pages};
#[cfg(feature = "backup")]
pub use tally_proto::backup as backup_format;
pub use tally_proto::{reason, v1 as proto};
#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub use tls::Tls;
pub use token::{InvalidToken, SessionToken};
pub use words::{Consistency, Role, StalenessGround};

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
